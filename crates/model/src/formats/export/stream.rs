//! [`Stream`]: a file on its way, hashed as it is written; and the passage of all weights through it.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use sha2::{Digest, Sha256};

use super::ExportedFile;
use super::error::ExportError;
use super::plan::{Plan, Planned};
use crate::directory::atomic::{Staging, unwritable};
use crate::directory::{ModelDirectory, checksums};
use crate::error::ModelError;

/// A file being written beside its place.
pub(super) struct Stream {
    name: String,
    path: PathBuf,
    file: File,
    hash: Sha256,
    at: u64,
}

impl Stream {
    pub(super) fn create(staging: &mut Staging, name: &str) -> Result<Self, ModelError> {
        let (path, file) = staging.create(name)?;
        Ok(Stream { name: name.to_owned(), path, file, hash: Sha256::new(), at: 0 })
    }

    pub(super) fn put(&mut self, bytes: &[u8]) -> Result<(), ModelError> {
        self.hash.update(bytes);
        self.at += bytes.len() as u64;
        self.file.write_all(bytes).map_err(|source| unwritable(&self.path, source))
    }

    /// Zeros up to the next multiple of `alignment`, at most 64 KiB away.
    pub(super) fn align(&mut self, alignment: u64) -> Result<(), ModelError> {
        let missing = self.at.next_multiple_of(alignment) - self.at;
        self.put(&vec![0; missing as usize])
    }

    /// Brings it to the disk.
    pub(super) fn finish(self) -> Result<ExportedFile, ModelError> {
        self.file.sync_all().map_err(|source| unwritable(&self.path, source))?;
        Ok(ExportedFile { name: self.name, bytes: self.at, sha256: checksums::hex(self.hash) })
    }
}

/// Reads every weight of `source` once, in order, and hands over the pieces of every tensor of `plan`; a tensor's first
/// call has no bytes. `progress` gets how many values are done.
pub(super) fn pass(
    source: &ModelDirectory,
    plan: &Plan,
    progress: &mut dyn FnMut(u64) -> Result<(), ModelError>,
    mut put: impl FnMut(&Planned, &[u8]) -> Result<(), ModelError>,
) -> Result<(), ModelError> {
    let mut expected = plan.parameters.iter();
    let mut done = 0;
    source.read_weights(|found, _, values| {
        let (spec, tensors) = match expected.next() {
            Some((spec, tensors)) if spec.name == found.name => (spec, tensors),
            other => {
                let expected = other.map(|(spec, _)| spec.name.clone()).unwrap_or_default();
                return Err(ExportError::Order { found: found.name.clone(), expected }.into());
            }
        };
        for tensor in tensors {
            put(tensor, &[])?;
            plan.write(spec, tensor, &values, |bytes| put(tensor, bytes))?;
        }
        done += values.len() as u64;
        progress(done)
    })
}
