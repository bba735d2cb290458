//! A [`Driver`] on the processor: the kernels' own text, compiled as C++ and run thread by thread.
//!
//! For tests only. It shows what a GPU would hide: see `shim.h` for what it watches, `memory.rs` for the memory. What it
//! cannot show is whether the PTX of `kernels/ptx.cu` does what the simulator's stand-ins do (`probe.cu` asks a GPU
//! that), and how fast anything is.

mod arena;
mod matmul;
mod memory;
mod module;
pub mod mutation;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::calls::{Call, Calls};
use super::driver::{
    Address, Argument, Driver, Fp8Matmul, Graph, GraphDriver, Kernel, Launch, MOST_POSTED, Matmul, Post,
};
use super::kernels::{Family, is_listed};
use crate::device::DeviceInfo;
use crate::error::ComputeError;
use crate::fp8::Fp8;
use memory::{Memory, Place};
use module::Module;

/// What an RTX 3060 to 4090 lets a block have: the smallest of the GPUs that are supported.
const SHARED_MEMORY_LIMIT: usize = 99 << 10;
/// Few, so that small tests fill them.
const MULTIPROCESSORS: usize = 4;

/// The simulated GPU.
pub struct Simulator {
    seed: AtomicU64,
    launches: AtomicU64,
    /// Held while anything runs: one stream.
    stream: Mutex<()>,
    memory: Mutex<Memory>,
    failure: Mutex<Option<(String, String)>>,
    /// The largest piece of the host's memory that can be had.
    host_limit: AtomicU64,
    texts: HashMap<Family, String>,
    fp8: bool,
    posts: Mutex<HashMap<u64, Vec<u8>>>,
    graphs: Mutex<Graphs>,
}

/// Graphs are the calls that they were made of: a start makes those, whatever the caller has listed since.
#[derive(Default)]
struct Graphs {
    made: u64,
    started: u64,
    live: HashMap<u64, Calls>,
    /// Why the next one cannot be made.
    refused: Option<String>,
}

impl Simulator {
    /// A GPU whose threads are scheduled by this seed.
    ///
    /// # Errors
    /// There is no C++ compiler.
    pub fn new(seed: u64) -> Result<Simulator, String> {
        module::compiler()?;
        Ok(Simulator {
            seed: AtomicU64::new(seed),
            launches: AtomicU64::new(0),
            stream: Mutex::new(()),
            memory: Mutex::default(),
            failure: Mutex::new(None),
            host_limit: AtomicU64::new(u64::MAX),
            texts: HashMap::new(),
            fp8: true,
            posts: Mutex::default(),
            graphs: Mutex::default(),
        })
    }

    /// A simulator for a test, or `None` where there is no C++ compiler, which is then said. Where
    /// `CASALLM_REQUIRE_SIMULATOR` is 1 the test fails instead.
    pub fn for_test(seed: u64) -> Option<Arc<Simulator>> {
        match Simulator::new(seed) {
            Ok(simulator) => Some(Arc::new(simulator)),
            Err(reason) => {
                let required = std::env::var("CASALLM_REQUIRE_SIMULATOR").is_ok_and(|value| value == "1");
                assert!(!required, "CASALLM_REQUIRE_SIMULATOR is set and there is {reason}");
                println!("skipped: {reason}");
                None
            }
        }
    }

    /// The same with another text for a family: a mutant.
    pub fn with_text(mut self, family: Family, text: String) -> Simulator {
        self.texts.insert(family, text);
        self
    }

    /// The same without products of 8-bit operands: an older GPU.
    pub fn without_fp8(mut self) -> Simulator {
        self.fp8 = false;
        self
    }

    /// Schedules threads by another seed from now on.
    pub fn reseed(&self, seed: u64) {
        self.seed.store(seed, Ordering::Relaxed);
        self.launches.store(0, Ordering::Relaxed);
    }

    /// Refuses larger pieces of the host's memory from now on.
    pub fn limit_host_memory(&self, bytes: u64) {
        self.host_limit.store(bytes, Ordering::Relaxed);
    }

    /// Kernels started so far.
    pub fn launches(&self) -> u64 {
        self.launches.load(Ordering::Relaxed)
    }

    /// Graphs made, alive, and started so far.
    pub fn graphs(&self) -> (u64, usize, u64) {
        let graphs = self.lock_graphs();
        (graphs.made, graphs.live.len(), graphs.started)
    }

    /// Refuses to make the next graph.
    pub fn refuse_graphs(&self, reason: &str) {
        self.lock_graphs().refused = Some(reason.into());
    }

    fn lock_graphs(&self) -> MutexGuard<'_, Graphs> {
        self.graphs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failure(&self) -> MutexGuard<'_, Option<(String, String)>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something unless an error has been kept; keeps the error if it fails.
    fn attempt(&self, doing: &str, body: impl FnOnce() -> Result<(), String>) {
        let _in_order = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        if self.failure().is_some() {
            return;
        }
        if let Err(reason) = body() {
            self.failure().get_or_insert((doing.into(), reason));
        }
    }

    /// Whether a product's operands are what it says and lie in the device's memory.
    fn fits(&self, matmul: &Matmul) -> Result<(), String> {
        let Matmul { m, n, k, ref a, ref b, ref c, bias, .. } = *matmul;
        if c.transposed {
            return Err("a transposed result".into());
        }
        for (operand, rows, columns) in [(a, m, k), (b, k, n), (c, m, n)] {
            let width = if operand.transposed { rows } else { columns };
            if operand.row_stride < width {
                return Err(format!("rows of {width} elements, {} apart", operand.row_stride));
            }
            self.memory().contains(operand.address, matmul::extent(operand, rows, columns))?;
        }
        match bias {
            Some(bias) => self.memory().contains(bias, 4 * n),
            None => Ok(()),
        }
    }

    fn run(&self, kernel: Kernel, launch: Launch, arguments: &[Argument]) -> Result<(), String> {
        if !is_listed(&kernel) {
            return Err(format!(
                "no module of {:?}, {:?}, {:?} is listed",
                kernel.family, kernel.storage, kernel.defines
            ));
        }
        let limit = self.shared_memory_limit();
        if launch.shared_bytes as usize > limit {
            return Err(format!("{} bytes of shared memory, where a block may have {limit}", launch.shared_bytes));
        }
        let addresses = || {
            arguments.iter().filter_map(|argument| match argument {
                Argument::Pointer(address) if *address != Address::NULL => Some(*address),
                _ => None,
            })
        };
        for address in addresses() {
            self.memory().contains(address, 0)?;
        }
        let text = self.texts.get(&kernel.family).map_or(kernel.family.text(), String::as_str);
        let module = Module::of(&kernel, text)?;
        let launches = self.launches.fetch_add(1, Ordering::Relaxed);
        let seed = self.seed.load(Ordering::Relaxed).wrapping_add(launches.wrapping_mul(0x0001_0000_0000));
        module.launch(kernel.entry, &launch, arguments, seed)?;
        addresses().try_for_each(|address| self.memory().check(address))
    }
}

impl Driver for Simulator {
    fn info(&self) -> DeviceInfo {
        DeviceInfo { name: "simulated GPU".into(), isa: "sm_86".into(), threads: 1 }
    }

    fn multiprocessors(&self) -> usize {
        MULTIPROCESSORS
    }

    fn shared_memory_limit(&self) -> usize {
        SHARED_MEMORY_LIMIT
    }

    fn available_bytes(&self) -> Option<u64> {
        crate::memory::available()
    }

    fn allocate(&self, bytes: usize) -> Result<Address, ComputeError> {
        self.check()?;
        let refused = || ComputeError::OutOfMemory { name: "simulated GPU".into(), bytes };
        self.memory().allocate(bytes, Place::Device).ok_or_else(refused)
    }

    fn free(&self, at: Address, bytes: usize) {
        // Memory is given back even after an error, or the next would be about memory.
        if let Err(reason) = self.memory().free(at, bytes, Place::Device) {
            self.failure().get_or_insert(("free".into(), reason));
        }
    }

    fn allocate_host(&self, bytes: usize) -> Result<Address, ComputeError> {
        self.check()?;
        let refused = || ComputeError::PinnedMemory { name: "simulated host".into(), bytes };
        if bytes as u64 > self.host_limit.load(Ordering::Relaxed) {
            return Err(refused());
        }
        self.memory().allocate(bytes, Place::Host).ok_or_else(refused)
    }

    fn free_host(&self, at: Address, bytes: usize) {
        if let Err(reason) = self.memory().free(at, bytes, Place::Host) {
            self.failure().get_or_insert(("free_host".into(), reason));
        }
    }

    fn upload(&self, to: Address, bytes: &[u8]) {
        self.attempt("upload", || {
            self.memory().contains(to, bytes.len())?;
            // SAFETY: inside an allocation; nothing runs on the device now.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.0 as *mut u8, bytes.len()) };
            Ok(())
        });
    }

    fn download(&self, from: Address, bytes: &mut [u8]) {
        self.attempt("download", || {
            self.memory().contains(from, bytes.len())?;
            self.memory().check(from)?;
            // SAFETY: as above.
            unsafe { std::ptr::copy_nonoverlapping(from.0 as *const u8, bytes.as_mut_ptr(), bytes.len()) };
            Ok(())
        });
    }

    fn post(&self, from: Address, bytes: usize) -> Post {
        assert!(bytes <= MOST_POSTED, "a post of {bytes} bytes");
        let mut posted = vec![0; bytes];
        self.download(from, &mut posted);
        let mut posts = self.posts.lock().unwrap_or_else(PoisonError::into_inner);
        let number = posts.keys().max().map_or(0, |last| last + 1);
        posts.insert(number, posted);
        Post(number)
    }

    fn collect(&self, post: Post, bytes: &mut [u8]) {
        let posted = self.posts.lock().unwrap_or_else(PoisonError::into_inner).remove(&post.0);
        bytes.copy_from_slice(&posted.expect("a post that was not collected"));
    }

    fn copy(&self, from: Address, to: Address, bytes: usize) {
        self.attempt("copy", || {
            self.memory().contains(from, bytes)?;
            self.memory().contains(to, bytes)?;
            if from.0 < to.0 + bytes as u64 && to.0 < from.0 + bytes as u64 {
                return Err("the ranges overlap".into());
            }
            // SAFETY: both inside allocations, apart.
            unsafe { std::ptr::copy_nonoverlapping(from.0 as *const u8, to.0 as *mut u8, bytes) };
            Ok(())
        });
    }

    fn zero(&self, at: Address, bytes: usize) {
        self.attempt("zero", || {
            self.memory().contains(at, bytes)?;
            // SAFETY: inside an allocation.
            unsafe { std::ptr::write_bytes(at.0 as *mut u8, 0, bytes) };
            Ok(())
        });
    }

    fn launch(&self, kernel: Kernel, launch: Launch, arguments: &[Argument]) {
        self.attempt(kernel.entry, || self.run(kernel, launch, arguments));
    }

    fn matmul(&self, matmul: &Matmul) {
        self.attempt("matmul", || {
            self.fits(matmul)?;
            // SAFETY: every operand lies in an allocation; nothing else runs on the device now.
            unsafe { matmul::run(matmul) };
            Ok(())
        });
    }

    fn matmul_with_row_sums(&self, matmul: &Matmul, sums: Address) -> bool {
        if self.knows_row_sums(matmul) == Some(false) {
            return false;
        }
        self.attempt("matmul with row sums", || {
            self.fits(matmul)?;
            self.memory().contains(sums, 4 * matmul.m)?;
            // SAFETY: as above.
            unsafe {
                matmul::run(matmul);
                matmul::row_sums(matmul, sums);
            }
            Ok(())
        });
        true
    }

    /// There are such products where the rows are a multiple of eight, so that both cases are met.
    fn knows_row_sums(&self, matmul: &Matmul) -> Option<bool> {
        Some(matmul.m.is_multiple_of(8))
    }

    fn has_fp8(&self) -> bool {
        self.fp8
    }

    fn matmul_fp8(&self, matmul: &Fp8Matmul) {
        self.attempt("matmul of 8-bit operands", || {
            let Fp8Matmul { m, n, k, ref a, ref b, ref c, bias, .. } = *matmul;
            if !self.fp8 || a.format == b.format && a.format == Fp8::E5m2 {
                return Err("no such product".into());
            }
            if !n.is_multiple_of(16) || !k.is_multiple_of(16) || c.transposed || c.row_stride < n {
                return Err(format!("{m} x {n} x {k}"));
            }
            for (operand, rows) in [(a, m), (b, n)] {
                if !operand.address.0.is_multiple_of(16) {
                    return Err("an operand at a misaligned address".into());
                }
                self.memory().contains(operand.address, rows * k)?;
                self.memory().contains(operand.scale, 4)?;
            }
            self.memory().contains(c.address, matmul::extent(c, m, n))?;
            if let Some(bias) = bias {
                self.memory().contains(bias, 4 * n)?;
            }
            // SAFETY: as above.
            unsafe { matmul::run_fp8(matmul) };
            Ok(())
        });
    }

    fn synchronize(&self) {}

    fn check(&self) -> Result<(), ComputeError> {
        match &*self.failure() {
            None => Ok(()),
            Some((doing, reason)) => Err(ComputeError::Gpu { doing: doing.clone(), reason: reason.clone() }),
        }
    }
}

impl GraphDriver for Simulator {
    fn build(&self, calls: &Calls) -> Result<Option<Graph>, String> {
        let mut graphs = self.lock_graphs();
        if let Some(reason) = graphs.refused.take() {
            return Err(reason);
        }
        if calls.iter().any(|call| matches!(call, Call::Upload { .. })) {
            return Err("an upload in a graph".into());
        }
        graphs.made += 1;
        let number = graphs.made;
        graphs.live.insert(number, calls.clone());
        Ok(Some(Graph(number)))
    }

    fn change(&self, graph: &Graph, i: usize, arguments: &[Argument]) -> Result<(), String> {
        let mut graphs = self.lock_graphs();
        graphs.live.get_mut(&graph.0).ok_or("a graph that is gone")?.change(i, arguments);
        Ok(())
    }

    fn start(&self, graph: &Graph) {
        let calls = {
            let mut graphs = self.lock_graphs();
            graphs.started += 1;
            graphs.live[&graph.0].clone()
        };
        calls.iter().for_each(|call| call.make(self));
    }

    fn discard(&self, graph: Graph) {
        self.lock_graphs().live.remove(&graph.0).expect("a graph that is alive");
    }
}
