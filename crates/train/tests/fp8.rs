//! Training with 8-bit operands beside training in bf16, on the GPU's code, simulated.

use std::sync::Arc;

use casallm_compute::cuda::CudaDevice;
use casallm_compute::cuda::simulator::Simulator;
use casallm_compute::{DType, MatrixFormat};
use casallm_data::batch::Batch;
use casallm_model::config::ModelConfig;
use casallm_model::network::Network;
use casallm_model::parameters::Parameters;
use casallm_model::workspace::Recompute;
use casallm_train::TrainError;
use casallm_train::feed::Feed;
use casallm_train::optimizer::OptimizerConfig;
use casallm_train::recipe::Stage;
use casallm_train::schedule::{Schedule, Shape};
use casallm_train::trainer::{Trainer, TrainerConfig};

const CONTEXT: usize = 16;
const ROWS: usize = 2;
const VOCAB_SIZE: usize = 32;
const STEPS: u64 = 40;

/// Rows that count up by one or by three, from anywhere: to be learned from the last two ids.
struct Counting;

impl Feed for Counting {
    fn micro_batches(&self, step: u64) -> Result<Vec<Batch>, TrainError> {
        let row = |r: u64| {
            let seed = (step * ROWS as u64 + r).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
            let stride = 1 + seed % 2 * 2;
            (0..=CONTEXT as u64).map(|t| ((seed / 2 + t * stride) % VOCAB_SIZE as u64) as u32).collect()
        };
        let rows: Vec<Vec<u32>> = (0..ROWS as u64).map(row).collect();
        Ok(vec![Batch::from_rows(rows.iter().map(Vec::as_slice)).unwrap()])
    }

    fn describe(&self, step: u64) -> String {
        format!("counting {step}")
    }
}

/// The loss of every step.
fn losses(format: MatrixFormat, schedule: u64) -> Option<Vec<f64>> {
    let device = Arc::new(CudaDevice::new(Simulator::for_test(schedule)?).unwrap());
    let model = ModelConfig::classic(2, 32, 2, VOCAB_SIZE, CONTEXT).unwrap();
    let config = TrainerConfig {
        stage: Stage::Pretrain,
        settings: String::new(),
        schedule: Schedule { shape: Shape::Cosine, steps: STEPS, warmup: 2, cooldown: 0, peak: 0.01, min: 0.001 },
        clip: 1.0,
        optimizer: OptimizerConfig::default(),
        eval_every: 1,
        checkpoint_every: 1,
        background: true,
        guard: Default::default(),
        seed: 5,
        micro_tokens: ROWS * CONTEXT,
        recompute: Recompute::Light,
        step_tokens: ROWS * CONTEXT,
        context: CONTEXT,
        samples: 0,
        peak: None,
    };
    let parameters = Parameters::random(device, &model, format, 3).unwrap();
    let network = Network::new(model, DType::Bf16, parameters).unwrap();
    let mut trainer = Trainer::new(network, config).unwrap();
    Some((0..STEPS).map(|step| trainer.step(&Counting, step).unwrap().loss).collect())
}

#[test]
fn losses_in_fp8_stay_beside_those_in_bf16_and_repeat() {
    let Some(bf16) = losses(MatrixFormat::Bf16, 0) else { return };
    let fp8 = losses(MatrixFormat::Fp8, 0).unwrap();
    assert_eq!(fp8, losses(MatrixFormat::Fp8, 1).unwrap(), "the order in which threads run changes no bit");
    assert_ne!(fp8, bf16, "8 bits round more");
    println!("bf16 {bf16:.3?}\nfp8  {fp8:.3?}");
    // A step's own batch of 32 tokens is noise of a tenth; ten steps together stay within 3 %.
    let tens = |losses: &[f64]| -> Vec<f64> { losses.chunks(10).map(|ten| ten.iter().sum::<f64>() / 10.0).collect() };
    let (in_fp8, in_bf16) = (tens(&fp8), tens(&bf16));
    assert!(in_bf16[3] < 0.65 * in_bf16[0], "bf16 learns: {in_bf16:?}");
    for (a, b) in in_fp8.iter().zip(&in_bf16) {
        assert!((a - b).abs() < 0.03 * b, "{in_fp8:?} in fp8, {in_bf16:?} in bf16");
    }
}
