//! What there is to do, how long it takes as a whole, and how long each piece.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use casallm_compute::roofline::{Bandwidth, Ceilings, Traced, Tracer, time};
use casallm_compute::{DType, Device, MatrixFormat, MatrixUse};
use casallm_model::config::ModelConfig;
use casallm_model::decoder::Decoder;
use casallm_model::network::Network;
use casallm_model::parameters::Parameters;
use casallm_model::specification::{Init, ParameterKind, ParameterSpec};
use casallm_model::workspace::Recompute;
use casallm_train::stages::StageObserver;
use casallm_train::trainer::{Trainer, TrainerConfig};

use super::{Page, Part, Row, machine};
use crate::args::{BenchRoofline, OptimizerKind};
use crate::bench::{RandomFeed, fitted, ids, matrix_update, median, timed_config};
use crate::console::Console;
use crate::devices;

/// Most whole steps that are timed, after one to warm up.
const STEPS: u64 = 3;
/// Whole tokens that are timed, after one to warm up.
const TOKENS: usize = 5;

/// About what measuring the ceilings takes, once more.
const CEILINGS: Duration = Duration::from_secs(3);

/// Everything, on one device.
pub(super) fn page<D: Device>(
    flags: &BenchRoofline,
    model: &ModelConfig,
    device: &Arc<D>,
    console: &mut Console,
) -> Result<Page> {
    let begun = Instant::now();
    let budget = Duration::from_secs_f64(flags.seconds);
    let weights = weights(flags);
    let dtype = match devices::matrices(flags.precision) {
        MatrixFormat::Fp8 => bail!("bench roofline has no formulas for fp8: choose --precision bf16 or f32"),
        format => format.activations(),
    };
    let settings = timed_config(flags.context, flags.batch, matrix_update(flags.optimizer));
    let (settings, _) = fitted(&**device, model, dtype.into(), settings, None)?;
    device.supports(weights)?;
    let listed = listed(flags, model, (dtype, weights), settings.recompute)?;
    let step = whole_step(flags, model, device, dtype, settings, console)?;
    let token = whole_token(flags, model, device, weights, console)?;
    console.progress("ceilings", "of 1", 0, Some(1));
    let ceilings = Ceilings::measure(&**device)?;
    let work: Vec<Traced> = listed.iter().map(|(_, traced)| traced.clone()).collect();
    let left = budget.saturating_sub(begun.elapsed() + CEILINGS);
    let timings = time(&**device, &work, ceilings.wait, left, |share| {
        console.progress("kernels", "%", (100.0 * share) as u64, Some(100));
    })?;
    // Once more: whatever else the machine did meanwhile would have lowered them.
    let ceilings = higher(&ceilings, &Ceilings::measure(&**device)?);
    let timed = listed.into_iter().zip(timings);
    let mut rows: Vec<Row> = timed.map(|((part, traced), timing)| Row::new(part, traced, timing, &ceilings)).collect();
    rows.sort_by(|a, b| b.lost().total_cmp(&a.lost()));
    Ok(Page { machine: machine(flags, model, &**device, &ceilings), ceilings, rows, step, token })
}

/// What the machine has shown at its better moments.
fn higher(a: &Ceilings, b: &Ceilings) -> Ceilings {
    let bandwidth = Bandwidth {
        read: a.bandwidth.read.max(b.bandwidth.read),
        write: a.bandwidth.write.max(b.bandwidth.write),
        copy: a.bandwidth.copy.max(b.bandwidth.copy),
    };
    Ceilings { f32: a.f32.max(b.f32), bf16: a.bf16.max(b.bf16), bandwidth, wait: a.wait.min(b.wait) }
}

/// How the weights are held that a token is decoded with.
pub(super) fn weights(flags: &BenchRoofline) -> MatrixFormat {
    flags.weights.map_or_else(|| devices::matrices(flags.precision), devices::format)
}

/// Every kernel of a step and of a token.
fn listed(
    flags: &BenchRoofline,
    model: &ModelConfig,
    (dtype, weights): (DType, MatrixFormat),
    recompute: Recompute,
) -> Result<Vec<(Part, Traced)>> {
    let step = traced_step(flags, model, dtype, flags.optimizer, recompute)?;
    let other = match flags.optimizer {
        OptimizerKind::Adamw => OptimizerKind::Muon,
        OptimizerKind::Muon => OptimizerKind::Adamw,
    };
    let mut other = traced_step(flags, model, dtype, other, recompute)?;
    other.retain(|traced| !step.iter().any(|known| (&known.label, &known.work) == (&traced.label, &traced.work)));
    let token = traced_token(flags, model, weights)?;
    let parts = [(Part::Train, step), (Part::Decode, token), (Part::OtherOptimizer, other)];
    Ok(parts.into_iter().flat_map(|(part, traced)| traced.into_iter().map(move |t| (part, t))).collect())
}

fn traced_network(
    tracer: &Arc<Tracer>,
    model: &ModelConfig,
    format: MatrixFormat,
    usage: MatrixUse,
) -> Result<Network<Tracer>> {
    let parameters = Parameters::new(tracer.clone(), model, format, usage, |spec| Ok(vec![0.0; spec.len()]))?;
    Ok(Network::new(model.clone(), format.activations(), parameters)?)
}

/// What a training step asks of a device.
fn traced_step(
    flags: &BenchRoofline,
    model: &ModelConfig,
    dtype: DType,
    optimizer: OptimizerKind,
    recompute: Recompute,
) -> Result<Vec<Traced>> {
    let tracer = Arc::new(Tracer::default());
    let network = traced_network(&tracer, model, dtype.into(), MatrixUse::Training)?;
    let settings = TrainerConfig { recompute, ..timed_config(flags.context, flags.batch, matrix_update(optimizer)) };
    let mut trainer = Trainer::new(network, settings)?;
    let feed = RandomFeed::new(model.vocab_size, flags.context, flags.batch)?;
    tracer.take();
    trainer.step(&feed, 0)?;
    Ok(tracer.take())
}

/// What a token asks of a device, the last one that the context holds.
fn traced_token(flags: &BenchRoofline, model: &ModelConfig, weights: MatrixFormat) -> Result<Vec<Traced>> {
    let tracer = Arc::new(Tracer::default());
    let network = traced_network(&tracer, model, weights, MatrixUse::Inference)?;
    let mut decoder = full_but_one(&network, flags.context)?;
    tracer.take();
    decoder.extend(&[0])?;
    Ok(tracer.take())
}

/// A decoder with room for one more token.
fn full_but_one<D: Device>(network: &Network<D>, context: usize) -> Result<Decoder<'_, D>> {
    let mut decoder = Decoder::new(network, context)?;
    if context > 1 {
        decoder.extend(&ids(context - 1, network.config().vocab_size, 2))?;
    }
    Ok(decoder)
}

/// Seconds of a whole training step, as `bench train` measures them.
fn whole_step<D: Device>(
    flags: &BenchRoofline,
    model: &ModelConfig,
    device: &Arc<D>,
    dtype: DType,
    settings: TrainerConfig,
    console: &mut Console,
) -> Result<f64> {
    let begun = Instant::now();
    let feed = RandomFeed::new(model.vocab_size, flags.context, flags.batch)?;
    let parameters =
        Parameters::new(device.clone(), model, dtype.into(), MatrixUse::Training, |spec| Ok(values(spec)))?;
    let mut trainer = Trainer::new(Network::new(model.clone(), dtype, parameters)?, settings)?;
    let mut seconds = Vec::new();
    console.progress("whole steps", "steps", 0, Some(STEPS + 1));
    for step in 0..=STEPS {
        let start = Instant::now();
        trainer.step(&feed, step)?;
        console.progress("whole steps", "steps", step + 1, Some(STEPS + 1));
        if step > 0 {
            seconds.push(start.elapsed().as_secs_f64());
            // The kernels need the larger half of the time.
            if begun.elapsed().as_secs_f64() > 0.3 * flags.seconds {
                break;
            }
        }
    }
    Ok(median(seconds))
}

/// Seconds of a whole token, as `bench generate` measures them, on a cache that it fills.
fn whole_token<D: Device>(
    flags: &BenchRoofline,
    model: &ModelConfig,
    device: &Arc<D>,
    weights: MatrixFormat,
    console: &mut Console,
) -> Result<f64> {
    let parameters = Parameters::new(device.clone(), model, weights, MatrixUse::Inference, |spec| Ok(values(spec)))?;
    let network = Network::new(model.clone(), weights.activations(), parameters)?;
    console.progress("whole tokens", "tokens", 0, Some(TOKENS as u64));
    let mut decoder = full_but_one(&network, flags.context)?;
    let mut seconds = Vec::new();
    for token in 0..=TOKENS {
        let start = Instant::now();
        decoder.extend(&[1])?;
        if token > 0 {
            seconds.push(start.elapsed().as_secs_f64());
        }
        decoder.truncate(flags.context - 1);
        console.progress("whole tokens", "tokens", token as u64, Some(TOKENS as u64));
    }
    Ok(median(seconds))
}

/// Values of the right size, made faster than a normal variate can be: gains of one, biases of zero, matrices of some
/// hundredths.
fn values(spec: &ParameterSpec) -> Vec<f32> {
    match (spec.kind, spec.init) {
        (ParameterKind::Vector, Init::Ones) => vec![1.0; spec.len()],
        (ParameterKind::Vector, _) => vec![0.0; spec.len()],
        (ParameterKind::Embedding | ParameterKind::Matrix, _) => {
            let numbers = ids(spec.len(), 1 << 16, spec.len() as u64);
            numbers.into_iter().map(|n| (n as f32 / 65_536.0 - 0.5) * 0.06).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_higher_of_two_measurements_counts() {
        let of = |f32, bf16, [read, write, copy]: [f64; 3], wait| Ceilings {
            f32,
            bf16,
            bandwidth: Bandwidth { read, write, copy },
            wait,
        };
        let (a, b) = (of(1.0, 5.0, [1.0, 5.0, 3.0], 2.0), of(2.0, 4.0, [2.0, 4.0, 2.0], 1.0));
        assert_eq!(higher(&a, &b), of(2.0, 5.0, [2.0, 5.0, 3.0], 1.0));
        assert_eq!(higher(&b, &a), higher(&a, &b));
    }
}
