//! Dropout (Srivastava et al. 2014, JMLR 15), in its inverted form: an element falls to 0 with probability `rate`,
//! the others are multiplied by `1 / (1 - rate)`.
//!
//! Which elements fall is the device's own hash, so there is no element-wise reference, only what any fair mask obeys.

/// What a mask did.
pub struct Statistics {
    /// Largest relative deviation of a survivor from `x / (1 - rate)`.
    pub survivor_error: f64,
    /// Deviation of the fallen share from `rate`, in standard deviations of a fair coin: `sqrt(rate (1 - rate) / n)`.
    pub deviations: f64,
}

/// Compares `after = dropout(before)`; `before` has no zeros.
pub fn statistics(rate: f64, before: &[f64], after: &[f64]) -> Statistics {
    let n = before.len() as f64;
    let fallen = after.iter().filter(|x| **x == 0.0).count() as f64;
    let survivors = before.iter().zip(after).filter(|(_, after)| **after != 0.0);
    let errors = survivors.map(|(before, after)| (after * (1.0 - rate) / before - 1.0).abs());
    let deviation = (rate * (1.0 - rate) / n).sqrt();
    let off = (fallen / n - rate).abs();
    Statistics {
        // A NaN must not be lost in a maximum.
        survivor_error: errors.fold(0.0, |worst, e| if e > worst || e.is_nan() { e } else { worst }),
        deviations: if off == 0.0 { 0.0 } else { off / deviation },
    }
}
