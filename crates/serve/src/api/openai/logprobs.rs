//! Log probabilities in OpenAI's two shapes.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use crate::chatbot::SpokenToken;
use casallm_data::tokenizer::{StreamDecoder, Tokenizer};

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

/// `logprobs` of a completion's choice, the older shape. It knows tokens by their text alone, so that one which is no text by
/// itself stands there by its bytes, as OpenAI writes it: `bytes:\xe9\x9b`.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub struct CompletionLogprobs {
    tokens: Vec<String>,
    token_logprobs: Vec<f32>,
    /// The likeliest tokens at each place, and the chosen one where it is none of them: up to one more than was asked for.
    top_logprobs: Vec<BTreeMap<String, f32>>,
    /// Where each token begins, in characters of the text; one that goes on with a character, where that begins.
    text_offset: Vec<usize>,
}

/// How much text there was before, from chunk to chunk.
#[derive(Debug, Default)]
pub(super) struct Offset {
    characters: usize,
    decoder: StreamDecoder,
}

/// Tokens in the completion's shape.
pub(super) fn completion(tokenizer: &Tokenizer, tokens: &[SpokenToken], offset: &mut Offset) -> CompletionLogprobs {
    let mut shape = CompletionLogprobs::default();
    for token in tokens {
        let begin = offset.characters;
        offset.characters += offset.decoder.push(tokenizer, token.id).chars().count();
        let Some((chosen, top)) = described(tokenizer, token) else { continue };
        shape.text_offset.push(begin);
        let mut likeliest = BTreeMap::new();
        for other in top {
            let logprob = other.logprob;
            // Control tokens have no text; of several the likeliest stays.
            likeliest.entry(text_or_bytes(other)).or_insert(logprob);
        }
        let (logprob, text) = (chosen.logprob, text_or_bytes(chosen));
        likeliest.entry(text.clone()).or_insert(logprob);
        shape.token_logprobs.push(logprob);
        shape.tokens.push(text);
        shape.top_logprobs.push(likeliest);
    }
    shape
}

fn text_or_bytes(token: Alternative) -> String {
    if std::str::from_utf8(&token.bytes).is_ok() {
        return token.token;
    }
    let bytes = token.bytes.iter().map(|byte| format!("\\x{byte:02x}"));
    format!("bytes:{}", bytes.collect::<String>())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use casallm_data::tokenizer::TrainOptions;

    use super::*;
    use crate::engine::TokenLogprobs;

    #[test]
    fn tokens_that_are_parts_of_characters_are_told_apart_and_counted_as_the_text_has_them() {
        let options = TrainOptions { vocab_size: 262, ..TrainOptions::default() };
        let tokenizer = Tokenizer::train([Ok("x".to_owned())].into_iter(), &options, &mut |_| {}).unwrap();
        let text = "a\u{96e8}b";
        let ids = tokenizer.encode(text);
        assert_eq!(ids.len(), text.len(), "a token a byte");
        let spoken = |id: &u32| {
            let top = ids.iter().zip([-0.5, -1.0, -1.5, -2.0, -2.5]).map(|(id, logprob)| (*id, logprob)).collect();
            SpokenToken { id: *id, logprobs: Some(TokenLogprobs { chosen: -1.0, top }), at: Instant::now() }
        };
        let tokens: Vec<SpokenToken> = ids.iter().map(spoken).collect();
        let whole = completion(&tokenizer, &tokens, &mut Offset::default());
        assert_eq!(whole.tokens, ["a", "bytes:\\xe9", "bytes:\\x9b", "bytes:\\xa8", "b"]);
        assert_eq!(whole.text_offset, [0, 1, 1, 1, 2]);
        assert!(whole.top_logprobs.iter().all(|top| top.len() == 5 && top["bytes:\\x9b"] == -1.5), "{whole:?}");
        // What was chosen is there, too, where it is none of the likeliest.
        let unlikely = SpokenToken {
            id: ids[0],
            logprobs: Some(TokenLogprobs { chosen: -9.0, top: vec![(ids[4], -0.1)] }),
            at: Instant::now(),
        };
        let top = &completion(&tokenizer, &[unlikely], &mut Offset::default()).top_logprobs[0];
        assert_eq!((top.len(), top["a"], top["b"]), (2, -9.0, -0.1));
        // Chunks are counted on.
        let mut offset = Offset::default();
        let parts: Vec<usize> =
            tokens.chunks(2).flat_map(|part| completion(&tokenizer, part, &mut offset).text_offset).collect();
        assert_eq!(parts, whole.text_offset);
    }
}
