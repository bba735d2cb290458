//! Quantised weights on the GPU: their layout, restored rows, and products of few tokens (`quantized.cu`, `matvec.cu`).
//!
//! Codes are chosen on the host, so that every device has the same; the layout is the kernels'.

use super::buffer::{CudaBuffer, CudaMatrix, f32_values};
use super::device::CudaDevice;
use super::driver::{Address, Argument, Launch};
use super::kernels::Family;
use super::scratch::Carver;
use crate::dtype::DType;
use crate::matrix_format::MatrixFormat;
use crate::quantize::{self, BLOCK};

/// Most tokens that are multiplied a row of the weight at a time.
pub(super) const FEW_TOKENS: usize = 8;
/// Rows of a block of those kernels, a warp each.
const ROWS: usize = 4;
/// Bytes of restored rows: enough that a product fills the GPU.
const CHUNK: usize = 32 << 20;
/// Fewest rows restored at a time.
const LEAST_ROWS: usize = 64;

/// Where a product's result goes, as `write_sums` numbers it.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    F32 = 0,
    Storage = 1,
    Add = 2,
}

/// Bytes of the codes, and of the headers behind them.
pub(super) fn bytes(format: MatrixFormat, rows: usize, columns: usize) -> [usize; 2] {
    let blocks = rows.saturating_mul(columns.div_ceil(BLOCK));
    let codes = match format {
        MatrixFormat::Q8 => BLOCK,
        MatrixFormat::Q4 => BLOCK / 2,
        MatrixFormat::F32 | MatrixFormat::Bf16 => unreachable!("plain weights have no codes"),
    };
    [blocks.saturating_mul(codes), blocks.saturating_mul(2)]
}

fn defines(format: MatrixFormat) -> &'static [(&'static str, u32)] {
    if format == MatrixFormat::Q8 { &[("BITS", 8)] } else { &[("BITS", 4)] }
}

/// Codes and headers.
fn addresses(matrix: &CudaMatrix) -> [Address; 2] {
    let [codes, _] = bytes(matrix.format, matrix.rows, matrix.columns);
    [matrix.address(), matrix.address().offset(codes)]
}

/// The bytes of a matrix: codes, then headers.
fn lay_out(format: MatrixFormat, values: &[f32], columns: usize) -> Vec<u8> {
    let blocks = quantize::blocks(format, values, columns);
    let mut bytes = Vec::new();
    for block in &blocks {
        if format == MatrixFormat::Q8 {
            bytes.extend_from_slice(&block.codes);
        } else {
            for group in block.codes.as_chunks::<8>().0 {
                bytes.extend((0..4).map(|i| group[i] | group[i + 4] << 4));
            }
        }
    }
    bytes.extend(blocks.iter().flat_map(|block| block.header.to_le_bytes()));
    bytes
}

/// Quantises f32 values into a matrix.
pub(super) fn pack(device: &CudaDevice, values: &CudaBuffer, matrix: &CudaMatrix) {
    let bytes = values.read(matrix.rows * matrix.columns);
    let values: Vec<f32> = f32_values(&bytes).collect();
    device.driver().upload(matrix.address(), &lay_out(matrix.format, &values, matrix.columns));
}

/// `x[t, :] = table[ids[t], :]`.
pub(super) fn embedding(device: &CudaDevice, table: &CudaMatrix, ids: Address, tokens: usize, x: Address) {
    let [codes, headers] = addresses(table);
    let arguments = arguments![codes, headers, ids, x, table.columns as u32];
    let launch = Launch::linear(tokens as u32, 128);
    let storage = Some(table.dtype());
    device.launch_with(Family::Quantized, storage, defines(table.format), "embedding", launch, &arguments);
}

/// A product of at most [`FEW_TOKENS`] tokens.
pub(super) fn few(
    device: &CudaDevice,
    x: Address,
    weight: &CudaMatrix,
    bias: Option<Address>,
    tokens: usize,
    (out, kind): (Address, Kind),
) {
    let entry = match tokens {
        0 | 1 => "matvec_1",
        2 => "matvec_2",
        3 | 4 => "matvec_4",
        _ => "matvec_8",
    };
    let launch = match tokens {
        0 => Launch::linear(0, 128),
        _ => Launch::linear(weight.rows.div_ceil(ROWS) as u32, 128),
    };
    let rest = arguments![
        bias.unwrap_or(Address::NULL),
        out,
        kind as u32,
        tokens as u32,
        weight.rows as u32,
        weight.columns as u32,
    ];
    let storage = Some(weight.dtype());
    if weight.format.is_quantized() {
        let [codes, headers] = addresses(weight);
        let arguments = [&arguments![x, codes, headers][..], &rest].concat();
        device.launch_with(Family::Quantized, storage, defines(weight.format), entry, launch, &arguments);
    } else {
        let arguments: Vec<Argument> = [&arguments![x, weight.address()][..], &rest].concat();
        device.launch(Family::Matvec, storage, entry, launch, &arguments);
    }
}

/// Rows restored at a time.
fn chunk_rows(columns: usize) -> usize {
    (CHUNK / (2 * columns.max(1)) / LEAST_ROWS * LEAST_ROWS).max(LEAST_ROWS)
}

/// Scratch for restored rows of this many columns and fewer.
pub(super) fn restored_rows(carver: &mut Carver, columns: usize) -> Address {
    carver.take(CHUNK.max(2 * LEAST_ROWS * columns))
}

/// Restores the rows chunk by chunk into `scratch` and hands each to `consume`: its first row and how many there are.
pub(super) fn by_chunks(
    device: &CudaDevice,
    weight: &CudaMatrix,
    scratch: Address,
    mut consume: impl FnMut(usize, usize),
) {
    assert_eq!(weight.dtype(), DType::Bf16, "quantised weights are restored as bf16");
    let [codes, headers] = addresses(weight);
    let chunk = chunk_rows(weight.columns);
    for first in (0..weight.rows).step_by(chunk) {
        let rows = chunk.min(weight.rows - first);
        let arguments = arguments![codes, headers, scratch, first as u32, weight.columns as u32];
        let launch = Launch::linear(rows as u32, 128);
        let storage = Some(weight.dtype());
        device.launch_with(Family::Quantized, storage, defines(weight.format), "restore", launch, &arguments);
        consume(first, rows);
    }
}
