//! Levels of recomputation: the same bits at every level, on the processor and on the GPU's code, simulated; and the memory
//! that the plan says.

use std::sync::Arc;

use casallm_compute::cuda::CudaDevice;
use casallm_compute::cuda::simulator::Simulator;
use casallm_compute::{CpuDevice, DType, Device, Isa};
use casallm_model::config::{Activation, ModelConfig};
use casallm_model::memory::MemoryPlan;
use casallm_model::network::Network;
use casallm_model::parameters::Parameters;
use casallm_model::training::{BatchView, Gradients};
use casallm_model::workspace::{self, Recompute, Workspace, WorkspaceShape};

const TOKENS: usize = 33;

/// Both blocks and what lies between: with and without QK-norm, biases, grouped queries, heads wider than the stream.
fn models() -> Vec<(&'static str, ModelConfig)> {
    let dropout = 0.25;
    let classic = ModelConfig::classic(3, 32, 2, 47, 19).unwrap();
    let modern = ModelConfig::modern(3, 32, 4, 2, 47, 19).unwrap();
    vec![
        ("classic", ModelConfig { dropout, ..classic.clone() }),
        ("classic without dropout, wide heads", ModelConfig { head_dim: 24, ..classic }),
        ("modern", ModelConfig { dropout, ..modern.clone() }),
        ("modern, squared ReLU", ModelConfig { dropout, activation: Activation::ReluSquared, ..modern }),
    ]
}

fn shape(dtype: DType, level: Recompute) -> WorkspaceShape {
    // More room than the batch takes: buffers are longer than what is used of them.
    WorkspaceShape { tokens: TOKENS + 7, sequence: 19, dtype, training: Some(level) }
}

/// The loss and every gradient of two batches in one workspace, as bits.
fn results<D: Device>(device: &Arc<D>, config: &ModelConfig, dtype: DType, level: Recompute) -> Vec<Vec<u32>> {
    let parameters = Parameters::random(device.clone(), config, dtype.into(), 3).unwrap();
    let network = Network::new(config.clone(), dtype, parameters).unwrap();
    let mut workspace = Workspace::new(&**device, config, shape(dtype, level)).unwrap();
    let mut gradients = Gradients::new(&**device, config).unwrap();
    let mut bits = Vec::new();
    for (seed, cu_seqlens) in [(7_u64, vec![0, 5, 17, TOKENS as u32]), (8, vec![0, 1, 19])] {
        let tokens = *cu_seqlens.last().unwrap();
        let id = |i: u32| (u64::from(i + 1).wrapping_mul(seed * 0x9e37_79b9_7f4a_7c15) >> 40) as u32 % 47;
        let ids: Vec<u32> = (0..tokens).map(id).collect();
        let targets: Vec<u32> = (0..tokens).map(|i| id(i + 100)).collect();
        let weights: Vec<f32> = (0..tokens).map(|i| [1.0, 0.0, 0.5][i as usize % 3]).collect();
        let batch = BatchView { tokens: &ids, targets: &targets, weights: &weights, cu_seqlens: &cu_seqlens };
        let result = network.loss_and_gradients(&mut workspace, batch, 0.125, seed, &mut gradients).unwrap();
        bits.push(vec![(result.weighted_loss as f32).to_bits(), (result.weighted_loss.to_bits() >> 32) as u32]);
        for gradient in gradients.all() {
            let mut values = vec![0.0; device.len(gradient)];
            device.read_f32(gradient, 0, &mut values);
            assert!(values.iter().all(|x| x.is_finite()));
            bits.push(values.into_iter().map(f32::to_bits).collect());
        }
    }
    device.check().unwrap();
    bits
}

fn all_levels_agree<D: Device>(device: &Arc<D>) {
    for (name, config) in models() {
        for dtype in [DType::F32, DType::Bf16] {
            let expected = results(device, &config, dtype, Recompute::None);
            assert!(expected.iter().skip(1).any(|gradient| gradient.iter().any(|bits| *bits != 0)));
            for level in [Recompute::Light, Recompute::Block] {
                let got = results(device, &config, dtype, level);
                let place = expected.iter().zip(&got).position(|(a, b)| a != b);
                let what = place.map(|i| {
                    let specs = config.parameters();
                    let at = i % (specs.len() + 1);
                    if at == 0 { "the loss".to_owned() } else { specs[at - 1].name.clone() }
                });
                assert_eq!(what, None, "{name}, {}, {}: differs from no recomputation", dtype.name(), level.name());
            }
        }
    }
}

#[test]
fn every_level_gives_the_same_bits_on_the_processor() {
    for isa in Isa::available() {
        all_levels_agree(&Arc::new(CpuDevice::new(2, isa).unwrap()));
    }
}

#[test]
fn every_level_gives_the_same_bits_on_the_gpu() {
    let Some(simulator) = Simulator::for_test(1) else { return };
    all_levels_agree(&Arc::new(CudaDevice::new(simulator).unwrap()));
}

/// What a workspace takes, and what its plan says.
fn planned_is_allocated<D: Device>(device: impl Fn() -> D) {
    for (name, config) in models() {
        for dtype in [DType::F32, DType::Bf16] {
            let shapes = Recompute::ALL.map(|level| shape(dtype, level));
            let inference = WorkspaceShape { training: None, ..shapes[0] };
            for shape in shapes.into_iter().chain([inference]) {
                // A device of its own: scratch memory only grows.
                let device = device();
                let before = device.allocated_bytes();
                let _workspace = Workspace::new(&device, &config, shape).unwrap();
                let mut plan = MemoryPlan::of(&device);
                workspace::plan(&device, &config, shape, &mut plan);
                assert_eq!(device.allocated_bytes() - before, plan.on_device(), "{name}, {shape:?}");
            }
        }
    }
}

#[test]
fn a_workspace_takes_what_its_plan_says() {
    planned_is_allocated(|| CpuDevice::new(2, Isa::Portable).unwrap());
    if Simulator::for_test(1).is_some() {
        planned_is_allocated(|| CudaDevice::new(Simulator::for_test(1).unwrap()).unwrap());
    }
}

/// More recomputation is less memory, or there would be no reason for it.
#[test]
fn each_level_takes_less_than_the_one_before() {
    let device = CpuDevice::new(1, Isa::Portable).unwrap();
    for (name, config) in models() {
        let bytes = Recompute::ALL.map(|level| {
            let mut plan = MemoryPlan::of(&device);
            workspace::plan(&device, &config, shape(DType::Bf16, level), &mut plan);
            plan.total()
        });
        assert!(bytes[0] > bytes[1] && bytes[1] > bytes[2], "{name}: {bytes:?}");
    }
}
