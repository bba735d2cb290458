//! The fused output head: losses, totals, both gradients.

use super::check::Tolerance;
use super::random::{plus, wide};
use super::stage::{Expected, Trial};
use crate::device::{Device, Head, HeadGradient, MatrixUse};
use crate::dtype::DType;
use crate::reference::head;

/// (tokens, n_embd, vocab_size): a vocabulary of one, odd ones, more rows than a chunk, longer than a blocked sum.
const SIZES: [(usize, usize, usize); 7] =
    [(1, 8, 1), (1, 1, 17), (15, 17, 17), (33, 16, 300), (65, 63, 33), (1101, 9, 15), (5, 10, 4_101)];
const SCALE: f32 = 0.75;

/// Which rows count.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Weights {
    /// Pre-training.
    Ones,
    /// A loss mask with fractions.
    Mixed,
    /// Nothing supervised.
    Zeros,
}

pub(super) fn run<D: Device>(trial: &mut Trial<'_, D>, dtype: DType) {
    for size in SIZES {
        case(trial, dtype, size, Weights::Ones);
        case(trial, dtype, size, Weights::Mixed);
    }
    case(trial, dtype, (15, 17, 33), Weights::Zeros);
}

/// How far two logits must be apart for their order to be certain in f32.
const CERTAIN: f64 = 1e-4;

fn case<D: Device>(
    trial: &mut Trial<'_, D>,
    dtype: DType,
    (tokens, n_embd, vocab_size): (usize, usize, usize),
    kind: Weights,
) {
    let hidden = trial.random.normal(dtype, tokens * n_embd, 1.0);
    let weight = trial.random.normal(dtype, vocab_size * n_embd, 2.0 / (n_embd as f64).sqrt());
    let targets = trial.random.indices(tokens, vocab_size);
    let weights: Vec<f32> = (0..tokens)
        .map(|_| match kind {
            Weights::Ones => 1.0,
            Weights::Mixed => [0.0, 0.25, 1.0, 1.5][trial.random.below(4)],
            Weights::Zeros => 0.0,
        })
        .collect();
    let weight_before = trial.random.normal(DType::F32, vocab_size * n_embd, 0.1);

    let (hidden64, weight64, weights64) = (wide(&hidden), wide(&weight), wide(&weights));
    let reference = head::Head { hidden: &hidden64, weight: &weight64, targets: &targets, weights: &weights64 };
    let rows = head::forward(&reference);
    let (d_hidden, d_weight) = head::backward(&reference, SCALE.into());
    let d_weight = plus(&weight_before, &d_weight);

    let counted: Vec<usize> = (0..tokens).filter(|i| weights[*i] != 0.0).collect();
    let weighted_loss: f64 = rows.losses.iter().zip(&weights64).map(|(loss, w)| loss * w).sum();
    let totals = vec![weighted_loss, weights64.iter().sum(), counted.len() as f64];
    let correct = |least: f64| counted.iter().filter(|i| rows.margins[**i] > least).count() as f64;
    let (fewest, most) = (correct(CERTAIN), correct(-CERTAIN));

    let inside = if dtype == DType::Bf16 { Tolerance::BF16_INSIDE } else { Tolerance::F32 };
    let forward = vec![
        Expected::new("losses", rows.losses.clone(), Tolerance::F32),
        Expected::new("totals", totals.clone(), Tolerance::F32),
        Expected::new("rows led by the target", vec![0.0], Tolerance::EXACT),
    ];
    let with_gradient = vec![
        Expected::new("losses", rows.losses, Tolerance::F32),
        Expected::new("totals", totals, Tolerance::F32),
        Expected::new("rows led by the target", vec![0.0], Tolerance::EXACT),
        Expected::new("d_hidden", d_hidden, inside),
        Expected::new("d_weight", d_weight, inside),
    ];
    for (gradient, expected) in [(false, forward), (true, with_gradient)] {
        let usage = if gradient { MatrixUse::Training } else { MatrixUse::Inference };
        let name = format!(
            "{tokens} x {n_embd} -> {vocab_size}, weights {kind:?}, {}, {}",
            if gradient { "gradient" } else { "loss only" },
            dtype.name()
        );
        trial.case("head", name, expected, |stage| {
            let (hidden, targets) = (stage.input(dtype, &hidden)?, stage.indices(&targets)?);
            let (matrix, weights) = (stage.matrix(dtype, &weight, n_embd, usage)?, stage.input(DType::F32, &weights)?);
            let head = Head { hidden: &hidden, weight: &matrix, targets: &targets, weights: &weights, tokens };
            let mut losses = stage.output(DType::F32, tokens)?;
            let mut d_hidden = stage.output(dtype, tokens * n_embd)?;
            let mut d_weight = stage.accumulator(&weight_before)?;
            let into = HeadGradient { scale: SCALE, hidden: &mut d_hidden, weight: &mut d_weight };
            let result = stage.0.head(&head, &mut losses, gradient.then_some(into));
            let totals = vec![result.weighted_loss, result.weight, result.counted as f64];
            // How far the count is from what the reference allows: rows too close to call may fall either way.
            let led = result.correct as f64;
            let beyond = led - led.clamp(fewest, most);
            let mut observed = vec![stage.read(&losses), totals, vec![beyond]];
            if gradient {
                observed.extend([stage.read(&d_hidden), stage.read(&d_weight)]);
            }
            Ok(observed)
        });
    }
}
