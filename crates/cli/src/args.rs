//! Every command and flag.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use crate::eval::flags::Eval;
pub use crate::serve::flags::{OverflowKind, Serve};

/// Train a language model of your own, at home: from raw text to a chatbot, in one binary.
///
/// Start with `casallm quickstart`: it trains a small chatbot on the text that the program carries, on any processor,
/// in less than a quarter of an hour. For your own data write a recipe (see recipes/) and run `pretrain`, then `sft`, then `chat`.
#[derive(Debug, Parser)]
#[command(name = "casallm", version, about, long_about, arg_required_else_help = true)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// The whole story on the embedded corpus: tokenizer, pre-training, fine-tuning, report, chat
    Quickstart(Quickstart),
    /// Work on tokenizers
    #[command(subcommand)]
    Tokenizer(TokenizerCommand),
    /// Turn text into token shards with a tokenizer
    Tokenize(Tokenize),
    /// First stage of a recipe: learn to predict text
    Pretrain(Stage),
    /// Second stage of a recipe: learn to answer
    Sft(Stage),
    /// Third stage of a recipe: learn which of two answers is better
    Dpo(Stage),
    /// What can be trained: memory line by line, and for a budget sizes, speeds, tokens, costs and losses; here or on a named card
    Plan(Plan),
    /// Make a model directory of another program's model: a GGUF file, or a folder with safetensors
    Import(Import),
    /// Judge a model: benchmark tasks, bits per byte of texts, and whether it knows its name
    Eval(Eval),
    /// Talk to a model
    Chat(Chat),
    /// Serve a model: a page to chat in, and OpenAI's interface
    Serve(Box<Serve>),
    /// Measure speed
    #[command(subcommand)]
    Bench(Bench),
    /// Check every kernel of this machine against its reference
    Selftest(Selftest),
}

/// Flags of `quickstart`.
#[derive(Debug, Args)]
pub struct Quickstart {
    /// Where everything goes; run again with the same folder to go on after an interruption
    #[arg(long, default_value = "runs/quickstart")]
    pub dir: PathBuf,
    /// How long it may take; the model and the tokens are chosen to fit this machine's speed
    #[arg(long, default_value_t = 13.5)]
    pub minutes: f64,
    /// End without opening the page
    #[arg(long)]
    pub no_chat: bool,
    /// Seed of everything random
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// What the chatbot is called
    #[arg(long, default_value = "Casa")]
    pub name: String,
    /// Who made it, as in "I was made by ..."
    #[arg(long, default_value = "the Casa family")]
    pub maker: String,
    /// Where to compute.
    #[command(flatten)]
    pub compute: Compute,
    /// What to print.
    #[command(flatten)]
    pub output: Output,
}

/// `tokenizer` commands.
#[derive(Debug, Subcommand)]
pub enum TokenizerCommand {
    /// Learn a byte-level BPE vocabulary from text
    Train(TokenizerTrain),
}

/// Flags of `tokenizer train`.
#[derive(Debug, Args)]
pub struct TokenizerTrain {
    /// Files, folders or patterns of text: txt, jsonl, json, parquet; plain, .gz or .zst
    #[arg(required = true)]
    pub input: Vec<PathBuf>,
    /// Where the tokenizer.json goes
    #[arg(long, short)]
    pub output: PathBuf,
    /// Tokens in all, the six control tokens included
    #[arg(long, default_value_t = 40_960)]
    pub vocab_size: usize,
    /// Key or column that holds the text
    #[arg(long, default_value = "text")]
    pub text_field: String,
    /// Bytes of text to learn from
    #[arg(long, default_value_t = 1_000_000_000)]
    pub sample_bytes: u64,
    /// What to print.
    #[command(flatten)]
    pub console: Output,
}

/// Flags of `tokenize`.
#[derive(Debug, Args)]
pub struct Tokenize {
    /// Files, folders or patterns of text: txt, jsonl, json, parquet; plain, .gz or .zst
    #[arg(required = true)]
    pub input: Vec<PathBuf>,
    /// The tokenizer.json
    #[arg(long, short)]
    pub tokenizer: PathBuf,
    /// Folder for the shards and their manifest
    #[arg(long, short)]
    pub output: PathBuf,
    /// Name of the source in reports
    #[arg(long, default_value = "text")]
    pub name: String,
    /// Key or column that holds the text
    #[arg(long, default_value = "text")]
    pub text_field: String,
    /// Share of the documents held out for validation
    #[arg(long, default_value_t = 0.015)]
    pub validation_fraction: f64,
    /// Seed of the split
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// What to print.
    #[command(flatten)]
    pub console: Output,
}

/// Flags of `pretrain`, `sft` and `dpo`.
#[derive(Debug, Args)]
pub struct Stage {
    /// The recipe, a TOML file (see recipes/)
    pub recipe: PathBuf,
    /// Go on from the last checkpoint
    #[arg(long)]
    pub resume: bool,
    /// Override a value of the recipe: --set pretrain.lr=1e-3 (may be given again)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// Where to compute.
    #[command(flatten)]
    pub compute: Compute,
    /// What to print.
    #[command(flatten)]
    pub output: Output,
}

/// Flags of `plan`.
#[derive(Debug, Args)]
pub struct Plan {
    /// A recipe, or a preset such as gpt3-medium; without one, or with a budget, every preset is weighed
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
    /// Tokens of text that there are, like 10e9: at most four passes are made
    #[arg(long)]
    pub tokens: Option<f64>,
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

/// Flags of `import`.
#[derive(Debug, Args)]
pub struct Import {
    /// A GGUF file of llama.cpp, or a folder of Hugging Face with config.json, tokenizer.json and safetensors
    pub path: PathBuf,
    /// Where the model directory goes
    #[arg(long, short)]
    pub out: PathBuf,
    /// What to print.
    #[command(flatten)]
    pub output: Output,
}

/// Flags of `chat`.
#[derive(Debug, Args)]
pub struct Chat {
    /// A model directory, such as runs/quickstart/model
    #[arg(long, short)]
    pub model: PathBuf,
    /// Answer this on stdout and end; without it, a conversation on the terminal
    #[arg(long, short)]
    pub prompt: Option<String>,
    /// Instructions that precede the conversation
    #[arg(long)]
    pub system: Option<String>,
    /// 0 takes the most likely token always; higher is freer
    #[arg(long, default_value_t = 0.7, allow_negative_numbers = true)]
    pub temperature: f32,
    /// Choose among the k most likely tokens; 0 for all
    #[arg(long, default_value_t = 50)]
    pub top_k: usize,
    /// Choose among the tokens that hold this probability together
    #[arg(long, default_value_t = 0.9)]
    pub top_p: f32,
    /// Choose among tokens at least this share as likely as the likeliest
    #[arg(long, default_value_t = 0.0)]
    pub min_p: f32,
    /// Above 1, tokens already said become less likely
    #[arg(long, default_value_t = 1.1)]
    pub repetition_penalty: f32,
    /// Longest answer
    #[arg(long, default_value_t = 256)]
    pub max_new_tokens: usize,
    /// Seed of the sampler
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Format of the weights in memory
    #[arg(long, value_enum, default_value_t = WeightsKind::Bf16)]
    pub weights: WeightsKind,
    /// Format of keys and values in memory
    #[arg(long, value_enum, default_value_t = CacheKind::Bf16)]
    pub kv_cache: CacheKind,
    /// Where to compute.
    #[command(flatten)]
    pub compute: Compute,
}

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

/// Formats of weights for inference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WeightsKind {
    /// f32, and f32 activations
    F32,
    /// 16 bits a weight
    Bf16,
    /// 8.5 bits a weight
    Q8,
    /// 4.5 bits a weight
    Q4,
}

/// Formats of a KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CacheKind {
    /// 16 bits a value; f32 with weights in f32
    Bf16,
    /// 8 bits a value and 16 for each head, on the processor
    Q8,
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

/// Flags of `selftest`.
#[derive(Debug, Args)]
pub struct Selftest {
    /// Seed of the random inputs
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Check every instruction set of this machine, not only the one that would be used
    #[arg(long)]
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

/// A kind of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// A GPU if there is one that can be used, else the processor.
    Auto,
    /// The processor.
    Cpu,
    /// An NVIDIA GPU, counted from 0.
    Cuda(usize),
}

impl std::str::FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |digits: &str| digits.parse().ok().filter(|_| digits.bytes().all(|b| b.is_ascii_digit()));
        match text {
            "auto" => Ok(DeviceChoice::Auto),
            "cpu" => Ok(DeviceChoice::Cpu),
            "cuda" => Ok(DeviceChoice::Cuda(0)),
            _ => text
                .strip_prefix("cuda:")
                .and_then(number)
                .map(DeviceChoice::Cuda)
                .ok_or_else(|| "use auto, cpu, cuda, or cuda:N for one of several GPUs, counted from 0".to_owned()),
        }
    }
}

/// Where to compute.
#[derive(Clone, Debug, Args)]
pub struct Compute {
    /// auto, cpu, cuda, or cuda:N for one of several NVIDIA GPUs; auto takes a GPU where one can be used
    #[arg(long, default_value = "auto")]
    pub device: DeviceChoice,
    /// On a GPU, multiply f32 matrices in TF32: several times as fast, 10 bits of mantissa
    #[arg(long)]
    pub tf32: bool,
    /// Threads on the processor [default: one for each core]
    #[arg(long)]
    pub threads: Option<usize>,
    /// Instruction set of the processor: portable, avx2, avx512, avx512bf16, amx [default: CASALLM_ISA, else the best]
    #[arg(long)]
    pub isa: Option<String>,
}

/// What to print.
#[derive(Clone, Debug, Args)]
pub struct Output {
    /// Machine-readable: one JSON object a line on stdout
    #[arg(long)]
    pub json: bool,
    /// Print nothing but errors
    #[arg(long, short)]
    pub quiet: bool,
}
