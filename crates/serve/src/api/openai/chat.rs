//! `POST /v1/chat/completions`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};

use super::super::error::{ApiError, ErrorResponse};
use super::super::extract::JsonBody;
use super::super::server::{Server, unix_seconds};
use super::answer::{self, Prompt};
use super::chat_request::ChatRequest;
use super::response::{ChatChoice, ChatChunk, ChatCompletion, ChatMessage, Extension, Usage, finish_reason};
use super::stream::{self, Shape};
use super::{Limits, logprobs, new_id};

/// The next message of a conversation, whole or as server-sent events.
#[utoipa::path(post, path = "/v1/chat/completions", tag = "openai", request_body = ChatRequest,
    responses(
        (status = 200, content((ChatCompletion = "application/json"), (ChatChunk = "text/event-stream"))),
        (status = 400, body = ErrorResponse), (status = 429, body = ErrorResponse), (status = 503, body = ErrorResponse)))]
pub(super) async fn create(
    State(server): State<Arc<Server>>,
    JsonBody(request): JsonBody<ChatRequest>,
) -> Result<Response, ApiError> {
    let loaded = server.loaded()?;
    let chat = request.check(&Limits::of(loaded))?;
    let begun = answer::submit(loaded, Prompt::Chat(chat.messages), &chat.ask).await?;
    let (id, created, model) = (new_id("chatcmpl"), unix_seconds(), loaded.bot.card().id.clone());
    let with_logprobs = chat.ask.top_logprobs.is_some();
    if chat.ask.stream {
        let include_usage = chat.ask.include_usage;
        let (bot, shape) = (loaded.bot.clone(), Shape::Chat);
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
    let choice = ChatChoice {
        index: 0,
        message: ChatMessage { role: "assistant", content: whole.text, refusal: None },
        logprobs: with_logprobs.then(|| logprobs::chat(loaded.bot.tokenizer(), &whole.tokens)),
        finish_reason: finish_reason(whole.done.finish),
    };
    let completion = ChatCompletion {
        id,
        object: "chat.completion",
        created,
        model,
        choices: [choice],
        usage: Usage::from(&whole.done),
        casallm: Extension::new(&whole.done, loaded.bot.context(), begun.overflow),
    };
    Ok(Json(completion).into_response())
}
