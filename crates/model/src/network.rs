//! The transformer's forward pass, written once: training, prefill, prefill on top of a cache, and decode.
//!
//! Notable choices: pre-norm blocks on an f32 residual stream; RoPE on halves of the head; grouped-query attention over
//! spans of a flat batch, never a mask; optional per-head QK-norm; the head fused with its loss in training and applied
//! to chosen rows in inference. `classic` and `modern` differ only in their config.

use std::sync::Arc;

use casallm_compute::{
    ActivationKind, AttentionShape, CacheFormat, DType, Device, Dropout, Norm, NormKind, Out, QkNorm, QkvSplit, Span,
};

use crate::config::{self, Activation, ModelConfig};
use crate::error::ModelError;
use crate::parameters::{LayerIndex, LinearIndex, NormIndex, Parameters};
use crate::workspace::{Heads, LayerActivations, Shared, Workspace};

/// A model on a device.
pub struct Network<D: Device> {
    pub(crate) device: Arc<D>,
    pub(crate) config: ModelConfig,
    /// The parameters; the optimizer updates them between passes.
    pub parameters: Parameters<D>,
    pub(crate) cos: D::Buffer,
    pub(crate) sin: D::Buffer,
    dtype: DType,
}

/// Keys and values of every layer, rows addressed by slot.
pub struct KvCache<B> {
    pub(crate) layers: Vec<(B, B)>,
    pub(crate) slots: usize,
    pub(crate) format: CacheFormat,
}

impl<B> KvCache<B> {
    /// A cache of that many rows a layer.
    ///
    /// # Errors
    /// The device does not support the format, or the memory cannot be had.
    pub fn new<D: Device<Buffer = B>>(
        network: &Network<D>,
        format: CacheFormat,
        slots: usize,
    ) -> Result<Self, ModelError> {
        network.device.supports_cache(format)?;
        let row = format.row_len(network.config.n_kv_head, network.config.head_dim);
        let one = |name| network.device.allocate(name, format.dtype(), slots * row);
        let layers = (0..network.config.n_layer).map(|_| Ok((one("key cache")?, one("value cache")?)));
        Ok(KvCache { layers: layers.collect::<Result<_, ModelError>>()?, slots, format })
    }

    /// Bytes of a cache of that many rows.
    pub fn bytes(config: &ModelConfig, format: CacheFormat, slots: usize) -> u64 {
        (2 * config.n_layer * format.row_bytes(config.n_kv_head, config.head_dim) * slots) as u64
    }

    /// Rows a layer.
    pub fn slots(&self) -> usize {
        self.slots
    }
}

/// What the blocks of a pass have in common.
pub(crate) struct Pass<'a, B> {
    pub(crate) spans: &'a [Span],
    pub(crate) tokens: usize,
    pub(crate) positions: &'a B,
    pub(crate) slots: &'a B,
    /// For training alone.
    pub(crate) dropout_seed: Option<u64>,
}

/// How much of a block is computed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    Whole,
    /// What its backward pass reads: all but the activation and the last product.
    ForBackward,
}

impl<D: Device> Network<D> {
    /// Bytes of the tables that a network holds beside its parameters.
    pub fn table_bytes(config: &ModelConfig) -> u64 {
        2 * (config.context as u64 * (config.head_dim / 2) as u64 * DType::F32.size() as u64)
    }

    /// A network over given parameters; `dtype` is the storage type of its activations and must be the one the
    /// parameters' matrices were made with.
    ///
    /// # Errors
    /// The config is invalid, or the memory for RoPE's tables cannot be had.
    pub fn new(config: ModelConfig, dtype: DType, parameters: Parameters<D>) -> Result<Self, ModelError> {
        config.validate()?;
        let device = parameters.device().clone();
        let half = config.head_dim / 2;
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for position in 0..config.context {
            for i in 0..half {
                // In f64: at position 100,000 an f32 angle has lost three digits.
                let exponent = -2.0 * i as f64 / config.head_dim as f64;
                let angle = position as f64 * f64::from(config.rope_theta).powf(exponent);
                cos.push(angle.cos() as f32);
                sin.push(angle.sin() as f32);
            }
        }
        let table = |name, values: &[f32]| -> Result<D::Buffer, ModelError> {
            let mut buffer = device.allocate(name, DType::F32, values.len())?;
            device.write_f32(&mut buffer, 0, values);
            Ok(buffer)
        };
        let (cos, sin) = (table("RoPE cosines", &cos)?, table("RoPE sines", &sin)?);
        Ok(Network { device, config, parameters, cos, sin, dtype })
    }

    /// The config.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The device.
    pub fn device(&self) -> &Arc<D> {
        &self.device
    }

    /// Storage type of activations.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    pub(crate) fn attention_shape(&self) -> AttentionShape {
        let ModelConfig { n_head, n_kv_head, head_dim, .. } = self.config;
        AttentionShape { n_head, n_kv_head, head_dim }
    }

    pub(crate) fn activation_kind(&self) -> ActivationKind {
        match self.config.activation {
            Activation::Gelu => ActivationKind::Gelu,
            Activation::SwiGlu => ActivationKind::SwiGlu,
            Activation::ReluSquared => ActivationKind::ReluSquared,
        }
    }

    pub(crate) fn norm(&self, index: NormIndex) -> Norm<'_, D::Buffer> {
        Norm {
            kind: match self.config.norm {
                config::Norm::LayerNorm => NormKind::LayerNorm,
                config::Norm::RmsNorm => NormKind::RmsNorm,
            },
            eps: self.config.norm_eps,
            weight: self.parameters.vector(index.weight),
            bias: index.bias.map(|b| self.parameters.vector(b)),
        }
    }

    pub(crate) fn split<'a>(
        &'a self,
        layer: &LayerIndex,
        positions: &'a D::Buffer,
        slots: &'a D::Buffer,
    ) -> QkvSplit<'a, D::Buffer> {
        QkvSplit {
            shape: self.attention_shape(),
            norm: layer.qk_norm.map(|(q, k)| QkNorm {
                eps: self.config.norm_eps,
                q_weight: self.parameters.vector(q),
                k_weight: self.parameters.vector(k),
            }),
            cos: &self.cos,
            sin: &self.sin,
            positions,
            slots,
        }
    }

    pub(crate) fn bias(&self, index: LinearIndex) -> Option<&D::Buffer> {
        index.bias.map(|b| self.parameters.vector(b))
    }

    /// Which elements a dropout site drops; sites are numbered embedding, then two a layer.
    pub(crate) fn dropout(&self, seed: Option<u64>, site: usize) -> Option<Dropout> {
        let seed = seed.filter(|_| self.config.dropout > 0.0)?;
        Some(Dropout { rate: self.config.dropout, seed, site: site as u32 })
    }

    /// Adds a residual branch: `x += dropout(input · weightᵀ + bias)`.
    fn add_branch(
        &self,
        index: LinearIndex,
        input: &D::Buffer,
        tokens: usize,
        dropout: Option<Dropout>,
        branch: Option<&mut D::Buffer>,
        x: &mut D::Buffer,
    ) {
        let weight = self.parameters.matrix(index.weight);
        let bias = self.bias(index);
        match dropout.zip(branch) {
            Some((dropout, branch)) => {
                self.device.linear(input, weight, bias, tokens, Out::Store(branch));
                self.device.dropout_add(dropout, branch, tokens * self.config.n_embd, x);
            }
            None => self.device.linear(input, weight, bias, tokens, Out::Add(x)),
        }
    }

    /// Embedding, blocks and final norm over the tokens loaded into the workspace; the result is in `hidden`. Keys and
    /// values go to the cache's slots, or to the workspace's own buffers. `dropout_seed` is for training alone. `go_on` is asked
    /// before each block: where it says no the pass ends, the result means nothing, and this is false.
    pub(crate) fn forward(
        &self,
        workspace: &mut Workspace<D::Buffer>,
        spans: &[Span],
        tokens: usize,
        mut cache: Option<&mut KvCache<D::Buffer>>,
        dropout_seed: Option<u64>,
        go_on: &(dyn Fn() -> bool + Sync),
    ) -> bool {
        let device = &*self.device;
        let index = self.parameters.index();
        let d = self.config.n_embd;
        let Workspace { ids, positions, slots, stats, shared, entrances, layers, .. } = workspace;
        let pass = Pass { spans, tokens, positions, slots, dropout_seed };
        device.embedding(self.parameters.matrix(index.embed), ids, tokens, &mut shared.x);
        if let Some(dropout) = self.dropout(dropout_seed, 0) {
            device.dropout(dropout, tokens * d, &mut shared.x);
        }
        for i in 0..index.layers.len() {
            if !go_on() {
                return false;
            }
            if let Some(x_in) = entrances.get_mut(i) {
                device.copy(&shared.x, tokens * d, x_in);
            }
            // There may be one set of activations, which every layer overwrites.
            let at = i.min(layers.len() - 1);
            let cache = cache.as_mut().map(|cache| &mut cache.layers[i]);
            self.block(i, &pass, shared, &mut layers[at], cache, Extent::Whole);
        }
        device.norm(&self.norm(index.norm), &shared.x, tokens, d, &mut shared.hidden, stats);
        true
    }

    /// Block `i` over the residual stream, in place; what its backward pass needs stays in `acts`, or in `shared` until the
    /// next block.
    pub(crate) fn block(
        &self,
        i: usize,
        pass: &Pass<'_, D::Buffer>,
        shared: &mut Shared<D::Buffer>,
        acts: &mut LayerActivations<D::Buffer>,
        cache: Option<&mut (D::Buffer, D::Buffer)>,
        extent: Extent,
    ) {
        let device = &*self.device;
        let layer = &self.parameters.index().layers[i];
        let (d, tokens) = (self.config.n_embd, pass.tokens);
        let Shared { x, hidden, wide, heads, branch } = shared;

        // Attention: x += out(attention(split(qkv(norm1(x))))).
        let normed = acts.hidden.as_mut().map_or(&mut *hidden, |[first, _]| first);
        device.norm(&self.norm(layer.norm1), x, tokens, d, normed, &mut acts.stats1);
        let qkv = acts.qkv.as_mut().unwrap_or(&mut *wide);
        device.linear(normed, self.parameters.matrix(layer.qkv), None, tokens, Out::Store(qkv));
        let Some(Heads { q, kv }) = acts.heads.as_mut().or(heads.as_mut()) else { unreachable!("kept or shared") };
        let (k, v) = match (cache, kv) {
            (Some((k, v)), _) | (None, Some((k, v))) => (k, v),
            (None, None) => unreachable!("a workspace for inference is used with a cache"),
        };
        device.split_qkv(&self.split(layer, pass.positions, pass.slots), qkv, tokens, q, k, v);
        device.attention(self.attention_shape(), pass.spans, [q, k, v], &mut acts.attended, acts.lse.as_mut());
        let dropout = self.dropout(pass.dropout_seed, 2 * i + 1);
        self.add_branch(layer.out, &acts.attended, tokens, dropout, branch.as_mut(), x);

        // MLP: x += down(act(up(norm2(x)))).
        if let Some(x_mid) = &mut acts.x_mid {
            device.copy(x, tokens * d, x_mid);
        }
        let normed = acts.hidden.as_mut().map_or(hidden, |[_, second]| second);
        device.norm(&self.norm(layer.norm2), x, tokens, d, normed, &mut acts.stats2);
        let (weight, bias) = (self.parameters.matrix(layer.up.weight), self.bias(layer.up));
        device.linear(normed, weight, bias, tokens, Out::Store(&mut acts.up));
        if extent == Extent::ForBackward {
            return;
        }
        let activated = acts.activated.as_mut().unwrap_or(wide);
        device.activation(self.activation_kind(), &acts.up, tokens, self.config.n_ff, activated);
        let dropout = self.dropout(pass.dropout_seed, 2 * i + 2);
        self.add_branch(layer.down, activated, tokens, dropout, branch.as_mut(), x);
    }
}
