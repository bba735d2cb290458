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

/// `[chunks][2][width]`: sums for the weight, then for the bias.
pub(super) fn partial_sums(carver: &mut Carver, tokens: usize, width: usize) -> Address {
    carver.take(4 * Chunks::of(tokens).count as usize * 2 * width)
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
    let arguments = arguments![
        x,
        weight,
        stats,
        dy,
        dx.output(DType::F32, tokens * width),
        tokens as u32,
        width as u32,
        centered(norm),
    ];
    device.launch(Family::Norm, Some(storage), "norm_backward_input", rows(tokens), &arguments);

    let d_weight = gradient.weight.output(DType::F32, width);
    let d_bias = gradient.bias.map(|b| b.output(DType::F32, width));
    let chunks = Chunks::of(tokens);
    device.with_scratch(
        |carver| partial_sums(carver, tokens, width),
        |partial| {
            let grid = [width.div_ceil(32) as u32, chunks.count, 1];
            let launch = Launch { grid, block: [256, 1, 1], shared_bytes: 2 * 4 * 256 };
            let arguments = arguments![x, stats, dy, partial, tokens as u32, width as u32, chunks.rows,];
            device.launch(Family::Norm, Some(storage), "norm_backward_parameters", launch, &arguments);
            add_partials(device, partial, chunks.count, 2 * width, width, d_weight);
            if let Some(d_bias) = d_bias {
                add_partials(device, partial.offset(4 * width), chunks.count, 2 * width, width, d_bias);
            }
        },
    );
}
