//! A GGUF file's vocabulary as the tokenizer.json that says the same, and the other way round.
//!
//! Keys and token types: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. Which pattern a value of
//! `tokenizer.ggml.pre` means, and that Llama 3 takes a word whole if it is a token, is llama.cpp's `llama-vocab.cpp`.

use super::{KNOWN, Scheme};
use crate::error::Error;
use crate::tokenizer::MAX_VOCAB_SIZE;
use crate::tokenizer::file::{self, AddedToken, TokenizerFile};

/// The keys `tokenizer.ggml.*` of a GGUF file.
#[derive(Debug, Clone, Copy)]
pub struct GgufVocabulary<'a> {
    /// `model`: the kind of tokenizer.
    pub model: &'a str,
    /// `pre`: how text is cut into words.
    pub pre: &'a str,
    /// `[vocab_size]`, `tokens`: the spelling of each id.
    pub tokens: &'a [String],
    /// `[vocab_size]`, `token_type`: what each id is.
    pub token_types: &'a [i32],
    /// `merges`, by priority, as `"left right"`.
    pub merges: &'a [String],
}

/// The keys `tokenizer.ggml.*` that say what a tokenizer.json says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GgufTokenizer {
    /// `pre`: the name under which llama.cpp cuts text into words this way, or nearly so.
    pub pre: &'static str,
    /// What is cut in another way, if anything is.
    pub differs: Option<&'static str>,
    /// `[vocab_size]`, `tokens`: the spelling of each id.
    pub tokens: Vec<String>,
    /// `[vocab_size]`, `token_type`: what each id is.
    pub token_types: Vec<i32>,
    /// `merges`, by priority, as `"left right"`.
    pub merges: Vec<String>,
}

/// Values of `token_type`.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

/// The vocabulary that a tokenizer.json states, whose checks it has passed.
pub(in crate::tokenizer) fn of_file(file: TokenizerFile, scheme: Scheme, size: usize) -> Result<GgufTokenizer, Error> {
    let fault = |message: String| Error::TokenizerFormat { path: "tokenizer.json".to_owned(), message };
    let (pre, differs) = scheme.gguf(file.model.ignore_merges).ok_or_else(|| Error::TokenizerForeign {
        path: "tokenizer.json".to_owned(),
        field: "ignore_merges",
        found: file.model.ignore_merges.to_string(),
        known: "what llama.cpp knows by a name: GPT-2's and SmolLM's cuts without it, Llama 3's and Qwen2's",
    })?;
    // An id that stands for nothing has a name too: a model may have rows to spare.
    let mut tokens: Vec<String> = (0..size).map(|id| format!("[PAD{id}]")).collect();
    let mut token_types = vec![UNUSED; size];
    let mut put = |id: u32, spelling: String, kind| match tokens.get_mut(id as usize) {
        Some(place) => {
            *place = spelling;
            token_types[id as usize] = kind;
            Ok(())
        }
        None => Err(fault(format!("id {id} of `{spelling}` with only {size} tokens"))),
    };
    for (spelling, id) in file.model.vocab {
        put(id, spelling, NORMAL)?;
    }
    for added in file.added_tokens {
        put(added.id, added.content, if added.special { CONTROL } else { USER_DEFINED })?;
    }
    let merges = file::pairs(file.model.merges).map_err(fault)?;
    let merges = merges.into_iter().map(|(left, right)| format!("{left} {right}")).collect();
    Ok(GgufTokenizer { pre, differs, tokens, token_types, merges })
}

/// The text of a tokenizer.json.
pub(in crate::tokenizer) fn to_json(vocabulary: &GgufVocabulary<'_>, origin: &str) -> Result<String, Error> {
    let fault = |message: String| Error::TokenizerFormat { path: origin.to_owned(), message };
    let refuse = |field: &'static str, found: &str| Error::TokenizerForeign {
        path: origin.to_owned(),
        field,
        found: format!("{:?}", found.chars().take(60).collect::<String>()),
        known: KNOWN,
    };
    let GgufVocabulary { model, pre, tokens, token_types, merges } = *vocabulary;
    if model != "gpt2" {
        return Err(refuse("tokenizer.ggml.model", model));
    }
    let scheme = Scheme::of_gguf(pre).ok_or_else(|| refuse("tokenizer.ggml.pre", pre))?;
    if tokens.len() != token_types.len() || tokens.len() > MAX_VOCAB_SIZE {
        return Err(fault(format!(
            "{} tokens and {} token types; one type for each of at most {MAX_VOCAB_SIZE} tokens is possible",
            tokens.len(),
            token_types.len()
        )));
    }
    let mut added = Vec::new();
    let mut vocab = Vec::with_capacity(tokens.len());
    for (id, (token, kind)) in tokens.iter().zip(token_types).enumerate() {
        match *kind {
            NORMAL => {}
            UNUSED => continue,
            UNKNOWN | CONTROL | USER_DEFINED => {
                added.push(AddedToken::new(id as u32, token, *kind != USER_DEFINED));
            }
            other => return Err(fault(format!("token {id} `{token}` is of type {other}; 1 to 5 are possible"))),
        }
        vocab.push((token.as_str(), id as u32));
    }
    let mut pairs = Vec::with_capacity(merges.len());
    for merge in merges {
        // A spelling has no space of its own: it is spelled Ġ.
        let (left, right) = merge.split_once(' ').ok_or_else(|| fault(format!("merge `{merge}` is not a pair")))?;
        pairs.push((left, right));
    }
    file::write(added, scheme, vocab, pairs).map_err(|e| fault(e.to_string()))
}
