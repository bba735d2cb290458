//! `casallm selftest`: every kernel of this machine against its reference.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::Result;
use casallm_compute::{CpuDevice, Isa, selftest};
use serde_json::json;

use crate::Ended;
use crate::args::Selftest;
use crate::devices;
use crate::streams::{print, tell};

/// Checks, prints a table, fails loudly.
pub(crate) fn run(flags: &Selftest) -> Result<Ended> {
    let chosen = devices::open(&flags.compute, 0)?;
    let levels = if flags.all { Isa::available() } else { vec![chosen.isa()] };
    let mut failed = 0;
    for isa in levels {
        let device = CpuDevice::new(chosen.threads(), isa)?;
        let begun = Instant::now();
        let checks = selftest::run(&device, flags.seed);
        if !flags.json {
            print(&format!("cpu {}, {} threads, seed {}", isa.name(), device.threads(), flags.seed))?;
        }
        let mut table: BTreeMap<&str, (usize, usize, f64)> = BTreeMap::new();
        for check in &checks {
            let row = table.entry(check.operation).or_default();
            row.0 += 1;
            row.1 += usize::from(!check.passed);
            row.2 = row.2.max(check.max_error / check.tolerance);
            if flags.json {
                let line = json!({
                    "isa": isa.name(), "operation": check.operation, "case": check.case,
                    "max_error": check.max_error, "tolerance": check.tolerance, "passed": check.passed,
                });
                print(&line.to_string())?;
            }
        }
        failed += checks.iter().filter(|c| !c.passed).count();
        if flags.json {
            continue;
        }
        print(&format!("  {:<24} {:>6} {:>7}  largest error, of what is allowed", "operation", "checks", "failed"))?;
        for (operation, (count, failures, share)) in &table {
            print(&format!("  {operation:<24} {count:>6} {failures:>7}  {:.0} %", 100.0 * share))?;
        }
        for check in checks.iter().filter(|c| !c.passed) {
            print(&format!("  FAILED {} {}: {}", check.operation, check.case, check.detail))?;
        }
        print(&format!("  {} checks in {:.1} s", checks.len(), begun.elapsed().as_secs_f64()))?;
    }
    if failed > 0 {
        tell(&format!("casallm: {failed} checks failed: do not train on this machine; please report the lines above"));
        return Ok(Ended::Failed);
    }
    Ok(Ended::Done)
}
