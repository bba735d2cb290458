//! Flags of `report`.

use std::path::PathBuf;

use clap::Args;

use crate::args::{Compute, Output};

/// Flags of `report`.
#[derive(Debug, Args)]
pub struct Report {
    /// The folder of a run, such as runs/quickstart
    pub run: PathBuf,
    /// Do not ask the chatbot who it is
    #[arg(long)]
    pub no_exam: bool,
    /// What the machine draws in training, for the energy [default: what the GPU measured of itself]
    #[arg(long)]
    pub watts: Option<f64>,
    /// Of electricity
    #[arg(long)]
    pub price_per_kwh: Option<f64>,
    /// Of a rented machine
    #[arg(long)]
    pub price_per_hour: Option<f64>,
    /// Where to compute.
    #[command(flatten)]
    pub compute: Compute,
    /// What to print.
    #[command(flatten)]
    pub output: Output,
}
