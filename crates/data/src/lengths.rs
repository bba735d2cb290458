//! [`Lengths`]: how long things are, as a few numbers and a histogram. For whoever looks at data before it is paid for.

use serde::Serialize;

/// Bars of a histogram, at most.
const MOST_BINS: usize = 16;

/// How long a number of things are.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Lengths {
    /// How many there are.
    pub count: usize,
    /// All lengths together.
    pub total: u64,
    /// The shortest.
    pub least: usize,
    /// Half are shorter, or as long.
    pub median: usize,
    /// Nine in ten are shorter, or as long.
    pub p90: usize,
    /// Ninety-nine in a hundred are shorter, or as long.
    pub p99: usize,
    /// The longest.
    pub most: usize,
    /// Intervals of one width, from the shortest to the longest.
    pub bins: Vec<Bin>,
}

/// One bar of a histogram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Bin {
    /// The least length in it.
    pub from: usize,
    /// The greatest length in it.
    pub to: usize,
    /// How many are so long.
    pub count: usize,
}

impl Lengths {
    /// Of these lengths; all zero and without bins where there is none.
    pub fn of(lengths: impl IntoIterator<Item = usize>) -> Self {
        let mut sorted: Vec<usize> = lengths.into_iter().collect();
        sorted.sort_unstable();
        let (Some(&least), Some(&most)) = (sorted.first(), sorted.last()) else { return Self::default() };
        // The least length that at least so many of a hundred do not exceed.
        let rank = |percent: usize| sorted[(sorted.len() * percent).div_ceil(100).max(1) - 1];
        let width = width(most - least + 1);
        let first = least / width * width;
        let mut bins: Vec<Bin> = (first..=most)
            .step_by(width)
            .map(|from| Bin { from, to: from.saturating_add(width - 1), count: 0 })
            .collect();
        sorted.iter().for_each(|length| bins[(length - first) / width].count += 1);
        Self {
            count: sorted.len(),
            total: sorted.iter().map(|length| *length as u64).sum(),
            least,
            median: rank(50),
            p90: rank(90),
            p99: rank(99),
            most,
            bins,
        }
    }

    /// The mean, 0 of nothing.
    pub fn mean(&self) -> f64 {
        self.total as f64 / self.count.max(1) as f64
    }
}

/// A round width (1, 2 or 5 times a power of ten) of at most [`MOST_BINS`] bars over so many lengths.
fn width(span: usize) -> usize {
    let mut scale = 1usize;
    loop {
        for step in [1, 2, 5] {
            let width = scale.saturating_mul(step);
            // The first bar begins at a multiple of the width, so that one more may be needed.
            if span.div_ceil(width) < MOST_BINS || width == usize::MAX {
                return width;
            }
        }
        scale = scale.saturating_mul(10);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_few_lengths() {
        let lengths = Lengths::of([3, 1, 2, 40]);
        assert_eq!((lengths.count, lengths.total, lengths.mean()), (4, 46, 11.5));
        assert_eq!((lengths.least, lengths.median, lengths.p90, lengths.p99, lengths.most), (1, 2, 40, 40, 40));
        assert_eq!(lengths.bins[0], Bin { from: 0, to: 4, count: 3 });
        assert_eq!(lengths.bins[8], Bin { from: 40, to: 44, count: 1 });
        assert_eq!(Lengths::of([]), Lengths::default());
        assert_eq!(Lengths::of([7, 7]).bins, [Bin { from: 7, to: 7, count: 2 }]);
    }

    proptest! {
        #[test]
        fn every_length_is_in_one_bar(lengths in prop::collection::vec(0usize..5_000_000, 1..200)) {
            let found = Lengths::of(lengths.iter().copied());
            prop_assert!(found.bins.len() <= MOST_BINS, "{}", found.bins.len());
            prop_assert_eq!(found.bins.iter().map(|bin| bin.count).sum::<usize>(), lengths.len());
            for bin in &found.bins {
                let inside = lengths.iter().filter(|length| (bin.from..=bin.to).contains(*length)).count();
                prop_assert_eq!(inside, bin.count);
            }
            prop_assert!(found.bins.windows(2).all(|pair| pair[0].to + 1 == pair[1].from));
            prop_assert!(found.bins[0].count > 0 && found.bins[found.bins.len() - 1].count > 0);
            for (percent, value) in [(50, found.median), (90, found.p90), (99, found.p99)] {
                let below = lengths.iter().filter(|length| **length <= value).count();
                prop_assert!(below * 100 >= lengths.len() * percent);
            }
        }
    }
}
