//! Every way a config, a model directory or a request for a sample can be wrong.
//!
//! Each message names the field or the file, what was found there, and what to do about it.

use std::path::PathBuf;

/// An error of the `model` crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A field of the config holds a value no model can have.
    #[error("model config: {field} = {value}: {remedy}")]
    Config {
        /// Key of `config.json`.
        field: &'static str,
        /// What it holds.
        value: String,
        /// What to write instead.
        remedy: String,
    },
    /// The config is not the JSON expected: syntax, type, or an unknown, missing or repeated key.
    #[error("model config: {0}; correct that key")]
    ConfigSyntax(String),
    /// A preset that does not exist.
    #[error("no preset is named {name:?}; the presets are {known}")]
    UnknownPreset {
        /// The name asked for.
        name: String,
        /// The names there are, separated by commas.
        known: String,
    },
    /// The operating system refused to read or write a file.
    #[error("{path}: cannot {doing}: {source}; check that it exists, its permissions, and the space left on the disk")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was being done, as a verb: "read", "write".
        doing: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// An error within the text of a file: the config of a model directory.
    #[error("{path}: {source}")]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        source: Box<ModelError>,
    },
    /// A model directory lacks a file.
    #[error(
        "{path} is missing: a model directory holds {0}; was the save interrupted, or is this another folder?",
        NAMES
    )]
    MissingFile {
        /// The file.
        path: PathBuf,
    },
    /// The folder of a run was named for the model in it.
    #[error("{path} is no model directory; the model of this run is in {model}: name that")]
    RunFolder {
        /// The folder named.
        path: PathBuf,
        /// The model directory in it.
        model: PathBuf,
    },
    /// A folder of `transformers` was named for a model directory.
    #[error("{path} is a Hugging Face model; make a model directory of it first: casallm import {path} --out DIR")]
    HuggingFaceFolder {
        /// The folder.
        path: PathBuf,
    },
    /// A GGUF file was named for a model directory.
    #[error("{path} is a GGUF file; make a model directory of it first: casallm import {path} --out DIR")]
    GgufFile {
        /// The file.
        path: PathBuf,
    },
    /// A file was named for a model directory.
    #[error("{path} is a file; a model is a directory that holds {0}: name that", NAMES)]
    NotADirectory {
        /// The file.
        path: PathBuf,
    },
    /// A text file is not UTF-8.
    #[error("{path}: not UTF-8 at byte {offset}; save it again as UTF-8")]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// Where the first bad byte is.
        offset: usize,
    },
    /// A name given for a text file of a model directory would land elsewhere or on a file the model itself writes.
    #[error("{name:?} cannot be the name of a text file in a model directory; use a plain name such as tokenizer.json")]
    NotAFileName {
        /// The name given.
        name: String,
    },
    /// `checksums.json` is not a JSON object of names and SHA-256 in hex.
    #[error("{path}: {reason}; it must map file names to SHA-256 in hex: restore it, or save the model again")]
    ChecksumSyntax {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// Somebody wanted it to stop; of what was being written nothing is left.
    #[error("stopped")]
    Stopped,
    /// A file does not hold the bytes that were saved.
    #[error(
        "{path}: SHA-256 is {found}, but checksums.json says {expected}; restore the file, or, if it was edited on \
         purpose, remove its line from checksums.json"
    )]
    Checksum {
        /// The file.
        path: PathBuf,
        /// The checksum noted when it was saved.
        expected: String,
        /// The checksum of what is there.
        found: String,
    },
    /// The header of a safetensors file is damaged or contradicts itself.
    #[error("{path}: bad safetensors header: {reason}; restore the file from a good copy")]
    WeightsHeader {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// A safetensors file is longer or shorter than its header says.
    #[error(
        "{path}: {found} bytes, but its header describes {expected}; the file is cut or padded: restore it from a good copy"
    )]
    WeightsLength {
        /// The file.
        path: PathBuf,
        /// Bytes described by the header, itself included.
        expected: u64,
        /// Bytes there are.
        found: u64,
    },
    /// A tensor that the config implies is not in the file.
    #[error("{path}: tensor {name} is missing; this config.json belongs to another model.safetensors")]
    MissingTensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// A tensor is in the file that the config does not imply.
    #[error("{path}: tensor {name} is not part of this model; this config.json belongs to another model.safetensors")]
    ExtraTensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// A tensor has another shape than the config implies.
    #[error(
        "{path}: tensor {name} has shape {found:?}, but config.json implies {expected:?}; use the config it was saved with"
    )]
    WrongShape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Shape in the file.
        found: Vec<usize>,
        /// Shape implied by the config.
        expected: Vec<usize>,
    },
    /// A tensor is stored in a type that the model does not read.
    #[error("{path}: tensor {name} is stored as {found}; convert it to F32 or BF16")]
    WrongDtype {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Type in the file.
        found: String,
    },
    /// A parameter was given with another number of values than its shape has.
    #[error("parameter {name}: {found} values given for shape {expected:?}; give one for each element")]
    WrongCount {
        /// The parameter.
        name: String,
        /// Values given.
        found: usize,
        /// Its shape.
        expected: Vec<usize>,
    },
    /// A weight that no scale can hold.
    #[error("parameter {name} holds a NaN or an infinity, which {format} cannot; use bf16 weights, or a whole model")]
    NotFinite {
        /// The parameter.
        name: String,
        /// The format asked for.
        format: &'static str,
    },
    /// A model of another program cannot be read.
    #[error(transparent)]
    Format(#[from] crate::formats::FormatError),
    /// The model cannot leave in a form of another program.
    #[error(transparent)]
    Export(#[from] crate::formats::ExportError),
    /// The device refused: memory, threads.
    #[error(transparent)]
    Compute(#[from] casallm_compute::ComputeError),
    /// More tokens than the model's context or the cache can hold.
    #[error("{tokens} tokens do not fit the context of {context}; shorten the prompt or use a model of longer context")]
    ContextOverflow {
        /// Tokens that would be held.
        tokens: usize,
        /// Tokens that can be held.
        context: usize,
    },
    /// A batch that the network cannot take.
    #[error("bad batch: {0}")]
    Batch(String),
    /// A setting of the sampler is outside its range.
    #[error("sampler: {field} = {value}: {remedy}")]
    Sampler {
        /// Name of the setting.
        field: &'static str,
        /// What it is.
        value: String,
        /// What to use instead.
        remedy: &'static str,
    },
    /// The model gave a logit that is not a number, or +infinity, which no distribution can be made of.
    #[error("logit of token {token} is {value}; the weights or the computation are damaged: run `casallm selftest`")]
    BadLogit {
        /// Token id.
        token: usize,
        /// The logit.
        value: f32,
    },
    /// Every token is ruled out: there are no logits, or all are -infinity.
    #[error("no token can be drawn: all {vocab_size} logits are -infinity; allow at least one token")]
    NoToken {
        /// Number of logits.
        vocab_size: usize,
    },
}

/// The files every model directory has, for messages.
const NAMES: &str = "config.json, model.safetensors and checksums.json";
