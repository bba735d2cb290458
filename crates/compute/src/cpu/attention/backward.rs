//! Tiled backward pass of one span and key head.
//!
//! Scores are recomputed transposed, `Sᵀ = K Qᵀ`, because then the left operands of four of the five products lie row by
//! row and only that of the fifth, `dS`, has to be packed inside the loop:
//! `Pᵀ = exp(Sᵀ - lse)`, `dV += Pᵀ dO`, `dPᵀ = V dOᵀ`, `dSᵀ = Pᵀ (dPᵀ - D)`, `dK += dSᵀ Q`, `dQ += dS K`.

#[cfg(target_arch = "x86_64")]
use super::avx512bf16;
use super::{AHEAD, Inputs, strip_rows};
use crate::cpu::gemm::{
    Add, Left, MatElement, PANEL, PackedB, State, Store, left_transposed_here, multiply_here, pack::packed_len,
    pack_columns_here, pack_transposed_here,
};
use crate::cpu::isa::{Isa, Kernel, Math, prefetch, prefetch_at};
use crate::cpu::math;
use crate::cpu::memory::Carver;
use crate::cpu::pool::Shared;
use crate::device::{AttentionShape, Span};
use crate::dtype::Storage;
#[cfg(target_arch = "x86_64")]
use crate::dtype::{Bf16, DType};

/// Key rows and query columns of a tile.
const TILE_K: usize = 64;
const TILE_Q: usize = 128;

/// What the backward pass reads.
pub(crate) struct Incoming<'a, S> {
    pub(crate) inputs: Inputs<'a, S>,
    pub(crate) out: &'a [S],
    pub(crate) lse: &'a [f32],
    pub(crate) d_out: &'a [S],
}

impl<S> Clone for Incoming<'_, S> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<S> Copy for Incoming<'_, S> {}

/// What it writes: queries by token, keys and values by slot.
pub(crate) struct Gradients<'a, S> {
    pub(crate) q: Shared<'a, S>,
    pub(crate) k: Shared<'a, S>,
    pub(crate) v: Shared<'a, S>,
}

impl<S> Clone for Gradients<'_, S> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<S> Copy for Gradients<'_, S> {}

/// One span and key head.
pub(super) struct Task<'a, S> {
    pub(super) isa: Isa,
    pub(super) shape: AttentionShape,
    pub(super) span: Span,
    pub(super) kv_head: usize,
    pub(super) incoming: Incoming<'a, S>,
    pub(super) gradients: Gradients<'a, S>,
}

pub(super) fn scratch_bytes<S: MatElement>(sequence: usize, head_dim: usize) -> usize {
    2 * Carver::bytes::<S>(packed_len::<S>(head_dim, sequence))
        + 3 * Carver::bytes::<S>(packed_len::<S>(sequence, head_dim))
        + 3 * Carver::bytes::<f32>(head_dim * sequence)
        + 2 * Carver::bytes::<f32>(sequence)
        + 2 * Carver::bytes::<f32>(TILE_K * TILE_Q)
        + 2 * Carver::bytes::<S>(TILE_K * TILE_Q)
        + Carver::bytes::<S>(packed_len::<S>(TILE_K, TILE_Q))
}

/// `Pᵀ` and `dSᵀ` of some keys and the queries of a tile, from `Sᵀ` and `dPᵀ`.
struct ScoreGradients<'a, S> {
    scale: f32,
    /// Index of the tile's first query minus that of the first key.
    offset: isize,
    /// Queries.
    columns: usize,
    scores: &'a [f32],
    gradients: &'a [f32],
    lse: &'a [f32],
    /// `D = sum dO O` by query.
    delta: &'a [f32],
    probabilities: &'a mut [S],
    score_gradients: &'a mut [S],
}

impl<S> ScoreGradients<'_, S> {
    /// Queries that do not see key `key`: query `column` sees it from `column + offset >= key` on.
    fn hidden(&self, key: usize) -> usize {
        (key as isize - self.offset).clamp(0, self.columns as isize) as usize
    }
}

impl<S: Storage> Kernel for ScoreGradients<'_, S> {
    type Output = ();
    #[inline(always)]
    fn run<M: Math>(self) {
        let n = self.columns;
        for (key, scores) in self.scores.chunks_exact(TILE_Q).enumerate() {
            let hidden = self.hidden(key);
            let row = key * TILE_Q..key * TILE_Q + n.next_multiple_of(2);
            let (p, ds) = (&mut self.probabilities[row.clone()], &mut self.score_gradients[row.clone()]);
            let gradients = &self.gradients[row.start..][..n];
            let columns = scores[..n].iter().zip(gradients).zip(&self.lse[..n]).zip(&self.delta[..n]);
            for ((((s, g), lse), delta), (to_p, to_ds)) in columns.zip(p.iter_mut().zip(ds.iter_mut())) {
                let p = math::exp::<M>(M::mul_add(*s, self.scale, -lse));
                *to_p = S::store(p);
                *to_ds = S::store(p * (*g - delta) * self.scale);
            }
            for to in [p, ds] {
                to[..hidden].fill(S::store(0.0));
                to[n..].fill(S::store(0.0));
            }
        }
    }
}

/// Runs [`ScoreGradients`] with what the processor has for it.
fn score_gradients<S: MatElement>(isa: Isa, tile: ScoreGradients<'_, S>) {
    #[cfg(target_arch = "x86_64")]
    if S::DTYPE == DType::Bf16 && isa >= Isa::Avx512Bf16 {
        // SAFETY: S is Bf16, and the level has AVX-512-BF16.
        unsafe { score_gradients_bf16(tile) };
        return;
    }
    isa.run(tile);
}

/// # Safety
/// `S` is `Bf16`; the processor has AVX-512-BF16.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn score_gradients_bf16<S>(tile: ScoreGradients<'_, S>) {
    // SAFETY: the caller's promise.
    let bf16 = |x: &mut [S]| unsafe { std::slice::from_raw_parts_mut(x.as_mut_ptr().cast::<Bf16>(), x.len()) };
    for (key, scores) in tile.scores.chunks_exact(TILE_Q).enumerate() {
        let row = avx512bf16::GradientRow {
            scores,
            gradients: &tile.gradients[key * TILE_Q..][..TILE_Q],
            lse: &tile.lse[..tile.columns],
            delta: tile.delta,
            scale: tile.scale,
            hidden: tile.hidden(key),
        };
        let at = key * TILE_Q..(key + 1) * TILE_Q;
        let (p, ds) = (bf16(&mut tile.probabilities[at.clone()]), bf16(&mut tile.score_gradients[at]));
        // SAFETY: the caller's promise; a row of a tile is whole vectors.
        unsafe { avx512bf16::gradient_row(&row, p, ds) };
    }
}

/// `D = sum dO O` by query, of one head.
struct Delta<'a, S> {
    head_dim: usize,
    stride: usize,
    out: &'a [S],
    d_out: &'a [S],
    /// Wanted next.
    q: &'a [S],
    delta: &'a mut [f32],
}

impl<S: Storage> Kernel for Delta<'_, S> {
    type Output = ();
    #[inline(always)]
    fn run<M: Math>(self) {
        let n = self.delta.len();
        for (i, delta) in self.delta.iter_mut().enumerate() {
            let ahead = (i + AHEAD).min(n - 1) * self.stride;
            for rows in [self.out, self.d_out, self.q] {
                prefetch(&rows[ahead..][..self.head_dim]);
            }
            let row = i * self.stride..i * self.stride + self.head_dim;
            *delta = math::dot::<M, _, _>(&self.out[row.clone()], &self.d_out[row]);
        }
    }
}

/// Rows of `width` sums, rounded to their places: from `at` on, `stride` apart.
struct Rounded<'a, S> {
    from: &'a [f32],
    width: usize,
    to: Shared<'a, S>,
    at: usize,
    stride: usize,
}

impl<S: Storage> Kernel for Rounded<'_, S> {
    type Output = ();
    #[inline(always)]
    fn run<M: Math>(self) {
        let last = (self.from.len() / self.width).saturating_sub(1);
        for (i, from) in self.from.chunks_exact(self.width).enumerate() {
            let row = |i: usize| self.at + i * self.stride;
            prefetch_at(self.to.at(row((i + AHEAD).min(last)), self.width), self.width);
            // SAFETY: a task alone owns its heads of its rows.
            let to = unsafe { self.to.slice_mut(row(i), self.width) };
            for (to, from) in to.iter_mut().zip(from) {
                *to = S::store(*from);
            }
        }
    }
}

/// Gradients for the span's queries of this key head's group, and for its keys and values.
pub(super) fn run<S: MatElement>(task: &Task<'_, S>, mut scratch: Carver<'_>) {
    let AttentionShape { n_head, n_kv_head, head_dim } = task.shape;
    let (q_stride, kv_stride) = (n_head * head_dim, n_kv_head * head_dim);
    let n = task.span.q_len;
    assert_eq!(n, task.span.kv_len, "the backward pass has no cache");
    let isa = task.isa;
    let scale = 1.0 / (head_dim as f32).sqrt();
    let kv_at = task.span.kv_start * kv_stride + task.kv_head * head_dim;
    let Incoming { inputs, out, lse, d_out } = task.incoming;
    let (k, v) = (&inputs.k[kv_at..], &inputs.v[kv_at..]);

    let q_rows = scratch.take::<S>(packed_len::<S>(head_dim, n));
    let do_rows = scratch.take::<S>(packed_len::<S>(head_dim, n));
    let q_columns = scratch.take::<S>(packed_len::<S>(n, head_dim));
    let do_columns = scratch.take::<S>(packed_len::<S>(n, head_dim));
    let k_columns = scratch.take::<S>(packed_len::<S>(n, head_dim));
    let dq = scratch.take::<f32>(head_dim * n);
    let dk = scratch.take::<f32>(head_dim * n);
    let dv = scratch.take::<f32>(head_dim * n);
    let row_lse = scratch.take::<f32>(n);
    let delta = scratch.take::<f32>(n);
    let scores = scratch.take::<f32>(TILE_K * TILE_Q);
    let gradients = scratch.take::<f32>(TILE_K * TILE_Q);
    let p = scratch.take::<S>(TILE_K * TILE_Q);
    let ds = scratch.take::<S>(TILE_K * TILE_Q);
    let packed = scratch.take::<S>(packed_len::<S>(TILE_K, TILE_Q));

    pack_columns_here(isa, k, kv_stride, (n, head_dim), k_columns);
    let k_columns = PackedB::new(k_columns, n, head_dim);
    dk.fill(0.0);
    dv.fill(0.0);
    let mut state = State::default();
    let group = n_head / n_kv_head;
    for head in task.kv_head * group..(task.kv_head + 1) * group {
        let q_at = task.span.q_start * q_stride + head * head_dim;
        let (q, d_out, out) = (&inputs.q[q_at..], &d_out[q_at..], &out[q_at..]);
        isa.run(Delta { head_dim, stride: q_stride, out, d_out, q, delta: &mut *delta });
        for (i, row_lse) in row_lse.iter_mut().enumerate() {
            *row_lse = lse[(task.span.q_start + i) * n_head + head];
        }
        pack_transposed_here(isa, q, q_stride, (head_dim, n), q_rows);
        pack_transposed_here(isa, d_out, q_stride, (head_dim, n), do_rows);
        pack_columns_here(isa, q, q_stride, (n, head_dim), q_columns);
        pack_columns_here(isa, d_out, q_stride, (n, head_dim), do_columns);
        let q_rows = PackedB::new(q_rows, head_dim, n);
        let do_rows = PackedB::new(do_rows, head_dim, n);
        let q_columns = PackedB::new(q_columns, n, head_dim);
        let do_columns = PackedB::new(do_columns, n, head_dim);
        dq.fill(0.0);
        for key in (0..n).step_by(TILE_K) {
            let keys = TILE_K.min(n - key);
            // Tiles of queries end at multiples of TILE_Q, and begin where the first of the keys is seen.
            let mut next = key;
            while next < n {
                let query = next;
                let queries = (TILE_Q - query % TILE_Q).min(n - query);
                next += queries;
                // On the diagonal fewer keys at once: the queries before them need not be multiplied.
                let strip = if query >= key + keys { TILE_K } else { strip_rows(isa) };
                for first in (0..keys).step_by(strip) {
                    let rows = strip.min(keys - first);
                    let start = (key + first).saturating_sub(query) / PANEL * PANEL;
                    let columns = queries - start;
                    let (at, kv) = (first * TILE_Q, (key + first) * kv_stride);
                    for (left, right, out) in [(k, &q_rows, &mut *scores), (v, &do_rows, &mut *gradients)] {
                        let out = Store { out: Shared::new(&mut out[at + start..]), stride: TILE_Q, bias: None };
                        let left = Left::rows(&left[kv..], rows, head_dim, kv_stride);
                        multiply_here(
                            isa,
                            &mut state,
                            left,
                            rows,
                            right.slice(0, head_dim, query + start, columns),
                            &out,
                        );
                    }
                    let tile = at..at + rows * TILE_Q;
                    score_gradients(
                        isa,
                        ScoreGradients {
                            scale,
                            offset: query as isize - (key + first) as isize,
                            columns: queries,
                            scores: &scores[tile.clone()],
                            gradients: &gradients[tile.clone()],
                            lse: &row_lse[query..],
                            delta: &delta[query..],
                            probabilities: &mut p[tile.clone()],
                            score_gradients: &mut ds[tile],
                        },
                    );
                    let inner = columns.next_multiple_of(S::GROUP);
                    for (left, right, out) in [(&*p, &do_columns, &mut *dv), (&*ds, &q_columns, &mut *dk)] {
                        let out = &mut out[(key + first) * head_dim..];
                        let add = Add { out: Shared::new(out), stride: head_dim, bias: None };
                        let left = Left::rows(&left[at + start..], rows, inner, TILE_Q);
                        multiply_here(
                            isa,
                            &mut state,
                            left,
                            rows,
                            right.slice(query + start, inner, 0, head_dim),
                            &add,
                        );
                    }
                }
                let left = left_transposed_here(isa, ds, TILE_Q, (keys, queries), packed);
                let add = Add { out: Shared::new(&mut dq[query * head_dim..]), stride: head_dim, bias: None };
                let inner = keys.next_multiple_of(S::GROUP);
                multiply_here(isa, &mut state, left, queries, k_columns.slice(key, inner, 0, head_dim), &add);
            }
        }
        let (width, stride) = (head_dim, q_stride);
        isa.run(Rounded { from: dq, width, to: task.gradients.q, at: q_at, stride });
    }
    for (from, to) in [(dk, task.gradients.k), (dv, task.gradients.v)] {
        isa.run(Rounded { from, width: head_dim, to, at: kv_at, stride: kv_stride });
    }
}
