//! [`ShardReader`]: one shard, memory-mapped and checked.

use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::layout::{HEADER_BYTES, MAGIC, TokenWidth, header_field};
use super::manifest::ShardEntry;
use crate::durable::sha256_of_file;
use crate::error::Error;

/// The tokens of one shard.
#[derive(Debug)]
pub struct ShardReader {
    path: PathBuf,
    map: Mmap,
    width: TokenWidth,
    vocab_size: usize,
    tokens: u64,
}

impl ShardReader {
    /// Maps a shard made for a vocabulary of `vocab_size`, and checks its header and length.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::ShardLength`], [`Error::ShardMagic`], [`Error::ShardVersion`].
    pub fn open(path: &Path, vocab_size: usize) -> Result<Self, Error> {
        let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
        let found = file.metadata().map_err(|e| Error::io("read", path, e))?.len();
        let wrong_length = |expected: u64| Error::ShardLength { path: path.to_path_buf(), expected, found };
        if found < HEADER_BYTES as u64 {
            return Err(wrong_length(HEADER_BYTES as u64));
        }
        let map = map(&file).map_err(|e| Error::io("map", path, e))?;
        let magic = header_field(&map, 0);
        if magic != MAGIC {
            return Err(Error::ShardMagic { path: path.to_path_buf(), found: magic, expected: MAGIC });
        }
        let width = TokenWidth::of(vocab_size);
        let version = header_field(&map, 1);
        if version != width.version() {
            return Err(Error::ShardVersion { path: path.to_path_buf(), found: version, expected: width.version() });
        }
        let tokens = u64::try_from(header_field(&map, 2)).unwrap_or(0);
        let expected = HEADER_BYTES as u64 + tokens * width.bytes() as u64;
        if expected != found {
            return Err(wrong_length(expected));
        }
        Ok(Self { path: path.to_path_buf(), map, width, vocab_size, tokens })
    }

    /// Tokens in the shard.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Appends `count` tokens from number `start` on, fewer at the end of the shard.
    ///
    /// # Errors
    /// [`Error::ShardToken`] when one is outside the vocabulary.
    pub fn read(&self, start: u64, count: u64, out: &mut Vec<u32>) -> Result<(), Error> {
        let start = start.min(self.tokens);
        let end = start.saturating_add(count).min(self.tokens);
        let place = |token: u64| HEADER_BYTES + token as usize * self.width.bytes();
        let bytes = &self.map[place(start)..place(end)];
        let first = out.len();
        match self.width {
            TokenWidth::U16 => out.extend(bytes.chunks_exact(2).map(|b| u32::from(u16::from_le_bytes([b[0], b[1]])))),
            TokenWidth::U32 => out.extend(bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))),
        }
        match out[first..].iter().position(|&id| id as usize >= self.vocab_size) {
            None => Ok(()),
            Some(at) => Err(Error::ShardToken {
                path: self.path.clone(),
                position: start + at as u64,
                id: out[first + at],
                vocab_size: self.vocab_size,
            }),
        }
    }

    /// Reads the whole file and compares it with its entry in the manifest.
    ///
    /// # Errors
    /// [`Error::ShardChecksum`], [`Error::Io`].
    pub fn verify(&self, entry: &ShardEntry) -> Result<(), Error> {
        let found = sha256_of_file(&self.path)?;
        if found == entry.sha256 {
            return Ok(());
        }
        Err(Error::ShardChecksum { path: self.path.clone(), expected: entry.sha256.clone(), found })
    }
}

/// Maps a file for reading.
#[allow(unsafe_code)]
fn map(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: the mapping is sound while nobody changes the file in place. This program never does: shards are written
    // under another name and renamed. Ids are checked as they are read, so that other bytes give errors, not faults;
    // a file cut short by someone else during a run ends the process, as with every memory-mapped reader.
    unsafe { Mmap::map(file) }
}
