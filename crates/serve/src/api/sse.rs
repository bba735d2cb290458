//! Server-sent events: never cached, never held back by a proxy, never compressed, and alive while nothing is said.

use std::convert::Infallible;
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_core::Stream;
use serde::Serialize;

/// Between comments that keep the connection open, and show whether there is still one.
const PING: Duration = Duration::from_secs(10);

/// The response. Dropping it, as happens when the client goes away, drops `events`.
pub(super) fn response(events: impl Stream<Item = Event> + Send + 'static) -> Response {
    let events = tokio_stream::StreamExt::map(events, Ok::<_, Infallible>);
    let keep_alive = KeepAlive::new().interval(PING).text("ping");
    let mut response = Sse::new(events).keep_alive(keep_alive).into_response();
    let headers = response.headers_mut();
    // Events are UTF-8 by definition, but some clients take any other text for Latin-1.
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform"));
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

/// JSON as an event's data. JSON escapes line ends, so that no text can end its event.
pub(super) fn json(value: &impl Serialize) -> Event {
    Event::default().data(serde_json::to_string(value).unwrap_or_default())
}
