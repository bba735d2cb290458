//! What can go wrong in `compute`.

use crate::device::DeviceInfo;

/// An error of the compute crate.
#[derive(Debug, thiserror::Error)]
pub enum ComputeError {
    /// `CASALLM_ISA` or `--isa` names nothing known.
    #[error("unknown instruction set '{name}'; this machine has: {available}")]
    UnknownIsa {
        /// What was asked for.
        name: String,
        /// What there is.
        available: String,
    },
    /// The instruction set exists, but not on this processor.
    #[error("this processor lacks the instruction set '{name}'; it has: {available}")]
    IsaNotHere {
        /// What was asked for.
        name: String,
        /// What there is.
        available: String,
    },
    /// The allocator refused.
    #[error("not enough memory for '{name}' ({bytes} bytes); choose a smaller model, batch, micro-batch or context")]
    OutOfMemory {
        /// The buffer's name.
        name: String,
        /// Its size.
        bytes: usize,
    },
    /// The system does not lock memory of the host for the GPU.
    #[error(
        "the system does not lock {bytes} bytes of the host's memory for '{name}', which the GPU is to reach there; free some memory or raise the limit (ulimit -l; under WSL, memory in .wslconfig), keep less there (moments = \"bf16\" or \"8bit\"), or keep it on the GPU (run.offload = \"none\")"
    )]
    PinnedMemory {
        /// The buffer's name.
        name: String,
        /// Its size.
        bytes: usize,
    },
    /// The buffers planned for the host's memory exceed what it has.
    #[error(
        "the plan keeps {needed_mib} MiB in the host's memory and {available_mib} MiB are free there; the largest parts are {largest}; keep less there (moments = \"bf16\" or \"8bit\"; run.checkpoint = \"between_steps\" needs no copy), or keep it on the GPU (run.offload = \"none\")"
    )]
    HostPlanTooLarge {
        /// Sum of the plan's part for the host.
        needed_mib: u64,
        /// What is free.
        available_mib: u64,
        /// The three largest entries.
        largest: String,
    },
    /// The planned buffers exceed what the machine has.
    #[error(
        "the plan needs {needed_mib} MiB and {available_mib} MiB are free; the largest parts are {largest}; choose a smaller model, batch, micro-batch or context"
    )]
    PlanTooLarge {
        /// Sum of the plan.
        needed_mib: u64,
        /// What is free.
        available_mib: u64,
        /// The three largest entries.
        largest: String,
    },
    /// Quantised weights have no gradient.
    #[error("'{name}' cannot be trained in {format}: quantised weights are for inference; train in bf16 or f32")]
    QuantizedTraining {
        /// The matrix.
        name: String,
        /// What was asked for.
        format: &'static str,
    },
    /// No such thread count.
    #[error("{threads} threads asked for; use 1 to {limit}")]
    Threads {
        /// What was asked for.
        threads: usize,
        /// The largest accepted value.
        limit: usize,
    },
    /// The thread pool could not start.
    #[error("could not start the thread pool: {0}")]
    ThreadPool(String),
    /// The device has no products of 8-bit operands.
    #[error(
        "precision \"fp8\" needs an NVIDIA GPU of compute capability 8.9 or later (RTX 40 and 50, L4, L40, H100, H200, B200); this is {device} ({isa}): use precision = \"bf16\""
    )]
    NoFp8 {
        /// Its name.
        device: String,
        /// Its instruction set or architecture.
        isa: String,
    },
    /// The device holds keys and values as activations only.
    #[error(
        "a KV cache of 8 bits is for the processor so far; this is {device} ({isa}): use --kv-cache bf16, or --device cpu"
    )]
    NoQuantizedCache {
        /// Its name.
        device: String,
        /// Its instruction set or architecture.
        isa: String,
    },
    /// The device's attention has no heads of that width.
    #[error(
        "heads of {head_dim} are wider than the {most} that attention takes on {device} ({isa}): choose more heads (n_head) or narrower ones (head_dim), or --device cpu"
    )]
    WideHeads {
        /// Their width.
        head_dim: usize,
        /// The widest that there are.
        most: usize,
        /// Its name.
        device: String,
        /// Its instruction set or architecture.
        isa: String,
    },
    /// The GPU, its driver or one of its libraries refused or failed.
    #[error("the GPU failed at {doing}: {reason}")]
    Gpu {
        /// The call or the kernel.
        doing: String,
        /// What it reported.
        reason: String,
    },
    /// What stands between the program and an NVIDIA GPU.
    #[error(transparent)]
    Cuda(#[from] crate::cuda::nvidia::error::CudaError),
}

impl ComputeError {
    /// For a device without products of 8-bit operands.
    pub(crate) fn no_fp8(device: &DeviceInfo) -> Self {
        ComputeError::NoFp8 { device: device.name.clone(), isa: device.isa.clone() }
    }
}
