//! What was named for a model directory and is none: found out after it could not be opened, to say what to do instead.

use super::{CHECKSUMS, CONFIG};
use crate::error::ModelError;
use serde_json::Value;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Where the runs of this program keep their models, the finished one first.
const OF_A_RUN: [&str; 2] = ["model", "base"];

/// More than any `config.json` has.
const MAX_CONFIG: u64 = 1 << 20;

/// The error that `path` was refused with, or what `path` is instead of a model directory.
pub(super) fn explain(path: &Path, error: ModelError) -> ModelError {
    let owned = || path.to_owned();
    if path.is_file() {
        return if is_gguf(path) {
            ModelError::GgufFile { path: owned() }
        } else {
            ModelError::NotADirectory { path: owned() }
        };
    }
    let foreign = match &error {
        ModelError::MissingFile { .. } => true,
        // An export to Hugging Face has checksums, which hold.
        ModelError::InFile { source, .. } => matches!(**source, ModelError::ConfigSyntax(_)),
        _ => false,
    };
    if foreign && is_hugging_face(path) {
        return ModelError::HuggingFaceFolder { path: owned() };
    }
    let missing = matches!(error, ModelError::MissingFile { .. }) && !path.join(CONFIG).exists();
    let model = OF_A_RUN.map(|name| path.join(name)).into_iter().find(|model| model.join(CHECKSUMS).is_file());
    match model.filter(|_| missing) {
        Some(model) => ModelError::RunFolder { path: owned(), model },
        None => error,
    }
}

/// By what it holds, or, where it is damaged, by its name.
fn is_gguf(path: &Path) -> bool {
    let mut magic = [0; 4];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut magic));
    read.is_ok() && magic == *b"GGUF" || path.extension().is_some_and(|name| name.eq_ignore_ascii_case("gguf"))
}

/// Whether the config is one of `transformers`, which names the class that computes it.
fn is_hugging_face(path: &Path) -> bool {
    let mut text = Vec::new();
    let read = File::open(path.join(CONFIG)).and_then(|file| file.take(MAX_CONFIG).read_to_end(&mut text));
    let config = read.ok().and_then(|_| serde_json::from_slice::<Value>(&text).ok());
    config.is_some_and(|config| config.get("architectures").is_some() || config.get("model_type").is_some())
}
