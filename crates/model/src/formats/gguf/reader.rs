//! [`Reader`]: numbers and texts from the head of a file, with no length believed.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use crate::error::ModelError;
use crate::formats::tensors::{damaged, unreadable};

/// Reads forward from a file's start, and knows how much is left.
pub(super) struct Reader<'a> {
    file: BufReader<&'a File>,
    path: &'a Path,
    at: u64,
    length: u64,
}

impl<'a> Reader<'a> {
    pub(super) fn new(file: &'a File, path: &'a Path) -> Result<Self, ModelError> {
        let length = file.metadata().map_err(unreadable(path))?.len();
        Ok(Reader { file: BufReader::with_capacity(1 << 16, file), path, at: 0, length })
    }

    pub(super) fn path(&self) -> &'a Path {
        self.path
    }

    /// Bytes of the file.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Bytes read.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    fn fill(&mut self, bytes: &mut [u8], what: &str) -> Result<(), ModelError> {
        let left = self.length - self.at;
        if bytes.len() as u64 > left {
            let found = format!("cut: {left} of {} bytes are left at {}", bytes.len(), self.at);
            return Err(damaged(self.path, what, found).into());
        }
        self.file.read_exact(bytes).map_err(unreadable(self.path))?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    pub(super) fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], ModelError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes, what)?;
        Ok(bytes)
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32, ModelError> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64, ModelError> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A length of 8 bytes, at most `most`, and so many bytes of UTF-8.
    pub(super) fn text(&mut self, most: u64, what: &str) -> Result<String, ModelError> {
        let length = self.u64(what)?;
        let possible = most.min(self.length - self.at);
        if length > possible {
            return Err(damaged(self.path, what, format!("{length} bytes long, where {possible} are possible")).into());
        }
        let mut bytes = vec![0; length as usize];
        self.fill(&mut bytes, what)?;
        String::from_utf8(bytes).map_err(|_| damaged(self.path, what, "not UTF-8").into())
    }
}
