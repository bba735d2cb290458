//! `CudaDevice`: memory, launches and matrix products on a [`Driver`]. The operations of [`Device`] are made of them.

mod operations;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::attend::{self, Plans};
use super::buffer::Memory;
use super::driver::{Address, Argument, Driver, GraphDriver, Kernel, Launch, Matmul};
use super::kernels::Family;
use super::recorder::Recorder;
use super::scratch::{Carver, measure};
use super::step;
use super::{elementwise, fp8, head, linear, norm, optimizer, qkv, quantized};
use crate::device::*;
use crate::dtype::DType;
use crate::error::ComputeError;
use crate::matrix_format::MatrixFormat;

/// Bytes that kernels leave small results in.
const RESULT_BYTES: usize = 256;

/// An NVIDIA GPU as a [`Device`].
pub struct CudaDevice {
    driver: Arc<dyn Driver>,
    /// The same.
    recorder: Arc<Recorder>,
    scratch: Mutex<Option<Memory>>,
    plans: Mutex<Plans>,
    results: Mutex<Memory>,
    allocated: AtomicU64,
    allocated_on_host: AtomicU64,
}

impl CudaDevice {
    /// A device over a driver.
    ///
    /// # Errors
    /// The memory for small results cannot be had.
    pub fn new(driver: Arc<dyn GraphDriver>) -> Result<Self, ComputeError> {
        Self::with_graphs(driver, true)
    }

    /// The same, with or without starting recurring work as CUDA graphs. Results are the same.
    ///
    /// # Errors
    /// As [`CudaDevice::new`].
    pub fn with_graphs(driver: Arc<dyn GraphDriver>, graphs: bool) -> Result<Self, ComputeError> {
        let recorder = Arc::new(Recorder::new(driver, graphs));
        let driver: Arc<dyn Driver> = recorder.clone();
        let results = Memory::new(&driver, "results", RESULT_BYTES)?;
        let allocated = AtomicU64::new(RESULT_BYTES as u64);
        let results = Mutex::new(results);
        let (scratch, plans) = (Mutex::new(None), Mutex::new(Plans::new()));
        let allocated_on_host = AtomicU64::new(0);
        Ok(CudaDevice { driver, recorder, scratch, plans, results, allocated, allocated_on_host })
    }

    /// Memory of the device's own.
    pub(super) fn memory(&self, name: &str, bytes: usize) -> Result<Memory, ComputeError> {
        let memory = Memory::new(&self.driver, name, bytes)?;
        self.allocated.fetch_add(memory.bytes() as u64, Ordering::Relaxed);
        Ok(memory)
    }

    /// What it runs on.
    pub fn driver(&self) -> &dyn Driver {
        &*self.driver
    }

    /// Runs something with memory for a result of up to 256 bytes, its own until the result is read.
    pub(super) fn with_results<R>(&self, body: impl FnOnce(Address) -> R) -> R {
        body(self.results.lock().unwrap_or_else(PoisonError::into_inner).address())
    }

    /// Starts a kernel, unless there is nothing for it to do.
    pub(super) fn launch(
        &self,
        family: Family,
        storage: Option<DType>,
        entry: &'static str,
        launch: Launch,
        arguments: &[Argument],
    ) {
        self.launch_with(family, storage, &[], entry, launch, arguments);
    }

    /// The same of a module with defines.
    pub(super) fn launch_with(
        &self,
        family: Family,
        storage: Option<DType>,
        defines: &'static [(&'static str, u32)],
        entry: &'static str,
        launch: Launch,
        arguments: &[Argument],
    ) {
        if launch.grid.iter().all(|blocks| *blocks > 0) {
            self.driver.launch(Kernel { family, storage, defines, entry }, launch, arguments);
        }
    }

    /// Starts a matrix product, unless its result is empty.
    pub(super) fn matmul(&self, matmul: &Matmul) {
        if matmul.m > 0 && matmul.n > 0 {
            self.driver.matmul(matmul);
        }
    }

    /// The same with the sums of the left operand's rows; false if that cannot be had, and nothing was started.
    pub(super) fn matmul_with_row_sums(&self, matmul: &Matmul, sums: Address) -> bool {
        matmul.m > 0 && matmul.n > 0 && matmul.k > 0 && self.driver.matmul_with_row_sums(matmul, sums)
    }

    /// Lays out scratch memory and runs an operation in it. Operations use the memory one after the other, in the order in
    /// which they start work.
    pub(super) fn with_scratch<L>(&self, layout: impl Fn(&mut Carver) -> L, body: impl FnOnce(L)) {
        let mut scratch = self.lock_scratch();
        if self.unless_failed(self.grow(&mut scratch, "scratch", measure(&layout))).is_none() {
            return;
        }
        let start = scratch.as_ref().map_or(Address::NULL, Memory::address);
        body(layout(&mut Carver::at(start)));
    }

    /// The value; nothing after a failure, when the driver refuses everything and `check` tells why. Any other error is
    /// memory that was not reserved, and panics.
    pub(super) fn unless_failed<T>(&self, result: Result<T, ComputeError>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                assert!(self.driver.check().is_err(), "scratch memory: {error}");
                None
            }
        }
    }

    fn lock_scratch(&self) -> MutexGuard<'_, Option<Memory>> {
        self.scratch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Attention's latest plans, locked.
    pub(super) fn plans(&self) -> MutexGuard<'_, Plans> {
        self.plans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes memory of the device's own at least this long; what it held is lost where it was shorter.
    pub(super) fn grow(&self, memory: &mut Option<Memory>, name: &str, bytes: usize) -> Result<(), ComputeError> {
        if memory.as_ref().map_or(0, Memory::bytes) < bytes {
            self.let_go(memory);
            *memory = Some(self.memory(name, bytes)?);
        }
        Ok(())
    }

    /// Gives memory of the device's own back.
    pub(super) fn let_go(&self, memory: &mut Option<Memory>) {
        if let Some(memory) = memory.take() {
            self.allocated.fetch_sub(memory.bytes() as u64, Ordering::Relaxed);
        }
    }

    /// Bytes of scratch held; constant from [`Device::reserve_scratch`] to [`Device::release_scratch`].
    pub fn scratch_held(&self) -> usize {
        self.lock_scratch().as_ref().map_or(0, Memory::bytes)
    }

    fn scratch_len(&self, shape: &ScratchShape) -> usize {
        let ScratchShape { dtype, matrices, tokens, width, vocab_size, n_embd, head_dim, training, .. } = *shape;
        let mut needs = vec![
            measure(|c| attend::scratch(c, shape, self.driver())),
            measure(|c| head::layout(c, dtype, tokens, vocab_size, n_embd, !training)),
            measure(|c| elementwise::row_numbers(c, tokens)),
            measure(optimizer::square_partials),
        ];
        if matrices == MatrixFormat::Fp8 {
            needs.push(measure(|c| fp8::layout(c, tokens * width.max(n_embd))));
        }
        if training {
            needs.extend([
                measure(step::usual_layout),
                measure(|c| elementwise::token_order(c, tokens)),
                measure(|c| norm::partial_sums(c, tokens, n_embd)),
                measure(|c| linear::partial_sums(c, tokens, width.max(n_embd))),
                measure(|c| qkv::partial_sums(c, tokens, head_dim)),
                measure(|c| optimizer::muon_layout(c, width.max(n_embd), n_embd)),
            ]);
        } else {
            // Weights may be quantised.
            needs.push(measure(|c| quantized::restored_rows(c, width.max(n_embd))));
        }
        needs.into_iter().fold(0, usize::max)
    }
}
