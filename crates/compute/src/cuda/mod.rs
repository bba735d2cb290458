//! NVIDIA GPUs.

/// The arguments of a launch, in the order of the kernel's signature.
macro_rules! arguments {
    ($($value:expr),* $(,)?) => { [$($crate::cuda::driver::Argument::from($value)),*] };
}

mod attend;
pub mod attention;
mod buffer;
pub mod calls;
mod device;
pub mod driver;
mod elementwise;
mod fp8;
mod head;
pub mod kernels;
mod linear;
mod norm;
pub mod nvidia;
mod optimizer;
pub mod planned;
pub mod probe;
mod qkv;
mod quantized;
mod recorder;
mod scratch;
pub mod simulator;
mod step;
#[cfg(test)]
mod tests;

pub use buffer::{CudaBuffer, CudaMatrix};
pub use device::CudaDevice;
pub use step::CudaTally;
