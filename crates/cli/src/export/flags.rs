//! Flags of `export`.

use std::path::PathBuf;

use casallm_model::formats::export::{GgufType, HfDtype};
use clap::{Args, ValueEnum};

use crate::args::{Output, memory_size};

/// Flags of `export`.
#[derive(Debug, Args)]
pub struct Export {
    /// A model directory, such as runs/casallm-350m/model
    pub model: PathBuf,
    /// For which programs
    #[arg(long, value_enum)]
    pub to: Form,
    /// Where it goes: a folder for hf, a file for gguf
    #[arg(long, short)]
    pub out: PathBuf,
    /// Numbers of the weights in a folder [default: f32]
    #[arg(long, value_enum)]
    pub dtype: Option<Dtype>,
    /// Numbers of the matrices in a GGUF file [default: f16]
    #[arg(long = "type", value_enum)]
    pub gguf_type: Option<FileType>,
    /// Most bytes of a safetensors file; a larger model gets several and an index
    #[arg(long, default_value = "5GB", value_parser = memory_size)]
    pub max_shard_size: u64,
    /// What the model is called [default: after its run]
    #[arg(long)]
    pub name: Option<String>,
    /// License of the weights, as the Hub spells it: apache-2.0, mit, cc-by-4.0, other
    #[arg(long, value_parser = license)]
    pub license: Option<String>,
    /// What to print.
    #[command(flatten)]
    pub output: Output,
}

/// For which programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// A folder of Hugging Face's transformers
    Hf,
    /// A file of llama.cpp
    Gguf,
}

impl Form {
    pub(super) fn name(self) -> &'static str {
        match self {
            Form::Hf => "hf",
            Form::Gguf => "gguf",
        }
    }

    /// What can be done with it.
    pub(super) fn next_step(self) -> &'static str {
        match self {
            Form::Hf => "load it with AutoModelForCausalLM.from_pretrained, or give it away: README.md is its card",
            Form::Gguf => "run it with llama.cpp, LM Studio or Ollama",
        }
    }
}

/// Numbers of a folder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Dtype {
    /// 32 bits, nothing is lost
    #[default]
    F32,
    /// 16 bits, 8 of them significant
    Bf16,
    /// 16 bits, 11 of them significant
    F16,
}

impl Dtype {
    pub(super) fn name(self) -> &'static str {
        HfDtype::from(self).name()
    }
}

impl From<Dtype> for HfDtype {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => HfDtype::F32,
            Dtype::Bf16 => HfDtype::Bf16,
            Dtype::F16 => HfDtype::F16,
        }
    }
}

/// Numbers of a GGUF file's matrices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum FileType {
    /// 32 bits, nothing is lost
    F32,
    /// 16 bits, 11 of them significant
    #[default]
    F16,
    /// 16 bits, 8 of them significant
    Bf16,
    /// 8.5 bits
    #[value(name = "q8_0")]
    Q8_0,
    /// 4.5 bits
    #[value(name = "q4_0")]
    Q4_0,
    /// 4.5 bits, more where errors cost most
    #[value(name = "q4_k_m")]
    Q4KM,
}

impl From<FileType> for GgufType {
    fn from(kind: FileType) -> Self {
        match kind {
            FileType::F32 => GgufType::F32,
            FileType::F16 => GgufType::F16,
            FileType::Bf16 => GgufType::Bf16,
            FileType::Q8_0 => GgufType::Q8_0,
            FileType::Q4_0 => GgufType::Q4_0,
            FileType::Q4KM => GgufType::Q4KM,
        }
    }
}

/// An identifier that stands in the head of a model card.
fn license(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
    match !text.is_empty() && text.len() <= 40 && text.chars().all(plain) {
        true => Ok(text.to_ascii_lowercase()),
        false => Err("use an identifier of letters, digits, dots and hyphens, like apache-2.0".to_owned()),
    }
}
