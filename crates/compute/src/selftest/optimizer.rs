//! AdamW over several steps; Muon's momentum, direction and update.

use super::check::Tolerance;
use super::random::wide;
use super::stage::{Expected, Trial};
use crate::device::{AdamW, Device, Muon};
use crate::dtype::DType;
use crate::reference::{adamw, muon};

/// One, odd, longer than any job.
const LENGTHS: [usize; 4] = [1, 17, 1_025, 33_000];
/// Rows of each block, columns: wide, tall, square, fused, odd.
const MATRICES: [(&[usize], usize); 6] =
    [(&[16], 64), (&[129], 33), (&[48], 48), (&[64, 16, 16], 32), (&[1], 17), (&[63], 15)];

pub(super) fn run<D: Device>(trial: &mut Trial<'_, D>) {
    for len in LENGTHS {
        adamw_steps(trial, len);
    }
    for (row_blocks, columns) in MATRICES {
        muon_step(trial, row_blocks, columns);
    }
}

fn adamw_steps<D: Device>(trial: &mut Trial<'_, D>, len: usize) {
    let weight = trial.random.normal(DType::F32, len, 1.0);
    let steps: Vec<Vec<f32>> = (0..3).map(|_| trial.random.normal(DType::F32, len, 0.5)).collect();
    let update =
        |step| AdamW { lr: 0.01, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, step, gradient_scale: 0.75 };
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
    // A rate at which the direction is as large as the weight: errors of the direction show undiminished.
    let update = Muon { lr: 1.0, momentum: 0.95, weight_decay: 0.5, gradient_scale: 0.75 };
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
