//! The whole model of a device held to PyTorch, to itself, and to itself again.
//!
//! The reference is float64 PyTorch (`tests/fixtures/make_fixtures.py`), whose results the program carries. f32 runs must agree
//! within 1e-5 (logits, loss) and 1e-4 (gradients, parameters after ten steps), as relative L2 norms. bf16 runs must be
//! within what PyTorch's own bf16 differs from the same reference. Decoding with a cache must equal the full forward
//! pass, sequences packed together those apart, and a training step repeated must give the same bits.
//!
//! Called by `casallm selftest` and by this crate's tests, for any [`Device`]; the operations one by one are
//! [`casallm_compute::selftest`]'s.

mod consistency;
mod fixture;
mod pytorch;
mod trial;

use std::sync::Arc;

use casallm_compute::Device;
use casallm_compute::selftest::Check;

use crate::error::ModelError;

/// What is held to what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Loss, logits, row losses and every gradient in f32, to PyTorch in float64.
    F32,
    /// Loss, gradient norm and parameters over ten steps of AdamW in f32, to PyTorch in float64.
    AdamW,
    /// Logits and gradients in bf16, to PyTorch in bf16: to its distance from float64.
    Bf16,
    /// Token by token, in pieces and after taking back, to all at once.
    Decoding,
    /// Sequences end to end in one batch, to one after the other.
    Packing,
    /// A training step from the same weights, to itself, bit by bit.
    Repetition,
}

/// All of them, cheapest first.
pub const PARTS: [Part; 6] = [Part::F32, Part::Bf16, Part::Packing, Part::Repetition, Part::Decoding, Part::AdamW];

impl Part {
    /// What its checks are called.
    pub fn name(self) -> &'static str {
        match self {
            Part::F32 => "model: PyTorch f32",
            Part::AdamW => "model: PyTorch AdamW",
            Part::Bf16 => "model: PyTorch bf16",
            Part::Decoding => "model: decode = forward",
            Part::Packing => "model: packed = apart",
            Part::Repetition => "model: same bits again",
        }
    }
}

/// Every part.
pub fn run<D: Device>(device: &Arc<D>) -> Vec<Check> {
    PARTS.iter().flat_map(|part| run_part(device, *part)).collect()
}

/// One part. What cannot be run at all is a check that failed.
pub fn run_part<D: Device>(device: &Arc<D>, part: Part) -> Vec<Check> {
    let mut findings = Findings { part, checks: Vec::new() };
    let outcome = match part {
        Part::F32 => pytorch::f32(device, &mut findings),
        Part::AdamW => pytorch::adamw(device, &mut findings),
        Part::Bf16 => pytorch::bf16(device, &mut findings),
        Part::Decoding => consistency::decoding(device, &mut findings),
        Part::Packing => consistency::packing(device, &mut findings),
        Part::Repetition => consistency::repetition(device, &mut findings),
    };
    if let Err(error) = outcome.and_then(|()| Ok(device.check()?)) {
        findings.add("could not run".into(), f64::INFINITY, 0.0, 0, || error.to_string());
    }
    findings.checks
}

/// What a part has found so far.
struct Findings {
    part: Part,
    checks: Vec<Check>,
}

type Outcome = Result<(), ModelError>;

impl Findings {
    /// An error that may be at most `tolerance`; a NaN fails. The detail is for failures.
    fn add(&mut self, case: String, error: f64, tolerance: f64, fingerprint: u64, detail: impl FnOnce() -> String) {
        let passed = error <= tolerance;
        self.checks.push(Check {
            operation: self.part.name(),
            case,
            max_error: error,
            rms_error: error,
            tolerance,
            rms_tolerance: tolerance,
            passed,
            detail: if passed { String::new() } else { detail() },
            fingerprint,
        });
    }

    /// The relative L2 distance of values from what was wanted.
    fn near(&mut self, case: String, got: &[f32], wanted: &[f32], limit: f64) {
        let error = distance(got, wanted);
        self.add(case, error, limit, fingerprint(got), || format!("relative error {error:.2e}, allowed {limit:.0e}"));
    }

    /// The same of a single number.
    fn near_number(&mut self, case: String, got: f64, wanted: f64, limit: f64) {
        let error = ((got - wanted) / wanted).abs();
        self.add(case, error, limit, got.to_bits(), || {
            format!("{got}, not {wanted}: relative error {error:.2e}, allowed {limit:.0e}")
        });
    }
}

/// `|a - b| / |b|` in L2; infinite where lengths differ.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    if a.len() != b.len() {
        return f64::INFINITY;
    }
    let square = |x: f64| x * x;
    let difference: f64 = a.iter().zip(b).map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum();
    let size: f64 = b.iter().map(|b| square(f64::from(*b))).sum();
    (difference / size.max(1e-60)).sqrt()
}

/// FNV-1a over the bits: two runs agree exactly if their fingerprints do.
fn fingerprint(values: &[f32]) -> u64 {
    let mix = |hash: u64, x: &f32| (hash ^ u64::from(x.to_bits())).wrapping_mul(0x0000_0100_0000_01b3);
    values.iter().fold(0xcbf2_9ce4_8422_2325, mix)
}
