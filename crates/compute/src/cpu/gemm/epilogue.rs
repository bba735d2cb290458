//! Where a finished tile goes.

use super::kernel::Destination;
use crate::cpu::pool::Shared;
use crate::dtype::{DType, Storage};

/// Consumes f32 tiles of a product.
pub(crate) trait Epilogue {
    /// Takes the tile whose top left is `(row, column)`, `rows x columns`, `ld` floats between tile rows.
    fn store(&self, row: usize, column: usize, rows: usize, columns: usize, tile: &[f32], ld: usize);
    /// Where such a tile goes, if it need not be changed on its way: a micro-kernel may leave it there itself.
    fn destination(&self, row: usize, column: usize, rows: usize, columns: usize) -> Option<Destination>;
}

/// The place of `rows x columns` floats of a matrix.
#[inline(always)]
fn place<T>(
    out: &Shared<'_, T>,
    stride: usize,
    (row, column): (usize, usize),
    (rows, columns): (usize, usize),
) -> *mut f32 {
    out.at(row * stride + column, (rows - 1) * stride + columns).cast()
}

/// `C = tile (+ bias)`, rounded to `S`.
pub(crate) struct Store<'a, S> {
    pub(crate) out: Shared<'a, S>,
    pub(crate) stride: usize,
    pub(crate) bias: Option<&'a [f32]>,
}

impl<S: Storage> Epilogue for Store<'_, S> {
    #[inline(always)]
    fn destination(&self, row: usize, column: usize, rows: usize, columns: usize) -> Option<Destination> {
        let plain = S::DTYPE == DType::F32 && self.bias.is_none();
        let at = || place(&self.out, self.stride, (row, column), (rows, columns));
        plain.then(|| Destination { at: at(), stride: self.stride, add: false })
    }

    #[inline(always)]
    fn store(&self, row: usize, column: usize, rows: usize, columns: usize, tile: &[f32], ld: usize) {
        for r in 0..rows {
            let from = &tile[r * ld..][..columns];
            // SAFETY: blocks of one product never overlap.
            let to = unsafe { self.out.slice_mut((row + r) * self.stride + column, columns) };
            match self.bias {
                Some(bias) => {
                    for ((to, x), b) in to.iter_mut().zip(from).zip(&bias[column..column + columns]) {
                        *to = S::store(x + b);
                    }
                }
                None => {
                    for (to, x) in to.iter_mut().zip(from) {
                        *to = S::store(*x);
                    }
                }
            }
        }
    }
}

/// `C += tile (+ bias)` in f32: the residual stream, gradients, attention's accumulators.
pub(crate) struct Add<'a> {
    pub(crate) out: Shared<'a, f32>,
    pub(crate) stride: usize,
    pub(crate) bias: Option<&'a [f32]>,
}

impl Epilogue for Add<'_> {
    #[inline(always)]
    fn destination(&self, row: usize, column: usize, rows: usize, columns: usize) -> Option<Destination> {
        let at = || place(&self.out, self.stride, (row, column), (rows, columns));
        self.bias.is_none().then(|| Destination { at: at(), stride: self.stride, add: true })
    }

    #[inline(always)]
    fn store(&self, row: usize, column: usize, rows: usize, columns: usize, tile: &[f32], ld: usize) {
        for r in 0..rows {
            let from = &tile[r * ld..][..columns];
            // SAFETY: blocks of one product never overlap.
            let to = unsafe { self.out.slice_mut((row + r) * self.stride + column, columns) };
            match self.bias {
                Some(bias) => {
                    for ((to, x), b) in to.iter_mut().zip(from).zip(&bias[column..column + columns]) {
                        *to += x + b;
                    }
                }
                None => {
                    for (to, x) in to.iter_mut().zip(from) {
                        *to += x;
                    }
                }
            }
        }
    }
}
