//! Every operation of a device against its [`reference`](crate::reference), on fresh random inputs.
//!
//! Called by `casallm selftest` and by this crate's tests, for any [`Device`]. What an operation overwrites is NaN
//! beforehand, what it accumulates into holds known values, inputs end in NaN and outputs in a guard that must
//! survive: an element that is not computed, computed from the wrong place or written past the end shows. Each case
//! runs twice and must agree with itself to the bit. The reference sees inputs already rounded to the storage type, so
//! that a difference can only come from the order of additions and from rounding inside and on the way out;
//! [`Tolerance`] says how much that may be.

mod activation;
mod attention;
mod check;
mod elementwise;
mod fp8;
mod head;
mod linear;
mod memory;
mod moments;
mod norm;
mod optimizer;
mod qkv;
mod quantized;
mod random;
mod stage;

pub use check::{Check, Tolerance};

use crate::device::Device;
use crate::dtype::DType;
use random::Random;
use stage::Trial;

/// Operations that are tested together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Transfers, copies, the sum of squares. In all types at once.
    Memory,
    /// Linear layers.
    Linear,
    /// Linear layers, embedding and head of quantised weights. In bf16 alone.
    Quantized,
    /// Linear layers with 8-bit operands. In bf16 alone, where the device has them.
    Fp8,
    /// Attention.
    Attention,
    /// LayerNorm and RMSNorm.
    Norm,
    /// The fused head.
    Head,
    /// Queries, keys and values.
    Qkv,
    /// The MLP's non-linearities.
    Activation,
    /// The embedding.
    Embedding,
    /// Dropout and the rounding of gradients.
    Dropout,
    /// AdamW and Muon. In f32 alone.
    Optimizer,
}

/// Parts that run in each storage type of activations.
const OF_ACTIVATIONS: [Part; 8] = [
    Part::Linear,
    Part::Attention,
    Part::Norm,
    Part::Head,
    Part::Qkv,
    Part::Activation,
    Part::Embedding,
    Part::Dropout,
];

impl Part {
    /// The storage types of activations that it is run in.
    pub fn dtypes(self) -> &'static [DType] {
        match self {
            Part::Memory | Part::Optimizer => &[DType::F32],
            Part::Quantized | Part::Fp8 => &[DType::Bf16],
            _ => &[DType::F32, DType::Bf16],
        }
    }
}

/// Runs every operation of the trait. The same seed gives the same inputs on every device.
pub fn run<D: Device>(device: &D, seed: u64) -> Vec<Check> {
    let mut trial = Trial::new(device, Random::new(seed));
    run_in(&mut trial, Part::Memory, DType::F32);
    for dtype in [DType::F32, DType::Bf16] {
        for part in OF_ACTIVATIONS {
            run_in(&mut trial, part, dtype);
        }
    }
    run_in(&mut trial, Part::Quantized, DType::Bf16);
    run_in(&mut trial, Part::Fp8, DType::Bf16);
    run_in(&mut trial, Part::Optimizer, DType::F32);
    trial.into_checks()
}

/// Runs one part with activations stored as `dtype`.
pub fn run_part<D: Device>(device: &D, seed: u64, part: Part, dtype: DType) -> Vec<Check> {
    let mut trial = Trial::new(device, Random::new(seed));
    run_in(&mut trial, part, dtype);
    trial.into_checks()
}

fn run_in<D: Device>(trial: &mut Trial<'_, D>, part: Part, dtype: DType) {
    match part {
        Part::Memory => memory::run(trial),
        Part::Linear => linear::run(trial, dtype),
        Part::Quantized => quantized::run(trial),
        Part::Fp8 => fp8::run(trial),
        Part::Attention => attention::run(trial, dtype),
        Part::Norm => norm::run(trial, dtype),
        Part::Head => head::run(trial, dtype),
        Part::Qkv => qkv::run(trial, dtype),
        Part::Activation => activation::run(trial, dtype),
        Part::Embedding => elementwise::embedding(trial, dtype),
        Part::Dropout => elementwise::dropout(trial, dtype),
        Part::Optimizer => optimizer::run(trial),
    }
}
