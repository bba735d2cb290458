//! Devices and kernels: memory and the operations of a transformer, forward and backward.
//!
//! Owns everything below the model: the [`Device`] trait that `model` and `train` are written against, the CPU device
//! with its instruction sets, and the naive [`mod@reference`] of every operation. Knows no model.

mod cpu;
pub mod cuda;
mod device;
mod dropout_mask;
mod dtype;
mod error;
mod matrix_format;
pub mod memory;
pub mod quantize;
pub mod reference;
pub mod roofline;
pub mod selftest;
mod tally;

pub use cpu::isa::Isa;
pub use cpu::{CpuBuffer, CpuDevice, CpuMatrix};
pub use device::*;
pub use dtype::{Bf16, DType, Element, Storage};
pub use error::ComputeError;
pub use matrix_format::MatrixFormat;
pub use tally::HostTally;
