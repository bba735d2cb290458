//! [`ShardSet`]: the shards of one side of one source, as one run of tokens.

use std::path::Path;

use super::manifest::{MANIFEST_FILE, Manifest};
use super::reader::ShardReader;
use crate::error::Error;
use crate::split::Split;
use crate::tokenizer::Tokenizer;

/// Tokens of all shards of one split, in order.
#[derive(Debug)]
pub struct ShardSet {
    source: String,
    split: Split,
    shards: Vec<ShardReader>,
    /// `[shards + 1]` number of the first token of each shard, and of the end.
    starts: Vec<u64>,
    bytes: u64,
}

impl ShardSet {
    /// Maps the shards that `folder`'s manifest lists for `split`, and checks that they are whole and were made with
    /// `tokenizer`. A split without documents gives a set without tokens.
    ///
    /// # Errors
    /// [`Error::Manifest`] when there is none or tokenisation was not finished; [`Error::ShardVocabulary`],
    /// [`Error::ShardTokenizer`], [`Error::ShardCount`], and those of [`ShardReader::open`].
    pub fn open(folder: &Path, split: Split, tokenizer: &Tokenizer) -> Result<Self, Error> {
        let manifest = Manifest::load(folder)?;
        let path = folder.join(MANIFEST_FILE);
        if manifest.vocab_size != tokenizer.vocab_size() {
            return Err(Error::ShardVocabulary { path, expected: tokenizer.vocab_size(), found: manifest.vocab_size });
        }
        if manifest.tokenizer != tokenizer.fingerprint() {
            return Err(Error::ShardTokenizer { path, expected: tokenizer.fingerprint(), found: manifest.tokenizer });
        }
        if !manifest.complete {
            return Err(Error::Manifest { path, message: "tokenisation was not finished".to_owned() });
        }
        let mut shards = Vec::new();
        let mut starts = vec![0];
        let mut end = 0;
        for entry in manifest.of_split(split) {
            let path = folder.join(&entry.file);
            let shard = ShardReader::open(&path, manifest.vocab_size)?;
            if shard.tokens() != entry.tokens {
                return Err(Error::ShardCount { path, expected: entry.tokens, found: shard.tokens() });
            }
            end += shard.tokens();
            starts.push(end);
            shards.push(shard);
        }
        let bytes = manifest.bytes_of(split);
        Ok(Self { source: manifest.source, split, shards, starts, bytes })
    }

    /// Reads every shard of `folder` and compares checksums. `progress` hears how many tokens of all have been read.
    ///
    /// # Errors
    /// [`Error::ShardChecksum`], and those of [`Manifest::load`] and [`ShardReader::open`].
    pub fn verify(folder: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<(), Error> {
        let manifest = Manifest::load(folder)?;
        let total = manifest.shards.iter().map(|entry| entry.tokens).sum();
        let mut read = 0;
        for entry in &manifest.shards {
            progress(read, total);
            ShardReader::open(&folder.join(&entry.file), manifest.vocab_size)?.verify(entry)?;
            read += entry.tokens;
        }
        Ok(())
    }

    /// Name of the source.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Train or validation.
    pub fn split(&self) -> Split {
        self.split
    }

    /// Tokens in the set.
    pub fn tokens(&self) -> u64 {
        self.starts.last().copied().unwrap_or(0)
    }

    /// Bytes of the text of all documents.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Appends `count` tokens from number `start` on, across shards; fewer at the end of the set.
    ///
    /// # Errors
    /// [`Error::ShardToken`] when one is outside the vocabulary.
    pub fn read(&self, start: u64, count: u64, out: &mut Vec<u32>) -> Result<(), Error> {
        let end = start.saturating_add(count).min(self.tokens());
        let mut at = start;
        // The shard that holds `at`: the last that starts at or before it.
        let mut index = self.starts.partition_point(|&first| first <= at).saturating_sub(1);
        while at < end {
            let (from, to) = (self.starts[index], self.starts[index + 1].min(end));
            self.shards[index].read(at - from, to - at, out)?;
            at = to;
            index += 1;
        }
        Ok(())
    }
}
