//! GELU, SwiGLU, squared ReLU: forward and backward.

use super::check::Tolerance;
use super::random::{round, wide};
use super::stage::{Expected, Trial};
use crate::device::{ActivationKind, Device};
use crate::dtype::DType;
use crate::reference::activation;

/// (tokens, n_ff); the last is wider than a job of any kernel.
const SIZES: [(usize, usize); 6] = [(1, 1), (15, 17), (33, 65), (3, 63), (65, 16), (2, 16_400)];
/// Far ends and the middle: where exponentials saturate, cancel or vanish.
const LANDMARKS: [f32; 12] = [0.0, -0.0, 1e-30, -1e-30, 5.0, -5.0, 12.0, -12.0, 40.0, -40.0, 100.0, -100.0];

pub(super) fn run<D: Device>(trial: &mut Trial<'_, D>, dtype: DType) {
    for kind in [ActivationKind::Gelu, ActivationKind::SwiGlu, ActivationKind::ReluSquared] {
        for size in SIZES {
            let x = trial.random.normal(dtype, size.0 * kind.input_width(size.1), 2.0);
            case(trial, dtype, kind, size, x);
        }
        // Alone: their size would hide errors in ordinary elements.
        let n_ff = LANDMARKS.len();
        let landmarks = LANDMARKS.iter().cycle().take(kind.input_width(n_ff)).map(|x| round(dtype, *x));
        case(trial, dtype, kind, (1, n_ff), landmarks.collect());
    }
}

fn case<D: Device>(
    trial: &mut Trial<'_, D>,
    dtype: DType,
    kind: ActivationKind,
    (tokens, n_ff): (usize, usize),
    x: Vec<f32>,
) {
    let dy = trial.random.normal(dtype, tokens * n_ff, 1.0);
    let y = activation::forward(kind, &wide(&x), n_ff);
    let dx = activation::backward(kind, &wide(&x), &wide(&dy), n_ff);
    let out = if dtype == DType::Bf16 { Tolerance::BF16_OUT } else { Tolerance::F32 };
    let name = format!("{kind:?}, {tokens} x {n_ff}, {}", dtype.name());
    trial.case("activation", name.clone(), vec![Expected::new("y", y.clone(), out)], |stage| {
        let mut y = stage.output(dtype, tokens * n_ff)?;
        stage.0.activation(kind, &stage.input(dtype, &x)?, tokens, n_ff, &mut y);
        Ok(vec![stage.read(&y)])
    });
    for again in [true, false] {
        // What lay where the output goes is read back where it must stay.
        let second =
            if again { Expected::new("y", y.clone(), out) } else { Expected::new("dy", wide(&dy), Tolerance::EXACT) };
        let expected = vec![Expected::new("dx", dx.clone(), out), second];
        let name = format!("{name}{}", if again { "" } else { ", output kept" });
        trial.case("activation_backward", name, expected, |stage| {
            let (mut x, mut dy) = (stage.in_place(dtype, &x)?, stage.in_place(dtype, &dy)?);
            stage.0.activation_backward(kind, &mut x, &mut dy, tokens, n_ff, again);
            Ok(vec![stage.read(&x), stage.read(&dy)])
        });
    }
}
