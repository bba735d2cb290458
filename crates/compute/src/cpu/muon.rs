//! Muon.
//!
//! A small matrix keeps one thread busy and its caches full, while several threads would spend the time waiting for each other: an
//! iteration is ten short sections. So each of those is worked through by one thread, and only what is too large for that by all.
//! The bits are the same. How many there may be at once follows from their scratch: with many threads a few of them may be idle.

use std::cmp::Reverse;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::CpuDevice;
use super::adamw::Moment;
use super::buffer::CpuBuffer;
use super::gemm::pack::packed_len;
use super::gemm::{
    Add, Left, PackedB, Store, Terms, left_len, left_of_packed, mirror, multiply, multiply_upper, pack_columns,
    pack_transposed,
};
use super::isa::{Kernel, Math};
use super::linear::CpuMatrix;
use super::math;
use super::memory::Carver;
use super::pool::{Pool, Shared};
use crate::device::{Muon, MuonTensor};
use crate::dtype::{Bf16, DType, Storage};
use crate::stochastic;

/// Newton-Schulz coefficients of Jordan's Muon: singular values go to about 1 in five steps.
const NEWTON_SCHULZ: (f32, f32, f32) = (3.4445, -4.7750, 2.0315);
const STEPS: usize = 5;

/// Elements of a job.
const PIECE: usize = 1 << 14;

/// Most scratch of all matrices that are worked through at once: this, or so much for each thread.
const AT_ONCE: usize = 32 << 20;
const EACH: usize = 6 << 20;

fn at_once(threads: usize) -> usize {
    AT_ONCE.max(threads * EACH)
}

/// How many matrices of so much scratch are worked through at once, by a thread each. None: they are too large for that, and all
/// threads work on one, which is better than leaving more than a quarter of them idle.
fn lanes(threads: usize, scratch: usize) -> Option<usize> {
    let lanes = threads.min(at_once(threads) / scratch.max(1));
    (4 * lanes >= 3 * threads).then_some(lanes)
}

/// Bytes of scratch for one matrix of up to `rows x columns`, or the other way round.
fn matrix_scratch(rows: usize, columns: usize) -> usize {
    let short = rows.min(columns);
    let packed = packed_len::<Bf16>(rows, columns).max(packed_len::<Bf16>(columns, rows));
    Carver::bytes::<f32>(rows * columns)
        + Carver::bytes::<f32>((rows * columns).div_ceil(PIECE))
        + Carver::bytes::<Bf16>(rows.next_multiple_of(2) * columns.next_multiple_of(2))
        + Carver::bytes::<Bf16>(packed)
        + Carver::bytes::<Bf16>(left_len::<Bf16>(rows.max(columns), short))
        + 2 * Carver::bytes::<f32>(short * short)
        + Carver::bytes::<Bf16>(short * short.next_multiple_of(2))
        + Carver::bytes::<Bf16>(packed_len::<Bf16>(short, short))
}

/// Bytes of scratch for matrices of any sizes up to `rows x columns`, or the other way round.
pub(super) fn scratch_bytes(threads: usize, rows: usize, columns: usize) -> usize {
    let largest = matrix_scratch(rows, columns);
    largest.max(at_once(threads).min(threads * largest))
}

/// What a matrix has gathered of its gradients.
enum Momentum<'a> {
    F32(&'a mut [f32]),
    /// Rounded stochastically.
    Bf16(&'a mut [Bf16]),
}

/// One matrix of those that lie in a tensor.
struct Matrix<'a> {
    size: (usize, usize),
    /// Index of its first element in the tensor.
    at: usize,
    /// The tensor's.
    seed: u64,
    weight: &'a mut [f32],
    gradient: &'a [f32],
    momentum: Momentum<'a>,
}

/// The matrices of a tensor.
fn matrices<'a>(tensor: &'a mut MuonTensor<'_, CpuBuffer, CpuMatrix>) -> Vec<Matrix<'a>> {
    let MuonTensor { weight, gradient, momentum, row_blocks, columns, seed, .. } = tensor;
    let (columns, seed) = (*columns, *seed);
    let (mut weight, mut gradient) = (weight.slice_mut(), gradient.slice());
    let mut momentum = match momentum.dtype() {
        DType::Bf16 => Momentum::Bf16(momentum.slice_mut()),
        _ => Momentum::F32(momentum.slice_mut()),
    };
    let mut at = 0;
    let block = |rows: &usize| {
        let (size, len) = ((*rows, columns), rows * columns);
        let (gradient_here, rest) = gradient.split_at(len);
        gradient = rest;
        let momentum = match &mut momentum {
            Momentum::F32(values) => Momentum::F32(take_mut(values, len)),
            Momentum::Bf16(values) => Momentum::Bf16(take_mut(values, len)),
        };
        let weight = take_mut(&mut weight, len);
        let matrix = Matrix { size, at, seed, weight, gradient: gradient_here, momentum };
        at += len;
        matrix
    };
    row_blocks.iter().map(block).collect()
}

/// Cuts `len` elements from the front.
fn take_mut<'a, T>(slice: &mut &'a mut [T], len: usize) -> &'a mut [T] {
    let (taken, rest) = std::mem::take(slice).split_at_mut(len);
    *slice = rest;
    taken
}

impl CpuDevice {
    /// One Muon step of each matrix of some tensors. Their packed forms are left as they are.
    pub(super) fn update_by_muon(&self, update: &Muon, tensors: &mut [MuonTensor<'_, CpuBuffer, CpuMatrix>]) {
        let matrices: Vec<_> = tensors.iter_mut().flat_map(matrices).collect();
        let bytes = |matrix: &Matrix<'_>| scratch_bytes(self.pool.threads(), matrix.size.0, matrix.size.1);
        if let Some(bytes) = matrices.iter().map(bytes).max() {
            self.with_scratch(bytes, |scratch| step(&self.pool, update, matrices, scratch));
        }
    }
}

/// One Muon step of each matrix, with the most of [`scratch_bytes`] of each.
fn step(pool: &Pool, update: &Muon, matrices: Vec<Matrix<'_>>, scratch: &mut [u8]) {
    let (mut alone, together): (Vec<_>, Vec<_>) =
        matrices.into_iter().partition(|matrix| lanes(pool.threads(), matrix.scratch()).is_some());
    // The longest first: at the end threads wait for the last.
    alone.sort_by_key(|matrix| Reverse(matrix.weight.len() * matrix.short()));
    let each = alone.iter().map(Matrix::scratch).max().unwrap_or(0);
    let (count, caller, taken) = (alone.len(), pool.alone(), AtomicUsize::new(0));
    let (parts, alone) = (Shared::new(scratch), Shared::new(&mut alone));
    pool.for_each(lanes(pool.threads(), each).unwrap_or(0).min(count), |lane| {
        // SAFETY: a lane has its part of the scratch.
        let scratch = unsafe { parts.slice_mut(lane * each, each) };
        loop {
            let next = taken.fetch_add(1, Ordering::Relaxed);
            if next >= count {
                break;
            }
            // SAFETY: a matrix is taken once.
            let matrix = unsafe { alone.slice_mut(next, 1) };
            matrix.iter_mut().for_each(|matrix| matrix.step(&caller, update, scratch));
        }
    });
    for mut matrix in together {
        matrix.step(pool, update, scratch);
    }
}

impl Matrix<'_> {
    fn short(&self) -> usize {
        self.size.0.min(self.size.1)
    }

    fn scratch(&self) -> usize {
        matrix_scratch(self.size.0, self.size.1)
    }

    /// One Muon step. The direction's root mean square is made about `0.2`, AdamW's usual size (Liu et al. 2025), so that one
    /// learning rate serves both. The iteration runs in bf16, as is usual; its Gram matrices and their squares are
    /// symmetric, so half of each is computed.
    fn step(&mut self, pool: &Pool, update: &Muon, scratch: &mut [u8]) {
        let (rows, columns) = self.size;
        // The Gram matrix is taken on the shorter side: X Xᵀ for wide matrices, Xᵀ X for tall ones.
        let tall = rows > columns;
        let n = self.short();
        let (wide, wide_n) = (columns.next_multiple_of(2), n.next_multiple_of(2));
        let mut scratch = Carver::new(scratch);
        let x = scratch.take::<f32>(rows * columns);
        let squares = scratch.take::<f32>((rows * columns).div_ceil(PIECE));
        let rounded = scratch.take::<Bf16>(rows * wide);
        let len = packed_len::<Bf16>(rows, columns).max(packed_len::<Bf16>(columns, rows));
        let packed = scratch.take::<Bf16>(len);
        let transposed = scratch.take::<Bf16>(left_len::<Bf16>(rows.max(columns), n));
        let gram = scratch.take::<f32>(n * n);
        let square = scratch.take::<f32>(n * n);
        let gram_rounded = scratch.take::<Bf16>(n * wide_n);
        let gram_packed = scratch.take::<Bf16>(packed_len::<Bf16>(n, n));

        self.direction(pool, update, x, squares);
        let norm = squares.iter().map(|sum| f64::from(*sum)).sum::<f64>().sqrt() as f32;
        let (keep, linear, cubic) = NEWTON_SCHULZ;
        for step in 0..STEPS {
            let scale = if step == 0 { 1.0 / (norm + 1e-7) } else { 1.0 };
            round(pool, [scale, keep], x, columns, rounded);
            let store = Store { out: Shared::new(gram), stride: n, bias: None };
            if tall {
                pack_columns(pool, rounded, wide, (rows, columns), packed);
                let left = left_of_packed(pool, rounded, wide, (rows, columns), packed, transposed);
                multiply_upper(pool, left, PackedB::new(packed, rows, columns), &store);
            } else {
                pack_transposed(pool, rounded, wide, (wide, rows), packed);
                let left = Left::rows(rounded, rows, wide, wide);
                multiply_upper(pool, left, PackedB::new(packed, wide, rows), &store);
            }
            mirror(pool, Terms::One(gram), n, wide_n, gram_rounded);
            pack_columns(pool, gram_rounded, wide_n, (n, n), gram_packed);
            let store = Store { out: Shared::new(square), stride: n, bias: None };
            let left = Left::rows(gram_rounded, n, wide_n, wide_n);
            multiply_upper(pool, left, PackedB::new(gram_packed, wide_n, n), &store);
            mirror(pool, Terms::Two([linear, cubic], [gram, square]), n, wide_n, gram_rounded);
            let add = Add { out: Shared::new(x), stride: columns, bias: None };
            if tall {
                pack_columns(pool, gram_rounded, wide_n, (n, n), gram_packed);
                let left = Left::rows(rounded, rows, wide, wide);
                multiply(pool, left, rows, PackedB::new(gram_packed, wide, columns), &add);
            } else {
                pack_columns(pool, rounded, wide, (rows, columns), packed);
                let left = Left::rows(gram_rounded, rows, wide_n, wide_n);
                multiply(pool, left, rows, PackedB::new(packed, wide_n, columns), &add);
            }
        }
        let rate = update.lr * 0.2 * (rows.max(columns) as f32).sqrt();
        let keep = 1.0 - update.lr * update.weight_decay;
        let weight = Shared::new(self.weight);
        pool.for_ranges(rows * columns, PIECE, |range| {
            // SAFETY: ranges are disjoint.
            let weight = unsafe { weight.slice_mut(range.start, range.len()) };
            pool.isa().run(Apply { keep, rate, direction: &x[range], weight });
        });
    }

    /// The momentum with this gradient, and the direction that follows from it: `x`, and the sum of squares of each [`PIECE`].
    fn direction(&mut self, pool: &Pool, update: &Muon, x: &mut [f32], squares: &mut [f32]) {
        let update = Muon { seed: self.seed, ..*update };
        let (at, gradient) = (self.at, self.gradient);
        match &mut self.momentum {
            Momentum::F32(values) => gather(pool, update, at, gradient, values, x, squares),
            Momentum::Bf16(values) => gather(pool, update, at, gradient, values, x, squares),
        }
    }
}

fn gather<T: Moment>(
    pool: &Pool,
    update: Muon,
    at: usize,
    gradient: &[f32],
    momentum: &mut [T],
    out: &mut [f32],
    squares: &mut [f32],
) {
    let (momentum, out, squares) = (Shared::new(momentum), Shared::new(out), Shared::new(squares));
    pool.for_ranges(gradient.len(), PIECE, |range| {
        let (first, n) = (range.start, range.len());
        // SAFETY: ranges are disjoint.
        let (momentum, out, square) =
            unsafe { (momentum.slice_mut(first, n), out.slice_mut(first, n), squares.slice_mut(first / PIECE, 1)) };
        let gradient = &gradient[range];
        square.fill(pool.isa().run(Gather { update, at: at + first, gradient, momentum, out }));
    });
}

/// `m = μ m + (1 - μ) g`, and Nesterov's direction `μ m + (1 - μ) g`.
struct Gather<'a, T> {
    update: Muon,
    /// Index of the first element in its tensor.
    at: usize,
    gradient: &'a [f32],
    momentum: &'a mut [T],
    out: &'a mut [f32],
}

impl<T: Moment> Kernel for Gather<'_, T> {
    /// Sum of squares of the direction.
    type Output = f32;
    #[inline(always)]
    fn run<M: Math>(self) -> f32 {
        let beta = self.update.momentum;
        let key = stochastic::key(self.update.seed);
        for (i, ((g, kept), out)) in self.gradient.iter().zip(self.momentum).zip(&mut *self.out).enumerate() {
            let g = g * self.update.gradient_scale;
            let m = M::mul_add(beta, kept.load(), (1.0 - beta) * g);
            *kept = T::keep(m, || stochastic::bits(key, self.at + i));
            *out = M::mul_add(beta, m, (1.0 - beta) * g);
        }
        math::dot::<M, _, _>(self.out, self.out)
    }
}

/// `x = scale x`, of which rows of `columns` are rounded at a stride padded to pairs; then `x = keep x`.
struct Round<'a> {
    scale: f32,
    keep: f32,
    x: &'a mut [f32],
    columns: usize,
    rounded: &'a mut [Bf16],
}

impl Kernel for Round<'_> {
    type Output = ();
    #[inline(always)]
    fn run<M: Math>(self) {
        let Round { scale, keep, x, columns, rounded } = self;
        let stride = columns.next_multiple_of(2);
        for (x, rounded) in x.chunks_exact_mut(columns).zip(rounded.chunks_exact_mut(stride)) {
            for (x, rounded) in x.iter_mut().zip(&mut *rounded) {
                let scaled = scale * *x;
                *rounded = Bf16::store(scaled);
                *x = keep * scaled;
            }
            rounded[columns..].fill(Bf16::default());
        }
    }
}

/// [`Round`] with all threads, rows apiece.
fn round(pool: &Pool, [scale, keep]: [f32; 2], x: &mut [f32], columns: usize, rounded: &mut [Bf16]) {
    let stride = columns.next_multiple_of(2);
    let rows = x.len() / columns;
    let (x, rounded) = (Shared::new(x), Shared::new(rounded));
    pool.for_ranges(rows, PIECE.div_ceil(columns), |range| {
        let (first, n) = (range.start, range.len());
        // SAFETY: ranges of rows are disjoint.
        let (x, rounded) =
            unsafe { (x.slice_mut(first * columns, n * columns), rounded.slice_mut(first * stride, n * stride)) };
        pool.isa().run(Round { scale, keep, x, columns, rounded });
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::cpu::isa::Isa;
    use crate::cpu::memory::Memory;
    use crate::device::{Device, Rounding};
    use crate::moments::MomentFormat;

    const UPDATE: Muon = Muon {
        lr: 0.5,
        momentum: 0.95,
        weight_decay: 0.25,
        gradient_scale: 0.75,
        seed: 9,
        weight_rounding: Rounding::Nearest,
    };

    fn values(n: usize, scale: f32) -> Vec<f32> {
        (0..n).map(|i| scale * ((i * 7919 % 1013) as f32 - 500.0) / 777.0).collect()
    }

    /// What a step makes of a matrix of zeros without momentum.
    pub(in crate::cpu) fn weight_of_zeros(
        pool: &Pool,
        update: &Muon,
        size: (usize, usize),
        gradient: &[f32],
    ) -> Vec<f32> {
        let (mut weight, mut momentum) = (vec![0.0; gradient.len()], vec![0.0; gradient.len()]);
        let mut scratch = Memory::new("test", matrix_scratch(size.0, size.1)).unwrap();
        scratch.as_bytes_mut().fill(0xff);
        let momentum = Momentum::F32(&mut momentum);
        let mut matrix = Matrix { size, at: 0, seed: 0, weight: &mut weight, gradient, momentum };
        matrix.step(pool, update, scratch.as_bytes_mut());
        weight
    }

    /// Whoever works on a matrix, it comes to the same: all threads or one.
    #[test]
    fn one_thread_or_all_make_the_same_of_a_matrix() {
        for isa in Isa::available() {
            let pool = Pool::new(3, isa).unwrap();
            for size in [(1, 1), (17, 300), (300, 17), (131, 129), (96, 400)] {
                let gradient = values(size.0 * size.1, 1.0);
                let of = |pool: &Pool| weight_of_zeros(pool, &UPDATE, size, &gradient);
                let all = of(&pool);
                assert!(all == of(&pool.alone()) && all.iter().any(|w| *w != 0.0), "{}, {size:?}", isa.name());
            }
        }
    }

    /// With few threads each has a matrix or all have one; with many, a quarter of them may be idle, and scratch grows with them.
    #[test]
    fn no_more_matrices_at_once_than_scratch_is_reserved_for() {
        for threads in 1..=64 {
            for (rows, columns) in [(1, 1), (64, 32), (256, 256), (704, 256), (384, 1024), (1024, 1024), (4096, 1024)] {
                let each = matrix_scratch(rows, columns);
                let reserved = scratch_bytes(threads, rows, columns);
                assert!(reserved >= each);
                if let Some(lanes) = lanes(threads, each) {
                    assert!(lanes <= threads && 4 * lanes >= 3 * threads && lanes * each <= reserved);
                }
            }
        }
        assert_eq!([1, 2, 3].map(|threads| lanes(threads, AT_ONCE / 2)), [Some(1), Some(2), None]);
        assert_eq!([4, 16].map(|threads| lanes(threads, 8 << 20)), [Some(4), Some(12)]);
        assert_eq!(lanes(16, 9 << 20), None);
    }

    /// Many tensors at once are many one by one, on any number of threads; one of them is too large for one of several threads, and one
    /// for each of four.
    #[test]
    fn tensors_together_are_tensors_one_by_one() {
        let tensors: [(&[usize], usize); 6] =
            [(&[64, 16, 16], 32), (&[33], 65), (&[1200], 800), (&[5], 1), (&[48], 96), (&[832], 640)];
        assert_eq!(lanes(2, matrix_scratch(1200, 800)), None);
        assert_eq!([3, 4].map(|threads| lanes(threads, matrix_scratch(832, 640))), [Some(3), Some(3)]);
        let isa = Isa::detect().unwrap();
        for format in [MomentFormat::F32, MomentFormat::Bf16] {
            let run = |threads: usize, together: bool| -> Vec<Vec<u8>> {
                let device = CpuDevice::new(threads, isa).unwrap();
                let mut buffers: Vec<_> = tensors
                    .iter()
                    .map(|(row_blocks, columns)| {
                        let n = row_blocks.iter().sum::<usize>() * columns;
                        let float = |scale| {
                            let mut buffer = device.allocate("test", DType::F32, n).unwrap();
                            buffer.slice_mut().copy_from_slice(&values(n, scale));
                            buffer
                        };
                        (float(1.0), float(0.3), device.allocate("test", format.dtype(), n).unwrap())
                    })
                    .collect();
                let operands = tensors.iter().zip(&mut buffers).zip(1_u64..);
                let operands = operands.map(|(((row_blocks, columns), (weight, gradient, momentum)), seed)| {
                    let (columns, gradient) = (*columns, &*gradient);
                    MuonTensor { weight, matrix: None, gradient, momentum, row_blocks, columns, seed }
                });
                if together {
                    device.update_by_muon(&UPDATE, &mut operands.collect::<Vec<_>>());
                } else {
                    for MuonTensor { weight, gradient, momentum, row_blocks, columns, seed, .. } in operands {
                        device.muon(&Muon { seed, ..UPDATE }, row_blocks, columns, weight, gradient, momentum);
                    }
                }
                let bytes = |b: &CpuBuffer| b.as_bytes().to_vec();
                buffers.iter().flat_map(|(weight, _, momentum)| [bytes(weight), bytes(momentum)]).collect()
            };
            let one_by_one = run(1, false);
            for threads in 1..=4 {
                assert!(run(threads, true) == one_by_one, "{threads} threads, momentum {format:?}");
            }
        }
    }
}
