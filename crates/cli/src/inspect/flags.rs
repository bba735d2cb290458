//! Flags of `data`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::args::Output;

/// `data` commands.
#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// See what the model will see: decoded batches with their loss masks, lengths and counts
    Inspect(Inspect),
}

/// Flags of `data inspect`.
#[derive(Debug, Args)]
pub struct Inspect {
    /// The recipe, a TOML file (see recipes/)
    pub recipe: PathBuf,
    /// Whose data [default: that of fine-tuning where the recipe has it, else that of the stage that it has]
    #[arg(long, value_enum)]
    pub stage: Option<InspectedStage>,
    /// Batches that are shown, of those that a forward pass takes at a time; 0 for the numbers alone
    #[arg(long, default_value_t = 1)]
    pub batches: usize,
    /// Override a value of the recipe: --set sft.context=512 (may be given again)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// What to print.
    #[command(flatten)]
    pub output: Output,
}

/// A stage of a recipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum InspectedStage {
    /// Documents, cut into rows
    Pretrain,
    /// Conversations, packed
    Sft,
    /// Preference pairs
    Dpo,
}
