//! What every request passes before its route, and every response on its way out: one layer for all routes.
//!
//! In this order: Host and Origin, whether a proxy lets strangers in, rate limit, key. The order is cheap before dear, and an address that guesses keys
//! spends its rate.

mod client;
mod headers;
mod key;
mod origin;
mod rate;

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

pub use client::Peer;
pub use headers::content_security_policy;
pub use key::Key;
pub use origin::Hosts;
pub use rate::RateLimit;

use super::error::ApiError;
use super::server::Server;

/// The layer.
pub(super) async fn guard(State(server): State<Arc<Server>>, request: Request, next: Next) -> Response {
    let mut response = match admit(&server, &request) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    };
    headers::protect(response.headers_mut(), &server.content_security_policy);
    response
}

/// Says why a request is not let in.
fn admit(server: &Server, request: &Request) -> Result<(), ApiError> {
    let path = request.uri().path();
    let options = &server.options;
    options.hosts.check(request)?;
    if options.this_machine_alone
        && let Some(client) = client::from_elsewhere(request.headers())
    {
        return Err(ApiError::forwarded(&client));
    }
    if let Some(rate) = &server.rate
        && !is_asset(path)
    {
        let client = client::address(request, options.trust_proxy);
        rate.take(client, std::time::Instant::now()).map_err(ApiError::rate)?;
    }
    if let Some(key) = &options.key
        && !is_asset(path)
    {
        key.check(request.headers())?;
    }
    Ok(())
}

/// The page's files, and whether the server lives: they cost nothing, and are open without a key, for which the page asks.
fn is_asset(path: &str) -> bool {
    matches!(path, "/" | "/health" | "/runs" | "/runs/") || path.starts_with("/assets/")
}
