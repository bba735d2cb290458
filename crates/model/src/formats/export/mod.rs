//! A model directory in the forms that other programs read: a folder of `transformers`, or a GGUF file of llama.cpp.
//!
//! Weights pass through one tensor at a time, in the order in which they lie in the directory, so that a model of any size
//! is written in the memory of its largest tensor. Every file becomes visible only whole, all of them together, and their
//! SHA-256 stand beside them. What the other program would compute otherwise is refused by name before anything is written.
//!
//! Tokenizers are not read here: their files, or the keys of a GGUF file that say the same, are given by the caller.

mod error;
mod family;
mod gguf;
mod hf;
mod plan;
mod stream;

pub use error::ExportError;
pub use family::{Family, refusal};
pub(super) use gguf::SUM;
pub use gguf::{GgufType, MetadataValue, export_gguf};
pub use hf::{HfDtype, HfOptions, INDEX, export_hf};

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported {
    /// Every file that holds weights.
    pub files: Vec<ExportedFile>,
    /// The types of the tensors, with how many there are of each, the most frequent first.
    pub element_types: Vec<(&'static str, usize)>,
}

/// A file that holds weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportedFile {
    /// Its name in its folder.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256 in lower-case hex.
    pub sha256: String,
}

#[cfg(test)]
mod tests;
