//! Messages: say something, have it answered again, stop the answer.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::super::bounds;
use super::super::error::{ApiError, ErrorResponse};
use super::super::extract::{JsonBody, Segment};
use super::super::server::Server;
use super::failure;
use crate::store::Message;

/// A person's message.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct Post {
    /// The answer that it follows; null to begin the conversation.
    parent_id: Option<String>,
    content: String,
}

/// A message and the answer that has been begun.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Exchange {
    user: Message,
    assistant: Message,
}

/// An answer that has been begun.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Begun {
    assistant: Message,
}

/// Nothing, in an object.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct Nothing {}

/// A message, and the beginning of its answer.
#[utoipa::path(post, path = "/api/conversations/{id}/messages", tag = "page", params(("id" = String, Path)), request_body = Post,
    responses((status = 201, body = Exchange), (status = 400, body = ErrorResponse), (status = 404, body = ErrorResponse),
        (status = 503, body = ErrorResponse)))]
pub(super) async fn post(
    State(server): State<Arc<Server>>,
    Segment(id): Segment,
    JsonBody(body): JsonBody<Post>,
) -> Result<(StatusCode, Json<Exchange>), ApiError> {
    bounds::text("content", &body.content, server.loaded()?.message_bytes())?;
    let posted = server.answers()?.post(&id, body.parent_id.as_deref(), &body.content).await;
    let (user, assistant) = posted.map_err(|error| failure::answers(&server, &error))?;
    Ok((StatusCode::CREATED, Json(Exchange { user, assistant })))
}

/// Another answer beside this one.
#[utoipa::path(post, path = "/api/messages/{id}/regenerate", tag = "page", params(("id" = String, Path)), request_body = Nothing,
    responses((status = 201, body = Begun), (status = 404, body = ErrorResponse), (status = 503, body = ErrorResponse)))]
pub(super) async fn regenerate(
    State(server): State<Arc<Server>>,
    Segment(id): Segment,
    JsonBody(Nothing {}): JsonBody<Nothing>,
) -> Result<(StatusCode, Json<Begun>), ApiError> {
    let assistant = server.answers()?.regenerate(&id).await.map_err(|error| failure::answers(&server, &error))?;
    Ok((StatusCode::CREATED, Json(Begun { assistant })))
}

/// No more of this answer. What it has it keeps.
#[utoipa::path(post, path = "/api/messages/{id}/stop", tag = "page", params(("id" = String, Path)), request_body = Nothing,
    responses((status = 200, body = Message), (status = 404, body = ErrorResponse)))]
pub(super) async fn stop(
    State(server): State<Arc<Server>>,
    Segment(id): Segment,
    JsonBody(Nothing {}): JsonBody<Nothing>,
) -> Result<Json<Message>, ApiError> {
    server.answers()?.stop(&id).await.map(Json).map_err(|error| failure::answers(&server, &error))
}
