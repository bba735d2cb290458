//! Streaming `model.safetensors` to and from the disk: a header, then the tensors, each in memory only while it passes.
//!
//! The format is <https://github.com/huggingface/safetensors>: u64 little-endian header length, JSON header, data.
//! The crate of that name parses and checks the header; the data is streamed here, because its own functions need the
//! whole file in memory (or mapped) and hash nothing.

use super::atomic::{unreadable, unwritable};
use super::checksums;
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::safetensors_header::{self, HeaderError};
use crate::specification::ParameterSpec;
use half::bf16;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

/// The type in which weights are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StoredDtype {
    /// IEEE single precision, 4 bytes.
    F32,
    /// The upper half of a single, 2 bytes.
    Bf16,
}

impl StoredDtype {
    /// Bytes of one value.
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }
}

/// Values converted between bytes and numbers at a time.
const CHUNK: usize = 1 << 16;

/// Writes all parameters of `config` and returns the SHA-256 of the file.
pub(super) fn write<'a>(
    file: &mut File,
    path: &Path,
    config: &ModelConfig,
    dtype: StoredDtype,
    mut values: impl FnMut(&ParameterSpec) -> Result<Cow<'a, [f32]>, ModelError>,
) -> Result<String, ModelError> {
    let specs = config.parameters();
    let mut hash = Sha256::new();
    let mut put = |bytes: &[u8]| {
        hash.update(bytes);
        file.write_all(bytes).map_err(|source| unwritable(path, source))
    };
    put(&header(path, &specs, dtype)?)?;
    let mut buffer = Vec::with_capacity(CHUNK * dtype.size());
    for spec in &specs {
        let values = values(spec)?;
        if values.len() != spec.len() {
            return Err(ModelError::WrongCount {
                name: spec.name.clone(),
                found: values.len(),
                expected: spec.shape.clone(),
            });
        }
        for chunk in values.chunks(CHUNK) {
            buffer.clear();
            match dtype {
                StoredDtype::F32 => buffer.extend(chunk.iter().flat_map(|v| v.to_le_bytes())),
                StoredDtype::Bf16 => buffer.extend(chunk.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes())),
            }
            put(&buffer)?;
        }
    }
    Ok(checksums::hex(hash))
}

fn header(path: &Path, specs: &[ParameterSpec], dtype: StoredDtype) -> Result<Vec<u8>, ModelError> {
    let mut end = 0;
    let tensors = specs.iter().map(|spec| {
        let start = end;
        end += spec.len() * dtype.size();
        let stored = match dtype {
            StoredDtype::F32 => Dtype::F32,
            StoredDtype::Bf16 => Dtype::BF16,
        };
        (spec.name.clone(), TensorInfo { dtype: stored, shape: spec.shape.clone(), data_offsets: (start, end) })
    });
    safetensors_header::bytes(tensors.collect())
        .map_err(|reason| ModelError::WeightsHeader { path: path.to_owned(), reason })
}

/// Reads all parameters of `config` and returns the SHA-256 of the file.
pub(super) fn read(
    mut file: File,
    path: &Path,
    config: &ModelConfig,
    mut receive: impl FnMut(&ParameterSpec, StoredDtype, Vec<f32>) -> Result<(), ModelError>,
) -> Result<String, ModelError> {
    let length = length_of(&file, path)?;
    let mut hashed = Hashed { file: &mut file, hash: Sha256::new() };
    let tensors = tensors(&mut hashed, length, path, config)?;

    let mut bytes = vec![0; CHUNK * 4];
    for (spec, dtype) in tensors {
        let mut values = Vec::with_capacity(spec.len());
        while values.len() < spec.len() {
            let n = (spec.len() - values.len()).min(CHUNK);
            let bytes = &mut bytes[..n * dtype.size()];
            hashed.read_exact(bytes).map_err(|source| unreadable(path, source))?;
            match dtype {
                StoredDtype::F32 => {
                    values.extend(bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)));
                }
                StoredDtype::Bf16 => {
                    values.extend(bytes.as_chunks().0.iter().map(|&b| bf16::from_le_bytes(b).to_f32()));
                }
            }
        }
        receive(&spec, dtype, values)?;
    }
    Ok(checksums::hex(hashed.hash))
}

/// The parameters of `config` in the order in which they lie in the file.
pub(super) fn order(file: &mut File, path: &Path, config: &ModelConfig) -> Result<Vec<ParameterSpec>, ModelError> {
    let length = length_of(file, path)?;
    Ok(tensors(file, length, path, config)?.into_iter().map(|(spec, _)| spec).collect())
}

fn length_of(file: &File, path: &Path) -> Result<u64, ModelError> {
    Ok(file.metadata().map_err(|source| unreadable(path, source))?.len())
}

/// Reads the header of a file of `length` bytes.
fn tensors(
    file: &mut impl Read,
    length: u64,
    path: &Path,
    config: &ModelConfig,
) -> Result<Vec<(ParameterSpec, StoredDtype)>, ModelError> {
    let header = safetensors_header::read(file, length).map_err(|error| match error {
        HeaderError::Unreadable(source) => unreadable(path, source),
        HeaderError::Damaged(reason) => ModelError::WeightsHeader { path: path.to_owned(), reason },
        HeaderError::Length { expected } => {
            ModelError::WeightsLength { path: path.to_owned(), expected, found: length }
        }
    })?;
    matched(path, config, &header.metadata)
}

/// A file whose bytes are hashed as they are read.
struct Hashed<'a> {
    file: &'a mut File,
    hash: Sha256,
}

impl Read for Hashed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(buffer)?;
        self.hash.update(&buffer[..n]);
        Ok(n)
    }
}

/// The parameters of `config` in the order of the file, once the header agrees that they are what it holds.
fn matched(
    path: &Path,
    config: &ModelConfig,
    metadata: &Metadata,
) -> Result<Vec<(ParameterSpec, StoredDtype)>, ModelError> {
    let path = || path.to_owned();
    let mut matched = Vec::new();
    let mut names: Vec<String> = metadata.offset_keys();
    names.sort_unstable();
    let specs = config.parameters();
    let known: HashSet<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
    if let Some(name) = names.iter().find(|name| !known.contains(name.as_str())) {
        return Err(ModelError::ExtraTensor { path: path(), name: name.clone() });
    }
    for spec in specs {
        let name = spec.name.clone();
        let Some(info) = metadata.info(&name) else {
            return Err(ModelError::MissingTensor { path: path(), name });
        };
        if info.shape != spec.shape {
            return Err(ModelError::WrongShape { path: path(), name, found: info.shape.clone(), expected: spec.shape });
        }
        let dtype = match info.dtype {
            Dtype::F32 => StoredDtype::F32,
            Dtype::BF16 => StoredDtype::Bf16,
            other => {
                return Err(ModelError::WrongDtype { path: path(), name, found: other.to_string() });
            }
        };
        matched.push((info.data_offsets.0, spec, dtype));
    }
    matched.sort_by_key(|(start, ..)| *start);
    Ok(matched.into_iter().map(|(_, spec, dtype)| (spec, dtype)).collect())
}
