//! NVIDIA GPUs.

pub mod attention;
pub mod driver;
pub mod kernels;
pub mod probe;
#[cfg(any(test, feature = "simulator"))]
pub mod simulator;
