//! Export and import.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::super::error::{ApiError, ErrorResponse};
use super::super::extract::{Parameters, Segment, json_bytes};
use super::super::server::Server;
use super::store_failure;
use crate::store::{ExportFile, parse_import};

/// Bytes of an import. The store itself would take more than a server should hold in memory for one request.
const IMPORT: usize = 64 << 20;

/// In which form.
#[derive(Debug, Default, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Format {
    /// Everything, to be imported again.
    #[default]
    Json,
    /// The branch that is shown, for people.
    Markdown,
}

/// In which form.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Query {
    #[serde(default)]
    #[param(inline)]
    format: Format,
}

/// What was taken.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Imported {
    imported: usize,
    ids: Vec<String>,
}

/// A conversation as a file.
#[utoipa::path(get, path = "/api/conversations/{id}/export", tag = "page", params(("id" = String, Path), Query),
    responses((status = 200, content((ExportFile = "application/json"), (String = "text/markdown"))),
        (status = 404, body = ErrorResponse)))]
pub(super) async fn export(
    State(server): State<Arc<Server>>,
    Segment(id): Segment,
    Parameters(query): Parameters<Query>,
) -> Result<Response, ApiError> {
    match query.format {
        Format::Json => {
            let file = server.stored(move |database| database.export(&[id])).await?;
            Ok((attachment("conversation.json"), Json(file)).into_response())
        }
        Format::Markdown => {
            let text = server.stored(move |database| database.markdown(&id)).await?;
            let kind = [(header::CONTENT_TYPE, HeaderValue::from_static("text/markdown; charset=utf-8"))];
            Ok((attachment("conversation.md"), kind, text).into_response())
        }
    }
}

/// All conversations as a file.
#[utoipa::path(get, path = "/api/export", tag = "page", responses((status = 200, body = ExportFile)))]
pub(super) async fn export_all(State(server): State<Arc<Server>>) -> Result<Response, ApiError> {
    let file = server.stored(|database| database.export(&database.all()?)).await?;
    Ok((attachment("conversations.json"), Json(file)).into_response())
}

/// Conversations of a file that was exported, under new ids. All of them or none.
#[utoipa::path(post, path = "/api/import", tag = "page", request_body = ExportFile,
    responses((status = 200, body = Imported), (status = 400, body = ErrorResponse), (status = 413, body = ErrorResponse)))]
pub(super) async fn import(State(server): State<Arc<Server>>, request: Request) -> Result<Json<Imported>, ApiError> {
    server.answers()?;
    let bytes = json_bytes(request, IMPORT).await?;
    // Not on the store's thread, which writes the tokens of running answers.
    let parsed = tokio::task::spawn_blocking(move || parse_import(&bytes)).await;
    let parsed = parsed.map_err(|_| ApiError::internal())?.map_err(|error| store_failure(&server, &error))?;
    let ids = server.stored(move |database| database.take(parsed)).await?;
    Ok(Json(Imported { imported: ids.len(), ids }))
}

fn attachment(name: &str) -> [(header::HeaderName, HeaderValue); 1] {
    let value = HeaderValue::try_from(format!("attachment; filename=\"{name}\""));
    [(header::CONTENT_DISPOSITION, value.unwrap_or(HeaderValue::from_static("attachment")))]
}
