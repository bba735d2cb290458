//! Flags of `selftest`.

use clap::{Args, ValueEnum};

use crate::args::Compute;

/// Flags of `selftest`.
#[derive(Debug, Args)]
pub struct Selftest {
    /// Seed of the random inputs
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Check every instruction set of this machine, not only the one that would be used
    #[arg(long, conflicts_with = "isa")]
    pub all: bool,
    /// Only this; may be given several times, to narrow a fault down [default: everything]
    #[arg(long = "part", value_enum)]
    pub parts: Vec<SelftestPart>,
    /// Where to compute.
    #[command(flatten)]
    pub compute: Compute,
    /// One JSON line a check on stdout
    #[arg(long)]
    pub json: bool,
}

/// What a selftest checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SelftestPart {
    /// What the kernels of a GPU are made of
    Primitives,
    /// Transfers, copies, sums of squares
    Memory,
    /// Linear layers
    Linear,
    /// Quantised weights
    Quantized,
    /// 8-bit operands
    Fp8,
    /// Attention
    Attention,
    /// LayerNorm and RMSNorm
    Norm,
    /// Logits and loss
    Head,
    /// Queries, keys and values
    Qkv,
    /// GELU and SwiGLU
    Activation,
    /// Embedding
    Embedding,
    /// Dropout and the rounding of gradients
    Dropout,
    /// AdamW and Muon
    Optimizer,
    /// The whole model beside PyTorch and itself
    Model,
}
