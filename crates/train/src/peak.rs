//! The machine's matrix peak, measured: what FLOP utilisation is a share of.

use std::time::{Duration, Instant};

use casallm_compute::{DType, Device, MatrixUse, Out};

use crate::error::TrainError;

/// Sizes of a square product, the smallest that lasts long enough is taken: 2 TFLOP/s are reached at 1024, and a GPU of
/// hundreds at 8192.
const SIZES: [usize; 4] = [1024, 2048, 4096, 8192];
/// Long enough that neither the clock nor the start of the work counts.
const LONG_ENOUGH: f64 = 1e-3;

/// FLOP/s of the device's best matrix product: the fastest of a series of square products lasting about a quarter of a
/// second.
///
/// # Errors
/// The memory cannot be had, or the device has failed.
pub fn measure<D: Device>(device: &D, dtype: DType) -> Result<f64, TrainError> {
    let mut peak: f64 = 0.0;
    for n in SIZES {
        let best = fastest(device, dtype, n)?;
        peak = peak.max(2.0 * (n * n * n) as f64 / best);
        if best >= LONG_ENOUGH {
            break;
        }
    }
    Ok(peak)
}

/// Seconds of the fastest `n` x `n` x `n` product.
fn fastest<D: Device>(device: &D, dtype: DType, n: usize) -> Result<f64, TrainError> {
    let x = device.allocate("peak input", dtype, n * n)?;
    let mut y = device.allocate("peak output", dtype, n * n)?;
    let matrix = device.allocate_matrix("peak weight", dtype.into(), n, n, MatrixUse::Inference)?;
    let mut product = || {
        let start = Instant::now();
        device.linear(&x, &matrix, None, n, Out::Store(&mut y));
        // A device may return before it is done: to read is to wait.
        device.read_f32(&y, 0, &mut [0.0]);
        start.elapsed().as_secs_f64()
    };
    // The first one may compile kernels and choose algorithms.
    product();
    let begun = Instant::now();
    let mut best = product();
    while best >= LONG_ENOUGH && begun.elapsed() < Duration::from_millis(250) {
        best = best.min(product());
    }
    device.check()?;
    Ok(best)
}
