//! [`tokenize`]: a stream of documents to the shards of one source.
//!
//! One batch of documents is encoded on all cores while the next is read. The shards are the same whatever the number
//! of threads, because batches are measured in bytes and written in order. Memory: two batches and their tokens.

use std::path::Path;

use rayon::prelude::*;

use super::layout::{HEADER_BYTES, TokenWidth};
use super::manifest::{Manifest, ShardEntry};
use super::writer::ShardWriter;
use crate::error::Error;
use crate::source::Document;
use crate::split::{Split, SplitRule};
use crate::tokenizer::{SpecialTokens, Tokenizer};

const BATCH_BYTES: usize = 4 << 20;

/// Most tokens that may be asked of a shard: with the longest document still below the header's 2^31.
const MAX_SHARD_TOKENS: u64 = 1 << 30;

/// How shards are made.
#[derive(Debug, Clone, PartialEq)]
pub struct ShardOptions {
    /// Which documents are held out.
    pub split: SplitRule,
    /// A shard is closed at the end of the document that brings it to this many tokens.
    pub shard_tokens: u64,
    /// What the documents are made from (names and sizes of files, say). Shards of other inputs are made anew.
    pub inputs: String,
}

impl ShardOptions {
    /// Shards of 100 million tokens (200 MB).
    pub fn new(split: SplitRule, inputs: impl Into<String>) -> Self {
        Self { split, shard_tokens: 100_000_000, inputs: inputs.into() }
    }
}

/// How far a source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TokenizeProgress {
    /// Documents read.
    pub documents: u64,
    /// Bytes of text read.
    pub bytes: u64,
    /// Tokens written, those of an earlier run included.
    pub tokens: u64,
    /// Shards finished, those of an earlier run included.
    pub shards: usize,
}

/// Writes the shards of `source` into `folder` and returns their manifest.
///
/// Done before with the same tokenizer, options and inputs, it returns at once; interrupted, it goes on after the
/// last finished shard of each split; with anything different, it begins anew, once the first text has been read: text that
/// cannot be read leaves what is there. The result is the same in all cases.
///
/// # Errors
/// The first error of `documents` (finished shards stay and count); [`Error::SourceName`], [`Error::LoaderSetting`] for
/// options out of range; [`Error::EmptyCorpus`] without a document; [`Error::Io`] and [`Error::DiskFull`].
pub fn tokenize(
    folder: &Path,
    source: &str,
    documents: impl Iterator<Item = Result<Document, Error>> + Send,
    tokenizer: &Tokenizer,
    options: &ShardOptions,
    progress: &mut dyn FnMut(TokenizeProgress),
) -> Result<Manifest, Error> {
    check(source, options)?;
    let mut job = Job::begin(folder, source, tokenizer, options)?;
    if job.manifest.complete {
        return Ok(job.manifest);
    }
    let mut documents = documents.fuse();
    let mut state = TokenizeProgress::default();
    let mut batch = read_batch(&mut documents)?;
    if batch.is_empty() {
        return Err(Error::EmptyCorpus { path: source.to_owned(), documents: 0 });
    }
    // Only now: text that cannot be read must not cost the shards that are there.
    job.discard_others()?;
    while !batch.is_empty() {
        let (encoded, next) = rayon::join(|| job.encode(&batch, state.documents), || read_batch(&mut documents));
        for document in &batch {
            state.documents += 1;
            state.bytes += document.text.len() as u64;
        }
        job.write(encoded)?;
        state.tokens = job.tokens();
        state.shards = job.manifest.shards.len();
        progress(state);
        batch = next?;
    }
    job.complete()
}

fn check(source: &str, options: &ShardOptions) -> Result<(), Error> {
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    if source.is_empty() || source.starts_with('.') || !source.chars().all(plain) {
        return Err(Error::SourceName {
            name: source.to_owned(),
            message: "must be letters, digits, `-`, `_` and `.`, and not start with a dot",
        });
    }
    if !(1..=MAX_SHARD_TOKENS).contains(&options.shard_tokens) {
        return Err(Error::LoaderSetting {
            field: "shard_tokens",
            found: options.shard_tokens.to_string(),
            expected: "at least 1 and at most 2^30",
        });
    }
    Ok(())
}

/// At least one document unless the stream is at its end, and no more than fit the batch.
fn read_batch(documents: &mut impl Iterator<Item = Result<Document, Error>>) -> Result<Vec<Document>, Error> {
    let mut batch = Vec::new();
    let mut bytes = 0;
    while bytes < BATCH_BYTES {
        let Some(document) = documents.next().transpose()? else {
            break;
        };
        bytes += document.text.len();
        batch.push(document);
    }
    Ok(batch)
}

/// A document as ids, with what its shard must know.
struct Encoded {
    split: Split,
    place: u64,
    bytes: u64,
    ids: Vec<u32>,
}

struct Job<'a> {
    folder: &'a Path,
    tokenizer: &'a Tokenizer,
    special: SpecialTokens,
    split: SplitRule,
    width: TokenWidth,
    manifest: Manifest,
    /// What the folder holds of another job, or of this one with shards that are not whole.
    others: Option<Manifest>,
    train: Side,
    val: Side,
}

/// One split: the shard being written, and where the finished ones end in the stream.
#[derive(Default)]
struct Side {
    open: Option<ShardWriter>,
    finished: usize,
    done_before: u64,
}

impl<'a> Job<'a> {
    fn begin(folder: &'a Path, source: &str, tokenizer: &'a Tokenizer, options: &ShardOptions) -> Result<Self, Error> {
        let special = tokenizer.special()?;
        let mut manifest = Manifest::new(source);
        manifest.inputs.clone_from(&options.inputs);
        manifest.tokenizer = tokenizer.fingerprint();
        manifest.vocab_size = tokenizer.vocab_size();
        manifest.validation_fraction = options.split.fraction();
        manifest.split_seed = options.split.seed();
        manifest.shard_tokens = options.shard_tokens;
        let width = TokenWidth::of(manifest.vocab_size);
        let mut others = None;
        // A manifest that cannot be read is one of a run that must be done again.
        if let Ok(found) = Manifest::load(folder) {
            if same_job(&found, &manifest) && found.shards.iter().all(|s| is_there(folder, s, width)) {
                manifest = found;
            } else {
                others = Some(found);
            }
        }
        let side = |split: Split| Side {
            open: None,
            finished: manifest.of_split(split).count(),
            done_before: manifest.of_split(split).last().map_or(0, |shard| shard.next_document),
        };
        let (train, val) = (side(Split::Train), side(Split::Val));
        Ok(Self { folder, tokenizer, special, split: options.split, width, manifest, others, train, val })
    }

    /// Makes room for the shards of this job.
    fn discard_others(&mut self) -> Result<(), Error> {
        let Some(others) = self.others.take() else { return Ok(()) };
        for shard in &others.shards {
            // Gone already or not, no manifest will name it.
            let _ = std::fs::remove_file(self.folder.join(&shard.file));
        }
        self.manifest.save(self.folder)
    }

    fn encode(&self, batch: &[Document], first_place: u64) -> Vec<Encoded> {
        let special = self.special;
        let one = |(index, document): (usize, &Document)| {
            let place = first_place + index as u64;
            let split = self.split.split(&document.text);
            let side = if split == Split::Train { &self.train } else { &self.val };
            if place < side.done_before {
                return None;
            }
            let mut ids = Vec::with_capacity(document.text.len() / 3 + 2);
            ids.push(special.bos);
            self.tokenizer.encode_into(&document.text, &mut ids);
            ids.push(special.eos);
            let bytes = document.text.len() as u64;
            Some(Encoded { split, place, bytes, ids })
        };
        batch.par_iter().enumerate().filter_map(one).collect()
    }

    fn write(&mut self, documents: Vec<Encoded>) -> Result<(), Error> {
        for document in documents {
            let side = if document.split == Split::Train { &mut self.train } else { &mut self.val };
            let shard = match &mut side.open {
                Some(shard) => shard,
                closed => closed.insert(ShardWriter::create(self.folder, document.split, side.finished, self.width)?),
            };
            shard.push(&document.ids, document.bytes, document.place)?;
            if shard.tokens() >= self.manifest.shard_tokens {
                self.finish(document.split)?;
            }
        }
        Ok(())
    }

    fn finish(&mut self, split: Split) -> Result<(), Error> {
        let side = if split == Split::Train { &mut self.train } else { &mut self.val };
        let Some(shard) = side.open.take() else {
            return Ok(());
        };
        let entry = shard.finish()?;
        side.finished += 1;
        self.manifest.documents += entry.documents;
        self.manifest.tokens += entry.tokens;
        self.manifest.shards.push(entry);
        self.manifest.save(self.folder)
    }

    fn tokens(&self) -> u64 {
        let open = [&self.train, &self.val].into_iter().filter_map(|side| side.open.as_ref());
        self.manifest.tokens + open.map(ShardWriter::tokens).sum::<u64>()
    }

    fn complete(mut self) -> Result<Manifest, Error> {
        self.finish(Split::Train)?;
        self.finish(Split::Val)?;
        // Finished in the same order whether or not a run was interrupted between two shards.
        self.manifest.shards.sort_by(|a, b| a.file.cmp(&b.file));
        self.manifest.complete = true;
        self.manifest.save(self.folder)?;
        Ok(self.manifest)
    }
}

fn same_job(found: &Manifest, wanted: &Manifest) -> bool {
    let wanted = Manifest {
        complete: found.complete,
        documents: found.documents,
        tokens: found.tokens,
        shards: found.shards.clone(),
        ..wanted.clone()
    };
    *found == wanted
}

fn is_there(folder: &Path, shard: &ShardEntry, width: TokenWidth) -> bool {
    let expected = HEADER_BYTES as u64 + shard.tokens * width.bytes() as u64;
    std::fs::metadata(folder.join(&shard.file)).is_ok_and(|found| found.len() == expected)
}
