//! The [`Device`] trait: memory and the operations that a transformer needs, forward and backward.
//!
//! `model` and `train` are written against this trait and know nothing below it. Shapes are row-major; `S` is the
//! storage type of activations (bf16 by default, f32 on request); arithmetic and accumulation are f32.
//! Buffers may be longer than an operation needs: it uses the first `tokens` rows. Operations run in the order they
//! are called. Passing buffers of the wrong type or too short is a programming error and panics.

use crate::dtype::DType;
use crate::error::ComputeError;
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

/// Sizes that bound the scratch memory of every operation; see [`Device::reserve_scratch`].
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
    /// Width of an attention head.
    pub head_dim: usize,
    /// Whether backward operations will run.
    pub training: bool,
}

/// Attention's dimensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// Root of the sum of squares of all gradients, once [`Device::clip`] has run.
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
    /// First and second, updated; as [`Device::adamw`] takes them.
    pub moments: [&'a mut B; 2],
    /// This tensor's, in place of the common one.
    pub weight_decay: f32,
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
    /// How [`Device::adamw_all`] refreshes bf16 matrices.
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
    /// Of a bf16 momentum's stochastic rounding; changes with run, step and tensor.
    pub seed: u64,
}

/// A device: memory and operations.
#[allow(clippy::too_many_arguments)] // Operations take their operands; shapes travel in structs where they recur.
pub trait Device: Send + Sync {
    /// Memory of one element type, fixed length, on the device.
    type Buffer: Send + Sync;
    /// A weight matrix in the form the matrix kernels read, refreshed by [`Device::pack`].
    type Matrix: Send + Sync;
    /// A step's totals on the device, and what follows from them for its update. The heads of a step add to it,
    /// [`Device::clip`] concludes, updates obey, and [`Device::read_tally`] tells the host, or [`Device::post_tally`] and
    /// later [`Device::collect_tally`]: nothing else waits.
    type Tally: Send + Sync;

    /// What this device is.
    fn info(&self) -> DeviceInfo;
    /// Bytes allocated so far through this device, scratch included, as asked for: without what rounding up adds.
    fn allocated_bytes(&self) -> u64;
    /// Bytes that can still be allocated, if known.
    fn available_bytes(&self) -> Option<u64>;
    /// Whether operations return before they are done: then it pays to start more before asking what came of the last.
    fn runs_ahead(&self) -> bool {
        false
    }
    /// Whether its memory is the host's: then what the host holds beside it takes from the same bytes.
    fn is_host(&self) -> bool {
        false
    }
    /// Bytes allocated so far by [`Device::allocate_on_host`], where that is not the device's memory.
    fn allocated_host_bytes(&self) -> u64 {
        0
    }

    /// The first error of an operation since the start, if any: operations start work and return nothing, so that one that
    /// fails is only known later. After it the device does nothing more, and what is read from it means nothing. Call this
    /// where results are about to be believed or kept.
    ///
    /// # Errors
    /// That error. A device whose operations cannot fail has none.
    fn check(&self) -> Result<(), ComputeError> {
        Ok(())
    }

    /// Runs operations that belong together. Where the same sequence of operations over the same memory comes again and
    /// again, a device may start it as one from the third time on; their effect is that of the operations alone.
    fn together<R>(&self, operations: impl FnOnce() -> R) -> R {
        operations()
    }
    /// Something that a person should know once, and that is no error: what the device would do better and cannot.
    fn take_note(&self) -> Option<String> {
        None
    }

    /// A zeroed buffer. The name appears in errors and listings.
    ///
    /// # Errors
    /// The memory cannot be had.
    fn allocate(&self, name: &str, dtype: DType, len: usize) -> Result<Self::Buffer, ComputeError>;
    /// The same in memory of the host that operations reach from the device, slowly: for what is used once a step. Where
    /// the device's memory is the host's there is no difference.
    ///
    /// # Errors
    /// The memory cannot be had.
    fn allocate_on_host(&self, name: &str, dtype: DType, len: usize) -> Result<Self::Buffer, ComputeError> {
        self.allocate(name, dtype, len)
    }
    /// The one or the other.
    ///
    /// # Errors
    /// The memory cannot be had.
    fn allocate_at(&self, place: Place, name: &str, dtype: DType, len: usize) -> Result<Self::Buffer, ComputeError> {
        match place {
            Place::Device => self.allocate(name, dtype, len),
            Place::Host => self.allocate_on_host(name, dtype, len),
        }
    }
    /// Whether the device can hold and multiply matrices of this format.
    ///
    /// # Errors
    /// Why it cannot, and what to choose instead.
    fn supports(&self, format: MatrixFormat) -> Result<(), ComputeError>;
    /// An unset matrix of `rows` outputs by `columns` inputs.
    ///
    /// # Errors
    /// The device does not support the format, or the memory cannot be had.
    fn allocate_matrix(
        &self,
        name: &str,
        format: MatrixFormat,
        rows: usize,
        columns: usize,
        usage: MatrixUse,
    ) -> Result<Self::Matrix, ComputeError>;
    /// Bytes that [`Device::allocate_matrix`] would take.
    fn matrix_bytes(&self, format: MatrixFormat, rows: usize, columns: usize, usage: MatrixUse) -> u64;
    /// Bytes that [`Device::reserve_scratch`] would take.
    fn scratch_bytes(&self, shape: &ScratchShape) -> u64;
    /// Makes the scratch memory large enough for `shape`, so that no operation allocates.
    ///
    /// # Errors
    /// The memory cannot be had.
    fn reserve_scratch(&self, shape: &ScratchShape) -> Result<(), ComputeError>;

    /// Elements of a buffer.
    fn len(&self, buffer: &Self::Buffer) -> usize;
    /// The buffer's bytes on the host, little-endian: borrowed where the device's memory is the host's.
    fn bytes<'a>(&self, buffer: &'a Self::Buffer) -> std::borrow::Cow<'a, [u8]>;
    /// Copies to the device, rounding to the buffer's type.
    fn write_f32(&self, buffer: &mut Self::Buffer, offset: usize, values: &[f32]);
    /// Copies from the device, widening.
    fn read_f32(&self, buffer: &Self::Buffer, offset: usize, values: &mut [f32]);
    /// Copies indices to the device.
    fn write_u32(&self, buffer: &mut Self::Buffer, offset: usize, values: &[u32]);
    /// Sets every byte to zero.
    fn fill_zero(&self, buffer: &mut Self::Buffer);
    /// Refreshes a matrix from its f32 row-major values `[rows, columns]`.
    fn pack(&self, values: &Self::Buffer, matrix: &mut Self::Matrix);
    /// The same, a bf16 matrix rounded stochastically. An element's rounding is a function of the seed and its index.
    fn pack_stochastically(&self, values: &Self::Buffer, matrix: &mut Self::Matrix, seed: u64);
    /// Copies the first `len` elements, same type.
    fn copy(&self, from: &Self::Buffer, len: usize, to: &mut Self::Buffer);
    /// Copies rows `rows[i]` of `from` (`[_, width]`) to row `i` of `to`, same type.
    fn gather_rows(&self, from: &Self::Buffer, width: usize, rows: &[u32], to: &mut Self::Buffer);

    /// `x[t, :] = table[ids[t], :]`, f32.
    fn embedding(&self, table: &Self::Matrix, ids: &Self::Buffer, tokens: usize, x: &mut Self::Buffer);
    /// `d_table[ids[t], :] += dx[t, :]`, in token order.
    fn embedding_backward(
        &self,
        ids: &Self::Buffer,
        dx: &Self::Buffer,
        tokens: usize,
        width: usize,
        d_table: &mut Self::Buffer,
    );

    /// Normalises rows of the f32 residual stream into `y` (`S`); keeps what the backward pass needs in `stats`, f32
    /// `[tokens, 2]` (mean, 1 / deviation).
    fn norm(
        &self,
        norm: &Norm<'_, Self::Buffer>,
        x: &Self::Buffer,
        tokens: usize,
        width: usize,
        y: &mut Self::Buffer,
        stats: &mut Self::Buffer,
    );
    /// Adds the gradient of the norm's input to `dx` (f32) and of its parameters to `gradient`; `dy` is `S`.
    fn norm_backward(
        &self,
        norm: &Norm<'_, Self::Buffer>,
        x: &Self::Buffer,
        stats: &Self::Buffer,
        dy: &Self::Buffer,
        tokens: usize,
        width: usize,
        dx: &mut Self::Buffer,
        gradient: NormGradient<'_, Self::Buffer>,
    );
    /// Recomputes `y` from `x` and `stats`.
    fn norm_again(
        &self,
        norm: &Norm<'_, Self::Buffer>,
        x: &Self::Buffer,
        stats: &Self::Buffer,
        tokens: usize,
        width: usize,
        y: &mut Self::Buffer,
    );

    /// `out = x · weightᵀ + bias`; `x` is `S [tokens, columns]`, bias f32 `[rows]`. Where the result is `S`, a device may
    /// round the bias to `S` before it adds it, as matrix libraries do; the result is rounded once, after the sum.
    fn linear(
        &self,
        x: &Self::Buffer,
        weight: &Self::Matrix,
        bias: Option<&Self::Buffer>,
        tokens: usize,
        out: Out<'_, Self::Buffer>,
    );
    /// `dx = dy · weight`; both `S`.
    fn linear_backward_input(&self, dy: &Self::Buffer, weight: &Self::Matrix, tokens: usize, dx: &mut Self::Buffer);
    /// `d_weight += dyᵀ · x`, `d_bias += sum_t dy[t, :]`, both f32; `shape` is (rows, columns) of the weight.
    fn linear_backward_weight(
        &self,
        dy: &Self::Buffer,
        x: &Self::Buffer,
        tokens: usize,
        shape: (usize, usize),
        d_weight: &mut Self::Buffer,
        d_bias: Option<&mut Self::Buffer>,
    );

    /// Splits `qkv` rows into queries `S [tokens, n_head * head_dim]` (normalised, rotated) and writes keys and values
    /// at their slots of `S [slots, n_kv_head * head_dim]` buffers. RoPE turns halves `(i, i + head_dim / 2)` (Su et al. 2021).
    fn split_qkv(
        &self,
        split: &QkvSplit<'_, Self::Buffer>,
        qkv: &Self::Buffer,
        tokens: usize,
        q: &mut Self::Buffer,
        k: &mut Self::Buffer,
        v: &mut Self::Buffer,
    );
    /// Turns `qkv` into its gradient, in place (without a norm it may have held anything), and adds to the norm weights'
    /// gradients (query, key). `dk` and `dv` are indexed by slot.
    fn split_qkv_backward(
        &self,
        split: &QkvSplit<'_, Self::Buffer>,
        qkv: &mut Self::Buffer,
        gradients: [&Self::Buffer; 3],
        tokens: usize,
        d_norm: Option<(&mut Self::Buffer, &mut Self::Buffer)>,
    );

    /// Causal grouped-query attention within each span (Dao 2023, tiled, online softmax, scale `1 / sqrt(head_dim)`).
    /// `lse`, f32 `[tokens, n_head]`, receives each row's log-sum-exp where the backward pass will need it.
    fn attention(
        &self,
        shape: AttentionShape,
        spans: &[Span],
        qkv: [&Self::Buffer; 3],
        out: &mut Self::Buffer,
        lse: Option<&mut Self::Buffer>,
    );
    /// Gradients of attention; spans must have `q_len == kv_len` and not overlap. All activations `S`.
    fn attention_backward(
        &self,
        shape: AttentionShape,
        spans: &[Span],
        qkv: [&Self::Buffer; 3],
        out: &Self::Buffer,
        lse: &Self::Buffer,
        d_out: &Self::Buffer,
        d_qkv: [&mut Self::Buffer; 3],
    );

    /// `y[tokens, n_ff] = activation(x)`; both `S`.
    fn activation(&self, kind: ActivationKind, x: &Self::Buffer, tokens: usize, n_ff: usize, y: &mut Self::Buffer);
    /// Turns `x` into its gradient, in place. `again`: `dy` becomes the activation's output, recomputed in the same pass for
    /// who has not kept it; otherwise it stays.
    fn activation_backward(
        &self,
        kind: ActivationKind,
        x: &mut Self::Buffer,
        dy: &mut Self::Buffer,
        tokens: usize,
        n_ff: usize,
        again: bool,
    );

    /// `x += dropout(branch)`: `x` f32, `branch` `S`, `len` elements.
    fn dropout_add(&self, dropout: Dropout, branch: &Self::Buffer, len: usize, x: &mut Self::Buffer);
    /// `x = dropout(x)` in f32; its own gradient.
    fn dropout(&self, dropout: Dropout, len: usize, x: &mut Self::Buffer);
    /// `branch = dropout(dx)`, rounded to `S`: a residual branch's share of the stream's gradient.
    fn branch_gradient(&self, dropout: Option<Dropout>, dx: &Self::Buffer, len: usize, branch: &mut Self::Buffer);

    /// Output head and cross-entropy in one, chunk by chunk: the logits of a whole batch never exist. Row losses (nats,
    /// unweighted) go to `losses`, f32 `[tokens]`, 0 where the weight is 0.
    fn head(
        &self,
        head: &Head<'_, Self::Buffer, Self::Matrix>,
        losses: &mut Self::Buffer,
        gradient: Option<HeadGradient<'_, Self::Buffer>>,
    ) -> HeadResult;

    /// Totals of nothing.
    ///
    /// # Errors
    /// The memory cannot be had.
    fn allocate_tally(&self) -> Result<Self::Tally, ComputeError>;
    /// Bytes of the device's that [`Device::allocate_tally`] takes.
    fn tally_bytes(&self) -> u64 {
        0
    }
    /// Back to nothing, ahead of a step; but what [`Device::clip`] has once refused stays refused.
    fn clear_tally(&self, tally: &mut Self::Tally);
    /// Has the totals brought to the host as they are now, in the order of the operations. Waits for nothing.
    fn post_tally(&self, tally: &mut Self::Tally);
    /// The earliest totals that were posted and not collected. Waits for them, and for nothing that was started later.
    ///
    /// # Panics
    /// None were posted.
    fn collect_tally(&self, tally: &mut Self::Tally) -> StepTotals;
    /// Waits for everything that was started, and reads the totals.
    fn read_tally(&self, tally: &Self::Tally) -> StepTotals;
    /// [`Device::head`], its result added to a tally.
    fn head_to_tally(
        &self,
        head: &Head<'_, Self::Buffer, Self::Matrix>,
        losses: &mut Self::Buffer,
        gradient: Option<HeadGradient<'_, Self::Buffer>>,
        tally: &mut Self::Tally,
    );
    /// Takes the norm of all gradients together. Updates by this tally multiply gradients by `max_norm / norm` where the
    /// norm is larger (never, if `max_norm` is 0), and change nothing if the norm or the loss is not finite: neither those
    /// of this step nor those of any later one, which may have been started before anybody could know.
    fn clip(&self, gradients: &[&Self::Buffer], max_norm: f64, tally: &mut Self::Tally);
    /// One AdamW step of many tensors, as the tally says; `update.gradient_scale` comes on top.
    fn adamw_all(&self, update: &AdamW, tensors: Vec<AdamWTensor<'_, Self::Buffer, Self::Matrix>>, tally: &Self::Tally);
    /// [`Device::muon`], as the tally says; `update.gradient_scale` comes on top.
    fn muon_by_tally(
        &self,
        update: &Muon,
        blocks: (&[usize], usize),
        weight: &mut Self::Buffer,
        gradient: &Self::Buffer,
        momentum: &mut Self::Buffer,
        tally: &Self::Tally,
    );

    /// Sum of squares in f64, in a fixed order.
    fn sum_of_squares(&self, buffer: &Self::Buffer) -> f64;
    /// One AdamW step over f32 weights and gradients of one length. The buffers of the moments are those of a
    /// [`MomentFormat`](crate::MomentFormat): `dtype` and `buffer_len` of it.
    fn adamw(
        &self,
        update: &AdamW,
        weight: &mut Self::Buffer,
        gradient: &Self::Buffer,
        moments: [&mut Self::Buffer; 2],
    );
    /// One Muon step for a matrix `[rows, columns]` of f32, each run of `row_blocks` rows as a matrix of its own (the
    /// queries, keys and values of one fused weight); `momentum` of the same length, f32 or, rounded stochastically,
    /// bf16.
    fn muon(
        &self,
        update: &Muon,
        row_blocks: &[usize],
        columns: usize,
        weight: &mut Self::Buffer,
        gradient: &Self::Buffer,
        momentum: &mut Self::Buffer,
    );
}
