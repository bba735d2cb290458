//! The optimizer's state in less memory and in other memory: what a step then does, what the plan says of it, and that a
//! checkpoint brings it back to the bit.

use std::sync::Arc;

use casallm_compute::cuda::CudaDevice;
use casallm_compute::cuda::simulator::Simulator;
use casallm_compute::{ComputeError, CpuDevice, DType, Device, Isa, MomentFormat, Place, Rounding};
use casallm_data::batch::Batch;
use casallm_model::config::ModelConfig;
use casallm_model::error::ModelError;
use casallm_model::memory::MemoryPlan;
use casallm_model::network::Network;
use casallm_model::parameters::Parameters;
use casallm_model::workspace::Recompute;
use casallm_train::TrainError;
use casallm_train::checkpoint::CheckpointStore;
use casallm_train::feed::Feed;
use casallm_train::interrupt::Interrupt;
use casallm_train::metrics::MetricsRow;
use casallm_train::optimizer::{MatrixUpdate, OptimizerConfig};
use casallm_train::recipe::Stage;
use casallm_train::schedule::{Schedule, Shape};
use casallm_train::trainer::{COPY, Observer, Trainer, TrainerConfig, plan};

const CONTEXT: usize = 9;
const VOCAB_SIZE: usize = 23;
const FORMATS: [MomentFormat; 3] = [MomentFormat::F32, MomentFormat::Bf16, MomentFormat::Bits8];
const MUON: MatrixUpdate = MatrixUpdate::Muon { lr: 0.02, momentum: 0.95 };

/// One row a step, of ids that follow no pattern.
struct Noise;

impl Feed for Noise {
    fn micro_batches(&self, step: u64) -> Result<Vec<Batch>, TrainError> {
        let id = |i: u64| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) as u32 % VOCAB_SIZE as u32;
        let row: Vec<u32> = (0..=CONTEXT as u64).map(|t| id(1 + t + 100 * step)).collect();
        Ok(vec![Batch::from_rows([row.as_slice()].into_iter()).unwrap()])
    }

    fn describe(&self, step: u64) -> String {
        format!("noise {step}")
    }
}

fn model() -> ModelConfig {
    ModelConfig::modern(2, 16, 2, 1, VOCAB_SIZE, CONTEXT).unwrap()
}

fn config(matrices: MatrixUpdate, moments: MomentFormat, weight_rounding: Rounding, place: Place) -> TrainerConfig {
    TrainerConfig {
        stage: Stage::Pretrain,
        settings: format!("moments = {moments:?}\n"),
        schedule: Schedule { shape: Shape::Cosine, steps: 6, warmup: 2, cooldown: 0, peak: 0.02, min: 0.002 },
        clip: 0.5,
        optimizer: OptimizerConfig { matrices, moments, weight_rounding, place, ..Default::default() },
        eval_every: 1,
        checkpoint_every: 3,
        background: true,
        guard: Default::default(),
        seed: 5,
        micro_tokens: CONTEXT,
        recompute: Recompute::Light,
        step_tokens: CONTEXT,
        context: CONTEXT,
        samples: 0,
        peak: None,
    }
}

fn trainer<D: Device>(device: &Arc<D>, config: TrainerConfig) -> Result<Trainer<D>, TrainError> {
    let place = config.optimizer.place;
    let parameters = Parameters::random_at(device.clone(), &model(), DType::Bf16.into(), 3, place)?;
    Trainer::new(Network::new(model(), DType::Bf16, parameters)?, config)
}

fn weights<D: Device>(trainer: &Trainer<D>) -> Vec<Vec<u32>> {
    let parameters = &trainer.network().parameters;
    let bits = |i| parameters.read(i).unwrap().iter().map(|x: &f32| x.to_bits()).collect();
    (0..parameters.len()).map(bits).collect()
}

fn cpu(threads: usize) -> Arc<CpuDevice> {
    Arc::new(CpuDevice::new(threads, Isa::Portable).unwrap())
}

/// Losses of some steps, and the weights behind them.
fn run<D: Device>(device: &Arc<D>, config: TrainerConfig) -> (Vec<f64>, Vec<Vec<u32>>) {
    let mut trainer = trainer(device, config).unwrap();
    let allocated = (device.allocated_bytes(), device.allocated_host_bytes());
    let losses = (0..3).map(|step| trainer.step(&Noise, step).unwrap().loss).collect();
    assert_eq!((device.allocated_bytes(), device.allocated_host_bytes()), allocated, "a step allocates");
    (losses, weights(&trainer))
}

/// To the bit on the processor whatever the threads and the place; near to f32's everywhere.
#[test]
fn every_format_trains_and_repeats_itself() {
    for matrices in [MatrixUpdate::AdamW, MUON] {
        let plain = run(&cpu(1), config(matrices, MomentFormat::F32, Rounding::Nearest, Place::Device));
        for moments in FORMATS {
            for rounding in [Rounding::Nearest, Rounding::Stochastic] {
                let at = |threads, place| run(&cpu(threads), config(matrices, moments, rounding, place));
                let one = at(1, Place::Device);
                assert!(one == at(3, Place::Host), "{matrices:?} {moments:?} {rounding:?}");
                let same = moments == MomentFormat::F32 && rounding == Rounding::Nearest;
                assert_eq!(one == plain, same, "{matrices:?} {moments:?} {rounding:?}");
                for (loss, want) in one.0.iter().zip(&plain.0) {
                    assert!((loss / want - 1.0).abs() < 0.03, "{matrices:?} {moments:?} {rounding:?}: {loss} {want}");
                }
            }
        }
    }
}

/// What the host holds whatever the place.
const ALWAYS: [&str; 2] = ["batches of a step", COPY];

/// Bytes that are on the host for the optimizer's sake.
fn offloaded(plan: &MemoryPlan) -> u64 {
    plan.items.iter().filter(|item| item.host && !ALWAYS.contains(&&*item.name)).map(|item| item.bytes).sum()
}

/// On the GPU's code: near the processor's, and with the state on the host the same bits as with all on the device; the
/// plan says where what lies.
#[test]
fn offloading_changes_no_bit_and_spares_the_device() {
    for (matrices, moments, rounding) in [
        (MatrixUpdate::AdamW, MomentFormat::F32, Rounding::Nearest),
        (MatrixUpdate::AdamW, MomentFormat::Bf16, Rounding::Stochastic),
        (MatrixUpdate::AdamW, MomentFormat::Bits8, Rounding::Nearest),
        (MUON, MomentFormat::Bits8, Rounding::Stochastic),
    ] {
        let gpu = |place| {
            let device = Arc::new(CudaDevice::new(Simulator::for_test(1)?).unwrap());
            let config = config(matrices, moments, rounding, place);
            let planned = plan(&*device, &model(), DType::Bf16, &config);
            let result = run(&device, config);
            assert_eq!(device.allocated_host_bytes(), offloaded(&planned), "{matrices:?} {moments:?} {place:?}");
            Some((result, device.allocated_bytes(), planned))
        };
        let Some((on_device, all, whole)) = gpu(Place::Device) else { return };
        let Some((on_host, fewer, split)) = gpu(Place::Host) else { return };
        assert!(on_device == on_host, "{matrices:?} {moments:?} {rounding:?}");
        assert_eq!(offloaded(&whole), 0);
        assert_eq!(whole.total(), split.total() + offloaded(&split));
        assert_eq!(all, fewer + offloaded(&split));
        let names: Vec<&str> = split.items.iter().filter(|item| item.host).map(|item| &*item.name).collect();
        assert_eq!(names, ["weights of matrices, f32", "optimizer moments", ALWAYS[0], ALWAYS[1]]);
        let cpu = run(&cpu(1), config(matrices, moments, rounding, Place::Host));
        for (loss, want) in on_host.0.iter().zip(&cpu.0) {
            assert!((loss / want - 1.0).abs() < 0.02, "{matrices:?} {moments:?}: {loss} {want}");
        }
    }
}

#[test]
fn memory_that_cannot_be_locked_is_an_error_that_names_it() {
    let Some(simulator) = Simulator::for_test(1) else { return };
    simulator.limit_host_memory(1000);
    let device = Arc::new(CudaDevice::new(simulator).unwrap());
    let settings = config(MatrixUpdate::AdamW, MomentFormat::F32, Rounding::Nearest, Place::Host);
    match trainer(&device, settings).err() {
        Some(TrainError::Model(ModelError::Compute(error @ ComputeError::PinnedMemory { .. }))) => {
            let text = error.to_string();
            for part in ["1472 bytes", "embed.weight", "ulimit -l", "run.offload = \"none\"", "\"8bit\""] {
                assert!(text.contains(part), "{part} is not in: {text}");
            }
        }
        other => panic!("{other:?}"),
    }
}

/// What a state takes of each weight, as the documentation has it.
#[test]
fn the_plan_counts_each_format() {
    let big = ModelConfig::modern(4, 256, 4, 4, 1024, 64).unwrap();
    let bytes = |matrices, moments| {
        let config = config(matrices, moments, Rounding::Nearest, Place::Device);
        let plan = plan(&*cpu(1), &big, DType::Bf16, &config);
        let item = plan.items.iter().find(|item| item.name == "optimizer moments").unwrap();
        item.bytes as f64 / big.n_params() as f64
    };
    for (moments, want) in FORMATS.into_iter().zip([8.0, 4.0, 2.0625]) {
        let got = bytes(MatrixUpdate::AdamW, moments);
        assert!((got / want - 1.0).abs() < 0.01, "{moments:?}: {got}");
        assert!(bytes(MUON, moments) < 0.7 * got || moments == MomentFormat::Bits8);
    }
}

struct Quiet;

impl Observer for Quiet {
    fn step(&mut self, _: &MetricsRow, _: u64) {}
    fn note(&mut self, _: &str) {}
}

/// Six steps, and three steps with another process going on after them, on the other place, its checkpoints written between
/// the steps: the same weights. Other moments are refused.
fn resumes<D: Device>(device: &Arc<D>) {
    for (matrices, moments, rounding) in [
        (MatrixUpdate::AdamW, MomentFormat::Bf16, Rounding::Stochastic),
        (MatrixUpdate::AdamW, MomentFormat::Bits8, Rounding::Stochastic),
        (MUON, MomentFormat::Bits8, Rounding::Nearest),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let run = |name: &str, moments, place, stop: bool| {
            let store = CheckpointStore::new(dir.path().join(name), 9)?;
            let background = place == Place::Device;
            let settings = TrainerConfig { background, ..config(matrices, moments, rounding, place) };
            let mut trainer = trainer(device, settings)?;
            let interrupt = Interrupt::default();
            if stop {
                interrupt.request();
            }
            let metrics = dir.path().join(format!("{name}.jsonl"));
            trainer.run(&Noise, &[], &store, &metrics, &interrupt, &mut Quiet)?;
            Ok::<_, TrainError>(weights(&trainer))
        };
        let whole = run("whole", moments, Place::Device, false).unwrap();
        let mut resumed = Vec::new();
        for stop in [true, true, false] {
            resumed = run("parts", moments, Place::Host, stop).unwrap();
        }
        assert!(whole == resumed, "{matrices:?} {moments:?} {rounding:?}");
        let error = run("parts", MomentFormat::F32, Place::Host, false).unwrap_err();
        assert!(matches!(error, TrainError::RecipeChanged { .. }), "{error}");
    }
}

#[test]
fn a_checkpoint_brings_the_state_back_to_the_bit_on_the_processor() {
    resumes(&cpu(2));
}

#[test]
fn a_checkpoint_brings_the_state_back_to_the_bit_on_the_gpu() {
    let Some(simulator) = Simulator::for_test(4) else { return };
    resumes(&Arc::new(CudaDevice::new(simulator).unwrap()));
}
