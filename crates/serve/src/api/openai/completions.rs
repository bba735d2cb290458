//! `POST /v1/completions`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};

use super::super::error::{ApiError, ErrorResponse};
use super::super::extract::JsonBody;
use super::super::server::{Server, unix_seconds};
use super::answer::{self, Prompt};
use super::completion_request::CompletionRequest;
use super::response::{Extension, TextChoice, TextCompletion, Usage, finish_reason};
use super::stream::{self, Shape};
use super::{Limits, logprobs, new_id};

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
    let begun = answer::submit(loaded, Prompt::Text(completion.prompt), &completion.ask).await?;
    let (id, created, model) = (new_id("cmpl"), unix_seconds(), loaded.bot.card().id.clone());
    let with_logprobs = completion.ask.top_logprobs.is_some();
    if completion.ask.stream {
        let include_usage = completion.ask.include_usage;
        let (bot, shape) = (loaded.bot.clone(), Shape::Text);
        return Ok(stream::response(stream::Start {
            server: server.clone(),
            bot,
            begun,
            shape,
            id,
            created,
            model,
            include_usage,
            with_logprobs,
        }));
    }
    let whole = answer::whole(begun.answer, &server).await?;
    let choice = TextChoice {
        text: whole.text,
        index: 0,
        logprobs: with_logprobs.then(|| logprobs::completion(loaded.bot.tokenizer(), &whole.tokens, &mut 0)),
        finish_reason: Some(finish_reason(whole.done.finish)),
    };
    let completion = TextCompletion {
        id,
        object: "text_completion",
        created,
        model,
        choices: vec![choice],
        usage: Some(Some(Usage::from(&whole.done))),
        casallm: Some(Extension::new(&whole.done, loaded.bot.context(), begun.overflow)),
    };
    Ok(Json(completion).into_response())
}
