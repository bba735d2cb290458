//! [`WordCache`]: the ids of words already seen. A text repeats its words; merging each once is most of the speed.

use ahash::AHashMap;
use tokenizers::Model;
use tokenizers::models::bpe::BPE;

use super::byte_chars::spell;

/// Words kept: about 8 MB for each thread that encodes.
const MAX_WORDS: usize = 1 << 16;

/// Longer words hardly come twice.
const MAX_WORD_BYTES: usize = 48;

/// Ids by word, for one tokenizer. Results do not depend on what is kept.
#[derive(Default)]
pub(super) struct WordCache {
    /// Word to its place in `ids`.
    places: AHashMap<Box<str>, (u32, u32)>,
    ids: Vec<u32>,
    spelling: String,
}

impl WordCache {
    /// Appends the ids of one word.
    pub(super) fn encode_word(&mut self, model: &BPE, word: &str, out: &mut Vec<u32>) {
        if let Some(&(from, to)) = self.places.get(word) {
            out.extend_from_slice(&self.ids[from as usize..to as usize]);
            return;
        }
        self.spelling.clear();
        spell(word.as_bytes(), &mut self.spelling);
        // The model fails only for characters outside its vocabulary, and `file` admits none without all 256 bytes.
        let tokens = model.tokenize(&self.spelling).unwrap_or_default();
        let first = out.len();
        out.extend(tokens.iter().map(|token| token.id));
        if word.len() <= MAX_WORD_BYTES && self.places.len() < MAX_WORDS {
            let from = self.ids.len() as u32;
            self.ids.extend_from_slice(&out[first..]);
            self.places.insert(word.into(), (from, self.ids.len() as u32));
        }
    }
}
