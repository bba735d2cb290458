//! [`ValidationLoader`]: the same rows at every evaluation, with the bytes of text that they predict.

use super::pretrain::windows;
use crate::batch::Batch;
use crate::error::Error;
use crate::shards::ShardSet;
use crate::tokenizer::Tokenizer;

/// The fixed rows of one source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidationSource {
    /// Name of the source.
    pub source: String,
    /// Rows.
    pub rows: u64,
    /// Targets in the rows: `rows * context`.
    pub tokens: u64,
    /// Bytes of text of all targets, control tokens counting 0. Bits per byte is the summed loss of the targets in nats
    /// / (ln 2 * bytes), whatever the tokenizer.
    pub bytes: u64,
}

/// The first rows of the held-out side of each source.
#[derive(Debug)]
pub struct ValidationLoader {
    sets: Vec<ShardSet>,
    sources: Vec<ValidationSource>,
    context: usize,
}

impl ValidationLoader {
    /// At most `max_rows` rows of `context` positions from the start of each set.
    ///
    /// # Errors
    /// [`Error::LoaderSetting`] with a context or `max_rows` of 0; [`Error::SourceTooShort`] when a set has not one row;
    /// [`Error::ShardToken`].
    pub fn new(sets: Vec<ShardSet>, context: usize, max_rows: u64, tokenizer: &Tokenizer) -> Result<Self, Error> {
        for (field, value) in [("context", context as u64), ("validation rows", max_rows)] {
            if value == 0 {
                return Err(Error::LoaderSetting { field, found: "0".to_owned(), expected: "at least 1" });
            }
        }
        let byte_lengths = tokenizer.byte_lengths();
        let mut sources = Vec::with_capacity(sets.len());
        for set in &sets {
            let rows = windows(set, context).min(max_rows);
            if rows == 0 {
                return Err(Error::SourceTooShort {
                    source_name: set.source().to_owned(),
                    split: set.split().name(),
                    tokens: set.tokens(),
                    needed: context as u64 + 1,
                });
            }
            let mut bytes = 0;
            let mut row_tokens = Vec::with_capacity(context);
            for row in 0..rows {
                row_tokens.clear();
                set.read(row * context as u64 + 1, context as u64, &mut row_tokens)?;
                let of = |&id: &u32| byte_lengths.get(id as usize).map_or(0, |&n| u64::from(n));
                bytes += row_tokens.iter().map(of).sum::<u64>();
            }
            sources.push(ValidationSource {
                source: set.source().to_owned(),
                rows,
                tokens: rows * context as u64,
                bytes,
            });
        }
        Ok(Self { sets, sources, context })
    }

    /// What is evaluated, source by source.
    pub fn sources(&self) -> &[ValidationSource] {
        &self.sources
    }

    /// At most `rows` rows of source number `source`, from `first_row` on; `None` past its last row.
    ///
    /// # Errors
    /// [`Error::ShardToken`] when a shard holds an id outside the vocabulary.
    pub fn batch(&self, source: usize, first_row: u64, rows: u64) -> Result<Option<Batch>, Error> {
        let (Some(set), Some(known)) = (self.sets.get(source), self.sources.get(source)) else {
            return Ok(None);
        };
        let end = first_row.saturating_add(rows).min(known.rows);
        if first_row >= end {
            return Ok(None);
        }
        let context = self.context as u64;
        let mut tokens = Vec::new();
        let mut starts = Vec::new();
        for row in first_row..end {
            starts.push(tokens.len());
            set.read(row * context, context + 1, &mut tokens)?;
        }
        Batch::from_rows(starts.into_iter().map(|at| &tokens[at..at + self.context + 1])).map(Some)
    }
}
