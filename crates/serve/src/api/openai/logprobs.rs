//! Log probabilities in OpenAI's two shapes.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use crate::chatbot::SpokenToken;
use casallm_data::tokenizer::Tokenizer;

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

fn alternative(tokenizer: &Tokenizer, id: u32, logprob: f32) -> Alternative {
    let bytes = tokenizer.token_bytes(id).unwrap_or_default();
    // JSON has no infinity, and OpenAI says -9999.0 for what is out of the question.
    let logprob = if logprob.is_finite() { logprob } else { -9999.0 };
    Alternative { token: String::from_utf8_lossy(bytes).into_owned(), logprob, bytes: bytes.to_vec() }
}

/// A token and the likeliest at its place; `None` where no probabilities were asked for.
fn described(tokenizer: &Tokenizer, token: &SpokenToken) -> Option<(Alternative, Vec<Alternative>)> {
    let logprobs = token.logprobs.as_ref()?;
    let top = logprobs.top.iter().map(|(id, logprob)| alternative(tokenizer, *id, *logprob)).collect();
    Some((alternative(tokenizer, token.id, logprobs.chosen), top))
}

/// Tokens in the chat's shape.
pub(super) fn chat(tokenizer: &Tokenizer, tokens: &[SpokenToken]) -> ChatLogprobs {
    let described = tokens.iter().filter_map(|token| described(tokenizer, token));
    let content = described.map(|(chosen, top_logprobs)| ChatLogprob { chosen, top_logprobs }).collect();
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
pub(super) fn completion(tokenizer: &Tokenizer, tokens: &[SpokenToken], offset: &mut usize) -> CompletionLogprobs {
    let mut shape = CompletionLogprobs::default();
    for (chosen, top) in tokens.iter().filter_map(|token| described(tokenizer, token)) {
        shape.text_offset.push(*offset);
        *offset += chosen.token.chars().count();
        shape.tokens.push(chosen.token);
        shape.token_logprobs.push(chosen.logprob);
        shape.top_logprobs.push(top.into_iter().map(|other| (other.token, other.logprob)).collect());
    }
    shape
}
