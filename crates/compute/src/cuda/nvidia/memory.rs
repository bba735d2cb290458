//! Device memory: the driver's pool, which hands memory out and takes it back in the order of the stream, so that
//! freeing waits for nothing. Where a system has no pools, plain allocation. And memory of the host, locked and mapped, that
//! kernels read and write through the bus.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Mutex, PoisonError};

use cudarc::driver::sys as cu;

use super::error::CudaError;
use super::session::Session;
use crate::cuda::driver::Address;

/// Hands out memory of one GPU.
pub(super) struct Memory {
    /// The device's default pool, where there is one.
    pool: Option<cu::CUmemoryPool>,
    /// The host's memory by its address on the device: the host's own address, which is the same wherever addresses are
    /// unified.
    host: Mutex<HashMap<Address, usize>>,
}

// SAFETY: a pool may be used from any thread; the driver guards it.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// Memory of the session's GPU.
    ///
    /// # Errors
    /// The driver refuses.
    pub(super) fn new(session: &Session) -> Result<Self, CudaError> {
        use cu::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED;
        if session.attribute(CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED)? == 0 {
            return Ok(Memory { pool: None, host: Mutex::default() });
        }
        let mut pool = std::ptr::null_mut();
        // SAFETY: writes the handle of the device's own pool, which is never destroyed.
        let got = unsafe { (session.library.cuda.cuDeviceGetDefaultMemPool)(&raw mut pool, session.device) };
        session.result("cuDeviceGetDefaultMemPool", got)?;
        // Keep what is given back: by default a pool returns it to the system at every synchronisation.
        let mut threshold = u64::MAX;
        // SAFETY: this attribute is a `cuuint64_t`, which the call reads.
        let set = unsafe {
            (session.library.cuda.cuMemPoolSetAttribute)(
                pool,
                cu::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD,
                (&raw mut threshold).cast(),
            )
        };
        session.result("cuMemPoolSetAttribute", set)?;
        Ok(Memory { pool: Some(pool), host: Mutex::default() })
    }

    /// Memory with whatever is in it.
    ///
    /// # Errors
    /// There is not so much.
    pub(super) fn allocate(&self, session: &Session, bytes: usize) -> Result<Address, CudaError> {
        let bytes = bytes.max(1);
        let attempt = || {
            let mut address = 0;
            let cuda = &session.library.cuda;
            let status = match self.pool {
                // SAFETY: writes the address; given back in `free`.
                Some(_) => unsafe { (cuda.cuMemAllocAsync)(&raw mut address, bytes, session.stream) },
                // SAFETY: as above.
                None => unsafe { (cuda.cuMemAlloc_v2)(&raw mut address, bytes) },
            };
            (status, Address(address))
        };
        let (mut status, mut address) = attempt();
        let full = cu::CUresult::CUDA_ERROR_OUT_OF_MEMORY as u32;
        if status == full {
            // What the pool keeps in pieces may be enough in one.
            self.trim(session)?;
            (status, address) = attempt();
        }
        if status == full {
            return Err(CudaError::OutOfMemory { bytes, free: self.available(session).unwrap_or(0) });
        }
        session.result("cuMemAllocAsync", status)?;
        Ok(address)
    }

    /// Gives memory back; what was started before may still use it.
    ///
    /// # Errors
    /// The driver refuses.
    pub(super) fn free(&self, session: &Session, address: Address) -> Result<(), CudaError> {
        let cuda = &session.library.cuda;
        let status = match self.pool {
            // SAFETY: the address came from `allocate`, by the contract of `Driver::free` once.
            Some(_) => unsafe { (cuda.cuMemFreeAsync)(address.0, session.stream) },
            // SAFETY: as above; this one waits for the device.
            None => unsafe { (cuda.cuMemFree_v2)(address.0) },
        };
        session.result("cuMemFreeAsync", status)
    }

    /// Zeroed memory of the host that kernels reach.
    ///
    /// # Errors
    /// [`CudaError::PinnedMemory`] where so much cannot be locked.
    pub(super) fn allocate_host(&self, session: &Session, bytes: usize) -> Result<Address, CudaError> {
        let bytes = bytes.max(1);
        let cuda = &session.library.cuda;
        let mut memory: *mut c_void = std::ptr::null_mut();
        // SAFETY: writes the address; given back below or in `free_host`.
        let status = unsafe {
            (cuda.cuMemHostAlloc)(&raw mut memory, bytes, cu::CU_MEMHOSTALLOC_PORTABLE | cu::CU_MEMHOSTALLOC_DEVICEMAP)
        };
        if status == cu::CUresult::CUDA_ERROR_OUT_OF_MEMORY as u32 {
            return Err(CudaError::PinnedMemory { bytes });
        }
        session.result("cuMemHostAlloc", status)?;
        // SAFETY: new memory of that length, which nothing on the stream knows yet.
        unsafe { memory.cast::<u8>().write_bytes(0, bytes) };
        let mut address = 0;
        // SAFETY: writes the address on the device of memory that was allocated to be mapped.
        let status = unsafe { (cuda.cuMemHostGetDevicePointer_v2)(&raw mut address, memory, 0) };
        if let Err(error) = session.result("cuMemHostGetDevicePointer", status) {
            // SAFETY: allocated above, used by nobody.
            unsafe { (cuda.cuMemFreeHost)(memory) };
            return Err(error);
        }
        let mut host = self.host.lock().unwrap_or_else(PoisonError::into_inner);
        host.insert(Address(address), memory as usize);
        Ok(Address(address))
    }

    /// Gives such memory back, once what was started is done.
    ///
    /// # Errors
    /// What was started failed, or the driver refuses.
    pub(super) fn free_host(&self, session: &Session, address: Address) -> Result<(), CudaError> {
        let memory = self.host.lock().unwrap_or_else(PoisonError::into_inner).remove(&address);
        let Some(memory) = memory else { return Ok(()) };
        let finished = session.synchronize();
        // SAFETY: allocated in `allocate_host`, taken from the table just now; the stream is idle, or in an error that
        // ended its work.
        let status = unsafe { (session.library.cuda.cuMemFreeHost)(memory as *mut c_void) };
        finished.and(session.result("cuMemFreeHost", status))
    }

    /// Gives the system back what the pool keeps.
    fn trim(&self, session: &Session) -> Result<(), CudaError> {
        let Some(pool) = self.pool else { return Ok(()) };
        session.synchronize()?;
        // SAFETY: the pool is the device's own.
        session.result("cuMemPoolTrimTo", unsafe { (session.library.cuda.cuMemPoolTrimTo)(pool, 0) })
    }

    /// Bytes that can be had: what the driver calls free, and what the pool keeps unused.
    pub(super) fn available(&self, session: &Session) -> Option<u64> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: writes the two numbers.
        let status = unsafe { (session.library.cuda.cuMemGetInfo_v2)(&raw mut free, &raw mut total) };
        (status == 0).then_some(free as u64 + self.kept(session))
    }

    fn kept(&self, session: &Session) -> u64 {
        let Some(pool) = self.pool else { return 0 };
        let ask = |attribute| {
            let mut value: u64 = 0;
            // SAFETY: these attributes are a `cuuint64_t`, which the call writes.
            let status =
                unsafe { (session.library.cuda.cuMemPoolGetAttribute)(pool, attribute, (&raw mut value).cast()) };
            if status == 0 { value } else { 0 }
        };
        let reserved = ask(cu::CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT);
        reserved.saturating_sub(ask(cu::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT))
    }
}
