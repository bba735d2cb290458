//! Quantised weights: linear layers of few and many tokens, the embedding, the head's loss.
//!
//! What a weight became is taken from the reference's reading of the blocks, so that the comparison is of arithmetic alone.

use super::check::Tolerance;
use super::random::{plus, wide};
use super::stage::{Expected, Trial};
use crate::device::{Device, Head, MatrixUse, Out};
use crate::dtype::DType;
use crate::matrix_format::MatrixFormat;
use crate::quantize::blocks;
use crate::reference::{embedding, head, linear, quantized};

/// (tokens, columns, rows): single elements, around blocks, panels and the most tokens of each way, a long row, many rows.
const SIZES: [(usize, usize, usize); 16] = [
    (1, 1, 1),
    (1, 15, 17),
    (1, 32, 80),
    (1, 257, 63),
    (2, 33, 33),
    (3, 64, 16),
    (4, 63, 65),
    (5, 300, 130),
    (7, 1030, 113),
    (8, 31, 49),
    (9, 96, 33),
    (12, 65, 15),
    (13, 128, 48),
    (17, 40, 300),
    (64, 33, 31),
    (40, 4100, 161),
];

/// Up to this many tokens every device multiplies by the exact weights; above it may round them to bf16, if it does not
/// round the activations.
const EXACT_TOKENS: usize = 8;

pub(super) fn run<D: Device>(trial: &mut Trial<'_, D>) {
    for format in [MatrixFormat::Q8, MatrixFormat::Q4] {
        for size in SIZES {
            forward(trial, format, size);
        }
        for size in [(1, 1, 1), (33, 17, 40), (20, 130, 65)] {
            rows(trial, format, size);
        }
        for size in [(1, 1, 17), (33, 70, 300), (5, 10, 4_101)] {
            loss(trial, format, size);
        }
    }
}

fn restored(format: MatrixFormat, weight: &[f32], columns: usize) -> Vec<f64> {
    quantized::dequantize(format, &blocks(format, weight, columns), columns)
}

fn forward<D: Device>(trial: &mut Trial<'_, D>, format: MatrixFormat, (tokens, columns, rows): (usize, usize, usize)) {
    let dtype = format.activations();
    let x = trial.random.normal(dtype, tokens * columns, 1.0);
    let weight = trial.random.normal(DType::F32, rows * columns, 1.0);
    let bias = trial.random.normal(DType::F32, rows, 2.0);
    let before = trial.random.normal(DType::F32, tokens * rows, 3.0);
    let weights = restored(format, &weight, columns);
    let rounds = trial.stage().0.rounds_activations(format);
    let multiplied = if rounds { quantized::rounded_activations(&x, columns) } else { wide(&x) };
    let plain = linear::forward(&multiplied, &weights, None, columns);
    let shifted = linear::forward(&multiplied, &weights, Some(&wide(&bias)), columns);
    let (inside, stored) = match rounds || tokens <= EXACT_TOKENS {
        true => (Tolerance::F32, Tolerance::BF16_OUT),
        false => (Tolerance::BF16_INSIDE, Tolerance::BF16_INSIDE),
    };
    let expected = vec![
        Expected::new("stored", plain.clone(), stored),
        Expected::new("stored as f32, bias", shifted.clone(), inside),
        Expected::new("added, bias", plus(&before, &shifted), inside),
    ];
    let case = format!("{tokens} x {columns} -> {rows}, {}", format.name());
    trial.case("linear, quantized", case, expected, |stage| {
        let (x, bias) = (stage.input(dtype, &x)?, stage.input(DType::F32, &bias)?);
        let matrix = stage.matrix(format, &weight, columns, MatrixUse::Inference)?;
        let mut stored = stage.output(dtype, tokens * rows)?;
        stage.0.linear(&x, &matrix, None, tokens, Out::Store(&mut stored));
        let mut widened = stage.output(DType::F32, tokens * rows)?;
        stage.0.linear(&x, &matrix, Some(&bias), tokens, Out::Store(&mut widened));
        let mut added = stage.accumulator(&before)?;
        stage.0.linear(&x, &matrix, Some(&bias), tokens, Out::Add(&mut added));
        Ok(vec![stage.read(&stored), stage.read(&widened), stage.read(&added)])
    });
}

fn rows<D: Device>(trial: &mut Trial<'_, D>, format: MatrixFormat, (tokens, width, vocab_size): (usize, usize, usize)) {
    let table = trial.random.normal(DType::F32, vocab_size * width, 1.0);
    let ids = trial.random.indices(tokens, vocab_size);
    let x = embedding::forward(&restored(format, &table, width), &ids, width);
    let case = format!("{tokens} x {width} of {vocab_size}, {}", format.name());
    trial.case("embedding, quantized", case, vec![Expected::new("x", x, Tolerance::EXACT)], |stage| {
        let table = stage.matrix(format, &table, width, MatrixUse::Inference)?;
        let mut x = stage.output(DType::F32, tokens * width)?;
        stage.0.embedding(&table, &stage.indices(&ids)?, tokens, &mut x);
        Ok(vec![stage.read(&x)])
    });
}

fn loss<D: Device>(
    trial: &mut Trial<'_, D>,
    format: MatrixFormat,
    (tokens, n_embd, vocab_size): (usize, usize, usize),
) {
    let dtype = format.activations();
    let hidden = trial.random.normal(dtype, tokens * n_embd, 1.0);
    let weight = trial.random.normal(DType::F32, vocab_size * n_embd, 2.0 / (n_embd as f64).sqrt());
    let targets = trial.random.indices(tokens, vocab_size);
    let weights = vec![1.0; tokens];
    let rows = head::forward(&head::Head {
        hidden: &wide(&hidden),
        weight: &restored(format, &weight, n_embd),
        targets: &targets,
        weights: &wide(&weights),
    });
    let case = format!("{tokens} x {n_embd} -> {vocab_size}, {}", format.name());
    trial.case("head, quantized", case, vec![Expected::new("losses", rows.losses, Tolerance::BF16_INSIDE)], |stage| {
        let (hidden, targets) = (stage.input(dtype, &hidden)?, stage.indices(&targets)?);
        let matrix = stage.matrix(format, &weight, n_embd, MatrixUse::Inference)?;
        let weights = stage.input(DType::F32, &weights)?;
        let head = Head { hidden: &hidden, weight: &matrix, targets: &targets, weights: &weights, tokens };
        let mut losses = stage.output(DType::F32, tokens)?;
        stage.0.head(&head, &mut losses, None);
        Ok(vec![stage.read(&losses)])
    });
}
