//! Tiled forward pass of one span and head.

use std::marker::PhantomData;

#[cfg(target_arch = "x86_64")]
use super::avx512bf16;
use super::cached::{Rows, Unpacked};
use super::{AHEAD, Cached, Inputs, TILE_K, TILE_Q, strip_rows};
use crate::cpu::gemm::{Add, Left, MatElement, PackedB, State, Store, convert, multiply_here, pack::packed_len};
use crate::cpu::isa::{Isa, Kernel, Math, prefetch};
use crate::cpu::math;
use crate::cpu::memory::Carver;
use crate::cpu::pool::Shared;
use crate::device::{AttentionShape, Span};
use crate::dtype::Storage;
#[cfg(target_arch = "x86_64")]
use crate::dtype::{Bf16, DType};

/// One span and head.
pub(super) struct Task<'a, S, E> {
    pub(super) isa: Isa,
    pub(super) shape: AttentionShape,
    pub(super) span: Span,
    pub(super) head: usize,
    pub(super) inputs: Inputs<'a, S, E>,
    pub(super) out: Shared<'a, S>,
    pub(super) lse: Option<Shared<'a, f32>>,
}

impl<'a, S: Storage, E: Cached> Task<'a, S, E> {
    /// The same span's task of another head.
    pub(super) fn of_head(&self, head: usize) -> Self {
        Self { head, ..*self }
    }

    /// The same head's task of another span.
    pub(super) fn of_span(&self, span: Span) -> Self {
        Self { span, ..*self }
    }

    pub(super) fn q_stride(&self) -> usize {
        self.shape.n_head * self.shape.head_dim
    }

    pub(super) fn kv_stride(&self) -> usize {
        E::row_len(self.shape.n_kv_head, self.shape.head_dim)
    }

    /// Query row `i` of the span onwards.
    pub(super) fn q(&self, i: usize) -> &'a [S] {
        &self.inputs.q[(self.span.q_start + i) * self.q_stride() + self.head * self.shape.head_dim..]
    }

    fn kv_at(&self) -> usize {
        let kv_head = self.head / (self.shape.n_head / self.shape.n_kv_head);
        self.span.kv_start * self.kv_stride() + kv_head * (self.shape.head_dim + E::TAIL)
    }

    /// The span's keys, rows `kv_stride` apart.
    pub(super) fn k(&self) -> &'a [E] {
        &self.inputs.k[self.kv_at()..]
    }

    /// The span's values.
    pub(super) fn v(&self) -> &'a [E] {
        &self.inputs.v[self.kv_at()..]
    }

    /// Keys that query `i` sees.
    pub(super) fn visible(&self, i: usize) -> usize {
        self.span.kv_len - self.span.q_len + i + 1
    }

    /// Writes one output row from its accumulator, and its log-sum-exp. For kernels.
    #[inline(always)]
    pub(super) fn finish(&self, i: usize, sum: &[f32], max: f32, total: f32) {
        let row = self.span.q_start + i;
        // SAFETY: this task alone owns this head of these rows.
        let out = unsafe { self.out.slice_mut(row * self.q_stride() + self.head * self.shape.head_dim, sum.len()) };
        let scale = 1.0 / total;
        for (out, x) in out.iter_mut().zip(sum) {
            *out = S::store(x * scale);
        }
        if let Some(lse) = &self.lse {
            // SAFETY: as above.
            let lse = unsafe { lse.slice_mut(row * self.shape.n_head + self.head, 1) };
            lse[0] = max + total.ln();
        }
    }
}

pub(super) fn scratch_bytes<S: MatElement, E: Cached>(sequence: usize, head_dim: usize) -> usize {
    // Operands are `S` or f32: whichever is larger.
    let pieces = |operand: fn(usize) -> usize| {
        operand(sequence * head_dim)
            + operand(packed_len::<S>(head_dim, TILE_K))
            + operand(packed_len::<S>(TILE_K, head_dim))
            + operand(TILE_Q * TILE_K)
    };
    let unpacked = match E::TAIL {
        0 => 0,
        _ => Carver::bytes::<f32>(TILE_K * head_dim) + 2 * Carver::bytes::<f32>(TILE_K),
    };
    pieces(Carver::bytes::<f32>)
        + unpacked
        + Carver::bytes::<f32>(TILE_Q * TILE_K)
        + Carver::bytes::<f32>(sequence * head_dim)
        + 2 * Carver::bytes::<f32>(sequence)
}

/// Online softmax of one tile: scores become probabilities, the accumulator is rescaled. Where keys and values are codes, a
/// score is multiplied by its key's scale, and a probability, on its way to the product with values, by its value's: codes
/// themselves are exact in any type of operand.
struct Softmax<'a, S, E> {
    scale: f32,
    /// Visible columns of the tile's first row; each further row sees one more.
    visible: isize,
    columns: usize,
    scores: &'a mut [f32],
    /// By column; empty where there are none.
    key_scales: &'a [f32],
    value_scales: &'a [f32],
    probabilities: &'a mut [S],
    head_dim: usize,
    sum: &'a mut [f32],
    max: &'a mut [f32],
    total: &'a mut [f32],
    cached: PhantomData<E>,
}

impl<S: Storage, E: Cached> Kernel for Softmax<'_, S, E> {
    type Output = ();
    #[inline(always)]
    fn run<M: Math>(self) {
        let padded = self.columns.next_multiple_of(2);
        // Those of 16 columns; of plain values a constant, by which nothing is multiplied.
        let value_scales = |column: usize| match E::TAIL {
            0 => &[1.0; math::LANES],
            _ => &self.value_scales[column..],
        };
        let rows = self.scores.chunks_exact_mut(TILE_K).zip(self.probabilities.chunks_exact_mut(TILE_K));
        let rows = rows.zip(self.sum.chunks_exact_mut(self.head_dim)).zip(self.max).zip(self.total);
        for (i, ((((scores, p), sum), max), total)) in rows.enumerate() {
            let visible = (self.visible + i as isize).clamp(0, self.columns as isize) as usize;
            if visible > 0 {
                if E::TAIL > 0 {
                    for (score, scale) in scores[..visible].iter_mut().zip(self.key_scales) {
                        *score *= scale;
                    }
                }
                let new_max = (math::max(&scores[..visible]) * self.scale).max(*max);
                let correction = math::exp::<M>(*max - new_max);
                *max = new_max;
                let mut lanes = [0.0f32; math::LANES];
                // What fills the last lanes adds `e^-inf`, 0.
                let whole = visible.next_multiple_of(math::LANES);
                scores[visible..whole].fill(f32::NEG_INFINITY);
                let chunks = scores[..whole].as_chunks::<{ math::LANES }>().0.iter();
                for (i, (scores, p)) in chunks.zip(p.as_chunks_mut::<{ math::LANES }>().0).enumerate() {
                    let scales = &value_scales(i * math::LANES)[..math::LANES];
                    for l in 0..math::LANES {
                        let e = math::exp::<M>(M::mul_add(scores[l], self.scale, -new_max));
                        lanes[l] += e;
                        p[l] = S::store(e * scales[l]);
                    }
                }
                *total = M::mul_add(*total, correction, math::sum_lanes(lanes));
                for x in sum {
                    *x *= correction;
                }
            }
            p[visible..padded].fill(S::store(0.0));
        }
    }
}

/// Runs a [`Softmax`] with what the processor has for it.
fn probabilities_of<S: MatElement, E: Cached>(isa: Isa, tile: Softmax<'_, S, E>) {
    #[cfg(target_arch = "x86_64")]
    if S::DTYPE == DType::Bf16 && E::TAIL == 0 && isa >= Isa::Avx512Bf16 {
        // SAFETY: S is Bf16, and the level has AVX-512-BF16.
        unsafe {
            let p = std::slice::from_raw_parts_mut(tile.probabilities.as_mut_ptr().cast(), tile.probabilities.len());
            softmax_bf16(tile, p);
        }
        return;
    }
    isa.run(tile);
}

/// A tile of plain keys and values by [`avx512bf16::softmax_row`].
///
/// # Safety
/// The processor has AVX-512-BF16.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn softmax_bf16<S, E>(tile: Softmax<'_, S, E>, probabilities: &mut [Bf16]) {
    let padded = tile.columns.next_multiple_of(Bf16::GROUP);
    let rows = tile.scores.chunks_exact(TILE_K).zip(probabilities.chunks_exact_mut(TILE_K));
    let rows = rows.zip(tile.sum.chunks_exact_mut(tile.head_dim)).zip(tile.max).zip(tile.total);
    for (i, ((((scores, p), sum), max), total)) in rows.enumerate() {
        let visible = (tile.visible + i as isize).clamp(0, tile.columns as isize) as usize;
        if visible > 0 {
            // SAFETY: the processor has it; rows are whole vectors.
            unsafe {
                let correction = avx512bf16::softmax_row(scores, visible, tile.scale, (max, total), p);
                if correction != 1.0 {
                    avx512bf16::rescale(sum, correction);
                }
            }
        }
        let written = visible.next_multiple_of(math::LANES).min(padded);
        p[written..padded].fill(Bf16(0));
    }
}

/// A span's queries as operands, without what lies between them.
struct Queries<'t, 'a, S, E, C> {
    task: &'t Task<'a, S, E>,
    to: &'t mut [C],
}

impl<S: Storage, E: Cached, C: MatElement> Kernel for Queries<'_, '_, S, E, C> {
    type Output = ();
    #[inline(always)]
    fn run<M: Math>(self) {
        let head_dim = self.task.shape.head_dim;
        let last = self.task.span.q_len - 1;
        for (i, row) in self.to.chunks_exact_mut(head_dim).enumerate() {
            prefetch(&self.task.q((i + AHEAD).min(last))[..head_dim]);
            for (to, from) in row.iter_mut().zip(&self.task.q(i)[..head_dim]) {
                *to = convert(*from);
            }
        }
    }
}

/// All output rows of a span.
struct Finish<'t, 'a, S, E> {
    task: &'t Task<'a, S, E>,
    sums: &'t [f32],
    maxima: &'t [f32],
    totals: &'t [f32],
}

impl<S: Storage, E: Cached> Kernel for Finish<'_, '_, S, E> {
    type Output = ();
    #[inline(always)]
    fn run<M: Math>(self) {
        let rows = self.sums.chunks_exact(self.task.shape.head_dim).zip(self.maxima).zip(self.totals);
        for (i, ((sums, max), total)) in rows.enumerate() {
            self.task.finish(i, sums, *max, *total);
        }
    }
}

/// Asks for `rows` rows' first `len` elements, `stride` apart.
fn ask_for<S>(rows_from: &[S], stride: usize, rows: usize, len: usize) {
    for row in 0..rows {
        prefetch(&rows_from[row * stride..][..len]);
    }
}

/// Attends for every query of the span.
pub(super) fn run<S: MatElement, E: Cached>(task: &Task<'_, S, E>, scratch: Carver<'_>) {
    if task.isa >= Isa::Avx512Bf16 {
        run_in::<S, E, S>(task, scratch);
    } else {
        // Where bf16 is not multiplied, a tile is widened once, while it is packed.
        run_in::<S, E, f32>(task, scratch);
    }
}

/// The same with products of operands of type `C`.
///
/// A tile of keys and values is packed once and meets all queries that see it while it is in the nearest caches; every
/// query's sums wait in scratch for the next tile. Tiles are counted from the span's first key, so that a query's bits do
/// not depend on how many others there are.
fn run_in<S: MatElement, E: Cached, C: MatElement>(task: &Task<'_, S, E>, mut scratch: Carver<'_>) {
    let head_dim = task.shape.head_dim;
    let Span { q_len, kv_len, .. } = task.span;
    let queries = scratch.take::<C>(q_len * head_dim);
    task.isa.run(Queries { task, to: &mut *queries });
    let packed_keys = scratch.take::<C>(packed_len::<C>(head_dim, TILE_K));
    let packed_values = scratch.take::<C>(packed_len::<C>(TILE_K, head_dim));
    let probabilities = scratch.take::<C>(TILE_Q * TILE_K);
    let scores = scratch.take::<f32>(TILE_Q * TILE_K);
    let sums = scratch.take::<f32>(q_len * head_dim);
    let maxima = scratch.take::<f32>(q_len);
    let totals = scratch.take::<f32>(q_len);
    // Of codes, a tile of them as operands and the tiles' scales.
    let (codes, scales) = if E::TAIL == 0 { (0, 0) } else { (TILE_K * head_dim, TILE_K) };
    let codes = scratch.take::<C>(codes);
    let (key_scales, value_scales) = (scratch.take::<f32>(scales), scratch.take::<f32>(scales));
    sums.fill(0.0);
    maxima.fill(f32::NEG_INFINITY);
    totals.fill(0.0);

    let stride = task.kv_stride();
    let mut state = State::default();
    for key in (0..kv_len).step_by(TILE_K) {
        let keys = TILE_K.min(kv_len - key);
        // A head's rows lie far apart, where no prefetcher follows: the values are asked for while the keys are packed, and
        // the next tile's keys while this one is multiplied.
        ask_for(&task.v()[key * stride..], stride, keys, head_dim + E::TAIL);
        let rows = Rows { isa: task.isa, rows: &task.k()[key * stride..], stride, count: keys, head_dim };
        E::pack_transposed(&rows, Unpacked { codes, scales: key_scales }, packed_keys);
        let right_keys = PackedB::new(packed_keys, head_dim, keys);
        let rows = Rows { rows: &task.v()[key * stride..], ..rows };
        E::pack_columns(&rows, Unpacked { codes, scales: value_scales }, packed_values);
        let right_values = PackedB::new(packed_values, keys, head_dim);
        let next = key + keys;
        if next < kv_len {
            ask_for(&task.k()[next * stride..], stride, TILE_K.min(kv_len - next), head_dim + E::TAIL);
        }
        let mut first = 0;
        while first < q_len {
            // On the diagonal fewer rows at once, whose last sees little more than its first.
            let all_seen = task.visible(first) >= key + keys;
            let strip = if all_seen { TILE_Q } else { strip_rows(task.isa) };
            let rows = (strip - first % strip).min(q_len - first);
            let queries = &queries[first * head_dim..];
            let rows_of = first..first + rows;
            first += rows;
            let seen = task.visible(rows_of.end - 1);
            if seen <= key {
                continue;
            }
            let columns = keys.min(seen - key);
            let left = Left::rows(queries, rows, head_dim, head_dim);
            let store = Store { out: Shared::new(scores), stride: TILE_K, bias: None };
            multiply_here(task.isa, &mut state, left, rows, right_keys.slice(0, head_dim, 0, columns), &store);
            let sum = &mut sums[rows_of.start * head_dim..rows_of.end * head_dim];
            probabilities_of(
                task.isa,
                Softmax::<C, E> {
                    scale: 1.0 / (head_dim as f32).sqrt(),
                    visible: task.visible(rows_of.start) as isize - key as isize,
                    columns,
                    scores: &mut scores[..rows * TILE_K],
                    key_scales,
                    value_scales,
                    probabilities,
                    head_dim,
                    sum,
                    max: &mut maxima[rows_of.clone()],
                    total: &mut totals[rows_of],
                    cached: PhantomData,
                },
            );
            let padded = columns.next_multiple_of(C::GROUP);
            let left = Left::rows(probabilities, rows, padded, TILE_K);
            let add = Add { out: Shared::new(sum), stride: head_dim, bias: None };
            multiply_here(task.isa, &mut state, left, rows, right_values.slice(0, padded, 0, head_dim), &add);
        }
    }
    task.isa.run(Finish { task, sums, maxima, totals });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache_format::CacheFormat;
    use crate::dtype::Bf16;
    use crate::reference::{attention, kv_cache};

    /// Normal enough, and the same each time.
    fn values(len: usize, seed: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 7919 + seed * 104_729) % 1013) as f32 / 253.25 - 2.0).collect()
    }

    /// Codes and plain values as operands of either type, whichever a processor would choose: bf16 operands are those of
    /// instruction sets that not every machine has.
    #[test]
    fn operands_of_bf16_and_of_f32_hold_to_the_reference() {
        for isa in Isa::available() {
            for shape in [
                AttentionShape { n_head: 2, n_kv_head: 1, head_dim: 18 },
                AttentionShape { n_head: 3, n_kv_head: 3, head_dim: 64 },
            ] {
                for (q_len, kv_len) in [(5, 5), (17, 150), (70, 300)] {
                    holds_to_the_reference::<Bf16>(isa, shape, (q_len, kv_len));
                    holds_to_the_reference::<f32>(isa, shape, (q_len, kv_len));
                }
            }
        }
    }

    fn holds_to_the_reference<C: MatElement>(isa: Isa, shape: AttentionShape, (q_len, kv_len): (usize, usize)) {
        let AttentionShape { n_head, n_kv_head, head_dim } = shape;
        let stored = |values: Vec<f32>| values.into_iter().map(Bf16::from_f32).collect::<Vec<_>>();
        let wide = |values: &[Bf16]| values.iter().map(|x| f64::from(x.to_f32())).collect::<Vec<_>>();
        let span = Span { q_start: 0, q_len, kv_start: 2, kv_len };
        let (slots, rows) = (2 + kv_len, q_len * n_head * head_dim);
        let q = stored(values(rows, 1));
        let (k, v) = (values(slots * n_kv_head * head_dim, 2), values(slots * n_kv_head * head_dim, 3));
        let [k_rows, v_rows] = [&k, &v].map(|x| kv_cache::quantize(x, n_kv_head, head_dim));
        assert_eq!(k_rows.len(), slots * CacheFormat::Q8.row_bytes(n_kv_head, head_dim));
        let [k_values, v_values] = [&k_rows, &v_rows].map(|x| kv_cache::dequantize(x, n_kv_head, head_dim).0);
        let coded = Inputs { q: &q[..], k: &k_rows[..], v: &v_rows[..] };
        let want = attention::forward(shape, &[span], [&wide(&q), &k_values, &v_values]).out;
        compare(&want, &attended::<u8, C>(isa, shape, span, coded), isa, "codes");
        let (k, v) = (stored(k), stored(v));
        let plain = Inputs { q: &q[..], k: &k[..], v: &v[..] };
        let want = attention::forward(shape, &[span], [&wide(&q), &wide(&k), &wide(&v)]).out;
        compare(&want, &attended::<Bf16, C>(isa, shape, span, plain), isa, "plain values");
    }

    fn attended<E: Cached, C: MatElement>(
        isa: Isa,
        shape: AttentionShape,
        span: Span,
        inputs: Inputs<'_, Bf16, E>,
    ) -> Vec<Bf16> {
        let mut out = vec![Bf16::default(); inputs.q.len()];
        let bytes = scratch_bytes::<Bf16, E>(span.kv_len, shape.head_dim);
        let mut scratch = crate::cpu::memory::Memory::new("test", bytes).unwrap();
        // What scratch held is nothing to anybody.
        scratch.slice_mut::<f32>().fill(f32::NAN);
        let shared = Shared::new(&mut out[..]);
        for head in 0..shape.n_head {
            let task = Task { isa, shape, span, head, inputs, out: shared, lse: None };
            run_in::<Bf16, E, C>(&task, Carver::new(scratch.as_bytes_mut()));
        }
        out
    }

    /// Within what rounding probabilities and results to bf16 may do.
    fn compare(want: &[f64], got: &[Bf16], isa: Isa, what: &str) {
        let square = |sum: f64, x: f64| sum + x * x;
        let size = want.iter().copied().fold(0.0, square);
        let apart = want.iter().zip(got).map(|(want, got)| f64::from(got.to_f32()) - want).fold(0.0, square);
        let error = (apart / size).sqrt();
        assert!(error < 1.5 / 256.0, "{} {what}: {error:.2e}", isa.name());
    }
}
