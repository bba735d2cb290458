//! A GPU that is not there: it has memory to be counted and computes nothing.
//!
//! [`super::CudaDevice`] over it lays out weights, activations and scratch as over a real GPU, by the same code, so that a
//! plan for a card that one does not have cannot differ from what the card would be asked for.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::calls::Calls;
use super::driver::{Address, Argument, Driver, Fp8Matmul, Graph, GraphDriver, Kernel, Launch, Matmul, Post};
use crate::device::DeviceInfo;
use crate::error::ComputeError;

/// What a process takes of a GPU beside what it asks for: the context, compiled kernels, the workspace of cuBLASLt (32 MiB,
/// 64 from Hopper on), rounding of allocations. An estimate.
pub const OVERHEAD: u64 = 768 << 20;

/// A GPU of which only the memory is known.
pub struct PlannedGpu {
    memory: u64,
    used: AtomicU64,
    asked: AtomicBool,
}

impl PlannedGpu {
    /// A GPU with so many bytes of memory, [`OVERHEAD`] included.
    pub fn new(memory: u64) -> Self {
        PlannedGpu { memory, used: AtomicU64::new(0), asked: AtomicBool::new(false) }
    }
}

impl Driver for PlannedGpu {
    fn info(&self) -> DeviceInfo {
        DeviceInfo { name: "planned GPU".into(), isa: "sm_80 or later".into(), threads: 1 }
    }

    fn multiprocessors(&self) -> usize {
        1
    }

    fn shared_memory_limit(&self) -> usize {
        usize::MAX
    }

    fn available_bytes(&self) -> Option<u64> {
        Some(self.memory.saturating_sub(OVERHEAD).saturating_sub(self.used.load(Ordering::Relaxed)))
    }

    fn allocate(&self, bytes: usize) -> Result<Address, ComputeError> {
        if self.available_bytes() < Some(bytes as u64) {
            return Err(ComputeError::OutOfMemory { name: "planned GPU".into(), bytes });
        }
        // Nobody looks behind the address; none is that of another allocation.
        Ok(Address(self.used.fetch_add(bytes as u64, Ordering::Relaxed) + 256))
    }

    fn free(&self, _: Address, bytes: usize) {
        self.used.fetch_sub(bytes as u64, Ordering::Relaxed);
    }

    fn allocate_host(&self, _: usize) -> Result<Address, ComputeError> {
        // This machine's memory is not the one that is planned for.
        Ok(Address(256))
    }

    fn free_host(&self, _: Address, _: usize) {}

    fn upload(&self, _: Address, _: &[u8]) {}

    fn download(&self, _: Address, bytes: &mut [u8]) {
        // Zeros must not be taken for a result.
        self.asked.store(true, Ordering::Relaxed);
        bytes.fill(0);
    }

    fn post(&self, _: Address, _: usize) -> Post {
        Post(0)
    }

    fn collect(&self, _: Post, bytes: &mut [u8]) {
        self.download(Address::NULL, bytes);
    }

    fn copy(&self, _: Address, _: Address, _: usize) {}

    fn zero(&self, _: Address, _: usize) {}

    fn launch(&self, _: Kernel, _: Launch, _: &[Argument]) {}

    fn matmul(&self, _: &Matmul) {}

    fn matmul_with_row_sums(&self, _: &Matmul, _: Address) -> bool {
        true
    }

    fn knows_row_sums(&self, _: &Matmul) -> Option<bool> {
        Some(true)
    }

    fn has_fp8(&self) -> bool {
        true
    }

    fn matmul_fp8(&self, _: &Fp8Matmul) {}

    fn synchronize(&self) {}

    fn check(&self) -> Result<(), ComputeError> {
        match self.asked.load(Ordering::Relaxed) {
            false => Ok(()),
            true => Err(ComputeError::Gpu {
                doing: "reading a result".into(),
                reason: "a planned GPU computes nothing; choose a device that is there".into(),
            }),
        }
    }
}

/// It makes no graphs: nothing is to be started.
impl GraphDriver for PlannedGpu {
    fn build(&self, _: &Calls) -> Result<Option<Graph>, String> {
        Ok(None)
    }

    fn change(&self, _: &Graph, _: usize, _: &[Argument]) -> Result<(), String> {
        Err("a planned GPU has no graphs".into())
    }

    fn start(&self, _: &Graph) {}

    fn discard(&self, _: Graph) {}
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::cuda::CudaDevice;
    use crate::device::{Device, ScratchShape};
    use crate::dtype::DType;
    use crate::matrix_format::MatrixFormat;

    fn shape(head_dim: usize) -> ScratchShape {
        ScratchShape {
            dtype: DType::Bf16,
            matrices: MatrixFormat::Bf16,
            tokens: 16,
            width: 3 * head_dim,
            vocab_size: 32,
            n_embd: head_dim,
            sequence: 16,
            n_head: 1,
            n_kv_head: 1,
            head_dim,
            training: true,
        }
    }

    #[test]
    fn memory_is_counted_and_refused_and_nothing_is_taken_for_a_result() {
        let device = CudaDevice::new(Arc::new(PlannedGpu::new(OVERHEAD + 4096))).unwrap();
        let free = device.available_bytes().unwrap();
        let buffer = device.allocate("a", DType::F32, 512).unwrap();
        assert_eq!(device.available_bytes(), Some(free - 2048));
        let refused = device.allocate("b", DType::F32, 512).err().unwrap();
        assert!(matches!(&refused, ComputeError::OutOfMemory { name, bytes: 2048 } if name == "b"), "{refused}");
        device.check().unwrap();
        device.read_f32(&buffer, 0, &mut [0.0]);
        assert!(matches!(device.check(), Err(ComputeError::Gpu { .. })));
        drop(buffer);
        assert_eq!(device.available_bytes(), Some(free));
        assert_eq!(PlannedGpu::new(1).available_bytes(), Some(0));
    }

    /// Between two runs in one process, as two trials of a sweep are, the memory is what it was before the first.
    #[test]
    fn scratch_that_is_given_back_can_be_had_again() {
        let device = CudaDevice::new(Arc::new(PlannedGpu::new(OVERHEAD + (1 << 30)))).unwrap();
        let (free, allocated) = (device.available_bytes().unwrap(), device.allocated_bytes());
        let shape = shape(64);
        device.reserve_scratch(&shape).unwrap();
        let bytes = device.scratch_bytes(&shape);
        assert!(bytes > 0);
        assert_eq!(device.available_bytes(), Some(free - bytes));
        assert_eq!(device.allocated_bytes(), allocated + bytes);
        device.release_scratch();
        assert_eq!((device.available_bytes(), device.allocated_bytes()), (Some(free), allocated));
    }

    /// A model's config may have heads of up to 512, and a processor takes them.
    #[test]
    fn heads_that_attention_has_no_kernel_for_are_refused_before_anything_runs() {
        let device = CudaDevice::new(Arc::new(PlannedGpu::new(OVERHEAD + (1 << 30)))).unwrap();
        let reserve = |head_dim| device.reserve_scratch(&shape(head_dim));
        reserve(256).unwrap();
        let error = reserve(258).unwrap_err();
        assert!(matches!(error, ComputeError::WideHeads { head_dim: 258, most: 256, .. }), "{error}");
        assert!(error.to_string().contains("n_head") && error.to_string().contains("--device cpu"), "{error}");
    }
}
