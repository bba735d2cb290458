//! From a checked request to the model, and its answer as one piece.

use casallm_data::chat::Message;

use super::super::error::ApiError;
use super::super::server::{Loaded, Server};
use super::stream::Shape;
use super::{Ask, fit, wire};
use crate::chatbot::{Answer, AnswerEvent, AnswerRequest, ChatError, Done, SpokenToken, Turn};
use crate::engine::SubmitError;

/// What is to be continued.
pub(super) enum Prompt {
    /// A conversation.
    Chat(Vec<Message>),
    /// A text.
    Text(String),
}

impl Prompt {
    /// The endpoint's shape.
    pub(super) fn shape(&self) -> Shape {
        match self {
            Prompt::Chat(_) => Shape::Chat,
            Prompt::Text(_) => Shape::Text,
        }
    }
}

/// An answer that has been begun.
pub(super) struct Begun {
    pub answer: Answer,
    /// What was left out of the conversation.
    pub overflow: Option<wire::Overflow>,
}

/// Puts it into the model's queue. Tokenizing takes time, so it happens where waiting is no harm.
pub(super) async fn submit(loaded: &Loaded, prompt: Prompt, ask: &Ask) -> Result<Begun, ApiError> {
    let request = AnswerRequest {
        max_tokens: Some(ask.max_tokens),
        stop: ask.stop.clone(),
        top_logprobs: ask.top_logprobs,
        ..AnswerRequest::new(Vec::new(), ask.sampling.clone())
    };
    let (bot, policy) = (loaded.bot.clone(), loaded.overflow);
    let submitted = tokio::task::spawn_blocking(move || match prompt {
        Prompt::Chat(messages) => {
            let mut turns: Vec<Turn> = messages.into_iter().map(Turn::from).collect();
            let overflow = fit::fit(&bot, &mut turns, policy, ask_tokens(&request))?;
            let answer = bot.answer(&AnswerRequest { turns, ..request });
            Ok(Begun { answer: answer.map_err(|error| refused("messages", &error))?, overflow })
        }
        Prompt::Text(text) => {
            let answer = bot.complete(&text, &request).map_err(|error| refused("prompt", &error))?;
            Ok(Begun { answer, overflow: None })
        }
    });
    submitted.await.unwrap_or_else(|_| Err(ApiError::internal()))
}

fn ask_tokens(request: &AnswerRequest) -> usize {
    request.max_tokens.unwrap_or(usize::MAX)
}

/// An error of the model, as the client should hear it.
pub(in crate::api) fn refused(param: &str, error: &ChatError) -> ApiError {
    match error {
        ChatError::Template(error) => ApiError::field(param, error.to_string()),
        ChatError::Submit(SubmitError::QueueFull { .. }) => ApiError::busy(5),
        ChatError::Submit(SubmitError::ShuttingDown) => ApiError::stopping(),
        ChatError::Submit(error @ SubmitError::Broken) => ApiError::broken(error.to_string()),
        ChatError::Submit(error @ SubmitError::TooLong { .. }) => ApiError::context_length(param, error.to_string()),
        ChatError::Submit(error) => ApiError::field(param, error.to_string()),
    }
}

/// The model failed at an answer that it had begun.
pub(super) fn failed(server: &Server, reason: &str) -> ApiError {
    if server.is_stopping() {
        return ApiError::stopping();
    }
    server.log(&format!("an answer failed: {reason}"));
    if server.model().is_some_and(|loaded| loaded.bot.engine().is_broken()) {
        return ApiError::broken(SubmitError::Broken.to_string());
    }
    ApiError::internal()
}

/// A whole answer.
pub(super) struct Whole {
    pub text: String,
    pub tokens: Vec<SpokenToken>,
    pub done: Done,
}

/// Waits for the end. Whoever drops this future takes the request back.
pub(super) async fn whole(mut answer: Answer, server: &Server) -> Result<Whole, ApiError> {
    let (mut text, mut tokens) = (String::new(), Vec::new());
    while let Some(event) = answer.next().await {
        match event {
            AnswerEvent::Started { .. } | AnswerEvent::Reading { .. } => {}
            AnswerEvent::Text { text: piece, tokens: more } => {
                text += &piece;
                tokens.extend(more);
            }
            AnswerEvent::Done(done) => {
                server.metrics.answered(&done.timing);
                return Ok(Whole { text, tokens, done });
            }
            AnswerEvent::Failed(reason) => return Err(failed(server, &reason)),
        }
    }
    Err(ApiError::stopping())
}
