//! The shape of a model: every number that decides which tensors exist and what the forward pass computes.
//!
//! Read from `config.json`, from recipes and from flags; validated once, after which the rest of the crate trusts it.
//! The list of tensors that follows from a config is in [`crate::specification`].
//!
//! Two families are written as one struct. `classic` is the GPT-3 shape (LayerNorm, exact GELU, biases outside QKV);
//! `modern` is the Qwen3 shape (RMSNorm, QK-norm, grouped queries, SwiGLU, no biases). `modern` without QK-norm is
//! the Llama shape. Both rotate queries and keys by RoPE over the whole head.

use crate::error::ModelError;
use serde::{Deserialize, Serialize};

/// How activations are normalised before each half of a block and before the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Norm {
    /// Mean and variance, with gain (`weight`) and shift (`bias`): <https://arxiv.org/abs/1607.06450>.
    LayerNorm,
    /// Root mean square, with gain only: <https://arxiv.org/abs/1910.07467>.
    RmsNorm,
}

/// The nonlinearity between the two matrices of the MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// x Φ(x) with the exact error function, not the tanh approximation: <https://arxiv.org/abs/1606.08415>.
    Gelu,
    /// silu(gate) * up, the two being halves of one matrix: <https://arxiv.org/abs/2002.05202>.
    SwiGlu,
    /// max(x, 0)²: <https://arxiv.org/abs/2109.08668>.
    ReluSquared,
}

/// The complete description of a model. Field names are the keys of `config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Token ids are in `0..vocab_size`.
    pub vocab_size: usize,
    /// Number of blocks.
    pub n_layer: usize,
    /// Query heads.
    pub n_head: usize,
    /// Key and value heads; divides `n_head`. Equal to it for plain multi-head attention.
    pub n_kv_head: usize,
    /// Width of the residual stream, d.
    pub n_embd: usize,
    /// Width of one head; even. `n_head * head_dim` need not equal `n_embd`.
    pub head_dim: usize,
    /// Width of the MLP after its activation.
    pub n_ff: usize,
    /// Most tokens of one sequence.
    pub context: usize,
    /// Normalisation of the blocks and before the head.
    pub norm: Norm,
    /// RMSNorm of each query and key head before RoPE, gains shared by the heads of a layer.
    pub qk_norm: bool,
    /// Nonlinearity of the MLP.
    pub activation: Activation,
    /// Bias on attention output, MLP up and MLP down. QKV never has one.
    pub bias: bool,
    /// The output head is the embedding matrix.
    pub tie_embeddings: bool,
    /// Base of the RoPE angles: pair i of a head turns by `position * theta^(-2 i / head_dim)`.
    pub rope_theta: f32,
    /// Added to the variance (or mean square) inside the square root of every norm.
    pub norm_eps: f32,
    /// Probability of zeroing a residual contribution while training, in `[0, 1)`.
    pub dropout: f32,
}

impl ModelConfig {
    /// The GPT-3 shape: LayerNorm with bias, exact GELU at 4 d, biases outside QKV, tied embeddings.
    ///
    /// # Errors
    /// When `n_head` does not divide `n_embd`, or as [`ModelConfig::validate`].
    pub fn classic(
        n_layer: usize,
        n_embd: usize,
        n_head: usize,
        vocab_size: usize,
        context: usize,
    ) -> Result<Self, ModelError> {
        let config = Self {
            vocab_size,
            n_layer,
            n_head,
            n_kv_head: n_head,
            n_embd,
            head_dim: head_dim_of(n_embd, n_head)?,
            n_ff: n_embd.saturating_mul(4),
            context,
            norm: Norm::LayerNorm,
            qk_norm: false,
            activation: Activation::Gelu,
            bias: true,
            tie_embeddings: true,
            rope_theta: 10_000.0,
            norm_eps: 1e-5,
            dropout: 0.0,
        };
        config.validate()?;
        Ok(config)
    }

    /// The Qwen3 shape: RMSNorm, QK-norm, grouped queries, SwiGLU at 8 d / 3 (rounded up to 64), no biases, tied.
    ///
    /// # Errors
    /// When `n_head` does not divide `n_embd`, or as [`ModelConfig::validate`].
    pub fn modern(
        n_layer: usize,
        n_embd: usize,
        n_head: usize,
        n_kv_head: usize,
        vocab_size: usize,
        context: usize,
    ) -> Result<Self, ModelError> {
        let config = Self {
            n_kv_head,
            norm: Norm::RmsNorm,
            qk_norm: true,
            bias: false,
            norm_eps: 1e-6,
            ..Self::classic(n_layer, n_embd, n_head, vocab_size, context)?
        }
        .with_activation(Activation::SwiGlu);
        config.validate()?;
        Ok(config)
    }

    /// Sets the activation and the MLP width usual for it: 8 d / 3 rounded up to a multiple of 64 for SwiGLU, whose up
    /// matrix is twice as tall, 4 d otherwise; both cost about 8 d² parameters.
    #[must_use]
    pub fn with_activation(mut self, activation: Activation) -> Self {
        self.activation = activation;
        self.n_ff = match activation {
            Activation::SwiGlu => self.n_embd.saturating_mul(8).div_ceil(3).div_ceil(64) * 64,
            Activation::Gelu | Activation::ReluSquared => self.n_embd.saturating_mul(4),
        };
        self
    }

    /// Width of the concatenated query heads: `n_head * head_dim`.
    pub fn attention_width(&self) -> usize {
        self.n_head * self.head_dim
    }

    /// Width of the concatenated key (or value) heads: `n_kv_head * head_dim`.
    pub fn kv_width(&self) -> usize {
        self.n_kv_head * self.head_dim
    }

    /// Rows of the QKV matrix: all query heads, then all key heads, then all value heads.
    pub fn qkv_rows(&self) -> usize {
        (self.n_head + 2 * self.n_kv_head) * self.head_dim
    }

    /// Rows of the MLP's up matrix. For SwiGLU the first `n_ff` rows are the gate.
    pub fn up_rows(&self) -> usize {
        match self.activation {
            Activation::SwiGlu => 2 * self.n_ff,
            Activation::Gelu | Activation::ReluSquared => self.n_ff,
        }
    }

    /// Number of weights; a tied embedding counts once.
    pub fn n_params(&self) -> usize {
        self.parameters().iter().map(|p| p.len()).sum()
    }

    /// FLOPs to train on one token (forward and backward): 6 N + 6 L d T, with N the weights (tied embedding once),
    /// d the attention width and T the `context` in tokens. Half of the T² of attention is behind the causal mask.
    pub fn flops_per_token(&self, context: usize) -> u64 {
        let layers = (self.n_layer * self.attention_width()) as u64;
        (6 * self.n_params() as u64).saturating_add((6 * layers).saturating_mul(context as u64))
    }

    /// Checks every field and their relations.
    ///
    /// # Errors
    /// [`ModelError::Config`], naming the field, its value and what to change. The bounds keep every product of
    /// dimensions far inside 64 bits.
    pub fn validate(&self) -> Result<(), ModelError> {
        bounded("vocab_size", self.vocab_size, 1 << 24)?;
        bounded("n_layer", self.n_layer, 1 << 10)?;
        bounded("n_head", self.n_head, 1 << 10)?;
        bounded("n_kv_head", self.n_kv_head, 1 << 10)?;
        bounded("n_embd", self.n_embd, 1 << 16)?;
        bounded("head_dim", self.head_dim, 1 << 9)?;
        bounded("n_ff", self.n_ff, 1 << 18)?;
        bounded("context", self.context, 1 << 24)?;
        if !self.head_dim.is_multiple_of(2) {
            return Err(wrong("head_dim", self.head_dim, "make it even: RoPE turns pairs of dimensions"));
        }
        if !self.n_head.is_multiple_of(self.n_kv_head) {
            return Err(wrong("n_kv_head", self.n_kv_head, format!("use a divisor of n_head = {}", self.n_head)));
        }
        if !(self.rope_theta.is_finite() && self.rope_theta > 1.0) {
            return Err(wrong("rope_theta", self.rope_theta, "use a finite number above 1; 10000 is usual"));
        }
        if !(self.norm_eps > 0.0 && self.norm_eps <= 0.1) {
            return Err(wrong(
                "norm_eps",
                self.norm_eps,
                "use a number above 0 and at most 0.1; 1e-5 or 1e-6 is usual",
            ));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(wrong("dropout", self.dropout, "use a probability of at least 0 and below 1"));
        }
        Ok(())
    }

    /// Parses and validates the text of a `config.json`.
    ///
    /// # Errors
    /// [`ModelError::ConfigSyntax`] for bad JSON, a wrong type, or a missing, repeated or unknown key (named);
    /// otherwise as [`ModelConfig::validate`].
    pub fn from_json(text: &str) -> Result<Self, ModelError> {
        let config: Self = serde_json::from_str(text).map_err(|e| ModelError::ConfigSyntax(e.to_string()))?;
        config.validate()?;
        Ok(config)
    }

    /// The text of a `config.json` for this model.
    ///
    /// # Errors
    /// As [`ModelConfig::validate`]: a config that could not be read back is not written.
    pub fn to_json(&self) -> Result<String, ModelError> {
        self.validate()?;
        serde_json::to_string_pretty(self).map(|text| text + "\n").map_err(|e| ModelError::ConfigSyntax(e.to_string()))
    }
}

fn head_dim_of(n_embd: usize, n_head: usize) -> Result<usize, ModelError> {
    bounded("n_head", n_head, 1 << 10)?;
    if !n_embd.is_multiple_of(n_head) {
        return Err(wrong("n_head", n_head, format!("use a divisor of n_embd = {n_embd}, or set head_dim")));
    }
    Ok(n_embd / n_head)
}

fn bounded(field: &'static str, value: usize, most: usize) -> Result<(), ModelError> {
    if (1..=most).contains(&value) {
        Ok(())
    } else {
        Err(wrong(field, value, format!("use a number from 1 to {most}")))
    }
}

fn wrong(field: &'static str, value: impl ToString, remedy: impl Into<String>) -> ModelError {
    ModelError::Config { field, value: value.to_string(), remedy: remedy.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classic() -> ModelConfig {
        ModelConfig::classic(12, 768, 12, 40_960, 2048).unwrap()
    }

    /// The field that `change` makes `validate` refuse.
    fn refused(change: impl FnOnce(&mut ModelConfig)) -> &'static str {
        let mut config = classic();
        change(&mut config);
        match config.validate() {
            Err(ModelError::Config { field, value, remedy }) => {
                assert!(!value.is_empty() && !remedy.is_empty());
                field
            }
            other => panic!("expected a config error, got {other:?}"),
        }
    }

    #[test]
    fn json_round_trip_is_exact() {
        for config in [
            classic(),
            ModelConfig::modern(2, 96, 6, 2, 333, 64).unwrap(),
            ModelConfig { dropout: 0.1, rope_theta: 5e5, ..classic() },
        ] {
            assert_eq!(ModelConfig::from_json(&config.to_json().unwrap()).unwrap(), config);
        }
        let text = classic().to_json().unwrap();
        assert!(text.contains("\"layernorm\"") && text.contains("\"gelu\""), "{text}");
    }

    #[test]
    fn a_key_that_is_unknown_missing_repeated_or_of_the_wrong_type_is_named() {
        let text = classic().to_json().unwrap();
        for (bad, named) in [
            (text.replacen('{', "{\"n_layers\": 3,", 1), "n_layers"),
            (text.replacen("\"n_ff\"", "\"n_gg\"", 1), "n_gg"),
            (text.replacen("  \"n_ff\": 3072,\n", "", 1), "n_ff"),
            (text.replacen('{', "{\"n_layer\": 3,", 1), "n_layer"),
            (text.replacen("3072", "\"wide\"", 1), "wide"),
            (text.replacen("3072", "-1", 1), "-1"),
            (text.replacen("layernorm", "batchnorm", 1), "batchnorm"),
        ] {
            assert_ne!(bad, text);
            match ModelConfig::from_json(&bad) {
                Err(ModelError::ConfigSyntax(message)) => {
                    assert!(message.contains(named), "{message} should name {named}");
                }
                other => panic!("expected a syntax error naming {named}, got {other:?}"),
            }
        }
    }

    #[test]
    fn every_bad_value_is_refused_by_its_name() {
        assert_eq!(refused(|c| c.vocab_size = 0), "vocab_size");
        assert_eq!(refused(|c| c.vocab_size = usize::MAX), "vocab_size");
        assert_eq!(refused(|c| c.n_layer = 0), "n_layer");
        assert_eq!(refused(|c| c.n_head = 0), "n_head");
        assert_eq!(refused(|c| c.n_kv_head = 0), "n_kv_head");
        assert_eq!(refused(|c| c.n_kv_head = 5), "n_kv_head");
        assert_eq!(refused(|c| c.n_kv_head = 24), "n_kv_head");
        assert_eq!(refused(|c| c.n_embd = 0), "n_embd");
        assert_eq!(refused(|c| c.n_embd = usize::MAX), "n_embd");
        assert_eq!(refused(|c| c.head_dim = 63), "head_dim");
        assert_eq!(refused(|c| c.n_ff = 0), "n_ff");
        assert_eq!(refused(|c| c.context = 0), "context");
        assert_eq!(refused(|c| c.rope_theta = f32::INFINITY), "rope_theta");
        assert_eq!(refused(|c| c.rope_theta = 0.0), "rope_theta");
        assert_eq!(refused(|c| c.norm_eps = f32::NAN), "norm_eps");
        assert_eq!(refused(|c| c.norm_eps = -1e-5), "norm_eps");
        assert_eq!(refused(|c| c.dropout = 1.0), "dropout");
        assert_eq!(refused(|c| c.dropout = -0.1), "dropout");
        assert_eq!(refused(|c| c.dropout = f32::NAN), "dropout");
    }

    #[test]
    fn constructors_refuse_heads_that_do_not_divide_the_width() {
        for (n_embd, n_head) in [(768, 7), (768, 0), (usize::MAX, 1), (0, 4)] {
            assert!(ModelConfig::classic(1, n_embd, n_head, 10, 10).is_err());
            assert!(ModelConfig::modern(1, n_embd, n_head, n_head, 10, 10).is_err());
        }
    }

    #[test]
    fn mlp_widths_follow_the_activation() {
        let modern = ModelConfig::modern(1, 768, 12, 4, 10, 10).unwrap();
        assert_eq!((modern.n_ff, modern.up_rows()), (2048, 4096));
        assert_eq!(ModelConfig::modern(1, 100, 2, 1, 10, 10).unwrap().n_ff, 320);
        let squared = modern.with_activation(Activation::ReluSquared);
        assert_eq!((squared.n_ff, squared.up_rows()), (3072, 3072));
        assert_eq!(squared.qkv_rows(), (12 + 2 * 4) * 64);
    }

    #[test]
    fn flops_are_those_of_the_formula() {
        let config = classic();
        let n = config.n_params() as u64;
        assert_eq!(config.flops_per_token(1024), 6 * n + 6 * 12 * 768 * 1024);
    }
}
