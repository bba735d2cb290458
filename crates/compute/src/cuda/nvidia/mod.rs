//! The real [`Driver`]: an NVIDIA GPU through its driver, NVRTC and cuBLASLt, all found and opened at run time.
//!
//! - [`search`] and `libraries`: which files, where, and what to tell a person where there are none
//! - `ffi`: their functions
//! - `session`: the context, the one stream, the first error
//! - `memory`, `staging`, `posts`: allocation; copies through pinned memory; results that are waited for alone
//! - [`compiler`], [`report`], `cache`, `modules`: kernels from text to a loaded function
//! - `product`, `matmul`, `algorithms`: products, and why they repeat
//! - `cudnn`, `sdpa`, `attention`, `agreement`: a library's attention, where it is there, right and faster
//! - `graphs`: many calls captured, and started as one
//! - `sensors`: the GPU's load and heat, for whoever watches

mod agreement;
mod algorithms;
mod attention;
mod cache;
pub mod compiler;
mod cudnn;
pub mod error;
mod ffi;
mod graphs;
mod libraries;
mod matmul;
mod memory;
mod modules;
mod posts;
mod product;
pub mod report;
mod sdpa;
pub mod search;
mod sensors;
mod session;
mod staging;
#[cfg(test)]
mod tests;

use std::ffi::c_void;
use std::path::PathBuf;
use std::sync::OnceLock;

use cudarc::driver::sys as cu;

use self::algorithms::Choices;
use self::attention::Attentions;
pub use self::attention::CudnnUse;
use self::compiler::Compiler;
use self::error::CudaError;
use self::graphs::Graphs;
use self::libraries::{DriverLibrary, Opened, open_cublaslt, open_cudnn, open_driver};
use self::matmul::{Kernels, MatmulSettings, Products};
use self::memory::Memory;
use self::modules::Modules;
use self::posts::Posts;
use self::product::{Job, Product};
use self::search::Surroundings;
use self::sensors::Watch;
use self::session::Session;
use self::staging::Staging;
use super::driver::{Address, Argument, Attention, Driver, Fp8Matmul, Kernel, Launch, Matmul, Operand, Post};
use super::kernels::Family;
use crate::device::{AttentionShape, DeviceInfo, Sensors};
use crate::dtype::DType;
use crate::error::ComputeError;

/// Threads of a block of the bias kernels.
const BIAS_THREADS: u32 = 256;

/// What a person may choose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NvidiaSettings {
    /// Which GPU, counted from 0.
    pub ordinal: usize,
    /// f32 products in TF32: several times as fast, 10 bits of mantissa.
    pub tf32: bool,
    /// Take cuBLASLt's first proposal for every product instead of timing several: the choice is then a function of
    /// library, GPU and sizes alone, and needs no file to repeat.
    pub untimed: bool,
    /// Whether cuDNN's attention is used.
    pub cudnn: CudnnUse,
}

/// An NVIDIA GPU.
pub struct NvidiaDriver {
    session: Session,
    memory: Memory,
    staging: Staging,
    posts: Posts,
    graphs: Graphs,
    modules: Modules,
    products: Products,
    attentions: Attentions,
    multiprocessors: usize,
    shared_limit: usize,
    /// Opened by who first asks.
    watch: OnceLock<Watch>,
}

impl NvidiaDriver {
    /// Opens a GPU.
    ///
    /// # Errors
    /// Something that is needed is not there or too old; the message says what to do.
    pub fn open(settings: NvidiaSettings, surroundings: &Surroundings) -> Result<Self, CudaError> {
        Self::with_driver(open_driver(surroundings)?, settings, surroundings)
    }

    fn with_driver(
        library: DriverLibrary,
        settings: NvidiaSettings,
        surroundings: &Surroundings,
    ) -> Result<Self, CudaError> {
        let cuda_major = library.cuda_major();
        let session = Session::open(library, settings.ordinal)?;
        // What is not there is said before anything is built.
        let compiler = Compiler::open(surroundings, cuda_major)?;
        let Opened { functions: cublaslt, .. } = open_cublaslt(surroundings, cuda_major, session.capability)?;
        let whole = |attribute| Ok::<_, CudaError>(usize::try_from(session.attribute(attribute)?).unwrap_or(0));
        let multiprocessors = whole(cu::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        let shared_limit = whole(cu::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
        let memory = Memory::new(&session)?;
        let cache = surroundings.cache().map(|cache| cache.join("cuda"));
        let modules = Modules::new(&session, compiler, cache.clone(), u32::try_from(shared_limit).unwrap_or(0))?;
        // SAFETY: takes nothing.
        let version = unsafe { (cublaslt.cublasLtGetVersion)() };
        let gpu = gpu_name(&session.name, multiprocessors);
        let choices = |name: String| cache.as_ref().map(|cache| cache.join(name));
        let algorithms = choices(format!("algorithms-{gpu}-cublaslt-{version}.tsv"));
        let products = Products::new(
            &session,
            &memory,
            cublaslt,
            MatmulSettings { tf32: settings.tf32, tune: !settings.untimed },
            Choices::open(algorithms),
        )?;
        let attentions = attentions(settings, surroundings, &session, |library, driver| {
            choices(format!("attention-{gpu}-cudnn-{library}-driver-{driver}.tsv"))
        });
        let staging = Staging::new(&session)?;
        let (posts, graphs) = (Posts::default(), Graphs::default());
        Ok(NvidiaDriver {
            session,
            memory,
            staging,
            posts,
            graphs,
            modules,
            products,
            attentions,
            multiprocessors,
            shared_limit,
            watch: OnceLock::new(),
        })
    }

    /// Does something on the stream unless an error has happened, and keeps the error that happens.
    fn attempt<T>(&self, what: impl FnOnce() -> Result<T, CudaError>) -> Option<T> {
        if self.session.failed() {
            return None;
        }
        self.session.enter();
        self.session.keep(what())
    }

    fn launch_now(&self, kernel: Kernel, launch: Launch, arguments: &[Argument]) -> Result<(), CudaError> {
        let function = self.modules.function(&self.session, kernel, launch.shared_bytes)?;
        let mut pointers: Vec<*mut c_void> = arguments.iter().map(pointer_to).collect();
        let ([gx, gy, gz], [bx, by, bz]) = (launch.grid, launch.block);
        // SAFETY: the function is loaded; the caller of `Driver::launch` gives arguments in the order and of the types of
        // its signature, and the call copies them. Their addresses are the device's.
        let status = unsafe {
            (self.session.library.cuda.cuLaunchKernel)(
                function,
                gx,
                gy,
                gz,
                bx,
                by,
                bz,
                launch.shared_bytes,
                self.session.stream,
                pointers.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        };
        self.session.result("cuLaunchKernel", status).map_err(|error| CudaError::Launch {
            kernel: kernel.entry.to_owned(),
            reason: format!("{error} (grid {:?}, block {:?})", launch.grid, launch.block),
        })
    }

    /// Rounds a bias to bf16.
    fn round_bias(&self, bias: Address, n: usize, to: Address) -> Result<(), CudaError> {
        let kernel = bias_kernel(DType::Bf16, "round_bias");
        let n = narrow(n)?;
        let launch = Launch::linear(n.div_ceil(BIAS_THREADS), BIAS_THREADS);
        self.launch_now(kernel, launch, &[to.into(), bias.into(), n.into()])
    }

    /// Adds a bias to every row of a result, or puts it there.
    fn put_bias(&self, c: &Operand, job: &Job) -> Result<(), CudaError> {
        let kernel = bias_kernel(c.dtype, "put_bias");
        let Product { m, n, accumulate, .. } = job.product;
        let launch = Launch { grid: [narrow(m)?, 1, 1], block: [BIAS_THREADS, 1, 1], shared_bytes: 0 };
        let (n, stride, shorten) = (narrow(n)?, c.row_stride as u64, c.dtype == DType::Bf16 || job.product.is_fp8());
        let flags = [accumulate, shorten].map(|flag| Argument::U32(flag.into()));
        self.launch_now(
            kernel,
            launch,
            &[c.address.into(), job.extra.into(), n.into(), stride.into(), flags[0], flags[1]],
        )
    }

    /// Starts a product; whether there is one.
    fn multiply_now(&self, job: &Job, c: &Operand) -> Result<bool, CudaError> {
        let kernels = Kernels {
            round_bias: &|to| self.round_bias(job.extra, job.product.n, to),
            put_bias: &|| self.put_bias(c, job),
        };
        self.products.run(&self.session, &self.memory, job, &kernels)
    }

    fn multiply(&self, job: &Job, c: &Operand) -> Option<bool> {
        self.attempt(|| self.multiply_now(job, c))
    }

    fn copy_now(&self, from: Address, to: Address, bytes: usize) -> Result<(), CudaError> {
        // SAFETY: ranges of the device's memory that the caller vouches for.
        let status =
            unsafe { (self.session.library.cuda.cuMemcpyDtoDAsync_v2)(to.0, from.0, bytes, self.session.stream) };
        self.session.result("cuMemcpyDtoDAsync", status)
    }

    fn zero_now(&self, at: Address, bytes: usize) -> Result<(), CudaError> {
        // SAFETY: a range of the device's memory that the caller vouches for.
        let status = unsafe { (self.session.library.cuda.cuMemsetD8Async)(at.0, 0, bytes, self.session.stream) };
        self.session.result("cuMemsetD8Async", status)
    }
}

fn bias_kernel(storage: DType, entry: &'static str) -> Kernel {
    Kernel { family: Family::Bias, storage: Some(storage), defines: &[], entry }
}

fn narrow(size: usize) -> Result<u32, CudaError> {
    u32::try_from(size).map_err(|_| CudaError::Launch { kernel: "bias".to_owned(), reason: format!("{size} rows") })
}

/// Where an argument's value lies, as the driver wants it.
fn pointer_to(argument: &Argument) -> *mut c_void {
    let pointer: *const c_void = match argument {
        Argument::Pointer(Address(value)) | Argument::U64(value) => std::ptr::from_ref(value).cast(),
        Argument::U32(value) => std::ptr::from_ref(value).cast(),
        Argument::I32(value) => std::ptr::from_ref(value).cast(),
        Argument::F32(value) => std::ptr::from_ref(value).cast(),
    };
    pointer.cast_mut()
}

/// A GPU's part of a name of a file of choices: they hold for one GPU and one version of a library.
fn gpu_name(gpu: &str, multiprocessors: usize) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let gpu: String = gpu.chars().map(plain).collect();
    format!("{gpu}-{multiprocessors}")
}

/// cuDNN, where it may be used. Its tensor cores' instructions that ours do not have are those of Hopper and data center
/// Blackwell; elsewhere only whoever insists has it. `path` names the file of choices by the versions of library and driver.
fn attentions(
    settings: NvidiaSettings,
    surroundings: &Surroundings,
    session: &Session,
    path: impl Fn(usize, u32) -> Option<PathBuf>,
) -> Attentions {
    let insisted = settings.cudnn == CudnnUse::Always;
    let wanted = match settings.cudnn {
        CudnnUse::Never => false,
        CudnnUse::Always => true,
        CudnnUse::Faster => !settings.untimed && matches!(session.capability, (9 | 10, _)),
    };
    let library = if wanted { open_cudnn(surroundings, session.library.cuda_major(), insisted) } else { Ok(None) };
    // SAFETY: takes nothing.
    let version = library.as_ref().ok().and_then(Option::as_ref).map(|library| unsafe { (library.cudnnGetVersion)() });
    let path = version.and_then(|version| path(version, session.library.version));
    Attentions::new(library, path, !insisted)
}

impl Driver for NvidiaDriver {
    fn info(&self) -> DeviceInfo {
        let (major, minor) = self.session.capability;
        DeviceInfo { name: self.session.name.clone(), isa: format!("sm_{major}{minor}"), threads: 1 }
    }

    fn multiprocessors(&self) -> usize {
        self.multiprocessors
    }

    fn shared_memory_limit(&self) -> usize {
        self.shared_limit
    }

    fn available_bytes(&self) -> Option<u64> {
        self.session.enter();
        self.memory.available(&self.session)
    }

    fn sensors(&self) -> Option<Sensors> {
        let place = [
            cu::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID,
            cu::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_PCI_BUS_ID,
            cu::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID,
        ];
        // Whoever watches does not make calls fail: an attribute that is not known leads to no GPU.
        let open = || Watch::open(sensors::LIBRARY.as_ref(), place.map(|id| self.session.attribute(id).unwrap_or(-1)));
        self.watch.get_or_init(open).read()
    }

    fn allocate(&self, bytes: usize) -> Result<Address, ComputeError> {
        self.session.check()?;
        self.session.enter();
        let address = self.memory.allocate(&self.session, bytes).map_err(|error| match error {
            // Named by whoever knows what it was for.
            CudaError::OutOfMemory { bytes, .. } => ComputeError::OutOfMemory { name: "device memory".into(), bytes },
            error => error.into(),
        })?;
        self.zero(address, bytes);
        self.session.check()?;
        Ok(address)
    }

    fn free(&self, at: Address, _bytes: usize) {
        // After an error too: the memory is what is left to give back.
        self.session.enter();
        let freed = self.memory.free(&self.session, at);
        self.session.keep(freed);
    }

    fn allocate_host(&self, bytes: usize) -> Result<Address, ComputeError> {
        self.session.check()?;
        self.session.enter();
        self.memory.allocate_host(&self.session, bytes).map_err(|error| match error {
            CudaError::PinnedMemory { bytes } => ComputeError::PinnedMemory { name: "host memory".into(), bytes },
            error => error.into(),
        })
    }

    fn free_host(&self, at: Address, _bytes: usize) {
        self.session.enter();
        let freed = self.memory.free_host(&self.session, at);
        self.session.keep(freed);
    }

    fn upload(&self, to: Address, bytes: &[u8]) {
        self.attempt(|| self.staging.upload(&self.session, to, bytes));
    }

    fn download(&self, from: Address, bytes: &mut [u8]) {
        self.attempt(|| self.staging.download(&self.session, from, bytes));
    }

    fn post(&self, from: Address, bytes: usize) -> Post {
        self.attempt(|| self.posts.post(&self.session, from, bytes)).unwrap_or(posts::FAILED)
    }

    fn collect(&self, post: Post, bytes: &mut [u8]) {
        if post != posts::FAILED {
            self.attempt(|| self.posts.collect(&self.session, &post, bytes));
        }
    }

    fn copy(&self, from: Address, to: Address, bytes: usize) {
        if bytes == 0 {
            return;
        }
        self.attempt(|| self.copy_now(from, to, bytes));
    }

    fn zero(&self, at: Address, bytes: usize) {
        if bytes == 0 {
            return;
        }
        self.attempt(|| self.zero_now(at, bytes));
    }

    fn launch(&self, kernel: Kernel, launch: Launch, arguments: &[Argument]) {
        self.attempt(|| self.launch_now(kernel, launch, arguments));
    }

    fn matmul(&self, matmul: &Matmul) {
        self.multiply(&Job::of(matmul), &matmul.c);
    }

    fn matmul_with_row_sums(&self, matmul: &Matmul, sums: Address) -> bool {
        // After an error nothing is started in either case.
        self.multiply(&Job::with_row_sums(matmul, sums), &matmul.c).unwrap_or(true)
    }

    fn knows_row_sums(&self, matmul: &Matmul) -> Option<bool> {
        self.products.known(&Job::with_row_sums(matmul, Address::NULL).product)
    }

    fn has_fp8(&self) -> bool {
        self.session.capability >= (8, 9)
    }

    fn matmul_fp8(&self, matmul: &Fp8Matmul) {
        self.multiply(&Job::of_fp8(matmul), &matmul.c);
    }

    fn attention_scratch(&self, shape: AttentionShape, tokens: usize) -> usize {
        self.attentions.scratch(shape, tokens)
    }

    fn knows_attention(&self, attention: &Attention) -> Option<bool> {
        self.attentions.known(attention)
    }

    fn choose_attention(&self, attention: &Attention, ours: &dyn Fn()) {
        self.attempt(|| self.attentions.choose(&self.session, &self.staging, attention, ours));
    }

    fn attention(&self, attention: &Attention) {
        self.attempt(|| self.attentions.start(attention));
    }

    fn take_note(&self) -> Option<String> {
        self.attentions.take_note()
    }

    fn synchronize(&self) {
        self.attempt(|| self.session.synchronize());
    }

    fn check(&self) -> Result<(), ComputeError> {
        Ok(self.session.check()?)
    }
}

impl Drop for NvidiaDriver {
    fn drop(&mut self) {
        self.session.enter();
        // An error means that nothing runs any more: the parts can go in any case.
        let _ = self.session.synchronize();
        self.graphs.destroy(&self.session);
        self.attentions.destroy();
        self.products.destroy(&self.session, &self.memory);
        self.modules.destroy(&self.session);
        self.staging.destroy(&self.session);
        self.posts.destroy(&self.session);
        let _ = self.session.synchronize();
    }
}
