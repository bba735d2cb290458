//! Products that are symmetric by what they are made of (`X Xᵀ`, powers of such): half of one is computed.
//!
//! An element and its mirror image are the same sum, term by term in the same order with the factors exchanged, so that they have the
//! same bits whichever is computed.

use super::pack::{PANEL, PackedB};
use super::{Block, Epilogue, Left, MatElement, State, panels_of_a_block};
use crate::cpu::isa::{Isa, Kernel, Math};
use crate::cpu::pool::{Pool, Shared};
use crate::dtype::{Bf16, Storage};

/// Rows of a job: an eighth of all, in whole tiles, which are as wide as high where a job begins at the diagonal. Higher strips
/// compute more below it, lower ones read their panels more often.
fn strip(isa: Isa, n: usize) -> usize {
    let tiles = if isa == Isa::Amx { 64 } else { 48 };
    (n / 8).next_multiple_of(tiles).max(tiles)
}

/// Multiplies `A[n, k] · B[k, n]`, which is symmetric, on and above the diagonal, in blocks of 16: what lies below is whatever was there,
/// or right.
pub(crate) fn multiply_upper<S: MatElement, E: Epilogue + Sync>(
    pool: &Pool,
    left: Left<S>,
    right: PackedB<'_, S>,
    epilogue: &E,
) {
    let n = right.n;
    let (panels, rows) = (n.div_ceil(PANEL), strip(pool.isa(), n));
    let width = panels_of_a_block::<S>(pool.isa(), right.k, panels);
    let strips = n.div_ceil(rows);
    pool.for_each(strips * panels.div_ceil(width), |job| {
        let (m0, p0) = (job % strips * rows, job / strips * width);
        let from_diagonal = p0.max(m0 / PANEL);
        let end = (p0 + width).min(panels);
        if from_diagonal < end {
            pool.isa().run(Block {
                isa: pool.isa(),
                left,
                m: (m0, (m0 + rows).min(n)),
                right,
                panels: (from_diagonal, end),
                epilogue,
                state: &mut State::default(),
            });
        }
    });
}

/// What [`mirror`] rounds: elements of a symmetric matrix, or of a polynomial of it.
#[derive(Clone, Copy)]
pub(crate) enum Terms<'a> {
    /// `x`.
    One(&'a [f32]),
    /// `a x + b y`.
    Two([f32; 2], [&'a [f32]; 2]),
}

/// A row of blocks of 16 x 16, from the diagonal on, and its mirror image.
struct Mirrored<'a, 'b> {
    terms: Terms<'a>,
    n: usize,
    stride: usize,
    first: usize,
    out: Shared<'b, Bf16>,
}

impl Kernel for Mirrored<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<M: Math>(self) {
        let Mirrored { terms, n, stride, first, out } = self;
        let height = PANEL.min(n - first);
        for column in (first..n).step_by(PANEL) {
            let width = PANEL.min(n - column);
            let mut block = [[Bf16::default(); PANEL]; PANEL];
            for (r, row) in block.iter_mut().enumerate().take(height) {
                let part = (first + r) * n + column..(first + r) * n + column + width;
                match terms {
                    Terms::One(x) => {
                        for (to, x) in row.iter_mut().zip(&x[part]) {
                            *to = Bf16::store(*x);
                        }
                    }
                    Terms::Two([a, b], [x, y]) => {
                        for (to, (x, y)) in row.iter_mut().zip(x[part.clone()].iter().zip(&y[part])) {
                            *to = Bf16::store(M::mul_add(a, *x, b * y));
                        }
                    }
                }
                // SAFETY: a row of blocks writes these rows from its diagonal on, and what mirrors them below; nobody else does.
                unsafe { out.slice_mut((first + r) * stride + column, width) }.copy_from_slice(&row[..width]);
            }
            if column > first {
                for c in 0..width {
                    // SAFETY: as above.
                    let to = unsafe { out.slice_mut((column + c) * stride + first, height) };
                    for (to, row) in to.iter_mut().zip(&block) {
                        *to = row[c];
                    }
                }
            }
        }
        for row in first..first + height {
            // SAFETY: as above: what pads these rows.
            unsafe { out.slice_mut(row * stride + n, stride - n) }.fill(Bf16::default());
        }
    }
}

/// Rounds a symmetric matrix of which [`multiply_upper`] has computed a half, all of it: `[n][stride]`, padded with zeros.
pub(crate) fn mirror(pool: &Pool, terms: Terms<'_>, n: usize, stride: usize, out: &mut [Bf16]) {
    let out = Shared::new(&mut out[..n * stride]);
    pool.for_each(n.div_ceil(PANEL), |block| {
        pool.isa().run(Mirrored { terms, n, stride, first: block * PANEL, out });
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::gemm::pack::packed_len;
    use crate::cpu::gemm::tests::isas;
    use crate::cpu::gemm::{Store, multiply, pack_transposed};

    /// Half of a product, mirrored, has the bits of the whole, at every level.
    #[test]
    fn half_and_its_mirror_image_are_the_whole() {
        for isa in isas() {
            for (n, k) in [(1, 2), (15, 34), (16, 64), (17, 30), (48, 48), (100, 66), (129, 300), (400, 32)] {
                let pool = Pool::new(2, isa).unwrap();
                let what = format!("{}, {n} x {k}", isa.name());
                let x: Vec<Bf16> =
                    (0..n * k).map(|i| Bf16::store(((i * 7919 % 1013) as f32 - 500.0) / 777.0)).collect();
                let mut packed = vec![Bf16::default(); packed_len::<Bf16>(k, n)];
                pack_transposed(&pool, &x, k, (k, n), &mut packed);
                let (left, right) = (Left::rows(&x, n, k, k), PackedB::new(&packed, k, n));
                let (mut whole, mut half) = (vec![f32::NAN; n * n], vec![f32::NAN; n * n]);
                multiply(&pool, left, n, right, &Store { out: Shared::new(&mut whole), stride: n, bias: None });
                let store = Store { out: Shared::new(&mut half), stride: n, bias: None };
                multiply_upper(&pool, left, right, &store);
                let stride = n.next_multiple_of(2);
                let rounded = |of: &dyn Fn(usize) -> f32| -> Vec<u16> {
                    let element = |i: usize| match i % stride {
                        column if column < n => Bf16::store(of(i / stride * n + column)).0,
                        _ => 0,
                    };
                    (0..n * stride).map(element).collect()
                };
                let mirrored = |terms| -> Vec<u16> {
                    let mut out = vec![Bf16(0x7fc0); n * stride];
                    mirror(&pool, terms, n, stride, &mut out);
                    out.iter().map(|x| x.0).collect()
                };
                assert!(mirrored(Terms::One(&half)) == rounded(&|i| whole[i]), "{what}");
                let terms = Terms::Two([0.5, -2.0], [&half, &half]);
                assert!(mirrored(terms) == rounded(&|i| 0.5 * whole[i] - 2.0 * whole[i]), "{what}, of two terms");
            }
        }
    }
}
