//! [`Sketch`]: 128 bytes of a document by which its likeness to another is told.
//!
//! MinHash (Broder 1997, "On the resemblance and containment of documents"): of a set and a random order of everything, keep
//! the first element; two sets keep the same with a chance of `|A ∩ B| / |A ∪ B|`, their Jaccard similarity. The sets are runs
//! of five words. 128 independent orders would cost 128 hashes a word; Dahlgaard, Knudsen and Thorup 2017 ("Fast Similarity
//! Sketching", arXiv 1704.04370) have the same expectation and as good a spread for about one: a hash says in which of 128
//! bins an element competes and with what rank, and rounds follow only while bins are empty. Of each winner a byte is kept
//! (Li and König 2010, "b-Bit Minwise Hashing": a chance match in 1 of 256 is taken off the estimate).

use super::words::runs;
use crate::seeded::mix;

/// Words of a run.
const SHINGLE_WORDS: usize = 5;

/// Bins, and bytes of a sketch.
pub(super) const BINS: usize = 128;

/// A byte of the winner of each bin.
pub(super) type Sketch = [u8; BINS];

/// The sketch of a document by the hashes of its words; fewer words than a run are one run. `None` without a word.
pub(super) fn sketch(words: &[u64], shingles: &mut Vec<u64>) -> Option<Sketch> {
    if words.is_empty() {
        return None;
    }
    shingles.clear();
    shingles.extend(runs(words, SHINGLE_WORDS.min(words.len())));
    Some(sketch_of(shingles))
}

/// The sketch of a set that has an element.
fn sketch_of(shingles: &[u64]) -> Sketch {
    // Winner of each bin: its round in the upper byte, its rank below.
    let mut winners = [u64::MAX; BINS];
    let mut empty = BINS;
    for round in 0..2 * BINS as u64 {
        for shingle in shingles {
            let hash = mix(shingle ^ round.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            // In the second half each round has a bin of its own: whatever the set, none stays empty.
            let bin = if round < BINS as u64 { (hash >> 57) as usize } else { round as usize - BINS };
            let rank = round << 56 | (hash & ((1 << 56) - 1));
            if rank < winners[bin] {
                empty -= usize::from(winners[bin] == u64::MAX);
                winners[bin] = rank;
            }
        }
        if empty == 0 {
            break;
        }
    }
    winners.map(|winner| (mix(winner) >> 56) as u8)
}

/// The Jaccard similarity of two documents as their sketches tell it: unbiased, with a deviation of `sqrt(j (1 - j) / 128)`,
/// 0.035 at 0.8. Below 0 for fewer matches than chance gives.
pub(super) fn similarity(a: &Sketch, b: &Sketch) -> f64 {
    let same = a.iter().zip(b).filter(|(a, b)| a == b).count();
    let chance = 1.0 / 256.0;
    (same as f64 / BINS as f64 - chance) / (1.0 - chance)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seeded::SplitMix64;

    fn of_words(words: &[u64]) -> Sketch {
        sketch(words, &mut Vec::new()).unwrap()
    }

    #[test]
    fn similarity_is_that_of_the_sets() {
        // Two documents share a middle of `shared` runs and have `own` each: j = shared / (shared + 2 own).
        for (shared, own) in [(4000usize, 500usize), (400, 50), (40, 5), (300, 300), (0, 200), (90, 0)] {
            let truth = shared as f64 / (shared + 2 * own) as f64;
            let mut sum = 0.0;
            let trials = 60;
            for trial in 0..trials {
                let mut random = SplitMix64::new(trial, 3);
                let mut draw = |count: usize| (0..count).map(|_| random.next_u64()).collect::<Vec<_>>();
                let middle = draw(shared);
                let set = |own: Vec<u64>| sketch_of(&[own, middle.clone()].concat());
                let (a, b) = (set(draw(own)), set(draw(own)));
                let found = similarity(&a, &b);
                // Five deviations.
                assert!(
                    (found - truth).abs() <= 5.0 * (truth * (1.0 - truth) / 128.0).sqrt() + 0.02,
                    "{found} {truth}"
                );
                sum += found;
            }
            assert!((sum / trials as f64 - truth).abs() < 0.02, "{} is not {truth}", sum / trials as f64);
        }
    }

    #[test]
    fn short_texts_have_a_sketch_and_repeats_change_nothing() {
        assert_eq!(sketch(&[], &mut Vec::new()), None);
        assert_eq!(similarity(&of_words(&[1, 2]), &of_words(&[1, 2])), 1.0);
        assert!(similarity(&of_words(&[1, 2]), &of_words(&[2, 1])) < 0.2);
        let once: Vec<u64> = (0..50).collect();
        let cyclic: Vec<u64> = (0..154).map(|i| i % 50).collect();
        // The second has the four runs over the seam too.
        assert!(similarity(&of_words(&once), &of_words(&cyclic)) > 0.7);
    }

    #[test]
    fn sketches_are_pinned() {
        // A run that is gone on with must decide as before.
        let words: Vec<u64> = (1..40).collect();
        let sum: u64 = of_words(&words).iter().zip(1..).map(|(byte, place)| u64::from(*byte) * place).sum();
        assert_eq!(sum, 1_203_015);
    }
}
