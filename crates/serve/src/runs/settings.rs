//! The recipe of a run, as it was used.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};

/// Longer recipes are cut for show.
const MOST: u64 = 1 << 20;

/// A run's recipe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The file's name: `settings.toml`, which holds all that was in force, or `recipe.toml`, as somebody wrote it.
    pub file: &'static str,
    /// Its text, at most a megabyte of it.
    pub text: String,
    /// SHA-256 of these bytes, in hexadecimal.
    pub sha256: String,
}

impl Settings {
    /// Of the run in this folder, if it has any that can be read.
    pub fn of(folder: &Path) -> Option<Self> {
        ["settings.toml", "recipe.toml"].into_iter().find_map(|file| {
            let path = folder.join(file);
            if !fs::metadata(&path).ok()?.is_file() {
                return None;
            }
            let mut bytes = Vec::new();
            File::open(path).ok()?.take(MOST).read_to_end(&mut bytes).ok()?;
            let sha256 = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
            Some(Settings { file, text: String::from_utf8_lossy(&bytes).into_owned(), sha256 })
        })
    }

    /// Steps that a stage is to have, where the recipe decides them; fine-tuning counts passes over its data instead.
    pub fn planned(&self, stage: &str) -> Option<u64> {
        let table: toml::Table = self.text.parse().ok()?;
        let number = |key: &str| table.get(stage)?.get(key)?.as_integer().and_then(|number| u64::try_from(number).ok());
        let by_tokens = || Some(number("tokens")?.div_ceil(number("batch_tokens").filter(|tokens| *tokens > 0)?));
        number("steps").or_else(by_tokens).filter(|steps| *steps > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_in_force_goes_before_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Settings::of(folder.path()), None);
        fs::write(folder.path().join("recipe.toml"), "[pretrain]\ntokens = 1_000\nbatch_tokens = 300\n").unwrap();
        let settings = Settings::of(folder.path()).unwrap();
        assert_eq!(
            (settings.file, settings.planned("pretrain"), settings.planned("sft")),
            ("recipe.toml", Some(4), None)
        );
        fs::write(folder.path().join("settings.toml"), "[pretrain]\nsteps = 7\n[sft]\nsteps = \"x\"\n").unwrap();
        let settings = Settings::of(folder.path()).unwrap();
        assert_eq!(
            (settings.file, settings.planned("pretrain"), settings.planned("sft")),
            ("settings.toml", Some(7), None)
        );
        assert_eq!(settings.sha256.len(), 64);
        fs::write(folder.path().join("settings.toml"), b"\xff not [ toml").unwrap();
        assert_eq!(Settings::of(folder.path()).unwrap().planned("pretrain"), None);
    }
}
