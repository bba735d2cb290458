//! [`FormatError`]: each way in which the model of another program cannot be read.

use std::path::PathBuf;

/// What stands between a file of another program and a model directory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// Neither kind of model.
    #[error("{path}: neither a GGUF file nor a folder with config.json and model.safetensors; give one of them")]
    Unknown {
        /// As given.
        path: PathBuf,
    },
    /// A file that contradicts itself or its length.
    #[error("{path}: {what} is {found}: the file is damaged or was cut; fetch it again")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Which part of it.
        what: String,
        /// What is there, and what could be.
        found: String,
    },
    /// A model that this program does not compute, or a form of it that is not read.
    #[error("{path}: {what} is {found}; {remedy}")]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The setting.
        what: String,
        /// Its value.
        found: String,
        /// What to do instead.
        remedy: &'static str,
    },
    /// A setting without which there is no model.
    #[error("{path}: {key} is missing or not {expected}; is this a whole model, of a known kind?")]
    MissingKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The kind of value.
        expected: &'static str,
    },
    /// A tensor that the model needs.
    #[error("{path}: tensor {name} is missing; the file holds another model than it says, or a part of one")]
    MissingTensor {
        /// The file or folder.
        path: PathBuf,
        /// Its name there.
        name: String,
    },
    /// A tensor that would be left out.
    #[error(
        "{path}: tensor {name} has no place in this shape of model, and without it the answers would differ; import another model, such as SmolLM2 or Qwen3"
    )]
    ExtraTensor {
        /// The file or folder.
        path: PathBuf,
        /// Its name there.
        name: String,
    },
    /// A tensor of another shape than the settings imply.
    #[error(
        "{path}: tensor {name} has shape {found:?}, but the model's settings imply {expected:?}; fetch the file again"
    )]
    Shape {
        /// The file or folder.
        path: PathBuf,
        /// Its name there.
        name: String,
        /// Shape in the file, row-major.
        found: Vec<usize>,
        /// Shape by the settings.
        expected: Vec<usize>,
    },
    /// A tensor in a type that is not read.
    #[error("{path}: tensor {name} is stored as {found}; choose a file in {known}")]
    ElementType {
        /// The file.
        path: PathBuf,
        /// Its name there.
        name: String,
        /// The type.
        found: String,
        /// The types that are read.
        known: &'static str,
    },
    /// More tokens than the model has rows for.
    #[error(
        "the tokenizer has {tokens} tokens, but the model only {rows}; they do not belong together: fetch both again"
    )]
    Vocabulary {
        /// Tokens of the tokenizer.
        tokens: usize,
        /// Rows of the embedding.
        rows: usize,
    },
}
