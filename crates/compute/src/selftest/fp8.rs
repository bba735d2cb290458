//! Linear layers with 8-bit operands, against a reference that rounds its operands to the same codes.

use super::check::Tolerance;
use super::random::{plus, round, wide};
use super::stage::{Expected, Stage, Trial};
use crate::device::{Device, MatrixUse, Out};
use crate::dtype::DType;
use crate::error::ComputeError;
use crate::fp8::Fp8;
use crate::matrix_format::MatrixFormat;
use crate::reference::fp8::quantised;
use crate::reference::linear;

/// (tokens, columns, rows): one tile and less of the weight, several, part of the last; enough elements for many blocks.
const SIZES: [(usize, usize, usize); 7] =
    [(1, 16, 16), (15, 32, 48), (17, 64, 16), (33, 48, 80), (65, 144, 112), (2, 1040, 64), (257, 96, 80)];
/// Sides that are not multiples of 16: such a matrix is held in bf16.
const PLAIN: [(usize, usize, usize); 2] = [(5, 17, 48), (3, 32, 33)];

/// The codes are equal; how products of codes are summed is not said. Hopper's matrix units keep about 14 bits of a sum and
/// add such sums in f32. Then the result is rounded to bf16. What 8 bits cost, ten times as much, is not in here.
const PRODUCT: Tolerance = Tolerance { largest: 1.6e-2, typical: 4e-3 };

pub(super) fn run<D: Device>(trial: &mut Trial<'_, D>) {
    if trial.stage().0.supports(MatrixFormat::Fp8).is_err() {
        return;
    }
    for size in SIZES {
        layer(trial, size, quantised);
    }
    for size in PLAIN {
        layer(trial, size, |x, _| x.iter().map(|x| f64::from(round(DType::Bf16, *x))).collect());
    }
}

/// A matrix of 8-bit codes.
fn matrix<D: Device>(
    stage: &Stage<'_, D>,
    values: &[f32],
    columns: usize,
    usage: MatrixUse,
) -> Result<D::Matrix, ComputeError> {
    let rows = values.len() / columns;
    let mut matrix = stage.0.allocate_matrix("selftest", MatrixFormat::Fp8, rows, columns, usage)?;
    stage.0.pack(&stage.input(DType::F32, values)?, &mut matrix);
    Ok(matrix)
}

fn layer<D: Device>(
    trial: &mut Trial<'_, D>,
    (tokens, columns, rows): (usize, usize, usize),
    rounded: impl Fn(&[f32], Fp8) -> Vec<f64>,
) {
    const BF16: DType = DType::Bf16;
    let x = trial.random.normal(BF16, tokens * columns, 1.0);
    // Gradients are small; a scale that did not follow them would leave nothing of these.
    let dy: Vec<f32> = trial.random.normal(BF16, tokens * rows, 1.0).iter().map(|x| x / 65_536.0).collect();
    let weight = trial.random.normal(DType::F32, rows * columns, 1.0);
    let bias: Vec<f32> = trial.random.normal(BF16, rows, 2.0);
    let before = trial.random.normal(DType::F32, tokens * rows, 3.0);
    let short_weight = rounded(&weight, Fp8::E4m3);
    let y = linear::forward(&rounded(&x, Fp8::E4m3), &short_weight, Some(&wide(&bias)), columns);
    // Errors are measured against numbers of about 1.
    let larger: Vec<f64> = rounded(&dy, Fp8::E5m2).iter().map(|x| x * 65_536.0).collect();
    let dx = linear::backward_input(&larger, &short_weight, rows);
    let expected = vec![
        Expected::new("stored", y.clone(), PRODUCT),
        Expected::new("added", plus(&before, &y), PRODUCT),
        Expected::new("inference", y, PRODUCT),
        Expected::new("dx", dx, PRODUCT),
    ];
    trial.case("linear", format!("{tokens} x {columns} -> {rows}, fp8"), expected, |stage| {
        let x = stage.input(BF16, &x)?;
        let bias = stage.input(DType::F32, &bias)?;
        let trained = matrix(stage, &weight, columns, MatrixUse::Training)?;
        let mut stored = stage.output(BF16, tokens * rows)?;
        stage.0.linear(&x, &trained, Some(&bias), tokens, Out::Store(&mut stored));
        let mut added = stage.accumulator(&before)?;
        stage.0.linear(&x, &trained, Some(&bias), tokens, Out::Add(&mut added));
        let fixed = matrix(stage, &weight, columns, MatrixUse::Inference)?;
        let mut inferred = stage.output(BF16, tokens * rows)?;
        stage.0.linear(&x, &fixed, Some(&bias), tokens, Out::Store(&mut inferred));
        let mut dx = stage.output(BF16, tokens * columns)?;
        stage.0.linear_backward_input(&stage.input(BF16, &dy)?, &trained, tokens, &mut dx);
        let mut read = [stage.read(&stored), stage.read(&added), stage.read(&inferred), stage.read(&dx)];
        // The guard behind the elements stays as it is.
        read[3][..tokens * columns].iter_mut().for_each(|x| *x *= 65_536.0);
        Ok(read.into())
    });
}
