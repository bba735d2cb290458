//! The reference log-probabilities of DPO: computed once by the model that the stage begins with, and kept.
//!
//! The file is a line of JSON, [`Key`]; then for each pair the two numbers as little-endian f64; then the SHA-256 of all
//! before it. A run that is resumed takes them from there. A file of another model or of other pairs is refused while the
//! run has checkpoints, which were trained against it, and made anew where it has none.

use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::TrainError;
use crate::preference::LogProbabilities;
use crate::whole_file;

const FORMAT: u32 = 1;
const DIGEST_BYTES: usize = 32;
const PAIR_BYTES: usize = 16;

/// What the numbers depend on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Key {
    format: u32,
    /// SHA-256 of the reference model's weights.
    pub(super) model: String,
    /// Fingerprint of the pairs.
    pub(super) pairs: String,
    /// In what numbers the model computes.
    pub(super) precision: String,
    /// How many pairs.
    pub(super) count: usize,
}

impl Key {
    pub(super) fn new(model: String, pairs: String, precision: String, count: usize) -> Self {
        Key { format: FORMAT, model, pairs, precision, count }
    }
}

/// Writes the file.
///
/// # Errors
/// The disk refuses.
pub(super) fn store(path: &Path, key: &Key, values: &[LogProbabilities]) -> Result<(), TrainError> {
    let key = serde_json::to_string(key).map_err(|e| broken(path, &e.to_string()))?;
    let mut bytes = Vec::with_capacity(key.len() + 1 + values.len() * PAIR_BYTES + DIGEST_BYTES);
    bytes.extend_from_slice(key.as_bytes());
    bytes.push(b'\n');
    bytes.extend(values.iter().flatten().flat_map(|value| value.to_le_bytes()));
    let digest = Sha256::digest(&bytes);
    bytes.extend_from_slice(&digest);
    whole_file::replace(path, &bytes)
}

/// Reads the file; `None` if it is not there, or if it belongs to another model or to other pairs and the run is not
/// `under_way`.
///
/// # Errors
/// The file is damaged, or belongs to something else than the run that is under way.
pub(super) fn load(path: &Path, key: &Key, under_way: bool) -> Result<Option<Vec<LogProbabilities>>, TrainError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(TrainError::from_io(path, "read", 0, source)),
    };
    let whole =
        bytes.split_last_chunk::<DIGEST_BYTES>().filter(|(body, digest)| Sha256::digest(body)[..] == digest[..]);
    let (body, _) = whole.ok_or_else(|| broken(path, "its checksum does not fit"))?;
    let line = body.iter().position(|byte| *byte == b'\n').ok_or_else(|| broken(path, "it has no first line"))?;
    let found: Key = serde_json::from_slice(&body[..line]).map_err(|e| broken(path, &e.to_string()))?;
    if found != *key {
        if !under_way {
            return Ok(None);
        }
        return Err(TrainError::RunState { path: path.to_owned(), reason: difference(&found, key) });
    }
    let (values, rest) = body[line + 1..].as_chunks::<8>();
    let values: Vec<f64> = values.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect();
    let (pairs, odd) = values.as_chunks::<2>();
    if !rest.is_empty() || !odd.is_empty() || pairs.len() != key.count || values.iter().any(|v| !v.is_finite()) {
        return Err(broken(path, "it does not hold two finite numbers for each pair"));
    }
    Ok(Some(pairs.to_vec()))
}

fn difference(found: &Key, wanted: &Key) -> String {
    let what = [
        ("format", found.format != wanted.format),
        ("model", found.model != wanted.model),
        ("pairs", found.pairs != wanted.pairs || found.count != wanted.count),
        ("precision", found.precision != wanted.precision),
    ];
    let what: Vec<&str> = what.into_iter().filter(|(_, differs)| *differs).map(|(what, _)| what).collect();
    format!(
        "these reference log-probabilities belong to another {}, and the run has checkpoints that were trained against \
         them; restore the model, the data and the recipe that it began with, or choose another run.dir",
        what.join(" and other ")
    )
}

fn broken(path: &Path, reason: &str) -> TrainError {
    TrainError::RunState {
        path: path.to_owned(),
        reason: format!("{reason}: the file is damaged; delete it, and it is computed again from the fine-tuned model"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        Key::new("ab12".into(), "cd34".into(), "bf16".into(), 3)
    }

    #[test]
    fn numbers_come_back_to_the_bit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("references.bin");
        assert_eq!(load(&path, &key(), true).unwrap(), None);
        let values = vec![[-1.0 / 3.0, -700.25], [-0.0, -1e-300], [-12.5, f64::MIN]];
        store(&path, &key(), &values).unwrap();
        assert_eq!(load(&path, &key(), true).unwrap(), Some(values));
    }

    #[test]
    fn another_model_and_other_pairs_are_refused_under_way_and_replaced_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("references.bin");
        store(&path, &key(), &[[-1.0, -2.0]; 3]).unwrap();
        for (other, named) in [
            (Key { model: "ff".into(), ..key() }, "another model"),
            (Key { pairs: "ff".into(), ..key() }, "another pairs"),
            (Key { count: 4, ..key() }, "another pairs"),
            (Key { precision: "f32".into(), ..key() }, "another precision"),
        ] {
            let error = load(&path, &other, true).unwrap_err().to_string();
            assert!(error.contains(named) && error.contains("references.bin"), "{error}");
            assert_eq!(load(&path, &other, false).unwrap(), None);
        }
    }

    #[test]
    fn every_flipped_byte_and_every_cut_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("references.bin");
        store(&path, &key(), &[[-1.0, -2.0]; 3]).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for i in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[i] ^= 4;
            std::fs::write(&path, &damaged).unwrap();
            assert!(load(&path, &key(), false).unwrap_err().to_string().contains("damaged"), "byte {i}");
            std::fs::write(&path, &whole[..i]).unwrap();
            assert!(load(&path, &key(), false).unwrap_err().to_string().contains("damaged"), "cut at {i}");
        }
    }
}
