//! A step of the trainer: what its parts are, repeatable, without allocation, and refused where numbers are not finite; on
//! the processor and on the GPU's code, simulated.

use std::sync::Arc;

use casallm_compute::cuda::CudaDevice;
use casallm_compute::cuda::planned::PlannedGpu;
use casallm_compute::cuda::simulator::Simulator;
use casallm_compute::{AdamW, CpuDevice, DType, Device, Isa, Muon, Rounding};
use casallm_data::batch::Batch;
use casallm_model::config::ModelConfig;
use casallm_model::network::Network;
use casallm_model::parameters::Parameters;
use casallm_model::specification::ParameterKind;
use casallm_model::training::Gradients;
use casallm_model::workspace::{Recompute, Workspace, WorkspaceShape};
use casallm_train::TrainError;
use casallm_train::feed::Feed;
use casallm_train::optimizer::{MatrixUpdate, OptimizerConfig};
use casallm_train::planning::{Asked, Planner};
use casallm_train::recipe::Stage;
use casallm_train::schedule::{Schedule, Shape};
use casallm_train::trainer::{Trainer, TrainerConfig, plan};
use casallm_train::validation::view;

const CONTEXT: usize = 9;
const ROWS: usize = 2;
const VOCAB_SIZE: usize = 23;

/// Two micro-batches a step, of ids that follow no pattern; the second supervises every third target.
struct Noise;

impl Feed for Noise {
    fn micro_batches(&self, step: u64) -> Result<Vec<Batch>, TrainError> {
        let id = |i: u64| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) as u32 % VOCAB_SIZE as u32;
        let batch = |micro: u64| {
            let row = |r: u64| (0..=CONTEXT as u64).map(|t| id(1 + t + 100 * (r + 10 * (micro + 2 * step)))).collect();
            let rows: Vec<Vec<u32>> = (0..ROWS as u64).map(row).collect();
            let mut batch = Batch::from_rows(rows.iter().map(Vec::as_slice)).unwrap();
            if micro == 1 {
                batch.weights.iter_mut().enumerate().for_each(|(i, w)| *w = if i % 3 == 0 { 1.0 } else { 0.0 });
            }
            batch
        };
        Ok(vec![batch(0), batch(1)])
    }

    fn describe(&self, step: u64) -> String {
        format!("noise {step}")
    }
}

fn model() -> ModelConfig {
    ModelConfig::modern(2, 16, 2, 1, VOCAB_SIZE, CONTEXT).unwrap()
}

fn config(matrices: MatrixUpdate) -> TrainerConfig {
    TrainerConfig {
        stage: Stage::Pretrain,
        settings: String::new(),
        schedule: Schedule { shape: Shape::Cosine, steps: 10, warmup: 2, cooldown: 0, peak: 0.02, min: 0.002 },
        // The first gradients are longer: they are clipped.
        clip: 0.5,
        optimizer: OptimizerConfig { matrices, ..Default::default() },
        eval_every: 1,
        checkpoint_every: 1,
        background: true,
        guard: Default::default(),
        seed: 5,
        micro_tokens: ROWS * CONTEXT,
        recompute: Recompute::Light,
        step_tokens: 2 * ROWS * CONTEXT,
        context: CONTEXT,
        samples: 0,
        peak: None,
    }
}

const MUON: MatrixUpdate = MatrixUpdate::Muon { lr: 0.02, momentum: 0.95 };

fn network<D: Device>(device: &Arc<D>, dtype: DType) -> Network<D> {
    let parameters = Parameters::random(device.clone(), &model(), dtype.into(), 3).unwrap();
    Network::new(model(), dtype, parameters).unwrap()
}

fn weights<D: Device>(parameters: &Parameters<D>) -> Vec<Vec<u32>> {
    let bits = |i| parameters.read(i).unwrap().iter().map(|x: &f32| x.to_bits()).collect();
    (0..parameters.len()).map(bits).collect()
}

fn cpu() -> Arc<CpuDevice> {
    Arc::new(CpuDevice::new(2, Isa::Portable).unwrap())
}

fn simulated_gpu(schedule: u64) -> Option<Arc<CudaDevice>> {
    Simulator::for_test(schedule).map(|simulator| Arc::new(CudaDevice::new(simulator).unwrap()))
}

/// The same step from its parts: losses and norm brought to the host, one update after the other.
struct ByHand<D: Device> {
    network: Network<D>,
    workspace: Workspace<D::Buffer>,
    gradients: Gradients<D::Buffer>,
    moments: Vec<[D::Buffer; 2]>,
    config: TrainerConfig,
}

impl<D: Device> ByHand<D> {
    fn new(device: &Arc<D>, config: TrainerConfig) -> Self {
        let shape = WorkspaceShape {
            tokens: config.micro_tokens,
            sequence: CONTEXT,
            dtype: DType::Bf16,
            matrices: DType::Bf16.into(),
            training: Some(Recompute::Light),
        };
        let network = network(device, DType::Bf16);
        let moment = |i: usize| device.allocate("moment", DType::F32, network.parameters.spec(i).len()).unwrap();
        ByHand {
            workspace: Workspace::new(&**device, &model(), shape).unwrap(),
            gradients: Gradients::new(&**device, &model()).unwrap(),
            moments: (0..network.parameters.len()).map(|i| [moment(i), moment(i)]).collect(),
            network,
            config,
        }
    }

    /// The loss and the norm.
    fn step(&mut self, step: u64) -> (f64, f64) {
        let device = self.network.device().clone();
        let batches = Noise.micro_batches(step).unwrap();
        let weight: f64 = batches.iter().map(Batch::supervised).sum();
        self.gradients.clear(&*device);
        let mut loss = 0.0;
        for batch in &batches {
            let (workspace, gradients) = (&mut self.workspace, &mut self.gradients);
            // Without dropout the seed is nothing.
            let scale = (1.0 / weight) as f32;
            let part = self.network.loss_and_gradients(workspace, view(batch), scale, 0, gradients).unwrap();
            loss += part.weighted_loss;
        }
        let norm = self.gradients.norm(&*device);
        let clip = self.config.clip;
        let gradient_scale = if norm > clip { clip / norm } else { 1.0 } as f32;
        let (lr, peak) = (self.config.schedule.lr(step), self.config.schedule.peak);
        let OptimizerConfig { matrices, beta1, beta2, eps, weight_decay, .. } = self.config.optimizer;
        for (i, [m, v]) in self.moments.iter_mut().enumerate() {
            let spec = self.network.parameters.spec(i).clone();
            let weight_decay = if spec.decays() { weight_decay } else { 0.0 };
            let gradient = self.gradients.get(i);
            let in_block = spec.kind == ParameterKind::Matrix && spec.name.starts_with("layers.");
            self.network.parameters.update(i, |w| match matrices {
                MatrixUpdate::Muon { lr: muon_lr, momentum } if in_block => {
                    let lr = muon_lr * (lr / peak) as f32;
                    let (rows, columns) = (spec.shape[0], spec.shape[1]);
                    let blocks = match &*spec.name {
                        name if name.ends_with("attn.qkv.weight") => vec![16, 8, 8],
                        name if name.ends_with("mlp.up.weight") => vec![rows / 2, rows / 2],
                        _ => vec![rows],
                    };
                    let weight_rounding = Rounding::Nearest;
                    let update = Muon { lr, momentum, weight_decay, gradient_scale, seed: 0, weight_rounding };
                    device.muon(&update, &blocks, columns, w, gradient, m);
                }
                _ => {
                    let (lr, step) = (lr as f32, step + 1);
                    let (seed, weight_rounding) = (0, Rounding::Nearest);
                    let update =
                        AdamW { lr, beta1, beta2, eps, weight_decay, step, gradient_scale, seed, weight_rounding };
                    device.adamw(&update, w, gradient, [m, v]);
                }
            });
        }
        (loss / weight, norm)
    }
}

/// To the bit: on the processor, steps are what they have always been.
#[test]
fn a_step_is_what_its_parts_are() {
    for matrices in [MatrixUpdate::AdamW, MUON] {
        let device = cpu();
        let mut trainer = Trainer::new(network(&device, DType::Bf16), config(matrices)).unwrap();
        let mut by_hand = ByHand::new(&device, config(matrices));
        let mut clipped = 0;
        for step in 0..4 {
            let result = trainer.step(&Noise, step).unwrap();
            assert_eq!((result.loss, result.grad_norm), by_hand.step(step), "{matrices:?}, step {step}");
            clipped += u32::from(result.grad_norm > 0.5);
            let (got, want) = (weights(&trainer.network().parameters), weights(&by_hand.network.parameters));
            assert!(got == want, "{matrices:?}: weights after step {step}");
        }
        assert!(clipped > 0, "no step was clipped");
    }
}

/// Loss and norm of some steps, and the weights behind them.
fn run<D: Device>(device: &Arc<D>, dtype: DType, matrices: MatrixUpdate) -> (Vec<(f64, f64)>, Vec<Vec<u32>>) {
    let mut trainer = Trainer::new(network(device, dtype), config(matrices)).unwrap();
    let allocated = device.allocated_bytes();
    let steps = (0..3).map(|step| trainer.step(&Noise, step).map(|result| (result.loss, result.grad_norm)).unwrap());
    let steps = steps.collect();
    assert_eq!(device.allocated_bytes(), allocated, "a step allocates");
    (steps, weights(&trainer.network().parameters))
}

#[test]
fn the_gpu_trains_as_the_processor_does_and_repeats_itself_to_the_bit() {
    for (dtype, limit) in [(DType::F32, 1e-5), (DType::Bf16, 2e-2)] {
        for matrices in [MatrixUpdate::AdamW, MUON] {
            let (Some(gpu), Some(again)) = (simulated_gpu(1), simulated_gpu(2)) else { return };
            let (steps, weights) = run(&gpu, dtype, matrices);
            assert!((steps.clone(), weights) == run(&again, dtype, matrices), "{matrices:?}: the schedule shows");
            // Muon's iteration is in bf16 whatever the activations are.
            let limit: f64 = if matrices == MUON { 2e-2 } else { limit };
            for ((loss, norm), (want_loss, want_norm)) in steps.iter().zip(run(&cpu(), dtype, matrices).0) {
                let off = |got: f64, want: f64| ((got - want) / want).abs();
                assert!(off(*loss, want_loss) < limit, "{matrices:?}, {}: {loss} {want_loss}", dtype.name());
                assert!(off(*norm, want_norm) < 5.0 * limit, "{matrices:?}, {}: {norm} {want_norm}", dtype.name());
            }
        }
    }
}

/// One weight that is not finite makes the loss NaN: the step is an error, and every weight stays what it was.
fn refuses<D: Device>(device: &Arc<D>) {
    for matrices in [MatrixUpdate::AdamW, MUON] {
        let mut network = network(device, DType::Bf16);
        let last = network.parameters.len() - 1;
        network.parameters.update(last, |w| device.write_f32(w, 0, &[f32::INFINITY]));
        let before = weights(&network.parameters);
        let mut trainer = Trainer::new(network, config(matrices)).unwrap();
        match trainer.step(&Noise, 4) {
            Err(TrainError::NonFinite { step: 5, what: "the loss", value, batch, .. }) => {
                assert!(!value.is_finite() && batch == "noise 4");
            }
            other => panic!("{other:?}"),
        }
        assert!(weights(&trainer.network().parameters) == before, "{matrices:?}: weights changed");
    }
}

#[test]
fn what_is_not_finite_changes_no_weight_on_the_processor() {
    refuses(&cpu());
}

#[test]
fn what_is_not_finite_changes_no_weight_on_the_gpu() {
    simulated_gpu(3).iter().for_each(refuses);
}

/// The plan, and what a device that is asked for nothing else has given after network, trainer and a step.
fn planned_is_allocated<D: Device>(device: impl Fn() -> Arc<D>, steps: u64) {
    for (dtype, matrices) in [(DType::F32, MatrixUpdate::AdamW), (DType::Bf16, MUON)] {
        for recompute in Recompute::ALL {
            let device = device();
            let config = TrainerConfig { recompute, ..config(matrices) };
            let planned = plan(&*device, &model(), dtype, &config);
            let before = device.allocated_bytes();
            let mut trainer = Trainer::new(network(&device, dtype), config).unwrap();
            for step in 0..steps {
                trainer.step(&Noise, step).unwrap();
            }
            let allocated = device.allocated_bytes() - before;
            assert_eq!(allocated, planned.on_device(), "{}, {}: {planned:?}", dtype.name(), recompute.name());
        }
    }
}

#[test]
fn the_plan_is_what_is_allocated() {
    planned_is_allocated(cpu, 1);
    // One that is not there is laid out by the same code.
    planned_is_allocated(|| planned_gpu(1 << 30), 0);
    if simulated_gpu(1).is_some() {
        planned_is_allocated(|| simulated_gpu(1).unwrap(), 1);
    }
}

fn planned_gpu(memory: u64) -> Arc<CudaDevice> {
    Arc::new(CudaDevice::new(Arc::new(PlannedGpu::new(memory))).unwrap())
}

/// What is chosen for each amount of memory, from plenty to nothing: the rule, held to a search by hand.
#[test]
fn the_choice_is_the_rules() {
    let device = planned_gpu(1 << 30);
    let model = ModelConfig::modern(2, 64, 2, 1, VOCAB_SIZE, 2048).unwrap();
    // 24 rows of a step: 16 of them, which would be 32,768 tokens, do not divide it.
    let settings = TrainerConfig { context: 2048, step_tokens: 24 * 2048, ..config(MatrixUpdate::AdamW) };
    let (dtype, rows) = (DType::Bf16, [12, 8, 6, 4, 3, 2, 1]);
    let planner =
        |available| Planner { device: &*device, model: &model, matrices: dtype.into(), config: &settings, available };
    let bytes = |rows: usize, level: Recompute| planner(None).plan(rows, level).total();
    let (most, least) = (bytes(12, Recompute::None), bytes(1, Recompute::Block));
    let mut seen = std::collections::BTreeSet::new();
    for step in 0..=200 {
        let available = least + (most - least) * step / 200;
        let choice = planner(Some(available)).choose(Asked::default()).unwrap();
        assert!(choice.plan.total() <= available);
        let largest = |level| rows.into_iter().find(|rows| bytes(*rows, level) <= available).unwrap_or(0);
        let by_level = Recompute::ALL.map(|level| (largest(level), level));
        // `max_by_key` takes the last of equals.
        let expected = by_level.into_iter().find(|(rows, _)| *rows >= 4);
        let expected = expected.or(by_level.into_iter().rev().max_by_key(|(rows, _)| *rows)).unwrap();
        assert_eq!((choice.micro_batch, choice.recompute), expected, "{available} bytes");
        seen.insert((choice.recompute.name(), choice.micro_batch));
    }
    assert!(seen.contains(&("none", 12)) && seen.contains(&("light", 4)) && seen.contains(&("block", 1)), "{seen:?}");

    // Unknown memory refuses nothing.
    let open = planner(None).choose(Asked::default()).unwrap();
    assert_eq!((open.micro_batch, open.recompute), (12, Recompute::None));
    // What was asked for is kept.
    let asked = Asked { micro_batch: Some(2), recompute: Some(Recompute::Light) };
    let choice = planner(Some(most)).choose(asked).unwrap();
    assert_eq!((choice.micro_batch, choice.recompute), (2, Recompute::Light));
    let error = planner(Some(least)).choose(asked).unwrap_err();
    let told = error.to_string();
    assert!(matches!(error, TrainError::DoesNotFit { .. }) && told.contains("micro_batch = 1 with"), "{told}");
    for asked in [asked, Asked::default()] {
        let told = planner(Some(least - 1)).choose(asked).unwrap_err().to_string();
        assert!(told.contains("not even one row") && told.contains("activations"), "{told}");
    }
}
