//! The tokenizer of an imported model: a byte-level BPE of another program, with control tokens of its own.
//!
//! Read with every check, as our own: what cannot be followed to the id is refused by name. The vocabulary of the BPE is
//! built without the control tokens, so that no text can merge into one.

mod gguf;
mod scheme;

use std::collections::{BTreeMap, HashSet};

use serde_json::{Value, json};
use tokenizers::normalizers::unicode::NFC;
use tokenizers::{NormalizedString, Normalizer};

use super::file::{self, AddedToken, TokenizerFile};
use super::{ControlToken, MAX_VOCAB_SIZE, Parts, Tokenizer, byte_chars};
use crate::error::Error;

pub use gguf::{GgufTokenizer, GgufVocabulary};
pub(super) use gguf::{of_file as to_gguf, to_json as gguf_json};
pub(super) use scheme::{Scheme, byte_level};

/// What is read, for the messages.
const KNOWN: &str = "byte-level BPE (not SentencePiece) that cuts text as GPT-2, SmolLM2, Llama 3 or Qwen2 do";

/// A text in Unicode's composed form, NFC.
pub(super) fn composed(text: &str) -> String {
    let mut normalized = NormalizedString::from(text);
    match NFC.normalize(&mut normalized) {
        Ok(()) => normalized.get().to_owned(),
        // It cannot fail; the text as it is would be the next best.
        Err(_) => text.to_owned(),
    }
}

/// A tokenizer from what its file says; `origin` names it in errors, and `json` is its text.
pub(super) fn assemble(file: TokenizerFile, json: String, origin: &str) -> Result<Tokenizer, Error> {
    let fault = |message: String| Error::TokenizerFormat { path: origin.to_owned(), message };
    let refuse = |field: &'static str, found: String| Error::TokenizerForeign {
        path: origin.to_owned(),
        field,
        found: found.chars().take(120).collect(),
        known: KNOWN,
    };
    let model = file.model;
    if model.kind != "BPE" || model.altered_words() {
        let found = format!("type {:?}, or with a dropout, prefix, suffix or byte fallback", model.kind);
        return Err(refuse("model", found));
    }
    let nfc = match &file.normalizer {
        Value::Null => false,
        other if *other == json!({"type": "NFC"}) => true,
        other => return Err(refuse("normalizer", other.to_string())),
    };
    let scheme =
        Scheme::of_json(&file.pre_tokenizer).ok_or_else(|| refuse("pre_tokenizer", file.pre_tokenizer.to_string()))?;
    if file.decoder.get("type") != Some(&json!("ByteLevel")) {
        return Err(refuse("decoder", file.decoder.to_string()));
    }

    let size = model.vocab.values().chain(file.added_tokens.iter().map(|added| &added.id)).max();
    let size = size.map_or(0, |&id| id as usize + 1);
    if size == 0 || size > MAX_VOCAB_SIZE {
        return Err(fault(format!("ids up to {size}; from 1 to {MAX_VOCAB_SIZE} are possible")));
    }
    let controls = controls_of(file.added_tokens, &model.vocab).map_err(fault)?;
    let mut token_bytes: Vec<Option<Box<[u8]>>> = vec![None; size];
    let mut put = |id: u32, spelling: &str, bytes: Box<[u8]>| match &mut token_bytes[id as usize] {
        Some(_) => Err(fault(format!("id {id} of `{spelling}` is given twice"))),
        place => {
            *place = Some(bytes);
            Ok(())
        }
    };
    for control in &controls {
        let shown = if control.hidden { "" } else { &control.content };
        put(control.id, &control.content, shown.as_bytes().into())?;
    }
    let names: HashSet<&str> = controls.iter().map(|control| control.content.as_str()).collect();
    let mut vocab = ahash::AHashMap::with_capacity(model.vocab.len());
    for (spelling, id) in model.vocab {
        if names.contains(spelling.as_str()) {
            continue;
        }
        let bytes = byte_chars::bytes_of(&spelling).filter(|bytes| !bytes.is_empty());
        let bytes = bytes.ok_or_else(|| fault(format!("token {id} `{spelling}` is not byte-level")))?;
        put(id, &spelling, bytes)?;
        vocab.insert(spelling, id);
    }
    let merges = file::pairs(model.merges).map_err(fault)?;
    Ok(Tokenizer::new(Parts {
        model: file::bpe(vocab, merges, model.ignore_merges).map_err(fault)?,
        scheme,
        nfc,
        // Ids that stand for nothing: a model may have rows to spare.
        token_bytes: token_bytes.into_iter().map(Option::unwrap_or_default).collect(),
        controls,
        special: None,
        json,
    }))
}

/// The control tokens by id, once they agree with the vocabulary.
fn controls_of(added: Vec<AddedToken>, vocab: &BTreeMap<String, u32>) -> Result<Vec<ControlToken>, String> {
    let mut controls = Vec::with_capacity(added.len());
    let mut names = HashSet::new();
    for token in added {
        let AddedToken { id, content, lstrip, rstrip, special, .. } = token;
        if content.is_empty() {
            return Err(format!("the control token of id {id} has no name"));
        }
        if let Some(other) = vocab.get(&content).filter(|other| **other != id) {
            return Err(format!("`{content}` has the ids {id} and {other}"));
        }
        if !names.insert(content.clone()) {
            return Err(format!("the control token `{content}` stands twice"));
        }
        controls.push(ControlToken { content, id, hidden: special, strips_before: lstrip, strips_after: rstrip });
    }
    controls.sort_by_key(|control| control.id);
    Ok(controls)
}

#[cfg(test)]
mod tests;
