//! What can go wrong in `compute`.

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
