//! LayerNorm and RMSNorm: the host side of `norm.cu`.

use super::buffer::CudaBuffer;
use super::device::CudaDevice;
use super::driver::{Address, Launch};
use super::kernels::Family;
use super::linear::{Chunks, add_partials};
use super::scratch::Carver;
use crate::device::{Norm, NormGradient, NormKind};
use crate::dtype::DType;

/// Rows of a block: one a warp.
const ROWS: usize = 8;

fn centered(norm: &Norm<'_, CudaBuffer>) -> u32 {
    u32::from(norm.kind == NormKind::LayerNorm)
}

fn parameters(norm: &Norm<'_, CudaBuffer>, width: usize) -> (Address, Address) {
    (norm.weight.input(DType::F32, width), norm.bias.map_or(Address::NULL, |b| b.input(DType::F32, width)))
}

fn rows(tokens: usize) -> Launch {
    Launch::linear(tokens.div_ceil(ROWS) as u32, 32 * ROWS as u32)
}

pub(super) fn forward(
    device: &CudaDevice,
    norm: &Norm<'_, CudaBuffer>,
    x: &CudaBuffer,
    (tokens, width): (usize, usize),
    y: &mut CudaBuffer,
    stats: &mut CudaBuffer,
) {
    let (weight, bias) = parameters(norm, width);
    let storage = y.dtype();
    let arguments = arguments![
        x.input(DType::F32, tokens * width),
        weight,
        bias,
        y.output(storage, tokens * width),
        stats.output(DType::F32, 2 * tokens),
        tokens as u32,
        width as u32,
        norm.eps,
        centered(norm),
    ];
    device.launch(Family::Norm, Some(storage), "norm_forward", rows(tokens), &arguments);
}

pub(super) fn again(
    device: &CudaDevice,
    norm: &Norm<'_, CudaBuffer>,
    x: &CudaBuffer,
    stats: &CudaBuffer,
    (tokens, width): (usize, usize),
    y: &mut CudaBuffer,
) {
    let (weight, bias) = parameters(norm, width);
    let storage = y.dtype();
    let arguments = arguments![
        x.input(DType::F32, tokens * width),
        weight,
        bias,
        y.output(storage, tokens * width),
        stats.input(DType::F32, 2 * tokens),
        tokens as u32,
        width as u32,
    ];
    device.launch(Family::Norm, Some(storage), "norm_again", rows(tokens), &arguments);
}

/// Widest row that `norm_backward` holds in registers.
const NARROW: usize = 1024;
/// Widest row that `norm_backward_wide` does.
const HELD: usize = 2048;
/// Shared memory that every GPU gives a block.
const SHARED: usize = 48 << 10;

/// How these two are launched: a function of the sizes alone, as sums depend on it.
struct Fused {
    warps: usize,
    rows: usize,
    blocks: usize,
}

impl Fused {
    /// `None` for rows that it does not hold.
    fn of(tokens: usize, width: usize) -> Option<Self> {
        /// Enough for a large GPU's multiprocessors; each is a row of partial sums.
        const MOST_BLOCKS: usize = 512;
        const LEAST_ROWS: usize = 16;
        if !width.is_multiple_of(4) || width > HELD {
            return None;
        }
        let warps = [8, 4, 2].into_iter().find(|warps| warps * 2 * 4 * width <= SHARED)?;
        let rows = tokens.div_ceil(MOST_BLOCKS).max(LEAST_ROWS);
        Some(Fused { warps, rows, blocks: tokens.div_ceil(rows) })
    }
}

/// `[blocks or chunks][2][width]`: sums for the weight, then for the bias.
pub(super) fn partial_sums(carver: &mut Carver, tokens: usize, width: usize) -> Address {
    let rows = Fused::of(tokens, width).map_or(Chunks::of(tokens).count as usize, |fused| fused.blocks);
    carver.take(4 * rows * 2 * width)
}

#[allow(clippy::too_many_arguments)] // The operands of the operation.
pub(super) fn backward(
    device: &CudaDevice,
    norm: &Norm<'_, CudaBuffer>,
    x: &CudaBuffer,
    stats: &CudaBuffer,
    dy: &CudaBuffer,
    (tokens, width): (usize, usize),
    dx: &mut CudaBuffer,
    gradient: NormGradient<'_, CudaBuffer>,
) {
    let (weight, _) = parameters(norm, width);
    let storage = dy.dtype();
    let x = x.input(DType::F32, tokens * width);
    let stats = stats.input(DType::F32, 2 * tokens);
    let dy = dy.input(storage, tokens * width);
    let dx = dx.output(DType::F32, tokens * width);
    let d_weight = gradient.weight.output(DType::F32, width);
    let d_bias = gradient.bias.map(|b| b.output(DType::F32, width));
    let (tokens_u32, width_u32) = (tokens as u32, width as u32);
    device.with_scratch(
        |carver| partial_sums(carver, tokens, width),
        |partial| {
            let launch = |entry, launch, arguments: &[_]| {
                device.launch(Family::Norm, Some(storage), entry, launch, arguments);
            };
            let sums = if let Some(Fused { warps, rows, blocks }) = Fused::of(tokens, width) {
                let arguments =
                    arguments![x, weight, stats, dy, dx, partial, tokens_u32, width_u32, centered(norm), rows as u32,];
                let shared = (warps * 2 * 4 * width) as u32;
                let grid = Launch::linear(blocks as u32, 32 * warps as u32).with_shared(shared);
                launch(if width <= NARROW { "norm_backward" } else { "norm_backward_wide" }, grid, &arguments);
                blocks as u32
            } else {
                let arguments = arguments![x, weight, stats, dy, dx, tokens_u32, width_u32, centered(norm),];
                launch("norm_backward_input", rows(tokens), &arguments);
                let chunks = Chunks::of(tokens);
                let grid = [width.div_ceil(32) as u32, chunks.count, 1];
                let grid = Launch { grid, block: [256, 1, 1], shared_bytes: 2 * 4 * 256 };
                let arguments = arguments![x, stats, dy, partial, tokens_u32, width_u32, chunks.rows,];
                launch("norm_backward_parameters", grid, &arguments);
                chunks.count
            };
            add_partials(device, partial, (sums, 2 * width), width, d_weight, d_bias);
        },
    );
}
