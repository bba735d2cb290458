//! The output head fused with softmax cross-entropy, chunk by chunk.
//!
//! FLOPs: `2 rows vocab d` forward, twice that backward, over the rows of non-zero weight only. A chunk's logits live
//! in scratch: [`chunk_rows`] rows.

use super::gemm::{MatElement, PANEL, Store};
use super::isa::{Kernel, Math};
use super::linear::{self, CpuMatrix};
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
    pub(super) weight: &'a mut [f32],
}

pub(super) fn scratch_bytes<S: MatElement>(
    pool: &Pool,
    tokens: usize,
    vocab_size: usize,
    n_embd: usize,
    training: bool,
) -> usize {
    let rows = chunk_rows(vocab_size).min(tokens.max(1));
    let wide = n_embd.next_multiple_of(S::GROUP);
    let columns = vocab_size.next_multiple_of(S::GROUP);
    let forward = Carver::bytes::<f32>(rows * vocab_size)
        + Carver::bytes::<S>(rows * n_embd)
        + Carver::bytes::<u32>(tokens)
        + Carver::bytes::<f32>(3 * rows);
    let plain = Carver::bytes::<S>(rows * wide);
    let backward = Carver::bytes::<S>(rows * columns)
        + Carver::bytes::<f32>(rows * n_embd)
        + linear::backward_weight_scratch::<S>(rows, columns.next_multiple_of(PANEL), n_embd);
    // Quantised weights have no gradient.
    forward + if training { plain + backward } else { plain.max(quantized::scratch_bytes::<S>(pool, rows, n_embd)) }
}

/// One row of logits: the loss, whether the target leads, and the gradient.
struct Row<'a, S> {
    logits: &'a mut [f32],
    target: usize,
    /// `None` without a gradient, else what it is multiplied by.
    gradient: Option<(f32, &'a mut [S])>,
}

impl<S: Storage> Kernel for Row<'_, S> {
    type Output = (f32, bool);
    #[inline(always)]
    fn run<M: Math>(self) -> (f32, bool) {
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
        if let Some((scale, gradient)) = self.gradient {
            let factor = scale / total;
            for (g, e) in gradient.iter_mut().zip(&*self.logits) {
                *g = S::store(e * factor);
            }
            gradient[self.target] = S::store(self.logits[self.target] * factor - scale);
            gradient[self.logits.len()..].fill(S::store(0.0));
        }
        // NaN in the logits must reach the loss: max() skips it, the sum does not.
        (total.ln() + max - at_target, at_target >= max)
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
    let columns = vocab_size.next_multiple_of(S::GROUP);
    let mut scratch = Carver::new(scratch);
    let logits = scratch.take::<f32>(chunk * vocab_size);
    let hidden = scratch.take::<S>(chunk * width);
    let rows = scratch.take::<u32>(tokens);
    let results = scratch.take::<f32>(3 * chunk);
    let (d_logits, d_hidden) = match gradient {
        Some(_) => (scratch.take::<S>(chunk * columns), scratch.take::<f32>(chunk * width)),
        None => (Default::default(), Default::default()),
    };
    let (product_scratch, rest) = scratch.rest().split_at_mut(linear::forward_scratch::<S>(pool, chunk, inputs.weight));

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
            let (logits, d_logits) = (Shared::new(logits), Shared::new(d_logits));
            let results = Shared::new(results);
            pool.for_ranges(n, 4, |range| {
                for i in range {
                    let row = rows[i] as usize;
                    // SAFETY: rows are disjoint.
                    let (logits, out) =
                        unsafe { (logits.slice_mut(i * vocab_size, vocab_size), results.slice_mut(3 * i, 2)) };
                    let gradient = scale.map(|scale| {
                        // SAFETY: rows are disjoint.
                        (scale * inputs.weights[row], unsafe { d_logits.slice_mut(i * columns, columns) })
                    });
                    let target = inputs.targets[row] as usize;
                    let (loss, correct) = pool.isa().run(Row { logits, target, gradient });
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
            d_hidden[..n * width].fill(0.0);
            linear::add_long_product(pool, d_logits, columns, n, inputs.weight.backward::<S>(), d_hidden);
            for (from, row) in d_hidden.chunks_exact(width).zip(rows) {
                let to = &mut gradient.hidden[*row as usize * width..][..width];
                for (to, from) in to.iter_mut().zip(from) {
                    *to = S::store(*from);
                }
            }
            let operands = (&*d_logits, &*hidden);
            linear::backward_weight_padded(pool, operands, n, (vocab_size, columns, width), gradient.weight, rest);
        }
    }
    result
}
