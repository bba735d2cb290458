//! What to do with a folder that was fetched: the lines of a recipe, or the command that reads it.

use std::fs;
use std::path::{Path, PathBuf};

use casallm_data::hub::{Manifest, Request, Use};
use casallm_data::source::{find_files, open_records};
use serde_json::Value;

use crate::streams::word;

/// For people: the lines for a recipe that names the folder, or the command that reads it.
pub(super) fn usage(request: &Request, manifest: &Manifest, text_field: Option<&str>) -> String {
    let folder = absolute(&request.folder);
    let name: String = request.folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let name: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')).collect();
    let source = |section: &str, more: &str| {
        // JSON writes a text as TOML does.
        let (name, path) = (Value::from(name.trim_start_matches('.')), Value::from(folder.display().to_string()));
        format!("put this into a recipe:\n\n[[data.{section}]]\nname = {name}\npath = {path}\n{more}")
    };
    let columns = columns(request, manifest);
    let has = |column: &str| columns.iter().any(|found| found == column);
    let text = |field: &str| match field {
        "text" => source("pretrain", ""),
        field => source("pretrain", &format!("text_field = {}\n", Value::from(field))),
    };
    match request.known.map(|known| known.used) {
        Some(Use::Eval(_)) => {
            let parent = folder.parent().unwrap_or(&folder);
            format!("judge a model by it: casallm eval --model DIR --data {}", word(parent))
        }
        Some(Use::Sft) => source("sft", ""),
        Some(Use::Dpo) => source("dpo", ""),
        Some(Use::Pretrain) => text(text_field.unwrap_or("text")),
        None => match text_field {
            Some(field) => text(field),
            None if has("chosen") && has("rejected") => source("dpo", ""),
            None if has("messages") || has("conversations") || (has("instruction") && has("output")) => {
                source("sft", "")
            }
            None if has("text") || columns.is_empty() => text("text"),
            None => format!(
                "its rows have {}: name the one that holds the text with --text-field, and it goes into a recipe as text_field",
                columns.join(", ")
            ),
        },
    }
}

/// The keys of the first row of the first file; none for plain text, or where they cannot be read.
fn columns(request: &Request, manifest: &Manifest) -> Vec<String> {
    let first = manifest.files.iter().map(|file| request.folder.join(&file.path)).find(|path| find_files(path).is_ok());
    match first.and_then(|path| open_records(&path).ok()).and_then(|mut rows| rows.next()) {
        Some(Ok(Value::Object(fields))) => fields.keys().cloned().collect(),
        _ => Vec::new(),
    }
}

/// Paths of recipes are relative to the recipe, which may stand anywhere.
fn absolute(folder: &Path) -> PathBuf {
    let path = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_path_buf());
    // Windows' long form is refused by other programs.
    match path.to_str().and_then(|text| text.strip_prefix(r"\\?\")) {
        Some(short) => PathBuf::from(short),
        None => path,
    }
}
