//! Sum of squares, AdamW's factors and Muon: host sides of `squares.cu` and `muon.cu`.

use super::buffer::CudaBuffer;
use super::device::CudaDevice;
use super::driver::{Address, Argument, Launch, Matmul};
use super::elementwise::{flat, round_to_bf16};
use super::kernels::Family;
use super::linear::{operand, transposed};
use super::scratch::Carver;
use crate::device::{AdamW, Muon};
use crate::dtype::DType;
use crate::stochastic;

/// Threads of the reducing kernels, as there.
const THREADS: u32 = 256;
/// Most partial sums of squares.
const PIECES: usize = 2048;

/// Scratch for partial sums, f64.
pub(super) fn square_partials(carver: &mut Carver) -> Address {
    carver.take(8 * PIECES)
}

/// Leaves the sum of squares of f32 values at `total`, f64.
fn squares_on_device(device: &CudaDevice, x: Address, len: usize, partial: Address, total: Address) {
    // A function of the length alone, and a multiple of four so that pieces stay aligned.
    let piece = len.div_ceil(PIECES).max(4096).next_multiple_of(4);
    let pieces = len.div_ceil(piece) as u32;
    let shared = 8 * THREADS;
    let arguments = arguments![x, len as u64, piece as u64, partial];
    let launch = Launch::linear(pieces, THREADS).with_shared(shared);
    device.launch(Family::Squares, None, "squares_of_pieces", launch, &arguments);
    let arguments = arguments![partial, pieces, total];
    let launch = Launch::linear(1, THREADS).with_shared(shared);
    device.launch(Family::Squares, None, "sum_of_partials", launch, &arguments);
}

pub(super) fn sum_of_squares(device: &CudaDevice, buffer: &CudaBuffer) -> f64 {
    let x = buffer.input(DType::F32, buffer.len());
    device.with_results(|total| {
        device.with_scratch(square_partials, |partial| squares_on_device(device, x, buffer.len(), partial, total));
        let mut bytes = [0; 8];
        device.driver().download(total, &mut bytes);
        f64::from_le_bytes(bytes)
    })
}

/// The learning rate over the first moment's bias correction, and one over the root of the second's.
pub(super) fn adamw_factors(update: &AdamW) -> [f32; 2] {
    let correction = |beta: f32| 1.0 - f64::from(beta).powf(update.step as f64);
    let rate = f64::from(update.lr) / correction(update.beta1);
    [rate as f32, (1.0 / correction(update.beta2).sqrt()) as f32]
}

/// Newton-Schulz coefficients of Jordan's Muon: singular values go to about 1 in five steps.
const NEWTON_SCHULZ: (f32, f32, f32) = (3.4445, -4.7750, 2.0315);
const STEPS: usize = 5;

/// Scratch of a Muon step for matrices of up to `rows x columns`, or the other way round.
pub(super) struct MuonLayout {
    partial: Address,
    squares: Address,
    x: Address,
    rounded: Address,
    gram: Address,
    square: Address,
    gram_rounded: Address,
    polynomial: Address,
}

pub(super) fn muon_layout(carver: &mut Carver, rows: usize, columns: usize) -> MuonLayout {
    let (len, n) = (rows * columns, rows.min(columns));
    MuonLayout {
        partial: square_partials(carver),
        squares: carver.take(8),
        x: carver.take(4 * len),
        rounded: carver.take(2 * len),
        gram: carver.take(4 * n * n),
        square: carver.take(4 * n * n),
        gram_rounded: carver.take(2 * n * n),
        polynomial: carver.take(2 * n * n),
    }
}

/// `tally` may be null.
pub(super) fn muon(
    device: &CudaDevice,
    update: &Muon,
    (row_blocks, columns): (&[usize], usize),
    [weight, momentum]: [&mut CudaBuffer; 2],
    gradient: &CudaBuffer,
    tally: Address,
) {
    let len = row_blocks.iter().sum::<usize>() * columns;
    let dtype = momentum.dtype();
    let operands = [weight.output(DType::F32, len), gradient.input(DType::F32, len)];
    let momentum = momentum.output(dtype, len);
    let mut first = 0;
    for &rows in row_blocks {
        let at = first * columns;
        let [weight, gradient] = operands.map(|operand| operand.offset(4 * at));
        let part = Part { weight, gradient, momentum: momentum.offset(dtype.size() * at), dtype, at };
        device.with_scratch(
            |carver| muon_layout(carver, rows, columns),
            |scratch| block(device, update, (rows, columns), part, tally, &scratch),
        );
        first += rows;
    }
}

/// One matrix of those that lie in a tensor.
struct Part {
    weight: Address,
    gradient: Address,
    momentum: Address,
    /// Of the momentum.
    dtype: DType,
    /// Index of the first element in the tensor.
    at: usize,
}

/// One matrix. The direction's root mean square is made about `0.2`, AdamW's usual size (Liu et al. 2025), so that one
/// learning rate serves both. The iteration runs in bf16, as is usual.
fn block(
    device: &CudaDevice,
    update: &Muon,
    (rows, columns): (usize, usize),
    Part { weight, gradient, momentum, dtype, at }: Part,
    tally: Address,
    scratch: &MuonLayout,
) {
    let launch = |entry, len: usize, arguments: &[Argument]| {
        device.launch(Family::Muon, None, entry, flat(len, 1), arguments);
    };
    // The Gram matrix is taken on the shorter side: X Xᵀ for wide matrices, Xᵀ X for tall ones.
    let tall = rows > columns;
    let n = rows.min(columns);
    let (len, square_len) = (rows * columns, n * n);
    let MuonLayout { partial, squares, x, rounded, gram, square, gram_rounded, polynomial } = *scratch;

    let (beta, key) = (update.momentum, stochastic::key(update.seed));
    let arguments = arguments![gradient, momentum, x, len as u64, beta, update.gradient_scale, tally, key, at as u64];
    let entry = match dtype {
        DType::F32 => "muon_momentum",
        DType::Bf16 => "muon_momentum_bf16",
        DType::U32 => panic!("indices used as a momentum"),
    };
    launch(entry, len, &arguments);
    squares_on_device(device, x, len, partial, squares);
    let (keep, linear, cubic) = NEWTON_SCHULZ;
    let r = operand(rounded, DType::Bf16, columns);
    let product = |m, n, k, a, b, c, beta| device.matmul(&Matmul { m, n, k, a, b, c, beta, bias: None });
    for step in 0..STEPS {
        let squares = if step == 0 { squares } else { Address::NULL };
        launch("muon_round", len, &arguments![x, rounded, squares, len as u64, keep]);
        let to_gram = operand(gram, DType::F32, n);
        if tall {
            product(n, n, rows, transposed(r), r, to_gram, 0.0);
        } else {
            product(n, n, columns, r, transposed(r), to_gram, 0.0);
        }
        round_to_bf16(device, gram, gram_rounded, square_len);
        let g = operand(gram_rounded, DType::Bf16, n);
        product(n, n, n, g, g, operand(square, DType::F32, n), 0.0);
        let arguments = arguments![gram, square, polynomial, square_len as u64, linear, cubic];
        launch("muon_polynomial", square_len, &arguments);
        let p = operand(polynomial, DType::Bf16, n);
        let to_x = operand(x, DType::F32, columns);
        if tall {
            product(rows, columns, n, r, p, to_x, 1.0);
        } else {
            product(rows, columns, n, p, r, to_x, 1.0);
        }
    }
    let rate = update.lr * 0.2 * (rows.max(columns) as f32).sqrt();
    let keep = 1.0 - update.lr * update.weight_decay;
    launch("muon_apply", len, &arguments![weight, x, len as u64, keep, rate, tally]);
}
