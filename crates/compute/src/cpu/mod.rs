//! The CPU device: a pool of threads at the instruction set chosen at start, and scratch memory. Its operations are in
//! `operations`, their kernels in the modules beside it.

mod activation;
mod adamw;
#[cfg(target_arch = "aarch64")]
mod arm;
mod attention;
mod buffer;
mod elementwise;
pub(crate) mod gemm;
mod head;
pub(crate) mod isa;
mod linear;
mod math;
mod memory;
mod muon;
mod norm;
mod operations;
pub(crate) mod pool;
mod qkv;
mod quantized;
#[cfg(target_os = "linux")]
mod regions;
mod row_sums;
mod scratch;

use std::sync::atomic::{AtomicU64, Ordering};

pub use buffer::CpuBuffer;
pub use linear::CpuMatrix;

use crate::dtype::DType;
use crate::error::ComputeError;
use isa::Isa;
use pool::Pool;
use scratch::Scratch;

/// The processor as a [`Device`](crate::device::Device).
pub struct CpuDevice {
    pool: Pool,
    scratch: Scratch,
    allocated: AtomicU64,
}

impl CpuDevice {
    /// A device of that many threads at that instruction set.
    ///
    /// # Errors
    /// No threads or too many, or the system refuses them; the processor lacks the instruction set.
    pub fn new(threads: usize, isa: Isa) -> Result<Self, ComputeError> {
        // The kernels trust the level: running an instruction that is not there would be undefined.
        Isa::parse(isa.name())?;
        Ok(CpuDevice { pool: Pool::new(threads, isa)?, scratch: Scratch::default(), allocated: AtomicU64::new(0) })
    }

    /// A device of every processor at the best instruction set, or what `CASALLM_ISA` names.
    ///
    /// # Errors
    /// As [`CpuDevice::new`] and [`Isa::detect`].
    pub fn detect() -> Result<Self, ComputeError> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self::new(threads, Isa::detect()?)
    }

    /// Bytes of scratch held; constant once
    /// [`Device::reserve_scratch`](crate::device::Device::reserve_scratch) has run.
    pub fn scratch_held(&self) -> usize {
        self.scratch.held(&self.pool)
    }

    fn with_scratch<R>(&self, bytes: usize, body: impl FnOnce(&mut [u8]) -> R) -> R {
        self.scratch.with(bytes, &self.allocated, body)
    }

    /// A zeroed buffer for the caller's own use.
    ///
    /// # Errors
    /// The memory cannot be had.
    pub fn buffer(&self, name: &str, dtype: DType, len: usize) -> Result<CpuBuffer, ComputeError> {
        let buffer = CpuBuffer::new(name, dtype, len)?;
        self.allocated.fetch_add((len * dtype.size()) as u64, Ordering::Relaxed);
        Ok(buffer)
    }

    /// Worker threads.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.pool.isa()
    }
}
