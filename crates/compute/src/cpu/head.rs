//! The output head fused with softmax cross-entropy, chunk by chunk.
//!
//! FLOPs: `2 rows vocab d` forward, twice that backward, over the rows of non-zero weight only. A chunk's logits live
//! in scratch: [`chunk_rows`] rows. Their gradients, rounded to `S`, take their place.

use std::marker::PhantomData;

use super::gemm::{MatElement, Store};
use super::isa::{Kernel, Math};
use super::linear::{self, CpuMatrix, WeightGradient};
use super::math;
use super::memory::Carver;
use super::pool::{Pool, Shared};
use super::quantized;
use crate::device::HeadResult;
use crate::dtype::Storage;

/// Rows of a chunk: at most 64 MiB of f32 logits, a number that depends on the vocabulary alone.
pub(super) fn chunk_rows(vocab_size: usize) -> usize {
    ((1 << 24) / vocab_size.max(1)).clamp(64, linear::TOKENS) / 32 * 32
}

/// Slices of a head call.
pub(super) struct Inputs<'a, S> {
    pub(super) hidden: &'a [S],
    pub(super) weight: &'a CpuMatrix,
    pub(super) targets: &'a [u32],
    pub(super) weights: &'a [f32],
}

/// Gradients of a head call.
pub(super) struct Gradient<'a, S> {
    pub(super) scale: f32,
    pub(super) hidden: &'a mut [S],
    pub(super) weight: WeightGradient<'a>,
}

pub(super) fn scratch_bytes<S: MatElement>(tokens: usize, vocab_size: usize, n_embd: usize, training: bool) -> usize {
    let rows = chunk_rows(vocab_size).min(tokens.max(1));
    let wide = n_embd.next_multiple_of(S::GROUP);
    let forward = Carver::bytes::<f32>(rows * vocab_size)
        + Carver::bytes::<S>(rows * n_embd)
        + Carver::bytes::<u32>(tokens)
        + Carver::bytes::<f32>(3 * rows);
    let plain = Carver::bytes::<S>(rows * wide);
    let backward = Carver::bytes::<f32>(rows * n_embd) + linear::backward_weight_scratch::<S>(rows, vocab_size, n_embd);
    // Quantised weights have no gradient.
    forward + if training { plain + backward } else { plain.max(quantized::scratch_bytes(rows, n_embd)) }
}

/// One row of logits: the loss, whether the target leads, and the gradient.
struct Row<'a, S> {
    logits: &'a mut [f32],
    target: usize,
    /// What the gradient is multiplied by that takes the logits' place, padded with zeros to a group; `None` without one.
    scale: Option<f32>,
    stored: PhantomData<S>,
}

impl<S: MatElement> Kernel for Row<'_, S> {
    type Output = (f32, bool);
    #[inline(always)]
    fn run<M: Math>(self) -> (f32, bool) {
        let vocab_size = self.logits.len();
        let max = math::max(self.logits);
        let at_target = self.logits[self.target];
        let mut lanes = [0.0f32; math::LANES];
        let exponentials = |logits: &mut [f32; math::LANES], lanes: &mut [f32; math::LANES]| {
            for l in 0..math::LANES {
                logits[l] = math::exp::<M>(logits[l] - max);
                lanes[l] += logits[l];
            }
        };
        let (chunks, tail) = self.logits.as_chunks_mut();
        for chunk in chunks {
            exponentials(chunk, &mut lanes);
        }
        lanes = math::whole(lanes);
        if !tail.is_empty() {
            // What is added for nobody is `e^-inf`, 0.
            let mut filled = math::filled(tail, f32::NEG_INFINITY);
            exponentials(&mut filled, &mut lanes);
            tail.copy_from_slice(&filled[..tail.len()]);
        }
        let total = math::sum_lanes(lanes);
        if let Some(scale) = self.scale {
            let factor = scale / total;
            let at_target = self.logits[self.target] * factor - scale;
            gradients_in_place::<S>(self.logits, factor);
            let gradient = stored_in_place_mut::<S>(self.logits);
            gradient[self.target] = S::store(at_target);
            gradient[vocab_size..vocab_size.next_multiple_of(S::GROUP)].fill(S::store(0.0));
        }
        // NaN in the logits must reach the loss: max() skips it, the sum does not.
        (total.ln() + max - at_target, at_target >= max)
    }
}

/// Floats' memory as values of `S`, which are no larger.
fn stored_in_place<S: Storage>(floats: &[f32]) -> &[S] {
    const { assert!(align_of::<S>() <= align_of::<f32>() && size_of::<S>() <= size_of::<f32>()) };
    // SAFETY: the same bytes; every bit pattern is a value of either type.
    unsafe { std::slice::from_raw_parts(floats.as_ptr().cast(), size_of_val(floats) / size_of::<S>()) }
}

/// The same, to be written.
#[inline(always)]
fn stored_in_place_mut<S: Storage>(floats: &mut [f32]) -> &mut [S] {
    const { assert!(align_of::<S>() <= align_of::<f32>() && size_of::<S>() <= size_of::<f32>()) };
    // SAFETY: as above, and nobody else's.
    unsafe { std::slice::from_raw_parts_mut(floats.as_mut_ptr().cast(), size_of_val(floats) / size_of::<S>()) }
}

/// Multiplies floats by a factor and stores the products one behind another in the same memory.
#[inline(always)]
fn gradients_in_place<S: Storage>(floats: &mut [f32], factor: f32) {
    let whole = floats.len() / math::LANES * math::LANES;
    for first in (0..whole).step_by(math::LANES) {
        some_in_place::<S>(floats, first, math::LANES, factor);
    }
    some_in_place::<S>(floats, whole, floats.len() - whole, factor);
}

/// The same for up to 16 from `first` on: all are read before one is written, and what is written ends before those behind them.
#[inline(always)]
fn some_in_place<S: Storage>(floats: &mut [f32], first: usize, len: usize, factor: f32) {
    let mut values = [0.0; math::LANES];
    values[..len].copy_from_slice(&floats[first..first + len]);
    for (to, value) in stored_in_place_mut::<S>(floats)[first..first + len].iter_mut().zip(values) {
        *to = S::store(value * factor);
    }
}

/// Loss of every weighted row, and the gradients if asked for.
pub(super) fn run<S: MatElement>(
    pool: &Pool,
    inputs: &Inputs<'_, S>,
    losses: &mut [f32],
    mut gradient: Option<Gradient<'_, S>>,
    scratch: &mut [u8],
) -> HeadResult {
    let (vocab_size, width) = (inputs.weight.rows, inputs.weight.columns);
    let tokens = inputs.targets.len();
    let chunk = chunk_rows(vocab_size).min(tokens.max(1));
    let mut scratch = Carver::new(scratch);
    let logits = scratch.take::<f32>(chunk * vocab_size);
    let hidden = scratch.take::<S>(chunk * width);
    let rows = scratch.take::<u32>(tokens);
    let results = scratch.take::<f32>(3 * chunk);
    let d_hidden = scratch.take::<f32>(if gradient.is_some() { chunk * width } else { 0 });
    let (product_scratch, rest) = scratch.rest().split_at_mut(linear::forward_scratch::<S>(chunk, inputs.weight));

    let mut counted = 0;
    losses[..tokens].fill(0.0);
    if let Some(gradient) = &mut gradient {
        gradient.hidden[..tokens * width].fill(S::store(0.0));
    }
    for (row, weight) in inputs.weights.iter().enumerate() {
        if *weight != 0.0 {
            rows[counted] = row as u32;
            counted += 1;
        }
    }
    let mut result = HeadResult { counted: counted as u64, ..HeadResult::default() };
    for rows in rows[..counted].chunks(chunk) {
        let n = rows.len();
        for (to, row) in hidden.chunks_exact_mut(width).zip(rows) {
            to.copy_from_slice(&inputs.hidden[*row as usize * width..][..width]);
        }
        let store = Store { out: Shared::new(logits), stride: vocab_size, bias: None };
        linear::forward(pool, hidden, n, inputs.weight, &store, product_scratch);
        let scale = gradient.as_ref().map(|g| g.scale);
        {
            let logits = Shared::new(logits);
            let results = Shared::new(results);
            pool.for_ranges(n, 4, |range| {
                for i in range {
                    let row = rows[i] as usize;
                    // SAFETY: rows are disjoint.
                    let (logits, out) =
                        unsafe { (logits.slice_mut(i * vocab_size, vocab_size), results.slice_mut(3 * i, 2)) };
                    let scale = scale.map(|scale| scale * inputs.weights[row]);
                    let target = inputs.targets[row] as usize;
                    let (loss, correct) = pool.isa().run(Row::<S> { logits, target, scale, stored: PhantomData });
                    out[0] = loss;
                    out[1] = f32::from(u8::from(correct));
                }
            });
        }
        for (row, out) in rows.iter().zip(results.chunks_exact(3)) {
            let weight = inputs.weights[*row as usize];
            losses[*row as usize] = out[0];
            result.weighted_loss += f64::from(weight) * f64::from(out[0]);
            result.weight += f64::from(weight);
            result.correct += out[1] as u64;
        }
        if let Some(gradient) = &mut gradient {
            let d_logits = stored_in_place::<S>(logits);
            let stride = vocab_size * size_of::<f32>() / size_of::<S>();
            d_hidden[..n * width].fill(0.0);
            linear::add_long_product(pool, d_logits, stride, n, inputs.weight.backward::<S>(), d_hidden);
            for (from, row) in d_hidden.chunks_exact(width).zip(rows) {
                let to = &mut gradient.hidden[*row as usize * width..][..width];
                for (to, from) in to.iter_mut().zip(from) {
                    *to = S::store(*from);
                }
            }
            let operands = (d_logits, &*hidden);
            linear::backward_weight_padded(pool, operands, n, (vocab_size, stride, width), &mut gradient.weight, rest);
        }
    }
    result
}
