//! `checksums.json`: the SHA-256 of each file of a model directory.

use super::atomic::unreadable;
use crate::error::ModelError;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// File name to SHA-256 in lower-case hex.
#[derive(Debug, Default)]
pub(super) struct Checksums(BTreeMap<String, String>);

impl Checksums {
    pub(super) fn note(&mut self, name: &str, sum: String) {
        self.0.insert(name.to_owned(), sum);
    }

    pub(super) fn to_json(&self) -> String {
        let lines: Vec<String> = self.0.iter().map(|(name, sum)| format!("  \"{name}\": \"{sum}\"")).collect();
        format!("{{\n{}\n}}\n", lines.join(",\n"))
    }

    pub(super) fn read(path: &Path) -> Result<Self, ModelError> {
        let bytes = fs::read(path).map_err(|source| unreadable(path, source))?;
        let bad = |reason: String| ModelError::ChecksumSyntax { path: path.to_owned(), reason };
        let sums: BTreeMap<String, String> = serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
        let is_sum = |s: &str| s.len() == 64 && s.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        match sums.iter().find(|(_, sum)| !is_sum(sum)) {
            Some((name, sum)) => Err(bad(format!("{name} has {sum:?}"))),
            None => Ok(Self(sums)),
        }
    }

    pub(super) fn expected(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// A file without a line here passes: removing the line is how an edit is allowed.
    pub(super) fn verify(&self, path: &Path, name: &str, found: String) -> Result<(), ModelError> {
        match self.0.get(name) {
            Some(expected) if *expected != found => {
                Err(ModelError::Checksum { path: path.to_owned(), expected: expected.clone(), found })
            }
            _ => Ok(()),
        }
    }

    /// Reads a text file of `dir` and verifies it.
    pub(super) fn read_text(&self, dir: &Path, name: &str) -> Result<String, ModelError> {
        let path = dir.join(name);
        let bytes = fs::read(&path).map_err(|source| unreadable(&path, source))?;
        self.verify(&path, name, of(&bytes))?;
        String::from_utf8(bytes)
            .map_err(|e| ModelError::NotUtf8 { path: path.clone(), offset: e.utf8_error().valid_up_to() })
    }
}

/// SHA-256 in hex.
pub(super) fn of(bytes: &[u8]) -> String {
    hex(Sha256::new().chain_update(bytes))
}

/// The digest of all that `hash` was fed, in hex.
pub(super) fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
