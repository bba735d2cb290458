//! Every command, and the flags that are short or shared; others stand beside what they are of.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use crate::bench::flags::{
    Bench, BenchChat, BenchGenerate, BenchRoofline, BenchTrain, BlockKind, Dimensions, MomentKind, OffloadKind,
    OptimizerKind, PrecisionKind, RecomputeKind, RoundingKind,
};
pub use crate::eval::flags::Eval;
pub use crate::export::flags::{Dtype, Export, FileType, Form};
pub use crate::fetch::flags::Fetch;
pub use crate::inspect::flags::{DataCommand, Inspect, InspectedStage};
pub use crate::plan::flags::Plan;
pub(crate) use crate::plan::flags::memory_size;
pub use crate::report::flags::Report;
pub use crate::selftest::flags::{Selftest, SelftestPart};
pub use crate::serve::flags::{OverflowKind, Serve};
pub use crate::serve::watching::Watch;
pub use crate::sweep::flags::{Sweep, SweptStage};
pub use crate::tensorboard::flags::Tensorboard;
pub use crate::tokens::flags::{Tokenize, TokenizerCommand, TokenizerTrain};
pub use crate::watch::WatchRun;

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
    Sft(Box<Sft>),
    /// Third stage of a recipe: learn which of two answers is better
    Dpo(Stage),
    /// Try values of a recipe's keys, every combination a run of its own, and rank them
    Sweep(Box<Sweep>),
    /// Make TensorBoard's event files of a run's metrics
    Tensorboard(Tensorboard),
    /// What can be trained: memory line by line, and for a budget sizes, speeds, tokens, costs and losses; here or on a named card
    Plan(Plan),
    /// Look at what a recipe trains on
    #[command(subcommand)]
    Data(DataCommand),
    /// Bring a data set from the Hugging Face Hub: resumable, verified, ready for a recipe
    Fetch(Fetch),
    /// Make a model directory of another program's model: a GGUF file, or a folder with safetensors
    Import(Import),
    /// Give a model to other programs: a folder of transformers, or a GGUF file of llama.cpp
    Export(Export),
    /// Judge a model: benchmark tasks, bits per byte of texts, and whether it knows its name
    Eval(Eval),
    /// Write the report of a run, and its model card
    Report(Report),
    /// Talk to a model
    Chat(Chat),
    /// Serve a model: a page to chat in, and OpenAI's interface; and a dashboard of training runs
    Serve(Box<Serve>),
    /// See how a training run goes, in the terminal
    Watch(WatchRun),
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
    /// How long it may take; the model and the tokens are chosen to fit this machine's speed [default: 13.5]
    #[arg(long)]
    pub minutes: Option<f64>,
    /// End without opening the page
    #[arg(long)]
    pub no_chat: bool,
    /// Seed of everything random [default: 1]
    #[arg(long)]
    pub seed: Option<u64>,
    /// What the chatbot is called [default: Casa]
    #[arg(long)]
    pub name: Option<String>,
    /// Who made it, as in "I was made by ..." [default: the Casa family]
    #[arg(long)]
    pub maker: Option<String>,
    /// Whether it is shown in a browser meanwhile.
    #[command(flatten)]
    pub watch: Watch,
    /// Write TensorBoard's event files too, to DIR/tensorboard
    #[arg(long)]
    pub tensorboard: bool,
    /// Where to compute.
    #[command(flatten)]
    pub compute: Compute,
    /// What to print.
    #[command(flatten)]
    pub output: Output,
}

/// Flags of `pretrain` and `dpo`, and most of `sft`.
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
    /// Whether it is shown in a browser meanwhile.
    #[command(flatten)]
    pub watch: Watch,
    /// Write TensorBoard's event files too, to the run's tensorboard/
    #[arg(long)]
    pub tensorboard: bool,
    /// Where to compute.
    #[command(flatten)]
    pub compute: Compute,
    /// What to print.
    #[command(flatten)]
    pub output: Output,
}

/// Flags of `sft`.
#[derive(Debug, Args)]
pub struct Sft {
    /// Begin with this model directory, such as `casallm import` makes, in place of the recipe's pre-trained model: sft.from
    #[arg(long, short)]
    pub model: Option<PathBuf>,
    /// What all stages have.
    #[command(flatten)]
    pub stage: Stage,
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
    /// Above 1, tokens already said become less likely [default: 1.1; none at temperature 0]
    #[arg(long)]
    pub repetition_penalty: Option<f32>,
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
    /// Instruction set of the processor: portable, avx2, avx512, avx512bf16, amx; on ARM neon, neonbf16 [default: CASALLM_ISA, else the best]
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
