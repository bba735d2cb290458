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
mod head;
mod linear;
mod memory;
mod norm;
mod optimizer;
mod qkv;
mod random;
mod stage;

pub use check::{Check, Tolerance};

use crate::device::Device;
use crate::dtype::DType;
use random::Random;
use stage::Trial;

/// Runs every operation of the trait. The same seed gives the same inputs on every device.
pub fn run<D: Device>(device: &D, seed: u64) -> Vec<Check> {
    let mut trial = Trial::new(device, Random::new(seed));
    memory::run(&mut trial);
    for dtype in [DType::F32, DType::Bf16] {
        linear::run(&mut trial, dtype);
        attention::run(&mut trial, dtype);
        norm::run(&mut trial, dtype);
        head::run(&mut trial, dtype);
        qkv::run(&mut trial, dtype);
        activation::run(&mut trial, dtype);
        elementwise::run(&mut trial, dtype);
    }
    optimizer::run(&mut trial);
    trial.into_checks()
}
