//! Where a finished tile goes.

#[cfg(target_arch = "x86_64")]
use super::avx512bf16;
use super::kernel::Destination;
use crate::cpu::isa::{Isa, prefetch_at};
use crate::cpu::pool::Shared;
#[cfg(target_arch = "x86_64")]
use crate::dtype::Bf16;
use crate::dtype::{DType, Storage};

/// Consumes f32 tiles of a product.
pub(crate) trait Epilogue {
    /// Takes the tile whose top left is `(row, column)`, `rows x columns`, `ld` floats between tile rows.
    #[allow(clippy::too_many_arguments)] // A tile's place and size; a struct would only rename it.
    fn store(&self, isa: Isa, row: usize, column: usize, rows: usize, columns: usize, tile: &[f32], ld: usize);
    /// Where such a tile goes, if it need not be changed on its way: a micro-kernel may leave it there itself.
    fn destination(&self, row: usize, column: usize, rows: usize, columns: usize) -> Option<Destination>;
    /// Asks for the memory that such a tile goes to.
    fn ask_for(&self, row: usize, column: usize, rows: usize, columns: usize);
}

/// The place of `rows x columns` elements of a matrix.
#[inline(always)]
fn place<T>(
    out: &Shared<'_, T>,
    stride: usize,
    (row, column): (usize, usize),
    (rows, columns): (usize, usize),
) -> *mut T {
    out.at(row * stride + column, (rows - 1) * stride + columns)
}

/// Asks for the place of `rows x columns` elements.
#[inline(always)]
fn ask_for<T>(out: &Shared<'_, T>, stride: usize, at: (usize, usize), (rows, columns): (usize, usize)) {
    let at = place(out, stride, at, (rows, columns));
    for row in 0..rows {
        prefetch_at(at.wrapping_add(row * stride), columns);
    }
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
        let at = || place(&self.out, self.stride, (row, column), (rows, columns)).cast();
        plain.then(|| Destination { at: at(), stride: self.stride, add: false })
    }

    #[inline(always)]
    fn ask_for(&self, row: usize, column: usize, rows: usize, columns: usize) {
        ask_for(&self.out, self.stride, (row, column), (rows, columns));
    }

    #[inline(always)]
    fn store(&self, isa: Isa, row: usize, column: usize, rows: usize, columns: usize, tile: &[f32], ld: usize) {
        #[cfg(target_arch = "x86_64")]
        if S::DTYPE == DType::Bf16 && isa >= Isa::Avx512Bf16 {
            let to = place(&self.out, self.stride, (row, column), (rows, columns)).cast::<Bf16>();
            let bias = self.bias.map(|bias| &bias[column..column + columns]);
            // SAFETY: the level has the instructions and S is Bf16; the place is the tile's, and blocks of one product never
            // overlap.
            unsafe { avx512bf16::round(tile, ld, (rows, columns), bias, to, self.stride) };
            return;
        }
        let _ = isa;
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
    fn ask_for(&self, row: usize, column: usize, rows: usize, columns: usize) {
        ask_for(&self.out, self.stride, (row, column), (rows, columns));
    }

    #[inline(always)]
    fn store(&self, isa: Isa, row: usize, column: usize, rows: usize, columns: usize, tile: &[f32], ld: usize) {
        #[cfg(target_arch = "x86_64")]
        if isa >= Isa::Avx512 {
            let to = place(&self.out, self.stride, (row, column), (rows, columns));
            let bias = self.bias.map(|bias| &bias[column..column + columns]);
            // SAFETY: the level has AVX-512; the place is the tile's, and blocks of one product never overlap.
            unsafe { avx512bf16::add(tile, ld, (rows, columns), bias, to, self.stride) };
            return;
        }
        let _ = isa;
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
