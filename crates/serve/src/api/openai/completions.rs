//! `POST /v1/completions`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};

use super::super::error::{ApiError, ErrorResponse};
use super::super::extract::JsonBody;
use super::super::server::Server;
use super::answer::Prompt;
use super::completion_request::CompletionRequest;
use super::reply::{self, Reply, WholeReply};
use super::response::{TextChoice, TextCompletion, finish_reason};
use super::{Limits, logprobs};

/// A text continued, whole or as server-sent events.
#[utoipa::path(post, path = "/v1/completions", tag = "openai", request_body = CompletionRequest,
    responses(
        (status = 200, content((TextCompletion = "application/json"), (TextCompletion = "text/event-stream"))),
        (status = 400, body = ErrorResponse), (status = 429, body = ErrorResponse), (status = 503, body = ErrorResponse)))]
pub(super) async fn create(
    State(server): State<Arc<Server>>,
    JsonBody(request): JsonBody<CompletionRequest>,
) -> Result<Response, ApiError> {
    let loaded = server.loaded()?;
    let completion = request.check(&Limits::of(loaded))?;
    let reply = reply::reply(&server, loaded, Prompt::Text(completion.prompt), &completion.ask).await?;
    let WholeReply { head, whole, usage, casallm } = match reply {
        Reply::Stream(response) => return Ok(response),
        Reply::Whole(whole) => *whole,
    };
    let with_logprobs = completion.ask.top_logprobs;
    let choice = TextChoice {
        text: whole.text,
        index: 0,
        logprobs: with_logprobs
            .map(|_| logprobs::completion(loaded.bot.tokenizer(), &whole.tokens, &mut logprobs::Offset::default())),
        finish_reason: Some(finish_reason(whole.done.finish)),
    };
    let completion = TextCompletion {
        id: head.id,
        object: "text_completion",
        created: head.created,
        model: head.model,
        choices: vec![choice],
        usage: Some(Some(usage)),
        casallm: Some(casallm),
    };
    Ok(Json(completion).into_response())
}
