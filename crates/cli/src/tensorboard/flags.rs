//! Flags of `tensorboard`.

use std::path::PathBuf;

use clap::Args;

use crate::args::Output;

/// Flags of `tensorboard`.
#[derive(Debug, Args)]
pub struct Tensorboard {
    /// The folder of a run, such as runs/quickstart
    pub run: PathBuf,
    /// What to print.
    #[command(flatten)]
    pub output: Output,
}
