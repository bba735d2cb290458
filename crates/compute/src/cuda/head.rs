//! The output head fused with softmax cross-entropy, chunk by chunk: the host side of `head.cu`.
//!
//! FLOPs: `2 rows vocab_size n_embd` forward, twice that backward, over the rows of non-zero weight only. Rows that do not
//! count are left out by gathering the others; where all count, as in pre-training, nothing is gathered. A chunk's
//! logits and their gradient share one piece of scratch.

use super::buffer::{CudaBuffer, CudaMatrix, f32_values, little_endian};
use super::device::CudaDevice;
use super::driver::{Address, Launch, Matmul, Operand};
use super::elementwise::rows_by_number;
use super::kernels::Family;
use super::linear::{operand, transposed};
use super::quantized;
use super::scratch::Carver;
use crate::device::{Head, HeadGradient};
use crate::dtype::DType;

/// Threads of the row kernel, as there.
const THREADS: u32 = 512;
/// Bytes of a thread's sums in `head_totals`: two f64 and two u64.
const SUMS_BYTES: u32 = 32;

/// Rows of a chunk: at most 512 MiB of f32 logits, a number that depends on the vocabulary alone. Every chunk reads and
/// writes the whole gradient of the weight: too few rows would be bound by that.
fn chunk_rows(vocab_size: usize) -> usize {
    ((1 << 27) / vocab_size.max(1)).clamp(64, 4096) / 64 * 64
}

/// Floats from one row of logits to the next: what vector accesses and matrix products like.
fn logit_stride(vocab_size: usize) -> usize {
    vocab_size.next_multiple_of(32)
}

/// Scratch of a call.
pub(super) struct Layout {
    logits: Address,
    correct: Address,
    rows: Address,
    hidden: Address,
    d_hidden: Address,
    /// Rows of a quantised weight.
    restored: Address,
}

pub(super) fn layout(
    carver: &mut Carver,
    storage: DType,
    tokens: usize,
    vocab_size: usize,
    n_embd: usize,
    quantized: bool,
) -> Layout {
    let chunk = chunk_rows(vocab_size).min(tokens);
    let rows = chunk * n_embd * storage.size();
    Layout {
        logits: carver.take(4 * chunk * logit_stride(vocab_size)),
        correct: carver.take(4 * tokens),
        rows: carver.take(4 * tokens),
        hidden: carver.take(rows),
        d_hidden: carver.take(rows),
        restored: if quantized { quantized::restored_rows(carver, n_embd) } else { Address::NULL },
    }
}

/// Adds the totals to a tally on the device; waits for nothing.
pub(super) fn run(
    device: &CudaDevice,
    head: &Head<'_, CudaBuffer, CudaMatrix>,
    losses: &mut CudaBuffer,
    gradient: Option<HeadGradient<'_, CudaBuffer>>,
    tally: Address,
) {
    let (tokens, vocab_size, n_embd) = (head.tokens, head.weight.rows, head.weight.columns);
    let storage = head.weight.dtype();
    if tokens == 0 {
        return;
    }
    let weights = head.weights.input(DType::F32, tokens);
    let counted: Vec<u32> = {
        let on_host = head.weights.read(tokens);
        f32_values(&on_host).zip(0..).filter(|(weight, _)| *weight != 0.0).map(|(_, row)| row).collect()
    };
    let losses = losses.output(DType::F32, tokens);
    let pass = Pass {
        device,
        storage,
        vocab_size,
        n_embd,
        weight: head.weight,
        hidden: head.hidden.input(storage, tokens * n_embd),
        targets: head.targets.input(DType::U32, tokens),
        weights,
        losses,
        gradient: gradient.map(|g| Gradient {
            scale: g.scale,
            hidden: g.hidden.output(storage, tokens * n_embd),
            weight: g.weight.output(DType::F32, vocab_size * n_embd),
        }),
    };
    let is_quantized = head.weight.format.is_quantized();
    assert!(!is_quantized || pass.gradient.is_none(), "quantised weights have no gradient");
    device.with_scratch(
        |carver| layout(carver, storage, tokens, vocab_size, n_embd, is_quantized),
        |scratch| {
            let all = counted.len() == tokens;
            if !all {
                device.driver().zero(losses, 4 * tokens);
                device.driver().upload(scratch.rows, &little_endian(&counted, u32::to_le_bytes));
                if let Some(gradient) = &pass.gradient {
                    device.driver().zero(gradient.hidden, tokens * n_embd * storage.size());
                }
            }
            let chunk = chunk_rows(vocab_size);
            for first in (0..counted.len()).step_by(chunk) {
                let rows = chunk.min(counted.len() - first);
                if all {
                    pass.chunk(&scratch, first, rows, None);
                } else {
                    pass.chunk(&scratch, first, rows, Some(scratch.rows.offset(4 * first)));
                }
            }
            let arguments = arguments![losses, scratch.correct, weights, tally, tokens as u32,];
            let launch = Launch::linear(1, 256).with_shared(256 * SUMS_BYTES);
            device.launch(Family::Head, Some(storage), "head_totals", launch, &arguments);
        },
    );
}

/// Where a call's gradients go.
struct Gradient {
    scale: f32,
    hidden: Address,
    weight: Address,
}

/// What the chunks of a call share.
struct Pass<'a> {
    device: &'a CudaDevice,
    storage: DType,
    vocab_size: usize,
    n_embd: usize,
    weight: &'a CudaMatrix,
    hidden: Address,
    targets: Address,
    weights: Address,
    losses: Address,
    gradient: Option<Gradient>,
}

impl Pass<'_> {
    /// `rows` rows: tokens from `first` on, or those that a list names.
    fn chunk(&self, scratch: &Layout, first: usize, rows: usize, numbers: Option<Address>) {
        let Pass { device, storage, vocab_size, n_embd, .. } = *self;
        let row_bytes = n_embd * storage.size();
        let hidden = match numbers {
            None => self.hidden.offset(first * row_bytes),
            Some(numbers) => {
                let operands = [self.hidden, numbers, scratch.hidden];
                rows_by_number(device, "gather_rows", storage, operands, rows, n_embd);
                scratch.hidden
            }
        };
        let hidden = operand(hidden, storage, n_embd);
        let weight = operand(self.weight.address(), storage, n_embd);
        let stride = logit_stride(vocab_size);
        let logits = |weight: Operand, first: usize, n: usize| {
            device.matmul(&Matmul {
                m: rows,
                n,
                k: n_embd,
                a: hidden,
                b: transposed(weight),
                c: operand(scratch.logits.offset(4 * first), DType::F32, stride),
                beta: 0.0,
                bias: None,
            });
        };
        if self.weight.format.is_quantized() {
            let restored = operand(scratch.restored, storage, n_embd);
            quantized::by_chunks(device, self.weight, scratch.restored, |first, n| logits(restored, first, n));
        } else {
            logits(weight, 0, vocab_size);
        }
        let arguments = arguments![
            scratch.logits,
            numbers.unwrap_or(Address::NULL),
            first as u32,
            self.targets,
            self.weights,
            self.losses,
            scratch.correct,
            self.gradient.as_ref().map_or(0.0, |g| g.scale),
            vocab_size as u32,
            stride as u32,
            u32::from(self.gradient.is_some()),
        ];
        let launch = Launch::linear(rows as u32, THREADS).with_shared(4 * THREADS / 32);
        device.launch(Family::Head, Some(storage), "cross_entropy", launch, &arguments);
        let Some(gradient) = &self.gradient else { return };
        let d_logits: Operand = operand(scratch.logits, storage, stride * 4 / storage.size());
        let d_hidden = match numbers {
            None => gradient.hidden.offset(first * row_bytes),
            Some(_) => scratch.d_hidden,
        };
        device.matmul(&Matmul {
            m: rows,
            n: n_embd,
            k: vocab_size,
            a: d_logits,
            b: weight,
            c: operand(d_hidden, storage, n_embd),
            beta: 0.0,
            bias: None,
        });
        if let Some(numbers) = numbers {
            let operands = [d_hidden, numbers, gradient.hidden];
            rows_by_number(device, "scatter_rows", storage, operands, rows, n_embd);
        }
        device.matmul(&Matmul {
            m: vocab_size,
            n: n_embd,
            k: rows,
            a: transposed(d_logits),
            b: hidden,
            c: operand(gradient.weight, DType::F32, n_embd),
            beta: 1.0,
            bias: None,
        });
    }
}
