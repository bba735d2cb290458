//! Flags of `plan`.

use std::path::PathBuf;

use clap::Args;

use crate::args::Compute;
use crate::fetch::flags::count;

/// Flags of `plan`.
#[derive(Debug, Args)]
pub struct Plan {
    /// A recipe, or a preset such as gpt3-medium; with a budget a preset, or none: then every preset is weighed
    pub target: Option<String>,
    /// A budget: so many hours of training
    #[arg(long)]
    pub hours: Option<f64>,
    /// A budget: so much money, in the currency of the price
    #[arg(long)]
    pub money: Option<f64>,
    /// Of a rented machine
    #[arg(long)]
    pub price_per_hour: Option<f64>,
    /// Of electricity
    #[arg(long)]
    pub price_per_kwh: Option<f64>,
    /// What the machine draws in training [default: the limit of the card of --gpu]
    #[arg(long)]
    pub watts: Option<f64>,
    /// Tokens of text that there are, like 500M or 10B: at most four passes are made
    #[arg(long, value_parser = count)]
    pub tokens: Option<u64>,
    /// A card that need not be here, such as rtx4090 or h100
    #[arg(long, conflicts_with = "memory")]
    pub gpu: Option<String>,
    /// Write the best model's recipe to this new file
    #[arg(long)]
    pub write: Option<PathBuf>,
    /// What that recipe trains on, as `path` in a recipe has it
    #[arg(long)]
    pub text: Option<String>,
    /// Plan for so much memory, like 24GB, in place of what is free here; for a GPU that is not there, or with --device cpu
    /// for a processor
    #[arg(long, value_parser = memory_size)]
    pub memory: Option<u64>,
    /// Tokens of a row [default: the recipe's, or 2048]
    #[arg(long)]
    pub context: Option<usize>,
    /// Override a value of the recipe: --set pretrain.micro_batch=auto (may be given again)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// Where to compute.
    #[command(flatten)]
    pub compute: Compute,
    /// One JSON line a stage on stdout
    #[arg(long)]
    pub json: bool,
}

/// Bytes from text like `24GB`. A unit is a power of 1024 with and without its `i`, as memory is sold.
pub(crate) fn memory_size(text: &str) -> Result<u64, String> {
    let remedy = || "write a number and a unit, like 24GB, 80GiB or 8192MB".to_owned();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim().to_ascii_uppercase().as_str() {
        "MB" | "MIB" | "M" => 20,
        "GB" | "GIB" | "G" => 30,
        "TB" | "TIB" | "T" => 40,
        _ => return Err(remedy()),
    };
    let number: f64 = number.parse().map_err(|_| remedy())?;
    let bytes = number * f64::from(1_u32 << 20) * f64::from(1_u32 << (shift - 20));
    if (1.0..=2_f64.powi(50)).contains(&bytes) { Ok(bytes as u64) } else { Err(remedy()) }
}
