//! GGUF: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>, versions 2 and 3, little-endian.
//!
//! Magic, version, counts; the metadata; name, dimensions (fastest first), type and offset of each tensor; the data from
//! the next multiple of the alignment on.

mod config;
mod metadata;
mod reader;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use super::elements::{ElementType, KNOWN};
use super::error::FormatError;
use super::export::SUM;
use super::layout::Naming;
use super::tensors::{Tensor, Tensors, damaged, data_bytes, unreadable};
use super::{ForeignModel, ModelError};
use crate::directory::checksums::Checksums;
pub(super) use config::{ACTIVATION, DROPOUT, EXACT_GELU};
pub use metadata::Metadata;
use reader::Reader;

/// More than any model has.
const MAX_TENSORS: u64 = 1 << 16;
/// The longest name of a tensor; ggml itself allows 63 bytes.
const MAX_NAME: u64 = 256;
const MAX_DIMENSIONS: u32 = 4;

/// Reads all of a file but its data.
pub(super) fn open(path: &Path) -> Result<ForeignModel, ModelError> {
    let file = File::open(path).map_err(unreadable(path))?;
    let mut reader = Reader::new(&file, path)?;
    if reader.length() < 4 || reader.array::<4>("the magic number")? != *b"GGUF" {
        return Err(FormatError::Unknown { path: path.to_owned() }.into());
    }
    let version = reader.u32("the version")?;
    if version != 2 && version != 3 {
        return Err(FormatError::Unsupported {
            path: path.to_owned(),
            what: "the version of GGUF".to_owned(),
            found: version.to_string(),
            remedy: "2 and 3, little-endian, are read: convert the model again with a newer llama.cpp",
        }
        .into());
    }
    let tensor_count = reader.u64("the number of tensors")?;
    if tensor_count > MAX_TENSORS {
        return Err(damaged(path, "the number of tensors", format!("{tensor_count}, above {MAX_TENSORS}")).into());
    }
    let metadata = Metadata::read(&mut reader)?;
    let tensors = tensors(&mut reader, path, tensor_count, &metadata)?;
    let tensors = Tensors::new(vec![(path.to_owned(), file.try_clone().map_err(unreadable(path))?)], tensors);
    let (config, interleaved) = config::config(path, &metadata, &tensors)?;
    Ok(ForeignModel {
        path: path.to_owned(),
        config,
        tensors,
        naming: Naming::Gguf,
        interleaved,
        metadata: Some(metadata),
        sums: sum_beside(path)?,
    })
}

/// The checksum that an export from here leaves beside its file, as `sha256sum` writes it.
fn sum_beside(path: &Path) -> Result<Checksums, ModelError> {
    let mut sums = Checksums::default();
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return Ok(sums) };
    let beside = path.with_file_name(format!("{name}{SUM}"));
    if beside.is_file() {
        let text = std::fs::read(&beside).map_err(unreadable(&beside))?;
        let sum = text.get(..64).filter(|sum| sum.iter().all(u8::is_ascii_hexdigit));
        let sum = sum.ok_or_else(|| damaged(&beside, "the line", "not a SHA-256 in 64 hexadecimal digits"))?;
        sums.note(name, String::from_utf8_lossy(sum).to_ascii_lowercase());
    }
    Ok(sums)
}

fn tensors(
    reader: &mut Reader<'_>,
    path: &Path,
    count: u64,
    metadata: &Metadata,
) -> Result<BTreeMap<String, Tensor>, ModelError> {
    let alignment = metadata.unsigned("general.alignment").unwrap_or(32);
    if alignment == 0 || !alignment.is_multiple_of(8) || alignment > 1 << 20 {
        return Err(
            damaged(path, "general.alignment", format!("{alignment}, not a multiple of 8 up to 1048576")).into()
        );
    }
    let mut list = Vec::new();
    for index in 0..count {
        let name = reader.text(MAX_NAME, &format!("the name of tensor {index}"))?;
        let what = format!("tensor {name}");
        let dimensions = reader.u32(&what)?;
        if !(1..=MAX_DIMENSIONS).contains(&dimensions) {
            return Err(damaged(path, what, format!("of {dimensions} dimensions, not 1 to {MAX_DIMENSIONS}")).into());
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            let n = reader.u64(&what)?;
            shape.push(usize::try_from(n).map_err(|_| damaged(path, &what, format!("{n} long")))?);
        }
        shape.reverse();
        let number = reader.u32(&what)?;
        let element = ElementType::of_ggml(number).ok_or_else(|| FormatError::ElementType {
            path: path.to_owned(),
            name: name.clone(),
            found: format!("ggml type {number}"),
            known: KNOWN,
        })?;
        let offset = reader.u64(&what)?;
        if !offset.is_multiple_of(alignment) {
            return Err(damaged(path, what, format!("at {offset}, not a multiple of {alignment}")).into());
        }
        list.push((name, shape, element, offset));
    }
    let data = reader.at().next_multiple_of(alignment);
    let mut spans = Vec::new();
    let mut tensors = BTreeMap::new();
    for (name, shape, element, offset) in list {
        let bytes = data_bytes(&shape, element);
        let end = bytes.and_then(|bytes| data.checked_add(offset)?.checked_add(bytes));
        let (Some(bytes), Some(end)) = (bytes, end.filter(|end| *end <= reader.length())) else {
            let found = format!("{shape:?} of {} at {offset}, in a file of {}", element.name(), reader.length());
            return Err(damaged(path, format!("tensor {name}"), found).into());
        };
        spans.push((end - bytes, end, name.clone()));
        let tensor = Tensor { file: 0, start: end - bytes, shape, element };
        if tensors.insert(name.clone(), tensor).is_some() {
            return Err(damaged(path, format!("tensor {name}"), "there twice").into());
        }
    }
    spans.sort_unstable();
    for pair in spans.windows(2) {
        if pair[1].0 < pair[0].1 {
            return Err(damaged(path, format!("tensor {}", pair[1].2), format!("over tensor {}", pair[0].2)).into());
        }
    }
    Ok(tensors)
}
