//! From flags to a device. Everything that computes is generic over it; [`on_device`] is the one place that is not.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use casallm_compute::cuda::CudaDevice;
use casallm_compute::cuda::nvidia::search::Surroundings;
use casallm_compute::cuda::nvidia::{CudnnUse, NvidiaDriver, NvidiaSettings};
use casallm_compute::{CacheFormat, ComputeError, CpuDevice, Isa, MatrixFormat};

use crate::args::{CacheKind, Compute, DeviceChoice, PrecisionKind, WeightsKind};
use crate::streams::tell;

/// A device of either kind.
pub(crate) enum Opened {
    /// The processor.
    Cpu(Arc<CpuDevice>),
    /// A GPU.
    Cuda(Arc<CudaDevice>),
}

/// Evaluates an expression with the device that was opened.
macro_rules! on_device {
    ($opened:expr, $device:ident => $body:expr) => {
        match $opened {
            $crate::devices::Opened::Cpu($device) => $body,
            $crate::devices::Opened::Cuda($device) => $body,
        }
    };
}
pub(crate) use on_device;

/// The device that the flags ask for.
pub(crate) fn open(flags: &Compute, threads_of_recipe: usize) -> Result<Opened> {
    let for_the_processor = [("--threads", flags.threads.is_some()), ("--isa", flags.isa.is_some())];
    let named = for_the_processor.iter().find(|(_, given)| *given).map(|(name, _)| name);
    match (flags.device, named) {
        (DeviceChoice::Cuda(_), Some(name)) => bail!("{name} is for the processor: leave it out, or use --device cpu"),
        (DeviceChoice::Cuda(ordinal), None) => Ok(Opened::Cuda(cuda(flags, ordinal)?)),
        // Who names threads or an instruction set means the processor.
        (DeviceChoice::Cpu, _) | (DeviceChoice::Auto, Some(_)) => Ok(Opened::Cpu(cpu(flags, threads_of_recipe)?)),
        (DeviceChoice::Auto, None) => match cuda(flags, 0) {
            Ok(device) => Ok(Opened::Cuda(device)),
            Err(error) => {
                // Without driver or GPU nobody expects one to be used. With them, a person would wonder.
                if !matches!(&error, ComputeError::Cuda(error) if error.is_absence()) {
                    tell(&format!("casallm: the GPU cannot be used, going on with the processor: {error}"));
                }
                Ok(Opened::Cpu(cpu(flags, threads_of_recipe)?))
            }
        },
    }
}

/// The processor, with the threads and the instruction set asked for.
pub(crate) fn cpu(flags: &Compute, threads_of_recipe: usize) -> Result<Arc<CpuDevice>> {
    let isa = match &flags.isa {
        Some(name) => Isa::parse(name)?,
        None => Isa::detect().context("CASALLM_ISA in the environment")?,
    };
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = flags.threads.unwrap_or(if threads_of_recipe == 0 { all } else { threads_of_recipe });
    Ok(Arc::new(CpuDevice::new(threads, isa)?))
}

/// A GPU. `CASALLM_CUDA_UNTIMED=1` takes the library's first proposal for every matrix product; `CASALLM_CUDA_GRAPHS=0`
/// starts every operation by itself; `CASALLM_CUDNN=0` leaves attention to our kernels, `CASALLM_CUDNN=1` to cuDNN wherever that
/// computes the same.
fn cuda(flags: &Compute, ordinal: usize) -> Result<Arc<CudaDevice>, ComputeError> {
    let is = |name: &str, value: &str| std::env::var_os(name).is_some_and(|given| given == value);
    let untimed = is("CASALLM_CUDA_UNTIMED", "1");
    let cudnn = match std::env::var_os("CASALLM_CUDNN") {
        Some(given) if given == "0" => CudnnUse::Never,
        Some(given) if given == "1" => CudnnUse::Always,
        _ => CudnnUse::Faster,
    };
    let settings = NvidiaSettings { ordinal, tf32: flags.tf32, untimed, cudnn };
    let driver = NvidiaDriver::open(settings, &Surroundings::here())?;
    Ok(Arc::new(CudaDevice::with_graphs(Arc::new(driver), !is("CASALLM_CUDA_GRAPHS", "0"))?))
}

/// The format of weights that a flag means.
pub(crate) fn format(weights: WeightsKind) -> MatrixFormat {
    match weights {
        WeightsKind::F32 => MatrixFormat::F32,
        WeightsKind::Bf16 => MatrixFormat::Bf16,
        WeightsKind::Q8 => MatrixFormat::Q8,
        WeightsKind::Q4 => MatrixFormat::Q4,
    }
}

/// The format of a KV cache that a flag means, beside weights of that format.
pub(crate) fn cache(kind: CacheKind, weights: MatrixFormat) -> CacheFormat {
    match kind {
        CacheKind::Bf16 => weights.activations().into(),
        CacheKind::Q8 => CacheFormat::Q8,
    }
}

/// How a flag holds the matrices of the blocks; the storage type of activations follows from it.
pub(crate) fn matrices(precision: PrecisionKind) -> MatrixFormat {
    match precision {
        PrecisionKind::Bf16 => MatrixFormat::Bf16,
        PrecisionKind::F32 => MatrixFormat::F32,
        PrecisionKind::Fp8 => MatrixFormat::Fp8,
    }
}
