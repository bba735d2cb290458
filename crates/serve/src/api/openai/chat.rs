//! `POST /v1/chat/completions`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};

use super::super::error::{ApiError, ErrorResponse};
use super::super::extract::JsonBody;
use super::super::server::Server;
use super::answer::Prompt;
use super::chat_request::ChatRequest;
use super::reply::{self, Reply, WholeReply};
use super::response::{ChatChoice, ChatChunk, ChatCompletion, ChatMessage, finish_reason};
use super::{Limits, logprobs};

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
    let reply = reply::reply(&server, loaded, Prompt::Chat(chat.messages), &chat.ask).await?;
    let WholeReply { head, whole, usage, casallm } = match reply {
        Reply::Stream(response) => return Ok(response),
        Reply::Whole(whole) => *whole,
    };
    let logprobs = chat.ask.top_logprobs.map(|_| logprobs::chat(loaded.bot.tokenizer(), &whole.tokens));
    let choice = ChatChoice {
        index: 0,
        message: ChatMessage { role: "assistant", content: whole.text, refusal: None },
        logprobs,
        finish_reason: finish_reason(whole.done.finish),
    };
    let completion = ChatCompletion {
        id: head.id,
        object: "chat.completion",
        created: head.created,
        model: head.model,
        choices: [choice],
        usage,
        casallm,
    };
    Ok(Json(completion).into_response())
}
