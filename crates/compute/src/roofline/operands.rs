//! Operands of work that is timed: numbers of the usual sizes, for arithmetic on zeros can be faster than any other.

use crate::device::{Device, MatrixUse};
use crate::dtype::DType;
use crate::error::ComputeError;
use crate::matrix_format::MatrixFormat;

/// Values that are made once and repeated.
const PATTERN: usize = 1 << 16;

/// Puts operands on a device.
pub(super) struct Operands<'d, D>(pub(super) &'d D);

/// SplitMix64 (Steele et al. 2014).
fn random(counter: u64) -> u64 {
    let z = counter.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl<D: Device> Operands<'_, D> {
    fn filled(&self, dtype: DType, len: usize, value: impl Fn(f32) -> f32) -> Result<D::Buffer, ComputeError> {
        let mut buffer = self.0.allocate("roofline operand", dtype, len)?;
        let uniform = |i: usize| (random(i as u64 + 1) >> 40) as f32 / (1_u64 << 24) as f32;
        let pattern: Vec<f32> = (0..PATTERN.min(len)).map(|i| value(uniform(i))).collect();
        for at in (0..len).step_by(PATTERN) {
            self.0.write_f32(&mut buffer, at, &pattern[..PATTERN.min(len - at)]);
        }
        Ok(buffer)
    }

    /// Between minus and plus one.
    pub(super) fn values(&self, dtype: DType, len: usize) -> Result<D::Buffer, ComputeError> {
        self.filled(dtype, len, |u| 2.0 * u - 1.0)
    }

    /// Between a tenth and one: what a root is taken of.
    pub(super) fn positive(&self, len: usize) -> Result<D::Buffer, ComputeError> {
        self.filled(DType::F32, len, |u| 0.1 + 0.9 * u)
    }

    /// Indices below `bound`.
    pub(super) fn indices(&self, len: usize, bound: usize) -> Result<D::Buffer, ComputeError> {
        self.places(len, |i| (random(i as u64) % bound.max(1) as u64) as u32)
    }

    /// Chosen indices.
    pub(super) fn places(&self, len: usize, place: impl Fn(usize) -> u32) -> Result<D::Buffer, ComputeError> {
        let mut buffer = self.0.allocate("roofline indices", DType::U32, len)?;
        self.0.write_u32(&mut buffer, 0, &(0..len).map(place).collect::<Vec<_>>());
        Ok(buffer)
    }

    /// A packed matrix.
    pub(super) fn matrix(
        &self,
        format: impl Into<MatrixFormat>,
        (rows, columns): (usize, usize),
        usage: MatrixUse,
    ) -> Result<D::Matrix, ComputeError> {
        let mut matrix = self.0.allocate_matrix("roofline weight", format.into(), rows, columns, usage)?;
        // Of the size of a layer's weights: products of them stay near one.
        let values = self.filled(DType::F32, rows * columns, |u| 0.1 * u - 0.05)?;
        self.0.pack(&values, &mut matrix);
        Ok(matrix)
    }
}
