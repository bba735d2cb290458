//! What OpenAI's shapes have no place for.

use serde::Serialize;
use utoipa::ToSchema;

use crate::chatbot;
use crate::overflow::Policy;

/// How fast an answer came.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
#[schema(as = OpenAiTiming)]
pub struct Timing {
    /// Milliseconds from the request to the first token.
    pub first_token_ms: Option<f64>,
    /// After the first.
    pub tokens_per_second: Option<f64>,
}

impl From<&chatbot::Timing> for Timing {
    fn from(timing: &chatbot::Timing) -> Self {
        let first_token_ms = timing.first_token.map(|first| first.as_secs_f64() * 1000.0);
        Timing { first_token_ms, tokens_per_second: timing.tokens_per_second }
    }
}

/// How full the context was at the end.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = OpenAiContext)]
pub struct Context {
    /// Tokens in it.
    pub used: usize,
    /// Tokens that the model can hold.
    pub limit: usize,
    /// What was left out to make the conversation fit; null if all of it did.
    pub overflow: Option<Overflow>,
}

/// What the model was not given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = OpenAiOverflow)]
pub struct Overflow {
    /// What was done.
    pub policy: Policy,
    /// Messages that the model did not see as they were written.
    pub dropped_messages: usize,
    /// The note that stood for them.
    pub note_id: Option<String>,
}
