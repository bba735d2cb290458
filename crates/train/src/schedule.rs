//! The learning rate of every optimizer step, as a pure function of its number.
//!
//! Two shapes, both after a linear warm-up: a cosine down to `min_lr` (GPT-3), and a hold followed by a linear
//! cooldown (the trapezoid of <https://arxiv.org/abs/2405.18392>). Made by `recipe`, asked by the trainer once a step.

use serde::{Deserialize, Serialize};

/// What happens after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// Half a cosine from the peak, reached at the end of the warm-up, to the minimum at the last step.
    Cosine,
    /// The peak is held, then a straight line leads to the minimum at the last step.
    Linear,
}

/// A learning-rate schedule over a known number of steps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// Shape after the warm-up.
    pub shape: Shape,
    /// Optimizer steps of the run; step numbers are `0..steps`.
    pub steps: u64,
    /// The first steps, on which the rate grows from `peak / warmup` to `peak`. 0 starts at the peak.
    pub warmup: u64,
    /// The last steps, on which [`Shape::Linear`] falls to `min`. Unused by [`Shape::Cosine`].
    pub cooldown: u64,
    /// Highest rate.
    pub peak: f64,
    /// Rate of the last step.
    pub min: f64,
}

impl Schedule {
    /// The learning rate of `step`; beyond the last step it stays at `min`.
    ///
    /// Step `warmup - 1` has exactly `peak`, step `steps - 1` exactly `min` (unless the warm-up fills the whole run).
    pub fn lr(&self, step: u64) -> f64 {
        if step >= self.steps {
            return self.min;
        }
        if step < self.warmup {
            return self.peak * ((step + 1) as f64 / self.warmup as f64);
        }
        match self.shape {
            Shape::Cosine => {
                // The peak was reached on the last step of the warm-up, so this one is already on its way down.
                let first = self.warmup.saturating_sub(1);
                let progress = fraction(step - first, self.steps - 1 - first);
                self.between(0.5 * (1.0 + libm::cos(std::f64::consts::PI * progress)), progress)
            }
            Shape::Linear => {
                let begin = self.steps.saturating_sub(self.cooldown).max(self.warmup);
                if step < begin {
                    return self.peak;
                }
                let progress = fraction(step - begin + 1, self.steps - begin);
                self.between(1.0 - progress, progress)
            }
        }
    }

    /// [`Schedule::lr`] over the peak, for optimizers with a rate of their own (Muon).
    pub fn factor(&self, step: u64) -> f64 {
        self.lr(step) / self.peak
    }

    // Both ends are exact to the bit, which rounding in the sum would spoil.
    fn between(&self, share_of_peak: f64, progress: f64) -> f64 {
        if progress <= 0.0 {
            self.peak
        } else if progress >= 1.0 {
            self.min
        } else {
            self.min + share_of_peak * (self.peak - self.min)
        }
    }
}

fn fraction(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn schedule(shape: Shape, steps: u64, warmup: u64, cooldown: u64) -> Schedule {
        Schedule { shape, steps, warmup, cooldown, peak: 3e-4, min: 3e-5 }
    }

    #[test]
    fn the_cosine_meets_its_ends_and_its_middle() {
        let s = schedule(Shape::Cosine, 1001, 1, 0);
        assert_eq!(s.lr(0), 3e-4);
        assert!((s.lr(500) - (3e-4 + 3e-5) / 2.0).abs() < 1e-15);
        assert_eq!(s.lr(1000), 3e-5);
        assert_eq!(s.lr(5000), 3e-5);

        let s = schedule(Shape::Cosine, 19_073, 572, 0);
        assert_eq!(s.lr(0), 3e-4 * (1.0 / 572.0));
        assert_eq!(s.lr(285), 3e-4 * (286.0 / 572.0));
        assert_eq!(s.lr(571), 3e-4);
        assert!(s.lr(572) < 3e-4 && s.lr(572) > 2.999e-4);
        assert_eq!(s.lr(19_072), 3e-5);
    }

    #[test]
    fn the_trapezoid_holds_and_then_falls_in_a_straight_line() {
        let s = schedule(Shape::Linear, 100, 10, 20);
        assert_eq!(s.lr(9), 3e-4);
        assert_eq!(s.lr(10), 3e-4);
        assert_eq!(s.lr(79), 3e-4);
        let drop = s.lr(79) - s.lr(80);
        assert!((drop - (3e-4 - 3e-5) / 20.0).abs() < 1e-18);
        assert!((s.lr(90) - s.lr(91) - drop).abs() < 1e-18);
        assert_eq!(s.lr(99), 3e-5);
    }

    #[test]
    fn short_runs_have_rates() {
        for shape in [Shape::Cosine, Shape::Linear] {
            assert_eq!(schedule(shape, 1, 1, 0).lr(0), 3e-4);
            assert_eq!(schedule(shape, 3, 3, 0).lr(2), 3e-4);
            assert_eq!(schedule(shape, 2, 0, 1).lr(0), 3e-4);
            assert_eq!(schedule(shape, 2, 0, 1).lr(1), 3e-5);
            assert_eq!(schedule(shape, 0, 0, 0).lr(0), 3e-5);
        }
        assert_eq!(schedule(Shape::Cosine, 1, 0, 0).lr(0), 3e-4);
    }

    #[test]
    fn the_factor_is_the_share_of_the_peak() {
        let s = schedule(Shape::Linear, 100, 10, 20);
        assert_eq!(s.factor(9), 1.0);
        assert!((s.factor(99) - 0.1).abs() < 1e-15);
    }

    proptest! {
        #[test]
        fn rates_stay_between_zero_and_the_peak_and_fall_after_the_warm_up(
            steps in 1u64..3000, warm in 0.0f64..=1.0, cool in 0.0f64..=1.0, linear: bool,
        ) {
            let warmup = (steps as f64 * warm) as u64;
            let cooldown = ((steps - warmup) as f64 * cool) as u64;
            let s = schedule(if linear { Shape::Linear } else { Shape::Cosine }, steps, warmup, cooldown);
            let mut previous = 0.0;
            for step in 0..steps {
                let lr = s.lr(step);
                prop_assert!(lr > 0.0 && lr <= s.peak);
                if step < warmup {
                    prop_assert!(lr > previous);
                } else if step > warmup {
                    prop_assert!(lr <= previous);
                }
                if step >= warmup {
                    prop_assert!(lr >= s.min);
                }
                previous = lr;
            }
        }
    }
}
