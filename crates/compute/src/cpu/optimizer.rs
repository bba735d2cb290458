//! Muon.

use super::adamw::Moment;
use super::gemm::pack::packed_len;
use super::gemm::{Add, Left, PackedB, Store, left_len, left_transposed, multiply, pack_columns, pack_transposed};
use super::isa::{Kernel, Math};
use super::math;
use super::memory::Carver;
use super::pool::{Pool, Shared};
use crate::device::Muon;
use crate::dtype::{Bf16, Storage};
use crate::stochastic;

/// Newton-Schulz coefficients of Jordan's Muon: singular values go to about 1 in five steps.
const NEWTON_SCHULZ: (f32, f32, f32) = (3.4445, -4.7750, 2.0315);
const STEPS: usize = 5;

/// Bytes of scratch for matrices of up to `rows x columns`, or the other way round.
pub(super) fn muon_scratch(rows: usize, columns: usize) -> usize {
    let short = rows.min(columns);
    let packed = packed_len::<Bf16>(rows, columns).max(packed_len::<Bf16>(columns, rows));
    Carver::bytes::<f32>(rows * columns)
        + Carver::bytes::<Bf16>(rows.next_multiple_of(2) * columns.next_multiple_of(2))
        + Carver::bytes::<Bf16>(packed)
        + Carver::bytes::<Bf16>(left_len::<Bf16>(rows.max(columns), short))
        + 2 * Carver::bytes::<f32>(short * short)
        + Carver::bytes::<Bf16>(short * short.next_multiple_of(2))
        + Carver::bytes::<Bf16>(packed_len::<Bf16>(short, short))
}

/// The state of a matrix, or of a block of its rows that begins at element `at` of the whole.
pub(super) struct MomentumPart<'a, T> {
    pub(super) at: usize,
    pub(super) values: &'a mut [T],
}

struct Momentum<'a, T> {
    update: Muon,
    gradient: &'a [f32],
    momentum: MomentumPart<'a, T>,
    out: &'a mut [f32],
}

impl<T: Moment> Kernel for Momentum<'_, T> {
    /// Sum of squares of the direction.
    type Output = f32;
    #[inline(always)]
    fn run<M: Math>(self) -> f32 {
        let beta = self.update.momentum;
        let key = stochastic::key(self.update.seed);
        let MomentumPart { at, values } = self.momentum;
        for (i, ((g, kept), out)) in self.gradient.iter().zip(values).zip(&mut *self.out).enumerate() {
            let g = g * self.update.gradient_scale;
            let m = M::mul_add(beta, kept.load(), (1.0 - beta) * g);
            *kept = T::keep(m, || stochastic::bits(key, at + i));
            *out = M::mul_add(beta, m, (1.0 - beta) * g);
        }
        math::dot::<M, _, _>(self.out, self.out)
    }
}

/// `x = a x (+ b y)`, and rounded rows of `columns` at a stride padded to pairs.
struct Scale<'a> {
    a: f32,
    y: Option<(f32, &'a [f32])>,
    x: &'a mut [f32],
    columns: usize,
    rounded: &'a mut [Bf16],
}

impl Kernel for Scale<'_> {
    type Output = ();
    #[inline(always)]
    fn run<M: Math>(self) {
        match self.y {
            Some((b, y)) => {
                for (x, y) in self.x.iter_mut().zip(y) {
                    *x = M::mul_add(self.a, *x, b * y);
                }
            }
            None => {
                for x in self.x.iter_mut() {
                    *x *= self.a;
                }
            }
        }
        let stride = self.columns.next_multiple_of(2);
        for (x, r) in self.x.chunks_exact(self.columns).zip(self.rounded.chunks_exact_mut(stride)) {
            for (x, r) in x.iter().zip(&mut *r) {
                *r = Bf16::store(*x);
            }
            r[self.columns..].fill(Bf16::default());
        }
    }
}

/// [`Scale`] with all threads, rows apiece.
fn scale(pool: &Pool, a: f32, y: Option<(f32, &[f32])>, x: &mut [f32], columns: usize, rounded: &mut [Bf16]) {
    /// Elements of a job.
    const PIECE: usize = 1 << 14;
    let stride = columns.next_multiple_of(2);
    let rows = x.len() / columns;
    let (x, rounded) = (Shared::new(x), Shared::new(rounded));
    pool.for_ranges(rows, PIECE.div_ceil(columns), |range| {
        let (first, n) = (range.start, range.len());
        let y = y.map(|(b, y)| (b, &y[first * columns..][..n * columns]));
        // SAFETY: ranges of rows are disjoint.
        let (x, rounded) =
            unsafe { (x.slice_mut(first * columns, n * columns), rounded.slice_mut(first * stride, n * stride)) };
        pool.isa().run(Scale { a, y, x, columns, rounded });
    });
}

struct Apply<'a> {
    keep: f32,
    rate: f32,
    direction: &'a [f32],
    weight: &'a mut [f32],
}

impl Kernel for Apply<'_> {
    type Output = ();
    #[inline(always)]
    fn run<M: Math>(self) {
        for (w, d) in self.weight.iter_mut().zip(self.direction) {
            *w = M::mul_add(-self.rate, *d, *w * self.keep);
        }
    }
}

/// One Muon step of a matrix. The direction's root mean square is made about `0.2`, AdamW's usual size (Liu et al.
/// 2025), so that one learning rate serves both. The iteration runs in bf16, as is usual.
pub(super) fn muon<T: Moment>(
    pool: &Pool,
    update: Muon,
    (rows, columns): (usize, usize),
    weight: &mut [f32],
    gradient: &[f32],
    momentum: MomentumPart<'_, T>,
    scratch: &mut [u8],
) {
    let isa = pool.isa();
    // The Gram matrix is taken on the shorter side: X Xᵀ for wide matrices, Xᵀ X for tall ones.
    let tall = rows > columns;
    let n = rows.min(columns);
    let (wide, wide_n) = (columns.next_multiple_of(2), n.next_multiple_of(2));
    let mut scratch = Carver::new(scratch);
    let x = scratch.take::<f32>(rows * columns);
    let rounded = scratch.take::<Bf16>(rows * wide);
    let len = packed_len::<Bf16>(rows, columns).max(packed_len::<Bf16>(columns, rows));
    let packed = scratch.take::<Bf16>(len);
    let transposed = scratch.take::<Bf16>(left_len::<Bf16>(rows.max(columns), n));
    let gram = scratch.take::<f32>(n * n);
    let square = scratch.take::<f32>(n * n);
    let gram_rounded = scratch.take::<Bf16>(n * wide_n);
    let gram_packed = scratch.take::<Bf16>(packed_len::<Bf16>(n, n));

    let squares = isa.run(Momentum { update, gradient, momentum, out: x });
    let mut a = 1.0 / (squares.sqrt() + 1e-7);
    for _ in 0..STEPS {
        scale(pool, a, None, x, columns, rounded);
        let store = Store { out: Shared::new(gram), stride: n, bias: None };
        if tall {
            pack_columns(pool, rounded, wide, (rows, columns), packed);
            let left = left_transposed(pool, rounded, wide, (rows, columns), transposed);
            multiply(pool, left, n, PackedB::new(packed, rows, columns), &store);
        } else {
            pack_transposed(pool, rounded, wide, (wide, rows), packed);
            let left = Left::rows(rounded, rows, wide, wide);
            multiply(pool, left, n, PackedB::new(packed, wide, rows), &store);
        }
        scale(pool, 1.0, None, gram, n, gram_rounded);
        pack_columns(pool, &*gram, n, (n, n), gram_packed);
        let store = Store { out: Shared::new(square), stride: n, bias: None };
        let left = Left::rows(gram_rounded, n, wide_n, wide_n);
        multiply(pool, left, n, PackedB::new(gram_packed, wide_n, n), &store);
        let (keep, linear, cubic) = NEWTON_SCHULZ;
        scale(pool, linear, Some((cubic, square)), gram, n, gram_rounded);
        for x in x.iter_mut() {
            *x *= keep;
        }
        let add = Add { out: Shared::new(x), stride: columns, bias: None };
        if tall {
            pack_columns(pool, &*gram, n, (n, n), gram_packed);
            let left = Left::rows(rounded, rows, wide, wide);
            multiply(pool, left, rows, PackedB::new(gram_packed, wide, columns), &add);
        } else {
            pack_columns(pool, rounded, wide, (rows, columns), packed);
            let left = Left::rows(gram_rounded, rows, wide_n, wide_n);
            multiply(pool, left, rows, PackedB::new(packed, wide_n, columns), &add);
        }
        a = 1.0;
    }
    let rate = update.lr * 0.2 * (rows.max(columns) as f32).sqrt();
    isa.run(Apply { keep: 1.0 - update.lr * update.weight_decay, rate, direction: x, weight });
}
