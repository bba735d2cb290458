//! A step without waiting: losses and the gradient's norm stay on the GPU, decide there, and are read once at the end; one
//! launch updates every AdamW parameter. The host side of `tally.cu` and `tensors.cu`.

use std::collections::VecDeque;

use super::buffer::{CudaBuffer, CudaMatrix, Memory};
use super::device::CudaDevice;
use super::driver::{Address, Launch, Post};
use super::fp8;
use super::kernels::Family;
use super::optimizer::adamw_factors;
use super::scratch::Carver;
use crate::device::{AdamW, AdamWTensor, HeadResult, Rounding, StepTotals};
use crate::dtype::DType;
use crate::error::ComputeError;
use crate::moments::MomentFormat;
use crate::stochastic;

/// Bytes of `struct Tally` that belong to one step; what follows outlives it.
pub(super) const TALLY_BYTES: usize = 48;
/// Bytes of `struct Tally`.
pub(super) const WHOLE_TALLY_BYTES: usize = TALLY_BYTES + 8;

/// A step's totals on the GPU, and those of earlier steps on their way to the host.
pub struct CudaTally {
    memory: Memory,
    posted: VecDeque<Post>,
}

impl CudaTally {
    pub(super) fn new(device: &CudaDevice) -> Result<Self, ComputeError> {
        Ok(CudaTally { memory: device.memory("a step's totals", WHOLE_TALLY_BYTES)?, posted: VecDeque::new() })
    }

    pub(super) fn address(&self) -> Address {
        self.memory.address()
    }

    pub(super) fn post(&mut self, device: &CudaDevice) {
        self.posted.push_back(device.driver().post(self.address(), TALLY_BYTES));
    }

    pub(super) fn collect(&mut self, device: &CudaDevice) -> StepTotals {
        let mut bytes = [0; TALLY_BYTES];
        device.driver().collect(self.posted.pop_front().expect("totals that were posted"), &mut bytes);
        totals(&bytes)
    }
}

/// Waits for what was queued, and reads a tally.
pub(super) fn read(device: &CudaDevice, tally: Address) -> StepTotals {
    let mut bytes = [0; TALLY_BYTES];
    device.driver().download(tally, &mut bytes);
    totals(&bytes)
}

fn totals(bytes: &[u8; TALLY_BYTES]) -> StepTotals {
    let [loss, weight, counted, correct, norm, _] = *bytes.as_chunks::<8>().0 else { unreachable!("48 bytes") };
    let head = HeadResult {
        weighted_loss: f64::from_le_bytes(loss),
        weight: f64::from_le_bytes(weight),
        counted: u64::from_le_bytes(counted),
        correct: u64::from_le_bytes(correct),
    };
    StepTotals { head, gradient_norm: f64::from_le_bytes(norm) }
}

/// Bytes of `struct Tensor`.
const TENSOR_BYTES: usize = 64;
/// Tensors that scratch is reserved for; more make it grow, once.
const USUAL_TENSORS: usize = 1024;
/// Elements that a block of AdamW takes.
const ADAMW_BLOCK: usize = 4096;
/// Most blocks of the norm, but for one more a tensor.
const NORM_BLOCKS: usize = 8192;

/// The least a block of the norm takes.
const NORM_BLOCK: usize = 1 << 14;

/// One entry of the table.
#[derive(Default)]
struct Entry {
    pointers: [u64; 5],
    len: usize,
    rounding: u16,
    moments: u16,
    keep: f32,
    key: u32,
}

/// The table of some tensors as bytes, and the blocks of `each` elements that they take.
fn table(entries: &[Entry], each: usize) -> (Vec<u8>, u32) {
    let (mut bytes, mut blocks) = (Vec::with_capacity(entries.len() * TENSOR_BYTES), 0_u32);
    for entry in entries {
        for pointer in entry.pointers {
            bytes.extend(pointer.to_le_bytes());
        }
        bytes.extend((entry.len as u64).to_le_bytes());
        bytes.extend(blocks.to_le_bytes());
        bytes.extend(entry.rounding.to_le_bytes());
        bytes.extend(entry.moments.to_le_bytes());
        bytes.extend(entry.keep.to_le_bytes());
        bytes.extend(entry.key.to_le_bytes());
        blocks += u32::try_from(entry.len.div_ceil(each)).expect("a tensor of less than 2^32 blocks");
    }
    (bytes, blocks)
}

/// Scratch: the table, and partial sums of `blocks` blocks.
fn layout(carver: &mut Carver, tensors: usize, blocks: usize) -> [Address; 2] {
    [carver.take(tensors * TENSOR_BYTES), carver.take(8 * blocks)]
}

/// Scratch of the steps of any usual model.
pub(super) fn usual_layout(carver: &mut Carver) -> [Address; 2] {
    layout(carver, USUAL_TENSORS, NORM_BLOCKS + USUAL_TENSORS)
}

pub(super) fn clip(device: &CudaDevice, gradients: &[&CudaBuffer], max_norm: f64, tally: &CudaTally) {
    let entry = |gradient: &&CudaBuffer| {
        let at = gradient.input(DType::F32, gradient.len());
        Entry { pointers: [0, at.0, 0, 0, 0], len: gradient.len(), ..Entry::default() }
    };
    let entries: Vec<Entry> = gradients.iter().map(entry).collect();
    let total: usize = entries.iter().map(|entry| entry.len).sum();
    // A function of the lengths alone, and a multiple of four so that pieces stay aligned.
    let each = total.div_ceil(NORM_BLOCKS).max(NORM_BLOCK).next_multiple_of(4);
    let (bytes, blocks) = table(&entries, each);
    device.with_scratch(
        |carver| layout(carver, entries.len(), blocks as usize),
        |[tensors, partial]| {
            let shared = 8 * 256;
            device.driver().upload(tensors, &bytes);
            let arguments = arguments![tensors, entries.len() as u32, each as u64, partial];
            let launch = Launch::linear(blocks, 256).with_shared(shared);
            device.launch(Family::Squares, None, "squares_of_tensors", launch, &arguments);
            let arguments = arguments![partial, blocks, max_norm as f32, tally.address()];
            let launch = Launch::linear(1, 256).with_shared(shared);
            device.launch(Family::Squares, None, "clip", launch, &arguments);
        },
    );
}

/// One entry of AdamW's table: the moments' format is that of their buffers.
fn adamw_entry(update: &AdamW, tensor: AdamWTensor<'_, CudaBuffer, CudaMatrix>) -> Entry {
    let AdamWTensor { weight, matrix, gradient, moments, weight_decay, seed } = tensor;
    let len = weight.len();
    if let Some(matrix) = &matrix {
        assert_eq!(matrix.rows * matrix.columns, len, "a matrix of its weight's size");
    }
    let format = MomentFormat::of(moments[0].dtype());
    let [m, v] = moments.map(|moment| moment.output(format.dtype(), format.buffer_len(len)).0);
    let is_bf16 = matrix.as_ref().is_some_and(|matrix| matrix.dtype() == DType::Bf16);
    let (w, g) = (weight.output(DType::F32, len).0, gradient.input(DType::F32, len).0);
    Entry {
        pointers: [w, g, m, v, matrix.map_or(Address::NULL, |matrix| matrix.address()).0],
        len,
        rounding: match update.weight_rounding {
            _ if !is_bf16 => 0,
            Rounding::Nearest => 1,
            Rounding::Stochastic => 2,
        },
        moments: match format {
            MomentFormat::F32 => 0,
            MomentFormat::Bf16 => 1,
            MomentFormat::Bits8 => 2,
        },
        keep: 1.0 - update.lr * weight_decay,
        key: stochastic::key(seed),
    }
}

/// `tally` may be null.
pub(super) fn adamw_all(
    device: &CudaDevice,
    update: &AdamW,
    tensors: Vec<AdamWTensor<'_, CudaBuffer, CudaMatrix>>,
    tally: Address,
) {
    // 8-bit matrices need the largest of the new weights first.
    let mut in_fp8 = Vec::new();
    let entries: Vec<Entry> = tensors
        .into_iter()
        .map(|mut tensor| {
            let codes = tensor.matrix.as_ref().and_then(|m| Some(((m.rows, m.columns), m.fp8()?)));
            if let Some((size, codes)) = codes {
                in_fp8.push((tensor.weight.input(DType::F32, size.0 * size.1), size, codes));
                tensor.matrix = None;
            }
            adamw_entry(update, tensor)
        })
        .collect();
    let (bytes, blocks) = table(&entries, ADAMW_BLOCK);
    let [rate, root] = adamw_factors(update);
    device.with_scratch(
        |carver| layout(carver, entries.len(), 0),
        |[tensors, _]| {
            device.driver().upload(tensors, &bytes);
            let AdamW { beta1, beta2, eps, gradient_scale, .. } = *update;
            let count = entries.len() as u32;
            let arguments = arguments![tensors, count, tally, gradient_scale, beta1, beta2, eps, rate, root];
            device.launch(Family::AdamW, None, "adamw_all", Launch::linear(blocks, 256), &arguments);
        },
    );
    for (weight, size, codes) in &in_fp8 {
        fp8::pack(device, *weight, *size, codes);
    }
}
