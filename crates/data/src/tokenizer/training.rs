//! Learning a vocabulary: words of the stream are counted in a bounded table, then `tokenizers` merges pairs.

use ahash::AHashMap;
use compact_str::CompactString;
use rayon::prelude::*;
use serde::Deserialize;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use super::{Digits, SPECIAL_TOKENS, Tokenizer, byte_chars, file, splitter};
use crate::error::Error;

/// The smallest vocabulary: each byte and the control tokens.
pub const MIN_VOCAB_SIZE: usize = 256 + SPECIAL_TOKENS.len();

/// The largest vocabulary.
pub const MAX_VOCAB_SIZE: usize = 1 << 20;

/// The largest sample: the trainer counts pairs in 31 bits, and a text has fewer pairs than bytes.
pub const MAX_SAMPLE_BYTES: u64 = i32::MAX as u64;

/// The longest word, or piece of one, that is counted.
const MAX_WORD_BYTES: usize = 64;

/// Documents are counted in batches of this many bytes, so that the table does not depend on the number of threads.
const BATCH_BYTES: usize = 8 << 20;

type WordCounts = AHashMap<CompactString, u64>;

/// How a vocabulary is learned.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainOptions {
    /// Ids in all, the six control tokens included.
    pub vocab_size: usize,
    /// A pair that comes less often is not merged.
    pub min_frequency: u64,
    /// Bytes of text to read before the stream is left alone; at most [`MAX_SAMPLE_BYTES`].
    pub max_bytes: u64,
    /// How many digits are a word, at most.
    pub digits: Digits,
    /// Different words kept; past it the rarest are forgotten. Training takes about 1 kB of memory for each.
    pub max_words: usize,
}

impl Default for TrainOptions {
    fn default() -> Self {
        Self { vocab_size: 40_960, min_frequency: 2, max_bytes: 1 << 30, digits: Digits::default(), max_words: 1 << 20 }
    }
}

impl TrainOptions {
    /// Whether they are in range, before a stream is read for them.
    ///
    /// # Errors
    /// [`Error::VocabularySize`] and [`Error::SampleSize`].
    pub fn check(&self) -> Result<(), Error> {
        if !(MIN_VOCAB_SIZE..=MAX_VOCAB_SIZE).contains(&self.vocab_size) {
            return Err(Error::VocabularySize {
                found: self.vocab_size,
                minimum: MIN_VOCAB_SIZE,
                maximum: MAX_VOCAB_SIZE,
            });
        }
        if !(1..=MAX_SAMPLE_BYTES).contains(&self.max_bytes) {
            return Err(Error::SampleSize { found: self.max_bytes, maximum: MAX_SAMPLE_BYTES });
        }
        Ok(())
    }
}

/// How far training is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrainProgress {
    /// Documents read.
    pub documents: u64,
    /// Bytes of text read.
    pub bytes: u64,
    /// Different words in the table.
    pub words: usize,
    /// Whether all is read and pairs are being merged, which reports no steps of its own.
    pub merging: bool,
}

pub(super) fn train(
    documents: impl Iterator<Item = Result<String, Error>>,
    options: &TrainOptions,
    progress: &mut dyn FnMut(TrainProgress),
) -> Result<Tokenizer, Error> {
    options.check()?;
    let counts = count_words(documents, options, progress)?;
    let (spellings, merges) = merge_pairs(&counts, options)?;
    let reached = spellings.len() + SPECIAL_TOKENS.len();
    if reached < options.vocab_size {
        return Err(Error::VocabularyShort { requested: options.vocab_size, reached });
    }
    file::assemble(&spellings, &merges, options.digits, "trained tokenizer")
}

fn count_words(
    documents: impl Iterator<Item = Result<String, Error>>,
    options: &TrainOptions,
    progress: &mut dyn FnMut(TrainProgress),
) -> Result<WordCounts, Error> {
    let mut counts = WordCounts::new();
    let mut state = TrainProgress { documents: 0, bytes: 0, words: 0, merging: false };
    let mut batch: Vec<String> = Vec::new();
    let mut batch_bytes = 0;
    let mut documents = documents.fuse();
    loop {
        let left = options.max_bytes - state.bytes;
        let document = if left == 0 { None } else { documents.next().transpose()? };
        let ended = document.is_none();
        if let Some(mut document) = document {
            truncate(&mut document, left);
            // A limit in the middle of a character leaves nothing to take: the stream ends here.
            state.bytes = if document.is_empty() && left < 4 { options.max_bytes } else { state.bytes };
            state.bytes += document.len() as u64;
            state.documents += 1;
            batch_bytes += document.len();
            batch.push(document);
        }
        if batch_bytes >= BATCH_BYTES || ended {
            for (word, count) in count_batch(&batch, options.digits) {
                *counts.entry(word).or_default() += count;
            }
            forget_rarest(&mut counts, options.max_words);
            batch.clear();
            batch_bytes = 0;
            state.words = counts.len();
            state.merging = ended;
            progress(state);
        }
        if ended {
            break;
        }
    }
    if counts.is_empty() {
        return Err(Error::EmptyCorpus { path: "tokenizer training".to_owned(), documents: state.documents });
    }
    Ok(counts)
}

fn truncate(document: &mut String, left: u64) {
    if document.len() as u64 > left {
        let end = (0..=left as usize).rev().find(|&end| document.is_char_boundary(end));
        document.truncate(end.unwrap_or(0));
    }
}

fn count_batch(documents: &[String], digits: Digits) -> WordCounts {
    let one_by_one = |mut counts: WordCounts, document: &String| {
        for word in splitter::words(digits, document).flat_map(|word| pieces(&document[word])) {
            match counts.get_mut(word) {
                Some(count) => *count += 1,
                None => drop(counts.insert(CompactString::from(word), 1)),
            }
        }
        counts
    };
    documents.par_iter().fold(WordCounts::new, one_by_one).reduce(WordCounts::new, |a, b| {
        let (mut large, small) = if a.len() >= b.len() { (a, b) } else { (b, a) };
        for (word, count) in small {
            *large.entry(word).or_default() += count;
        }
        large
    })
}

/// What is counted of a word: all of most. Where a script has no spaces a word is a whole clause, and is counted in pieces; other long
/// words (lines of dashes, encoded files) teach no merge worth having.
fn pieces(word: &str) -> impl Iterator<Item = &str> {
    let clause = !word.is_ascii() && word.ends_with(char::is_alphabetic);
    let mut left = if word.len() <= MAX_WORD_BYTES || clause { word } else { "" };
    std::iter::from_fn(move || {
        let end = (0..=left.len().min(MAX_WORD_BYTES)).rev().find(|&end| left.is_char_boundary(end))?;
        let (piece, rest) = left.split_at(end);
        left = rest;
        (!piece.is_empty()).then_some(piece)
    })
}

/// Drops the words with the lowest counts until three quarters of `max_words` are left. All words with one count
/// go together: which ones stay does not depend on the order of the table.
fn forget_rarest(counts: &mut WordCounts, max_words: usize) {
    if counts.len() <= max_words {
        return;
    }
    let mut sorted: Vec<u64> = counts.values().copied().collect();
    sorted.sort_unstable();
    let threshold = sorted[sorted.len() - 1 - (max_words * 3 / 4).min(sorted.len() - 1)];
    counts.retain(|_, count| *count > threshold);
}

/// The vocabulary after the control tokens, and the merges by priority.
type Learned = (Vec<String>, Vec<(String, String)>);

fn merge_pairs(counts: &WordCounts, options: &TrainOptions) -> Result<Learned, Error> {
    let spelled: WordCounts = counts
        .iter()
        .map(|(word, &count)| {
            let mut spelling = String::with_capacity(word.len() * 2);
            byte_chars::spell(word.as_bytes(), &mut spelling);
            (CompactString::from(spelling), count)
        })
        .collect();
    // The control tokens are left out: a merge whose letters spell one would otherwise be given its id.
    let trainer = BpeTrainer::builder()
        .show_progress(false)
        .vocab_size(options.vocab_size - SPECIAL_TOKENS.len())
        .min_frequency(options.min_frequency)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let fault = |message: String| Error::TokenizerFormat { path: "trained tokenizer".to_owned(), message };
    let mut model = BPE::default();
    trainer.do_train(&spelled, &mut model).map_err(|e| fault(e.to_string()))?;

    #[derive(Deserialize)]
    struct Trained {
        vocab: std::collections::HashMap<String, usize>,
        merges: Vec<(String, String)>,
    }
    let trained = serde_json::to_value(&model).and_then(serde_json::from_value::<Trained>);
    let trained = trained.map_err(|e| fault(e.to_string()))?;
    let mut spellings: Vec<(usize, String)> = trained.vocab.into_iter().map(|(spelling, id)| (id, spelling)).collect();
    spellings.sort_unstable();
    Ok((spellings.into_iter().map(|(_, spelling)| spelling).collect(), trained.merges))
}
