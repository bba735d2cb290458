//! The simulator's matrix product: a plain loop over `k`, in f32, as cuBLASLt is asked to accumulate.

use crate::cuda::driver::{Address, Matmul, Operand};
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
    let (left, right) = unsafe { (gather(a, m, k), gather(b, k, n)) };
    // SAFETY: the caller's.
    let bias = bias.map(|Address(at)| unsafe { std::slice::from_raw_parts(at as *const f32, n) });
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
            let mut value = sum + bias.map_or(0.0, |bias| bias[column]);
            if beta != 0.0 {
                // SAFETY: inside the extent.
                value += beta * unsafe { read(c, at) };
            }
            // SAFETY: inside the extent.
            unsafe { write(c, at, value) };
        }
    }
}
