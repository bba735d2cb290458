//! Linear layers: forward with and without bias, stored or added; both gradients.

use super::check::Tolerance;
use super::random::{plus, round, wide};
use super::stage::{Expected, Trial};
use crate::device::{Device, MatrixUse, Out};
use crate::dtype::DType;
use crate::reference::linear;

/// (tokens, columns, rows): single elements, around vectors and tiles, wider than a block of panels, many rows.
const SIZES: [(usize, usize, usize); 12] = [
    (1, 1, 1),
    (1, 15, 17),
    (15, 17, 33),
    (17, 64, 16),
    (33, 63, 65),
    (63, 32, 15),
    (64, 128, 48),
    (65, 65, 63),
    (2, 300, 130),
    (7, 1030, 113),
    (200, 31, 49),
    (257, 96, 80),
];

pub(super) fn run<D: Device>(trial: &mut Trial<'_, D>, dtype: DType) {
    for size in SIZES {
        forward(trial, dtype, size);
        backward_input(trial, dtype, size);
        backward_weight(trial, dtype, size);
    }
    // More tokens than any kernel takes at once.
    backward_weight(trial, dtype, (1030, 17, 33));
    backward_weight(trial, dtype, (2049, 33, 15));
}

fn rounded_out(dtype: DType) -> Tolerance {
    if dtype == DType::Bf16 { Tolerance::BF16_OUT } else { Tolerance::F32 }
}

/// Of a result in the storage type.
fn stored(dtype: DType, with_bias: bool, columns: usize, rows: usize) -> Tolerance {
    let whole_vectors = columns.is_multiple_of(8) && rows.is_multiple_of(8);
    if dtype == DType::Bf16 && with_bias && !whole_vectors { Tolerance::BF16_OUT_TWICE } else { rounded_out(dtype) }
}

fn forward<D: Device>(trial: &mut Trial<'_, D>, dtype: DType, (tokens, columns, rows): (usize, usize, usize)) {
    let x = trial.random.normal(dtype, tokens * columns, 1.0);
    let weight = trial.random.normal(dtype, rows * columns, 1.0);
    let bias = trial.random.normal(DType::F32, rows, 2.0);
    // Where the result is in the storage type, the bias may be rounded to it: here it is already.
    let short_bias: Vec<f32> = bias.iter().map(|x| round(dtype, *x)).collect();
    let before = trial.random.normal(DType::F32, tokens * rows, 3.0);
    let plain = linear::forward(&wide(&x), &wide(&weight), None, columns);
    let shifted = linear::forward(&wide(&x), &wide(&weight), Some(&wide(&bias)), columns);
    let short = linear::forward(&wide(&x), &wide(&weight), Some(&wide(&short_bias)), columns);
    for (usage, with_bias) in [(MatrixUse::Training, true), (MatrixUse::Inference, false)] {
        let (want, short) = if with_bias { (&shifted, &short) } else { (&plain, &plain) };
        let expected = vec![
            Expected::new("stored", short.clone(), stored(dtype, with_bias, columns, rows)),
            Expected::new("stored as f32", want.clone(), Tolerance::F32),
            Expected::new("added", plus(&before, want), Tolerance::F32),
        ];
        let bias_name = if with_bias { "bias" } else { "no bias" };
        let case = format!("{tokens} x {columns} -> {rows}, {bias_name}, {}", dtype.name());
        trial.case("linear", case, expected, |stage| {
            let x = stage.input(dtype, &x)?;
            let matrix = stage.matrix(dtype, &weight, columns, usage)?;
            let (bias, short_bias) = (stage.input(DType::F32, &bias)?, stage.input(DType::F32, &short_bias)?);
            let (bias, short_bias) = (with_bias.then_some(&bias), with_bias.then_some(&short_bias));
            let mut stored = stage.output(dtype, tokens * rows)?;
            stage.0.linear(&x, &matrix, short_bias, tokens, Out::Store(&mut stored));
            let mut widened = stage.output(DType::F32, tokens * rows)?;
            stage.0.linear(&x, &matrix, bias, tokens, Out::Store(&mut widened));
            let mut added = stage.accumulator(&before)?;
            stage.0.linear(&x, &matrix, bias, tokens, Out::Add(&mut added));
            Ok(vec![stage.read(&stored), stage.read(&widened), stage.read(&added)])
        });
    }
}

fn backward_input<D: Device>(trial: &mut Trial<'_, D>, dtype: DType, (tokens, columns, rows): (usize, usize, usize)) {
    let dy = trial.random.normal(dtype, tokens * rows, 1.0);
    let weight = trial.random.normal(dtype, rows * columns, 1.0);
    let want = linear::backward_input(&wide(&dy), &wide(&weight), rows);
    let case = format!("{tokens} x {rows} -> {columns}, {}", dtype.name());
    trial.case("linear_backward_input", case, vec![Expected::new("dx", want, rounded_out(dtype))], |stage| {
        let matrix = stage.matrix(dtype, &weight, columns, MatrixUse::Training)?;
        let mut dx = stage.output(dtype, tokens * columns)?;
        stage.0.linear_backward_input(&stage.input(dtype, &dy)?, &matrix, tokens, &mut dx);
        Ok(vec![stage.read(&dx)])
    });
}

fn backward_weight<D: Device>(trial: &mut Trial<'_, D>, dtype: DType, (tokens, columns, rows): (usize, usize, usize)) {
    let x = trial.random.normal(dtype, tokens * columns, 1.0);
    let dy = trial.random.normal(dtype, tokens * rows, 1.0);
    let weight_before = trial.random.normal(DType::F32, rows * columns, 1.0);
    let bias_before = trial.random.normal(DType::F32, rows, 1.0);
    let (d_weight, d_bias) = linear::backward_weight(&wide(&dy), &wide(&x), rows, columns);
    let expected = vec![
        Expected::new("d_weight", plus(&weight_before, &d_weight), Tolerance::F32),
        Expected::new("d_bias", plus(&bias_before, &d_bias), Tolerance::F32),
        Expected::new("d_weight without bias", plus(&weight_before, &d_weight), Tolerance::F32),
    ];
    let case = format!("{tokens} tokens, {rows} x {columns}, {}", dtype.name());
    trial.case("linear_backward_weight", case, expected, |stage| {
        let (x, dy) = (stage.input(dtype, &x)?, stage.input(dtype, &dy)?);
        let mut d_weight = stage.accumulator(&weight_before)?;
        let mut d_bias = stage.accumulator(&bias_before)?;
        let mut alone = stage.accumulator(&weight_before)?;
        stage.0.linear_backward_weight(&dy, &x, tokens, (rows, columns), &mut d_weight, Some(&mut d_bias));
        stage.0.linear_backward_weight(&dy, &x, tokens, (rows, columns), &mut alone, None);
        Ok(vec![stage.read(&d_weight), stage.read(&d_bias), stage.read(&alone)])
    });
}
