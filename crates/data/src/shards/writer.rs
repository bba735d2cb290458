//! [`ShardWriter`]: one shard on its way to the disk.

use std::path::Path;

use super::layout::{HEADER_BYTES, TokenWidth, header};
use super::manifest::ShardEntry;
use crate::durable::NewFile;
use crate::error::Error;
use crate::split::Split;

/// Takes documents until it is finished; dropped before, it leaves nothing.
pub(super) struct ShardWriter {
    file: NewFile,
    width: TokenWidth,
    entry: ShardEntry,
    encoded: Vec<u8>,
}

impl ShardWriter {
    pub(super) fn create(folder: &Path, split: Split, number: usize, width: TokenWidth) -> Result<Self, Error> {
        let name = format!("{}-{number:05}.bin", split.name());
        let mut file = NewFile::create(&folder.join(&name))?;
        file.write(&[0; HEADER_BYTES])?;
        Ok(Self {
            file,
            width,
            entry: ShardEntry {
                file: name,
                split,
                documents: 0,
                tokens: 0,
                bytes: 0,
                sha256: String::new(),
                next_document: 0,
            },
            encoded: Vec::new(),
        })
    }

    /// Appends one document of `bytes` bytes of text, which stands at `place` in the stream.
    pub(super) fn push(&mut self, ids: &[u32], bytes: u64, place: u64) -> Result<(), Error> {
        self.encoded.clear();
        match self.width {
            TokenWidth::U16 => self.encoded.extend(ids.iter().flat_map(|&id| (id as u16).to_le_bytes())),
            TokenWidth::U32 => self.encoded.extend(ids.iter().flat_map(|&id| id.to_le_bytes())),
        }
        self.file.write(&self.encoded)?;
        self.entry.documents += 1;
        self.entry.tokens += ids.len() as u64;
        self.entry.bytes += bytes;
        self.entry.next_document = place + 1;
        Ok(())
    }

    pub(super) fn tokens(&self) -> u64 {
        self.entry.tokens
    }

    /// Makes the shard visible.
    pub(super) fn finish(mut self) -> Result<ShardEntry, Error> {
        // `ShardOptions` and the limit on documents keep the count far below 2^31.
        self.file.write_at_start(&header(self.width, self.entry.tokens as i32))?;
        self.entry.sha256 = self.file.sha256()?;
        self.file.commit()?;
        Ok(self.entry)
    }
}
