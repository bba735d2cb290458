//! What is asked of a chatbot, and what it says.

use std::sync::Arc;
use std::time::{Duration, Instant};

use casallm_data::chat::{Message, Role};
use casallm_model::sampler::SamplerConfig;
use thiserror::Error;

use crate::engine::{Priority, SubmitError, TokenLogprobs, Usage};

/// What a model is, for people and for clients.
#[derive(Clone, Debug)]
pub struct ModelCard {
    /// The name that clients ask for.
    pub id: String,
    /// Weights.
    pub parameters: u64,
    /// Where it runs, such as `cpu (avx2)`.
    pub device: String,
    /// Seconds since 1970 at which it was loaded.
    pub created: u64,
    /// SHA-256 of the tokenizer: ids of an answer are worth something only to a model with the same one.
    pub tokenizer: String,
}

/// One message of a conversation.
#[derive(Clone, Debug)]
pub struct Turn {
    /// Who speaks, and what is said.
    pub message: Message,
    /// An answer's ids as they were generated, where they are known.
    pub ids: Option<Arc<[u32]>>,
}

impl Turn {
    /// Puts it behind the turns that a model is given. Empty answers, such as those stopped before their first word, are left
    /// out: a model would learn to say nothing. Then two messages of a person are one: person and model still alternate.
    pub fn follow(self, turns: &mut Vec<Turn>) {
        match (self.message.role, turns.last_mut()) {
            (Role::Assistant, _) if self.message.content.is_empty() => {}
            (Role::User, Some(last)) if last.message.role == Role::User => {
                last.message.content += "\n\n";
                last.message.content += &self.message.content;
            }
            _ => turns.push(self),
        }
    }
}

impl From<Message> for Turn {
    fn from(message: Message) -> Self {
        Turn { message, ids: None }
    }
}

/// A conversation to answer.
#[derive(Clone, Debug)]
pub struct AnswerRequest {
    /// The turns so far, the last one a person's.
    pub turns: Vec<Turn>,
    /// How to choose tokens.
    pub sampling: SamplerConfig,
    /// Most tokens of the answer; `None` for as many as the context has room for.
    pub max_tokens: Option<usize>,
    /// Texts that end the answer and are not part of it.
    pub stop: Vec<String>,
    /// How many of the likeliest tokens to report at each place; `None` for no probabilities.
    pub top_logprobs: Option<usize>,
    /// Ids of this answer that were made before: it goes on after them, and what it says begins with what comes then.
    pub continue_ids: Vec<u32>,
    /// Who goes first.
    pub priority: Priority,
}

impl AnswerRequest {
    /// The request of somebody who waits, with nothing special.
    pub fn new(turns: Vec<Turn>, sampling: SamplerConfig) -> Self {
        AnswerRequest {
            turns,
            sampling,
            max_tokens: None,
            stop: Vec::new(),
            top_logprobs: None,
            continue_ids: Vec::new(),
            priority: Priority::Interactive,
        }
    }
}

/// A token of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct SpokenToken {
    /// Its id.
    pub id: u32,
    /// Where they were asked for.
    pub logprobs: Option<TokenLogprobs>,
    /// When the engine chose it.
    pub at: Instant,
}

/// What becomes of an answer, in order: `Started`, some `Reading`, some `Text`, then `Done` or `Failed`.
#[derive(Debug)]
pub enum AnswerEvent {
    /// It has left the queue.
    Started {
        /// Tokens of the prompt that need not be read.
        cached_tokens: usize,
    },
    /// A part of the prompt was read.
    Reading {
        /// Tokens that are read, cached ones included.
        read: usize,
        /// Tokens of the prompt.
        of: usize,
    },
    /// More of the answer. A text that may yet turn out to be a stop text, or that ends within a character, is held back:
    /// there may be tokens without text, and text of several tokens.
    Text {
        /// What is new.
        text: String,
        /// The tokens that have come since the last event.
        tokens: Vec<SpokenToken>,
    },
    /// The end.
    Done(Done),
    /// The model failed.
    Failed(String),
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended it, or a stop text came.
    Stop,
    /// As many tokens as were asked for.
    Length,
    /// The context is full.
    Context,
}

/// How an answer ended.
#[derive(Clone, Debug)]
pub struct Done {
    /// Why.
    pub finish: FinishReason,
    /// Tokens of the whole answer, what was made before included.
    pub usage: Usage,
    /// Times.
    pub timing: Timing,
    /// All ids of the answer, those that were made before included; `None` where a stop text has cut it within a token, so
    /// that they would say more than the text does.
    pub ids: Option<Vec<u32>>,
}

/// Times of an answer as the engine made it, however slowly it is listened to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Timing {
    /// From the request to the first token.
    pub first_token: Option<Duration>,
    /// Tokens a second after the first.
    pub tokens_per_second: Option<f64>,
}

/// Why an answer is not begun.
#[derive(Debug, Error)]
pub enum ChatError {
    /// The template does not render this conversation.
    #[error(transparent)]
    Template(#[from] casallm_data::Error),
    /// The engine does not take it.
    #[error(transparent)]
    Submit(#[from] SubmitError),
}
