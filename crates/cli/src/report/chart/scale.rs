//! Axes: where a value lies, and which values get a tick.

/// How an axis spreads its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scale {
    /// Equal differences are equally far apart.
    #[default]
    Linear,
    /// Equal ratios are equally far apart. Values that are not positive cannot be shown.
    Log,
}

/// A scale over a range that holds every value it was made from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Axis {
    scale: Scale,
    low: f64,
    high: f64,
}

impl Axis {
    /// `None` when no value can be shown.
    pub(super) fn over(scale: Scale, values: impl Iterator<Item = f64>, margin: f64) -> Option<Self> {
        let mut range: Option<(f64, f64)> = None;
        for value in values.filter(|value| shows(scale, *value)) {
            let (low, high) = range.unwrap_or((value, value));
            range = Some((low.min(value), high.max(value)));
        }
        let (mut low, mut high) = range?;
        match scale {
            Scale::Linear => {
                // One value, or many that are the same, still get an axis around them.
                let span = if high > low { high - low } else { (high.abs() * 0.1).max(f64::MIN_POSITIVE.sqrt()) };
                let pad = if high > low { span * margin } else { span };
                (low, high) = (low - pad, high + pad);
            }
            Scale::Log => {
                let ratio = if high > low { (high / low).powf(margin) } else { 1.5 };
                (low, high) = (low / ratio, high * ratio);
            }
        }
        // Sums and products at the edge of f64.
        (low.is_finite() && high.is_finite() && high > low && shows(scale, low)).then_some(Self { scale, low, high })
    }

    pub(super) fn shows(&self, value: f64) -> bool {
        shows(self.scale, value)
    }

    /// Where `value` lies, 0 at the low end, 1 at the high end.
    pub(super) fn position(&self, value: f64) -> f64 {
        match self.scale {
            Scale::Linear => (value - self.low) / (self.high - self.low),
            Scale::Log => (value / self.low).ln() / (self.high / self.low).ln(),
        }
    }

    /// About `count` round values within the range, in order.
    pub(super) fn ticks(&self, count: usize) -> Vec<f64> {
        match self.scale {
            Scale::Linear => self.linear_ticks(count),
            Scale::Log => {
                // The sparsest set of digits that still gives enough ticks.
                for digits in [&[1.0][..], &[1.0, 3.0], &[1.0, 2.0, 5.0], &[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0]] {
                    let ticks = self.log_ticks(digits);
                    if ticks.len() >= count.min(4) {
                        let every = ticks.len().div_ceil(count.max(1) + 2);
                        return ticks.into_iter().step_by(every).collect();
                    }
                }
                self.linear_ticks(count)
            }
        }
    }

    fn linear_ticks(&self, count: usize) -> Vec<f64> {
        let rough = (self.high - self.low) / count.max(1) as f64;
        let unit = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().map(|m| m * unit).find(|step| *step >= rough);
        let Some(step) = step.filter(|step| step.is_finite() && *step > 0.0) else { return Vec::new() };
        let first = (self.low / step).ceil();
        (0..=2 * count).map(|i| (first + i as f64) * step).take_while(|tick| *tick <= self.high).collect()
    }

    fn log_ticks(&self, digits: &[f64]) -> Vec<f64> {
        let (first, last) = (self.low.log10().floor() as i32, self.high.log10().ceil() as i32);
        (first..=last)
            .flat_map(|power| digits.iter().map(move |digit| digit * 10f64.powi(power)))
            .filter(|tick| (self.low..=self.high).contains(tick))
            .collect()
    }
}

fn shows(scale: Scale, value: f64) -> bool {
    value.is_finite() && (scale == Scale::Linear || value > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(scale: Scale, values: &[f64]) -> Option<Axis> {
        Axis::over(scale, values.iter().copied(), 0.0)
    }

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(axis(Scale::Linear, &[0.0, 10.0]).unwrap().ticks(5), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        let ticks = axis(Scale::Linear, &[1.43, 1.61]).unwrap().ticks(4);
        assert!(ticks.len() >= 3 && ticks.iter().all(|t| (1.43..=1.61).contains(t)), "{ticks:?}");
        assert_eq!(axis(Scale::Log, &[1e3, 1e8]).unwrap().ticks(6), [1e3, 1e4, 1e5, 1e6, 1e7, 1e8]);
        assert_eq!(axis(Scale::Log, &[1.0, 12.0]).unwrap().ticks(5), [1.0, 2.0, 5.0, 10.0]);
        let ticks = axis(Scale::Log, &[2.1, 2.2]).unwrap().ticks(5);
        assert!(ticks.len() >= 3, "{ticks:?}");
        assert!(axis(Scale::Log, &[1e-300, 1e300]).unwrap().ticks(6).len() <= 8);
    }

    #[test]
    fn positions_span_the_axis() {
        let log = axis(Scale::Log, &[1.0, 100.0]).unwrap();
        assert!((log.position(10.0) - 0.5).abs() < 1e-12);
        let linear = axis(Scale::Linear, &[-1.0, 3.0]).unwrap();
        assert_eq!((linear.position(-1.0), linear.position(1.0), linear.position(3.0)), (0.0, 0.5, 1.0));
    }

    #[test]
    fn one_value_has_an_axis_around_it_and_none_has_none() {
        for scale in [Scale::Linear, Scale::Log] {
            let one = axis(scale, &[2.5, f64::NAN]).unwrap();
            assert!((one.position(2.5) - 0.5).abs() < 1e-9);
            assert_eq!(axis(scale, &[]), None);
            assert_eq!(axis(scale, &[f64::NAN, f64::INFINITY]), None);
        }
        assert!(axis(Scale::Linear, &[0.0]).is_some());
        assert_eq!(axis(Scale::Log, &[0.0, -1.0]), None);
        assert_eq!(axis(Scale::Linear, &[-1e308, 1.7e308]), None);
    }
}
