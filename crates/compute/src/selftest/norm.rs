//! LayerNorm and RMSNorm: forward, recomputed, backward.

use super::check::Tolerance;
use super::random::{plus, wide};
use super::stage::{Expected, Trial};
use crate::device::{Device, Norm, NormGradient, NormKind};
use crate::dtype::DType;
use crate::reference::norm;

/// (tokens, width).
const SIZES: [(usize, usize); 9] =
    [(1, 1), (1, 65), (15, 17), (33, 33), (65, 63), (17, 64), (33, 300), (130, 15), (18, 1028)];
const EPS: f32 = 1e-5;

pub(super) fn run<D: Device>(trial: &mut Trial<'_, D>, dtype: DType) {
    for size in SIZES {
        case(trial, dtype, NormKind::LayerNorm, true, size);
        case(trial, dtype, NormKind::LayerNorm, false, size);
        case(trial, dtype, NormKind::RmsNorm, false, size);
    }
}

fn case<D: Device>(
    trial: &mut Trial<'_, D>,
    dtype: DType,
    kind: NormKind,
    with_bias: bool,
    (tokens, width): (usize, usize),
) {
    // A mean of about 3 deviations: a variance computed as E x² - (E x)² would show.
    let x: Vec<f32> = trial.random.normal(DType::F32, tokens * width, 1.0).iter().map(|x| x + 3.0).collect();
    let weight = trial.random.normal(DType::F32, width, 1.0);
    let bias = trial.random.normal(DType::F32, width, 1.0);
    let dy = trial.random.normal(dtype, tokens * width, 1.0);
    let dx_before = trial.random.normal(DType::F32, tokens * width, 1.0);
    let weight_before = trial.random.normal(DType::F32, width, 1.0);
    let bias_before = trial.random.normal(DType::F32, width, 1.0);

    let (weight64, bias64) = (wide(&weight), wide(&bias));
    let reference =
        norm::Norm { kind, eps: EPS.into(), weight: &weight64, bias: with_bias.then_some(bias64.as_slice()) };
    let (y, stats) = norm::forward(&reference, &wide(&x));
    let gradient = norm::backward(&reference, &wide(&x), &wide(&dy));
    let out = if dtype == DType::Bf16 { Tolerance::BF16_OUT } else { Tolerance::F32 };
    let name = format!("{kind:?}{}, {tokens} x {width}, {}", if with_bias { " with bias" } else { "" }, dtype.name());

    let expected = vec![Expected::new("y", y.clone(), out), Expected::new("stats", stats.clone(), Tolerance::F32)];
    trial.case("norm", name.clone(), expected, |stage| {
        let (weight, bias) = (stage.input(DType::F32, &weight)?, stage.input(DType::F32, &bias)?);
        let norm = Norm { kind, eps: EPS, weight: &weight, bias: with_bias.then_some(&bias) };
        let mut y = stage.output(dtype, tokens * width)?;
        let mut stats = stage.output(DType::F32, 2 * tokens)?;
        stage.0.norm(&norm, &stage.input(DType::F32, &x)?, tokens, width, &mut y, &mut stats);
        Ok(vec![stage.read(&y), stage.read(&stats)])
    });

    let stats: Vec<f32> = stats.iter().map(|x| *x as f32).collect();
    trial.case("norm_again", name.clone(), vec![Expected::new("y", y, out)], |stage| {
        let (weight, bias) = (stage.input(DType::F32, &weight)?, stage.input(DType::F32, &bias)?);
        let norm = Norm { kind, eps: EPS, weight: &weight, bias: with_bias.then_some(&bias) };
        let mut y = stage.output(dtype, tokens * width)?;
        let (x, stats) = (stage.input(DType::F32, &x)?, stage.input(DType::F32, &stats)?);
        stage.0.norm_again(&norm, &x, &stats, tokens, width, &mut y);
        Ok(vec![stage.read(&y)])
    });

    let bias_after = if with_bias { plus(&bias_before, &gradient.bias) } else { wide(&bias_before) };
    let expected = vec![
        Expected::new("dx", plus(&dx_before, &gradient.x), Tolerance::F32),
        Expected::new("d_weight", plus(&weight_before, &gradient.weight), Tolerance::F32),
        Expected::new("d_bias", bias_after, Tolerance::F32),
    ];
    trial.case("norm_backward", name, expected, |stage| {
        let (weight, bias) = (stage.input(DType::F32, &weight)?, stage.input(DType::F32, &bias)?);
        let norm = Norm { kind, eps: EPS, weight: &weight, bias: with_bias.then_some(&bias) };
        let (x, stats) = (stage.input(DType::F32, &x)?, stage.input(DType::F32, &stats)?);
        let mut dx = stage.accumulator(&dx_before)?;
        let mut d_weight = stage.accumulator(&weight_before)?;
        let mut d_bias = stage.accumulator(&bias_before)?;
        let gradient = NormGradient { weight: &mut d_weight, bias: with_bias.then_some(&mut d_bias) };
        stage.0.norm_backward(&norm, &x, &stats, &stage.input(dtype, &dy)?, tokens, width, &mut dx, gradient);
        Ok(vec![stage.read(&dx), stage.read(&d_weight), stage.read(&d_bias)])
    });
}
