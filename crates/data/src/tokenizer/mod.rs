//! The tokenizer: byte-level BPE with the six control tokens as ids 0 to 5.
//!
//! Trained, encoded with and stored by the rules of the `tokenizers` crate, so that any program that reads
//! `tokenizer.json` gives the same ids. Two things are our own: text is split by a finite automaton and words are
//! remembered (`splitter`, `word_cache`: many times faster than the crate's pipeline), and the crate's search for
//! control tokens inside text is never run, so that [`Tokenizer::encode`] cannot yield one whatever a person types.
//! Called by `shards` (documents), `chat` (messages) and whoever generates.
//!
//! The tokenizer of an imported model (`foreign`) has control tokens and rules of its own, and encodes by the same code.

mod byte_chars;
mod file;
mod foreign;
mod opening;
mod splitter;
mod stream;
mod training;
mod word_cache;

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;
use sha2::{Digest, Sha256};
use tokenizers::models::bpe::BPE;

use crate::durable::{self, hexadecimal};
use crate::error::Error;
use foreign::Scheme;
use word_cache::WordCache;

pub use foreign::{GgufTokenizer, GgufVocabulary};
pub use splitter::Digits;
pub use stream::StreamDecoder;
pub use training::{MAX_SAMPLE_BYTES, MAX_VOCAB_SIZE, MIN_VOCAB_SIZE, TrainOptions, TrainProgress};

/// What errors call a tokenizer that did not come from a path.
const FILE: &str = "tokenizer.json";

/// The control tokens, in the order of their ids from 0.
pub const SPECIAL_TOKENS: [&str; 6] = ["<s>", "</s>", "<pad>", "<|system|>", "<|user|>", "<|assistant|>"];

/// Ids of the control tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpecialTokens {
    /// `<s>`: begins a document or a conversation.
    pub bos: u32,
    /// `</s>`: ends a document or a message.
    pub eos: u32,
    /// `<pad>`: fills where a shape must be kept.
    pub pad: u32,
    /// `<|system|>`: instructions follow.
    pub system: u32,
    /// `<|user|>`: the person speaks.
    pub user: u32,
    /// `<|assistant|>`: the model speaks.
    pub assistant: u32,
}

/// A token that no text encodes to: only a chat template places it, and only a model says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlToken {
    /// Its name, as templates write it.
    pub content: String,
    /// Its id.
    pub id: u32,
    /// Whether it is a sign between program and model, and nothing of it is shown. Others, such as `<think>`, are text.
    pub hidden: bool,
    /// Whether white space before it in a template is not encoded.
    pub strips_before: bool,
    /// Whether white space after it in a template is not encoded.
    pub strips_after: bool,
}

impl ControlToken {
    fn plain(content: &str, id: u32) -> Self {
        Self { content: content.to_owned(), id, hidden: true, strips_before: false, strips_after: false }
    }
}

/// Byte-level BPE: any text to ids and back. Without loss, but for bytes that a foreign vocabulary does not have.
pub struct Tokenizer {
    parts: Parts,
    fingerprint: String,
    caches: Mutex<Vec<WordCache>>,
}

/// What a `tokenizer.json` says.
struct Parts {
    model: BPE,
    /// How text is cut into words.
    scheme: Scheme,
    /// Whether text is composed (Unicode's NFC) first.
    nfc: bool,
    /// Bytes of each id; empty for control tokens.
    token_bytes: Vec<Box<[u8]>>,
    controls: Vec<ControlToken>,
    /// Of a tokenizer that this program has trained.
    special: Option<SpecialTokens>,
    json: String,
}

impl Tokenizer {
    /// Learns a vocabulary from documents. The same documents and options give the same tokenizer.
    ///
    /// Memory is bounded by `options.max_words` (see [`TrainOptions`]), whatever the length of the stream. The stream
    /// is read up to `options.max_bytes`: give one whose beginning is a fair sample, as [`crate::source::sample`] draws it.
    ///
    /// # Errors
    /// The first error of `documents`; [`Error::VocabularySize`] and [`Error::SampleSize`] for options out of range;
    /// [`Error::EmptyCorpus`] without text; [`Error::VocabularyShort`] when the text yields fewer tokens.
    pub fn train(
        documents: impl Iterator<Item = Result<String, Error>>,
        options: &TrainOptions,
        progress: &mut dyn FnMut(TrainProgress),
    ) -> Result<Self, Error> {
        training::train(documents, options, progress)
    }

    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// [`Error::Io`], and those of [`Tokenizer::from_bytes`].
    pub fn load(path: &Path) -> Result<Self, Error> {
        let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
        let origin = path.display().to_string();
        file::own(file::parse(&bytes, &origin)?, &origin)
    }

    /// Reads the contents of a `tokenizer.json`.
    ///
    /// # Errors
    /// [`Error::TokenizerFormat`] when it is not a byte-level BPE; [`Error::TokenizerPipeline`] when it splits or
    /// normalises in another way; [`Error::TokenizerSpecial`] when a control token is not at its place.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        file::own(file::parse(bytes, FILE)?, FILE)
    }

    /// Reads the `tokenizer.json` of a model directory: one that this program trained, or that of an imported model.
    ///
    /// # Errors
    /// As [`Tokenizer::from_bytes`], and [`Error::TokenizerForeign`] for a kind that cannot be followed.
    pub fn of_model(bytes: &[u8]) -> Result<Self, Error> {
        let file = file::parse(bytes, FILE)?;
        // JSON that was parsed is UTF-8.
        let json = || String::from_utf8_lossy(bytes).into_owned();
        if file.is_own() { file::own(file, FILE) } else { foreign::assemble(file, json(), FILE) }
    }

    /// The tokenizer of a GGUF file.
    ///
    /// # Errors
    /// [`Error::TokenizerForeign`] for a kind that cannot be followed; [`Error::TokenizerFormat`] when its parts
    /// contradict each other. `origin` names the file in them.
    pub fn from_gguf(vocabulary: &GgufVocabulary<'_>, origin: &str) -> Result<Self, Error> {
        let json = foreign::gguf_json(vocabulary, origin)?;
        foreign::assemble(file::parse(json.as_bytes(), origin)?, json, origin)
    }

    /// Writes `tokenizer.json`, visible only when whole.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::DiskFull`].
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        durable::write_file(path, self.parts.json.as_bytes())
    }

    /// The contents of `tokenizer.json`: the same for the same vocabulary and merges.
    pub fn to_json(&self) -> String {
        self.parts.json.clone()
    }

    /// The vocabulary as a GGUF file states it.
    ///
    /// # Errors
    /// [`Error::TokenizerForeign`] for a way of merging that llama.cpp does not have.
    pub fn to_gguf(&self) -> Result<GgufTokenizer, Error> {
        foreign::to_gguf(file::parse(self.parts.json.as_bytes(), FILE)?, self.parts.scheme, self.vocab_size())
    }

    /// Ids of a text. Never a control token: `</s>` typed by a person gives the four characters.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::with_capacity(text.len() / 3);
        self.encode_into(text, &mut ids);
        ids
    }

    /// Appends the ids of a text to `ids`.
    pub fn encode_into(&self, text: &str, ids: &mut Vec<u32>) {
        let Parts { model, scheme, nfc, .. } = &self.parts;
        let mut cache = self.lock_caches().pop().unwrap_or_default();
        let composed = nfc.then(|| foreign::composed(text));
        scheme.each_word(composed.as_deref().unwrap_or(text), |word| cache.encode_word(model, word, ids));
        self.lock_caches().push(cache);
    }

    /// Ids of several texts, on all cores.
    pub fn encode_batch(&self, texts: &[&str]) -> Vec<Vec<u32>> {
        texts.par_iter().map(|text| self.encode(text)).collect()
    }

    /// The text of ids: control tokens and unknown ids are skipped, broken UTF-8 gives U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let bytes: Vec<u8> = ids.iter().flat_map(|&id| self.token_bytes(id).unwrap_or_default()).copied().collect();
        match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(broken) => String::from_utf8_lossy(broken.as_bytes()).into_owned(),
        }
    }

    /// The bytes that an id stands for: empty for a control token, `None` for an id outside the vocabulary.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        self.parts.token_bytes.get(id as usize).map(|bytes| &**bytes)
    }

    /// `[vocab_size]`: bytes of text per id, 0 for control tokens. The denominator of bits per byte.
    pub fn byte_lengths(&self) -> Vec<u32> {
        self.parts.token_bytes.iter().map(|bytes| bytes.len() as u32).collect()
    }

    /// Ids of the six control tokens of a tokenizer that this program has trained.
    ///
    /// # Errors
    /// [`Error::TokenizerNotOwn`] for the tokenizer of an imported model, which has others.
    pub fn special(&self) -> Result<SpecialTokens, Error> {
        self.parts.special.ok_or_else(|| Error::TokenizerNotOwn {
            found: self.parts.controls.iter().take(3).map(|c| c.content.as_str()).collect::<Vec<_>>().join(", "),
        })
    }

    /// Every control token, by id.
    pub fn controls(&self) -> &[ControlToken] {
        &self.parts.controls
    }

    /// The id of the control token of this name.
    pub fn control_id(&self, content: &str) -> Option<u32> {
        self.parts.controls.iter().find(|control| control.content == content).map(|control| control.id)
    }

    /// Ids in the vocabulary, control tokens included.
    pub fn vocab_size(&self) -> usize {
        self.parts.token_bytes.len()
    }

    /// How many digits are a word, at most, of a tokenizer that this program has trained.
    pub fn digits(&self) -> Option<Digits> {
        match self.parts.scheme {
            Scheme::Own(digits) => Some(digits),
            _ => None,
        }
    }

    /// SHA-256 of [`Tokenizer::to_json`], hexadecimal: shards and checkpoints carry it.
    pub fn fingerprint(&self) -> String {
        self.fingerprint.clone()
    }

    fn new(parts: Parts) -> Self {
        let fingerprint = hexadecimal(&Sha256::digest(parts.json.as_bytes()));
        Self { parts, fingerprint, caches: Mutex::new(Vec::new()) }
    }

    fn lock_caches(&self) -> std::sync::MutexGuard<'_, Vec<WordCache>> {
        // A cache is taken out before use, so a panic elsewhere leaves none half-changed.
        self.caches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size())
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod tests;
