//! [`PretrainLoader`]: rows of one or more sources, by weight, each source shuffled anew every epoch.

use super::permutation::permute;
use super::schedule::Schedule;
use crate::batch::Batch;
use crate::error::Error;
use crate::seeded::SplitMix64;
use crate::shards::ShardSet;

/// One source of a mix.
#[derive(Debug)]
pub struct WeightedSource {
    /// Its tokens.
    pub shards: ShardSet,
    /// Its share of rows, relative to the other sources.
    pub weight: f64,
}

/// How much of a source has been seen.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceProgress {
    /// Name of the source.
    pub source: String,
    /// Rows taken from it.
    pub rows: u64,
    /// Passes over it: 1.5 is one whole pass and half of the next.
    pub epochs: f64,
}

/// Rows without end, each a function of its number.
#[derive(Debug)]
pub struct PretrainLoader {
    sources: Vec<WeightedSource>,
    schedule: Schedule,
    context: usize,
    seed: u64,
}

impl PretrainLoader {
    /// A mix of sources in rows of `context` positions.
    ///
    /// # Errors
    /// [`Error::LoaderSetting`] without a source, with a context of 0 or a weight that is not positive and finite;
    /// [`Error::SourceTooShort`] when a source has not one row.
    pub fn new(sources: Vec<WeightedSource>, context: usize, seed: u64) -> Result<Self, Error> {
        let wrong = |field: &'static str, found: String, expected: &'static str| {
            Err(Error::LoaderSetting { field, found, expected })
        };
        if sources.is_empty() {
            return wrong("sources", "empty".to_owned(), "at least one source");
        }
        if context == 0 {
            return wrong("context", "0".to_owned(), "at least 1");
        }
        for source in &sources {
            if !source.weight.is_finite() || source.weight <= 0.0 {
                return wrong("weight", source.weight.to_string(), "positive and finite");
            }
            if windows(&source.shards, context) == 0 {
                return Err(Error::SourceTooShort {
                    source_name: source.shards.source().to_owned(),
                    split: source.shards.split().name(),
                    tokens: source.shards.tokens(),
                    needed: context as u64 + 1,
                });
            }
        }
        let weights: Vec<f64> = sources.iter().map(|source| source.weight).collect();
        Ok(Self { schedule: Schedule::new(&weights), sources, context, seed })
    }

    /// Positions in a row.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Row number `sample`: `context + 1` ids. The last is only a target; the next window of the source begins with it.
    ///
    /// # Errors
    /// [`Error::ShardToken`] when a shard holds an id outside the vocabulary.
    pub fn row(&self, sample: u64) -> Result<Vec<u32>, Error> {
        let (index, number) = self.schedule.place(sample);
        let shards = &self.sources[index].shards;
        let count = windows(shards, self.context);
        let (epoch, place) = (number / count, number % count);
        let key = SplitMix64::new(self.seed, index as u64).next_u64() ^ epoch;
        let window = permute(place, count, SplitMix64::new(key, 0).next_u64());
        // The tokens that fill no window lie now before, now after the windows: each epoch cuts at other places.
        let context = self.context as u64;
        let slack = shards.tokens() - 1 - count * context;
        let offset = SplitMix64::new(key, 1).next_u64() % (slack + 1);
        let mut row = Vec::with_capacity(self.context + 1);
        shards.read(offset + window * context, context + 1, &mut row)?;
        Ok(row)
    }

    /// Rows `first_sample..first_sample + rows` as one batch.
    ///
    /// # Errors
    /// As [`PretrainLoader::row`]; [`Error::BatchShape`] when the batch has more than 2^32 positions.
    pub fn batch(&self, first_sample: u64, rows: usize) -> Result<Batch, Error> {
        let rows: Result<Vec<_>, Error> = (0..rows as u64).map(|row| self.row(first_sample + row)).collect();
        Batch::from_rows(rows?.iter().map(Vec::as_slice))
    }

    /// Tokens of all sources.
    pub fn tokens(&self) -> u64 {
        self.sources.iter().map(|source| source.shards.tokens()).sum()
    }

    /// What the first `samples` rows have taken from each source.
    pub fn progress(&self, samples: u64) -> Vec<SourceProgress> {
        let counts = self.schedule.counts(samples);
        let of_source = |(source, rows): (&WeightedSource, u64)| SourceProgress {
            source: source.shards.source().to_owned(),
            rows,
            epochs: rows as f64 / windows(&source.shards, self.context) as f64,
        };
        self.sources.iter().zip(counts).map(of_source).collect()
    }
}

/// Rows in one pass over a source: inputs never overlap, a row's last target is the next row's first input.
pub(super) fn windows(shards: &ShardSet, context: usize) -> u64 {
    shards.tokens().saturating_sub(1) / context as u64
}
