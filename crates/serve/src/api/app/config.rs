//! `GET /api/config`: what the page has to know.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::super::bounds::{BOUNDS, Bounds};
use super::super::error::{ApiError, ErrorResponse};
use super::super::server::Server;
use crate::overflow::Policy;
use crate::store::limits;

/// The server as the page sees it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Config {
    name: &'static str,
    version: &'static str,
    model: ModelInfo,
    /// `server` or `browser`.
    storage: &'static str,
    /// Whether a key is wanted.
    auth: bool,
    /// Whether there is a dashboard of training runs.
    runs: bool,
    /// What happens to a conversation that no longer fits.
    overflow: Policy,
    defaults: Settings,
    bounds: Bounds,
    limits: Limits,
}

/// The model.
#[derive(Debug, Serialize, ToSchema)]
struct ModelInfo {
    id: String,
    /// Weights.
    parameters: u64,
    /// Tokens of a conversation and its answer.
    context: usize,
    /// Where it runs.
    device: String,
}

/// How answers are drawn where nothing else is said.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DefaultSettings)]
struct Settings {
    temperature: f32,
    top_k: usize,
    top_p: f32,
    min_p: f32,
    repetition_penalty: f32,
    max_tokens: usize,
    /// Null: another for each answer.
    seed: Option<u64>,
}

/// Bytes of texts.
#[derive(Debug, Serialize, ToSchema)]
struct Limits {
    message_bytes: usize,
    system_prompt_bytes: usize,
}

/// What the page has to know of the server.
#[utoipa::path(get, path = "/api/config", tag = "page",
    responses((status = 200, body = Config), (status = 503, body = ErrorResponse)))]
pub(super) async fn config(State(server): State<Arc<Server>>) -> Result<Json<Config>, ApiError> {
    let loaded = server.loaded()?;
    let (card, defaults) = (loaded.bot.card(), &loaded.defaults);
    let sampling = &defaults.sampling;
    let max = defaults.max_tokens_limit as f64;
    Ok(Json(Config {
        name: "CasaLLM",
        version: env!("CARGO_PKG_VERSION"),
        model: ModelInfo {
            id: card.id.clone(),
            parameters: card.parameters,
            context: loaded.bot.context(),
            device: card.device.clone(),
        },
        storage: if loaded.answers.is_some() { "server" } else { "browser" },
        auth: server.options.key.is_some(),
        runs: server.options.runs.is_some(),
        overflow: loaded.overflow,
        defaults: Settings {
            temperature: sampling.temperature,
            top_k: sampling.top_k,
            top_p: sampling.top_p,
            min_p: sampling.min_p,
            repetition_penalty: sampling.repetition_penalty,
            max_tokens: defaults.max_tokens,
            seed: None,
        },
        bounds: Bounds { max_tokens: [1.0, max], ..BOUNDS },
        limits: Limits {
            message_bytes: loaded.message_bytes(),
            system_prompt_bytes: loaded.message_bytes().min(limits::SYSTEM_PROMPT),
        },
    }))
}
