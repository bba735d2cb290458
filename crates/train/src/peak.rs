//! The machine's matrix peak, measured: what FLOP utilisation is a share of.

use std::time::{Duration, Instant};

use casallm_compute::{DType, Device, MatrixUse, Out};

use crate::error::TrainError;

/// FLOP/s of the device's best matrix product: the fastest of a series of 1024 x 1024 x 1024 products lasting about a
/// quarter of a second.
///
/// # Errors
/// The memory cannot be had.
pub fn measure<D: Device>(device: &D, dtype: DType) -> Result<f64, TrainError> {
    const N: usize = 1024;
    let x = device.allocate("peak input", dtype, N * N)?;
    let mut y = device.allocate("peak output", dtype, N * N)?;
    let matrix = device.allocate_matrix("peak weight", dtype, N, N, MatrixUse::Inference)?;
    let begun = Instant::now();
    let mut best = f64::INFINITY;
    while begun.elapsed() < Duration::from_millis(250) {
        let start = Instant::now();
        device.linear(&x, &matrix, None, N, Out::Store(&mut y));
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(2.0 * (N * N * N) as f64 / best)
}
