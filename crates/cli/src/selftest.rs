//! `casallm selftest`: every kernel of this machine against its reference.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::Result;
use casallm_compute::cuda::{CudaDevice, probe};
use casallm_compute::selftest::{self, Check};
use casallm_compute::{CpuDevice, Device, DeviceInfo, Isa};
use serde_json::json;

use crate::Ended;
use crate::args::{Compute, DeviceChoice, Selftest};
use crate::devices::{self, Opened};
use crate::streams::{print, tell};

/// Checks, prints a table, fails loudly.
pub(crate) fn run(flags: &Selftest) -> Result<Ended> {
    let mut failed = 0;
    let processor = match devices::open(&flags.compute, 0)? {
        Opened::Cpu(device) => Some((device.threads(), if flags.all { Isa::available() } else { vec![device.isa()] })),
        Opened::Cuda(device) => {
            let begun = Instant::now();
            let checks = on_gpu(&device, flags.seed)?;
            failed += report(flags, &device.info(), &checks, begun)?;
            // All of the machine: with the processor.
            let compute = Compute { device: DeviceChoice::Cpu, ..flags.compute.clone() };
            if flags.all { Some((devices::cpu(&compute, 0)?.threads(), Isa::available())) } else { None }
        }
    };
    let (threads, levels) = processor.unwrap_or_default();
    for isa in levels {
        let device = CpuDevice::new(threads, isa)?;
        let begun = Instant::now();
        let checks = selftest::run(&device, flags.seed);
        failed += report(flags, &device.info(), &checks, begun)?;
    }
    if failed > 0 {
        tell(&format!("casallm: {failed} checks failed: do not train on this machine; please report the lines above"));
        return Ok(Ended::Failed);
    }
    Ok(Ended::Done)
}

/// The primitives first: what fails there explains what fails after.
fn on_gpu(device: &CudaDevice, seed: u64) -> Result<Vec<Check>> {
    let mut checks = probe::run(device.driver())?;
    checks.extend(selftest::run(device, seed));
    device.check()?;
    Ok(checks)
}

/// Prints what was found; how many checks failed.
fn report(flags: &Selftest, info: &DeviceInfo, checks: &[Check], begun: Instant) -> Result<usize> {
    let failed = checks.iter().filter(|c| !c.passed).count();
    if flags.json {
        for check in checks {
            let line = json!({
                "device": info.name, "isa": info.isa, "operation": check.operation, "case": check.case,
                "max_error": check.max_error, "tolerance": check.tolerance, "passed": check.passed,
            });
            print(&line.to_string())?;
        }
        return Ok(failed);
    }
    print(&format!("{} {}, {} threads, seed {}", info.name, info.isa, info.threads, flags.seed))?;
    let mut table: BTreeMap<&str, (usize, usize, f64)> = BTreeMap::new();
    for check in checks {
        let row = table.entry(check.operation).or_default();
        row.0 += 1;
        row.1 += usize::from(!check.passed);
        row.2 = row.2.max(check.max_error / check.tolerance);
    }
    print(&format!("  {:<24} {:>6} {:>7}  largest error, of what is allowed", "operation", "checks", "failed"))?;
    for (operation, (count, failures, share)) in &table {
        print(&format!("  {operation:<24} {count:>6} {failures:>7}  {:.0} %", 100.0 * share))?;
    }
    for check in checks.iter().filter(|c| !c.passed) {
        print(&format!("  FAILED {} {}: {}", check.operation, check.case, check.detail))?;
    }
    print(&format!("  {} checks in {:.1} s", checks.len(), begun.elapsed().as_secs_f64()))?;
    Ok(failed)
}
