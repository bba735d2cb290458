//! What is asked of the engine, and what it answers.

use std::time::Instant;

use casallm_model::error::ModelError;
use casallm_model::sampler::SamplerConfig;
use thiserror::Error;

/// Who goes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Somebody waits for it.
    #[default]
    Interactive,
    /// Nobody does: it gives way whenever somebody comes.
    Background,
}

/// Tokens to continue.
#[derive(Clone, Debug)]
pub struct Request {
    /// All tokens so far; at least one.
    pub prompt: Vec<u32>,
    /// How to choose.
    pub sampling: SamplerConfig,
    /// Choices of this answer that were made before: an answer that goes on draws what it would have drawn.
    pub draws: u64,
    /// Most tokens to add; the context may end it earlier.
    pub max_new_tokens: usize,
    /// Tokens that end the answer and are not part of it. No repetition penalty falls on them.
    pub stop_ids: Vec<u32>,
    /// How many of the likeliest tokens to report at each place, beside the chosen one; `None` for no probabilities.
    pub top_logprobs: Option<usize>,
    /// Who goes first.
    pub priority: Priority,
}

/// Natural logarithms of probabilities at one place, by the model's own distribution: before temperature and truncation.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprobs {
    /// Of the chosen token.
    pub chosen: f32,
    /// Of the likeliest tokens, the likeliest first.
    pub top: Vec<(u32, f32)>,
}

/// Tokens of one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// In the prompt.
    pub prompt_tokens: usize,
    /// Of these, how many did not have to be read.
    pub cached_tokens: usize,
    /// Given.
    pub completion_tokens: usize,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// A stop token came.
    Stop,
    /// As many tokens as were asked for.
    Length,
    /// The context is full.
    Context,
}

/// What becomes of a request, in order: `Started`, some `Reading`, some `Token`, then `Finished` or `Failed`.
#[derive(Debug)]
pub enum Event {
    /// It has left the queue.
    Started {
        /// Tokens of the prompt that need not be read.
        cached_tokens: usize,
    },
    /// A part of the prompt was read.
    Reading {
        /// Tokens of the prompt that are read, cached ones included.
        read: usize,
        /// Tokens of the prompt.
        of: usize,
    },
    /// A token.
    Token {
        /// Its id.
        id: u32,
        /// Where they were asked for.
        logprobs: Option<TokenLogprobs>,
        /// When it was chosen. Events wait for whoever is slow to hear them, and speed is none of theirs.
        at: Instant,
    },
    /// The end.
    Finished {
        /// Why.
        finish: Finish,
        /// What it took.
        usage: Usage,
    },
    /// The model failed.
    Failed(String),
}

/// Why a request is not taken.
#[derive(Debug, Error)]
pub enum SubmitError {
    /// As many are here already as are answered at once and may wait.
    #[error("{waiting} requests are waiting already, which is the most; try again later")]
    QueueFull {
        /// How many wait.
        waiting: usize,
    },
    /// No room for a single token.
    #[error("{tokens} tokens do not fit the context of {context}, which the answer shares; shorten the prompt")]
    TooLong {
        /// Of the prompt.
        tokens: usize,
        /// Tokens that fit.
        context: usize,
    },
    /// The prompt is empty or holds an unknown id.
    #[error("{0}")]
    Prompt(String),
    /// A sampling setting is out of its range.
    #[error(transparent)]
    Sampling(#[from] ModelError),
    /// No more requests are taken.
    #[error("the server is shutting down; try again when it is back")]
    ShuttingDown,
    /// The engine's thread has panicked, or the device has failed.
    #[error(
        "the model broke off and answers nothing until the program is started again; what it printed, or said of the answer at which it broke off, says why"
    )]
    Broken,
}
