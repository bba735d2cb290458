//! [`tokenize`]: a stream of documents to the shards of one source.
//!
//! Three batches are under way: while one is judged and encoded on all cores, the next is read and the one before written. The
//! shards are the same whatever the number of threads, because batches are measured in bytes, judged and written in order.
//! Memory: three batches, their tokens, and what `curation` remembers.

use std::path::Path;

use rayon::prelude::*;

use super::layout::{HEADER_BYTES, TokenWidth};
use super::manifest::{Manifest, ShardEntry};
use super::writer::ShardWriter;
use crate::curation::{Count, Curation, Curator, Reason, Report, Seen, read_batch};
use crate::error::Error;
use crate::source::Document;
use crate::split::{Split, SplitRule};
use crate::tokenizer::{SpecialTokens, Tokenizer};

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
    /// Which documents are kept.
    pub curation: Curation,
}

impl ShardOptions {
    /// Shards of 100 million tokens (200 MB), of all documents.
    pub fn new(split: SplitRule, inputs: impl Into<String>) -> Self {
        Self { split, shard_tokens: 100_000_000, inputs: inputs.into(), curation: Curation::default() }
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
/// options out of range; [`Error::EmptyCorpus`] without a document, [`Error::NothingKept`] when none of them may stay;
/// [`Error::DuplicateMemory`], after which more of it goes on where this ended; [`Error::Io`] and [`Error::DiskFull`].
pub fn tokenize(
    folder: &Path,
    source: &str,
    documents: impl Iterator<Item = Result<Document, Error>> + Send,
    tokenizer: &Tokenizer,
    options: &ShardOptions,
    progress: &mut dyn FnMut(TokenizeProgress),
) -> Result<Manifest, Error> {
    let mut seen = Seen::new(options.curation.duplicates)?;
    tokenize_after(&mut seen, folder, source, documents, tokenizer, options, progress)
}

/// As [`tokenize`], where repetitions of what `seen` has seen go too; afterwards it has seen these documents, unless they were
/// done before ([`finished`]). `options.curation.earlier` names what it has seen, so that shards that were made after other
/// documents are made anew.
///
/// # Errors
/// As [`tokenize`].
pub fn tokenize_after(
    seen: &mut Seen,
    folder: &Path,
    source: &str,
    documents: impl Iterator<Item = Result<Document, Error>> + Send,
    tokenizer: &Tokenizer,
    options: &ShardOptions,
    progress: &mut dyn FnMut(TokenizeProgress),
) -> Result<Manifest, Error> {
    check(source, options)?;
    let mut curator = Curator::new(&options.curation, seen)?;
    let mut job = Job::begin(folder, source, tokenizer, options)?;
    if job.manifest.complete {
        return Ok(job.manifest);
    }
    let encoder = job.encoder(tokenizer, options.split)?;
    let mut documents = documents.fuse();
    let mut batch = read_batch(&mut documents)?;
    if batch.is_empty() {
        return Err(Error::EmptyCorpus { path: source.to_owned(), documents: 0 });
    }
    // Only now: text that cannot be read must not cost the shards that are there.
    job.discard_others()?;
    let mut encoded = Vec::new();
    while !batch.is_empty() {
        let first = curator.report().read.documents;
        let here = || Ok(encoder.encode(&batch, &curator.judge(&batch)?, first));
        let beside = || (job.write(std::mem::take(&mut encoded)), read_batch(&mut documents));
        let (judged, (written, next)) = rayon::join(here, beside);
        written?;
        // What was read before an error is kept.
        encoded = judged?;
        progress(job.progress(curator.report()));
        match next {
            Ok(next) => batch = next,
            Err(error) => {
                job.write(encoded)?;
                return Err(error);
            }
        }
    }
    job.write(encoded)?;
    progress(job.progress(curator.report()));
    job.complete(curator.report())
}

/// The manifest of what [`tokenize`] would return at once.
///
/// # Errors
/// As [`tokenize`] for options out of range.
pub fn finished(
    folder: &Path,
    source: &str,
    tokenizer: &Tokenizer,
    options: &ShardOptions,
) -> Result<Option<Manifest>, Error> {
    check(source, options)?;
    let job = Job::begin(folder, source, tokenizer, options)?;
    Ok(Some(job.manifest).filter(|manifest| manifest.complete))
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

/// A document as ids, with what its shard must know.
struct Encoded {
    split: Split,
    place: u64,
    bytes: u64,
    ids: Vec<u32>,
}

/// Makes ids of documents.
struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    special: SpecialTokens,
    split: SplitRule,
    /// Documents of either side before this place in the stream are in shards that are finished.
    done: (u64, u64),
}

impl Encoder<'_> {
    /// The documents of a batch that are kept and not yet in a shard; the first stands at `first_place` in the stream.
    fn encode(&self, batch: &[Document], kept: &[bool], first_place: u64) -> Vec<Encoded> {
        let one = |(index, document): (usize, &Document)| {
            let place = first_place + index as u64;
            if !kept[index] || place < self.done.0.min(self.done.1) {
                return None;
            }
            let split = self.split.split(&document.text);
            if place < if split == Split::Train { self.done.0 } else { self.done.1 } {
                return None;
            }
            let mut ids = Vec::with_capacity(document.text.len() / 3 + 2);
            ids.push(self.special.bos);
            self.tokenizer.encode_into(&document.text, &mut ids);
            ids.push(self.special.eos);
            let bytes = document.text.len() as u64;
            Some(Encoded { split, place, bytes, ids })
        };
        batch.par_iter().enumerate().filter_map(one).collect()
    }
}

struct Job<'a> {
    folder: &'a Path,
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
    fn begin(folder: &'a Path, source: &str, tokenizer: &Tokenizer, options: &ShardOptions) -> Result<Self, Error> {
        let mut manifest = Manifest::new(source);
        manifest.inputs.clone_from(&options.inputs);
        manifest.tokenizer = tokenizer.fingerprint();
        manifest.vocab_size = tokenizer.vocab_size();
        manifest.validation_fraction = options.split.fraction();
        manifest.split_seed = options.split.seed();
        manifest.shard_tokens = options.shard_tokens;
        manifest.rules = options.curation.rules();
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
        Ok(Self { folder, width, manifest, others, train, val })
    }

    /// Encodes what the finished shards do not hold.
    fn encoder<'t>(&self, tokenizer: &'t Tokenizer, split: SplitRule) -> Result<Encoder<'t>, Error> {
        let done = (self.train.done_before, self.val.done_before);
        Ok(Encoder { tokenizer, special: tokenizer.special()?, split, done })
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

    fn progress(&self, report: &Report) -> TokenizeProgress {
        let open = [&self.train, &self.val].into_iter().filter_map(|side| side.open.as_ref());
        TokenizeProgress {
            documents: report.read.documents,
            bytes: report.read.bytes,
            tokens: self.manifest.tokens + open.map(ShardWriter::tokens).sum::<u64>(),
            shards: self.manifest.shards.len(),
        }
    }

    fn complete(mut self, report: &Report) -> Result<Manifest, Error> {
        if report.kept.documents == 0 {
            let count = |(reason, count): (&Reason, &Count)| format!("{}: {}", count.documents, reason.name());
            let counts = report.dropped.iter().map(count).collect::<Vec<_>>().join("; ");
            return Err(Error::NothingKept { source_name: self.manifest.source, counts });
        }
        self.finish(Split::Train)?;
        self.finish(Split::Val)?;
        // Finished in the same order whether or not a run was interrupted between two shards.
        self.manifest.shards.sort_by(|a, b| a.file.cmp(&b.file));
        self.manifest.report = Some(report.clone());
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
        report: found.report.clone(),
        shards: found.shards.clone(),
        ..wanted.clone()
    };
    *found == wanted
}

fn is_there(folder: &Path, shard: &ShardEntry, width: TokenWidth) -> bool {
    let expected = HEADER_BYTES as u64 + shard.tokens * width.bytes() as u64;
    std::fs::metadata(folder.join(&shard.file)).is_ok_and(|found| found.len() == expected)
}
