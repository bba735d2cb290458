//! Opening NVIDIA's libraries: of all that the search finds, the newest that the installed driver can work with.

use std::ffi::{CStr, c_char, c_int};
use std::path::PathBuf;

use cudarc::driver::sys as cu;
use libloading::Library;

use super::error::CudaError;
use super::ffi::{CublasLt, Cuda, Cudnn, ErrorText, Nvrtc};
use super::sdpa;
use super::search::{
    Place, Surroundings, card_on_bus, cudnn_remedy, driver_places, driver_remedy, toolkit_places, toolkit_remedy,
};

/// The oldest CUDA whose driver and libraries will do: everything here exists in it.
const OLDEST_CUDA: u32 = 12;
const OLDEST_CUDA_NAME: &str = "12.0";

/// A file of the right name that would not do.
struct Rejected {
    path: PathBuf,
    reason: String,
}

/// A library that is open for the life of the process, with its functions.
pub(super) struct Opened<T> {
    pub(super) functions: T,
    pub(super) path: PathBuf,
}

/// Opens the first file, by name and then by place, that has all functions and passes `judge`.
fn open<T>(
    names: &[String],
    places: &[Place],
    functions: impl Fn(&Library) -> Result<T, &'static str>,
    judge: impl Fn(&T) -> Result<(), String>,
) -> Result<Opened<T>, Vec<Rejected>> {
    let mut rejected = Vec::new();
    for name in names {
        for place in places {
            let path = place.file(name);
            if matches!(place, Place::Folder(_)) && !path.exists() {
                continue;
            }
            // SAFETY: loading runs the library's initialisers; these are NVIDIA's own files, by their own names.
            let library = match unsafe { Library::new(&path) } {
                Ok(library) => library,
                // The linker says the same of every name that it does not know.
                Err(_) if *place == Place::Linker => continue,
                Err(error) => {
                    rejected.push(Rejected { path, reason: error.to_string() });
                    continue;
                }
            };
            let judged = functions(&library).map_err(|lacks| format!("it lacks {lacks}")).and_then(|functions| {
                judge(&functions)?;
                Ok(functions)
            });
            // Never closed: they start threads of their own and have handlers that run when the process ends.
            std::mem::forget(library);
            match judged {
                Ok(functions) => return Ok(Opened { functions, path }),
                Err(reason) => rejected.push(Rejected { path, reason }),
            }
        }
    }
    Err(rejected)
}

/// The places as a person reads them.
fn listed(places: &[Place]) -> String {
    places.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// What would not do, and why, as the tail of a sentence.
fn because(rejected: &[Rejected]) -> String {
    rejected.iter().map(|r| format!("; {} is there, but {}", r.path.display(), r.reason)).collect()
}

/// The driver, with its functions that explain errors.
pub(super) struct DriverLibrary {
    pub(super) cuda: Cuda,
    error_name: ErrorText,
    error_text: ErrorText,
    /// As CUDA counts: 12020 is 12.2.
    pub(super) version: u32,
}

impl DriverLibrary {
    /// CUDA's major version that the driver can serve.
    pub(super) fn cuda_major(&self) -> u32 {
        self.version / 1000
    }

    /// What CUDA calls an error, and what it says about it.
    pub(super) fn explain(&self, code: u32) -> String {
        let said = |function: ErrorText| {
            let mut text: *const c_char = std::ptr::null();
            // SAFETY: the function writes a pointer to a static string, or leaves null for a number it does not know.
            let status = unsafe { function(code, &raw mut text) };
            // SAFETY: where the call succeeded, a static C string.
            (status == 0 && !text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
        };
        match (said(self.error_name), said(self.error_text)) {
            (Some(name), Some(text)) => format!("{name} ({text})"),
            (Some(name), None) => name,
            _ => format!("error {code}"),
        }
    }
}

/// Opens the driver's library and starts the driver.
///
/// # Errors
/// It is not there, is too old, or refuses.
pub(super) fn open_driver(surroundings: &Surroundings) -> Result<DriverLibrary, CudaError> {
    open_driver_in(surroundings, &driver_places(surroundings))
}

/// As [`open_driver`], in given places.
pub(super) fn open_driver_in(surroundings: &Surroundings, places: &[Place]) -> Result<DriverLibrary, CudaError> {
    type Version = unsafe extern "C" fn(*mut c_int) -> u32;
    let name = "libcuda.so.1".to_owned();
    // The version first: an old driver lacks functions, and that is the reason a person should read.
    let opened = open(
        std::slice::from_ref(&name),
        places,
        |library| {
            let mut version: c_int = 0;
            // SAFETY: a function of every driver, with this signature.
            let ask = unsafe { library.get::<Version>("cuDriverGetVersion") }.map_err(|_| "cuDriverGetVersion")?;
            // SAFETY: it writes the number, before or after cuInit.
            let known = unsafe { ask(&raw mut version) } == 0;
            let version = if known { u32::try_from(version).unwrap_or(0) } else { 0 };
            // SAFETY: both write a `const char *` for a status, which is an `unsigned int`.
            let error_name = unsafe { library.get::<ErrorText>("cuGetErrorName") }.map_err(|_| "cuGetErrorName")?;
            // SAFETY: as above.
            let error_text = unsafe { library.get::<ErrorText>("cuGetErrorString") }.map_err(|_| "cuGetErrorString")?;
            Ok((version, *error_name, *error_text, Cuda::of(library)))
        },
        |_| Ok(()),
    )
    .map_err(|rejected| CudaError::MissingLibrary {
        library: name,
        purpose: "NVIDIA's driver",
        because: match card_on_bus(surroundings) {
            Some(false) => format!("{}; no card of NVIDIA's is on the PCI bus either", because(&rejected)),
            _ => because(&rejected),
        },
        looked_in: listed(places),
        remedy: driver_remedy(surroundings),
    })?;
    let path = opened.path;
    let (version, error_name, error_text, functions) = opened.functions;
    if version < OLDEST_CUDA * 1000 {
        return Err(CudaError::DriverTooOld {
            found: format!("{}.{}", version / 1000, version % 1000 / 10),
            needed: OLDEST_CUDA_NAME,
            remedy: driver_remedy(surroundings),
        });
    }
    let cuda = functions.map_err(|lacks| CudaError::UnusableLibrary { path, reason: format!("it lacks {lacks}") })?;
    let driver = DriverLibrary { cuda, error_name, error_text, version };
    // SAFETY: the flags must be 0; it may be called any number of times.
    match unsafe { (driver.cuda.cuInit)(0) } {
        0 => Ok(driver),
        code => Err(CudaError::DriverRefuses {
            call: "cuInit",
            text: driver.explain(code),
            meaning: meaning(code),
            absent: matches!(code, STUB | NO_GPU),
        }),
    }
}

/// CUDA's word for a library that is there for the linker alone.
const STUB: u32 = cu::CUresult::CUDA_ERROR_STUB_LIBRARY as u32;
/// And for a driver that sees no GPU.
const NO_GPU: u32 = cu::CUresult::CUDA_ERROR_NO_DEVICE as u32;

/// What usually is behind a driver that does not start.
fn meaning(code: u32) -> &'static str {
    match code {
        STUB => "this libcuda is the toolkit's stub for linking, not the driver: install the driver",
        NO_GPU => "the driver sees no GPU: is it visible to this container or user, and does `nvidia-smi` list it?",
        802 => "the system's GPUs are not ready: is nvidia-fabricmanager running?",
        803 => "the driver was updated without a restart: restart the machine",
        804 => "a compatibility package shadows the driver: take its `compat` folder out of the library path",
        _ => "the driver's kernel module may be missing or stuck: does `nvidia-smi` work? else restart the machine",
    }
}

/// File names of a toolkit library that the driver can serve, the newest first: an older toolkit runs on a newer driver,
/// the reverse does not.
fn names(stem: &str, cuda_major: u32) -> Vec<String> {
    (OLDEST_CUDA..=cuda_major).rev().map(|major| format!("{stem}.so.{major}")).collect()
}

fn missing(
    stem: &str,
    purpose: &'static str,
    (surroundings, cuda_major): (&Surroundings, u32),
    places: &[Place],
    rejected: &[Rejected],
) -> CudaError {
    CudaError::MissingLibrary {
        library: names(stem, cuda_major).join(" or "),
        purpose,
        because: because(rejected),
        looked_in: listed(places),
        remedy: toolkit_remedy(surroundings, cuda_major),
    }
}

/// Opens NVRTC for a driver of this CUDA version.
///
/// # Errors
/// It is nowhere, or no file of its name will do.
pub(super) fn open_nvrtc(surroundings: &Surroundings, cuda_major: u32) -> Result<Opened<Nvrtc>, CudaError> {
    let places = toolkit_places(surroundings);
    open(&names("libnvrtc", cuda_major), &places, Nvrtc::of, |_| Ok(()))
        .map_err(|rejected| missing("libnvrtc", "compiles the kernels", (surroundings, cuda_major), &places, &rejected))
}

/// The oldest cuBLASLt that knows a GPU, as the library counts: 120800 is 12.8.
fn oldest_cublaslt(capability: (i32, i32)) -> usize {
    match capability {
        (10, 3..) | (11, _) | (12, 1..) | (13.., _) => 120_900,
        (10 | 12, _) => 120_800,
        _ => 120_000,
    }
}

/// Opens cuBLASLt for a driver of this CUDA version and a GPU of this compute capability.
///
/// # Errors
/// It is nowhere, or no file of its name will do.
pub(super) fn open_cublaslt(
    surroundings: &Surroundings,
    cuda_major: u32,
    capability: (i32, i32),
) -> Result<Opened<CublasLt>, CudaError> {
    let places = toolkit_places(surroundings);
    let oldest = oldest_cublaslt(capability);
    let judge = |functions: &CublasLt| {
        // SAFETY: takes nothing and needs no GPU.
        let version = unsafe { (functions.cublasLtGetVersion)() };
        if version >= oldest {
            return Ok(());
        }
        let name = |version: usize| format!("{}.{}", version / 10_000, version % 10_000 / 100);
        Err(format!("it is version {}, and this GPU needs {}", name(version), name(oldest)))
    };
    open(&names("libcublasLt", cuda_major), &places, CublasLt::of, judge)
        .map_err(|rejected| missing("libcublasLt", "matrix products", (surroundings, cuda_major), &places, &rejected))
}

/// Opens cuDNN, which nobody has to have, for a driver of this CUDA version. That it is nowhere is worth a word only to whoever
/// has `insisted` on it.
///
/// # Errors
/// What to tell a person: a file of its name will not do, or what is insisted on is not there.
pub(super) fn open_cudnn(
    surroundings: &Surroundings,
    cuda_major: u32,
    insisted: bool,
) -> Result<Option<Cudnn>, String> {
    let places = toolkit_places(surroundings);
    let judge = |functions: &Cudnn| {
        // SAFETY: takes nothing and needs no GPU.
        let (version, cuda) = unsafe { ((functions.cudnnGetVersion)(), (functions.cudnnGetCudartVersion)()) };
        if cuda / 1000 > cuda_major as usize {
            return Err(format!("it is for CUDA {}, and the driver for {cuda_major}", cuda / 1000));
        }
        if version >= sdpa::OLDEST {
            return Ok(());
        }
        // Numbers of version 8 and earlier have one digit less.
        let unit = if version < 10_000 { 1000 } else { 10_000 };
        let minor = version % unit / 100;
        Err(format!("it is version {}.{minor}.{}, and its attention needs 9.21", version / unit, version % 100))
    };
    let rejected = match open(&["libcudnn.so.9".to_owned()], &places, Cudnn::of, judge) {
        Ok(opened) => return Ok(Some(opened.functions)),
        Err(rejected) if rejected.is_empty() && !insisted => return Ok(None),
        Err(rejected) => rejected,
    };
    let remedy = cudnn_remedy(surroundings, cuda_major);
    Err(format!(
        "our kernels compute attention, for libcudnn.so.9 was not found{} (it is optional; to get it: {remedy})",
        because(&rejected)
    ))
}
