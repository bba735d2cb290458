//! What there is to do, how long it takes as a whole, and how long each piece.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use casallm_compute::roofline::{Ceilings, Traced, Tracer, time};
use casallm_compute::{DType, Device, MatrixUse};
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
/// Progress is told in these.
const PARTS: f64 = 1000.0;

/// Everything, on one device.
pub(super) fn page<D: Device>(
    flags: &BenchRoofline,
    model: &ModelConfig,
    device: &Arc<D>,
    console: &mut Console,
) -> Result<Page> {
    let begun = Instant::now();
    let budget = Duration::from_secs_f64(flags.seconds);
    let dtype = devices::dtype(flags.precision);
    let settings = timed_config(flags.context, flags.batch, matrix_update(flags.optimizer));
    let (settings, _) = fitted(&**device, model, dtype, settings, None)?;
    let listed = listed(flags, model, dtype, settings.recompute)?;
    let (step, token) = whole(flags, model, device, dtype, settings, console)?;
    console.progress("ceilings", "of 1", 0, Some(1));
    let ceilings = Ceilings::measure(&**device)?;
    let work: Vec<Traced> = listed.iter().map(|(_, traced)| traced.clone()).collect();
    let left = budget.saturating_sub(begun.elapsed());
    let timings = time(&**device, &work, ceilings.wait, left, |share| {
        console.progress("kernels", "thousandths", (PARTS * share) as u64, Some(PARTS as u64));
    })?;
    let timed = listed.into_iter().zip(timings);
    let mut rows: Vec<Row> = timed.map(|((part, traced), timing)| Row::new(part, traced, timing, &ceilings)).collect();
    rows.sort_by(|a, b| b.lost().total_cmp(&a.lost()));
    Ok(Page { machine: machine(flags, model, &**device, &ceilings), ceilings, rows, step, token })
}

/// Every kernel of a step and of a token.
fn listed(
    flags: &BenchRoofline,
    model: &ModelConfig,
    dtype: DType,
    recompute: Recompute,
) -> Result<Vec<(Part, Traced)>> {
    let step = traced_step(flags, model, dtype, flags.optimizer, recompute)?;
    let other = match flags.optimizer {
        OptimizerKind::Adamw => OptimizerKind::Muon,
        OptimizerKind::Muon => OptimizerKind::Adamw,
    };
    let mut other = traced_step(flags, model, dtype, other, recompute)?;
    other.retain(|traced| !step.iter().any(|known| (&known.label, &known.work) == (&traced.label, &traced.work)));
    let token = traced_token(flags, model, dtype)?;
    let parts = [(Part::Train, step), (Part::Decode, token), (Part::OtherOptimizer, other)];
    Ok(parts.into_iter().flat_map(|(part, traced)| traced.into_iter().map(move |t| (part, t))).collect())
}

fn traced_network(
    tracer: &Arc<Tracer>,
    model: &ModelConfig,
    dtype: DType,
    usage: MatrixUse,
) -> Result<Network<Tracer>> {
    let parameters = Parameters::new(tracer.clone(), model, dtype.into(), usage, |spec| Ok(vec![0.0; spec.len()]))?;
    Ok(Network::new(model.clone(), dtype, parameters)?)
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
    let network = traced_network(&tracer, model, dtype, MatrixUse::Training)?;
    let settings = TrainerConfig { recompute, ..timed_config(flags.context, flags.batch, matrix_update(optimizer)) };
    let mut trainer = Trainer::new(network, settings)?;
    let feed = RandomFeed::new(model.vocab_size, flags.context, flags.batch)?;
    tracer.take();
    trainer.step(&feed, 0)?;
    Ok(tracer.take())
}

/// What a token asks of a device, the last one that the context holds.
fn traced_token(flags: &BenchRoofline, model: &ModelConfig, dtype: DType) -> Result<Vec<Traced>> {
    let tracer = Arc::new(Tracer::default());
    let network = traced_network(&tracer, model, dtype, MatrixUse::Inference)?;
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

/// Seconds of whole training steps and of whole tokens, as `bench train` and `bench generate` measure them.
fn whole<D: Device>(
    flags: &BenchRoofline,
    model: &ModelConfig,
    device: &Arc<D>,
    dtype: DType,
    settings: TrainerConfig,
    console: &mut Console,
) -> Result<(f64, f64)> {
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
    let step = median(seconds);
    let network = trainer.into_network();
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
    Ok((step, median(seconds)))
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
