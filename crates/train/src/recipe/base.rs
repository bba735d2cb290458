//! `sft.from`: the recipe of a model that was trained elsewhere has that model's shape.

use std::path::Path;

use casallm_model::config::{ModelConfig, Norm};
use casallm_model::directory::ModelDirectory;
use toml::{Table, Value};

use super::section::Origin;
use crate::error::TrainError;

/// The recipe's table, with `[model]` and `tokenizer.vocab_size` those of the model that `sft.from` names, whatever is written
/// there; but `dropout` is the recipe's. Where the folder is gone a recipe that has the shape keeps it, so that what a run has
/// left can be read wherever it is now.
///
/// # Errors
/// There is no such model, and the recipe does not say its shape.
pub(super) fn with_its_shape(table: &Table, origin: &Origin, base_dir: &Path) -> Result<Table, TrainError> {
    let mut table = table.clone();
    let from = table.get("sft").and_then(|sft| sft.get("from")).and_then(Value::as_str);
    let Some(from) = from.map(str::to_owned).filter(|from| !from.trim().is_empty()) else { return Ok(table) };
    let config = match ModelDirectory::open(&base_dir.join(&from)) {
        Ok(directory) => directory.config().clone(),
        Err(_) if table.get("model").is_some_and(|model| model.get("n_layer").is_some()) => return Ok(table),
        Err(error) => {
            return Err(TrainError::RecipeValue {
                file: origin.of("sft.from"),
                key: "sft.from".to_owned(),
                found: format!("{from:?}"),
                remedy: format!(
                    "{error}; name a model directory, such as `casallm import` makes, by its path from the recipe's folder"
                ),
            });
        }
    };
    let dropout = table.get("model").and_then(|model| model.get("dropout")).cloned();
    let mut model = shape(&config)
        .map_err(|error| TrainError::RecipeSyntax { file: origin.of("sft.from"), message: error.to_string() })?;
    model.extend(dropout.map(|dropout| ("dropout".to_owned(), dropout)));
    table.insert("model".to_owned(), Value::Table(model));
    let tokenizer = table.entry("tokenizer").or_insert_with(|| Value::Table(Table::new()));
    if let Value::Table(tokenizer) = tokenizer {
        tokenizer.insert("vocab_size".to_owned(), integer(config.vocab_size));
    }
    Ok(table)
}

/// `[model]` of this shape.
fn shape(config: &ModelConfig) -> Result<Table, toml::ser::Error> {
    // The decimal number that was written, and not the nearest single in 17 digits.
    let float = |value: f32| Value::Float(value.to_string().parse().unwrap_or(f64::from(value)));
    let mut table = Table::try_from(config)?;
    table.remove("vocab_size");
    table.remove("dropout");
    let block = if config.norm == Norm::LayerNorm { "classic" } else { "modern" };
    table.insert("block".to_owned(), Value::String(block.to_owned()));
    table.insert("rope_theta".to_owned(), float(config.rope_theta));
    table.insert("norm_eps".to_owned(), float(config.norm_eps));
    Ok(table)
}

fn integer(value: usize) -> Value {
    Value::Integer(i64::try_from(value).unwrap_or(i64::MAX))
}
