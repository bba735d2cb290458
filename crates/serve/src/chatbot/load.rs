//! From a model directory to a chatbot.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use casallm_compute::{CacheFormat, Device, MatrixFormat, MatrixUse};
use casallm_data::chat::ChatTemplate;
use casallm_data::file_lock::LockError;
use casallm_data::tokenizer::Tokenizer;
use casallm_model::directory::{GENERATION_CONFIG, ModelDirectory, TOKENIZER, TOKENIZER_CONFIG, WEIGHTS};
use casallm_model::error::ModelError;
use casallm_model::network::Network;
use casallm_model::parameters::Parameters;
use casallm_model::sequences::Sequences;
use thiserror::Error;

use super::{Chatbot, ModelCard};
use crate::engine::{Engine, EngineConfig, Spill};

/// Tokens of one pass: long enough that the matrix kernels are at their best.
const PASS_TOKENS: usize = 512;

/// How to load.
#[derive(Debug)]
pub struct LoadOptions {
    /// How weights are held.
    pub format: MatrixFormat,
    /// How keys and values are held.
    pub kv_cache: CacheFormat,
    /// Sequences that are answered at once.
    pub sequences: usize,
    /// Most tokens of a sequence; `None` for the model's context.
    pub context: Option<usize>,
    /// Of the engine.
    pub engine: EngineConfig,
    /// Where sequences are kept that have no room in memory, and how many bytes they may take.
    pub spill: Option<(PathBuf, u64)>,
}

/// Why a model cannot be loaded.
#[derive(Debug, Error)]
pub enum LoadError {
    /// Its directory is not what it should be, or the memory cannot be had.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Its tokenizer or its template is not.
    #[error("{path}: {source}")]
    Data {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        source: casallm_data::Error,
    },
    /// Model and tokenizer are not a pair.
    #[error("{path}: the model has a vocabulary of {model}, its tokenizer.json one of {tokenizer}; restore the pair")]
    Vocabulary {
        /// The directory.
        path: PathBuf,
        /// Ids of the model.
        model: usize,
        /// Ids of the tokenizer.
        tokenizer: usize,
    },
    /// A cache on disk is of one model, which must have a name.
    #[error(
        "{path}: checksums.json has no line for model.safetensors, without which a cache on disk cannot be told from another model's; restore it or leave --cache-dir out"
    )]
    NoChecksum {
        /// The directory.
        path: PathBuf,
    },
    /// Two servers do not share the folder of a cache.
    #[error(
        "{path}: the cache is in use by {}. Stop that server, or give this one another --cache-dir",
        pid.map_or("another process".to_owned(), |pid| format!("process {pid}"))
    )]
    CacheLocked {
        /// The folder.
        path: PathBuf,
        /// The process that holds it, where known.
        pid: Option<u32>,
    },
    /// The folder of the cache cannot be used.
    #[error("{path}: no cache can be kept there: {source}; give another --cache-dir, or leave it out")]
    CacheFolder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// No thread can be had.
    #[error("{path}: the system gives no thread for it: {source}")]
    Thread {
        /// The model's directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl Chatbot {
    /// Loads a model directory onto a device and starts its engine.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn load<D: Device + 'static>(dir: &Path, device: &Arc<D>, options: LoadOptions) -> Result<Self, LoadError> {
        let directory = ModelDirectory::open(dir)?;
        let data = |source| LoadError::Data { path: dir.to_owned(), source };
        let tokenizer = Tokenizer::of_model(directory.text(TOKENIZER)?.as_bytes()).map_err(data)?;
        let generation = dir.join(GENERATION_CONFIG).exists().then(|| directory.text(GENERATION_CONFIG)).transpose()?;
        let settings = directory.text(TOKENIZER_CONFIG)?;
        let template = ChatTemplate::of_model(&settings, generation.as_deref(), &tokenizer).map_err(data)?;
        let config = directory.config().clone();
        if config.vocab_size != tokenizer.vocab_size() {
            let (model, tokenizer) = (config.vocab_size, tokenizer.vocab_size());
            return Err(LoadError::Vocabulary { path: dir.to_owned(), model, tokenizer });
        }
        let format = options.format;
        let parameters = Parameters::load(device.clone(), &directory, format, MatrixUse::Inference)?;
        let info = device.info();
        let device_name = format!("{} ({})", info.name, info.isa);
        let card = ModelCard {
            id: name(dir),
            parameters: config.n_params() as u64,
            device: device_name.clone(),
            created: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            tokenizer: tokenizer.fingerprint(),
        };
        let network: Arc<Network<D>> = Arc::new(Network::new(config.clone(), format.activations(), parameters)?);
        let capacity = options.context.unwrap_or(config.context);
        let sequences =
            Sequences::with_cache(network, options.kv_cache, options.sequences.max(1), capacity, PASS_TOKENS)?;
        let spill = match &options.spill {
            Some((path, bytes)) => {
                // Whoever edits weights removes their checksum; then nobody knows what an old cache is of.
                let weights =
                    directory.checksum(WEIGHTS).ok_or_else(|| LoadError::NoChecksum { path: dir.to_owned() })?;
                let fingerprint = format!("{weights} {} {} {device_name}", format.name(), options.kv_cache.name());
                Some(Spill::open(path, &fingerprint, *bytes).map_err(|error| match error {
                    LockError::Held { pid } => LoadError::CacheLocked { path: path.clone(), pid },
                    LockError::Io(source) => LoadError::CacheFolder { path: path.clone(), source },
                })?)
            }
            None => None,
        };
        let engine = Engine::start(sequences, &options.engine, spill)
            .map_err(|source| LoadError::Thread { path: dir.to_owned(), source })?;
        let opening = tokenizer.opening(&settings);
        Ok(Chatbot::new(engine, Arc::new(tokenizer), template, opening, card))
    }
}

/// The last part of a path, with the one above where the last is only `model` or `base`.
fn name(dir: &Path) -> String {
    let full = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let mut parts = full.components().rev().filter_map(|part| match part {
        Component::Normal(part) => Some(part.to_string_lossy()),
        _ => None,
    });
    let last = parts.next().unwrap_or("model".into());
    match parts.next() {
        Some(above) if last == "model" || last == "base" => format!("{above}-{last}"),
        _ => last.into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_has_the_name_of_its_folder() {
        for (path, expected) in [
            ("/nowhere/runs/mine/model", "mine-model"),
            ("/nowhere/runs/mine", "mine"),
            ("/nowhere/base", "nowhere-base"),
            // As in a container.
            ("/base", "base"),
            ("/", "model"),
        ] {
            assert_eq!(name(Path::new(path)), expected);
        }
    }
}
