//! A checkpoint that has been verified, open for reading.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use safetensors::tensor::Metadata;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::tensors::Dtype;
use super::{CHECKSUMS, FORMAT, STATE, TENSORS, checksums};
use crate::error::TrainError;

/// A checkpoint that was passed over because it cannot be trusted.
#[derive(Debug)]
pub struct Skipped {
    /// Its directory.
    pub path: PathBuf,
    /// What is wrong with it.
    pub error: TrainError,
}

/// What `state.json` holds.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    format: u32,
    step: u64,
    meta: serde_json::Value,
}

/// A checkpoint every byte of which is what was written.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    step: u64,
    meta: serde_json::Value,
    tensors: File,
    metadata: Metadata,
    data_begin: u64,
}

impl Checkpoint {
    /// Verifies the checkpoint in the directory `path` and opens it.
    ///
    /// # Errors
    /// The `Checkpoint...` variants of [`TrainError`], naming the file that is damaged, cut short or missing.
    pub fn open(path: &Path) -> Result<Self, TrainError> {
        let list = path.join(CHECKSUMS);
        let entries = checksums::read(&list)?;
        for name in [STATE, TENSORS] {
            let entry = entries.iter().find(|entry| entry.name == name).ok_or_else(|| {
                TrainError::CheckpointChecksumList { path: list.clone(), reason: format!("{name} is not listed") }
            })?;
            checksums::verify(&path.join(name), entry)?;
        }
        let state = read_state(&path.join(STATE))?;
        let (tensors, metadata, data_begin) = open_tensors(&path.join(TENSORS))?;
        Ok(Self { path: path.to_owned(), step: state.step, meta: state.meta, tensors, metadata, data_begin })
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Optimizer steps done when it was written.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// What was saved beside the tensors.
    ///
    /// # Errors
    /// [`TrainError::CheckpointState`] when it is no `T`.
    pub fn meta<T: DeserializeOwned>(&self) -> Result<T, TrainError> {
        T::deserialize(&self.meta)
            .map_err(|error| TrainError::CheckpointState { path: self.path.join(STATE), reason: error.to_string() })
    }

    /// Names of the tensors, in the order of the file.
    pub fn tensor_names(&self) -> Vec<String> {
        self.metadata.offset_keys()
    }

    /// Reads a tensor, row-major and little-endian, into `into`, which has exactly its bytes.
    ///
    /// # Errors
    /// [`TrainError::CheckpointTensor`] when there is none of that name, type, shape and length.
    pub fn read_tensor(
        &mut self,
        name: &str,
        dtype: Dtype,
        shape: &[usize],
        into: &mut [u8],
    ) -> Result<(), TrainError> {
        let path = self.path.join(TENSORS);
        let wrong = |reason: String| TrainError::CheckpointTensor { path: path.clone(), name: name.to_owned(), reason };
        let Some(info) = self.metadata.info(name) else {
            return Err(wrong("not in the checkpoint".to_owned()));
        };
        if info.dtype != dtype.stored() || info.shape != shape {
            return Err(wrong(format!(
                "{} of shape {:?} in the checkpoint, {} of shape {shape:?} asked for",
                info.dtype,
                info.shape,
                dtype.stored()
            )));
        }
        let (begin, end) = info.data_offsets;
        if end - begin != into.len() {
            return Err(wrong(format!("{} bytes in the checkpoint, room for {}", end - begin, into.len())));
        }
        self.tensors
            .seek(SeekFrom::Start(self.data_begin + begin as u64))
            .and_then(|_| self.tensors.read_exact(into))
            .map_err(|source| TrainError::from_io(&path, "read", 0, source))
    }
}

/// What a checkpoint says beside its tensors, unverified.
pub(super) fn peek<T: DeserializeOwned>(path: &Path) -> Result<T, TrainError> {
    let path = path.join(STATE);
    T::deserialize(&read_state(&path)?.meta)
        .map_err(|error| TrainError::CheckpointState { path, reason: error.to_string() })
}

fn read_state(path: &Path) -> Result<State, TrainError> {
    let bytes = std::fs::read(path).map_err(|source| TrainError::from_io(path, "read", 0, source))?;
    let state: State = serde_json::from_slice(&bytes)
        .map_err(|error| TrainError::CheckpointState { path: path.to_owned(), reason: error.to_string() })?;
    if state.format != FORMAT {
        return Err(TrainError::CheckpointVersion {
            path: path.to_owned(),
            found: state.format.to_string(),
            supported: FORMAT,
        });
    }
    Ok(state)
}

fn open_tensors(path: &Path) -> Result<(File, Metadata, u64), TrainError> {
    let io = |source| TrainError::from_io(path, "read", 0, source);
    let invalid =
        |reason: String| TrainError::CheckpointTensor { path: path.to_owned(), name: "header".to_owned(), reason };
    let mut file = File::open(path).map_err(io)?;
    let length = file.metadata().map_err(io)?.len();
    let mut prefix = [0; 8];
    file.read_exact(&mut prefix).map_err(io)?;
    let header_length = u64::from_le_bytes(prefix);
    let data_begin = header_length.checked_add(8).filter(|begin| *begin <= length);
    let data_begin = data_begin.ok_or_else(|| invalid(format!("{header_length} bytes long in a file of {length}")))?;
    let mut header = vec![0; header_length as usize];
    file.read_exact(&mut header).map_err(io)?;
    // Not `SafeTensors::read_metadata`, which asks for the data in the same buffer. This checks the offsets too.
    let metadata: Metadata = serde_json::from_slice(&header).map_err(|error| invalid(error.to_string()))?;
    if data_begin + metadata.data_len() as u64 != length {
        return Err(invalid(format!("describes {} bytes of data", metadata.data_len())));
    }
    Ok((file, metadata, data_begin))
}
