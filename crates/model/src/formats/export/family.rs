//! [`Family`]: which architecture of the other programs computes what a model computes.

use super::error::ExportError;
use crate::config::{Activation, ModelConfig, Norm};

/// An architecture that `transformers` and llama.cpp know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// LayerNorm, ungated GELU, biases: the `classic` block.
    Starcoder2,
    /// RMSNorm, QK-norm, gated MLP: the `modern` block.
    Qwen3,
    /// As Qwen3 without QK-norm.
    Llama,
}

/// A form in which a model leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    HuggingFace,
    Gguf,
}

impl Form {
    fn name(self) -> &'static str {
        match self {
            Form::HuggingFace => "a model of transformers",
            Form::Gguf => "a GGUF file of llama.cpp",
        }
    }
}

/// Why a model of this shape cannot leave in some form: what may be asked before it is trained.
pub fn refusal(config: &ModelConfig) -> Option<ExportError> {
    [Form::HuggingFace, Form::Gguf].into_iter().find_map(|form| Family::of(config, form).err())
}

impl Family {
    /// The family of a config in a form.
    pub(super) fn of(config: &ModelConfig, form: Form) -> Result<Self, ExportError> {
        let refused =
            |field, value: String, remedy| Err(ExportError::Shape { field, value, form: form.name(), remedy });
        match config.norm {
            Norm::LayerNorm => {
                if config.activation != Activation::Gelu {
                    return refused(
                        "activation",
                        name(config.activation).to_owned(),
                        "with LayerNorm only gelu can be exported: train with block = \"classic\" or block = \"modern\"",
                    );
                }
                if config.qk_norm {
                    return refused(
                        "qk_norm",
                        "true".to_owned(),
                        "with LayerNorm it is known to no other program: train with block = \"classic\" or block = \"modern\"",
                    );
                }
                if config.attention_width() != config.n_embd {
                    return refused(
                        "head_dim",
                        config.head_dim.to_string(),
                        "Starcoder2 has heads of n_embd / n_head: train without head_dim",
                    );
                }
                if !config.bias && form == Form::Gguf {
                    return refused(
                        "bias",
                        "false".to_owned(),
                        "llama.cpp's Starcoder2 has biases: export with --to hf, or train with bias = true",
                    );
                }
                Ok(Family::Starcoder2)
            }
            Norm::RmsNorm => {
                let squared = config.activation == Activation::ReluSquared;
                if config.activation == Activation::Gelu || squared && form == Form::Gguf {
                    return refused(
                        "activation",
                        name(config.activation).to_owned(),
                        match squared {
                            true => {
                                "llama.cpp has no architecture with RMSNorm and squared ReLU: export with --to hf, or train with activation = \"swiglu\" in [model]"
                            }
                            false => "with RMSNorm train with activation = \"swiglu\" in [model]",
                        },
                    );
                }
                if config.bias {
                    return refused("bias", "true".to_owned(), "with RMSNorm train with bias = false in [model]");
                }
                Ok(if config.qk_norm { Family::Qwen3 } else { Family::Llama })
            }
        }
    }

    /// `architectures` of config.json.
    pub fn class(self) -> &'static str {
        match self {
            Family::Starcoder2 => "Starcoder2ForCausalLM",
            Family::Qwen3 => "Qwen3ForCausalLM",
            Family::Llama => "LlamaForCausalLM",
        }
    }

    /// `model_type` of config.json and `general.architecture` of a GGUF file.
    pub fn name(self) -> &'static str {
        match self {
            Family::Starcoder2 => "starcoder2",
            Family::Qwen3 => "qwen3",
            Family::Llama => "llama",
        }
    }
}

/// As config.json spells it.
fn name(activation: Activation) -> &'static str {
    match activation {
        Activation::Gelu => "gelu",
        Activation::SwiGlu => "swiglu",
        Activation::ReluSquared => "relusquared",
    }
}
