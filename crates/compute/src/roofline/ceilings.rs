//! What the machine can do at best, measured.

use std::time::{Duration, Instant};

use super::operands::Operands;
use super::work::Work;
use crate::device::{Device, MatrixUse, Out};
use crate::dtype::DType;
use crate::error::ComputeError;

/// Sides of a square product, of which the smallest is taken that lasts long enough: 2 TFLOP/s are reached at 1024, and a
/// GPU of hundreds at 8192.
const SIDES: [usize; 4] = [1024, 2048, 4096, 8192];
/// Long enough that neither the clock nor the start of the work counts.
const LONG_ENOUGH: f64 = 1e-3;
/// For each measured product and transfer.
const SPENT: Duration = Duration::from_millis(250);
/// Elements of a transfer: 512 MiB of f32, beyond the caches there are.
const TRANSFER: usize = 1 << 27;
/// A quarter of it is enough where memory is short or slow: beyond most caches still.
const SHORT_TRANSFER: usize = 1 << 25;

/// Bytes a second by what is done with them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bandwidth {
    /// `sum_of_squares`.
    pub read: f64,
    /// `fill_zero`.
    pub write: f64,
    /// `copy`, bytes read and bytes written together.
    pub copy: f64,
}

impl Bandwidth {
    /// The largest.
    pub fn best(&self) -> f64 {
        self.read.max(self.write).max(self.copy)
    }
}

/// Which ceiling is nearer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// FLOP/s.
    Compute,
    /// Bytes a second.
    Memory,
}

impl Bound {
    /// For people and machines.
    pub fn name(self) -> &'static str {
        match self {
            Bound::Compute => "compute",
            Bound::Memory => "memory",
        }
    }
}

/// The machine's limits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ceilings {
    /// FLOP/s of the best matrix product of f32.
    pub f32: f64,
    /// FLOP/s of the best matrix product of bf16.
    pub bf16: f64,
    /// Of memory.
    pub bandwidth: Bandwidth,
    /// Seconds until the host knows that a device with nothing to do is done.
    pub wait: f64,
}

impl Ceilings {
    /// Measures them, in about three seconds.
    ///
    /// # Errors
    /// The memory cannot be had, or the device has failed.
    pub fn measure<D: Device>(device: &D) -> Result<Self, ComputeError> {
        let ceilings = Ceilings {
            f32: best_product(device, DType::F32)?,
            bf16: best_product(device, DType::Bf16)?,
            bandwidth: bandwidth(device)?,
            wait: wait(device)?,
        };
        device.check()?;
        Ok(ceilings)
    }

    /// FLOP/s for operands of that type.
    pub fn flops_per_s(&self, dtype: DType) -> f64 {
        if dtype == DType::Bf16 { self.bf16 } else { self.f32 }
    }

    /// The least seconds that work can take, and which ceiling says so.
    pub fn least_seconds(&self, work: &Work) -> (f64, Bound) {
        let compute = work.flops() as f64 / self.flops_per_s(work.arithmetic());
        let memory = work.bytes() as f64 / self.bandwidth.best();
        if compute >= memory { (compute, Bound::Compute) } else { (memory, Bound::Memory) }
    }
}

/// The fastest of some runs of work, waited for.
fn fastest<D: Device>(device: &D, mark: &D::Buffer, mut work: impl FnMut()) -> f64 {
    let mut once = || {
        let start = Instant::now();
        work();
        // A device may return before it is done: to read is to wait.
        device.read_f32(mark, 0, &mut [0.0]);
        start.elapsed().as_secs_f64()
    };
    // The first one may compile kernels and choose algorithms.
    once();
    let begun = Instant::now();
    let mut best = once();
    while best >= LONG_ENOUGH && begun.elapsed() < SPENT {
        best = best.min(once());
    }
    best
}

/// Seconds of the fastest product of `[tokens, columns]` with `[rows, columns]` transposed, repeated for a quarter of a
/// second where it lasts more than a millisecond.
///
/// # Errors
/// The memory cannot be had, or the device has failed.
pub fn fastest_product<D: Device>(
    device: &D,
    dtype: DType,
    (tokens, rows, columns): (usize, usize, usize),
) -> Result<f64, ComputeError> {
    let operands = Operands(device);
    let x = operands.values(dtype, tokens * columns)?;
    let mut y = device.allocate("roofline output", dtype, tokens * rows)?;
    let matrix = operands.matrix(dtype, (rows, columns), MatrixUse::Inference)?;
    let mark = device.allocate("roofline mark", DType::F32, 1)?;
    let best = fastest(device, &mark, || device.linear(&x, &matrix, None, tokens, Out::Store(&mut y)));
    device.check()?;
    Ok(best)
}

/// FLOP/s of the best of some large products: a square one, and as long and as wide ones as a transformer has.
fn best_product<D: Device>(device: &D, dtype: DType) -> Result<f64, ComputeError> {
    let mut best: f64 = 0.0;
    for n in SIDES {
        let seconds = fastest_product(device, dtype, (n, n, n))?;
        best = best.max(2.0 * (n as f64).powi(3) / seconds);
        if seconds < LONG_ENOUGH && n != SIDES[SIDES.len() - 1] {
            continue;
        }
        for (tokens, rows, columns) in [(2 * n, n, n), (n, 2 * n, n), (n, n, 2 * n)] {
            let seconds = fastest_product(device, dtype, (tokens, rows, columns))?;
            best = best.max(4.0 * (n as f64).powi(3) / seconds);
        }
        break;
    }
    Ok(best)
}

fn bandwidth<D: Device>(device: &D) -> Result<Bandwidth, ComputeError> {
    let roomy = device.available_bytes().is_none_or(|bytes| bytes > 16 * TRANSFER as u64);
    let len = if roomy { TRANSFER } else { SHORT_TRANSFER };
    let operands = Operands(device);
    let (from, mut to) = (operands.values(DType::F32, len)?, operands.values(DType::F32, len)?);
    let mark = device.allocate("roofline mark", DType::F32, 1)?;
    let bytes = 4.0 * len as f64;
    let read = fastest(device, &mark, || {
        std::hint::black_box(device.sum_of_squares(&from));
    });
    let copy = fastest(device, &mark, || device.copy(&from, len, &mut to));
    let write = fastest(device, &mark, || device.fill_zero(&mut to));
    Ok(Bandwidth { read: bytes / read, write: bytes / write, copy: 2.0 * bytes / copy })
}

/// The median of some waits for nothing.
fn wait<D: Device>(device: &D) -> Result<f64, ComputeError> {
    let mark = device.allocate("roofline mark", DType::F32, 1)?;
    let mut waits: Vec<f64> = (0..101)
        .map(|_| {
            let start = Instant::now();
            device.read_f32(&mark, 0, &mut [0.0]);
            start.elapsed().as_secs_f64()
        })
        .collect();
    waits.sort_by(f64::total_cmp);
    Ok(waits[waits.len() / 2])
}
