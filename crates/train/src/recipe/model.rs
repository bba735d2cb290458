//! `[model]`: a preset, free dimensions, or a preset with some dimensions changed.

use casallm_model::presets::PRESETS;
use serde::Serialize;

pub use casallm_model::config::{Activation, Norm};
pub use casallm_model::presets::Block;

use super::section::{Interval, Section};
use crate::error::TrainError;

/// The shape of the model; names and meanings are those of the model's own config. The vocabulary is
/// [`super::Tokenizer::vocab_size`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Model {
    /// The family whose defaults were taken.
    pub block: Block,
    /// Blocks.
    pub n_layer: usize,
    /// Width of the residual stream.
    pub n_embd: usize,
    /// Query heads.
    pub n_head: usize,
    /// Key and value heads.
    pub n_kv_head: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Width of the MLP after its activation.
    pub n_ff: usize,
    /// Most tokens of one sequence.
    pub context: usize,
    /// Normalisation.
    pub norm: Norm,
    /// Added inside the square root of every norm.
    pub norm_eps: f64,
    /// RMSNorm of each query and key head.
    pub qk_norm: bool,
    /// Nonlinearity of the MLP.
    pub activation: Activation,
    /// Biases outside QKV.
    pub bias: bool,
    /// The output head is the embedding.
    pub tie_embeddings: bool,
    /// Base of the RoPE angles.
    pub rope_theta: f64,
    /// Probability of zeroing a residual contribution while training.
    pub dropout: f64,
}

impl Model {
    pub(super) fn read(section: &Section<'_>) -> Result<Self, TrainError> {
        let presets: Vec<_> = PRESETS.iter().map(|p| (p.name, p)).collect();
        let preset = section.choice("preset", &presets)?;
        let dimension = |key: &str, max: usize, default: Option<usize>| {
            section.require(
                key,
                section.size(key, 1, max)?.or(default),
                "write it, or choose a size by name, like preset = \"gpt3-small\"",
            )
        };
        let block = section
            .choice("block", &[("classic", Block::Classic), ("modern", Block::Modern)])?
            .unwrap_or(Block::Classic);
        let modern = block == Block::Modern;

        let n_layer = dimension("n_layer", 1 << 10, preset.map(|p| p.n_layer))?;
        let n_embd = dimension("n_embd", 1 << 16, preset.map(|p| p.n_embd))?;
        let n_head = dimension("n_head", 1 << 10, preset.map(|p| p.n_head))?;
        let n_kv_head = dimension("n_kv_head", 1 << 10, Some(n_head))?;
        if !n_head.is_multiple_of(n_kv_head) {
            return Err(section.bad("n_kv_head", n_kv_head, format!("use a divisor of n_head = {n_head}")));
        }
        let head_dim = match section.size("head_dim", 1, 1 << 9)? {
            Some(head_dim) => head_dim,
            None if n_embd.is_multiple_of(n_head) => n_embd / n_head,
            None => {
                return Err(section.bad(
                    "n_head",
                    n_head,
                    format!("use a divisor of n_embd = {n_embd}, or write head_dim"),
                ));
            }
        };
        if !head_dim.is_multiple_of(2) || head_dim > 1 << 9 {
            let key = if section.has("head_dim") { "head_dim" } else { "n_head" };
            let found = if section.has("head_dim") { head_dim } else { n_head };
            return Err(section.bad(
                key,
                found,
                format!("a head is {head_dim} wide: it must be even, for RoPE turns pairs, and at most 512"),
            ));
        }
        let activation = section
            .choice(
                "activation",
                &[("gelu", Activation::Gelu), ("swiglu", Activation::SwiGlu), ("relusquared", Activation::ReluSquared)],
            )?
            .unwrap_or(if modern { Activation::SwiGlu } else { Activation::Gelu });
        // Both cost about 8 d² parameters: the up matrix of SwiGLU is twice as tall.
        let n_ff = match activation {
            Activation::SwiGlu => (8 * n_embd).div_ceil(3).div_ceil(64) * 64,
            Activation::Gelu | Activation::ReluSquared => 4 * n_embd,
        };
        Ok(Self {
            block,
            n_layer,
            n_embd,
            n_head,
            n_kv_head,
            head_dim,
            n_ff: dimension("n_ff", 1 << 18, Some(n_ff))?,
            context: dimension("context", 1 << 24, preset.map(|_| casallm_model::presets::CONTEXT))?,
            norm: section
                .choice("norm", &[("layernorm", Norm::LayerNorm), ("rmsnorm", Norm::RmsNorm)])?
                .unwrap_or(if modern { Norm::RmsNorm } else { Norm::LayerNorm }),
            norm_eps: section.number("norm_eps", Interval::POSITIVE.up_to(0.1))?.unwrap_or(if modern {
                1e-6
            } else {
                1e-5
            }),
            qk_norm: section.boolean("qk_norm")?.unwrap_or(modern),
            activation,
            bias: section.boolean("bias")?.unwrap_or(!modern),
            tie_embeddings: section.boolean("tie_embeddings")?.unwrap_or(true),
            // The model computes in f32.
            rope_theta: section
                .number("rope_theta", Interval::above(1.0).up_to(f64::from(f32::MAX)))?
                .unwrap_or(10_000.0),
            dropout: section.number("dropout", Interval::BELOW_ONE)?.unwrap_or(0.0),
        })
    }
}
