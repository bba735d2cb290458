//! NVRTC: a module's text to machine code for one architecture. Needs neither a GPU nor a driver.

use std::ffi::{CString, c_char, c_int};
use std::path::{Path, PathBuf};

use super::error::CudaError;
use super::ffi::Nvrtc;
use super::libraries::open_nvrtc;
use super::search::Surroundings;
use crate::cuda::driver::Kernel;
use crate::cuda::kernels::translation_unit;

/// What to compile for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// Machine code, by its architecture as in `sm_90a`.
    Cubin(String),
    /// Intermediate code, as in `compute_90`, for a GPU that is newer than the compiler: the driver translates it.
    Ptx(String),
}

impl Target {
    /// The best that a compiler of these architectures can do for a GPU of this compute capability.
    ///
    /// From 9.0 on with the suffix `a`: matrix instructions of one architecture only, which the GPU at hand has. Code for
    /// 8.6 runs on 8.9, but code for 9.0 does not run on 10.0.
    pub fn choose((major, minor): (i32, i32), supported: &[i32]) -> Option<Target> {
        let architecture = 10 * major + minor;
        if supported.contains(&architecture) {
            let suffix = if major >= 9 { "a" } else { "" };
            return Some(Target::Cubin(format!("sm_{architecture}{suffix}")));
        }
        let below = supported.iter().copied().filter(|known| *known < architecture).max()?;
        Some(match below / 10 == major {
            true => Target::Cubin(format!("sm_{below}")),
            false => Target::Ptx(format!("compute_{below}")),
        })
    }

    /// As the compiler's option has it.
    pub fn name(&self) -> &str {
        match self {
            Target::Cubin(name) | Target::Ptx(name) => name,
        }
    }

    /// The compiler's options. Line numbers cost nothing at run time, and compute-sanitizer and the profilers show them.
    /// Diagnostic 177 is of a constant that no one uses: no module uses all of the prelude.
    fn options(&self, report: bool) -> Vec<String> {
        let mut options: Vec<String> = vec![
            format!("--gpu-architecture={}", self.name()),
            "--std=c++17".into(),
            "--generate-line-info".into(),
            "--diag-suppress=177".into(),
        ];
        if report {
            options.push("--ptxas-options=-v".into());
        }
        options
    }
}

/// Machine or intermediate code, as `cuModuleLoadData` takes it.
pub struct Compiled {
    /// The code; intermediate code ends with a zero.
    pub image: Vec<u8>,
    /// What the compiler said: warnings, and the report where it was asked for.
    pub log: String,
}

/// The compiler.
pub struct Compiler {
    nvrtc: Nvrtc,
    version: (i32, i32),
    supported: Vec<i32>,
    path: PathBuf,
}

impl Compiler {
    /// Finds NVRTC of at most this major version.
    ///
    /// # Errors
    /// It is nowhere or unusable.
    pub fn open(surroundings: &Surroundings, cuda_major: u32) -> Result<Self, CudaError> {
        let opened = open_nvrtc(surroundings, cuda_major)?;
        let nvrtc = opened.functions;
        let unusable = |what: &str| CudaError::UnusableLibrary { path: opened.path.clone(), reason: what.to_owned() };
        let (mut major, mut minor): (c_int, c_int) = (0, 0);
        // SAFETY: writes the two numbers.
        if unsafe { (nvrtc.nvrtcVersion)(&raw mut major, &raw mut minor) } != 0 {
            return Err(unusable("it does not tell its version"));
        }
        let mut count: c_int = 0;
        // SAFETY: writes the number.
        if unsafe { (nvrtc.nvrtcGetNumSupportedArchs)(&raw mut count) } != 0 {
            return Err(unusable("it does not tell its architectures"));
        }
        let mut supported = vec![0; usize::try_from(count).unwrap_or(0)];
        // SAFETY: writes `count` numbers, and there is room for so many.
        if unsafe { (nvrtc.nvrtcGetSupportedArchs)(supported.as_mut_ptr()) } != 0 {
            return Err(unusable("it does not tell its architectures"));
        }
        Ok(Compiler { nvrtc, version: (major, minor), supported, path: opened.path })
    }

    /// As in `12.9`.
    pub fn version(&self) -> String {
        format!("{}.{}", self.version.0, self.version.1)
    }

    /// Where the library lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it can compile for, as 89 for 8.9.
    pub fn supported(&self) -> &[i32] {
        &self.supported
    }

    /// Everything that the result is a function of, for the cache's key.
    pub(super) fn inputs(&self, kernel: &Kernel, target: &Target) -> String {
        format!("NVRTC {}\n{}\n{}", self.version(), target.options(false).join(" "), translation_unit(kernel))
    }

    /// Compiles the kernel's module; `report` adds registers, shared memory and spills to the log.
    ///
    /// # Errors
    /// The compiler's own, with its log.
    pub fn compile(&self, kernel: &Kernel, target: &Target, report: bool) -> Result<Compiled, CudaError> {
        let failed = |log: String| CudaError::Compile {
            kernel: module_name(kernel),
            target: target.name().to_owned(),
            nvrtc: self.version(),
            log,
        };
        let text = |text: String| CString::new(text).map_err(|_| failed("the text holds a zero byte".to_owned()));
        let source = text(translation_unit(kernel))?;
        let name = text(format!("{}.cu", kernel.family.name()))?;
        let options = target.options(report).into_iter().map(text).collect::<Result<Vec<_>, _>>()?;
        let pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        let program = Program::new(&self.nvrtc, &source, &name).ok_or_else(|| failed("no memory".to_owned()))?;
        // SAFETY: the program is alive, and so are `pointers.len()` C strings.
        let status =
            unsafe { (self.nvrtc.nvrtcCompileProgram)(program.handle, pointers.len() as c_int, pointers.as_ptr()) };
        let log = program.read(self.nvrtc.nvrtcGetProgramLogSize, self.nvrtc.nvrtcGetProgramLog);
        let log = String::from_utf8_lossy(&log.unwrap_or_default()).trim_end_matches('\0').trim_end().to_owned();
        if status != 0 {
            return Err(failed(log));
        }
        let image = match target {
            Target::Cubin(_) => program.read(self.nvrtc.nvrtcGetCUBINSize, self.nvrtc.nvrtcGetCUBIN),
            Target::Ptx(_) => program.read(self.nvrtc.nvrtcGetPTXSize, self.nvrtc.nvrtcGetPTX),
        };
        match image {
            Some(image) if !image.is_empty() => Ok(Compiled { image, log }),
            _ => Err(failed(format!("the compiler gave no code\n{log}"))),
        }
    }
}

/// Family, storage and defines, for messages and listings.
pub fn module_name(kernel: &Kernel) -> String {
    let storage = kernel.storage.map_or("-", crate::dtype::DType::name);
    let defines: String = kernel.defines.iter().map(|(name, value)| format!(" {name}={value}")).collect();
    format!("{} {storage}{defines}", kernel.family.name())
}

/// A program that is destroyed when it goes.
struct Program<'a> {
    nvrtc: &'a Nvrtc,
    handle: cudarc::nvrtc::sys::nvrtcProgram,
}

impl<'a> Program<'a> {
    fn new(nvrtc: &'a Nvrtc, source: &CString, name: &CString) -> Option<Self> {
        let mut handle = std::ptr::null_mut();
        let no_headers = std::ptr::null();
        // SAFETY: writes the handle; both texts are C strings, of which the program keeps a copy.
        let status = unsafe {
            (nvrtc.nvrtcCreateProgram)(&raw mut handle, source.as_ptr(), name.as_ptr(), 0, no_headers, no_headers)
        };
        (status == 0).then_some(Program { nvrtc, handle })
    }

    /// Reads a result by the function for its size and the function for itself.
    fn read(
        &self,
        size: unsafe extern "C" fn(cudarc::nvrtc::sys::nvrtcProgram, *mut usize) -> u32,
        get: unsafe extern "C" fn(cudarc::nvrtc::sys::nvrtcProgram, *mut c_char) -> u32,
    ) -> Option<Vec<u8>> {
        let mut bytes = 0;
        // SAFETY: the program is alive; writes the size.
        if unsafe { size(self.handle, &raw mut bytes) } != 0 {
            return None;
        }
        let mut result = vec![0_u8; bytes];
        // SAFETY: the program is alive; writes as many bytes as it said.
        let status = unsafe { get(self.handle, result.as_mut_ptr().cast()) };
        (status == 0).then_some(result)
    }
}

impl Drop for Program<'_> {
    fn drop(&mut self) {
        // SAFETY: created in `new`, destroyed once.
        unsafe { (self.nvrtc.nvrtcDestroyProgram)(&raw mut self.handle) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_is_the_gpus_own_or_the_nearest_below() {
        let supported = [75, 80, 86, 89, 90, 100, 120];
        let choose = |capability| Target::choose(capability, &supported);
        assert_eq!(choose((8, 0)), Some(Target::Cubin("sm_80".into())));
        assert_eq!(choose((8, 9)), Some(Target::Cubin("sm_89".into())));
        assert_eq!(choose((9, 0)), Some(Target::Cubin("sm_90a".into())));
        assert_eq!(choose((12, 0)), Some(Target::Cubin("sm_120a".into())));
        // Newer than the compiler, within a generation and beyond it.
        assert_eq!(choose((12, 1)), Some(Target::Cubin("sm_120".into())));
        assert_eq!(choose((8, 7)), Some(Target::Cubin("sm_86".into())));
        assert_eq!(choose((13, 0)), Some(Target::Ptx("compute_120".into())));
        assert_eq!(Target::choose((12, 0), &[80, 90]), Some(Target::Ptx("compute_90".into())));
        assert_eq!(Target::choose((8, 0), &[90]), None);
    }
}
