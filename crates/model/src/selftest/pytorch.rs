//! The model beside PyTorch.

use std::sync::Arc;

use casallm_compute::{DType, Device};

use super::fixture;
use super::trial::{Trial, adamw as update};
use super::{Findings, Outcome, distance, fingerprint};

/// Steps of AdamW that the fixtures hold.
const STEPS: usize = 10;

/// Loss, logits, gradients, row losses.
pub(super) fn f32<D: Device>(device: &Arc<D>, findings: &mut Findings) -> Outcome {
    for fixture in &fixture::all()? {
        let mut trial = Trial::new(fixture, device, DType::F32)?;
        let case = |what: &str| format!("{} f32: {what}", fixture.name);
        let loss = trial.step()?;
        findings.near_number(case("loss"), loss, f64::from(fixture.f32("loss")[0]), 1e-5);
        for (i, name) in trial.names().iter().enumerate() {
            let wanted = fixture.f32(&format!("grad.{name}"));
            findings.near(case(&format!("gradient of {name}")), &trial.gradient(i), &wanted, 1e-4);
        }
        findings.near(case("logits"), &trial.logits()?, &fixture.f32("logits"), 1e-5);
        let row_losses = trial.network.row_losses(&trial.workspace, trial.ids.len());
        let wanted = fixture.f32("token_loss").into_iter().zip(&trial.weights);
        let wanted = wanted.map(|(loss, weight)| if *weight == 0.0 { 0.0 } else { loss });
        let error = row_losses.iter().zip(wanted).map(|(got, wanted)| f64::from((got - wanted).abs()));
        let error = error.fold(0.0, |most: f64, e| if e.is_nan() { f64::NAN } else { most.max(e) });
        findings.add(case("row losses"), error, 1e-4, fingerprint(&row_losses), || {
            format!("off by {error:.2e} nats, allowed 1e-4")
        });
    }
    Ok(())
}

/// Ten steps: loss and gradient norm of each, parameters after the last.
pub(super) fn adamw<D: Device>(device: &Arc<D>, findings: &mut Findings) -> Outcome {
    for fixture in &fixture::all()? {
        let mut trial = Trial::new(fixture, device, DType::F32)?;
        let mut moments = trial.moments()?;
        let case = |what: &str| format!("{} f32: {what}", fixture.name);
        let (rates, norms, losses) = (fixture.f32("lr"), fixture.f32("grad_norm"), fixture.f32("loss_steps"));
        for step in 0..STEPS {
            let loss = trial.step()?;
            findings.near_number(case(&format!("loss of step {step}")), loss, f64::from(losses[step]), 1e-4);
            let norm = trial.gradients.norm(&**device);
            let wanted = f64::from(norms[step]);
            findings.near_number(case(&format!("gradient norm of step {step}")), norm, wanted, 1e-4);
            for (i, [first, second]) in moments.iter_mut().enumerate() {
                let decays = trial.network.parameters.spec(i).decays();
                let update = update(rates[step], step, decays, (1.0 / (norm + 1e-6)).min(1.0) as f32);
                let gradient = trial.gradients.get(i);
                trial.network.parameters.update(i, |w| device.adamw(&update, w, gradient, [first, second]));
            }
        }
        for (i, name) in trial.names().iter().enumerate() {
            let got = trial.network.parameters.read(i).unwrap_or_default();
            let wanted = fixture.f32(&format!("adamw.{name}"));
            findings.near(case(&format!("{name} after ten steps")), &got, &wanted, 1e-4);
        }
    }
    Ok(())
}

/// Our bf16 error over PyTorch's, for logits and for all gradients as one vector (single small ones are noise).
///
/// One case is one draw of rounding errors in either program, so a case may be a quarter above PyTorch; over all cases
/// together ours must be below.
pub(super) fn bf16<D: Device>(device: &Arc<D>, findings: &mut Findings) -> Outcome {
    let mut ratios: [Vec<f64>; 2] = Default::default();
    for fixture in &fixture::all()? {
        let mut trial = Trial::new(fixture, device, DType::Bf16)?;
        trial.step()?;
        let (mut ours, mut theirs, mut exact) = (Vec::new(), Vec::new(), Vec::new());
        for (i, name) in trial.names().iter().enumerate() {
            ours.extend(trial.gradient(i));
            theirs.extend(fixture.f32(&format!("bf16.grad.{name}")));
            exact.extend(fixture.f32(&format!("grad.{name}")));
        }
        let logits = (trial.logits()?, fixture.f32("bf16.logits"), fixture.f32("logits"));
        for ((what, ratios), (ours, theirs, exact)) in
            ["logits", "gradients"].into_iter().zip(&mut ratios).zip([logits, (ours, theirs, exact)])
        {
            let ratio = distance(&ours, &exact) / distance(&theirs, &exact);
            findings.add(format!("{} bf16: {what}", fixture.name), ratio, 1.25, fingerprint(&ours), || {
                format!("{ratio:.2} of PyTorch's own error, allowed 1.25")
            });
            ratios.push(ratio);
        }
    }
    for (what, ratios) in ["logits", "gradients"].into_iter().zip(&ratios) {
        let mean = ratios.iter().sum::<f64>() / ratios.len() as f64;
        findings.add(format!("all, bf16: {what}"), mean, 1.0, mean.to_bits(), || {
            format!("{mean:.2} of PyTorch's own error on the average ({ratios:.2?}), allowed 1")
        });
    }
    Ok(())
}
