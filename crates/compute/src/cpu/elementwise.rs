//! Embedding, dropout, gradient rounding, reductions over whole buffers.

use super::gemm::MatElement;
use super::isa::{Kernel, Math};
use super::linear::CpuMatrix;
use super::pool::{Pool, Shared};
use crate::device::Dropout;
use crate::dropout_mask::Mask;
use crate::dtype::Storage;

/// Elements of a job.
const PIECE: usize = 1 << 14;

/// `x[t, :] = table[ids[t], :]`.
pub(super) fn embedding<S: MatElement>(pool: &Pool, table: &CpuMatrix, ids: &[u32], x: &mut [f32]) {
    let width = table.columns;
    let x = Shared::new(x);
    pool.for_ranges(ids.len(), 16, |range| {
        for token in range {
            // SAFETY: tokens are disjoint.
            table.row::<S>(ids[token] as usize, unsafe { x.slice_mut(token * width, width) });
        }
    });
}

/// `d_table[ids[t], :] += dx[t, :]`: each job owns a block of columns and takes the tokens in order.
pub(super) fn embedding_backward(pool: &Pool, ids: &[u32], dx: &[f32], width: usize, d_table: &mut [f32]) {
    const COLUMNS: usize = 64;
    let d_table = Shared::new(d_table);
    pool.for_ranges(width, COLUMNS, |range| {
        for (token, id) in ids.iter().enumerate() {
            // SAFETY: column blocks are disjoint.
            let to = unsafe { d_table.slice_mut(*id as usize * width + range.start, range.len()) };
            let from = &dx[token * width + range.start..][..range.len()];
            for (to, from) in to.iter_mut().zip(from) {
                *to += from;
            }
        }
    });
}

enum Op<'a, S> {
    Add(&'a [S], &'a mut [f32]),
    InPlace(&'a mut [f32]),
    Round(&'a [f32], &'a mut [S]),
}

struct Drop<'a, S> {
    mask: Option<Mask>,
    first: usize,
    op: Op<'a, S>,
}

impl<S: Storage> Kernel for Drop<'_, S> {
    type Output = ();
    #[inline(always)]
    fn run<M: Math>(self) {
        let first = self.first;
        match (self.op, self.mask) {
            (Op::Add(from, to), Some(mask)) => {
                for (i, (to, from)) in to.iter_mut().zip(from).enumerate() {
                    *to += from.load() * mask.factor(first + i);
                }
            }
            (Op::Add(from, to), None) => {
                for (to, from) in to.iter_mut().zip(from) {
                    *to += from.load();
                }
            }
            (Op::InPlace(x), Some(mask)) => {
                for (i, x) in x.iter_mut().enumerate() {
                    *x *= mask.factor(first + i);
                }
            }
            (Op::InPlace(_), None) => {}
            (Op::Round(from, to), Some(mask)) => {
                for (i, (to, from)) in to.iter_mut().zip(from).enumerate() {
                    *to = S::store(from * mask.factor(first + i));
                }
            }
            (Op::Round(from, to), None) => {
                for (to, from) in to.iter_mut().zip(from) {
                    *to = S::store(*from);
                }
            }
        }
    }
}

/// `x += dropout(branch)`.
pub(super) fn dropout_add<S: Storage>(pool: &Pool, dropout: Dropout, branch: &[S], x: &mut [f32]) {
    let mask = Some(Mask::new(dropout));
    let x = Shared::new(x);
    pool.for_ranges(branch.len(), PIECE, |range| {
        // SAFETY: ranges are disjoint.
        let to = unsafe { x.slice_mut(range.start, range.len()) };
        pool.isa().run(Drop { mask, first: range.start, op: Op::Add(&branch[range], to) });
    });
}

/// `x = dropout(x)`.
pub(super) fn dropout(pool: &Pool, dropout: Dropout, x: &mut [f32]) {
    let mask = Some(Mask::new(dropout));
    let len = x.len();
    let x = Shared::new(x);
    pool.for_ranges(len, PIECE, |range| {
        // SAFETY: ranges are disjoint.
        let x = unsafe { x.slice_mut(range.start, range.len()) };
        pool.isa().run(Drop::<f32> { mask, first: range.start, op: Op::InPlace(x) });
    });
}

/// `branch = dropout(dx)`, rounded.
pub(super) fn branch_gradient<S: Storage>(pool: &Pool, dropout: Option<Dropout>, dx: &[f32], branch: &mut [S]) {
    let mask = dropout.map(Mask::new);
    let branch = Shared::new(branch);
    pool.for_ranges(dx.len(), PIECE, |range| {
        // SAFETY: ranges are disjoint.
        let to = unsafe { branch.slice_mut(range.start, range.len()) };
        pool.isa().run(Drop { mask, first: range.start, op: Op::Round(&dx[range], to) });
    });
}

/// Zeroes a byte-sized element slice with all threads.
pub(super) fn fill_zero<T: Copy + Default + Send + Sync>(pool: &Pool, x: &mut [T]) {
    let len = x.len();
    let x = Shared::new(x);
    pool.for_ranges(len, PIECE * 8, |range| {
        // SAFETY: ranges are disjoint.
        unsafe { x.slice_mut(range.start, range.len()) }.fill(T::default());
    });
}

/// Copies with all threads.
pub(super) fn copy<T: Copy + Send + Sync>(pool: &Pool, from: &[T], to: &mut [T]) {
    let to = Shared::new(to);
    pool.for_ranges(from.len(), PIECE * 8, |range| {
        // SAFETY: ranges are disjoint.
        unsafe { to.slice_mut(range.start, range.len()) }.copy_from_slice(&from[range]);
    });
}

struct Squares<'a>(&'a [f32]);

impl Kernel for Squares<'_> {
    type Output = f64;
    #[inline(always)]
    fn run<M: Math>(self) -> f64 {
        let mut lanes = [0.0f64; 8];
        let mut add = |x: &[f32; 8]| {
            for l in 0..8 {
                lanes[l] += f64::from(x[l]) * f64::from(x[l]);
            }
        };
        let (chunks, tail) = self.0.as_chunks();
        for chunk in chunks {
            add(chunk);
        }
        // Whole lanes here too (see `math`): zeros add nothing.
        let mut filled = [0.0; 8];
        filled[..tail.len()].copy_from_slice(tail);
        add(&filled);
        lanes.iter().sum()
    }
}

/// Sum of squares: pieces of fixed size, added in order. `partial` has room for [`square_pieces`].
pub(super) fn sum_of_squares(pool: &Pool, x: &[f32], partial: &mut [u32]) -> f64 {
    // Each partial sum is an f64 kept as two words, the size of scratch's elements.
    let shared = Shared::new(&mut *partial);
    pool.for_ranges(x.len(), PIECE * 4, |range| {
        let bits = pool.isa().run(Squares(&x[range.clone()])).to_bits();
        // SAFETY: one pair a piece.
        let pair = unsafe { shared.slice_mut(2 * (range.start / (PIECE * 4)), 2) };
        pair.copy_from_slice(&[bits as u32, (bits >> 32) as u32]);
    });
    let pairs = partial[..2 * square_pieces(x.len())].chunks_exact(2);
    pairs.map(|pair| f64::from_bits(u64::from(pair[0]) | u64::from(pair[1]) << 32)).sum()
}

/// Pieces that [`sum_of_squares`] cuts `len` elements into.
pub(super) fn square_pieces(len: usize) -> usize {
    len.div_ceil(PIECE * 4)
}
