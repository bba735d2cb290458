//! What a comparison found, and how far apart two results may be.

/// Elements from which the root mean square of the errors says more than chance.
const MANY: usize = 64;

/// Results below this are the remains of a cancellation.
const SMALLEST_SCALE: f64 = 0.25;

/// One output of one case of one operation.
#[derive(Clone, Debug)]
pub struct Check {
    /// The method of [`Device`](crate::Device).
    pub operation: &'static str,
    /// Sizes, storage type and which output.
    pub case: String,
    /// Largest `|got - want| / (|want| + s)` over the elements, where `s` is the root mean square of what is wanted. As
    /// operands are about 1, a smaller result is what cancellation left: `s` is at least 0.25, and 1 where all is 0.
    pub max_error: f64,
    /// Root mean square of `got - want`, divided by `s`.
    pub rms_error: f64,
    /// The largest `max_error` that passes.
    pub tolerance: f64,
    /// The largest `rms_error` that passes, of 64 elements and more.
    pub rms_tolerance: f64,
    /// Whether the errors are small enough, the guard behind the output whole and the repetition identical.
    pub passed: bool,
    /// The worst element, or what else is wrong.
    pub detail: String,
    /// A hash of the result's bits: two runs agree exactly if their fingerprints do.
    pub fingerprint: u64,
}

/// How much a result may differ from the reference.
///
/// Rounding to bf16 moves a number by at most `2^-8` of itself: half a unit in the last of its 8 significant bits; on
/// average by 0.42 of that.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// Of the worst element, as a [`Check::max_error`].
    pub largest: f64,
    /// Of the root mean square, as a [`Check::rms_error`].
    pub typical: f64,
}

/// Half a unit in the last place of a bf16.
const BF16: f64 = 1.0 / 256.0;

impl Tolerance {
    /// Nothing is rounded, or rounded once in a defined way.
    pub const EXACT: Tolerance = Tolerance::of(0.0);
    /// f32 arithmetic in any order. A sum of `n` terms errs by about `sqrt(n) 2^-24` of its root mean square, and the
    /// longest here has 4,101; elementary functions add their stated 5e-7.
    pub const F32: Tolerance = Tolerance { largest: 1e-5, typical: 2e-6 };
    /// f32 attention: a score of 10, and the log-sum-exp that the backward pass takes off it, are themselves rounded by
    /// `10 * 2^-24`, which becomes a relative error of the exponential.
    pub const F32_ATTENTION: Tolerance = Tolerance { largest: 5e-5, typical: 5e-6 };
    /// The same with scores near 100.
    pub const F32_LARGE_SCORES: Tolerance = Tolerance { largest: 2e-4, typical: 2e-5 };
    /// [`Tolerance::F32`], rounded on the way out to bf16.
    pub const BF16_OUT: Tolerance = Tolerance { largest: 1.01 * BF16, typical: 0.8 * BF16 };
    /// The same of a product to which a bias is added: where a side is not a multiple of 8 elements, cuBLASLt's algorithms
    /// may round the product before they add (seen on an H200, cuBLASLt 13.0, 33 x 63 -> 65).
    pub const BF16_OUT_TWICE: Tolerance = Tolerance { largest: 2.02 * BF16, typical: 0.8 * BF16 };
    /// Besides, an intermediate (attention's probabilities and score gradients, the logits' gradient) is rounded to bf16
    /// to be multiplied. Where both factors are outliers the error is, many times the typical one.
    pub const BF16_INSIDE: Tolerance = Tolerance { largest: 16.0 * BF16, typical: 1.5 * BF16 };
    /// Five Newton-Schulz steps in bf16: each step's roundings are amplified by the next, up to 3.4 times, in directions
    /// whose singular values are still small.
    pub const MUON: Tolerance = Tolerance { largest: 0.1, typical: 0.03 };

    /// The same bound for the worst element and for the typical one.
    pub const fn of(bound: f64) -> Tolerance {
        Tolerance { largest: bound, typical: bound }
    }
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
        let touched = want.iter().filter(|x| !x.is_nan()).count().max(1) as f64;
        let squares: f64 = want.iter().filter(|x| !x.is_nan()).map(|x| x * x).sum();
        let scale = if squares == 0.0 { 1.0 } else { (squares / touched).sqrt().max(SMALLEST_SCALE) };
        let mut check = Check {
            operation,
            case,
            max_error: 0.0,
            rms_error: 0.0,
            tolerance: tolerance.largest,
            rms_tolerance: tolerance.typical,
            passed: true,
            detail: String::new(),
            fingerprint: fingerprint(got),
        };
        if got.len() < want.len() {
            check.fail(format!("{} elements, not {}", got.len(), want.len()));
            return check;
        }
        let mut squared_errors = 0.0;
        for (i, (got, want)) in got.iter().zip(want).enumerate() {
            let difference = match (got.is_nan(), want.is_nan()) {
                (true, true) => continue,
                (true, false) | (false, true) => f64::INFINITY,
                (false, false) => (got - want).abs(),
            };
            squared_errors += difference * difference;
            let error = difference / (if want.is_nan() { 0.0 } else { want.abs() } + scale);
            if error > check.max_error {
                check.max_error = error;
                check.detail = format!("element {i} is {got:e}, not {want:e}");
            }
        }
        check.rms_error = (squared_errors / touched).sqrt() / scale;
        check.passed = check.max_error <= check.tolerance;
        if touched >= MANY as f64 && check.rms_error > check.rms_tolerance {
            check.fail(format!("errors of {:e} > {:e} everywhere", check.rms_error, check.rms_tolerance));
        }
        if let Some(i) = got[want.len()..].iter().position(|x| *x != guard) {
            check.fail(format!("wrote {i} elements past the end"));
        }
        check
    }

    /// A case that could not run.
    pub(super) fn failed(operation: &'static str, case: String, detail: String) -> Check {
        let (max_error, rms_error, tolerance, rms_tolerance) = (f64::INFINITY, f64::INFINITY, 0.0, 0.0);
        Check { operation, case, max_error, rms_error, tolerance, rms_tolerance, passed: false, detail, fingerprint: 0 }
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
        let check = compare(&[1.0, 1.02], &[1.0, 1.0], Tolerance::of(0.02));
        assert!((check.max_error - 0.01).abs() < 1e-12 && check.passed, "{check:?}");
        assert!(!compare(&[1.0, 1.02], &[1.0, 1.0], Tolerance::of(0.009)).passed);
        // Many small errors count for more than one.
        let (mut got, want) = (vec![1.0; MANY], vec![1.0; MANY]);
        got[3] = 1.018;
        let tolerance = Tolerance { largest: 0.01, typical: 0.005 };
        assert!(compare(&got, &want, tolerance).passed);
        got.fill(1.018);
        assert!(!compare(&got, &want, tolerance).passed);
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
