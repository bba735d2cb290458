//! The flags of `casallm eval`.

use std::path::PathBuf;

use clap::Args;

use crate::args::{Compute, Output, WeightsKind};

/// Flags of `eval`.
#[derive(Debug, Args)]
pub struct Eval {
    /// A model directory, such as runs/quickstart/model
    #[arg(long, short)]
    pub model: PathBuf,
    /// Folder of task data, named as people and the Hub name it: hellaswag_validation.jsonl.zst,
    /// ai2_arc/ARC-Easy/test-00000-of-00001.parquet
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// Only these: hellaswag, arc_easy, arc_challenge, piqa, winogrande, openbookqa, boolq, lambada_openai, mmlu, sciq,
    /// commonsense_qa, gsm8k, identity [default: all there is data for]
    #[arg(long, value_delimiter = ',')]
    pub tasks: Vec<String>,
    /// Text to measure bits per byte on: a file, folder or pattern (may be given again)
    #[arg(long)]
    pub text: Vec<PathBuf>,
    /// Key or column that holds the text
    #[arg(long, default_value = "text")]
    pub text_field: String,
    /// Examples before each question [default: as lm-evaluation-harness, 5 for gsm8k and 0 for the others]
    #[arg(long)]
    pub fewshot: Option<usize>,
    /// Only the first items of each task, and the first documents of each text
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: Option<u32>,
    /// Most tokens of a text [default: the model's context]
    #[arg(long, value_parser = clap::value_parser!(u32).range(2..))]
    pub context: Option<u32>,
    /// The name that a chat model should give, which asks for it [default: that of the recipe beside the model's folder]
    #[arg(long)]
    pub name: Option<String>,
    /// Who should have made it
    #[arg(long, requires = "name")]
    pub maker: Option<String>,
    /// Folder of result.json, in which what was found before of the same model stays, and of the results of single items, from
    /// which the same command goes on when it was cut [default: eval in the model's folder]
    #[arg(long, short)]
    pub out: Option<PathBuf>,
    /// Format of the weights in memory
    #[arg(long, value_enum, default_value_t = WeightsKind::Bf16)]
    pub weights: WeightsKind,
    /// Where to compute.
    #[command(flatten)]
    pub compute: Compute,
    /// What to print.
    #[command(flatten)]
    pub output: Output,
}
