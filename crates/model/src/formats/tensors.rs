//! [`Tensors`]: where each tensor of a foreign model lies in which file, checked before a byte of it is read.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::elements::ElementType;
use super::error::FormatError;
use crate::error::ModelError;

/// Bytes read at a time, about.
const CHUNK: usize = 1 << 18;

/// One tensor.
#[derive(Debug, Clone)]
pub(super) struct Tensor {
    /// Which of the files.
    pub(super) file: usize,
    /// Where its data begins, in bytes from the file's start.
    pub(super) start: u64,
    /// Dimensions, row-major.
    pub(super) shape: Vec<usize>,
    pub(super) element: ElementType,
}

/// The tensors of a model by name.
#[derive(Debug)]
pub(super) struct Tensors {
    files: Vec<(PathBuf, File)>,
    by_name: BTreeMap<String, Tensor>,
}

impl Tensors {
    pub(super) fn new(files: Vec<(PathBuf, File)>, by_name: BTreeMap<String, Tensor>) -> Self {
        Tensors { files, by_name }
    }

    /// The files, in which nothing but tensors lies.
    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|(path, _)| path.as_path())
    }

    pub(super) fn get(&self, name: &str) -> Option<&Tensor> {
        self.by_name.get(name)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.by_name.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// Appends the first `rows` rows of a tensor `[rows, columns]`, or of a vector `[rows]`, to `out`.
    pub(super) fn read(&mut self, name: &str, rows: usize, out: &mut Vec<f32>) -> Result<(), ModelError> {
        let Some(tensor) = self.by_name.get(name) else {
            let path = self.files.first().map(|(path, _)| path.clone()).unwrap_or_default();
            return Err(FormatError::MissingTensor { path, name: name.to_owned() }.into());
        };
        let (path, file) = &mut self.files[tensor.file];
        file.seek(SeekFrom::Start(tensor.start)).map_err(unreadable(path))?;
        let element = tensor.element;
        // A row is whole blocks, and the shape was checked against the file's length.
        let columns: usize = tensor.shape.iter().skip(1).product();
        let mut left = rows * columns / element.block_len();
        let mut buffer = vec![0; CHUNK / element.block_bytes() * element.block_bytes()];
        let first = out.len();
        while left > 0 {
            let blocks = left.min(buffer.len() / element.block_bytes());
            let bytes = &mut buffer[..blocks * element.block_bytes()];
            file.read_exact(bytes).map_err(unreadable(path))?;
            element.decode(bytes, out);
            left -= blocks;
        }
        match out[first..].iter().position(|value| !value.is_finite()) {
            Some(at) => Err(damaged(path, format!("value {at} of tensor {name}"), "not a finite number").into()),
            None => Ok(()),
        }
    }
}

/// Bytes of a tensor of this shape; `None` when no file can hold it, or a row is not whole blocks.
pub(super) fn data_bytes(shape: &[usize], element: ElementType) -> Option<u64> {
    let row = shape.last().copied().unwrap_or(1);
    if !row.is_multiple_of(element.block_len()) {
        return None;
    }
    let values = shape.iter().try_fold(1u64, |product, &n| product.checked_mul(n as u64))?;
    (values / element.block_len() as u64).checked_mul(element.block_bytes() as u64)
}

/// The error of a system call that read at `path`.
pub(super) fn unreadable(path: &Path) -> impl Fn(io::Error) -> ModelError {
    move |source| ModelError::Io { path: path.to_owned(), doing: "read", source }
}

pub(super) fn damaged(path: &Path, what: impl Into<String>, found: impl Into<String>) -> FormatError {
    FormatError::Damaged { path: path.to_owned(), what: what.into(), found: found.into() }
}
