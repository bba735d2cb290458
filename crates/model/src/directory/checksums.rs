//! `checksums.json`: the SHA-256 of each file of a model directory.

use super::atomic::unreadable;
use crate::error::ModelError;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;

/// File name to SHA-256 in lower-case hex.
#[derive(Debug, Default)]
pub(crate) struct Checksums(BTreeMap<String, String>);

impl Checksums {
    pub(crate) fn note(&mut self, name: &str, sum: String) {
        self.0.insert(name.to_owned(), sum);
    }

    pub(crate) fn to_json(&self) -> String {
        let lines: Vec<String> = self.0.iter().map(|(name, sum)| format!("  \"{name}\": \"{sum}\"")).collect();
        format!("{{\n{}\n}}\n", lines.join(",\n"))
    }

    pub(crate) fn read(path: &Path) -> Result<Self, ModelError> {
        let bytes = fs::read(path).map_err(|source| unreadable(path, source))?;
        let bad = |reason: String| ModelError::ChecksumSyntax { path: path.to_owned(), reason };
        let sums: BTreeMap<String, String> = serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
        let is_sum = |s: &str| s.len() == 64 && s.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        match sums.iter().find(|(_, sum)| !is_sum(sum)) {
            Some((name, sum)) => Err(bad(format!("{name} has {sum:?}"))),
            None => Ok(Self(sums)),
        }
    }

    pub(crate) fn expected(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// A file without a line here passes: removing the line is how an edit is allowed.
    pub(crate) fn verify(&self, path: &Path, name: &str, found: String) -> Result<(), ModelError> {
        match self.0.get(name) {
            Some(expected) if *expected != found => {
                Err(ModelError::Checksum { path: path.to_owned(), expected: expected.clone(), found })
            }
            _ => Ok(()),
        }
    }

    /// Reads a text file of `dir` and verifies it.
    pub(crate) fn read_text(&self, dir: &Path, name: &str) -> Result<String, ModelError> {
        let path = dir.join(name);
        let bytes = fs::read(&path).map_err(|source| unreadable(&path, source))?;
        self.verify(&path, name, of(&bytes))?;
        String::from_utf8(bytes)
            .map_err(|e| ModelError::NotUtf8 { path: path.clone(), offset: e.utf8_error().valid_up_to() })
    }
}

/// SHA-256 in hex.
pub(crate) fn of(bytes: &[u8]) -> String {
    hex(Sha256::new().chain_update(bytes))
}

/// SHA-256 in hex of a file of any size.
pub(crate) fn of_file(path: &Path) -> Result<String, ModelError> {
    let mut file = fs::File::open(path).map_err(|source| unreadable(path, source))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        match file.read(&mut buffer).map_err(|source| unreadable(path, source))? {
            0 => return Ok(hex(hash)),
            n => hash.update(&buffer[..n]),
        }
    }
}

/// The digest of all that `hash` was fed, in hex.
pub(crate) fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
