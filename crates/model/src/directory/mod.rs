//! The model directory: the form in which a model is kept, handed from stage to stage, and given away.
//!
//! | file | holds |
//! | --- | --- |
//! | `config.json` | the shape: [`ModelConfig`] |
//! | `model.safetensors` | the weights, in the order of [`ModelConfig::parameters`] |
//! | `tokenizer.json`, `tokenizer_config.json`, `generation_config.json` | text this crate keeps but does not read |
//! | `checksums.json` | SHA-256 of each of the others, verified whenever one is read |
//!
//! Saving writes every file beside its place and renames only when all of them are on the disk, `checksums.json` last:
//! a save that fails or is killed leaves the model that was there, and the one moment in which it could not, between
//! the renames, leaves files that the checksums refuse. Weights pass through one tensor at a time.

pub(crate) mod atomic;
pub(crate) mod checksums;
mod mistaken;
mod weights;

pub use weights::StoredDtype;

use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::specification::ParameterSpec;
use atomic::Staging;
use checksums::Checksums;
use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Name of the file that holds the config.
pub const CONFIG: &str = "config.json";
/// Name of the file that holds the weights.
pub const WEIGHTS: &str = "model.safetensors";
/// Name of the file that holds the tokenizer.
pub const TOKENIZER: &str = "tokenizer.json";
/// Name of the file that holds the special tokens and the `chat_template`.
pub const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
/// Name of the file that holds the sampler's settings and the tokens that end a generation.
pub const GENERATION_CONFIG: &str = "generation_config.json";
/// Name of the file that holds the checksums of the others.
pub const CHECKSUMS: &str = "checksums.json";

/// A text file kept beside the weights.
#[derive(Debug, Clone, Copy)]
pub struct TextFile<'a> {
    /// A plain file name, such as [`TOKENIZER`].
    pub name: &'a str,
    /// All of its text.
    pub contents: &'a str,
}

/// Writes a model directory, making the folder if it is not there and replacing the files of a model that is.
///
/// `values` gives each parameter as row-major f32, asked for once and in the order of [`ModelConfig::parameters`];
/// they are rounded to nearest-even when `dtype` is bf16. Other files in the folder are left alone.
///
/// # Errors
/// A config that [`ModelConfig::validate`] refuses, a text name that is not plain, a parameter of the wrong length,
/// whatever `values` returns, and failures of the disk. The folder then holds what it held before.
pub fn save_model<'a>(
    dir: &Path,
    config: &ModelConfig,
    dtype: StoredDtype,
    texts: &[TextFile<'_>],
    values: impl FnMut(&ParameterSpec) -> Result<Cow<'a, [f32]>, ModelError>,
) -> Result<(), ModelError> {
    let config_json = config.to_json()?;
    check_text_names(texts)?;
    let mut staging = Staging::new(dir)?;
    let mut sums = Checksums::default();
    let own = TextFile { name: CONFIG, contents: &config_json };
    for TextFile { name, contents } in texts.iter().copied().chain([own]) {
        sums.note(name, checksums::of(contents.as_bytes()));
        staging.write(name, contents.as_bytes())?;
    }
    let path = dir.join(WEIGHTS);
    let sum = staging.write_with(WEIGHTS, |file| weights::write(file, &path, config, dtype, values))?;
    sums.note(WEIGHTS, sum);
    staging.write(CHECKSUMS, sums.to_json().as_bytes())?;
    staging.publish()
}

/// Refuses a name that would land elsewhere or on a file that the model writes itself.
pub(crate) fn check_text_names(texts: &[TextFile<'_>]) -> Result<(), ModelError> {
    match texts.iter().find(|text| !is_plain_name(text.name)) {
        Some(text) => Err(ModelError::NotAFileName { name: text.name.to_owned() }),
        None => Ok(()),
    }
}

/// A name that stays in the folder, is no hidden or temporary file, and is not one the model writes itself.
fn is_plain_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    !name.is_empty()
        && name.chars().all(plain)
        && !name.starts_with('.')
        && ![CONFIG, WEIGHTS, CHECKSUMS].contains(&name)
}

/// A model directory that has been opened: its config is read and validated, its weights not yet.
#[derive(Debug)]
pub struct ModelDirectory {
    path: PathBuf,
    config: ModelConfig,
    sums: Checksums,
}

impl ModelDirectory {
    /// Opens a model directory.
    ///
    /// # Errors
    /// A missing `config.json` or `checksums.json`, a config that does not match its checksum or is wrong; something else
    /// that was named for a model directory: a file, the folder of a run, a model of another program.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        Self::read(path).map_err(|error| mistaken::explain(path, error))
    }

    fn read(path: &Path) -> Result<Self, ModelError> {
        let sums = Checksums::read(&path.join(CHECKSUMS))?;
        let config = ModelConfig::from_json(&sums.read_text(path, CONFIG)?)
            .map_err(|source| ModelError::InFile { path: path.join(CONFIG), source: Box::new(source) })?;
        Ok(Self { path: path.to_owned(), config, sums })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The shape of the model.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The SHA-256 that a file is expected to have, in hex, if `checksums.json` says.
    pub fn checksum(&self, name: &str) -> Option<&str> {
        self.sums.expected(name)
    }

    /// The contents of a text file, such as [`TOKENIZER`].
    ///
    /// # Errors
    /// A missing file, one that does not match its checksum, or one that is not UTF-8.
    pub fn text(&self, name: &str) -> Result<String, ModelError> {
        if !is_plain_name(name) {
            return Err(ModelError::NotAFileName { name: name.to_owned() });
        }
        self.sums.read_text(&self.path, name)
    }

    /// The parameters in the order in which [`ModelDirectory::read_weights`] gives them.
    ///
    /// # Errors
    /// Those of [`ModelDirectory::read_weights`] that are seen before the first tensor.
    pub(crate) fn weights_order(&self) -> Result<Vec<ParameterSpec>, ModelError> {
        let path = self.path.join(WEIGHTS);
        let mut file = File::open(&path).map_err(|source| atomic::unreadable(&path, source))?;
        weights::order(&mut file, &path, &self.config)
    }

    /// Reads the weights, one tensor at a time and in the order of the file, and hands each to `receive` as row-major
    /// f32. Nothing is handed over before names, shapes and types of all tensors are known to be those of the config.
    ///
    /// The checksum is known only after the last tensor: on an error what was received must not be used.
    ///
    /// # Errors
    /// A file that is missing, cut, padded or altered; a header that lies; a tensor missing, extra, or of another
    /// shape or type; whatever `receive` returns.
    pub fn read_weights(
        &self,
        receive: impl FnMut(&ParameterSpec, StoredDtype, Vec<f32>) -> Result<(), ModelError>,
    ) -> Result<(), ModelError> {
        let path = self.path.join(WEIGHTS);
        let file = File::open(&path).map_err(|source| atomic::unreadable(&path, source))?;
        let sum = weights::read(file, &path, &self.config, receive)?;
        self.sums.verify(&path, WEIGHTS, sum)
    }
}

/// One parameter as it was read.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadedParameter {
    /// Its name, shape and kind.
    pub spec: ParameterSpec,
    /// How it was stored.
    pub dtype: StoredDtype,
    /// Its values, row-major.
    pub values: Vec<f32>,
}

/// Opens a model directory and reads all of its weights, in the order of [`ModelConfig::parameters`].
///
/// # Errors
/// As [`ModelDirectory::open`] and [`ModelDirectory::read_weights`].
pub fn load_weights(dir: &Path) -> Result<(ModelConfig, Vec<LoadedParameter>), ModelError> {
    let directory = ModelDirectory::open(dir)?;
    let specs = directory.config.parameters();
    let order: HashMap<&str, usize> = specs.iter().enumerate().map(|(i, spec)| (spec.name.as_str(), i)).collect();
    let mut loaded = Vec::new();
    directory.read_weights(|spec, dtype, values| {
        loaded.push(LoadedParameter { spec: spec.clone(), dtype, values });
        Ok(())
    })?;
    loaded.sort_by_key(|parameter| order.get(parameter.spec.name.as_str()).copied());
    Ok((directory.config, loaded))
}

#[cfg(test)]
mod tests;
