//! Flags of `bench`.

use clap::{Args, Subcommand, ValueEnum};

use crate::args::{CacheKind, Compute, WeightsKind};

/// `bench` commands.
#[derive(Debug, Subcommand)]
pub enum Bench {
    /// Training steps on random tokens
    Train(BenchTrain),
    /// Prefill and decode with random weights
    Generate(BenchGenerate),
    /// First tokens of a conversation's turns, with and without what is held of it
    Chat(BenchChat),
    /// Each kernel of a training step and of a decoded token beside what this machine can do
    Roofline(BenchRoofline),
}

/// Dimensions of a model to measure.
#[derive(Debug, Args)]
pub struct Dimensions {
    /// Blocks
    #[arg(long, default_value_t = 24)]
    pub n_layer: usize,
    /// Width
    #[arg(long, default_value_t = 1024)]
    pub n_embd: usize,
    /// Query heads
    #[arg(long, default_value_t = 16)]
    pub n_head: usize,
    /// Key and value heads (modern block) [default: n_head]
    #[arg(long)]
    pub n_kv_head: Option<usize>,
    /// Vocabulary
    #[arg(long, default_value_t = 40_960)]
    pub vocab_size: usize,
    /// Block family
    #[arg(long, value_enum, default_value_t = BlockKind::Classic)]
    pub block: BlockKind,
}

/// Block families.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BlockKind {
    /// GPT-3 shape
    Classic,
    /// Qwen3 shape
    Modern,
}

/// Number formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PrecisionKind {
    /// bf16 storage, f32 accumulation and master weights
    Bf16,
    /// f32 throughout
    F32,
    /// as bf16, with 8-bit operands in the linear layers of the blocks: GPUs from compute capability 8.9 on
    Fp8,
}

/// Levels of recomputation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RecomputeKind {
    /// Nothing
    None,
    /// What costs no matrix product
    Light,
    /// Each block's forward pass
    Block,
}

/// Optimizers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OptimizerKind {
    /// AdamW everywhere
    Adamw,
    /// Muon for the matrices of the blocks
    Muon,
}

/// How moments are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MomentKind {
    /// 4 bytes an element
    F32,
    /// 2 bytes
    Bf16,
    /// 1 byte and a scale for each 128; Muon's in bf16
    #[value(name = "8bit")]
    Bits8,
}

/// How weights become bf16.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RoundingKind {
    /// To nearest
    Nearest,
    /// By chance, keeping the mean
    Stochastic,
}

/// What lies in the host's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OffloadKind {
    /// Nothing
    None,
    /// f32 weights of matrices and their moments
    Optimizer,
}

/// Flags of `bench train`.
#[derive(Debug, Args)]
pub struct BenchTrain {
    /// The model.
    #[command(flatten)]
    pub dimensions: Dimensions,
    /// Tokens of a row
    #[arg(long, default_value_t = 1024)]
    pub context: usize,
    /// Rows of a step
    #[arg(long, default_value_t = 1)]
    pub batch: usize,
    /// What the backward pass computes again [default: the least that fits]
    #[arg(long, value_enum)]
    pub recompute: Option<RecomputeKind>,
    /// Steps measured, after one to warm up
    #[arg(long, default_value_t = 3)]
    pub steps: usize,
    /// Number format
    #[arg(long, value_enum, default_value_t = PrecisionKind::Bf16)]
    pub precision: PrecisionKind,
    /// Optimizer
    #[arg(long, value_enum, default_value_t = OptimizerKind::Adamw)]
    pub optimizer: OptimizerKind,
    /// How the optimizer's moments are kept
    #[arg(long, value_enum, default_value_t = MomentKind::F32)]
    pub moments: MomentKind,
    /// How weights become the bf16 that products read
    #[arg(long, value_enum, default_value_t = RoundingKind::Nearest)]
    pub weight_rounding: RoundingKind,
    /// What a GPU keeps in the host's memory
    #[arg(long, value_enum, default_value_t = OffloadKind::None)]
    pub offload: OffloadKind,
    /// Where to compute.
    #[command(flatten)]
    pub compute: Compute,
    /// One JSON line on stdout
    #[arg(long)]
    pub json: bool,
}

/// Flags of `bench generate`.
#[derive(Debug, Args)]
pub struct BenchGenerate {
    /// The model.
    #[command(flatten)]
    pub dimensions: Dimensions,
    /// Tokens read
    #[arg(long, default_value_t = 512)]
    pub prompt_tokens: usize,
    /// Tokens written
    #[arg(long, default_value_t = 64)]
    pub new_tokens: usize,
    /// Sequences written together
    #[arg(long, default_value_t = 1)]
    pub batch: usize,
    /// Format of the weights
    #[arg(long, value_enum, default_value_t = WeightsKind::Bf16)]
    pub weights: WeightsKind,
    /// Format of keys and values in memory
    #[arg(long, value_enum, default_value_t = CacheKind::Bf16)]
    pub kv_cache: CacheKind,
    /// Where to compute.
    #[command(flatten)]
    pub compute: Compute,
    /// One JSON line on stdout
    #[arg(long)]
    pub json: bool,
}

/// Flags of `bench chat`.
#[derive(Debug, Args)]
pub struct BenchChat {
    /// The model.
    #[command(flatten)]
    pub dimensions: Dimensions,
    /// Messages of the conversation
    #[arg(long, default_value_t = 10)]
    pub turns: usize,
    /// Tokens of each message
    #[arg(long, default_value_t = 64)]
    pub message_tokens: usize,
    /// Tokens of each answer
    #[arg(long, default_value_t = 64)]
    pub new_tokens: usize,
    /// Conversations; each turn's time is the median of theirs
    #[arg(long, default_value_t = 3)]
    pub repeat: usize,
    /// Format of the weights
    #[arg(long, value_enum, default_value_t = WeightsKind::Bf16)]
    pub weights: WeightsKind,
    /// Format of keys and values in memory
    #[arg(long, value_enum, default_value_t = CacheKind::Bf16)]
    pub kv_cache: CacheKind,
    /// Where to compute.
    #[command(flatten)]
    pub compute: Compute,
    /// One JSON line on stdout
    #[arg(long)]
    pub json: bool,
}

/// Flags of `bench roofline`.
#[derive(Debug, Args)]
pub struct BenchRoofline {
    /// The model.
    #[command(flatten)]
    pub dimensions: Dimensions,
    /// Tokens of a row, and of the cache that a token is decoded on
    #[arg(long, default_value_t = 1024)]
    pub context: usize,
    /// Rows of a step
    #[arg(long, default_value_t = 1)]
    pub batch: usize,
    /// Number format
    #[arg(long, value_enum, default_value_t = PrecisionKind::Bf16)]
    pub precision: PrecisionKind,
    /// Format of the weights that a token is decoded with [default: that of --precision]
    #[arg(long, value_enum)]
    pub weights: Option<WeightsKind>,
    /// Optimizer of the step; the other's kernels are measured too
    #[arg(long, value_enum, default_value_t = OptimizerKind::Adamw)]
    pub optimizer: OptimizerKind,
    /// How long it may take; a slow machine takes what three rounds of every kernel need
    #[arg(long, default_value_t = 60.0, allow_negative_numbers = true)]
    pub seconds: f64,
    /// Where to compute.
    #[command(flatten)]
    pub compute: Compute,
    /// One JSON object a line on stdout: the machine, each kernel, the sums
    #[arg(long)]
    pub json: bool,
}
