//! `GET /api/messages/{id}/events`: an answer as it comes. Listening is what keeps it going.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use axum::response::sse::Event;
use serde::Serialize;
use utoipa::ToSchema;

use super::super::error::{ApiError, ErrorBody, ErrorResponse};
use super::super::extract::Segment;
use super::super::server::Server;
use super::super::sse;
use super::failure;
use crate::answers::{ListenEvent, Notice};
use crate::store::{Message, Status, Usage};

/// The data of the events `snapshot`, `delta`, `progress`, `notice`, `done` (a message) and `error`.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum Data {
    /// `snapshot`: what there is so far.
    Snapshot { content: String, status: Status, usage: Option<Usage> },
    /// `delta`: more text.
    Delta { text: String },
    /// `progress`: how much of the prompt has been read.
    Progress { read: usize, of: usize, cached: usize },
    /// `notice`: older turns are being condensed.
    Summarising { kind: &'static str, messages: u32 },
    /// `notice`: older turns are not seen as they were written.
    Left { kind: &'static str, dropped_messages: u32, note_id: Option<String> },
    /// `notice`: they could not be condensed.
    SummaryFailed { kind: &'static str, reason: String },
    /// `done`: it has ended.
    Done(Box<Message>),
    /// `error`: it has ended by an error.
    Error { error: ErrorBody },
}

fn event(heard: ListenEvent) -> Event {
    let (name, data) = match heard {
        ListenEvent::Snapshot { content, status, usage } => ("snapshot", Data::Snapshot { content, status, usage }),
        ListenEvent::Delta(text) => ("delta", Data::Delta { text }),
        ListenEvent::Progress(progress) => {
            ("progress", Data::Progress { read: progress.read, of: progress.of, cached: progress.cached })
        }
        ListenEvent::Notice(notice) => ("notice", told(notice)),
        ListenEvent::Done(message) => ("done", Data::Done(message)),
        ListenEvent::Failed(reason) => ("error", Data::Error { error: ApiError::answer_failed(reason).body().error }),
    };
    sse::json(&data).event(name)
}

fn told(notice: Notice) -> Data {
    match notice {
        Notice::Summarising { messages } => Data::Summarising { kind: "summarising", messages },
        Notice::Summarised { dropped_messages, note_id } => {
            Data::Left { kind: "summarised", dropped_messages, note_id: Some(note_id) }
        }
        Notice::Dropped { dropped_messages, note_id } => Data::Left { kind: "dropped", dropped_messages, note_id },
        Notice::SummaryFailed { reason } => Data::SummaryFailed { kind: "summary-failed", reason },
    }
}

/// An answer as it comes: `snapshot` first, at last `done` or `error`. After a broken connection just ask again.
#[utoipa::path(get, path = "/api/messages/{id}/events", tag = "page", params(("id" = String, Path)),
    responses((status = 200, body = Data, content_type = "text/event-stream"), (status = 404, body = ErrorResponse)))]
pub(super) async fn events(State(server): State<Arc<Server>>, Segment(id): Segment) -> Result<Response, ApiError> {
    let listener = server.answers()?.listen(&id).await.map_err(|error| failure::answers(&server, &error))?;
    Ok(sse::response(futures_util::stream::unfold(listener, async |mut listener| {
        let heard = listener.next().await?;
        Some((event(heard), listener))
    })))
}
