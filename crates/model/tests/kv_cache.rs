//! A KV cache of 8 bits: how far logits move by it, what it takes, and who has none.

use std::sync::Arc;

use casallm_compute::cuda::CudaDevice;
use casallm_compute::cuda::simulator::Simulator;
use casallm_compute::{CacheFormat, ComputeError, CpuDevice, DType, Device, Isa, MatrixUse};
use casallm_model::config::ModelConfig;
use casallm_model::decoder::Decoder;
use casallm_model::error::ModelError;
use casallm_model::network::{KvCache, Network};
use casallm_model::parameters::Parameters;
use casallm_model::sequences::Sequences;
use casallm_model::specification::{Init, ParameterKind, ParameterSpec, init_parameter};

const CONTEXT: usize = 300;

/// Grouped queries and a norm of keys; as many key heads as query heads, of a width that is no multiple of a vector.
fn configs() -> [ModelConfig; 2] {
    [ModelConfig::modern(3, 96, 6, 2, 150, CONTEXT).unwrap(), ModelConfig::classic(2, 66, 3, 99, CONTEXT).unwrap()]
}

fn network<D: Device>(device: &Arc<D>, config: &ModelConfig, dtype: DType) -> Network<D> {
    // What attention adds must matter: at the start of training it is nothing, or little.
    let values = |spec: &ParameterSpec| {
        Ok(match spec.kind {
            ParameterKind::Vector => init_parameter(spec, 5),
            _ => init_parameter(&ParameterSpec { init: Init::Normal { std: 0.16 }, ..spec.clone() }, 5),
        })
    };
    let parameters = Parameters::new(device.clone(), config, dtype.into(), MatrixUse::Inference, values).unwrap();
    Network::new(config.clone(), dtype, parameters).unwrap()
}

fn ids(config: &ModelConfig, count: u32) -> Vec<u32> {
    (0..count).map(|i| (i * i * 7 + 3) % config.vocab_size as u32).collect()
}

/// The logits after a text that is read at once, and after the same token by token.
fn logits(network: &Network<CpuDevice>, cache: CacheFormat, ids: &[u32]) -> [Vec<f32>; 2] {
    let mut whole = Decoder::with_cache(network, cache, CONTEXT).unwrap();
    let mut single = Decoder::with_cache(network, cache, CONTEXT).unwrap();
    let mut last = Vec::new();
    for id in ids {
        last = single.extend(&[*id]).unwrap().to_vec();
    }
    [whole.extend(ids).unwrap().to_vec(), last]
}

fn distance(got: &[f32], wanted: &[f32]) -> f64 {
    let square = |x: f32| f64::from(x) * f64::from(x);
    let (apart, size): (f64, f64) =
        got.iter().zip(wanted).fold((0.0, 0.0), |(a, s), (g, w)| (a + square(g - w), s + square(*w)));
    (apart / size).sqrt()
}

/// Codes round by up to 1/254 of a head's largest value: by about as much as bf16, and not at all like bf16.
#[test]
fn logits_move_as_little_as_eight_bits_should() {
    for isa in Isa::available() {
        let device = Arc::new(CpuDevice::new(2, isa).unwrap());
        for config in configs() {
            let ids = ids(&config, 290);
            let exact = network(&device, &config, DType::F32);
            let [wanted, _] = logits(&exact, CacheFormat::F32, &ids);
            for dtype in [DType::F32, DType::Bf16] {
                let network = network(&device, &config, dtype);
                for (got, how) in logits(&network, CacheFormat::Q8, &ids).iter().zip(["at once", "one by one"]) {
                    let moved = distance(got, &wanted);
                    let (least, most) = if dtype == DType::F32 { (1e-4, 1.5e-2) } else { (1e-4, 3e-2) };
                    let name = format!("{} {} {} heads, {how}", isa.name(), dtype.name(), config.n_kv_head);
                    assert!(moved > least && moved < most, "{name}: {moved:.2e}");
                }
            }
        }
    }
}

#[test]
fn threads_change_no_bit() {
    for isa in Isa::available() {
        for config in configs() {
            let of = |threads| {
                let device = Arc::new(CpuDevice::new(threads, isa).unwrap());
                let network = network(&device, &config, DType::Bf16);
                logits(&network, CacheFormat::Q8, &ids(&config, 140)).map(|x| x.iter().map(|x| x.to_bits()).collect())
            };
            let one: [Vec<u32>; 2] = of(1);
            assert!(one == of(2) && one == of(3), "{}", isa.name());
        }
    }
}

#[test]
fn bytes_are_those_that_are_allocated() {
    let device = Arc::new(CpuDevice::new(1, Isa::Portable).unwrap());
    for config in configs() {
        let network = network(&device, &config, DType::Bf16);
        let taken = |cache| {
            let before = device.allocated_bytes();
            let sequences = Sequences::with_cache(&network, cache, 2, CONTEXT, 16).unwrap();
            assert_eq!(sequences.save(1, 5..12).len(), 7 * sequences.bytes_a_token());
            assert_eq!(
                2 * CONTEXT as u64 * sequences.bytes_a_token() as u64,
                KvCache::<()>::bytes(&config, cache, 600)
            );
            device.allocated_bytes() - before
        };
        // The first one grows the scratch.
        taken(CacheFormat::Q8);
        let (plain, small) = (taken(CacheFormat::Bf16), taken(CacheFormat::Q8));
        let bytes = |cache| KvCache::<()>::bytes(&config, cache, 2 * CONTEXT);
        assert_eq!(plain - small, bytes(CacheFormat::Bf16) - bytes(CacheFormat::Q8));
        assert!(bytes(CacheFormat::Q8) * 5 < bytes(CacheFormat::Bf16) * 3, "heads of 16: 18 bytes, not 32");
    }
}

#[test]
fn a_device_without_it_refuses_and_says_what_to_do() {
    let Some(simulator) = Simulator::for_test(1) else { return };
    let device = Arc::new(CudaDevice::new(simulator).unwrap());
    let [_, config] = configs();
    let network = network(&device, &config, DType::Bf16);
    let before = device.allocated_bytes();
    let error = Decoder::with_cache(&network, CacheFormat::Q8, 8).err().unwrap();
    assert!(matches!(error, ModelError::Compute(ComputeError::NoQuantizedCache { .. })), "{error}");
    let text = error.to_string();
    assert!(text.contains("--kv-cache bf16") && text.contains("--device cpu"), "{text}");
    assert_eq!(device.allocated_bytes(), before);
}
