//! Flags of `sweep`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::args::{Compute, Output};

/// Flags of `sweep`.
#[derive(Debug, Args)]
pub struct Sweep {
    /// The recipe that the trials vary
    pub recipe: PathBuf,
    /// Values of a key of the recipe: --grid pretrain.lr=1e-3,2e-3 (may be given again: every combination is tried)
    #[arg(long = "grid", value_name = "KEY=VALUE,VALUE")]
    pub grid: Vec<String>,
    /// Repeat each combination with so many seeds of weights and dropout (run.seed and the numbers after it), for mean and
    /// deviation
    #[arg(long, default_value_t = 1)]
    pub seeds: u64,
    /// The stage that is tried; sft and dpo begin with the model of the recipe's own run
    #[arg(long, value_enum, default_value_t = SweptStage::Pretrain)]
    pub stage: SweptStage,
    /// Folder of the trials and the table; run again with the same folder to go on [default: sweep/ in the recipe's run.dir]
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Trials at a time, which share the processor's cores; speeds are then those of shared cores
    #[arg(long, default_value_t = 1)]
    pub jobs: usize,
    /// Override a value of the recipe for all trials: --set pretrain.steps=400 (may be given again)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// Write TensorBoard's event files too, to tensorboard/ of each trial
    #[arg(long)]
    pub tensorboard: bool,
    /// Where to compute.
    #[command(flatten)]
    pub compute: Compute,
    /// What to print.
    #[command(flatten)]
    pub output: Output,
}

/// A stage to be tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SweptStage {
    /// Next-token prediction
    Pretrain,
    /// Fine-tuning
    Sft,
    /// Direct preference optimisation
    Dpo,
}
