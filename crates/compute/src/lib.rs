//! Devices and kernels: memory and the operations of a transformer, forward and backward.
//!
//! Owns everything below the model: the [`Device`] trait that `model` and `train` are written against, the CPU device
//! with its instruction sets, and the naive [`mod@reference`] of every operation. Knows no model.

// What serves only the kernels of x86 is left unused elsewhere.
#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code, unused_macros, unused_mut, unused_variables))]

mod cache_format;
mod cpu;
pub mod cuda;
mod device;
mod dropout_mask;
mod dtype;
mod error;
mod fp8;
mod matrix_format;
pub mod memory;
mod moments;
pub mod quantize;
pub mod reference;
pub mod roofline;
pub mod selftest;
mod stochastic;
mod tally;

pub use cache_format::CacheFormat;
pub use cpu::isa::Isa;
pub use cpu::{CpuBuffer, CpuDevice, CpuMatrix};
pub use device::*;
pub use dtype::{Bf16, DType, Element, Storage};
pub use error::ComputeError;
pub use fp8::Fp8;
pub use matrix_format::MatrixFormat;
pub use moments::{MOMENT_BLOCK, MomentFormat};
pub use tally::HostTally;
