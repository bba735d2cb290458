//! Tiled backward pass of one span and key head.
//!
//! Scores are recomputed transposed, `Sᵀ = K Qᵀ`, because then every left operand of the five products lies row by
//! row and only `dSᵀ` has to be packed inside the loop:
//! `Pᵀ = exp(Sᵀ - lse)`, `dV += Pᵀ dO`, `dPᵀ = V dOᵀ`, `dSᵀ = Pᵀ (dPᵀ - D)`, `dK += dSᵀ Q`, `dQᵀ += Kᵀ dSᵀ`.

use std::marker::PhantomData;

use super::Inputs;
use crate::cpu::gemm::{
    Add, Left, MatElement, PackedB, Store, convert, multiply_here, pack::packed_len, pack_columns_here,
    pack_transposed_here,
};
use crate::cpu::isa::{Isa, Kernel, Math};
use crate::cpu::math;
use crate::cpu::memory::Carver;
use crate::cpu::pool::Shared;
use crate::device::{AttentionShape, Span};
use crate::dtype::Storage;

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
    let padded = sequence.next_multiple_of(TILE_K);
    2 * Carver::bytes::<S>(packed_len::<S>(head_dim, sequence))
        + 2 * Carver::bytes::<S>(packed_len::<S>(sequence, head_dim))
        + Carver::bytes::<S>(head_dim * padded)
        + 3 * Carver::bytes::<f32>(head_dim * padded)
        + 2 * Carver::bytes::<f32>(sequence)
        + 2 * Carver::bytes::<f32>(TILE_K * TILE_Q)
        + Carver::bytes::<S>(TILE_K * TILE_Q)
        + Carver::bytes::<S>(packed_len::<S>(TILE_K, TILE_Q))
}

/// `Sᵀ` and `dPᵀ` of a tile become `Pᵀ` (in `S`) and `dSᵀ` (in place of `dPᵀ`).
struct Scores<'a, S> {
    scale: f32,
    /// Index of the tile's first query minus that of its first key.
    offset: isize,
    columns: usize,
    scores: &'a mut [f32],
    lse: &'a [f32],
    probabilities: &'a mut [S],
}

impl<S: Storage> Kernel for Scores<'_, S> {
    type Output = ();
    #[inline(always)]
    fn run<M: Math>(self) {
        let n = self.columns;
        let rows = self.scores.chunks_exact_mut(TILE_Q).zip(self.probabilities.chunks_exact_mut(TILE_Q));
        for (key, (scores, p)) in rows.enumerate() {
            // Query `column` sees this key from `column + offset >= key` on.
            let hidden = (key as isize - self.offset).clamp(0, n as isize) as usize;
            for ((s, p), lse) in scores[..n].iter_mut().zip(&mut p[..n]).zip(&self.lse[..n]) {
                *s = math::exp::<M>(M::mul_add(*s, self.scale, -lse));
                *p = S::store(*s);
            }
            scores[..hidden].fill(0.0);
            p[..hidden].fill(S::store(0.0));
            p[n..n.next_multiple_of(2)].fill(S::store(0.0));
        }
    }
}

struct ScoreGradients<'a, S> {
    scale: f32,
    columns: usize,
    /// `Pᵀ` in f32.
    scores: &'a [f32],
    /// `dPᵀ`, then `dSᵀ`.
    gradients: &'a mut [f32],
    /// `D = sum dO O` by query.
    delta: &'a [f32],
    rounded: &'a mut [S],
}

impl<S: Storage> Kernel for ScoreGradients<'_, S> {
    type Output = ();
    #[inline(always)]
    fn run<M: Math>(self) {
        let n = self.columns;
        let rows = self.scores.chunks_exact(TILE_Q).zip(self.gradients.chunks_exact_mut(TILE_Q));
        for ((p, g), rounded) in rows.zip(self.rounded.chunks_exact_mut(TILE_Q)) {
            let columns = p[..n].iter().zip(&mut g[..n]).zip(&self.delta[..n]).zip(&mut rounded[..n]);
            for (((p, g), delta), rounded) in columns {
                *g = p * (*g - delta) * self.scale;
                *rounded = S::store(*g);
            }
            rounded[n..n.next_multiple_of(2)].fill(S::store(0.0));
        }
    }
}

struct Delta<'a, S> {
    out: &'a [S],
    d_out: &'a [S],
}

impl<S: Storage> Kernel for Delta<'_, S> {
    type Output = f32;
    #[inline(always)]
    fn run<M: Math>(self) -> f32 {
        math::dot::<M, _, _>(self.out, self.d_out)
    }
}

struct Rounded<'a, S> {
    from: &'a [f32],
    to: &'a mut [S],
}

impl<S: Storage> Kernel for Rounded<'_, S> {
    type Output = ();
    #[inline(always)]
    fn run<M: Math>(self) {
        for (to, from) in self.to.iter_mut().zip(self.from) {
            *to = S::store(*from);
        }
    }
}

/// Hands out the rows of `fromᵀ` piece by piece, as `S`.
struct Transposed<'a, T, S, F> {
    from: &'a [T],
    stride: usize,
    /// Rows and columns of `from`.
    shape: (usize, usize),
    /// Takes elements of row `.0` from column `.1` on.
    store: F,
    stored: PhantomData<S>,
}

impl<T: Storage, S: MatElement, F: FnMut(usize, usize, &[S])> Kernel for Transposed<'_, T, S, F> {
    type Output = ();
    /// Blocks of 16 by 16 stay in the nearest cache, and lines are read and written whole.
    #[inline(always)]
    fn run<M: Math>(self) {
        const SIDE: usize = 16;
        let Transposed { from, stride, shape: (rows, columns), mut store, .. } = self;
        for first in (0..columns).step_by(SIDE) {
            let width = SIDE.min(columns - first);
            for row in (0..rows).step_by(SIDE) {
                let height = SIDE.min(rows - row);
                let mut block = [[S::store(0.0); SIDE]; SIDE];
                for i in 0..height {
                    for (j, x) in from[(row + i) * stride + first..][..width].iter().enumerate() {
                        block[j][i] = convert(*x);
                    }
                }
                for (j, values) in block[..width].iter().enumerate() {
                    store(first + j, row, &values[..height]);
                }
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
    let padded = n.next_multiple_of(TILE_K);
    let isa = task.isa;
    let scale = 1.0 / (head_dim as f32).sqrt();
    let kv_at = task.span.kv_start * kv_stride + task.kv_head * head_dim;
    let Incoming { inputs, out, lse, d_out } = task.incoming;
    let (k, v) = (&inputs.k[kv_at..], &inputs.v[kv_at..]);

    let q_rows = scratch.take::<S>(packed_len::<S>(head_dim, n));
    let do_rows = scratch.take::<S>(packed_len::<S>(head_dim, n));
    let q_columns = scratch.take::<S>(packed_len::<S>(n, head_dim));
    let do_columns = scratch.take::<S>(packed_len::<S>(n, head_dim));
    let k_transposed = scratch.take::<S>(head_dim * padded);
    let dq = scratch.take::<f32>(head_dim * padded);
    let dk = scratch.take::<f32>(head_dim * padded);
    let dv = scratch.take::<f32>(head_dim * padded);
    let row_lse = scratch.take::<f32>(n);
    let delta = scratch.take::<f32>(n);
    let scores = scratch.take::<f32>(TILE_K * TILE_Q);
    let gradients = scratch.take::<f32>(TILE_K * TILE_Q);
    let rounded = scratch.take::<S>(TILE_K * TILE_Q);
    let packed = scratch.take::<S>(packed_len::<S>(TILE_K, TILE_Q));

    isa.run(Transposed {
        from: k,
        stride: kv_stride,
        shape: (n, head_dim),
        store: |d: usize, key: usize, values: &[S]| {
            k_transposed[d * padded + key..][..values.len()].copy_from_slice(values)
        },
        stored: PhantomData,
    });
    for row in k_transposed.chunks_exact_mut(padded) {
        row[n..].fill(S::store(0.0));
    }
    dk.fill(0.0);
    dv.fill(0.0);
    let group = n_head / n_kv_head;
    for head in task.kv_head * group..(task.kv_head + 1) * group {
        let q_at = task.span.q_start * q_stride + head * head_dim;
        let (q, d_out, out) = (&inputs.q[q_at..], &d_out[q_at..], &out[q_at..]);
        pack_transposed_here(isa, q, q_stride, (head_dim, n), q_rows);
        pack_transposed_here(isa, d_out, q_stride, (head_dim, n), do_rows);
        pack_columns_here(isa, q, q_stride, (n, head_dim), q_columns);
        pack_columns_here(isa, d_out, q_stride, (n, head_dim), do_columns);
        let q_rows = PackedB::new(q_rows, head_dim, n);
        let do_rows = PackedB::new(do_rows, head_dim, n);
        let q_columns = PackedB::new(q_columns, n, head_dim);
        let do_columns = PackedB::new(do_columns, n, head_dim);
        dq.fill(0.0);
        for i in 0..n {
            row_lse[i] = lse[(task.span.q_start + i) * n_head + head];
            let row = i * q_stride..i * q_stride + head_dim;
            delta[i] = isa.run(Delta { out: &out[row.clone()], d_out: &d_out[row] });
        }
        for key in (0..n).step_by(TILE_K) {
            let rows = TILE_K.min(n - key);
            // Tiles of queries end at multiples of TILE_Q, and begin where the first of the keys is seen.
            let mut next = key;
            while next < n {
                let query = next;
                let columns = (TILE_Q - query % TILE_Q).min(n - query);
                next += columns;
                let inner = columns.next_multiple_of(S::GROUP);
                let tile = Store { out: Shared::new(scores), stride: TILE_Q, bias: None };
                let left = Left::rows(&k[key * kv_stride..], rows, head_dim, kv_stride);
                multiply_here(isa, left, rows, q_rows.slice(0, head_dim, query, columns), &tile);
                isa.run(Scores {
                    scale,
                    offset: query as isize - key as isize,
                    columns,
                    scores: &mut scores[..rows * TILE_Q],
                    lse: &row_lse[query..],
                    probabilities: rounded,
                });
                let add = Add { out: Shared::new(&mut dv[key * head_dim..]), stride: head_dim, bias: None };
                let left = Left::rows(rounded, rows, inner, TILE_Q);
                multiply_here(isa, left, rows, do_columns.slice(query, inner, 0, head_dim), &add);
                let tile = Store { out: Shared::new(gradients), stride: TILE_Q, bias: None };
                let left = Left::rows(&v[key * kv_stride..], rows, head_dim, kv_stride);
                multiply_here(isa, left, rows, do_rows.slice(0, head_dim, query, columns), &tile);
                isa.run(ScoreGradients {
                    scale,
                    columns,
                    scores: &scores[..rows * TILE_Q],
                    gradients: &mut gradients[..rows * TILE_Q],
                    delta: &delta[query..],
                    rounded,
                });
                let add = Add { out: Shared::new(&mut dk[key * head_dim..]), stride: head_dim, bias: None };
                let left = Left::rows(rounded, rows, inner, TILE_Q);
                multiply_here(isa, left, rows, q_columns.slice(query, inner, 0, head_dim), &add);
                pack_columns_here(isa, gradients, TILE_Q, (rows, columns), packed);
                let add = Add { out: Shared::new(&mut dq[query..]), stride: padded, bias: None };
                let inner = rows.next_multiple_of(S::GROUP);
                let left = Left::rows(&k_transposed[key..], head_dim, inner, padded);
                multiply_here(isa, left, head_dim, PackedB::new(packed, inner, columns), &add);
            }
        }
        isa.run(Transposed {
            from: dq,
            stride: padded,
            shape: (head_dim, n),
            store: |i: usize, d: usize, values: &[S]| {
                // SAFETY: this task alone owns these heads of these rows.
                unsafe { task.gradients.q.slice_mut(q_at + i * q_stride + d, values.len()) }.copy_from_slice(values);
            },
            stored: PhantomData,
        });
    }
    for (from, to) in [(dk, task.gradients.k), (dv, task.gradients.v)] {
        for (i, row) in from.chunks_exact(head_dim).take(n).enumerate() {
            // SAFETY: this task alone owns this head of these slots.
            let to = unsafe { to.slice_mut(kv_at + i * kv_stride, head_dim) };
            isa.run(Rounded { from: row, to });
        }
    }
}
