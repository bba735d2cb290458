//! Linear layers whose products take 8-bit operands: the host side of `fp8.cu`.
//!
//! Activations are E4M3, gradients E5M2, weights E4M3 in both orientations (the one layout that every GPU has sums over
//! neighbours of either operand), each with one scale a tensor. The weight gradient stays in bf16: its 8-bit operands would have to be
//! transposed as well, which costs 5 bytes for every element of `dy` and `x` and repays that only where layers are
//! several thousand wide (docs/GPU.md); and it is what the optimizer accumulates.

use super::buffer::CudaBuffer;
use super::device::CudaDevice;
use super::driver::{Address, Fp8Matmul, Fp8Operand, Launch, Operand};
use super::kernels::Family;
use super::scratch::Carver;
use crate::device::Out;
use crate::dtype::DType;
use crate::fp8::Fp8;

/// As in `fp8.cu`.
const PIECES: usize = 1024;
const RUN: usize = 16;
const ROUNDS: usize = 4;
const TILE: usize = 64;
const TILE_STRIDE: usize = 68;
const THREADS: usize = 256;
/// Shared memory of the reductions: a float a warp.
const REDUCTION_BYTES: u32 = 32;

/// Scratch of one operand.
pub(super) struct Layout {
    partial: Address,
    scale: Address,
    codes: Address,
}

/// Scratch for `len` codes.
pub(super) fn layout(carver: &mut Carver, len: usize) -> Layout {
    Layout { partial: carver.take(4 * PIECES), scale: carver.take(4), codes: carver.take(len) }
}

/// Leaves the largest magnitudes of pieces; their number, a function of the length alone.
fn largest(device: &CudaDevice, entry: &'static str, x: Address, len: usize, partial: Address) -> u32 {
    let piece = len.div_ceil(PIECES).max(RUN * THREADS).next_multiple_of(RUN);
    let pieces = len.div_ceil(piece) as u32;
    let launch = Launch::linear(pieces, THREADS as u32).with_shared(REDUCTION_BYTES);
    device.launch(Family::Fp8, None, entry, launch, &arguments![x, len as u64, piece as u64, partial]);
    pieces
}

/// Codes of `len` bf16 values, a multiple of 16.
fn quantise(device: &CudaDevice, format: Fp8, x: Address, len: usize, to: &Layout) -> Fp8Operand {
    let entry = match format {
        Fp8::E4m3 => "quantise_e4m3",
        Fp8::E5m2 => "quantise_e5m2",
    };
    let pieces = largest(device, "largest_bf16", x, len, to.partial);
    let blocks = len.div_ceil(RUN * ROUNDS * THREADS) as u32;
    let launch = Launch::linear(blocks, THREADS as u32).with_shared(REDUCTION_BYTES);
    let arguments = arguments![x, len as u64, to.partial, pieces, to.codes, to.scale];
    device.launch(Family::Fp8, None, entry, launch, &arguments);
    Fp8Operand { address: to.codes, format, scale: to.scale }
}

/// A weight as products take it.
pub(super) struct Weight {
    /// `[rows, columns]`.
    pub(super) codes: Fp8Operand,
    /// `[columns, rows]`; null in a matrix for inference.
    pub(super) transposed: Fp8Operand,
}

/// Refreshes a matrix from its f32 values.
pub(super) fn pack(device: &CudaDevice, values: Address, (rows, columns): (usize, usize), to: &Weight) {
    device.with_scratch(
        |carver| carver.take(4 * PIECES),
        |partial| {
            let pieces = largest(device, "largest_f32", values, rows * columns, partial);
            let grid = [columns.div_ceil(TILE) as u32, rows.div_ceil(TILE) as u32, 1];
            let shared_bytes = REDUCTION_BYTES + (TILE * TILE_STRIDE) as u32;
            let (codes, transposed, scale) = (to.codes.address, to.transposed.address, to.codes.scale);
            let (rows, columns) = (rows as u32, columns as u32);
            let arguments = arguments![values, rows, columns, partial, pieces, codes, transposed, scale];
            let launch = Launch { grid, block: [THREADS as u32, 1, 1], shared_bytes };
            device.launch(Family::Fp8, None, "quantise_matrix", launch, &arguments);
        },
    );
}

/// `out = x · weightᵀ + bias`.
pub(super) fn forward(
    device: &CudaDevice,
    x: &CudaBuffer,
    (weight, rows, columns): (&Weight, usize, usize),
    bias: Option<&CudaBuffer>,
    tokens: usize,
    out: Out<'_, CudaBuffer>,
) {
    let (c, dtype, beta) = match out {
        Out::Add(out) => (out.output(DType::F32, tokens * rows), DType::F32, 1.0),
        Out::Store(out) => (out.output(out.dtype(), tokens * rows), out.dtype(), 0.0),
    };
    let x = x.input(DType::Bf16, tokens * columns);
    let bias = bias.map(|bias| bias.input(DType::F32, rows));
    let c = Operand { address: c, dtype, transposed: false, row_stride: rows };
    multiply(device, (Fp8::E4m3, x), weight.codes, (tokens, rows, columns), (c, beta), bias);
}

/// `dx = dy · weight`.
pub(super) fn backward_input(
    device: &CudaDevice,
    dy: &CudaBuffer,
    (weight, rows, columns): (&Weight, usize, usize),
    tokens: usize,
    dx: &mut CudaBuffer,
) {
    assert_ne!(weight.transposed.address, Address::NULL, "a matrix for inference has no input gradient");
    let dy = dy.input(DType::Bf16, tokens * rows);
    let address = dx.output(DType::Bf16, tokens * columns);
    let c = Operand { address, dtype: DType::Bf16, transposed: false, row_stride: columns };
    multiply(device, (Fp8::E5m2, dy), weight.transposed, (tokens, columns, rows), (c, 0.0), None);
}

/// `c = beta c + a bᵀ + bias`, `a` being `[m, k]` in bf16.
fn multiply(
    device: &CudaDevice,
    (format, a): (Fp8, Address),
    b: Fp8Operand,
    (m, n, k): (usize, usize, usize),
    (c, beta): (Operand, f32),
    bias: Option<Address>,
) {
    if m == 0 {
        return;
    }
    device.with_scratch(
        |carver| layout(carver, m * k),
        |scratch| {
            let a = quantise(device, format, a, m * k, &scratch);
            device.driver().matmul_fp8(&Fp8Matmul { m, n, k, a, b, c, beta, bias });
        },
    );
}

#[cfg(test)]
mod tests;
