//! The recipe as written: the file's table with `key=value` flags laid over it, not yet validated.

use std::fs;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::base;
use super::data::{Data, Identity, Tokenizer};
use super::dpo::Dpo;
use super::guard;
use super::model::Model;
use super::section::{Origin, Section};
use super::stages::{Pretrain, Run, Sft};
use super::{Recipe, Stage};
use crate::error::TrainError;

/// A recipe before validation.
#[derive(Debug, Clone)]
pub struct RawRecipe {
    table: Table,
    origin: Origin,
    base_dir: PathBuf,
}

impl RawRecipe {
    /// Reads a recipe file.
    ///
    /// # Errors
    /// [`TrainError::Io`] when it cannot be read, [`TrainError::RecipeSyntax`] when it is not UTF-8 or not TOML.
    pub fn load(path: &Path) -> Result<Self, TrainError> {
        let bytes = fs::read(path).map_err(|source| TrainError::from_io(path, "read", 0, source))?;
        let text = String::from_utf8(bytes).map_err(|error| TrainError::RecipeSyntax {
            file: path.display().to_string(),
            message: format!("{error}; save the file as UTF-8"),
        })?;
        let base = path.parent().unwrap_or(Path::new(""));
        Self::parse(&text, &path.display().to_string(), base)
    }

    /// Reads a recipe from text. `file` names it in messages; data paths start at `base_dir`.
    ///
    /// # Errors
    /// [`TrainError::RecipeSyntax`].
    pub fn parse(text: &str, file: &str, base_dir: &Path) -> Result<Self, TrainError> {
        let table = text.parse::<Table>().map_err(|error| TrainError::RecipeSyntax {
            file: file.to_owned(),
            message: error.to_string().trim_end().to_owned(),
        })?;
        Ok(Self { table, origin: Origin { file: file.to_owned(), ..Origin::default() }, base_dir: base_dir.to_owned() })
    }

    /// Lays `section.key=value` over the file. The value is TOML where it reads as TOML, text otherwise, so that
    /// `run.dir=my/run` needs no quotes; entries of lists are numbered from 0, as in `data.pretrain.0.path=book.txt`.
    /// `pretrain.steps` and `pretrain.tokens` replace each other.
    ///
    /// # Errors
    /// [`TrainError::RecipeOverride`] when it has no `=`, no key, or leads through something that is no section.
    pub fn apply_override(&mut self, text: &str) -> Result<(), TrainError> {
        let wrong = |remedy: String| TrainError::RecipeOverride { text: text.to_owned(), remedy };
        let (path, value) = text.split_once('=').ok_or_else(|| wrong("there is no `=`".to_owned()))?;
        let parts: Vec<&str> = path.trim().split('.').map(str::trim).collect();
        if parts.iter().any(|part| part.is_empty()) {
            return Err(wrong("the key before `=` is empty or has an empty part".to_owned()));
        }
        let (last, parents) = parts.split_last().ok_or_else(|| wrong("the key is empty".to_owned()))?;

        let mut table = &mut self.table;
        let mut key_path = String::new();
        let mut parents = parents.iter().peekable();
        while let Some(name) = parents.next() {
            key_path = if key_path.is_empty() { (*name).to_owned() } else { format!("{key_path}.{name}") };
            let entry = table.entry((*name).to_owned()).or_insert_with(|| Value::Table(Table::new()));
            table = match entry {
                Value::Table(inner) => inner,
                Value::Array(items) => {
                    let count = items.len();
                    let index = parents.next().and_then(|index| index.parse::<usize>().ok()).unwrap_or(usize::MAX);
                    let Some(Value::Table(inner)) = items.get_mut(index) else {
                        return Err(wrong(format!(
                            "`{key_path}` is a list of {count}: continue with a number below {count}, as in \
                             {key_path}.0.{last}"
                        )));
                    };
                    key_path = format!("{key_path}[{index}]");
                    inner
                }
                other => return Err(wrong(format!("`{key_path}` is a {}, not a section", other.type_str()))),
            };
        }
        if key_path == Stage::Pretrain.name() {
            match *last {
                "steps" => table.remove("tokens"),
                "tokens" => table.remove("steps"),
                _ => None,
            };
        }
        table.insert((*last).to_owned(), parse_value(value.trim()));
        let key = if key_path.is_empty() { (*last).to_owned() } else { format!("{key_path}.{last}") };
        self.origin.flags.insert(key, text.to_owned());
        Ok(())
    }

    /// Checks every key and every relation, and resolves every default.
    ///
    /// # Errors
    /// The `Recipe...` variants of [`TrainError`].
    pub fn validate(&self) -> Result<Recipe, TrainError> {
        let empty = Table::new();
        let table = base::with_its_shape(&self.table, &self.origin, &self.base_dir)?;
        let root = Section::new(&self.origin, "", &table)?;
        let section = |name: &str| match root.section(name) {
            Ok(None) => Section::new(&self.origin, name, &empty),
            Ok(Some(section)) => Ok(section),
            Err(error) => Err(error),
        };
        let sft = root.section("sft")?;
        let (is_said, imported) = (sft.is_some(), sft.is_some_and(|sft| sft.has("from")));
        let identity = root.section("identity")?.map(|section| Identity::read(&section, is_said)).transpose()?;
        let tokenizer = Tokenizer::read(&section("tokenizer")?, imported)?;
        let data_section = section("data")?;
        let data = Data::read(&data_section)?;
        let model = Model::read(&section("model")?)?;
        let run_section = section("run")?;
        let run = Run::read(&run_section)?;
        let pretrain = root.section("pretrain")?.map(|section| Pretrain::read(&section, &model)).transpose()?;
        let sft = root.section("sft")?.map(|section| Sft::read(&section, &model)).transpose()?;

        let validation_fraction = data.validation_fraction;
        let dpo = root.section("dpo")?.map(|section| Dpo::read(&section, &model, validation_fraction)).transpose()?;

        if pretrain.is_none() && sft.is_none() && dpo.is_none() {
            root.require("pretrain", None::<()>, "add a [pretrain], an [sft] or a [dpo] section, or several of them")?;
        }
        if dpo.is_some() && data.dpo.iter().all(|source| source.held_out) {
            data_section.require(
                "dpo",
                None::<()>,
                "DPO needs preference pairs: add [[data.dpo]] with name = \"...\" and path = \"...\"",
            )?;
        }
        if pretrain.is_some() && data.pretrain.is_empty() {
            data_section.require(
                "pretrain",
                None::<()>,
                "pre-training needs text: add [[data.pretrain]] with name = \"...\" and path = \"...\"",
            )?;
        }
        if let Some(sft) = &sft {
            if data.sft.is_empty() {
                data_section.require(
                    "sft",
                    None::<()>,
                    "fine-tuning needs conversations: add [[data.sft]] with name = \"...\" and path = \"...\"",
                )?;
            }
            if sft.identity_rate > 0.0 && identity.is_none() {
                root.require(
                    "identity",
                    None::<()>,
                    "fine-tuning teaches the model who it is: add [identity] with name, maker and description, or set \
                     sft.identity_rate = 0",
                )?;
            }
        }
        let recipe = Recipe {
            identity,
            tokenizer,
            data,
            model,
            run,
            pretrain,
            sft,
            dpo,
            base_dir: self.base_dir.clone(),
            file: self.origin.file.clone(),
        };
        guard::check_kept(&run_section, &recipe)?;
        Ok(recipe)
    }
}

fn parse_value(text: &str) -> Value {
    // A line break would let one flag define several keys.
    let whole = if text.contains('\n') { None } else { format!("v = {text}").parse::<Table>().ok() };
    whole
        .filter(|table| table.len() == 1)
        .and_then(|mut table| table.remove("v"))
        .unwrap_or_else(|| Value::String(text.to_owned()))
}
