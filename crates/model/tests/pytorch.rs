//! Holds the whole model to PyTorch and to itself, at every instruction set, and on the GPU's code, simulated: the parts of
//! [`casallm_model::selftest`], which `casallm selftest` runs on a user's machine.

use std::sync::Arc;

use casallm_compute::cuda::CudaDevice;
use casallm_compute::cuda::kernels::Family;
use casallm_compute::cuda::simulator::Simulator;
use casallm_compute::selftest::Check;
use casallm_compute::{CpuDevice, Device, Isa};
use casallm_model::selftest::{self, Part};

/// The processor.
fn cpu(isa: Isa, threads: usize) -> Arc<CpuDevice> {
    Arc::new(CpuDevice::new(threads, isa).unwrap())
}

/// The processor at its best.
fn best_cpu() -> Arc<CpuDevice> {
    cpu(*Isa::available().last().unwrap(), 2)
}

/// The GPU's code on the processor, where there is a C++ compiler.
fn simulated_gpu() -> Option<Arc<CudaDevice>> {
    Simulator::for_test(1).map(|simulator| Arc::new(CudaDevice::new(simulator).unwrap()))
}

#[track_caller]
fn assert_passed(device: &str, checks: &[Check]) {
    assert!(checks.len() >= 8, "{checks:?}");
    let failed: Vec<String> = checks
        .iter()
        .filter(|check| !check.passed)
        .map(|check| format!("{device} {} {}: {}", check.operation, check.case, check.detail))
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

fn holds<D: Device>(device: &Arc<D>, part: Part) {
    assert_passed(&device.info().isa, &selftest::run_part(device, part));
}

#[test]
fn f32_equals_pytorch_at_every_instruction_set() {
    for isa in Isa::available() {
        holds(&cpu(isa, 2), Part::F32);
    }
}

#[test]
fn f32_equals_pytorch_on_the_gpu() {
    simulated_gpu().iter().for_each(|device| holds(device, Part::F32));
}

#[test]
fn ten_adamw_steps_equal_pytorch_on_the_processor() {
    holds(&best_cpu(), Part::AdamW);
}

#[test]
fn ten_adamw_steps_equal_pytorch_on_the_gpu() {
    simulated_gpu().iter().for_each(|device| holds(device, Part::AdamW));
}

#[test]
fn bf16_is_as_near_as_pytorch_at_every_instruction_set() {
    for isa in Isa::available() {
        holds(&cpu(isa, 1), Part::Bf16);
    }
}

#[test]
fn bf16_is_as_near_as_pytorch_on_the_gpu() {
    simulated_gpu().iter().for_each(|device| holds(device, Part::Bf16));
}

#[test]
fn cached_decoding_equals_the_full_forward_on_the_processor() {
    holds(&best_cpu(), Part::Decoding);
}

#[test]
fn cached_decoding_equals_the_full_forward_on_the_gpu() {
    simulated_gpu().iter().for_each(|device| holds(device, Part::Decoding));
}

#[test]
fn packed_sequences_give_the_gradients_of_sequences_apart_on_the_processor() {
    holds(&best_cpu(), Part::Packing);
}

#[test]
fn packed_sequences_give_the_gradients_of_sequences_apart_on_the_gpu() {
    simulated_gpu().iter().for_each(|device| holds(device, Part::Packing));
}

#[test]
fn a_training_step_repeats_to_the_bit_on_the_processor() {
    holds(&best_cpu(), Part::Repetition);
}

#[test]
fn a_training_step_repeats_to_the_bit_on_the_gpu() {
    simulated_gpu().iter().for_each(|device| holds(device, Part::Repetition));
}

#[test]
fn thread_count_changes_no_bit() {
    let fingerprints = |threads: usize| -> Vec<u64> {
        let device = cpu(*Isa::available().last().unwrap(), threads);
        let parts = [Part::F32, Part::Bf16, Part::Repetition];
        parts.iter().flat_map(|part| selftest::run_part(&device, *part)).map(|check| check.fingerprint).collect()
    };
    let one = fingerprints(1);
    assert!(one.len() > 100);
    for threads in [2, 3] {
        assert!(fingerprints(threads) == one, "{threads} threads");
    }
}

/// A GPU that is wrong in one place only: the part that is about it says so. The drift of the last is what a race looks like.
#[test]
fn what_is_wrong_is_noticed() {
    for (family, right, wrong, part) in [
        (Family::Activation, "(1.0f - s)", "(1.0f + s)", Part::F32),
        (Family::Norm, "1.0f / sqrtf(", "1.03f / sqrtf(", Part::Bf16),
        (Family::AdamW, "w[j] * update.keep", "w[j]", Part::AdamW),
        (Family::Qkv, "u64(slots[place.token])", "u64(slots[place.token] / 2)", Part::Decoding),
        (
            Family::AdamW,
            "w[j] * update.keep",
            "w[j] * [] { static float drift = 1.0f; return drift += 1e-6f; }()",
            Part::Repetition,
        ),
    ] {
        let text = family.text();
        assert!(text.contains(right), "{right} is not in {}.cu", family.name());
        let Some(simulator) = Simulator::for_test(1) else { return };
        let Ok(simulator) = Arc::try_unwrap(simulator) else { panic!("nobody else has it") };
        let simulator = simulator.with_text(family, text.replace(right, wrong));
        let device = Arc::new(CudaDevice::new(Arc::new(simulator)).unwrap());
        let checks = selftest::run_part(&device, part);
        let failed: Vec<&Check> = checks.iter().filter(|check| !check.passed).collect();
        assert!(!failed.is_empty(), "{part:?} does not notice {wrong} in {}.cu", family.name());
        assert!(failed.iter().all(|check| !check.detail.is_empty()), "{failed:?}");
        assert!(failed.iter().all(|check| check.case != "could not run"), "{failed:?}");
    }
}
