//! Curation: which documents of a stream are worth learning from.
//!
//! In this order: what is asked of each by itself (`filter`: language, score, length); whether it was there before, the same
//! or nearly (`duplicates`, on request); whether it holds a piece of an examination (`eval_sets`, on request). Called by
//! `shards` with batches of documents. Hashes, sketches and runs of words come from all cores; decisions are made one after
//! the other in the order of the stream, so that they do not depend on threads or batches. All state is a function of
//! the stream so far: a run that is taken up reads the documents before again and comes to the same state, which costs
//! their hashes and no tokens. Memory: evaluation sets, and a fixed number of bytes for each document that stays (see
//! [`EXACT_BYTES`] and [`NEAR_BYTES`]), refused past a limit. [`Seen`] goes from one stream to the next where repetitions are
//! told across several.

mod duplicates;
mod eval_sets;
mod filter;
mod sketch;
mod table;
mod words;

use std::collections::BTreeMap;
use std::sync::Arc;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use crate::error::Error;
use crate::source::Document;
use duplicates::{ExactIndex, NearIndex};
use sketch::Sketch;

pub use duplicates::{EXACT_BYTES, NEAR_BYTES};
pub use eval_sets::{EvalSet, EvalSets, RUN_WORDS};
pub use filter::Filter;

/// Text that is judged at once.
const BATCH_BYTES: usize = 4 << 20;

/// Least similarity that may be asked: the bands find less and less below it.
pub const LEAST_SIMILARITY: f64 = 0.7;

/// Why a document went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Not one of the languages, or none said.
    Language,
    /// A score below the least, or none.
    Score,
    /// Too few characters.
    TooShort,
    /// Too many characters.
    TooLong,
    /// But for white space the same as an earlier one.
    ExactDuplicate,
    /// Nearly an earlier one.
    NearDuplicate,
    /// It shares 13 words in a row with an evaluation set.
    Contaminated,
}

impl Reason {
    /// As reports say it.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Language => "other language",
            Reason::Score => "low score",
            Reason::TooShort => "too short",
            Reason::TooLong => "too long",
            Reason::ExactDuplicate => "exact duplicate",
            Reason::NearDuplicate => "near duplicate",
            Reason::Contaminated => "in an evaluation set",
        }
    }
}

/// Which repetitions go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Duplicates {
    /// None.
    #[default]
    Kept,
    /// Those that are the same but for white space.
    Exact,
    /// Those and whatever has this Jaccard similarity, of runs of five words, to a document that stayed; from
    /// [`LEAST_SIMILARITY`] to 1.
    Near(f64),
}

/// What decides which documents stay, as a manifest keeps it: other rules, other shards.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Rules {
    /// Of each by itself.
    #[serde(default)]
    pub filter: Filter,
    /// Repetitions.
    #[serde(default)]
    pub duplicates: Duplicates,
    /// Fingerprint of the evaluation sets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval_sets: Option<String>,
    /// Fingerprint of the streams before, whose documents are not to come again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub earlier: Option<String>,
}

impl Rules {
    /// Whether every document stays.
    pub fn are_none(&self) -> bool {
        *self == Self::default()
    }
}

/// What is asked of documents. The default keeps them all.
#[derive(Debug, Clone, PartialEq)]
pub struct Curation {
    /// Of each by itself.
    pub filter: Filter,
    /// Repetitions.
    pub duplicates: Duplicates,
    /// Most bytes for remembering documents. It decides nothing but whether that is possible.
    pub memory: u64,
    /// What must not be in them.
    pub eval_sets: Option<Arc<EvalSets>>,
    /// Names the streams that [`Seen`] has seen before this one, by what they are made from and their rules.
    pub earlier: Option<String>,
}

impl Default for Curation {
    fn default() -> Self {
        Self {
            filter: Filter::default(),
            duplicates: Duplicates::Kept,
            memory: 4 << 30,
            eval_sets: None,
            earlier: None,
        }
    }
}

impl Curation {
    /// What of it decides.
    pub fn rules(&self) -> Rules {
        let eval_sets = self.eval_sets.as_ref().map(|sets| sets.fingerprint().to_owned());
        Rules { filter: self.filter.clone(), duplicates: self.duplicates, eval_sets, earlier: self.earlier.clone() }
    }
}

/// Documents and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Documents.
    pub documents: u64,
    /// Bytes of their text.
    pub bytes: u64,
}

impl Count {
    fn add(&mut self, document: &Document) {
        self.documents += 1;
        self.bytes += document.text.len() as u64;
    }
}

/// What came of a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// What came in.
    pub read: Count,
    /// What went, by the first reason.
    pub dropped: BTreeMap<Reason, Count>,
    /// What stayed.
    pub kept: Count,
    /// Evaluation sets by name. A document may be counted at several.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub eval_sets: BTreeMap<String, EvalSet>,
}

/// The documents that stayed so far, by which repetitions are told: of one stream, or of several one after the other.
pub struct Seen {
    duplicates: Duplicates,
    exact: ExactIndex,
    near: NearIndex,
    documents: u64,
}

impl Seen {
    /// None yet.
    ///
    /// # Errors
    /// [`Error::LoaderSetting`] for a similarity that cannot be asked.
    pub fn new(duplicates: Duplicates) -> Result<Self, Error> {
        let threshold = match duplicates {
            Duplicates::Near(threshold) => threshold,
            Duplicates::Kept | Duplicates::Exact => 1.0,
        };
        if !(LEAST_SIMILARITY..=1.0).contains(&threshold) {
            return Err(Error::LoaderSetting {
                field: "the similarity of near duplicates",
                found: threshold.to_string(),
                expected: "from 0.7 to 1",
            });
        }
        Ok(Self { duplicates, exact: ExactIndex::new(), near: NearIndex::new(threshold), documents: 0 })
    }

    /// Sees those of a stream that stay, as its shards were made before.
    ///
    /// # Errors
    /// The first of the stream; [`Error::LoaderSetting`]; [`Error::DuplicateMemory`].
    pub fn see(
        &mut self,
        documents: impl Iterator<Item = Result<Document, Error>>,
        curation: &Curation,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), Error> {
        let mut curator = Curator::new(curation, self)?;
        let mut documents = documents.fuse();
        loop {
            let batch = read_batch(&mut documents)?;
            if batch.is_empty() {
                return Ok(());
            }
            curator.judge(&batch)?;
            progress(curator.report().read.bytes);
        }
    }
}

/// At least one document unless the stream is at its end, and of so many bytes as are judged at once.
pub(crate) fn read_batch(
    documents: &mut impl Iterator<Item = Result<Document, Error>>,
) -> Result<Vec<Document>, Error> {
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

/// Decides on the documents of one stream.
pub(crate) struct Curator<'a> {
    curation: Curation,
    seen: &'a mut Seen,
    report: Report,
}

/// What is to be known of a document before it is decided on.
enum Looked {
    Dropped(Reason),
    At { hash: u128, sketch: Option<Sketch>, met: Vec<u32> },
}

impl<'a> Curator<'a> {
    /// `seen` tells repetitions in the way of `curation`.
    ///
    /// # Errors
    /// [`Error::LoaderSetting`] for what cannot be asked.
    pub(crate) fn new(curation: &Curation, seen: &'a mut Seen) -> Result<Self, Error> {
        curation.filter.check()?;
        if seen.duplicates != curation.duplicates {
            return Err(Error::LoaderSetting {
                field: "which repetitions are dropped",
                found: format!("{:?}", curation.duplicates),
                expected: "the same in all streams of which they are told together",
            });
        }
        let eval_sets = curation.eval_sets.as_ref().map(|sets| sets.table()).unwrap_or_default();
        Ok(Self { curation: curation.clone(), seen, report: Report { eval_sets, ..Report::default() } })
    }

    /// Which documents of a batch stay; batches come in the order of the stream.
    ///
    /// # Errors
    /// [`Error::DuplicateMemory`].
    pub(crate) fn judge(&mut self, batch: &[Document]) -> Result<Vec<bool>, Error> {
        if self.curation.rules().are_none() {
            for document in batch {
                self.report.read.add(document);
                self.report.kept.add(document);
            }
            return Ok(vec![true; batch.len()]);
        }
        let curation = &self.curation;
        let looked: Vec<Looked> = batch.par_iter().map_init(Scratch::default, |s, d| s.look(curation, d)).collect();
        let mut kept = Vec::with_capacity(batch.len());
        for (document, looked) in batch.iter().zip(&looked) {
            let reason = self.reason_against(looked)?;
            self.report.read.add(document);
            match reason {
                Some(reason) => self.report.dropped.entry(reason).or_default().add(document),
                None => self.report.kept.add(document),
            }
            kept.push(reason.is_none());
        }
        Ok(kept)
    }

    /// What came of the documents so far.
    pub(crate) fn report(&self) -> &Report {
        &self.report
    }

    fn reason_against(&mut self, looked: &Looked) -> Result<Option<Reason>, Error> {
        let (hash, sketch, met) = match looked {
            Looked::Dropped(reason) => return Ok(Some(*reason)),
            Looked::At { hash, sketch, met } => (*hash, sketch, met),
        };
        if self.curation.duplicates != Duplicates::Kept {
            if self.seen.exact.has(hash) {
                return Ok(Some(Reason::ExactDuplicate));
            }
            if sketch.as_ref().is_some_and(|sketch| self.seen.near.has_like(sketch)) {
                return Ok(Some(Reason::NearDuplicate));
            }
        }
        if let (Some(sets), false) = (&self.curation.eval_sets, met.is_empty()) {
            for set in met {
                if let Some(set) = self.report.eval_sets.get_mut(sets.name(*set)) {
                    set.documents += 1;
                }
            }
            return Ok(Some(Reason::Contaminated));
        }
        // Only now: what resembles a document that goes would go with it, and nothing of the kind would stay.
        if self.curation.duplicates != Duplicates::Kept {
            self.remember(hash, sketch.as_ref())?;
        }
        Ok(None)
    }

    fn remember(&mut self, hash: u128, sketch: Option<&Sketch>) -> Result<(), Error> {
        let seen = &mut *self.seen;
        let near = if sketch.is_some() { seen.near.bytes_with_another() } else { 0 };
        if seen.exact.bytes_with_another() + near > self.curation.memory || seen.near.is_full() {
            let is_near = matches!(self.curation.duplicates, Duplicates::Near(_));
            return Err(Error::DuplicateMemory {
                documents: seen.documents,
                limit: self.curation.memory,
                bytes_each: if is_near { NEAR_BYTES } else { EXACT_BYTES },
            });
        }
        seen.documents += 1;
        seen.exact.add(hash);
        if let Some(sketch) = sketch {
            seen.near.add(sketch);
        }
        Ok(())
    }
}

/// Buffers of one thread.
#[derive(Default)]
struct Scratch {
    text: Vec<u8>,
    words: Vec<u64>,
    shingles: Vec<u64>,
}

impl Scratch {
    fn look(&mut self, curation: &Curation, document: &Document) -> Looked {
        if let Some(reason) = curation.filter.reason_against(document) {
            return Looked::Dropped(reason);
        }
        let near = matches!(curation.duplicates, Duplicates::Near(_));
        let hash = if curation.duplicates == Duplicates::Kept { 0 } else { self.hash(&document.text) };
        if near || curation.eval_sets.is_some() {
            words::hash_words(&document.text, &mut self.words);
        }
        let sketch = if near { sketch::sketch(&self.words, &mut self.shingles) } else { None };
        let met = curation.eval_sets.as_ref().map(|sets| sets.met_by(&self.words)).unwrap_or_default();
        Looked::At { hash, sketch, met }
    }

    /// Of the text with each run of white space made one space, and none at the ends.
    fn hash(&mut self, text: &str) -> u128 {
        self.text.clear();
        for piece in text.split_whitespace() {
            self.text.extend_from_slice(piece.as_bytes());
            self.text.push(b' ');
        }
        xxh3_128(&self.text)
    }
}

#[cfg(test)]
mod tests;
