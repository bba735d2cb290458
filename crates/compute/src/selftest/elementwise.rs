//! Embedding, dropout, rounding of gradients.

use super::check::Tolerance;
use super::random::{plus, round, wide};
use super::stage::{Expected, Stage, Trial};
use crate::device::{Device, Dropout, MatrixUse};
use crate::dtype::DType;
use crate::error::ComputeError;
use crate::reference;

/// (tokens, width, vocab_size).
const EMBEDDINGS: [(usize, usize, usize); 7] =
    [(1, 1, 1), (15, 17, 1), (17, 33, 17), (65, 15, 300), (33, 130, 33), (130, 64, 65), (600, 5, 40)];
/// Elements: one, odd, more than any job.
const LENGTHS: [usize; 4] = [1, 33, 4_097, 40_001];

pub(super) fn embedding<D: Device>(trial: &mut Trial<'_, D>, dtype: DType) {
    for size in EMBEDDINGS {
        embeddings(trial, dtype, size);
    }
}

pub(super) fn dropout<D: Device>(trial: &mut Trial<'_, D>, dtype: DType) {
    for len in LENGTHS {
        branch_gradient(trial, dtype, len);
        for rate in [0.0, 0.1, 0.5] {
            masks(trial, dtype, len, rate);
        }
    }
}

fn embeddings<D: Device>(trial: &mut Trial<'_, D>, dtype: DType, (tokens, width, vocab_size): (usize, usize, usize)) {
    // The table is not rounded beforehand: packing rounds it, to nearest.
    let table = trial.random.normal(DType::F32, vocab_size * width, 1.0);
    let ids = trial.random.indices(tokens, vocab_size);
    let dx = trial.random.normal(DType::F32, tokens * width, 1.0);
    let before = trial.random.normal(DType::F32, vocab_size * width, 1.0);
    let name = format!("{tokens} x {width} of {vocab_size}, {}", dtype.name());
    let rounded: Vec<f64> = table.iter().map(|x| round(dtype, *x).into()).collect();
    let x = reference::embedding::forward(&rounded, &ids, width);
    trial.case("embedding", name.clone(), vec![Expected::new("x", x, Tolerance::EXACT)], |stage| {
        let table = stage.matrix(dtype, &table, width, MatrixUse::Training)?;
        let mut x = stage.output(DType::F32, tokens * width)?;
        stage.0.embedding(&table, &stage.indices(&ids)?, tokens, &mut x);
        Ok(vec![stage.read(&x)])
    });
    let d_table = plus(&before, &reference::embedding::backward(&ids, &wide(&dx), vocab_size));
    trial.case("embedding_backward", name, vec![Expected::new("d_table", d_table, Tolerance::F32)], |stage| {
        let mut d_table = stage.accumulator(&before)?;
        let (ids, dx) = (stage.indices(&ids)?, stage.input(DType::F32, &dx)?);
        stage.0.embedding_backward(&ids, &dx, tokens, width, &mut d_table);
        Ok(vec![stage.read(&d_table)])
    });
}

/// Without dropout it only rounds, to nearest.
fn branch_gradient<D: Device>(trial: &mut Trial<'_, D>, dtype: DType, len: usize) {
    let dx = trial.random.normal(DType::F32, len, 1.0);
    let want = dx.iter().map(|x| round(dtype, *x).into()).collect();
    let expected = vec![Expected::new("branch", want, Tolerance::EXACT)];
    trial.case("branch_gradient", format!("{len}, no dropout, {}", dtype.name()), expected, |stage| {
        let mut branch = stage.output(dtype, len)?;
        stage.0.branch_gradient(None, &stage.input(DType::F32, &dx)?, len, &mut branch);
        Ok(vec![stage.read(&branch)])
    });
}

/// `dropout(1, 1, ...)`: the mask itself.
fn mask<D: Device>(stage: &Stage<'_, D>, dropout: Dropout, len: usize) -> Result<Vec<f64>, ComputeError> {
    let mut x = stage.accumulator(&vec![1.0; len])?;
    stage.0.dropout(dropout, len, &mut x);
    Ok(stage.read(&x))
}

/// The mask is fair, differs from place to place and step to step, and is one and the same in all three operations.
fn masks<D: Device>(trial: &mut Trial<'_, D>, dtype: DType, len: usize, rate: f32) {
    /// A fair mask is this far off once in a million runs.
    const DEVIATIONS: Tolerance = Tolerance::of(5.0);
    let base = Dropout { rate, seed: trial.random.below(1 << 40) as u64, site: trial.random.below(100) as u32 };
    let others = [Dropout { seed: base.seed + 1, ..base }, Dropout { site: base.site + 1, ..base }];
    let name = format!("{len}, rate {rate}, {}", dtype.name());
    let rate64 = f64::from(rate);

    let expected = vec![
        Expected::new("survivors", vec![0.0], Tolerance::of(1e-6)),
        Expected::new("fallen share", vec![0.0], DEVIATIONS),
        Expected::new("agreement with other seeds and sites", vec![0.0, 0.0], DEVIATIONS),
    ];
    trial.case("dropout", name.clone(), expected, |stage| {
        let ones = vec![1.0; len];
        let got = mask(stage, base, len)?;
        let statistics = reference::dropout::statistics(rate64, &ones, &got[..len]);
        // Two unrelated masks agree with probability r² + (1 - r)²: a coin whose fairness is measured the same way.
        let agree = rate64 * rate64 + (1.0 - rate64) * (1.0 - rate64);
        let mut correlation = Vec::new();
        for other in others {
            let other = mask(stage, other, len)?;
            let differ: Vec<f64> = got[..len]
                .iter()
                .zip(&other)
                .map(|(a, b)| if (*a == 0.0) == (*b == 0.0) { 0.0 } else { 1.0 })
                .collect();
            correlation.push(reference::dropout::statistics(agree, &ones, &differ).deviations);
        }
        Ok(vec![vec![statistics.survivor_error], vec![statistics.deviations], correlation])
    });

    let branch = trial.random.normal(dtype, len, 1.0);
    let dx = trial.random.normal(DType::F32, len, 1.0);
    let before = trial.random.normal(DType::F32, len, 1.0);
    let want = match mask(&trial.stage(), base, len) {
        Ok(mask) => mask,
        Err(_) => vec![f64::NAN; len],
    };
    let times = |x: &[f32]| x.iter().zip(&want).map(|(x, m)| f64::from(*x) * m).collect::<Vec<f64>>();
    let expected = vec![Expected::new("x", plus(&before, &times(&branch)), Tolerance::F32)];
    trial.case("dropout_add", name.clone(), expected, |stage| {
        let mut x = stage.accumulator(&before)?;
        stage.0.dropout_add(base, &stage.input(dtype, &branch)?, len, &mut x);
        Ok(vec![stage.read(&x)])
    });
    let expected = vec![Expected::new("x", times(&before), Tolerance::F32)];
    trial.case("dropout", name.clone(), expected, |stage| {
        let mut x = stage.accumulator(&before)?;
        stage.0.dropout(base, len, &mut x);
        Ok(vec![stage.read(&x)])
    });
    let out = if dtype == DType::Bf16 { Tolerance::BF16_OUT } else { Tolerance::F32 };
    trial.case("branch_gradient", name, vec![Expected::new("branch", times(&dx), out)], |stage| {
        let mut branch = stage.output(dtype, len)?;
        stage.0.branch_gradient(Some(base), &stage.input(DType::F32, &dx)?, len, &mut branch);
        Ok(vec![stage.read(&branch)])
    });
}
