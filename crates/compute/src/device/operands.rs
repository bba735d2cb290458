//! What the operations of [`Device`](super::Device) take and give: shapes, spans, parameters, updates, results.

use crate::dtype::DType;
use crate::matrix_format::MatrixFormat;

/// What a device is, for people and logs.
#[derive(Clone, Debug)]
pub struct DeviceInfo {
    /// `cpu` or the GPU's name.
    pub name: String,
    /// Instruction set or architecture.
    pub isa: String,
    /// Worker threads (1 for a GPU).
    pub threads: usize,
}

/// What a device's sensors show. What is not known is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sensors {
    /// Share of the last moments in which it was at work, in `[0, 1]`.
    pub load: Option<f64>,
    /// Degrees Celsius.
    pub temperature_c: Option<f64>,
    /// Watts.
    pub power_w: Option<f64>,
    /// Memory that all processes together have taken, in bytes.
    pub memory_bytes: Option<u64>,
}

/// Where a buffer lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Place {
    /// In the device's memory.
    #[default]
    Device,
    /// In the host's, where operations reach it slowly.
    Host,
}

/// What a weight matrix will be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatrixUse {
    /// Forward only.
    Inference,
    /// Forward and input gradient.
    Training,
}

/// Sizes that bound the scratch memory of every operation; see [`Device::reserve_scratch`](super::Device::reserve_scratch).
#[derive(Clone, Copy, Debug)]
pub struct ScratchShape {
    /// Storage type of activations.
    pub dtype: DType,
    /// How the matrices of the linear layers are held, the head's excepted.
    pub matrices: MatrixFormat,
    /// Most tokens in one call.
    pub tokens: usize,
    /// Widest row of any linear layer's input or output, the vocabulary excepted.
    pub width: usize,
    /// Rows of the head.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub n_embd: usize,
    /// Longest run of keys that one query sees.
    pub sequence: usize,
    /// Query heads.
    pub n_head: usize,
    /// Key and value heads.
    pub n_kv_head: usize,
    /// Width of an attention head.
    pub head_dim: usize,
    /// Whether backward operations will run.
    pub training: bool,
}

/// Attention's dimensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AttentionShape {
    /// Query heads.
    pub n_head: usize,
    /// Key and value heads; divides `n_head`.
    pub n_kv_head: usize,
    /// Width of a head.
    pub head_dim: usize,
}

/// One sequence's queries and the keys they see: query `i` sees keys `0 ..= kv_len - q_len + i` of the span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First query row.
    pub q_start: usize,
    /// Query rows.
    pub q_len: usize,
    /// First key row.
    pub kv_start: usize,
    /// Key rows; at least `q_len`.
    pub kv_len: usize,
}

/// LayerNorm or RMSNorm over rows of the residual stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// `(x - mean) / sqrt(var + eps) * weight + bias` (Ba et al. 2016).
    LayerNorm,
    /// `x / sqrt(mean(x²) + eps) * weight` (Zhang and Sennrich 2019).
    RmsNorm,
}

/// The MLP's non-linearity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActivationKind {
    /// `x Φ(x)` with the exact error function (Hendrycks and Gimpel 2016).
    Gelu,
    /// `silu(gate) * up`, the input row holding gate then up (Shazeer 2020).
    SwiGlu,
    /// `max(x, 0)²` (So et al. 2021).
    ReluSquared,
}

impl ActivationKind {
    /// Input columns for `n_ff` output columns.
    pub fn input_width(self, n_ff: usize) -> usize {
        match self {
            ActivationKind::SwiGlu => 2 * n_ff,
            ActivationKind::Gelu | ActivationKind::ReluSquared => n_ff,
        }
    }
}

/// A norm's parameters.
pub struct Norm<'a, B> {
    /// Which formula.
    pub kind: NormKind,
    /// Added under the root.
    pub eps: f32,
    /// Scale, f32 `[width]`.
    pub weight: &'a B,
    /// Shift, f32 `[width]`; LayerNorm only.
    pub bias: Option<&'a B>,
}

/// Gradients of a norm's parameters, accumulated.
pub struct NormGradient<'a, B> {
    /// f32 `[width]`.
    pub weight: &'a mut B,
    /// f32 `[width]`; LayerNorm only.
    pub bias: Option<&'a mut B>,
}

/// Per-head RMSNorm of queries and keys ahead of RoPE.
pub struct QkNorm<'a, B> {
    /// Added under the root.
    pub eps: f32,
    /// f32 `[head_dim]`, shared by all query heads.
    pub q_weight: &'a B,
    /// f32 `[head_dim]`, shared by all key heads.
    pub k_weight: &'a B,
}

/// How a row of `qkv` becomes queries, keys and values.
pub struct QkvSplit<'a, B> {
    /// Dimensions; the row is `(n_head + 2 n_kv_head) * head_dim` wide: all queries, all keys, all values.
    pub shape: AttentionShape,
    /// Optional norm of queries and keys.
    pub norm: Option<QkNorm<'a, B>>,
    /// RoPE's cosines, f32 `[positions, head_dim / 2]`.
    pub cos: &'a B,
    /// RoPE's sines, f32 `[positions, head_dim / 2]`.
    pub sin: &'a B,
    /// Position of each token, u32 `[tokens]`.
    pub positions: &'a B,
    /// Row of the key and value buffers that each token is written to, u32 `[tokens]`.
    pub slots: &'a B,
}

/// Where a linear layer's result goes.
pub enum Out<'a, B> {
    /// Overwrites; f32 or `S`.
    Store(&'a mut B),
    /// Adds to an f32 buffer: the residual stream.
    Add(&'a mut B),
}

/// A dropout site: which elements fall is a function of these numbers and the element's index alone.
#[derive(Clone, Copy, Debug)]
pub struct Dropout {
    /// Share of elements dropped, in `[0, 1)`.
    pub rate: f32,
    /// Changes with the run and the step.
    pub seed: u64,
    /// Changes with the place in the model.
    pub site: u32,
}

/// Input of the fused output head and cross-entropy.
pub struct Head<'a, B, M> {
    /// `S [tokens, n_embd]`, after the final norm.
    pub hidden: &'a B,
    /// The head's weight `[vocab_size, n_embd]`.
    pub weight: &'a M,
    /// u32 `[tokens]`.
    pub targets: &'a B,
    /// f32 `[tokens]`; rows of weight 0 cost nothing.
    pub weights: &'a B,
    /// Rows.
    pub tokens: usize,
}

/// Gradients of the fused head.
pub struct HeadGradient<'a, B> {
    /// Every gradient is of `scale * sum_i weights[i] * loss[i]`.
    pub scale: f32,
    /// `S [tokens, n_embd]`, overwritten.
    pub hidden: &'a mut B,
    /// f32 `[vocab_size, n_embd]`, accumulated.
    pub weight: &'a mut B,
}

/// What the head reports.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct HeadResult {
    /// `sum_i weights[i] * loss[i]`, in nats.
    pub weighted_loss: f64,
    /// `sum_i weights[i]`.
    pub weight: f64,
    /// Rows of non-zero weight.
    pub counted: u64,
    /// Of those, rows whose largest logit is the target.
    pub correct: u64,
}

/// What the micro-batches of a step come to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepTotals {
    /// Sums of the heads' results.
    pub head: HeadResult,
    /// Root of the sum of squares of all gradients, once [`Device::clip`](super::Device::clip) has run.
    pub gradient_norm: f64,
}

/// One parameter of a step's AdamW update.
pub struct AdamWTensor<'a, B, M> {
    /// f32, updated.
    pub weight: &'a mut B,
    /// Refreshed from the updated weight.
    pub matrix: Option<&'a mut M>,
    /// f32.
    pub gradient: &'a B,
    /// First and second, updated; as [`Device::adamw`](super::Device::adamw) takes them.
    pub moments: [&'a mut B; 2],
    /// This tensor's, in place of the common one.
    pub weight_decay: f32,
    /// Of this tensor's stochastic rounding, in place of the common one.
    pub seed: u64,
}

/// One parameter of a step's Muon update.
pub struct MuonTensor<'a, B, M> {
    /// f32 `[rows, columns]`, updated.
    pub weight: &'a mut B,
    /// Refreshed from the updated weight.
    pub matrix: Option<&'a mut M>,
    /// f32.
    pub gradient: &'a B,
    /// Updated; as [`Device::muon`](super::Device::muon) takes it.
    pub momentum: &'a mut B,
    /// Rows of each matrix that lies in it.
    pub row_blocks: &'a [usize],
    /// Columns of all of them.
    pub columns: usize,
    /// Of this tensor's stochastic rounding, in place of the common one.
    pub seed: u64,
}

/// How weights become the bf16 that matrix products read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Rounding {
    /// To nearest, ties to even.
    #[default]
    Nearest,
    /// Up or down by chance, so that the mean is kept.
    Stochastic,
}

/// One AdamW update (Loshchilov and Hutter 2019).
#[derive(Clone, Copy, Debug)]
pub struct AdamW {
    /// Learning rate of this step.
    pub lr: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the denominator.
    pub eps: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// Counted from 1.
    pub step: u64,
    /// Multiplies the gradient first: clipping.
    pub gradient_scale: f32,
    /// Of stochastic rounding; changes with run, step and tensor.
    pub seed: u64,
    /// How [`Device::adamw_all`](super::Device::adamw_all) refreshes bf16 matrices.
    pub weight_rounding: Rounding,
}

/// One Muon update: momentum, then an orthogonalised direction (Jordan et al. 2024).
#[derive(Clone, Copy, Debug)]
pub struct Muon {
    /// Learning rate of this step.
    pub lr: f32,
    /// Momentum, Nesterov style.
    pub momentum: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// Multiplies the gradient first: clipping.
    pub gradient_scale: f32,
    /// Of stochastic rounding; changes with run, step and tensor.
    pub seed: u64,
    /// How [`Device::muon_all`](super::Device::muon_all) refreshes bf16 matrices.
    pub weight_rounding: Rounding,
}
