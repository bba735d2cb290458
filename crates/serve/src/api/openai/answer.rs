//! From a checked request to the model, and its answer as one piece.

use std::sync::Arc;

use super::super::error::ApiError;
use super::super::server::Server;
use super::Ask;
use crate::chatbot::{Answer, AnswerEvent, AnswerRequest, ChatError, Chatbot, Done, Priority, TokenLogprobs, Turn};
use casallm_data::chat::Message;

/// What is to be continued.
pub(super) enum Prompt {
    /// A conversation.
    Chat(Vec<Message>),
    /// A text.
    Text(String),
}

/// Puts it into the model's queue. Tokenizing takes time, so it happens where waiting is no harm.
pub(super) async fn submit(bot: Arc<Chatbot>, prompt: Prompt, ask: &Ask) -> Result<Answer, ApiError> {
    let request = AnswerRequest {
        turns: Vec::new(),
        sampling: ask.sampling.clone(),
        max_tokens: Some(ask.max_tokens),
        stop: ask.stop.clone(),
        top_logprobs: ask.top_logprobs,
        continue_ids: Vec::new(),
        priority: Priority::Interactive,
    };
    let submitted = tokio::task::spawn_blocking(move || match prompt {
        Prompt::Chat(messages) => {
            let turns = messages.into_iter().map(|message| Turn { message, ids: None }).collect();
            bot.answer(AnswerRequest { turns, ..request }).map_err(|error| refused("messages", &error))
        }
        Prompt::Text(text) => bot.complete(&text, request).map_err(|error| refused("prompt", &error)),
    });
    submitted.await.unwrap_or_else(|_| Err(ApiError::internal()))
}

/// An error of the model, as the client should hear it.
pub(super) fn refused(param: &str, error: &ChatError) -> ApiError {
    let _ = (param, error);
    ApiError::internal()
}

/// A whole answer.
pub(super) struct Whole {
    pub text: String,
    pub logprobs: Vec<TokenLogprobs>,
    pub done: Done,
}

/// Waits for the end. Whoever drops this future takes the request back.
pub(super) async fn whole(mut answer: Answer, server: &Server) -> Result<Whole, ApiError> {
    let (mut text, mut logprobs) = (String::new(), Vec::new());
    while let Some(event) = answer.next().await {
        match event {
            AnswerEvent::Started { .. } | AnswerEvent::Reading { .. } => {}
            AnswerEvent::Text { text: piece, logprobs: more, .. } => {
                text += &piece;
                logprobs.extend(more);
            }
            AnswerEvent::Done(done) => {
                server.metrics.answered(&done.timing);
                return Ok(Whole { text, logprobs, done });
            }
            AnswerEvent::Failed(error) => return Err(refused("messages", &error)),
        }
    }
    Err(ApiError::stopping())
}
