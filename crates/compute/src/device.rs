//! The [`Device`] trait: memory and the operations that a transformer needs, forward and backward.
//!
//! `model` and `train` are written against this trait and know nothing below it. Shapes are row-major; `S` is the
//! storage type of activations (bf16 by default, f32 on request); arithmetic and accumulation are f32.
//! Buffers may be longer than an operation needs: it uses the first `tokens` rows. Operations run in the order they
//! are called. Passing buffers of the wrong type or too short is a programming error and panics.

mod operands;

pub use operands::*;

use crate::cache_format::CacheFormat;
use crate::dtype::DType;
use crate::error::ComputeError;
use crate::matrix_format::MatrixFormat;

/// Elements of a gradient from which on [`Device::clear_gradient`] is worth putting off: a matrix's.
pub(crate) const LARGE_GRADIENT: usize = 1 << 16;

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
    /// Load, heat, power and memory at this moment, as far as they are known; `None` of a device that tells nothing. Takes up
    /// to a few milliseconds.
    fn sensors(&self) -> Option<Sensors> {
        None
    }
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
    /// again, a device may start it as one from the third time on, and it may call them on a thread of its own; their effect is that of
    /// the operations alone.
    fn together<R: Send>(&self, operations: impl FnOnce() -> R + Send) -> R {
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
    /// Whether [`Device::attention`] takes heads of this width.
    ///
    /// # Errors
    /// Why it does not, and what to choose instead.
    fn supports_heads(&self, head_dim: usize) -> Result<(), ComputeError> {
        let _ = head_dim;
        Ok(())
    }
    /// Whether products with weights of this format round the activations to 8 bits, in blocks
    /// ([`crate::reference::quantized::rounded_activations`]).
    fn rounds_activations(&self, format: MatrixFormat) -> bool {
        let _ = format;
        false
    }
    /// Whether [`Device::split_qkv`] can write, and [`Device::attention`] read, keys and values held so.
    ///
    /// # Errors
    /// Why they cannot, and what to choose instead.
    fn supports_cache(&self, format: CacheFormat) -> Result<(), ComputeError> {
        match format {
            CacheFormat::F32 | CacheFormat::Bf16 => Ok(()),
            CacheFormat::Q8 => {
                let DeviceInfo { name: device, isa, .. } = self.info();
                Err(ComputeError::NoQuantizedCache { device, isa })
            }
        }
    }
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
    /// Gives the scratch memory back, so that [`Device::available_bytes`] counts it for whoever reserves it next: between two
    /// runs on one device, when nothing computes.
    fn release_scratch(&self) {}

    /// Elements of a buffer.
    fn len(&self, buffer: &Self::Buffer) -> usize;
    /// The buffer's bytes on the host, little-endian: borrowed where the device's memory is the host's.
    fn bytes<'a>(&self, buffer: &'a Self::Buffer) -> std::borrow::Cow<'a, [u8]>;
    /// The bytes of `len` elements from `offset` on, little-endian: what [`Device::write_bytes`] puts back.
    fn read_bytes(&self, buffer: &Self::Buffer, offset: usize, len: usize) -> Vec<u8>;
    /// Copies elements of the buffer's own type to the device, as [`Device::read_bytes`] gives them.
    fn write_bytes(&self, buffer: &mut Self::Buffer, offset: usize, bytes: &[u8]);
    /// Copies to the device, rounding to the buffer's type.
    fn write_f32(&self, buffer: &mut Self::Buffer, offset: usize, values: &[f32]);
    /// Copies from the device, widening.
    fn read_f32(&self, buffer: &Self::Buffer, offset: usize, values: &mut [f32]);
    /// Copies indices to the device.
    fn write_u32(&self, buffer: &mut Self::Buffer, offset: usize, values: &[u32]);
    /// Sets every byte to zero.
    fn fill_zero(&self, buffer: &mut Self::Buffer);
    /// Sets a gradient to zero. A device may put it off: what is added to it next is then stored, and no zero is ever written or
    /// read.
    fn clear_gradient(&self, gradient: &mut Self::Buffer) {
        self.fill_zero(gradient);
    }
    /// Refreshes a matrix from its f32 row-major values `[rows, columns]`.
    fn pack(&self, values: &Self::Buffer, matrix: &mut Self::Matrix);
    /// The same, a bf16 matrix rounded stochastically. An element's rounding is a function of the seed and its index.
    fn pack_stochastically(&self, values: &Self::Buffer, matrix: &mut Self::Matrix, seed: u64);
    /// Whichever of the two `rounding` means; the seed is that of the second.
    fn pack_rounded(&self, values: &Self::Buffer, matrix: &mut Self::Matrix, rounding: Rounding, seed: u64) {
        match rounding {
            Rounding::Nearest => self.pack(values, matrix),
            Rounding::Stochastic => self.pack_stochastically(values, matrix, seed),
        }
    }
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
    /// at their slots of `S [slots, n_kv_head * head_dim]` buffers, or of those of another [`CacheFormat`], a
    /// [`row_len`](CacheFormat::row_len) each. RoPE turns halves `(i, i + head_dim / 2)` (Su et al. 2021).
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

    /// Causal grouped-query attention within each span (Dao 2023, tiled, online softmax, scale `1 / sqrt(head_dim)`). Keys and
    /// values are `S`, or of another [`CacheFormat`].
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
    /// One Muon step of many tensors, as the tally says; `update.gradient_scale` comes on top.
    fn muon_all(&self, update: &Muon, tensors: Vec<MuonTensor<'_, Self::Buffer, Self::Matrix>>, tally: &Self::Tally);

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
    /// [`Device::adamw`] of a matrix's weights, then [`Device::pack`] of what they have become: one pass where the device has it.
    fn adamw_and_pack(
        &self,
        update: &AdamW,
        weight: &mut Self::Buffer,
        gradient: &Self::Buffer,
        moments: [&mut Self::Buffer; 2],
        matrix: &mut Self::Matrix,
    ) {
        self.adamw(update, weight, gradient, moments);
        self.pack(weight, matrix);
    }
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
