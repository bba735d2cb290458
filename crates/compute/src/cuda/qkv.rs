//! From `qkv` rows to queries, keys and values, and back: the host side of `qkv.cu`.

use super::buffer::CudaBuffer;
use super::device::CudaDevice;
use super::driver::{Address, Launch};
use super::kernels::{Family, head_dim_define};
use super::linear::add_partials;
use super::scratch::Carver;
use crate::device::{AttentionShape, QkvSplit};
use crate::dtype::DType;

/// As in the kernel.
const THREADS: usize = 256;
/// Tokens of a block in the backward pass with a norm, whose gradient has a partial sum for each block.
const SUMMED_TOKENS: usize = 32;
/// Without one: as many blocks as keep a large GPU busy.
const TOKENS: usize = 8;

/// Heads that a block works on at once; mirrors the kernel's constants.
fn groups(head_dim: usize) -> usize {
    let half = head_dim / 2;
    let neighbours = [8, 4, 1].into_iter().find(|n| half.is_multiple_of(*n)).unwrap_or(1);
    let pieces = half / neighbours;
    THREADS / pieces.next_power_of_two().min(32)
}

/// Addresses that both directions read.
struct Tables {
    weights: [Address; 2],
    rest: [Address; 4],
    eps: f32,
}

fn tables(split: &QkvSplit<'_, CudaBuffer>, tokens: usize) -> Tables {
    let AttentionShape { head_dim, n_head, n_kv_head } = split.shape;
    assert!(head_dim.is_multiple_of(2), "a head is two halves");
    assert!(tokens * (n_head + 2 * n_kv_head) <= u32::MAX as usize, "more heads in a batch than fit 32 bits");
    let weights = match &split.norm {
        Some(norm) => [norm.q_weight, norm.k_weight].map(|w| w.input(DType::F32, head_dim)),
        None => [Address::NULL; 2],
    };
    let rest = [
        split.cos.input(DType::F32, split.cos.len()),
        split.sin.input(DType::F32, split.sin.len()),
        split.positions.input(DType::U32, tokens),
        split.slots.input(DType::U32, tokens),
    ];
    Tables { weights, rest, eps: split.norm.as_ref().map_or(0.0, |norm| norm.eps) }
}

fn row(shape: AttentionShape) -> usize {
    (shape.n_head + 2 * shape.n_kv_head) * shape.head_dim
}

pub(super) fn forward(
    device: &CudaDevice,
    split: &QkvSplit<'_, CudaBuffer>,
    qkv: &CudaBuffer,
    tokens: usize,
    [q, k, v]: [&mut CudaBuffer; 3],
) {
    let AttentionShape { n_head, n_kv_head, head_dim } = split.shape;
    let storage = qkv.dtype();
    let Tables { weights: [q_weight, k_weight], rest: [cos, sin, positions, slots], eps } = tables(split, tokens);
    let arguments = arguments![
        qkv.input(storage, tokens * row(split.shape)),
        q_weight,
        k_weight,
        cos,
        sin,
        positions,
        slots,
        q.output(storage, tokens * n_head * head_dim),
        k.output(storage, k.len()),
        v.output(storage, v.len()),
        tokens as u32,
        n_head as u32,
        n_kv_head as u32,
        eps,
    ];
    let items = tokens * (n_head + 2 * n_kv_head);
    let launch = Launch::linear(items.div_ceil(groups(head_dim)) as u32, THREADS as u32);
    device.launch_with(Family::Qkv, Some(storage), head_dim_define(head_dim), "split_qkv", launch, &arguments);
}

/// `[blocks][2][head_dim]`.
pub(super) fn partial_sums(carver: &mut Carver, tokens: usize, head_dim: usize) -> Address {
    carver.take(4 * tokens.div_ceil(SUMMED_TOKENS) * 2 * head_dim)
}

pub(super) fn backward(
    device: &CudaDevice,
    split: &QkvSplit<'_, CudaBuffer>,
    qkv: &mut CudaBuffer,
    [dq, dk, dv]: [&CudaBuffer; 3],
    tokens: usize,
    d_norm: Option<(&mut CudaBuffer, &mut CudaBuffer)>,
) {
    let AttentionShape { n_head, n_kv_head, head_dim } = split.shape;
    let storage = qkv.dtype();
    let Tables { weights: [q_weight, k_weight], rest: [cos, sin, positions, slots], eps } = tables(split, tokens);
    let block_tokens = if split.norm.is_some() { SUMMED_TOKENS } else { TOKENS };
    let blocks = tokens.div_ceil(block_tokens) as u32;
    let qkv = qkv.output(storage, tokens * row(split.shape));
    device.with_scratch(
        |carver| partial_sums(carver, tokens, head_dim),
        |partial| {
            let arguments = arguments![
                qkv,
                q_weight,
                k_weight,
                cos,
                sin,
                positions,
                slots,
                dq.input(storage, tokens * n_head * head_dim),
                dk.input(storage, dk.len()),
                dv.input(storage, dv.len()),
                partial,
                tokens as u32,
                block_tokens as u32,
                n_head as u32,
                n_kv_head as u32,
                eps,
            ];
            let shared = if split.norm.is_some() { 4 * groups(head_dim) * 2 * head_dim } else { 0 };
            let launch = Launch::linear(blocks, THREADS as u32).with_shared(shared as u32);
            let define = head_dim_define(head_dim);
            device.launch_with(Family::Qkv, Some(storage), define, "split_qkv_backward", launch, &arguments);
            if let (Some(_), Some((d_q, d_k))) = (&split.norm, d_norm) {
                let outs = [d_q, d_k].map(|d| d.output(DType::F32, head_dim));
                add_partials(device, partial, (blocks, 2 * head_dim), head_dim, outs[0], Some(outs[1]));
            }
        },
    );
}
