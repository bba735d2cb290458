//! `casallm selftest`: every kernel of this machine against its reference, and the whole model against PyTorch and itself.

pub(crate) mod flags;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use casallm_compute::cuda::probe;
use casallm_compute::selftest::{self as operations, Check};
use casallm_compute::{CpuDevice, Device, DeviceInfo, Isa};
use casallm_model::selftest as model;
use serde_json::json;

use crate::Ended;
use crate::args::{Compute, DeviceChoice, Selftest, SelftestPart};
use crate::devices::{self, Opened};
use crate::streams::{print, tell};

/// Checks, prints a table, fails loudly.
pub(crate) fn run(flags: &Selftest) -> Result<Ended> {
    let mut failed = 0;
    let processor = match devices::open(&flags.compute, 0)? {
        Opened::Cpu(device) => Some((device.threads(), if flags.all { Isa::available() } else { vec![device.isa()] })),
        Opened::Cuda(device) => {
            // The primitives first: what fails there explains what fails after.
            let begun = Instant::now();
            let primitives = asked(flags, SelftestPart::Primitives);
            let primitives = if primitives { probe::run(device.driver())? } else { Vec::new() };
            failed += checked(flags, &device, primitives, begun)?;
            // All of the machine: with the processor.
            let compute = Compute { device: DeviceChoice::Cpu, ..flags.compute.clone() };
            if flags.all { Some((devices::cpu(&compute, 0)?.threads(), Isa::available())) } else { None }
        }
    };
    let (threads, levels) = processor.unwrap_or_default();
    for isa in levels {
        failed += checked(flags, &Arc::new(CpuDevice::new(threads, isa)?), Vec::new(), Instant::now())?;
    }
    Ok(verdict(failed))
}

/// Whether a part is to be run.
fn asked(flags: &Selftest, part: SelftestPart) -> bool {
    flags.parts.is_empty() || flags.parts.contains(&part)
}

/// The operations of a part, where they are what it is of.
fn operation(part: SelftestPart) -> Option<operations::Part> {
    Some(match part {
        SelftestPart::Primitives | SelftestPart::Model => return None,
        SelftestPart::Memory => operations::Part::Memory,
        SelftestPart::Linear => operations::Part::Linear,
        SelftestPart::Quantized => operations::Part::Quantized,
        SelftestPart::Fp8 => operations::Part::Fp8,
        SelftestPart::Attention => operations::Part::Attention,
        SelftestPart::Norm => operations::Part::Norm,
        SelftestPart::Head => operations::Part::Head,
        SelftestPart::Qkv => operations::Part::Qkv,
        SelftestPart::Activation => operations::Part::Activation,
        SelftestPart::Embedding => operations::Part::Embedding,
        SelftestPart::Dropout => operations::Part::Dropout,
        SelftestPart::Optimizer => operations::Part::Optimizer,
    })
}

/// The last line, where there is bad news.
fn verdict(failed: usize) -> Ended {
    if failed == 0 {
        return Ended::Done;
    }
    tell(&format!("casallm: {failed} checks failed: do not train on this machine; please report the lines above"));
    Ended::Failed
}

/// Checks a device further and prints what was found; how many checks failed.
fn checked<D: Device>(flags: &Selftest, device: &Arc<D>, mut checks: Vec<Check>, begun: Instant) -> Result<usize> {
    if flags.parts.is_empty() {
        checks.extend(operations::run(&**device, flags.seed));
    }
    for part in &flags.parts {
        let Some(part) = operation(*part) else { continue };
        for dtype in part.dtypes() {
            checks.extend(operations::run_part(&**device, flags.seed, part, *dtype));
        }
    }
    if asked(flags, SelftestPart::Model) {
        checks.extend(model::run(device));
    }
    let failed = report(flags, &device.info(), &checks, begun)?;
    // Behind the table: it says how far the device came.
    device.check()?;
    Ok(failed)
}

/// Prints what was found; how many checks failed.
fn report(flags: &Selftest, info: &DeviceInfo, checks: &[Check], begun: Instant) -> Result<usize> {
    let failed = checks.iter().filter(|c| !c.passed).count();
    if flags.json {
        for check in checks {
            let line = json!({
                "device": info.name, "isa": info.isa, "operation": check.operation, "case": check.case,
                "max_error": check.max_error, "tolerance": check.tolerance, "passed": check.passed, "detail": check.detail,
            });
            print(&line.to_string())?;
        }
        return Ok(failed);
    }
    for line in table(flags.seed, info, checks) {
        print(&line)?;
    }
    print(&format!("  {} checks in {:.1} s", checks.len(), begun.elapsed().as_secs_f64()))?;
    Ok(failed)
}

/// A line for each operation, one for each check that failed.
fn table(seed: u64, info: &DeviceInfo, checks: &[Check]) -> Vec<String> {
    let mut lines = vec![format!("{} {}, {} threads, seed {seed}", info.name, info.isa, info.threads)];
    let mut table: BTreeMap<&str, (usize, usize, f64)> = BTreeMap::new();
    for check in checks {
        let row = table.entry(check.operation).or_default();
        row.0 += 1;
        row.1 += usize::from(!check.passed);
        row.2 = row.2.max(check.max_error / check.tolerance);
    }
    lines.push(format!("  {:<24} {:>6} {:>7}  largest error, of what is allowed", "operation", "checks", "failed"));
    for (operation, (count, failures, share)) in &table {
        lines.push(format!("  {operation:<24} {count:>6} {failures:>7}  {:.0} %", 100.0 * share));
    }
    for check in checks.iter().filter(|c| !c.passed) {
        lines.push(format!("  FAILED {} {}: {}", check.operation, check.case, check.detail));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_check_has_its_line_and_ends_with_one() {
        let check = |case: &str, passed| Check {
            operation: "attention",
            case: case.into(),
            max_error: if passed { 1e-6 } else { 3e-4 },
            rms_error: 0.0,
            tolerance: 1e-5,
            rms_tolerance: 1e-5,
            passed,
            detail: if passed { String::new() } else { "element 3 is 1, not 2".into() },
            fingerprint: 0,
        };
        let info = DeviceInfo { name: "a GPU".into(), isa: "sm_90".into(), threads: 1 };
        let lines = table(7, &info, &[check("good", true), check("17 x 33", false)]);
        assert_eq!(lines[0], "a GPU sm_90, 1 threads, seed 7");
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(words(&lines[2]), ["attention", "2", "1", "3000", "%"]);
        assert_eq!(lines[3], "  FAILED attention 17 x 33: element 3 is 1, not 2");
        assert_eq!(lines.len(), 4);
        assert_eq!((verdict(1), verdict(1).code()), (Ended::Failed, 1));
        assert_eq!((verdict(0), verdict(0).code()), (Ended::Done, 0));
    }
}
