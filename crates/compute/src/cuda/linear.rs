//! Linear layers as matrix products, and sums over tokens in two stages of fixed order.

use super::buffer::{CudaBuffer, CudaMatrix};
use super::device::CudaDevice;
use super::driver::{Address, Launch, Matmul, Operand};
use super::fp8;
use super::kernels::Family;
use super::quantized::{self, Kind};
use super::scratch::Carver;
use crate::device::Out;
use crate::dtype::DType;

/// A row-major matrix without gaps.
pub(super) fn operand(address: Address, dtype: DType, columns: usize) -> Operand {
    Operand { address, dtype, transposed: false, row_stride: columns }
}

/// The same memory read as the transposed matrix.
pub(super) fn transposed(operand: Operand) -> Operand {
    Operand { transposed: !operand.transposed, ..operand }
}

/// `out = x · weightᵀ + bias`.
pub(super) fn forward(
    device: &CudaDevice,
    x: &CudaBuffer,
    weight: &CudaMatrix,
    bias: Option<&CudaBuffer>,
    tokens: usize,
    out: Out<'_, CudaBuffer>,
) {
    let (rows, columns) = (weight.rows, weight.columns);
    if let Some(weight) = weight.fp8() {
        return fp8::forward(device, x, (&weight, rows, columns), bias, tokens, out);
    }
    let (c, dtype, beta) = match out {
        Out::Add(out) => (out.output(DType::F32, tokens * rows), DType::F32, 1.0),
        Out::Store(out) => (out.output(out.dtype(), tokens * rows), out.dtype(), 0.0),
    };
    let x = x.input(weight.dtype(), tokens * columns);
    let bias = bias.map(|b| b.input(DType::F32, rows));
    if tokens <= quantized::FEW_TOKENS {
        let kind = match (beta, dtype) {
            (1.0, _) => Kind::Add,
            (_, DType::F32) => Kind::F32,
            _ => Kind::Storage,
        };
        return quantized::few(device, x, weight, bias, tokens, (c, kind));
    }
    let product = |b: Address, first: usize, n: usize| {
        device.matmul(&Matmul {
            m: tokens,
            n,
            k: columns,
            a: operand(x, weight.dtype(), columns),
            b: transposed(operand(b, weight.dtype(), columns)),
            c: operand(c.offset(first * dtype.size()), dtype, rows),
            beta,
            bias: bias.map(|bias| bias.offset(4 * first)),
        });
    };
    if !weight.format.is_quantized() {
        return product(weight.address(), 0, rows);
    }
    device.with_scratch(
        |carver| quantized::restored_rows(carver, columns),
        |restored| quantized::by_chunks(device, weight, restored, |first, rows| product(restored, first, rows)),
    );
}

/// `dx = dy · weight`.
pub(super) fn backward_input(
    device: &CudaDevice,
    dy: &CudaBuffer,
    weight: &CudaMatrix,
    tokens: usize,
    dx: &mut CudaBuffer,
) {
    let (rows, columns, dtype) = (weight.rows, weight.columns, weight.dtype());
    if let Some(weight) = weight.fp8() {
        return fp8::backward_input(device, dy, (&weight, rows, columns), tokens, dx);
    }
    device.matmul(&Matmul {
        m: tokens,
        n: columns,
        k: rows,
        a: operand(dy.input(dtype, tokens * rows), dtype, rows),
        b: operand(weight.address(), dtype, columns),
        c: operand(dx.output(dtype, tokens * columns), dtype, columns),
        beta: 0.0,
        bias: None,
    });
}

/// `d_weight += dyᵀ · x`, `d_bias += sum_t dy[t, :]`.
pub(super) fn backward_weight(
    device: &CudaDevice,
    dy: &CudaBuffer,
    x: &CudaBuffer,
    tokens: usize,
    (rows, columns): (usize, usize),
    d_weight: &mut CudaBuffer,
    d_bias: Option<&mut CudaBuffer>,
) {
    let dtype = dy.dtype();
    let dy = dy.input(dtype, tokens * rows);
    let matmul = Matmul {
        m: rows,
        n: columns,
        k: tokens,
        a: transposed(operand(dy, dtype, rows)),
        b: operand(x.input(dtype, tokens * columns), dtype, columns),
        c: operand(d_weight.output(DType::F32, rows * columns), DType::F32, columns),
        beta: 1.0,
        bias: None,
    };
    let Some(d_bias) = d_bias else {
        device.matmul(&matmul);
        return;
    };
    let d_bias = d_bias.output(DType::F32, rows);
    let chunks = Chunks::of(tokens);
    device.with_scratch(
        |carver| partial_sums(carver, tokens, rows),
        |partial| {
            // The product sums what it reads anyway, where the library offers that. It overwrites, so that the sums are added
            // by a kernel in either case.
            if device.matmul_with_row_sums(&matmul, partial) {
                add_partials(device, partial, (1, rows), rows, d_bias, None);
            } else {
                device.matmul(&matmul);
                let grid = Launch { grid: [rows.div_ceil(32) as u32, chunks.count, 1], ..SUMS };
                let arguments = arguments![dy, partial, tokens as u32, rows as u32, chunks.rows,];
                device.launch(Family::Columns, Some(dtype), "column_sums", grid, &arguments);
                add_partials(device, partial, (chunks.count, rows), rows, d_bias, None);
            }
        },
    );
}

/// A block of the kernels that add up columns: 8 warps and a float a thread.
const SUMS: Launch = Launch { grid: [0; 3], block: [256, 1, 1], shared_bytes: 4 * 256 };

/// Scratch for one partial sum a chunk of tokens.
pub(super) fn partial_sums(carver: &mut Carver, tokens: usize, width: usize) -> Address {
    carver.take(4 * Chunks::of(tokens).count as usize * width)
}

/// How rows are cut for a sum over them: a function of their number alone.
#[derive(Clone, Copy)]
pub(super) struct Chunks {
    pub(super) count: u32,
    /// Of each chunk but the last, which may be shorter.
    pub(super) rows: u32,
}

impl Chunks {
    pub(super) fn of(rows: usize) -> Self {
        const MOST: usize = 128;
        const LEAST_ROWS: usize = 64;
        let each = rows.div_ceil(MOST).max(LEAST_ROWS);
        Chunks { count: rows.div_ceil(each) as u32, rows: each as u32 }
    }
}

/// `out[c] += sum over chunks of partial[chunk * stride + c]`; for a second output, of what lies `width` behind.
pub(super) fn add_partials(
    device: &CudaDevice,
    partial: Address,
    (chunks, stride): (u32, usize),
    width: usize,
    out: Address,
    second: Option<Address>,
) {
    let grid = [width.div_ceil(32) as u32, 1 + u32::from(second.is_some()), 1];
    let launch = Launch { grid, block: [1024, 1, 1], shared_bytes: 4 * 1024 };
    let second = second.unwrap_or(Address::NULL);
    let arguments = arguments![partial, out, second, chunks, stride as u32, width as u32];
    // Partial sums are f32 whatever the storage type of what they are sums of.
    device.launch(Family::Columns, Some(DType::F32), "add_partials", launch, &arguments);
}
