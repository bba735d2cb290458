//! Which tensors a config implies: names, shapes, kinds and initial values, in the one order that every list of
//! parameters, gradients and optimizer states follows.
//!
//! A parameter's initial values are a function of (seed, name, shape) alone, so adding a layer changes no other layer,
//! and any subset can be made on any thread.

use crate::config::{ModelConfig, Norm};
use crate::random::uniform;
use sha2::{Digest, Sha256};

/// What a parameter is used for, which decides weight decay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ParameterKind {
    /// The table of token vectors `[vocab_size, n_embd]`; the output head too when tied.
    Embedding,
    /// A linear map `[out, in]`.
    Matrix,
    /// A gain or a bias `[n]`.
    Vector,
}

/// How a parameter starts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// Independent N(0, std²).
    Normal {
        /// Standard deviation.
        std: f32,
    },
    /// All one: gains.
    Ones,
    /// All zero: biases.
    Zeros,
}

/// One parameter of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct ParameterSpec {
    /// Name in `model.safetensors`.
    pub name: String,
    /// Dimensions, row-major: `[out, in]`, `[vocab_size, n_embd]` or `[n]`.
    pub shape: Vec<usize>,
    /// What it is used for.
    pub kind: ParameterKind,
    /// How it starts.
    pub init: Init,
}

impl ParameterSpec {
    /// Number of values.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it holds no value; never so for a validated config.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether AdamW decays it: matrices and the embedding, never gains or biases.
    pub fn decays(&self) -> bool {
        self.kind != ParameterKind::Vector
    }
}

const STD: f32 = 0.02;
const NORMAL: Init = Init::Normal { std: STD };

impl ModelConfig {
    /// Every parameter of the model, in canonical order: embedding, the blocks, the final norm, the head if untied.
    pub fn parameters(&self) -> Vec<ParameterSpec> {
        let mut list = List { config: self, specs: Vec::new() };
        let (d, width) = (self.n_embd, self.attention_width());
        let residual = self.residual_init();
        list.push("embed.weight", &[self.vocab_size, d], ParameterKind::Embedding, NORMAL);
        for i in 0..self.n_layer {
            let layer = format!("layers.{i}");
            list.norm(&format!("{layer}.norm1"));
            list.matrix(&format!("{layer}.attn.qkv"), self.qkv_rows(), d, NORMAL);
            if self.qk_norm {
                list.vector(&format!("{layer}.attn.q_norm.weight"), self.head_dim, Init::Ones);
                list.vector(&format!("{layer}.attn.k_norm.weight"), self.head_dim, Init::Ones);
            }
            list.matrix(&format!("{layer}.attn.out"), d, width, residual);
            list.bias(&format!("{layer}.attn.out"), d);
            list.norm(&format!("{layer}.norm2"));
            list.matrix(&format!("{layer}.mlp.up"), self.up_rows(), d, NORMAL);
            list.bias(&format!("{layer}.mlp.up"), self.up_rows());
            list.matrix(&format!("{layer}.mlp.down"), d, self.n_ff, residual);
            list.bias(&format!("{layer}.mlp.down"), d);
        }
        list.norm("norm");
        if !self.tie_embeddings {
            list.matrix("head", self.vocab_size, d, NORMAL);
        }
        list.specs
    }

    /// Of the two projections by which a block adds to the residual stream.
    fn residual_init(&self) -> Init {
        match self.norm {
            // A block adds twice, so 2 L contributions keep unit scale (GPT-2, section 2.3).
            Norm::LayerNorm => Init::Normal { std: STD / (2.0 * self.n_layer as f32).sqrt() },
            // Each block begins as the identity: 0.017 bits per byte better after 150 steps (docs/LOG.md).
            Norm::RmsNorm => Init::Zeros,
        }
    }
}

struct List<'a> {
    config: &'a ModelConfig,
    specs: Vec<ParameterSpec>,
}

impl List<'_> {
    fn push(&mut self, name: &str, shape: &[usize], kind: ParameterKind, init: Init) {
        self.specs.push(ParameterSpec { name: name.to_owned(), shape: shape.to_vec(), kind, init });
    }

    fn vector(&mut self, name: &str, n: usize, init: Init) {
        self.push(name, &[n], ParameterKind::Vector, init);
    }

    fn matrix(&mut self, owner: &str, rows: usize, columns: usize, init: Init) {
        self.push(&format!("{owner}.weight"), &[rows, columns], ParameterKind::Matrix, init);
    }

    fn bias(&mut self, owner: &str, n: usize) {
        if self.config.bias {
            self.vector(&format!("{owner}.bias"), n, Init::Zeros);
        }
    }

    fn norm(&mut self, owner: &str) {
        self.vector(&format!("{owner}.weight"), self.config.n_embd, Init::Ones);
        if self.config.norm == Norm::LayerNorm {
            self.vector(&format!("{owner}.bias"), self.config.n_embd, Init::Zeros);
        }
    }
}

/// The initial values of one parameter, row-major. They depend on `seed` and `spec` only.
pub fn init_parameter(spec: &ParameterSpec, seed: u64) -> Vec<f32> {
    match spec.init {
        Init::Ones => vec![1.0; spec.len()],
        Init::Zeros => vec![0.0; spec.len()],
        Init::Normal { std } => normal(spec.len(), std, stream_key(seed, &spec.name)),
    }
}

/// A 64-bit key for the stream of `name`, so that equal seeds give unrelated streams to different parameters.
fn stream_key(seed: u64, name: &str) -> u64 {
    let mut hash = Sha256::new();
    hash.update(seed.to_le_bytes());
    hash.update(name.as_bytes());
    let digest = hash.finalize();
    digest.iter().take(8).fold(0, |key, &byte| (key << 8) | u64::from(byte))
}

/// Values that a thread makes at a time: a few milliseconds' work.
const CHUNK: usize = 1 << 16;

/// Box-Muller over the counter-based SplitMix64, on all cores. `libm` and not the platform's mathematics, so that a seed
/// means the same weights on every machine.
fn normal(n: usize, std: f32, key: u64) -> Vec<f32> {
    let mut values = vec![0.0; n];
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(n.div_ceil(CHUNK));
    let chunks = std::sync::Mutex::new(values.chunks_mut(CHUNK).enumerate());
    std::thread::scope(|scope| {
        let work = || {
            // The lock is held for the choice alone.
            let next = || chunks.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next();
            while let Some((chunk, values)) = next() {
                fill_normal(values, std, key, (chunk * CHUNK / 2) as u64);
            }
        };
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
    values
}

/// Pairs of values, from pair `first` of the stream on.
fn fill_normal(values: &mut [f32], std: f32, key: u64, first: u64) {
    for (pair, values) in (first..).zip(values.chunks_mut(2)) {
        // 1 - u is in (0, 1], where the logarithm is finite.
        let radius = libm::sqrt(-2.0 * libm::log(1.0 - uniform(key, 2 * pair))) * f64::from(std);
        let (sine, cosine) = libm::sincos(std::f64::consts::TAU * uniform(key, 2 * pair + 1));
        for (value, factor) in values.iter_mut().zip([cosine, sine]) {
            *value = (radius * factor) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Activation;

    fn names(config: &ModelConfig) -> Vec<String> {
        config.parameters().into_iter().map(|p| format!("{} {:?}", p.name, p.shape)).collect()
    }

    #[test]
    fn classic_lists_its_tensors_in_order() {
        let config = ModelConfig::classic(1, 8, 2, 11, 4).unwrap();
        assert_eq!(
            names(&config),
            [
                "embed.weight [11, 8]",
                "layers.0.norm1.weight [8]",
                "layers.0.norm1.bias [8]",
                "layers.0.attn.qkv.weight [24, 8]",
                "layers.0.attn.out.weight [8, 8]",
                "layers.0.attn.out.bias [8]",
                "layers.0.norm2.weight [8]",
                "layers.0.norm2.bias [8]",
                "layers.0.mlp.up.weight [32, 8]",
                "layers.0.mlp.up.bias [32]",
                "layers.0.mlp.down.weight [8, 32]",
                "layers.0.mlp.down.bias [8]",
                "norm.weight [8]",
                "norm.bias [8]",
            ]
        );
    }

    #[test]
    fn modern_lists_its_tensors_in_order() {
        let config = ModelConfig {
            head_dim: 6,
            n_ff: 20,
            tie_embeddings: false,
            ..ModelConfig::modern(1, 8, 4, 2, 11, 4).unwrap()
        };
        assert_eq!(config.activation, Activation::SwiGlu);
        assert_eq!(
            names(&config),
            [
                "embed.weight [11, 8]",
                "layers.0.norm1.weight [8]",
                "layers.0.attn.qkv.weight [48, 8]",
                "layers.0.attn.q_norm.weight [6]",
                "layers.0.attn.k_norm.weight [6]",
                "layers.0.attn.out.weight [8, 24]",
                "layers.0.norm2.weight [8]",
                "layers.0.mlp.up.weight [40, 8]",
                "layers.0.mlp.down.weight [8, 20]",
                "norm.weight [8]",
                "head.weight [11, 8]",
            ]
        );
    }

    #[test]
    fn decay_falls_on_two_dimensional_parameters_only() {
        for spec in ModelConfig::classic(2, 8, 2, 11, 4).unwrap().parameters() {
            assert_eq!(spec.decays(), spec.shape.len() == 2, "{}", spec.name);
        }
    }

    #[test]
    fn gpt3_small_has_its_published_size() {
        // 124.4 M with GPT-2's vocabulary, less the 1024 x 768 position table and the QKV biases that this shape lacks.
        let config = ModelConfig::classic(12, 768, 12, 50_257, 1024).unwrap();
        assert_eq!(config.n_params(), 124_439_808 - 1024 * 768 - 12 * 3 * 768);
    }

    #[test]
    fn initial_values_have_the_stated_moments() {
        let config = ModelConfig::classic(8, 64, 4, 4001, 4).unwrap();
        for spec in config.parameters() {
            let values = init_parameter(&spec, 7);
            assert_eq!(values.len(), spec.len());
            match spec.init {
                Init::Ones => assert!(values.iter().all(|&v| v == 1.0)),
                Init::Zeros => assert!(values.iter().all(|&v| v == 0.0)),
                Init::Normal { std } => {
                    let residual = spec.name.ends_with("attn.out.weight") || spec.name.ends_with("mlp.down.weight");
                    assert_eq!(std, if residual { 0.02 / 4.0 } else { 0.02 }, "{}", spec.name);
                    let n = values.len() as f64;
                    let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
                    let variance = values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / n;
                    let std = f64::from(std);
                    assert!(mean.abs() < 5.0 * std / n.sqrt(), "{}: mean {mean}", spec.name);
                    assert!((variance.sqrt() / std - 1.0).abs() < 5.0 / (2.0 * n).sqrt(), "{}", spec.name);
                    assert!(values.iter().all(|&v| f64::from(v.abs()) < 7.0 * std), "{}", spec.name);
                }
            }
        }
    }

    #[test]
    fn initial_values_depend_on_seed_and_name_only() {
        let small = ModelConfig::classic(2, 64, 4, 50, 4).unwrap();
        let large = ModelConfig { tie_embeddings: false, ..small.clone() };
        let find = |config: &ModelConfig, name: &str| config.parameters().into_iter().find(|p| p.name == name).unwrap();
        let qkv = "layers.1.attn.qkv.weight";
        let values = init_parameter(&find(&small, qkv), 1);
        assert_eq!(values, init_parameter(&find(&large, qkv), 1));
        assert_ne!(values, init_parameter(&find(&small, qkv), 2));
        assert_ne!(values, init_parameter(&find(&small, "layers.0.attn.qkv.weight"), 1));
        // Pinned: a new release must not change what a seed means.
        let odd = ParameterSpec {
            name: "x".to_owned(),
            shape: vec![3],
            kind: ParameterKind::Vector,
            init: Init::Normal { std: 1.0 },
        };
        assert_eq!(init_parameter(&odd, 0), [0.091_049_69, -1.245_488_6, -0.350_650_37]);
    }
}
