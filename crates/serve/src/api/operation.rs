//! Whether the server lives, and what it offers.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::server::Server;

/// Whether requests are answered.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Health {
    /// `ready`, `loading`, `shutting down`, or `broken`: the model answers nothing until the server is started again.
    status: &'static str,
}

/// 200 if requests are answered, else 503.
#[utoipa::path(get, path = "/health", tag = "operation", responses((status = 200, body = Health), (status = 503, body = Health)))]
pub(super) async fn health(State(server): State<Arc<Server>>) -> Response {
    let (code, status) = match (server.is_stopping(), server.model()) {
        (true, _) => (StatusCode::SERVICE_UNAVAILABLE, "shutting down"),
        (false, Some(loaded)) if loaded.bot.engine().is_broken() => (StatusCode::SERVICE_UNAVAILABLE, "broken"),
        (false, None) if !server.options.dashboard_only => (StatusCode::SERVICE_UNAVAILABLE, "loading"),
        (false, _) => (StatusCode::OK, "ready"),
    };
    let mut response = (code, Json(Health { status })).into_response();
    if code != StatusCode::OK && status != "broken" {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
    }
    response
}
