//! The simulator's matrix products: a plain loop over `k`, in f32, as cuBLASLt is asked to accumulate.

use crate::cuda::driver::{Address, Fp8Matmul, Fp8Operand, Matmul, Operand};
use crate::dtype::{Bf16, DType};

/// Bytes from an operand's first element to the end of its last; 0 for an empty one.
pub(super) fn extent(operand: &Operand, rows: usize, columns: usize) -> usize {
    let (rows, columns) = if operand.transposed { (columns, rows) } else { (rows, columns) };
    if rows == 0 || columns == 0 {
        return 0;
    }
    ((rows - 1) * operand.row_stride + columns) * operand.dtype.size()
}

/// An operand as f32, `[rows, columns]` without gaps.
///
/// # Safety
/// [`extent`] bytes at its address can be read.
unsafe fn gather(operand: &Operand, rows: usize, columns: usize) -> Vec<f32> {
    let (row_step, column_step) = if operand.transposed { (1, operand.row_stride) } else { (operand.row_stride, 1) };
    let mut values = Vec::with_capacity(rows * columns);
    for row in 0..rows {
        for column in 0..columns {
            // SAFETY: inside the extent.
            values.push(unsafe { read(operand, row * row_step + column * column_step) });
        }
    }
    values
}

unsafe fn read(operand: &Operand, index: usize) -> f32 {
    let at = operand.address.0 as *const u8;
    // SAFETY: the caller's.
    unsafe {
        match operand.dtype {
            DType::F32 => at.cast::<f32>().add(index).read_unaligned(),
            DType::Bf16 => at.cast::<Bf16>().add(index).read_unaligned().to_f32(),
            DType::U32 => panic!("indices used as a matrix"),
        }
    }
}

unsafe fn write(operand: &Operand, index: usize, value: f32) {
    let at = operand.address.0 as *mut u8;
    // SAFETY: the caller's.
    unsafe {
        match operand.dtype {
            DType::F32 => at.cast::<f32>().add(index).write_unaligned(value),
            DType::Bf16 => at.cast::<Bf16>().add(index).write_unaligned(Bf16::from_f32(value)),
            DType::U32 => panic!("indices used as a matrix"),
        }
    }
}

/// Computes a product.
///
/// # Safety
/// [`extent`] bytes of each operand, and `n` floats at `bias`, are memory that no one else uses now.
pub(super) unsafe fn run(matmul: &Matmul) {
    let Matmul { m, n, k, ref a, ref b, ref c, beta, bias } = *matmul;
    // SAFETY: the caller's.
    unsafe {
        let (left, right) = (gather(a, m, k), gather(b, k, n));
        multiply((&left, &right), (m, n, k), 1.0, bias, (c, beta, c.dtype == DType::Bf16));
    }
}

/// Writes the sum of each row of the left operand.
///
/// # Safety
/// As [`run`]; `m` floats at `sums` as well.
pub(super) unsafe fn row_sums(matmul: &Matmul, sums: Address) {
    // SAFETY: the caller's.
    let left = unsafe { gather(&matmul.a, matmul.m, matmul.k) };
    for row in 0..matmul.m {
        let sum: f32 = left[row * matmul.k..][..matmul.k].iter().sum();
        // SAFETY: the caller's.
        unsafe { (sums.0 as *mut f32).add(row).write_unaligned(sum) };
    }
}

/// Computes a product of 8-bit operands: of what the codes stand for, then times the scales.
///
/// # Safety
/// As [`run`]; a float at each scale.
pub(super) unsafe fn run_fp8(matmul: &Fp8Matmul) {
    let Fp8Matmul { m, n, k, ref a, ref b, ref c, beta, bias } = *matmul;
    // SAFETY: the caller's.
    unsafe {
        let right = decode(b, n * k);
        // `[k, n]`, as the loop below wants it.
        let right: Vec<f32> = (0..k * n).map(|at| right[at % n * k + at / n]).collect();
        let scale = *(a.scale.0 as *const f32) * *(b.scale.0 as *const f32);
        multiply((&decode(a, m * k), &right), (m, n, k), scale, bias, (c, beta, true));
    }
}

/// # Safety
/// So many codes can be read.
unsafe fn decode(operand: &Fp8Operand, len: usize) -> Vec<f32> {
    // SAFETY: the caller's.
    let codes = unsafe { std::slice::from_raw_parts(operand.address.0 as *const u8, len) };
    codes.iter().map(|code| operand.format.decode(*code)).collect()
}

/// `c = beta c + scale left right + bias`, the bias rounded to bf16 on request.
///
/// # Safety
/// As [`run`].
unsafe fn multiply(
    (left, right): (&[f32], &[f32]),
    (m, n, k): (usize, usize, usize),
    scale: f32,
    bias: Option<Address>,
    (c, beta, short_bias): (&Operand, f32, bool),
) {
    // SAFETY: the caller's.
    let bias = bias.map(|Address(at)| unsafe { std::slice::from_raw_parts(at as *const f32, n) });
    let shorten = |x: f32| if short_bias { Bf16::from_f32(x).to_f32() } else { x };
    let mut sums = vec![0.0_f32; n];
    for row in 0..m {
        sums.fill(0.0);
        for (i, x) in left[row * k..][..k].iter().enumerate() {
            for (sum, y) in sums.iter_mut().zip(&right[i * n..][..n]) {
                *sum += x * y;
            }
        }
        for (column, sum) in sums.iter().enumerate() {
            let at = row * c.row_stride + column;
            let mut value = scale * sum + bias.map_or(0.0, |bias| shorten(bias[column]));
            if beta != 0.0 {
                // SAFETY: inside the extent.
                value += beta * unsafe { read(c, at) };
            }
            // SAFETY: inside the extent.
            unsafe { write(c, at, value) };
        }
    }
}
