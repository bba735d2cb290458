//! AdamW over several steps; Muon's momentum, direction and update; whole steps by a tally.

use super::check::Tolerance;
use super::moments::{self, rounded_weights};
use super::random::{round, wide};
use super::stage::{Expected, Observed, Stage, Trial};
use crate::device::{AdamW, AdamWTensor, Device, Head, MatrixUse, Muon, MuonTensor, Rounding};
use crate::dtype::DType;
use crate::error::ComputeError;
use crate::reference::{adamw, muon};

/// One, odd, longer than any job.
const LENGTHS: [usize; 4] = [1, 17, 1_025, 33_000];
/// Rows of each block, columns: wide, tall, square, fused, odd.
const MATRICES: [(&[usize], usize); 6] =
    [(&[16], 64), (&[129], 33), (&[48], 48), (&[64, 16, 16], 32), (&[1], 17), (&[63], 15)];

/// Clipping to less than the norm, to more, not at all.
const MAX_NORMS: [f64; 3] = [0.5, 1e6, 0.0];
/// Parameters of a step, (rows, columns); vectors have a row. One is longer than any job.
const PARAMETERS: [(usize, usize); 6] = [(33, 65), (1, 1), (1, 17), (64, 8), (3, 1), (130, 257)];
/// Which of them Muon updates as well, for itself, and the matrices that lie in them.
const BLOCKED: [(usize, &[usize]); 3] = [(0, &[33]), (3, &[40, 24]), (5, &[130])];

pub(super) fn run<D: Device>(trial: &mut Trial<'_, D>) {
    for len in LENGTHS {
        adamw_steps(trial, len);
    }
    for (row_blocks, columns) in MATRICES {
        muon_step(trial, row_blocks, columns);
    }
    moments::run(trial);
    for dtype in [DType::F32, DType::Bf16] {
        for max_norm in MAX_NORMS {
            whole_step(trial, dtype, max_norm, Rounding::Nearest);
        }
        whole_step(trial, dtype, 0.5, Rounding::Stochastic);
        for value in [f32::INFINITY, f32::NAN] {
            refused_step(trial, dtype, value);
        }
        tallied_heads(trial, dtype);
    }
    later_steps(trial);
}

fn adamw_steps<D: Device>(trial: &mut Trial<'_, D>, len: usize) {
    let weight = trial.random.normal(DType::F32, len, 1.0);
    let steps: Vec<Vec<f32>> = (0..3).map(|_| trial.random.normal(DType::F32, len, 0.5)).collect();
    let update = |step| AdamW { step, gradient_scale: 0.75, ..ADAMW };
    let (mut want, mut m, mut v) = (wide(&weight), vec![0.0; len], vec![0.0; len]);
    for (step, gradient) in (1..).zip(&steps) {
        adamw::step(&update(step), &mut want, &wide(gradient), [&mut m, &mut v]);
    }
    let expected = vec![
        Expected::new("weight", want, Tolerance::F32),
        Expected::new("first moment", m, Tolerance::F32),
        Expected::new("second moment", v, Tolerance::F32),
    ];
    trial.case("adamw", format!("{len}, 3 steps"), expected, |stage| {
        let mut weight = stage.whole(&weight)?;
        let (mut m, mut v) = (stage.whole(&vec![0.0; len])?, stage.whole(&vec![0.0; len])?);
        for (step, gradient) in (1..).zip(&steps) {
            stage.0.adamw(&update(step), &mut weight, &stage.whole(gradient)?, [&mut m, &mut v]);
        }
        Ok(vec![stage.read(&weight), stage.read(&m), stage.read(&v)])
    });
}

fn muon_step<D: Device>(trial: &mut Trial<'_, D>, row_blocks: &[usize], columns: usize) {
    let len = row_blocks.iter().sum::<usize>() * columns;
    let weight = trial.random.normal(DType::F32, len, 1.0);
    let gradient = trial.random.normal(DType::F32, len, 1.0);
    let momentum = trial.random.normal(DType::F32, len, 0.1);
    let update = Muon { gradient_scale: 0.75, ..MUON };
    let (mut want, mut m) = (wide(&weight), wide(&momentum));
    let mut at = 0;
    for rows in row_blocks {
        let part = at..at + rows * columns;
        at = part.end;
        let gradient = wide(&gradient[part.clone()]);
        muon::step(&update, columns, &mut want[part.clone()], &gradient, &mut m[part]);
    }
    let expected = vec![Expected::new("weight", want, Tolerance::MUON), Expected::new("momentum", m, Tolerance::F32)];
    trial.case("muon", format!("{row_blocks:?} x {columns}"), expected, |stage| {
        let (mut weight, mut momentum) = (stage.whole(&weight)?, stage.whole(&momentum)?);
        stage.0.muon(&update, row_blocks, columns, &mut weight, &stage.whole(&gradient)?, &mut momentum);
        Ok(vec![stage.read(&weight), stage.read(&momentum)])
    });
}

/// AdamW and Muon of several parameters after clipping: the norm, the weights, the moments, and the matrices.
fn whole_step<D: Device>(trial: &mut Trial<'_, D>, dtype: DType, max_norm: f64, rounding: Rounding) {
    let lens = PARAMETERS.map(|(rows, columns)| rows * columns);
    let (weights, gradients) = operands(trial, &lens);
    let norm = gradients.iter().map(|g| crate::reference::sum_of_squares(&wide(g))).sum::<f64>().sqrt();
    let scale = if max_norm > 0.0 && norm > max_norm { max_norm / norm } else { 1.0 };
    let update = |scale: f64| AdamW { gradient_scale: scale as f32, ..ADAMW };
    let (mut want, mut m, mut v) = (Vec::new(), Vec::new(), Vec::new());
    for (weight, gradient) in weights.iter().zip(&gradients) {
        let (mut w, mut first, mut second) = (wide(weight), vec![0.0; weight.len()], vec![0.0; weight.len()]);
        adamw::step(&update(scale), &mut w, &wide(gradient), [&mut first, &mut second]);
        want.extend(w);
        m.extend(first);
        v.extend(second);
    }
    let muon_update = Muon { gradient_scale: scale as f32, ..MUON };
    let (mut muon_want, mut momentum) = (Vec::new(), Vec::new());
    for (which, row_blocks) in BLOCKED {
        let columns = PARAMETERS[which].1;
        let mut at = 0;
        for rows in row_blocks {
            let part = at..at + rows * columns;
            at = part.end;
            let (mut w, mut m) = (wide(&weights[which][part.clone()]), vec![0.0; part.len()]);
            muon::step(&muon_update, columns, &mut w, &wide(&gradients[which][part]), &mut m);
            muon_want.extend(w);
            momentum.extend(m);
        }
    }
    let expected = vec![
        Expected::new("norm", vec![norm], Tolerance::of(1e-6)),
        Expected::new("weights", want, Tolerance::F32),
        Expected::new("first moments", m, Tolerance::F32),
        Expected::new("second moments", v, Tolerance::F32),
        Expected::new("matrices that are not their weights", vec![0.0], Tolerance::EXACT),
        Expected::new("Muon's weights", muon_want, Tolerance::MUON),
        Expected::new("momenta", momentum, Tolerance::F32),
    ];
    let case = format!("clipped to {max_norm}, {}, weights rounded {rounding:?}", dtype.name());
    trial.case("adamw_all", case, expected, |stage| step(stage, dtype, rounding, [&weights, &gradients], max_norm));
}

/// A gradient with one value that is not finite changes nothing.
fn refused_step<D: Device>(trial: &mut Trial<'_, D>, dtype: DType, value: f32) {
    let lens = PARAMETERS.map(|(rows, columns)| rows * columns);
    let (weights, mut gradients) = operands(trial, &lens);
    gradients[3][7] = value;
    let all: Vec<f64> = weights.iter().flat_map(|w| wide(w)).collect();
    let zeros = vec![0.0; all.len()];
    let blocked: Vec<f64> = BLOCKED.iter().flat_map(|(which, _)| wide(&weights[*which])).collect();
    let expected = vec![
        Expected::new("norm", vec![f64::NAN], Tolerance::EXACT),
        Expected::new("weights", all, Tolerance::EXACT),
        Expected::new("first moments", zeros.clone(), Tolerance::EXACT),
        Expected::new("second moments", zeros, Tolerance::EXACT),
        Expected::new("matrices that are not their weights", vec![0.0], Tolerance::EXACT),
        Expected::new("Muon's weights", blocked.clone(), Tolerance::EXACT),
        Expected::new("momenta", vec![0.0; blocked.len()], Tolerance::EXACT),
    ];
    trial.case("adamw_all", format!("refused for {value}, {}", dtype.name()), expected, |stage| {
        let mut observed = step(stage, dtype, Rounding::Nearest, [&weights, &gradients], 1.0)?;
        // Infinite or NaN: either way no norm.
        observed[0][0] = if observed[0][0].is_finite() { observed[0][0] } else { f64::NAN };
        Ok(observed)
    });
}

const ADAMW: AdamW = AdamW {
    lr: 0.01,
    beta1: 0.9,
    beta2: 0.95,
    eps: 1e-8,
    weight_decay: 0.1,
    step: 1,
    gradient_scale: 1.0,
    seed: 1,
    weight_rounding: Rounding::Nearest,
};
/// At a rate at which the direction is as large as the weight: errors of the direction show undiminished.
pub(super) const MUON: Muon = Muon {
    lr: 1.0,
    momentum: 0.95,
    weight_decay: 0.5,
    gradient_scale: 1.0,
    seed: 0,
    weight_rounding: Rounding::Nearest,
};
/// Of the first tensor in a step; the next ones have the next.
const SEED: u64 = 77;

fn operands<D: Device>(trial: &mut Trial<'_, D>, lens: &[usize]) -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
    let mut normal = |deviation| lens.iter().map(|n| trial.random.normal(DType::F32, *n, deviation)).collect();
    (normal(1.0), normal(0.5))
}

fn step<D: Device>(
    stage: &Stage<'_, D>,
    dtype: DType,
    rounding: Rounding,
    [weights, gradients]: [&[Vec<f32>]; 2],
    max_norm: f64,
) -> Observed {
    let whole = |values: &Vec<Vec<f32>>| values.iter().map(|x| stage.whole(x)).collect::<Result<Vec<_>, _>>();
    let (weights, gradients) = (weights.to_vec(), gradients.to_vec());
    let zeros: Vec<Vec<f32>> = weights.iter().map(|w| vec![0.0; w.len()]).collect();
    let (mut w, g, mut m, mut v) = (whole(&weights)?, whole(&gradients)?, whole(&zeros)?, whole(&zeros)?);
    let packed = |weight: &D::Buffer, (rows, columns)| {
        let mut matrix = stage.0.allocate_matrix("selftest", dtype.into(), rows, columns, MatrixUse::Training)?;
        stage.0.pack(weight, &mut matrix);
        Ok::<_, ComputeError>(matrix)
    };
    let mut matrices = Vec::new();
    for (size, weight) in PARAMETERS.iter().zip(&w) {
        // Vectors have none.
        matrices.push(if size.0 > 1 { Some(packed(weight, *size)?) } else { None });
    }
    let (mut blocked, mut momenta, mut refreshed) = (Vec::new(), Vec::new(), Vec::new());
    for (which, _) in BLOCKED {
        blocked.push(stage.whole(&weights[which])?);
        momenta.push(stage.whole(&zeros[which])?);
        refreshed.push(packed(&blocked[blocked.len() - 1], PARAMETERS[which])?);
    }
    let mut tally = stage.0.allocate_tally()?;
    stage.0.clear_tally(&mut tally);
    stage.0.clip(&g.iter().collect::<Vec<_>>(), max_norm, &mut tally);
    let operands = w.iter_mut().zip(&mut matrices).zip(&g).zip(m.iter_mut().zip(&mut v));
    let tensors = operands.zip(SEED..).map(|((((weight, matrix), gradient), (first, second)), seed)| AdamWTensor {
        weight,
        matrix: matrix.as_mut(),
        gradient,
        moments: [first, second],
        weight_decay: ADAMW.weight_decay,
        seed,
    });
    stage.0.adamw_all(&AdamW { weight_rounding: rounding, ..ADAMW }, tensors.collect(), &tally);
    let operands = BLOCKED.iter().zip(SEED..).zip(blocked.iter_mut().zip(&mut refreshed)).zip(&mut momenta);
    let tensors = operands.map(|((((which, row_blocks), seed), (weight, matrix)), momentum)| {
        let (gradient, columns) = (&g[*which], PARAMETERS[*which].1);
        MuonTensor { weight, matrix: Some(matrix), gradient, momentum, row_blocks, columns, seed }
    });
    stage.0.muon_all(&Muon { weight_rounding: rounding, ..MUON }, tensors.collect(), &tally);
    let totals = stage.0.read_tally(&tally);
    let mut differing = 0.0;
    let by_adamw = w.iter().zip(&matrices).zip(PARAMETERS).zip(SEED..);
    let by_adamw = by_adamw.filter_map(|(((weight, matrix), size), seed)| Some((weight, matrix.as_ref()?, size, seed)));
    let by_muon = blocked.iter().zip(&refreshed).zip(BLOCKED).zip(SEED..);
    let by_muon = by_muon.map(|(((weight, matrix), (which, _)), seed)| (weight, matrix, PARAMETERS[which], seed));
    for (weight, matrix, (rows, columns), seed) in by_adamw.chain(by_muon) {
        let ids: Vec<u32> = (0..rows as u32).collect();
        let mut read = stage.output(DType::F32, rows * columns)?;
        stage.0.embedding(matrix, &stage.indices(&ids)?, rows, &mut read);
        let weight: Vec<f32> = stage.read(weight).into_iter().map(|x| x as f32).collect();
        let rounded = match rounding {
            Rounding::Nearest => weight.iter().map(|x| f64::from(round(dtype, *x))).collect(),
            Rounding::Stochastic => rounded_weights(dtype, &weight, seed),
        };
        differing += stage.read(&read).iter().zip(rounded).filter(|(a, b)| **a != *b).count() as f64;
    }
    let all = |buffers: &[D::Buffer]| buffers.iter().flat_map(|b| stage.read(b)).collect::<Vec<f64>>();
    let results = [all(&w), all(&m), all(&v), vec![differing], all(&blocked), all(&momenta)];
    Ok(std::iter::once(vec![totals.gradient_norm]).chain(results).collect())
}

/// A step that was refused lets no later one update, and totals arrive in the order in which they were posted.
fn later_steps<D: Device>(trial: &mut Trial<'_, D>) {
    let len = 33;
    let weight = trial.random.normal(DType::F32, len, 1.0);
    let good = trial.random.normal(DType::F32, len, 0.5);
    let mut bad = good.clone();
    bad[7] = f32::NAN;
    let norm = good.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    let expected = vec![
        Expected::new("norms", vec![norm, f64::NAN, norm, 0.0], Tolerance::F32),
        Expected::new("weights changed", vec![len as f64, 0.0, 0.0], Tolerance::EXACT),
    ];
    trial.case("post_tally", "three steps, the second refused".into(), expected, |stage| {
        let (good, bad) = (stage.whole(&good)?, stage.whole(&bad)?);
        let (mut weight, mut first, mut second) =
            (stage.whole(&weight)?, stage.whole(&vec![0.0; len])?, stage.whole(&vec![0.0; len])?);
        let mut tally = stage.0.allocate_tally()?;
        let mut changed = Vec::new();
        for gradient in [&good, &bad, &good] {
            let before = stage.read(&weight);
            stage.0.clear_tally(&mut tally);
            stage.0.clip(&[gradient], 1.0, &mut tally);
            let moments = [&mut first, &mut second];
            let tensor =
                AdamWTensor { weight: &mut weight, matrix: None, gradient, moments, weight_decay: 0.1, seed: 1 };
            stage.0.adamw_all(&ADAMW, vec![tensor], &tally);
            stage.0.post_tally(&mut tally);
            changed.push(stage.read(&weight).iter().zip(before).filter(|(now, before)| *now != before).count() as f64);
        }
        stage.0.clear_tally(&mut tally);
        stage.0.post_tally(&mut tally);
        Ok(vec![(0..4).map(|_| stage.0.collect_tally(&mut tally).gradient_norm).collect(), changed])
    });
}

/// A tally adds up what the heads of its step report, and forgets it when cleared.
fn tallied_heads<D: Device>(trial: &mut Trial<'_, D>, dtype: DType) {
    let (tokens, n_embd, vocab_size) = (33, 16, 65);
    let hidden = trial.random.normal(dtype, tokens * n_embd, 1.0);
    let weight = trial.random.normal(dtype, vocab_size * n_embd, 0.5);
    let targets = trial.random.indices(tokens, vocab_size);
    let weights: Vec<f32> = (0..tokens).map(|_| [0.0, 0.25, 1.0][trial.random.below(3)]).collect();
    let names = ["weighted loss", "weight", "counted", "correct"];
    let expected = names.map(|name| Expected::new(name, vec![0.0], Tolerance::EXACT)).into();
    trial.case("head_to_tally", format!("two heads of {tokens}, {}", dtype.name()), expected, |stage| {
        let (hidden, targets) = (stage.input(dtype, &hidden)?, stage.indices(&targets)?);
        let matrix = stage.matrix(dtype, &weight, n_embd, MatrixUse::Inference)?;
        let weights = stage.input(DType::F32, &weights)?;
        let head = Head { hidden: &hidden, weight: &matrix, targets: &targets, weights: &weights, tokens };
        let mut losses = stage.output(DType::F32, tokens)?;
        let one = stage.0.head(&head, &mut losses, None);
        let mut tally = stage.0.allocate_tally()?;
        stage.0.head_to_tally(&head, &mut losses, None, &mut tally);
        stage.0.clear_tally(&mut tally);
        stage.0.head_to_tally(&head, &mut losses, None, &mut tally);
        stage.0.head_to_tally(&head, &mut losses, None, &mut tally);
        let two = stage.0.read_tally(&tally).head;
        let [counted, correct] = [(two.counted, one.counted), (two.correct, one.correct)];
        Ok(vec![
            vec![two.weighted_loss - 2.0 * one.weighted_loss],
            vec![two.weight - 2.0 * one.weight],
            vec![counted.0 as f64 - 2.0 * counted.1 as f64],
            vec![correct.0 as f64 - 2.0 * correct.1 as f64],
        ])
    });
}
