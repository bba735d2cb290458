//! `/api/conversations`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::super::bounds;
use super::super::error::{ApiError, ErrorResponse};
use super::super::extract::{JsonBody, Parameters, Segment};
use super::super::server::Server;
use super::failure;
use crate::store::{Change, Conversation, ListQuery, NewConversation, Settings, Tree};

/// Conversations of a page where the query does not say.
const PAGE: usize = 50;

/// Which conversations.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Query {
    /// Words to find.
    #[serde(default)]
    q: String,
    /// How many, up to 200.
    limit: Option<usize>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// An entry of the list.
#[derive(Debug, Serialize, ToSchema)]
struct Entry {
    id: String,
    title: String,
    /// Unix milliseconds.
    created_at: i64,
    updated_at: i64,
    /// Where the words stand.
    snippet: Option<String>,
}

/// A page of the list, the last changed first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct List {
    conversations: Vec<Entry>,
    /// The cursor of the next page.
    next: Option<String>,
}

/// A new conversation.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct Create {
    title: Option<String>,
    system_prompt: Option<String>,
    settings: Option<Settings>,
}

/// What is to become different.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct Patch {
    title: Option<String>,
    system_prompt: Option<String>,
    settings: Option<Settings>,
    /// The last message of the branch to show.
    leaf_id: Option<String>,
}

/// Conversations, all or those in which something is found.
#[utoipa::path(get, path = "/api/conversations", tag = "page", params(Query), responses((status = 200, body = List)))]
pub(super) async fn list(
    State(server): State<Arc<Server>>,
    Parameters(query): Parameters<Query>,
) -> Result<Json<List>, ApiError> {
    let query = ListQuery { search: query.q, limit: query.limit.unwrap_or(PAGE), cursor: query.cursor };
    let page = server.stored(move |database| database.list(&query)).await?;
    let conversations = page.entries.into_iter().map(|entry| {
        let Conversation { id, title, created_at, updated_at, .. } = entry.conversation;
        Entry { id, title, created_at, updated_at, snippet: entry.snippet }
    });
    Ok(Json(List { conversations: conversations.collect(), next: page.next }))
}

/// A new conversation.
#[utoipa::path(post, path = "/api/conversations", tag = "page", request_body = Create,
    responses((status = 201, body = Conversation), (status = 400, body = ErrorResponse)))]
pub(super) async fn create(
    State(server): State<Arc<Server>>,
    JsonBody(body): JsonBody<Create>,
) -> Result<(StatusCode, Json<Conversation>), ApiError> {
    check_system_prompt(&server, body.system_prompt.as_deref())?;
    let new = NewConversation {
        title: body.title.unwrap_or_default(),
        system_prompt: body.system_prompt.unwrap_or_default(),
        settings: body.settings.unwrap_or_default(),
    };
    let conversation = server.stored(move |database| database.create(new)).await?;
    Ok((StatusCode::CREATED, Json(conversation)))
}

/// A conversation with all its branches.
#[utoipa::path(get, path = "/api/conversations/{id}", tag = "page", params(("id" = String, Path)),
    responses((status = 200, body = Tree), (status = 404, body = ErrorResponse)))]
pub(super) async fn read(State(server): State<Arc<Server>>, Segment(id): Segment) -> Result<Json<Tree>, ApiError> {
    server.stored(move |database| database.tree(&id)).await.map(Json)
}

/// Another title, system prompt, settings or branch.
#[utoipa::path(patch, path = "/api/conversations/{id}", tag = "page", params(("id" = String, Path)), request_body = Patch,
    responses((status = 200, body = Conversation), (status = 400, body = ErrorResponse), (status = 404, body = ErrorResponse)))]
pub(super) async fn change(
    State(server): State<Arc<Server>>,
    Segment(id): Segment,
    JsonBody(body): JsonBody<Patch>,
) -> Result<Json<Conversation>, ApiError> {
    check_system_prompt(&server, body.system_prompt.as_deref())?;
    let Patch { title, system_prompt, settings, leaf_id } = body;
    let change = Change { title, system_prompt, settings, leaf_id };
    server.stored(move |database| database.change(&id, change)).await.map(Json)
}

/// Gone, with all its messages.
#[utoipa::path(delete, path = "/api/conversations/{id}", tag = "page", params(("id" = String, Path)),
    responses((status = 204), (status = 404, body = ErrorResponse)))]
pub(super) async fn delete(State(server): State<Arc<Server>>, Segment(id): Segment) -> Result<StatusCode, ApiError> {
    server.answers()?.delete(&id).await.map_err(|error| failure::answers(&server, &error))?;
    Ok(StatusCode::NO_CONTENT)
}

fn check_system_prompt(server: &Server, text: Option<&str>) -> Result<(), ApiError> {
    bounds::text("system_prompt", text.unwrap_or_default(), server.loaded()?.message_bytes())
}
