//! A whole model in quantised weights: its logits are those of the restored weights, however the tokens are read.

use std::sync::Arc;

use casallm_compute::cuda::CudaDevice;
use casallm_compute::cuda::simulator::Simulator;
use casallm_compute::quantize::blocks;
use casallm_compute::reference::quantized::dequantize;
use casallm_compute::{CpuDevice, Device, Isa, MatrixFormat, MatrixUse};
use casallm_model::config::ModelConfig;
use casallm_model::decoder::Decoder;
use casallm_model::network::Network;
use casallm_model::parameters::Parameters;
use casallm_model::specification::{ParameterKind, ParameterSpec, init_parameter};

const FORMATS: [MatrixFormat; 2] = [MatrixFormat::Q8, MatrixFormat::Q4];

/// Tied and untied, with rows that are no multiple of a block.
fn configs() -> [ModelConfig; 2] {
    let modern = ModelConfig::modern(2, 80, 4, 2, 150, 48).unwrap();
    let untied = ModelConfig { tie_embeddings: false, ..ModelConfig::classic(2, 64, 2, 99, 48).unwrap() };
    [modern, untied]
}

fn values(spec: &ParameterSpec) -> Vec<f32> {
    // Larger than at the start of training: what a layer adds must matter.
    init_parameter(spec, 5).iter().map(|x| if spec.kind == ParameterKind::Vector { *x } else { 8.0 * x }).collect()
}

fn network<D: Device>(device: &Arc<D>, config: &ModelConfig, format: MatrixFormat) -> Network<D> {
    let usage = MatrixUse::Inference;
    let parameters = Parameters::new(device.clone(), config, format, usage, |spec| Ok(values(spec))).unwrap();
    Network::new(config.clone(), format.activations(), parameters).unwrap()
}

/// The network of the weights that the format makes of the values, in f32.
fn restored(device: &Arc<CpuDevice>, config: &ModelConfig, format: MatrixFormat) -> Network<CpuDevice> {
    let of = |spec: &ParameterSpec| {
        let values = values(spec);
        Ok(match spec.kind {
            ParameterKind::Vector => values,
            _ => {
                let columns = spec.shape[1];
                let weights = dequantize(format, &blocks(format, &values, columns), columns);
                weights.iter().map(|x| *x as f32).collect()
            }
        })
    };
    let parameters = Parameters::new(device.clone(), config, MatrixFormat::F32, MatrixUse::Inference, of).unwrap();
    Network::new(config.clone(), MatrixFormat::F32.activations(), parameters).unwrap()
}

fn distance(got: &[f32], wanted: &[f32]) -> f64 {
    let square = |x: f32| f64::from(x) * f64::from(x);
    let (apart, size): (f64, f64) =
        got.iter().zip(wanted).fold((0.0, 0.0), |(a, s), (g, w)| (a + square(g - w), s + square(*w)));
    (apart / size).sqrt()
}

fn ids(config: &ModelConfig) -> Vec<u32> {
    (0..40).map(|i| (i * i * 7 + 3) % config.vocab_size as u32).collect()
}

/// In bf16 activations either side is within 2e-2, as in the tests of bf16 weights; in 8 bits within half as much again.
fn logits_are_those_of_the_restored_weights<D: Device>(device: &Arc<D>) {
    let exact = Arc::new(CpuDevice::new(1, Isa::Portable).unwrap());
    for config in configs() {
        let ids = ids(&config);
        for format in FORMATS {
            let reference = restored(&exact, &config, format);
            let wanted = Decoder::new(&reference, 48).unwrap().extend(&ids).unwrap().to_vec();
            let network = network(device, &config, format);
            let mut whole = Decoder::new(&network, 48).unwrap();
            let at_once = distance(whole.extend(&ids).unwrap(), &wanted);
            let mut single = Decoder::new(&network, 48).unwrap();
            let mut got = Vec::new();
            for id in &ids {
                got = single.extend(&[*id]).unwrap().to_vec();
            }
            let one_by_one = distance(&got, &wanted);
            let name = format.name();
            let most = if device.rounds_activations(format) { 3e-2 } else { 2e-2 };
            assert!(at_once < most && one_by_one < most, "{name}: {at_once:.2e} at once, {one_by_one:.2e} one by one");
        }
    }
}

#[test]
fn logits_are_those_of_the_restored_weights_on_the_processor() {
    for isa in Isa::available() {
        logits_are_those_of_the_restored_weights(&Arc::new(CpuDevice::new(2, isa).unwrap()));
    }
}

#[test]
fn logits_are_those_of_the_restored_weights_on_the_gpu() {
    if let Some(simulator) = Simulator::for_test(1) {
        logits_are_those_of_the_restored_weights(&Arc::new(CudaDevice::new(simulator).unwrap()));
    }
}

#[test]
fn what_cannot_be_quantized_is_refused_by_name() {
    let device = Arc::new(CpuDevice::new(1, Isa::Portable).unwrap());
    let [config, _] = configs();
    let damaged = |spec: &ParameterSpec| {
        let mut values = values(spec);
        if spec.name == "layers.1.mlp.down.weight" {
            values[17] = f32::NAN;
        }
        Ok(values)
    };
    let refused = Parameters::new(device.clone(), &config, MatrixFormat::Q4, MatrixUse::Inference, damaged);
    let error = refused.err().unwrap().to_string();
    assert!(error.contains("layers.1.mlp.down.weight") && error.contains("q4"), "{error}");
    let training = Parameters::random(device, &config, MatrixFormat::Q8, 1).err().unwrap().to_string();
    assert!(training.contains("embed.weight") && training.contains("q8"), "{training}");
}
