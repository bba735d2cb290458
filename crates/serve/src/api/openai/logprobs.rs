//! Log probabilities in OpenAI's two shapes.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use crate::chatbot::TokenLogprobs;

/// `logprobs` of a chat's choice.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub struct ChatLogprobs {
    /// One entry a token.
    pub content: Vec<ChatLogprob>,
    /// Always null.
    pub refusal: Option<String>,
}

/// A token that was chosen.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ChatLogprob {
    #[serde(flatten)]
    chosen: Alternative,
    /// The likeliest tokens at this place.
    top_logprobs: Vec<Alternative>,
}

/// A token and its log probability.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Alternative {
    /// Its text; a byte that is no text by itself shows as U+FFFD.
    token: String,
    /// Natural logarithm, before temperature and truncation.
    logprob: f32,
    /// Its bytes.
    bytes: Vec<u8>,
}

fn alternative(bytes: &[u8], logprob: f32) -> Alternative {
    // JSON has no infinity, and OpenAI says -9999.0 for what is out of the question.
    let logprob = if logprob.is_finite() { logprob } else { -9999.0 };
    Alternative { token: String::from_utf8_lossy(bytes).into_owned(), logprob, bytes: bytes.to_vec() }
}

/// Tokens in the chat's shape.
pub(super) fn chat(tokens: &[TokenLogprobs]) -> ChatLogprobs {
    let content = tokens
        .iter()
        .map(|token| ChatLogprob {
            chosen: alternative(&token.bytes, token.logprob),
            top_logprobs: token.top.iter().map(|other| alternative(&other.bytes, other.logprob)).collect(),
        })
        .collect();
    ChatLogprobs { content, refusal: None }
}

/// `logprobs` of a completion's choice, the older shape.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub struct CompletionLogprobs {
    tokens: Vec<String>,
    token_logprobs: Vec<f32>,
    top_logprobs: Vec<BTreeMap<String, f32>>,
    /// Where each token begins, in characters of the text.
    text_offset: Vec<usize>,
}

/// Tokens in the completion's shape; `offset` counts characters from chunk to chunk.
pub(super) fn completion(tokens: &[TokenLogprobs], offset: &mut usize) -> CompletionLogprobs {
    let mut shape = CompletionLogprobs::default();
    for token in tokens {
        let chosen = alternative(&token.bytes, token.logprob);
        shape.text_offset.push(*offset);
        *offset += chosen.token.chars().count();
        shape.tokens.push(chosen.token);
        shape.token_logprobs.push(chosen.logprob);
        let others = token.top.iter().map(|other| alternative(&other.bytes, other.logprob));
        shape.top_logprobs.push(others.map(|other| (other.token, other.logprob)).collect());
    }
    shape
}
