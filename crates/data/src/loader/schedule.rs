//! [`Schedule`]: which source each sample comes from, by weight, evenly spread and without state.
//!
//! The first source takes sample `i` when `floor((i + 1) q) > floor(i q)` for its share `q`; the samples that it leaves
//! are numbered anew and offered to the next, whose share is of what is left. So a source of share `q` never is more
//! than one sample away from `q` of those offered to it, at any point of a run.

/// Shares of sources.
#[derive(Debug, Clone)]
pub(super) struct Schedule {
    /// Share of each source among itself and those after it, as a fraction of 2^64; the last one takes all.
    shares: Vec<u64>,
}

impl Schedule {
    /// `weights` are positive and finite, at least one.
    pub(super) fn new(weights: &[f64]) -> Self {
        let shares = (0..weights.len()).map(|source| {
            let rest: f64 = weights[source..].iter().sum();
            (weights[source] / rest * 2f64.powi(64)) as u64
        });
        Self { shares: shares.collect() }
    }

    /// The source of a sample, and which one of that source's samples it is.
    pub(super) fn place(&self, sample: u64) -> (usize, u64) {
        let mut left = sample;
        let last = self.shares.len() - 1;
        for (source, &share) in self.shares[..last].iter().enumerate() {
            let (taken, next) = (portion(left, share), portion(left + 1, share));
            if next > taken {
                return (source, taken);
            }
            left -= taken;
        }
        (last, left)
    }

    /// How many of the first `samples` samples come from each source.
    pub(super) fn counts(&self, samples: u64) -> Vec<u64> {
        let mut left = samples;
        let last = self.shares.len() - 1;
        let mut counts = Vec::with_capacity(self.shares.len());
        for &share in &self.shares[..last] {
            let taken = portion(left, share);
            counts.push(taken);
            left -= taken;
        }
        counts.push(left);
        counts
    }
}

fn portion(samples: u64, share: u64) -> u64 {
    ((u128::from(samples) * u128::from(share)) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn counts_are_what_places_give(weights in prop::collection::vec(0.01f64..100.0, 1..7)) {
            let schedule = Schedule::new(&weights);
            let total: f64 = weights.iter().sum();
            let mut counts = vec![0u64; weights.len()];
            for sample in 0..2000 {
                prop_assert_eq!(schedule.counts(sample), counts.clone());
                let (source, number) = schedule.place(sample);
                prop_assert_eq!(number, counts[source]);
                counts[source] += 1;
                for (count, weight) in counts.iter().zip(&weights) {
                    let due = (sample + 1) as f64 * weight / total;
                    prop_assert!((*count as f64 - due).abs() <= weights.len() as f64);
                }
            }
        }
    }

    #[test]
    fn far_samples_keep_their_shares() {
        let schedule = Schedule::new(&[3.0, 1.0]);
        let far = 1 << 50;
        let counts = schedule.counts(far);
        assert_eq!(counts.iter().sum::<u64>(), far);
        assert_eq!(counts[0], far / 4 * 3);
        assert_eq!(Schedule::new(&[5.0]).place(17), (0, 17));
    }
}
