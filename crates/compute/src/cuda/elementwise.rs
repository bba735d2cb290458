//! Activations, dropout, the embedding, rows: host sides of `activation.cu`, `dropout.cu`, `embedding.cu`, `memory.cu`.

use super::buffer::{CudaBuffer, CudaMatrix, little_endian};
use super::device::CudaDevice;
use super::driver::{Address, Argument, Launch};
use super::kernels::Family;
use super::quantized;
use super::scratch::Carver;
use crate::device::{ActivationKind, Dropout};
use crate::dropout_mask::Mask;
use crate::dtype::DType;

/// Threads of a block of the flat kernels.
const THREADS: usize = 256;

/// Elements that a thread takes: 16 bytes of the storage type.
fn wide(storage: DType) -> usize {
    16 / storage.size()
}

/// Blocks over `len` elements, `each` a thread.
pub(super) fn flat(len: usize, each: usize) -> Launch {
    Launch::linear(len.div_ceil(THREADS * each) as u32, THREADS as u32)
}

/// The flat kernels' name, and the one of their backward pass; `None` for those that work by rows.
fn flat_name(kind: ActivationKind) -> Option<[&'static str; 2]> {
    match kind {
        ActivationKind::Gelu => Some(["gelu", "gelu_backward"]),
        ActivationKind::ReluSquared => Some(["relu_squared", "relu_squared_backward"]),
        ActivationKind::SwiGlu => None,
    }
}

fn by_rows(tokens: usize, n_ff: usize, storage: DType) -> Launch {
    let grid = [tokens as u32, n_ff.div_ceil(THREADS * wide(storage)) as u32, 1];
    Launch { grid, block: [THREADS as u32, 1, 1], shared_bytes: 0 }
}

pub(super) fn activation(
    device: &CudaDevice,
    kind: ActivationKind,
    x: &CudaBuffer,
    (tokens, n_ff): (usize, usize),
    y: &mut CudaBuffer,
) {
    let (storage, len) = (x.dtype(), tokens * n_ff);
    let (x, y) = (x.input(storage, tokens * kind.input_width(n_ff)), y.output(storage, len));
    match flat_name(kind) {
        Some([forward, _]) => {
            let launch = flat(len, wide(storage));
            let arguments = arguments![x, y, len as u64];
            device.launch(Family::Activation, Some(storage), forward, launch, &arguments);
        }
        None => {
            let arguments = arguments![x, y, n_ff as u32];
            let launch = by_rows(tokens, n_ff, storage);
            device.launch(Family::Activation, Some(storage), "swiglu", launch, &arguments);
        }
    }
}

pub(super) fn activation_backward(
    device: &CudaDevice,
    kind: ActivationKind,
    x: &mut CudaBuffer,
    dy: &mut CudaBuffer,
    (tokens, n_ff): (usize, usize),
    again: bool,
) {
    let (storage, len) = (x.dtype(), tokens * n_ff);
    let (x, dy) = (x.output(storage, tokens * kind.input_width(n_ff)), dy.output(storage, len));
    let again = u32::from(again);
    match flat_name(kind) {
        Some([_, backward]) => {
            let arguments = arguments![x, dy, len as u64, again];
            device.launch(Family::Activation, Some(storage), backward, flat(len, wide(storage)), &arguments);
        }
        None => {
            let arguments = arguments![x, dy, n_ff as u32, again];
            let launch = by_rows(tokens, n_ff, storage);
            device.launch(Family::Activation, Some(storage), "swiglu_backward", launch, &arguments);
        }
    }
}

/// One of `dropout.cu`'s kernels over operands that precede the mask.
fn masked(device: &CudaDevice, storage: DType, entry: &'static str, operands: &[Address], len: usize, mask: Mask) {
    let mut arguments: Vec<Argument> = operands.iter().map(|at| Argument::from(*at)).collect();
    arguments.extend(arguments![len as u64, mask.key, mask.threshold, mask.scale]);
    device.launch(Family::Dropout, Some(storage), entry, flat(len, wide(storage)), &arguments);
}

pub(super) fn dropout_add(device: &CudaDevice, dropout: Dropout, branch: &CudaBuffer, len: usize, x: &mut CudaBuffer) {
    let storage = branch.dtype();
    let operands = [branch.input(storage, len), x.output(DType::F32, len)];
    masked(device, storage, "dropout_add", &operands, len, Mask::new(dropout));
}

pub(super) fn dropout(device: &CudaDevice, dropout: Dropout, len: usize, x: &mut CudaBuffer) {
    masked(device, DType::F32, "dropout", &[x.output(DType::F32, len)], len, Mask::new(dropout));
}

pub(super) fn branch_gradient(
    device: &CudaDevice,
    dropout: Option<Dropout>,
    dx: &CudaBuffer,
    len: usize,
    branch: &mut CudaBuffer,
) {
    let storage = branch.dtype();
    let operands = [dx.input(DType::F32, len), branch.output(storage, len)];
    masked(device, storage, "branch_gradient", &operands, len, dropout.map_or(Mask::NONE, Mask::new));
}

pub(super) fn embedding(device: &CudaDevice, table: &CudaMatrix, ids: &CudaBuffer, tokens: usize, x: &mut CudaBuffer) {
    if table.format.is_quantized() {
        let x = x.output(DType::F32, tokens * table.columns);
        return quantized::embedding(device, table, ids.input(DType::U32, tokens), tokens, x);
    }
    let arguments = arguments![
        table.address(),
        ids.input(DType::U32, tokens),
        x.output(DType::F32, tokens * table.columns),
        table.columns as u32,
    ];
    let launch = Launch::linear(tokens as u32, 128);
    device.launch(Family::Embedding, Some(table.dtype()), "embedding", launch, &arguments);
}

/// Scratch for the tokens in the order of their ids.
pub(super) fn token_order(carver: &mut Carver, tokens: usize) -> Address {
    carver.take(4 * tokens)
}

pub(super) fn embedding_backward(
    device: &CudaDevice,
    ids: &CudaBuffer,
    dx: &CudaBuffer,
    (tokens, width): (usize, usize),
    d_table: &mut CudaBuffer,
) {
    let ids = ids.input(DType::U32, tokens);
    let dx = dx.input(DType::F32, tokens * width);
    let d_table = d_table.output(DType::F32, d_table.len());
    // The gradient's kernels do not touch the storage type; f32 is as good as any.
    let launch = |entry, launch: Launch, arguments: &[_]| {
        device.launch(Family::Embedding, Some(DType::F32), entry, launch, arguments);
    };
    device.with_scratch(
        |carver| token_order(carver, tokens),
        |order| {
            let sorting = flat(tokens, 1).with_shared(4 * THREADS as u32);
            launch("embedding_order", sorting, &arguments![ids, order, tokens as u32]);
            let columns = if width.is_multiple_of(4) { 4 * 128 } else { 128 };
            let grid = [tokens as u32, width.div_ceil(columns) as u32, 1];
            let arguments = arguments![ids, order, dx, d_table, tokens as u32, width as u32,];
            launch("embedding_backward", Launch { grid, block: [128, 1, 1], shared_bytes: 0 }, &arguments);
        },
    );
}

/// Row numbers that fewer copies than this are made without: decoding gathers one row.
const FEW_ROWS: usize = 4;

/// Scratch for row numbers.
pub(super) fn row_numbers(carver: &mut Carver, rows: usize) -> Address {
    carver.take(4 * rows)
}

/// Copies or scatters rows by a list of numbers that is on the device.
pub(super) fn rows_by_number(
    device: &CudaDevice,
    entry: &'static str,
    storage: DType,
    [from, numbers, to]: [Address; 3],
    rows: usize,
    width: usize,
) {
    let arguments = arguments![from, numbers, to, width as u32];
    device.launch(Family::Memory, Some(storage), entry, Launch::linear(rows as u32, 128), &arguments);
}

pub(super) fn gather_rows(device: &CudaDevice, from: &CudaBuffer, width: usize, rows: &[u32], to: &mut CudaBuffer) {
    let dtype = from.dtype();
    let source_rows = from.len() / width.max(1);
    assert!(rows.iter().all(|row| (*row as usize) < source_rows), "a row beyond the buffer's {source_rows}");
    let (from, to) = (from.input(dtype, from.len()), to.output(dtype, rows.len() * width));
    if rows.len() <= FEW_ROWS {
        let bytes = width * dtype.size();
        for (i, row) in rows.iter().enumerate() {
            device.driver().copy(from.offset(*row as usize * bytes), to.offset(i * bytes), bytes);
        }
        return;
    }
    device.with_scratch(
        |carver| row_numbers(carver, rows.len()),
        |numbers| {
            device.driver().upload(numbers, &little_endian(rows, u32::to_le_bytes));
            rows_by_number(device, "gather_rows", dtype, [from, numbers, to], rows.len(), width);
        },
    );
}

/// Rounds f32 values into a matrix.
pub(super) fn pack(device: &CudaDevice, values: &CudaBuffer, matrix: &mut CudaMatrix) {
    if matrix.format.is_quantized() {
        return quantized::pack(device, values, matrix);
    }
    let len = matrix.rows * matrix.columns;
    let values = values.input(DType::F32, len);
    match matrix.dtype() {
        DType::F32 => device.driver().copy(values, matrix.address(), 4 * len),
        _ => round_to_bf16(device, values, matrix.address(), len),
    }
}

pub(super) fn round_to_bf16(device: &CudaDevice, from: Address, to: Address, len: usize) {
    let arguments = arguments![from, to, len as u64];
    device.launch(Family::Memory, Some(DType::Bf16), "round_to_bf16", flat(len, 8), &arguments);
}
