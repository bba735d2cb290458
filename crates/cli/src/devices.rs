//! From flags to a device.

use std::sync::Arc;

use anyhow::Result;
use casallm_compute::{CpuDevice, DType, Isa};

use crate::args::{Compute, PrecisionKind};

/// The processor, with the threads and the instruction set asked for.
pub(crate) fn open(flags: &Compute, threads_of_recipe: usize) -> Result<Arc<CpuDevice>> {
    let isa = match &flags.isa {
        Some(name) => Isa::parse(name)?,
        None => Isa::detect()?,
    };
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = flags.threads.unwrap_or(if threads_of_recipe == 0 { all } else { threads_of_recipe });
    Ok(Arc::new(CpuDevice::new(threads, isa)?))
}

/// The storage type that a flag means.
pub(crate) fn dtype(precision: PrecisionKind) -> DType {
    match precision {
        PrecisionKind::Bf16 => DType::Bf16,
        PrecisionKind::F32 => DType::F32,
    }
}
