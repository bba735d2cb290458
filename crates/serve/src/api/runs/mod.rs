//! The dashboard's routes: which runs there are, and what of each is new since it was asked last.

mod series;

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::error::{ApiError, ErrorResponse};
use super::extract::{Parameters, Segment};
use super::server::Server;
use crate::runs::{Run, Runs, RunsError, Settings, Summary};

/// Events of one response.
const MOST_EVENTS: usize = 2_000;

/// Their routes.
pub(super) fn routes() -> OpenApiRouter<Arc<Server>> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(columns)).routes(routes!(events)).routes(routes!(recipe))
}

/// All runs.
#[derive(Debug, Serialize, ToSchema)]
struct RunList {
    /// The folder that they are in, as the owner named it.
    folder: String,
    /// Whether the folder is that of a single run.
    one: bool,
    /// Whether there is a model to chat with as well.
    chat: bool,
    /// The newest first.
    runs: Vec<RunInfo>,
    /// Runs that the list has no room for.
    left_out: usize,
}

/// A run.
#[derive(Debug, Serialize, ToSchema)]
struct RunInfo {
    /// Its name, for the other routes.
    name: String,
    /// Whether a process is training it.
    running: bool,
    /// Bytes of its metrics: another number means that there is more to ask for.
    bytes: u64,
    /// Seconds since they grew.
    quiet_seconds: f64,
    /// Stages that have begun.
    stages: Vec<String>,
    /// Its newest row.
    latest: Option<LatestRow>,
}

/// A run's newest row.
#[derive(Debug, Serialize, ToSchema)]
struct LatestRow {
    stage: String,
    step: u64,
    /// Steps that the stage is to have, where that is known.
    planned: Option<u64>,
    loss: Option<f64>,
    val_loss: Option<f64>,
    bits_per_byte: Option<f64>,
    tokens_per_s: Option<f64>,
    seconds: Option<f64>,
}

impl From<Summary> for RunInfo {
    fn from(run: Summary) -> Self {
        let latest = run.latest.map(|row| LatestRow {
            stage: row.stage,
            step: row.step,
            planned: row.planned,
            loss: row.loss,
            val_loss: row.val_loss,
            bits_per_byte: row.bits_per_byte,
            tokens_per_s: row.tokens_per_s,
            seconds: row.seconds,
        });
        let Summary { name, running, bytes, quiet_seconds, stages, .. } = run;
        RunInfo { name, running, bytes, quiet_seconds, stages, latest }
    }
}

/// Every run, the newest first.
#[utoipa::path(get, path = "/api/runs", tag = "runs",
    responses((status = 200, body = RunList), (status = 404, body = ErrorResponse)))]
async fn list(State(server): State<Arc<Server>>) -> Result<Json<RunList>, ApiError> {
    let chat = !server.options.dashboard_only;
    let list = blocking(&server, |runs| {
        let listing = runs.list();
        Ok(RunList {
            folder: runs.root().display().to_string(),
            one: runs.is_one(),
            chat: false,
            left_out: listing.left_out,
            runs: listing.runs.into_iter().map(RunInfo::from).collect(),
        })
    });
    Ok(Json(RunList { chat, ..list.await? }))
}

/// From where on.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Onwards {
    /// What the last response called its epoch. If that has passed, all is sent again.
    epoch: Option<u64>,
    /// How many rows, or events, are known already.
    from: Option<u64>,
    /// The stage; the newest where none is named.
    stage: Option<String>,
}

impl Onwards {
    /// Beyond what is known; from the beginning in another epoch.
    fn place(&self, run: &Run) -> u64 {
        if self.epoch == Some(run.epoch()) { self.from.unwrap_or(0) } else { 0 }
    }
}

/// The rows of a stage as columns, little-endian: `CRC1`, a u32 with the length of a JSON head, the head, spaces up to a
/// multiple of 8 bytes, then f64 of `step`, `tokens`, `seconds`, the dense columns as f32, spaces up to a multiple of 8, and
/// of each sparse column f64 of step, tokens, seconds, value.
#[utoipa::path(get, path = "/api/runs/{name}/columns", tag = "runs", params(("name" = String, Path), Onwards),
    responses((status = 200, content_type = "application/octet-stream"), (status = 404, body = ErrorResponse)))]
async fn columns(
    State(server): State<Arc<Server>>,
    Segment(name): Segment,
    Parameters(from): Parameters<Onwards>,
) -> Result<Response, ApiError> {
    let bytes = blocking(&server, move |runs| {
        runs.with(&name, |run, _| series::encode(run, from.stage.as_deref(), from.place(run)))
    });
    let kind = (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    Ok(([kind], bytes.await?).into_response())
}

/// Events of a run, all of its stages together, the oldest first.
#[derive(Debug, Serialize, ToSchema)]
struct EventList {
    epoch: u64,
    /// The number of the first of these, from 0.
    from: u64,
    /// How many the file has.
    total: u64,
    /// As they stand in the file, each with `event`, `stage` and `step`.
    #[schema(value_type = Vec<Object>)]
    events: Vec<Value>,
}

/// What happened besides steps: resumed, spikes, rollbacks, failed checkpoints, samples of the model.
#[utoipa::path(get, path = "/api/runs/{name}/events", tag = "runs", params(("name" = String, Path), Onwards),
    responses((status = 200, body = EventList), (status = 404, body = ErrorResponse)))]
async fn events(
    State(server): State<Arc<Server>>,
    Segment(name): Segment,
    Parameters(from): Parameters<Onwards>,
) -> Result<Json<EventList>, ApiError> {
    let events = blocking(&server, move |runs| {
        runs.with(&name, |run, _| {
            let from = from.place(run).max(run.events_dropped());
            let events = run.events(from).take(MOST_EVENTS).map(|event| event.value.clone()).collect();
            EventList { epoch: run.epoch(), from, total: run.event_count(), events }
        })
    });
    Ok(Json(events.await?))
}

/// A recipe.
#[derive(Debug, Serialize, ToSchema)]
struct Recipe {
    /// `settings.toml`, all that was in force, or `recipe.toml`, as it was written.
    file: &'static str,
    text: String,
    /// Of the file.
    sha256: String,
}

/// The recipe of a run, and its hash; null where its folder has none.
#[utoipa::path(get, path = "/api/runs/{name}/recipe", tag = "runs", params(("name" = String, Path)),
    responses((status = 200, body = Option<Recipe>), (status = 404, body = ErrorResponse)))]
async fn recipe(State(server): State<Arc<Server>>, Segment(name): Segment) -> Result<Json<Option<Recipe>>, ApiError> {
    let settings = blocking(&server, move |runs| Ok(Settings::of(&runs.folder(&name)?))).await?;
    Ok(Json(settings.map(|Settings { file, text, sha256 }| Recipe { file, text, sha256 })))
}

/// Reads files on a thread that may wait for them.
async fn blocking<T: Send + 'static>(
    server: &Arc<Server>,
    work: impl FnOnce(&Runs) -> Result<T, RunsError> + Send + 'static,
) -> Result<T, ApiError> {
    let runs = server
        .options
        .runs
        .clone()
        .ok_or_else(|| ApiError::not_found("this server shows no training runs; start it with --runs FOLDER"))?;
    let done = tokio::task::spawn_blocking(move || work(&runs)).await.map_err(|_| ApiError::internal())?;
    done.map_err(|error| match error {
        RunsError::Unknown(_) => ApiError::not_found(error.to_string()),
        RunsError::Io { .. } => {
            server.log(&format!("a run cannot be read: {error}"));
            ApiError::internal()
        }
    })
}
