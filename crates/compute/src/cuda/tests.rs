//! Every operation of the CUDA device, over the simulator, against the naive reference.

use std::sync::Arc;

use super::CudaDevice;
use super::simulator::Simulator;
use crate::device::Device;
use crate::selftest::{self, Check};

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
    checks.into_iter().filter(|c| !c.operation.starts_with("attention")).collect()
}

/// Every operation passes, and the order in which threads run changes no bit.
#[test]
fn every_operation_holds_to_the_reference_under_every_schedule() {
    let mut first: Option<Vec<Check>> = None;
    for schedule in 0..3 {
        let Some(device) = device(schedule) else { return };
        let checks = run(&device, 30);
        assert_passed(&format!("schedule {schedule}"), &checks);
        let first = first.get_or_insert_with(|| checks.clone());
        for (a, b) in first.iter().zip(&checks) {
            assert_eq!(a.fingerprint, b.fingerprint, "{} ({}) depends on the schedule", a.operation, a.case);
        }
    }
}
