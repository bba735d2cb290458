//! Every operation of the CUDA device, over the simulator, against the naive reference.

use std::sync::Arc;

use super::driver::{Address, Driver as _, Launch};
use super::kernels::Family;
use super::simulator::Simulator;
use super::simulator::mutation::assert_each_is_needed;
use super::{CudaBuffer, CudaDevice};
use crate::cpu::CpuDevice;
use crate::cpu::isa::Isa;
use crate::device::{Device, Dropout};
use crate::dtype::DType;
use crate::error::ComputeError;
use crate::selftest::{self, Check, Part};

/// Panics with every failed check.
fn assert_passed(what: &str, checks: &[Check]) {
    let failed: Vec<String> = checks
        .iter()
        .filter(|check| !check.passed)
        .map(|c| format!("{} ({}): {:e} > {:e}; {}", c.operation, c.case, c.max_error, c.tolerance, c.detail))
        .collect();
    assert!(failed.is_empty(), "{what}: {} of {} checks failed:\n{}", failed.len(), checks.len(), failed.join("\n"));
}

fn device(schedule: u64) -> Option<CudaDevice> {
    Simulator::for_test(schedule).map(|simulator: Arc<Simulator>| CudaDevice::new(simulator).expect("a result buffer"))
}

fn run(device: &CudaDevice, seed: u64) -> Vec<Check> {
    let checks = selftest::run(device, seed);
    device.check().expect("no error on the way");
    checks
}

/// Every operation passes, and the order in which threads run changes no bit.
#[test]
fn every_operation_holds_to_the_reference_under_every_schedule() {
    let mut first: Option<Vec<Check>> = None;
    for schedule in 0..2 {
        let Some(device) = device(schedule) else { return };
        let checks = run(&device, 30);
        assert_passed(&format!("schedule {schedule}"), &checks);
        let first = first.get_or_insert_with(|| checks.clone());
        for (a, b) in first.iter().zip(&checks) {
            assert_eq!(a.fingerprint, b.fingerprint, "{} ({}) depends on the schedule", a.operation, a.case);
        }
    }
}

/// Parts of the selftest on a simulator that may hold a mutant.
fn trial(simulator: &Arc<Simulator>, parts: &[(Part, DType)]) -> Result<(), String> {
    let device = CudaDevice::new(simulator.clone()).map_err(|error| error.to_string())?;
    for (part, dtype) in parts {
        let checks = selftest::run_part(&device, 31, *part, *dtype);
        device.check().map_err(|error| error.to_string())?;
        if let Some(check) = checks.iter().find(|check| !check.passed) {
            return Err(format!("{} ({}): {}", check.operation, check.case, check.detail));
        }
    }
    Ok(())
}

/// A barrier that is missing shows: each one of a family's, deleted alone, makes the selftest fail.
fn each_barrier_is_needed(family: Family, barriers: usize, parts: &[(Part, DType)]) {
    if Simulator::for_test(0).is_none() {
        return;
    }
    let found = assert_each_is_needed(family, &["__syncthreads();"], 0..2, |simulator| trial(simulator, parts));
    assert_eq!(found, barriers, "{}.cu", family.name());
}

#[test]
fn the_barriers_of_norms_and_column_sums_are_needed() {
    each_barrier_is_needed(Family::Norm, 2, &[(Part::Norm, DType::F32)]);
    each_barrier_is_needed(Family::Columns, 1, &[(Part::Norm, DType::F32)]);
}

#[test]
fn the_barriers_of_the_embedding_are_needed() {
    each_barrier_is_needed(Family::Embedding, 2, &[(Part::Embedding, DType::F32)]);
}

#[test]
fn the_barrier_of_qk_norm_is_needed() {
    each_barrier_is_needed(Family::Qkv, 1, &[(Part::Qkv, DType::F32)]);
}

/// In bf16: in f32 the gradient lies where the logits were, element by element.
#[test]
fn the_barriers_of_the_head_are_needed() {
    each_barrier_is_needed(Family::Head, 2, &[(Part::Head, DType::Bf16)]);
}

#[test]
fn the_barrier_of_the_sum_of_squares_is_needed() {
    each_barrier_is_needed(Family::Squares, 1, &[(Part::Memory, DType::F32)]);
}

#[test]
fn the_barrier_of_the_transposed_codes_is_needed() {
    each_barrier_is_needed(Family::Fp8, 1, &[(Part::Fp8, DType::Bf16)]);
}

/// Rounding of another kind, by other random bits, or to 0 where a denominator must not be, is noticed.
#[test]
fn each_rounding_of_the_optimizer_is_checked() {
    if Simulator::for_test(0).is_none() {
        return;
    }
    for (family, right, wrong) in [
        (Family::AdamW, "fraction(random >> 16)", "fraction(random)"),
        (Family::AdamW, "bool up = fraction(random) *", "bool up = 0.5f *"),
        (Family::AdamW, "v > 0.0f && code == 0 ? 1u : code", "code"),
        (Family::AdamW, "store_by(second, v, key, at, 16)", "store(second, v)"),
        (Family::AdamW, "weights_key(tensor.key), at", "tensor.key, at"),
        (Family::AdamW, "largest < LARGEST ? largest : LARGEST", "largest < 1e-3f ? largest : 1e-3f"),
        (Family::Muon, "random_bits(key, index)", "random_bits(key, index + 1)"),
        (Family::Memory, "random_bits(key, index + j) >> shift", "random_bits(key, j) >> shift"),
    ] {
        let text = family.text();
        assert_eq!(text.matches(right).count(), 1, "{}.cu: {right}", family.name());
        let mutant = Simulator::new(0).expect("a compiler").with_text(family, text.replace(right, wrong));
        let caught = trial(&Arc::new(mutant), &[(Part::Optimizer, DType::F32)]);
        assert!(caught.is_err(), "{}.cu passes with '{wrong}' for '{right}'", family.name());
    }
}

/// No barrier escapes the tests above.
#[test]
fn every_family_with_barriers_has_its_test() {
    let tested =
        [Family::Norm, Family::Columns, Family::Embedding, Family::Fp8, Family::Qkv, Family::Head, Family::Squares];
    for family in Family::ALL {
        // Attention and the probe have theirs beside them.
        let elsewhere = *family == Family::Probe || family.name().starts_with("attention");
        let has = family.text().contains("__syncthreads();");
        assert!(!has || tested.contains(family) || elsewhere, "{}.cu", family.name());
    }
}

/// What fell on one device falls on the other: dropout is part of a run's recipe, not of a device.
#[test]
fn dropout_drops_the_same_elements_as_on_the_processor() {
    let Some(device) = device(4) else { return };
    let cpu = CpuDevice::new(1, Isa::Portable).expect("every machine has it");
    for (rate, seed, site) in [(0.1, 7, 0), (0.5, 1 << 60, 13), (0.0, 3, 2)] {
        let dropout = Dropout { rate, seed, site };
        let len = 5003;
        let ones = vec![1.0; len];
        let mut on_cpu = cpu.allocate("x", DType::F32, len).unwrap();
        cpu.write_f32(&mut on_cpu, 0, &ones);
        cpu.dropout(dropout, len, &mut on_cpu);
        let mut on_gpu = device.allocate("x", DType::F32, len).unwrap();
        device.write_f32(&mut on_gpu, 0, &ones);
        device.dropout(dropout, len, &mut on_gpu);
        assert_eq!(cpu.bytes(&on_cpu), device.bytes(&on_gpu), "rate {rate}");
    }
}

/// The host's copy of a small buffer is what the device holds, whoever wrote last.
#[test]
fn the_hosts_copy_of_a_buffer_is_never_stale() {
    let Some(device) = device(5) else { return };
    let mut buffer = device.allocate("weights", DType::F32, 100).unwrap();
    let floats = |bytes: &[u8]| -> Vec<f32> { super::buffer::f32_values(bytes).collect() };
    let agrees = |buffer: &CudaBuffer| {
        let known = floats(&buffer.read(100));
        assert_eq!(known, floats(&buffer.download(0, 100)));
        known
    };
    assert_eq!(agrees(&buffer), [0.0; 100]);
    device.write_f32(&mut buffer, 0, &[1.0; 60]);
    agrees(&buffer);
    // Overlapping the end of what is known, then behind it, then all.
    device.write_f32(&mut buffer, 50, &[2.0; 30]);
    agrees(&buffer);
    device.write_f32(&mut buffer, 90, &[3.0; 10]);
    let values = agrees(&buffer);
    assert_eq!((values[49], values[50], values[79], values[80], values[90]), (1.0, 2.0, 2.0, 0.0, 3.0));
    device.write_f32(&mut buffer, 0, &[4.0; 100]);
    agrees(&buffer);
    let dropout = Dropout { rate: 0.5, seed: 1, site: 1 };
    device.dropout(dropout, 100, &mut buffer);
    assert!(agrees(&buffer).contains(&8.0));
}

/// An error stays: what follows does nothing, and is not taken for a result.
#[test]
fn after_an_error_the_device_does_nothing_and_says_why() {
    let Some(device) = device(6) else { return };
    let mut x = device.allocate("x", DType::F32, 64).unwrap();
    device.write_f32(&mut x, 0, &[1.0; 64]);
    // A block larger than the kernel's bounds.
    let launch = Launch::linear(1, 1024);
    device.launch(Family::Memory, Some(DType::F32), "gather_rows", launch, &arguments![Address::NULL]);
    let error = device.check().expect_err("a launch that cannot be");
    assert!(matches!(&error, ComputeError::Gpu { doing, .. } if doing == "gather_rows"), "{error}");
    device.fill_zero(&mut x);
    assert!(device.sum_of_squares(&x) == 0.0, "nothing was computed");
    assert!(matches!(device.allocate("y", DType::F32, 1), Err(ComputeError::Gpu { .. })));
}

/// Ten times the same small thing, as one.
fn ten_zeros(device: &CudaDevice, buffer: &mut CudaBuffer) {
    device.together(|| (0..10).for_each(|_| device.fill_zero(buffer)));
}

#[test]
fn graphs_that_are_long_unused_are_given_back_and_all_in_the_end() {
    let Some(simulator) = Simulator::for_test(7) else { return };
    let device = CudaDevice::new(simulator.clone()).unwrap();
    let mut buffers: Vec<CudaBuffer> = (1..=40).map(|len| device.allocate("x", DType::F32, len).unwrap()).collect();
    for _ in 0..2 {
        buffers.iter_mut().for_each(|buffer| ten_zeros(&device, buffer));
    }
    assert_eq!(simulator.graphs(), (40, 32, 40));
    // The first were given back, the last are there.
    ten_zeros(&device, &mut buffers[39]);
    assert_eq!(simulator.graphs(), (40, 32, 41));
    ten_zeros(&device, &mut buffers[0]);
    assert_eq!(simulator.graphs(), (41, 32, 42));
    drop(buffers);
    drop(device);
    assert_eq!(simulator.graphs().1, 0);
    simulator.check().unwrap();
}

/// Inside of others, on other threads, and where one panics: everything is started by the end, in its order.
#[test]
fn work_that_is_listed_is_started_whatever_happens() {
    let Some(device) = device(8) else { return };
    let mut x = device.allocate("x", DType::F32, 4).unwrap();
    let mut y = device.allocate("y", DType::F32, 4).unwrap();
    device.together(|| {
        device.write_f32(&mut x, 0, &[1.0; 4]);
        device.together(|| device.copy(&x, 4, &mut y));
        std::thread::scope(|scope| scope.spawn(|| device.write_f32(&mut x, 1, &[2.0])).join().unwrap());
        device.copy(&x, 2, &mut y);
    });
    let read = |buffer: &CudaBuffer| -> Vec<f32> { super::buffer::f32_values(&buffer.download(0, 4)).collect() };
    assert_eq!((read(&x), read(&y)), (vec![1.0, 2.0, 1.0, 1.0], vec![1.0, 2.0, 1.0, 1.0]));
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        device.together(|| {
            device.write_f32(&mut x, 0, &[3.0]);
            panic!("on purpose");
        });
    }));
    assert!(panicked.is_err());
    assert_eq!(read(&x), [3.0, 2.0, 1.0, 1.0]);
    device.write_f32(&mut x, 0, &[4.0]);
    assert_eq!(read(&x), [4.0, 2.0, 1.0, 1.0]);
}
