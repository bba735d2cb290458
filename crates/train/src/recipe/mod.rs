//! The recipe: one TOML file that reads as the whole product, from data to chatbot.
//!
//! [`RawRecipe`] holds the file as written plus `key=value` flags; [`RawRecipe::validate`] turns it, once, into a
//! [`Recipe`] with every default resolved and every relation checked, which the rest of the program trusts. Called by
//! the command line; the trainer reads the validated sections. The annotated example is `recipes/casallm-350m.toml`.
//!
//! Paths of data are relative to the recipe's own folder, `run.dir` to the current directory.

mod base;
mod data;
mod dpo;
mod files;
mod guard;
mod keeping;
mod model;
mod optimization;
mod raw;
mod schema;
mod section;
mod stages;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use casallm_model::workspace::Recompute;
use serde::Serialize;
use sha2::{Digest, Sha256};

pub use data::{Data, DpoSource, Identity, PretrainSource, SftSource, Tokenizer};
pub use dpo::{Dpo, PAIR_ROWS};
pub use keeping::{Keeping, Repetitions};
pub use model::{Activation, Block, Model, Norm};
pub use optimization::{Moments, Optimization, Optimizer, Span, WeightRounding};
pub use raw::RawRecipe;
pub use stages::{Checkpointing, Choice, DeviceKind, Offload, Precision, Pretrain, Run, Sft};

use crate::error::TrainError;
use crate::stages::EMBEDDED;

/// One of the training stages of a recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Next-token prediction on documents.
    Pretrain,
    /// Supervised fine-tuning on conversations.
    Sft,
    /// Direct preference optimisation on pairs of answers.
    Dpo,
}

impl Stage {
    /// In their order.
    pub const ALL: [Self; 3] = [Self::Pretrain, Self::Sft, Self::Dpo];

    /// The name of its section, which is also what `metrics.jsonl` calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pretrain => "pretrain",
            Self::Sft => "sft",
            Self::Dpo => "dpo",
        }
    }
}

/// A validated recipe: no default is left open and no two values contradict each other.
///
/// Fields are in the order of the file; the serialised form of this struct is the canonical recipe.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Recipe {
    /// Who the chatbot is. Present whenever fine-tuning teaches it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// The vocabulary.
    pub tokenizer: Tokenizer,
    /// What is learned from.
    pub data: Data,
    /// The shape of the model.
    pub model: Model,
    /// Where, on what, and from which seed.
    pub run: Run,
    /// First stage. `None`: the recipe only tunes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pretrain: Option<Pretrain>,
    /// Second stage. `None`: the recipe has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sft: Option<Sft>,
    /// Third stage. `None`: the recipe has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dpo: Option<Dpo>,
    /// Where data paths start: the recipe's folder.
    #[serde(skip)]
    pub base_dir: PathBuf,
    /// The recipe's file, for messages.
    #[serde(skip)]
    pub file: String,
}

/// A key that differs between a recipe and the one that a checkpoint was made with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Path of the key.
    pub key: String,
    /// Value in the checkpoint, `None` when it was not there.
    pub saved: Option<String>,
    /// Value now.
    pub now: Option<String>,
}

impl Recipe {
    /// Reads, overrides and validates a recipe. Each override is `section.key=value`.
    ///
    /// # Errors
    /// [`TrainError::Io`] and every `Recipe...` variant.
    pub fn load<S: AsRef<str>>(path: &Path, overrides: &[S]) -> Result<Self, TrainError> {
        let mut raw = RawRecipe::load(path)?;
        for text in overrides {
            raw.apply_override(text.as_ref())?;
        }
        raw.validate()
    }

    /// The `[pretrain]` section.
    ///
    /// # Errors
    /// [`TrainError::RecipeMissingKey`] when the recipe has none.
    pub fn pretrain(&self) -> Result<&Pretrain, TrainError> {
        self.pretrain.as_ref().ok_or_else(|| self.missing("pretrain", "add a [pretrain] section with tokens and lr"))
    }

    /// The `[sft]` section.
    ///
    /// # Errors
    /// [`TrainError::RecipeMissingKey`] when the recipe has none.
    pub fn sft(&self) -> Result<&Sft, TrainError> {
        self.sft.as_ref().ok_or_else(|| self.missing("sft", "add an [sft] section and at least one [[data.sft]]"))
    }

    /// The `[dpo]` section.
    ///
    /// # Errors
    /// [`TrainError::RecipeMissingKey`] when the recipe has none.
    pub fn dpo(&self) -> Result<&Dpo, TrainError> {
        self.dpo.as_ref().ok_or_else(|| self.missing("dpo", "add a [dpo] section and at least one [[data.dpo]]"))
    }

    /// Tokens of a row and of an optimizer step of a stage; `None` when the recipe does not have it.
    pub fn stage_tokens(&self, stage: Stage) -> Option<(usize, usize)> {
        match stage {
            Stage::Pretrain => self.pretrain.as_ref().map(|s| (s.context, s.batch_tokens)),
            Stage::Sft => self.sft.as_ref().map(|s| (s.context, s.batch_tokens)),
            Stage::Dpo => self.dpo.as_ref().map(|s| (s.context, s.batch_tokens)),
        }
    }

    /// The model directory that fine-tuning begins with, where the recipe names one in place of the run's own.
    pub fn sft_from(&self) -> Option<PathBuf> {
        self.sft.as_ref()?.from.as_ref().map(|from| self.base_dir.join(from))
    }

    fn missing(&self, key: &str, remedy: &str) -> TrainError {
        TrainError::RecipeMissingKey { file: self.file.clone(), key: key.to_owned(), remedy: remedy.to_owned() }
    }

    /// The canonical TOML: every value that will be used, in a fixed order. Reading it gives this recipe again.
    ///
    /// # Errors
    /// [`TrainError::RecipeSyntax`] when a value has no TOML form; no validated recipe holds one.
    pub fn to_toml(&self) -> Result<String, TrainError> {
        toml::to_string(self).map_err(|error| self.unwritable(&error))
    }

    /// SHA-256 of [`Recipe::to_toml`] in hexadecimal: two files that mean the same have the same hash, whatever
    /// their comments, order and omitted defaults.
    ///
    /// # Errors
    /// As [`Recipe::to_toml`].
    pub fn hash(&self) -> Result<String, TrainError> {
        Ok(sha256(&self.to_toml()?))
    }

    /// The part of the canonical TOML that decides the numbers of one stage: what a resumed run must have in common
    /// with the run that wrote the checkpoint. The directory, the number of threads, what is computed again, where the
    /// optimizer's state lies, how much memory documents are compared in, what samples are written, when and how checkpoints are written and kept, and what the guard does from here on may
    /// change; so may the other stages. (What DPO measures text on is the other stages' data.)
    ///
    /// # Errors
    /// As [`Recipe::to_toml`].
    pub fn stage_toml(&self, stage: Stage) -> Result<String, TrainError> {
        let mut table = toml::Table::try_from(self).map_err(|error| self.unwritable(&error))?;
        if stage == Stage::Pretrain {
            table.remove("identity");
        }
        let others = Stage::ALL.map(Stage::name).into_iter().filter(|name| *name != stage.name()).collect::<Vec<_>>();
        others.iter().for_each(|other| drop(table.remove(*other)));
        for (section, keys) in [
            ("data", &["duplicates_memory"][..]),
            ("data", if stage == Stage::Dpo { &[][..] } else { &others[..] }),
            ("run", &["dir", "threads", "offload", "checkpoint", "guard"]),
            (stage.name(), &["samples", "checkpoint_every", "keep_last", "keep_every", "recompute"]),
        ] {
            if let Some(toml::Value::Table(section)) = table.get_mut(section) {
                for key in keys {
                    section.remove(*key);
                }
            }
        }
        toml::to_string(&table).map_err(|error| self.unwritable(&error))
    }

    /// SHA-256 of [`Recipe::stage_toml`] in hexadecimal.
    ///
    /// # Errors
    /// As [`Recipe::to_toml`].
    pub fn stage_hash(&self, stage: Stage) -> Result<String, TrainError> {
        Ok(sha256(&self.stage_toml(stage)?))
    }

    /// The recipe with a micro-batch of so many rows in one stage.
    #[must_use]
    pub fn with_micro_batch(&self, stage: Stage, rows: usize) -> Self {
        let mut recipe = self.clone();
        match stage {
            Stage::Pretrain => recipe.pretrain.iter_mut().for_each(|s| s.micro_batch = Choice::Given(rows)),
            Stage::Sft => recipe.sft.iter_mut().for_each(|s| s.micro_batch = Choice::Given(rows)),
            Stage::Dpo => recipe.dpo.iter_mut().for_each(|s| s.micro_batch = Choice::Given(rows)),
        }
        recipe
    }

    /// The recipe with a level of recomputation in one stage.
    #[must_use]
    pub fn with_recompute(&self, stage: Stage, level: Recompute) -> Self {
        let mut recipe = self.clone();
        match stage {
            Stage::Pretrain => recipe.pretrain.iter_mut().for_each(|s| s.recompute = Choice::Given(level)),
            Stage::Sft => recipe.sft.iter_mut().for_each(|s| s.recompute = Choice::Given(level)),
            Stage::Dpo => recipe.dpo.iter_mut().for_each(|s| s.recompute = Choice::Given(level)),
        }
        recipe
    }

    /// Every key in which this recipe differs from the [`Recipe::stage_toml`] kept in a checkpoint, in order of name.
    ///
    /// # Errors
    /// [`TrainError::RecipeSyntax`] when `saved` is not TOML.
    pub fn differences(&self, stage: Stage, saved: &str) -> Result<Vec<Difference>, TrainError> {
        let parse = |text: &str| {
            text.parse::<toml::Table>().map(|table| section::leaves(&toml::Value::Table(table))).map_err(|error| {
                TrainError::RecipeSyntax {
                    file: "the recipe kept in the checkpoint".to_owned(),
                    message: error.to_string(),
                }
            })
        };
        let (saved, now) = (parse(saved)?, parse(&self.stage_toml(stage)?)?);
        let mut keys: Vec<&String> = saved.keys().chain(now.keys()).collect();
        keys.sort();
        keys.dedup();
        Ok(keys
            .into_iter()
            .filter(|key| saved.get(*key) != now.get(*key))
            .map(|key| Difference { key: key.clone(), saved: saved.get(key).cloned(), now: now.get(key).cloned() })
            .collect())
    }

    /// The files of a pre-training source, in order of name.
    ///
    /// # Errors
    /// [`TrainError::RecipeNoFiles`] when the path, folder or pattern leads to none.
    pub fn pretrain_files(&self, source: &PretrainSource) -> Result<Vec<PathBuf>, TrainError> {
        self.files(&format!("data.pretrain.{}.path", source.name), &source.path, false)
    }

    /// Where the evaluation sets are that no document may hold a piece of.
    ///
    /// # Errors
    /// [`TrainError::RecipeNoFiles`] when a path, folder or pattern leads to none.
    pub fn decontaminate_paths(&self) -> Result<Vec<PathBuf>, TrainError> {
        let key = "data.decontaminate";
        let paths = self.data.decontaminate.iter();
        paths.map(|path| self.files(key, path, false).and_then(|_| Ok(self.whole(key, path)?.into()))).collect()
    }

    /// The recipe with the paths of its data written out, so that it means the same wherever its file stands.
    ///
    /// # Errors
    /// [`TrainError::RecipeNoFiles`] when the name of a folder is not Unicode.
    pub fn placed(&self) -> Result<Self, TrainError> {
        let mut recipe = self.clone();
        let data = &mut recipe.data;
        let paths = data.pretrain.iter_mut().map(|source| ("data.pretrain.path", &mut source.path));
        let paths = paths.chain(data.sft.iter_mut().map(|source| ("data.sft.path", &mut source.path)));
        let paths = paths.chain(data.dpo.iter_mut().map(|source| ("data.dpo.path", &mut source.path)));
        let paths = paths.chain(data.decontaminate.iter_mut().map(|path| ("data.decontaminate", path)));
        let from = recipe.sft.iter_mut().filter_map(|sft| sft.from.as_mut()).map(|from| ("sft.from", from));
        for (key, path) in paths.chain(from).filter(|(_, path)| !path.starts_with(EMBEDDED)) {
            *path = self.whole(key, path)?;
        }
        Ok(recipe)
    }

    fn whole(&self, key: &str, path: &str) -> Result<String, TrainError> {
        files::absolute(&self.base_dir, path).map_err(|remedy| TrainError::RecipeNoFiles {
            file: self.file.clone(),
            key: key.to_owned(),
            found: path.to_owned(),
            remedy,
        })
    }

    /// The files of a fine-tuning source, in order of name.
    ///
    /// # Errors
    /// [`TrainError::RecipeNoFiles`] when the path, folder or pattern leads to none.
    pub fn sft_files(&self, source: &SftSource) -> Result<Vec<PathBuf>, TrainError> {
        self.files(&format!("data.sft.{}.path", source.name), &source.path, true)
    }

    /// The files of a source of preference pairs, in order of name.
    ///
    /// # Errors
    /// [`TrainError::RecipeNoFiles`] when the path, folder or pattern leads to none.
    pub fn dpo_files(&self, source: &DpoSource) -> Result<Vec<PathBuf>, TrainError> {
        self.files(&format!("data.dpo.{}.path", source.name), &source.path, true)
    }

    /// `records`: not of plain text, where a folder is meant.
    fn files(&self, key: &str, path: &str, records: bool) -> Result<Vec<PathBuf>, TrainError> {
        files::expand(&self.base_dir, path, records).map_err(|remedy| TrainError::RecipeNoFiles {
            file: self.file.clone(),
            key: key.to_owned(),
            found: path.to_owned(),
            remedy,
        })
    }

    fn unwritable(&self, error: &toml::ser::Error) -> TrainError {
        TrainError::RecipeSyntax { file: self.file.clone(), message: error.to_string() }
    }
}

fn sha256(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}
