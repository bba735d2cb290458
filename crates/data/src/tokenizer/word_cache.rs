//! [`WordCache`]: the ids of words already seen. A text repeats its words; merging each once is most of the speed.

use ahash::RandomState;
use tokenizers::Model;
use tokenizers::models::bpe::BPE;

use super::byte_chars::spell;

/// Sets of two words: 8 MB for each thread that encodes.
const SETS: usize = 1 << 16;

/// Longer words hardly come twice.
const MAX_WORD_BYTES: usize = 26;
const MAX_IDS: usize = 9;

/// A word with its ids, in one line of the processor's cache. Free: of length 0.
#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct Entry {
    ids: [u32; MAX_IDS],
    count: u8,
    length: u8,
    word: [u8; MAX_WORD_BYTES],
}

impl Entry {
    fn ids_of(&self, word: &[u8]) -> Option<&[u32]> {
        let held = &self.word[..usize::from(self.length)];
        (held == word).then(|| &self.ids[..usize::from(self.count)])
    }
}

/// Ids by word, for one tokenizer: of the words with one hash the two that came last. Results do not depend on what is kept.
pub(super) struct WordCache {
    sets: Vec<[Entry; 2]>,
    hasher: RandomState,
    spelling: String,
}

impl Default for WordCache {
    fn default() -> Self {
        Self {
            sets: vec![Default::default(); SETS],
            hasher: RandomState::with_seeds(1, 2, 3, 4),
            spelling: String::new(),
        }
    }
}

impl WordCache {
    /// Appends the ids of one word, which has a byte or more.
    pub(super) fn encode_word(&mut self, model: &BPE, word: &str, out: &mut Vec<u32>) {
        let bytes = word.as_bytes();
        if bytes.len() > MAX_WORD_BYTES {
            self.merge(model, word, out);
            return;
        }
        let set = self.hasher.hash_one(bytes) as usize % SETS;
        if let Some(ids) = self.sets[set][0].ids_of(bytes) {
            out.extend_from_slice(ids);
            return;
        }
        if let Some(ids) = self.sets[set][1].ids_of(bytes) {
            out.extend_from_slice(ids);
            self.sets[set].swap(0, 1);
            return;
        }
        let first = out.len();
        self.merge(model, word, out);
        let ids = &out[first..];
        if ids.len() <= MAX_IDS {
            let mut entry = Entry { count: ids.len() as u8, length: bytes.len() as u8, ..Entry::default() };
            entry.ids[..ids.len()].copy_from_slice(ids);
            entry.word[..bytes.len()].copy_from_slice(bytes);
            self.sets[set] = [entry, self.sets[set][0]];
        }
    }

    fn merge(&mut self, model: &BPE, word: &str, out: &mut Vec<u32>) {
        self.spelling.clear();
        spell(word.as_bytes(), &mut self.spelling);
        // The model fails only for characters outside its vocabulary, and `file` admits none without all 256 bytes.
        out.extend(model.tokenize(&self.spelling).unwrap_or_default().iter().map(|token| token.id));
    }
}
