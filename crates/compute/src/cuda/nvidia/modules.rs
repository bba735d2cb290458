//! Kernels, compiled for this GPU at their first use and kept loaded.

use std::collections::HashMap;
use std::ffi::{CString, c_int};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use cudarc::driver::sys as cu;

use super::cache::{KernelCache, key};
use super::compiler::{Compiler, Target, module_name};
use super::error::CudaError;
use super::session::Session;
use crate::cuda::driver::Kernel;
use crate::cuda::kernels::is_listed;

/// Shared memory that a block may have without asking.
const SHARED_WITHOUT_ASKING: u32 = 48 << 10;

/// A loaded entry.
#[derive(Clone, Copy)]
struct Function {
    handle: cu::CUfunction,
    /// Dynamic shared memory that it may have.
    shared: u32,
}

#[derive(Default)]
struct Loaded {
    /// By a kernel with an empty entry.
    modules: HashMap<Kernel, cu::CUmodule>,
    functions: HashMap<Kernel, Function>,
}

/// Every module and entry that has been used.
pub(super) struct Modules {
    compiler: Compiler,
    target: Target,
    cache: KernelCache,
    shared_limit: u32,
    loaded: Mutex<Loaded>,
}

// SAFETY: handles of modules and functions may be used from any thread of the context.
unsafe impl Send for Modules {}
// SAFETY: as above; the maps are behind a lock.
unsafe impl Sync for Modules {}

impl Modules {
    /// For the session's GPU; `cache` is the folder of compiled kernels.
    ///
    /// # Errors
    /// The compiler knows no architecture that the GPU could run.
    pub(super) fn new(
        session: &Session,
        compiler: Compiler,
        cache: Option<PathBuf>,
        shared_limit: u32,
    ) -> Result<Self, CudaError> {
        let (major, minor) = session.capability;
        let target =
            Target::choose(session.capability, compiler.supported()).ok_or_else(|| CudaError::UnusableLibrary {
                path: compiler.path().to_owned(),
                reason: format!("version {} compiles nothing for {major}.{minor}", compiler.version()),
            })?;
        let cache = KernelCache::new(cache);
        Ok(Modules { compiler, target, cache, shared_limit, loaded: Mutex::default() })
    }

    /// The entry's handle, which may be launched with `shared_bytes` of dynamic shared memory.
    ///
    /// # Errors
    /// The kernel does not compile, load, or get so much.
    pub(super) fn function(
        &self,
        session: &Session,
        kernel: Kernel,
        shared_bytes: u32,
    ) -> Result<cu::CUfunction, CudaError> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let mut function = match loaded.functions.get(&kernel) {
            Some(function) => *function,
            None => self.entry(session, &mut loaded, kernel)?,
        };
        if shared_bytes > function.shared {
            if shared_bytes > self.shared_limit {
                return Err(CudaError::Launch {
                    kernel: kernel.entry.to_owned(),
                    reason: format!("{shared_bytes} bytes of shared memory, of {}", self.shared_limit),
                });
            }
            let attribute = cu::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function is loaded.
            let status =
                unsafe { (session.library.cuda.cuFuncSetAttribute)(function.handle, attribute, shared_bytes as c_int) };
            session.result("cuFuncSetAttribute", status)?;
            function.shared = shared_bytes;
        }
        loaded.functions.insert(kernel, function);
        Ok(function.handle)
    }

    fn entry(&self, session: &Session, loaded: &mut Loaded, kernel: Kernel) -> Result<Function, CudaError> {
        let wrong = |reason: &str| CudaError::Launch { kernel: kernel.entry.to_owned(), reason: reason.to_owned() };
        if !is_listed(&kernel) {
            return Err(wrong(&format!("no module '{}' is listed", module_name(&kernel))));
        }
        let of_module = Kernel { entry: "", ..kernel };
        let module = match loaded.modules.get(&of_module) {
            Some(module) => *module,
            None => {
                let module = self.load(session, &kernel)?;
                loaded.modules.insert(of_module, module);
                module
            }
        };
        let name = CString::new(kernel.entry).map_err(|_| wrong("no name of a function"))?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: the module is loaded, the name is a C string; writes the handle.
        let status = unsafe { (session.library.cuda.cuModuleGetFunction)(&raw mut handle, module, name.as_ptr()) };
        session.result("cuModuleGetFunction", status).map_err(|error| match status {
            500 => wrong(&format!("not in {}", module_name(&kernel))),
            _ => error,
        })?;
        Ok(Function { handle, shared: SHARED_WITHOUT_ASKING.min(self.shared_limit) })
    }

    /// Code from the cache, else from the compiler, loaded.
    fn load(&self, session: &Session, kernel: &Kernel) -> Result<cu::CUmodule, CudaError> {
        let driver = session.library.version.to_string();
        let key = key(&[&self.compiler.inputs(kernel, &self.target), &driver]);
        // What loads no more although it is whole is made anew.
        if let Some(module) = self.cache.read(&key).and_then(|code| load(session, &code).ok()) {
            return Ok(module);
        }
        let compiled = self.compiler.compile(kernel, &self.target, false)?;
        let module = load(session, &compiled.image)?;
        self.cache.write(&key, &compiled.image);
        Ok(module)
    }

    /// Unloads everything; the stream is idle.
    pub(super) fn destroy(&self, session: &Session) {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        loaded.functions.clear();
        for (_, module) in loaded.modules.drain() {
            // SAFETY: loaded once; its functions are forgotten.
            unsafe { (session.library.cuda.cuModuleUnload)(module) };
        }
    }
}

fn load(session: &Session, image: &[u8]) -> Result<cu::CUmodule, CudaError> {
    let mut module = std::ptr::null_mut();
    // SAFETY: a whole image that the compiler made (cubins tell their own size, PTX ends with a zero), which the call
    // copies; writes the handle.
    let status = unsafe { (session.library.cuda.cuModuleLoadData)(&raw mut module, image.as_ptr().cast()) };
    session.result("cuModuleLoadData", status)?;
    Ok(module)
}
