//! The tokenizer: byte-level BPE with the six control tokens as ids 0 to 5.
//!
//! Trained, encoded with and stored by the rules of the `tokenizers` crate, so that any program that reads
//! `tokenizer.json` gives the same ids. Two things are our own: text is split by a finite automaton and words are
//! remembered (`splitter`, `word_cache`: many times faster than the crate's pipeline), and the crate's search for
//! control tokens inside text is never run, so that [`Tokenizer::encode`] cannot yield one whatever a person types.
//! Called by `shards` (documents), `chat` (messages) and whoever generates.

mod byte_chars;
mod file;
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
use word_cache::WordCache;

pub use stream::StreamDecoder;
pub use training::{MAX_SAMPLE_BYTES, MAX_VOCAB_SIZE, MIN_VOCAB_SIZE, TrainOptions, TrainProgress};

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

/// Byte-level BPE: any text to ids and back without loss.
pub struct Tokenizer {
    model: BPE,
    /// Bytes of each id; empty for control tokens.
    token_bytes: Vec<Box<[u8]>>,
    json: String,
    fingerprint: String,
    caches: Mutex<Vec<WordCache>>,
}

impl Tokenizer {
    /// Learns a vocabulary from documents. The same documents and options give the same tokenizer.
    ///
    /// Memory is bounded by `options.max_words` (see [`TrainOptions`]), whatever the length of the stream. The stream
    /// is read up to `options.max_bytes`: put it in an order whose beginning is a fair sample.
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
        file::parse(&bytes, &path.display().to_string())
    }

    /// Reads the contents of a `tokenizer.json`.
    ///
    /// # Errors
    /// [`Error::TokenizerFormat`] when it is not a byte-level BPE; [`Error::TokenizerPipeline`] when it splits or
    /// normalises in another way; [`Error::TokenizerSpecial`] when a control token is not at its place.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        file::parse(bytes, "tokenizer.json")
    }

    /// Writes `tokenizer.json`, visible only when whole.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::DiskFull`].
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        durable::write_file(path, self.json.as_bytes())
    }

    /// The contents of `tokenizer.json`: the same for the same vocabulary and merges.
    pub fn to_json(&self) -> String {
        self.json.clone()
    }

    /// Ids of a text. Never a control token: `</s>` typed by a person gives the four characters.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::with_capacity(text.len() / 3);
        self.encode_into(text, &mut ids);
        ids
    }

    /// Appends the ids of a text to `ids`.
    pub fn encode_into(&self, text: &str, ids: &mut Vec<u32>) {
        let mut cache = self.lock_caches().pop().unwrap_or_default();
        for word in splitter::words(text) {
            cache.encode_word(&self.model, &text[word], ids);
        }
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
        self.token_bytes.get(id as usize).map(|bytes| &**bytes)
    }

    /// `[vocab_size]`: bytes of text per id, 0 for control tokens. The denominator of bits per byte.
    pub fn byte_lengths(&self) -> Vec<u32> {
        self.token_bytes.iter().map(|bytes| bytes.len() as u32).collect()
    }

    /// Ids of the control tokens.
    pub fn special(&self) -> SpecialTokens {
        SpecialTokens { bos: 0, eos: 1, pad: 2, system: 3, user: 4, assistant: 5 }
    }

    /// Ids in the vocabulary, control tokens included.
    pub fn vocab_size(&self) -> usize {
        self.token_bytes.len()
    }

    /// SHA-256 of [`Tokenizer::to_json`], hexadecimal: shards and checkpoints carry it.
    pub fn fingerprint(&self) -> String {
        self.fingerprint.clone()
    }

    fn new(model: BPE, token_bytes: Vec<Box<[u8]>>, json: String) -> Self {
        let fingerprint = hexadecimal(&Sha256::digest(json.as_bytes()));
        Self { model, token_bytes, json, fingerprint, caches: Mutex::new(Vec::new()) }
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
