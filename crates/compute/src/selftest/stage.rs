//! How a case is run: operands on the device, poisoned and guarded; twice; compared.

use super::check::{Check, Tolerance};
use super::random::Random;
use crate::device::{Device, MatrixUse};
use crate::dtype::DType;
use crate::error::ComputeError;
use crate::matrix_format::MatrixFormat;

/// Elements behind each buffer that no operation may write or depend on: not a multiple of any vector.
pub(super) const GUARD: usize = 19;
/// What they hold behind outputs; exact in bf16.
const GUARD_VALUE: f32 = -24576.0;

/// What one run of a case read back, output by output.
pub(super) type Observed = Result<Vec<Vec<f64>>, ComputeError>;

/// One output that a case must produce.
pub(super) struct Expected {
    output: &'static str,
    values: Vec<f64>,
    tolerance: Tolerance,
}

impl Expected {
    pub(super) fn new(output: &'static str, values: Vec<f64>, tolerance: Tolerance) -> Self {
        Expected { output, values, tolerance }
    }
}

/// Puts operands on a device.
pub(super) struct Stage<'d, D>(pub(super) &'d D);

impl<D: Device> Stage<'_, D> {
    fn guarded(&self, dtype: DType, values: &[f32], guard: f32) -> Result<D::Buffer, ComputeError> {
        let mut buffer = self.0.allocate("selftest", dtype, values.len() + GUARD)?;
        self.0.write_f32(&mut buffer, 0, values);
        self.0.write_f32(&mut buffer, values.len(), &[guard; GUARD]);
        Ok(buffer)
    }

    /// Values to read, NaN behind them.
    pub(super) fn input(&self, dtype: DType, values: &[f32]) -> Result<D::Buffer, ComputeError> {
        self.guarded(dtype, values, f32::NAN)
    }

    /// Values to read, nothing behind them: for operations that take a whole buffer.
    pub(super) fn whole(&self, values: &[f32]) -> Result<D::Buffer, ComputeError> {
        let mut buffer = self.0.allocate("selftest", DType::F32, values.len())?;
        self.0.write_f32(&mut buffer, 0, values);
        Ok(buffer)
    }

    /// Indices to read, zeros behind them.
    pub(super) fn indices(&self, values: &[u32]) -> Result<D::Buffer, ComputeError> {
        let mut buffer = self.0.allocate("selftest", DType::U32, values.len() + GUARD)?;
        self.0.write_u32(&mut buffer, 0, values);
        Ok(buffer)
    }

    /// NaN to be overwritten, a guard behind it.
    pub(super) fn output(&self, dtype: DType, len: usize) -> Result<D::Buffer, ComputeError> {
        self.guarded(dtype, &vec![f32::NAN; len], GUARD_VALUE)
    }

    /// f32 values to be added to, a guard behind them.
    pub(super) fn accumulator(&self, values: &[f32]) -> Result<D::Buffer, ComputeError> {
        self.in_place(DType::F32, values)
    }

    /// Values that the operation reads and overwrites, a guard behind them.
    pub(super) fn in_place(&self, dtype: DType, values: &[f32]) -> Result<D::Buffer, ComputeError> {
        self.guarded(dtype, values, GUARD_VALUE)
    }

    /// A packed matrix of these f32 values.
    pub(super) fn matrix(
        &self,
        format: impl Into<MatrixFormat>,
        values: &[f32],
        columns: usize,
        usage: MatrixUse,
    ) -> Result<D::Matrix, ComputeError> {
        let mut matrix = self.0.allocate_matrix("selftest", format.into(), values.len() / columns, columns, usage)?;
        self.0.pack(&self.input(DType::F32, values)?, &mut matrix);
        Ok(matrix)
    }

    /// All of a buffer, guard included.
    pub(super) fn read(&self, buffer: &D::Buffer) -> Vec<f64> {
        let mut values = vec![0.0; self.0.len(buffer)];
        self.0.read_f32(buffer, 0, &mut values);
        super::random::wide(&values)
    }
}

/// The device under test, the source of inputs, and what was found so far.
pub(super) struct Trial<'d, D> {
    device: &'d D,
    pub(super) random: Random,
    checks: Vec<Check>,
}

impl<'d, D: Device> Trial<'d, D> {
    pub(super) fn new(device: &'d D, random: Random) -> Self {
        Trial { device, random, checks: Vec::new() }
    }

    /// For what a case needs to know of the device beforehand.
    pub(super) fn stage(&self) -> Stage<'d, D> {
        Stage(self.device)
    }

    pub(super) fn into_checks(self) -> Vec<Check> {
        self.checks
    }

    /// Runs a case twice and checks each of its outputs.
    pub(super) fn case(
        &mut self,
        operation: &'static str,
        case: String,
        expected: Vec<Expected>,
        act: impl Fn(&Stage<'_, D>) -> Observed,
    ) {
        let stage = Stage(self.device);
        judge(&mut self.checks, operation, case, &expected, (act(&stage), act(&stage)));
    }
}

/// The checks of a case that ran twice. Apart from [`Trial::case`], of which there is one for each case and device.
fn judge(
    checks: &mut Vec<Check>,
    operation: &'static str,
    case: String,
    expected: &[Expected],
    runs: (Observed, Observed),
) {
    let (first, again) = match runs {
        (Ok(first), Ok(again)) => (first, again),
        (Err(error), _) | (_, Err(error)) => {
            checks.push(Check::failed(operation, case, error.to_string()));
            return;
        }
    };
    assert_eq!(first.len(), expected.len(), "{operation} {case}: the case reads back what it expects");
    for ((expected, got), again) in expected.iter().zip(&first).zip(&again) {
        let case = format!("{case}: {}", expected.output);
        let guard = f64::from(GUARD_VALUE);
        let mut check = Check::compare(operation, case, (got, guard), &expected.values, expected.tolerance);
        if let Some(i) = got.iter().zip(again).position(|(a, b)| a.to_bits() != b.to_bits()) {
            check.fail(format!("a second run gave {:e} for element {i}, not {:e}", again[i], got[i]));
        }
        checks.push(check);
    }
}
