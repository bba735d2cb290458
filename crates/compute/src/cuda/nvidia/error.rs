//! What can stand between a person and their GPU.

use std::path::PathBuf;

/// An error of the CUDA device. Those that a person meets before anything runs name the remedy, and say that the CPU
/// would do.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CudaError {
    /// A library that is needed is nowhere.
    #[error(
        "{library} ({purpose}) was not found{because}\n  looked in: {looked_in}\n  to get it: {remedy}\n  without it: --device cpu"
    )]
    MissingLibrary {
        /// Its file's name.
        library: String,
        /// What it is for.
        purpose: &'static str,
        /// What else is known: files of that name which would not do, no card on the bus.
        because: String,
        /// Every place, in the order of the search.
        looked_in: String,
        /// One command.
        remedy: String,
    },
    /// The driver is older than what it has to run.
    #[error(
        "NVIDIA's driver is for CUDA {found}, and {needed} is the oldest that will do\n  to get a newer one: {remedy}\n  without it: --device cpu"
    )]
    DriverTooOld {
        /// CUDA version of the driver, as `12.2`.
        found: String,
        /// The oldest that works.
        needed: &'static str,
        /// One command.
        remedy: String,
    },
    /// The driver is there and refuses to start.
    #[error(
        "NVIDIA's driver does not start: {call} says {text}\n  what that means: {meaning}\n  without it: --device cpu"
    )]
    DriverRefuses {
        /// The function.
        call: &'static str,
        /// CUDA's name and text of the error.
        text: String,
        /// What usually is behind it.
        meaning: &'static str,
        /// Whether it comes of there being no GPU, or no driver but the toolkit's stub of one.
        absent: bool,
    },
    /// `cuda:3` on a machine with two.
    #[error("there is no cuda:{ordinal}: this machine has {count} {}, counted from 0 (CUDA_VISIBLE_DEVICES may hide some); --device cpu works without", if *.count == 1 { "GPU" } else { "GPUs" })]
    NoSuchDevice {
        /// What was asked for.
        ordinal: usize,
        /// How many there are.
        count: usize,
    },
    /// Older than Ampere.
    #[error(
        "{name} has compute capability {major}.{minor}: the kernels need the bf16 matrix instructions of 8.0 (RTX 30 and later); use --device cpu"
    )]
    DeviceTooOld {
        /// The GPU.
        name: String,
        /// Compute capability.
        major: i32,
        /// Compute capability.
        minor: i32,
    },
    /// A call failed. The first such error stays.
    #[error("{call} failed: {text}{hint}")]
    Call {
        /// The function.
        call: &'static str,
        /// CUDA's name and text of the error.
        text: String,
        /// What may be behind it; empty or a whole sentence.
        hint: &'static str,
    },
    /// The GPU's memory is full, before there is anything of ours on it: whoever asks later has an error of their own.
    #[error(
        "the GPU has no {bytes} bytes left ({free} are free), which every run needs beside its model: what else is on it? (nvidia-smi lists it)\n  without it: --device cpu"
    )]
    OutOfMemory {
        /// What was asked for.
        bytes: usize,
        /// What the driver says is free.
        free: u64,
    },
    /// The system does not lock memory of the host.
    #[error("{bytes} bytes of the host's memory cannot be locked for the GPU")]
    PinnedMemory {
        /// What was asked for.
        bytes: usize,
    },
    /// A kernel does not compile: a defect of this program, or a compiler that is too old.
    #[error("{kernel} does not compile for {target} with NVRTC {nvrtc}:\n{log}")]
    Compile {
        /// Family, storage and defines.
        kernel: String,
        /// Architecture.
        target: String,
        /// The compiler's version.
        nvrtc: String,
        /// What the compiler says.
        log: String,
    },
    /// cuBLASLt knows no algorithm for a product.
    #[error("cuBLASLt {version} has no algorithm for {product}")]
    NoAlgorithm {
        /// Its version.
        version: usize,
        /// Sizes and types.
        product: String,
    },
    /// A launch that the host should not have asked for.
    #[error("{kernel}: {reason}")]
    Launch {
        /// The entry.
        kernel: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A library of the right name that cannot be used, or lacks a function.
    #[error("{} cannot be used: {reason}", path.display())]
    UnusableLibrary {
        /// Where it lies.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
}

impl CudaError {
    /// Whether the machine has no NVIDIA driver or no GPU: then nobody expects one to be used. A driver that is there and
    /// cannot start, as after an update without a restart, is none of that.
    pub fn is_absence(&self) -> bool {
        match self {
            CudaError::MissingLibrary { library, .. } => library.starts_with("libcuda."),
            CudaError::DriverRefuses { absent, .. } => *absent,
            CudaError::NoSuchDevice { count: 0, .. } => true,
            _ => false,
        }
    }
}
