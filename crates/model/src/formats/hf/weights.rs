//! The headers of safetensors files, and the index that says which tensor lies in which file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use safetensors::tensor::Dtype;
use serde::Deserialize;

use super::read_json;
use crate::error::ModelError;
use crate::formats::elements::ElementType;
use crate::formats::error::FormatError;
use crate::formats::tensors::{Tensor, Tensors, damaged, unreadable};
use crate::safetensors_header::{self, Header, HeaderError};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The tensors of a folder.
pub(super) fn open(folder: &Path) -> Result<Tensors, ModelError> {
    let index_path = folder.join(INDEX);
    let (names, map) = if index_path.is_file() {
        let index: Index = serde_json::from_slice(&read_json(&index_path)?)
            .map_err(|e| damaged(&index_path, "the text", format!("no index: {e}")))?;
        let names: BTreeSet<String> = index.weight_map.values().cloned().collect();
        (names, Some(index.weight_map))
    } else if folder.join(SINGLE).is_file() {
        (BTreeSet::from([SINGLE.to_owned()]), None)
    } else {
        return Err(FormatError::Unknown { path: folder.to_owned() }.into());
    };
    let mut files = Vec::new();
    let mut by_name = BTreeMap::new();
    for (number, name) in names.iter().enumerate() {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if name.starts_with('.') || !name.chars().all(plain) {
            return Err(damaged(&index_path, "a file name", format!("{name:?}, not a file of this folder")).into());
        }
        let path = folder.join(name);
        let file = File::open(&path).map_err(unreadable(&path))?;
        for (tensor, found) in header(&path, &file, number)? {
            let mapped = map.as_ref().is_none_or(|map| map.get(&tensor) == Some(name));
            if !mapped || by_name.insert(tensor.clone(), found).is_some() {
                return Err(damaged(&path, format!("tensor {tensor}"), "not where the index says").into());
            }
        }
        files.push((path, file));
    }
    if let Some(lost) = map.iter().flat_map(BTreeMap::keys).find(|name| !by_name.contains_key(*name)) {
        return Err(FormatError::MissingTensor { path: folder.to_owned(), name: lost.clone() }.into());
    }
    Ok(Tensors::new(files, by_name))
}

/// The tensors of one file. That they lie one after the other and fill it is checked by the safetensors crate.
fn header(path: &Path, mut file: &File, number: usize) -> Result<Vec<(String, Tensor)>, ModelError> {
    let length = file.metadata().map_err(unreadable(path))?.len();
    let Header { metadata, data_start } = safetensors_header::read(&mut file, length).map_err(|error| {
        let found = match error {
            HeaderError::Unreadable(source) => return unreadable(path)(source),
            HeaderError::Damaged(reason) => reason,
            HeaderError::Length { expected } => format!("one of {expected} bytes in a file of {length}"),
        };
        damaged(path, "the safetensors header", found).into()
    })?;
    let mut tensors = Vec::new();
    for name in metadata.offset_keys() {
        let Some(info) = metadata.info(&name) else { continue };
        let element = match info.dtype {
            Dtype::F32 => ElementType::F32,
            Dtype::F16 => ElementType::F16,
            Dtype::BF16 => ElementType::Bf16,
            other => {
                let (path, found) = (PathBuf::from(path), other.to_string());
                return Err(FormatError::ElementType { path, name, found, known: "F32, F16 or BF16" }.into());
            }
        };
        let start = data_start + info.data_offsets.0 as u64;
        tensors.push((name, Tensor { file: number, start, shape: info.shape.clone(), element }));
    }
    Ok(tensors)
}
