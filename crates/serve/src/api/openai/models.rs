//! `GET /v1/models`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::super::error::{ApiError, ErrorResponse};
use super::super::extract::Segment;
use super::super::server::Server;

/// The model that is served.
#[derive(Debug, Serialize, ToSchema)]
pub struct Model {
    id: String,
    /// `model`.
    object: &'static str,
    /// Seconds since 1970 at which it was loaded.
    created: u64,
    /// `casallm`.
    owned_by: &'static str,
    /// Tokens that it can attend to: the prompt's and the answer's together.
    context_length: usize,
}

/// A list of one.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelList {
    /// `list`.
    object: &'static str,
    data: [Model; 1],
}

fn model(server: &Server) -> Result<Model, ApiError> {
    let loaded = server.loaded()?;
    Ok(Model {
        id: loaded.bot.card().id.clone(),
        object: "model",
        created: loaded.bot.card().created,
        owned_by: "casallm",
        context_length: loaded.bot.context(),
    })
}

/// The models: one.
#[utoipa::path(get, path = "/v1/models", tag = "openai", responses((status = 200, body = ModelList), (status = 503, body = ErrorResponse)))]
pub(super) async fn list(State(server): State<Arc<Server>>) -> Result<Json<ModelList>, ApiError> {
    Ok(Json(ModelList { object: "list", data: [model(&server)?] }))
}

/// One model.
#[utoipa::path(get, path = "/v1/models/{model}", tag = "openai", params(("model" = String, Path)),
    responses((status = 200, body = Model), (status = 404, body = ErrorResponse)))]
pub(super) async fn retrieve(
    State(server): State<Arc<Server>>,
    Segment(asked): Segment,
) -> Result<Json<Model>, ApiError> {
    let model = model(&server)?;
    if asked == model.id { Ok(Json(model)) } else { Err(ApiError::model(&asked, &model.id)) }
}
