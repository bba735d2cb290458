//! What a comparison found, and how far apart two results may be.

/// One output of one case of one operation.
#[derive(Clone, Debug)]
pub struct Check {
    /// The method of [`Device`](crate::Device).
    pub operation: &'static str,
    /// Sizes, storage type and which output.
    pub case: String,
    /// Largest `|got - want| / (|want| + rms(want))` over the elements; `|got - want|` where everything wanted is 0,
    /// which operands of about 1 make comparable.
    pub max_error: f64,
    /// The largest error that passes.
    pub tolerance: f64,
    /// Whether the error is small enough, the guard behind the output whole and the repetition identical.
    pub passed: bool,
    /// The worst element, or what else is wrong.
    pub detail: String,
    /// A hash of the result's bits: two runs agree exactly if their fingerprints do.
    pub fingerprint: u64,
}

/// How much a result may differ from the reference, as a [`Check::max_error`].
///
/// Rounding to bf16 moves a number by at most `2^-8` of itself: half a unit in the last of its 8 significant bits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance(pub f64);

/// Half a unit in the last place of a bf16.
const BF16: f64 = 1.0 / 256.0;

impl Tolerance {
    /// Nothing is rounded, or rounded once in a defined way.
    pub const EXACT: Tolerance = Tolerance(0.0);
    /// f32 arithmetic in any order. A sum of `n` terms errs by about `sqrt(n) 2^-24` of its root mean square, and the
    /// longest here has 4,101; elementary functions add their stated 2e-7.
    pub const F32: Tolerance = Tolerance(1e-5);
    /// f32 attention: a score of 10, and the log-sum-exp that the backward pass takes off it, are themselves rounded by
    /// `10 * 2^-24`, which becomes a relative error of the exponential.
    pub const F32_ATTENTION: Tolerance = Tolerance(5e-5);
    /// The same with scores near 100.
    pub const F32_LARGE_SCORES: Tolerance = Tolerance(2e-4);
    /// [`Tolerance::F32`], rounded on the way out to bf16.
    pub const BF16_OUT: Tolerance = Tolerance(1.01 * BF16);
    /// Besides, an intermediate (attention's probabilities and score gradients, the logits' gradient) is rounded to bf16
    /// to be multiplied. Its factor may be an outlier of four root mean squares.
    pub const BF16_INSIDE: Tolerance = Tolerance(5.0 * BF16);
    /// Five Newton-Schulz steps in bf16: each step's roundings are amplified by the next, up to 3.4 times, in directions
    /// whose singular values are still small.
    pub const MUON: Tolerance = Tolerance(0.1);
}

impl Check {
    /// Compares a result with what was wanted; elements beyond `want` are the guard and must equal `guard`.
    ///
    /// A NaN in `want` stands for an element that the operation leaves alone: it was NaN before and must be NaN still.
    pub fn compare(
        operation: &'static str,
        case: String,
        (got, guard): (&[f64], f64),
        want: &[f64],
        tolerance: Tolerance,
    ) -> Check {
        let touched = || want.iter().filter(|x| !x.is_nan());
        let root_mean_square = (touched().map(|x| x * x).sum::<f64>() / touched().count().max(1) as f64).sqrt();
        let scale = if root_mean_square == 0.0 { 1.0 } else { root_mean_square };
        let mut check = Check {
            operation,
            case,
            max_error: 0.0,
            tolerance: tolerance.0,
            passed: true,
            detail: String::new(),
            fingerprint: fingerprint(got),
        };
        if got.len() < want.len() {
            check.fail(format!("{} elements, not {}", got.len(), want.len()));
            return check;
        }
        for (i, (got, want)) in got.iter().zip(want).enumerate() {
            let error = match (got.is_nan(), want.is_nan()) {
                (true, true) => 0.0,
                (true, false) | (false, true) => f64::INFINITY,
                _ if got == want => 0.0,
                _ => (got - want).abs() / (want.abs() + scale),
            };
            if error > check.max_error {
                check.max_error = error;
                check.detail = format!("element {i} is {got:e}, not {want:e}");
            }
        }
        if check.max_error > check.tolerance {
            check.passed = false;
        }
        if let Some(i) = got[want.len()..].iter().position(|x| *x != guard) {
            check.fail(format!("wrote {i} elements past the end"));
        }
        check
    }

    /// A case that could not run.
    pub(super) fn failed(operation: &'static str, case: String, detail: String) -> Check {
        let (max_error, tolerance) = (f64::INFINITY, 0.0);
        Check { operation, case, max_error, tolerance, passed: false, detail, fingerprint: 0 }
    }

    /// Marks the check as failed for another reason than its error.
    pub(super) fn fail(&mut self, reason: String) {
        self.passed = false;
        self.detail = if self.detail.is_empty() { reason } else { format!("{reason}; {}", self.detail) };
    }
}

/// FNV-1a over the bits.
fn fingerprint(values: &[f64]) -> u64 {
    values.iter().fold(0xcbf2_9ce4_8422_2325, |hash, x| (hash ^ x.to_bits()).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compare(got: &[f64], want: &[f64], tolerance: Tolerance) -> Check {
        Check::compare("linear", "test".into(), (got, 7.0), want, tolerance)
    }

    #[test]
    fn equal_results_pass_at_tolerance_zero() {
        let check = compare(&[1.0, -2.0, 7.0], &[1.0, -2.0], Tolerance::EXACT);
        assert!(check.passed && check.max_error == 0.0, "{check:?}");
    }

    #[test]
    fn an_error_is_measured_against_the_element_and_the_root_mean_square() {
        let check = compare(&[1.0, 1.02], &[1.0, 1.0], Tolerance(0.02));
        assert!((check.max_error - 0.01).abs() < 1e-12 && check.passed, "{check:?}");
        assert!(!compare(&[1.0, 1.02], &[1.0, 1.0], Tolerance(0.009)).passed);
        // Nothing wanted: the error itself.
        assert!(compare(&[0.0, 1e-7], &[0.0, 0.0], Tolerance::F32).passed);
        assert!(!compare(&[0.0, 0.1], &[0.0, 0.0], Tolerance::BF16_INSIDE).passed);
    }

    #[test]
    fn poison_left_behind_fails() {
        assert!(!compare(&[1.0, f64::NAN], &[1.0, 1.0], Tolerance::F32).passed);
        assert!(!compare(&[1.0, f64::INFINITY], &[1.0, 1.0], Tolerance::F32).passed);
    }

    #[test]
    fn what_should_be_left_alone_may_not_change() {
        assert!(compare(&[1.0, f64::NAN], &[1.0, f64::NAN], Tolerance::EXACT).passed);
        assert!(!compare(&[1.0, 0.0], &[1.0, f64::NAN], Tolerance::F32).passed);
        let check = compare(&[1.0, 7.0, 0.0], &[1.0], Tolerance::F32);
        assert!(!check.passed && check.detail.contains("1 elements past the end"), "{check:?}");
    }

    #[test]
    fn fingerprints_tell_the_last_bit() {
        assert_eq!(fingerprint(&[1.0, 2.0]), fingerprint(&[1.0, 2.0]));
        assert_ne!(fingerprint(&[1.0, 2.0]), fingerprint(&[2.0, 1.0]));
        assert_ne!(fingerprint(&[1.0]), fingerprint(&[1.0 + f64::EPSILON]));
        assert_ne!(fingerprint(&[0.0]), fingerprint(&[-0.0]));
    }
}
