//! The machine's matrix peak, measured: what FLOP utilisation is a share of.

use casallm_compute::roofline::fastest_product;
use casallm_compute::{DType, Device};

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
        let best = fastest_product(device, dtype, (n, n, n))?;
        peak = peak.max(2.0 * (n * n * n) as f64 / best);
        if best >= LONG_ENOUGH {
            break;
        }
    }
    Ok(peak)
}
