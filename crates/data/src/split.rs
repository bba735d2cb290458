//! [`SplitRule`]: train or validation, told by the document alone.
//!
//! Called by `shards`. A document keeps its side when files are added, removed or put in another order, and the same
//! text found twice never stands on both sides.

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::seeded::text_hash;

/// The side on which a document falls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// To learn from.
    Train,
    /// Held out.
    Val,
}

impl Split {
    /// As it stands in file names and reports.
    pub fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Val => "val",
        }
    }
}

/// Holds out a share of the documents, by a hash of their bytes and a seed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SplitRule {
    fraction: f64,
    seed: u64,
}

impl SplitRule {
    /// `fraction` in `0.0..1.0` is the expected share of documents held out.
    ///
    /// # Errors
    /// [`Error::SplitFraction`] for any other.
    pub fn new(fraction: f64, seed: u64) -> Result<Self, Error> {
        if (0.0..1.0).contains(&fraction) {
            Ok(Self { fraction, seed })
        } else {
            Err(Error::SplitFraction { found: fraction })
        }
    }

    /// Where a document falls.
    pub fn split(&self, text: &str) -> Split {
        // 53 bits: every step of the hash is a step of the fraction.
        let threshold = (self.fraction * 2f64.powi(53)) as u64;
        if text_hash([text], self.seed) >> 11 < threshold { Split::Val } else { Split::Train }
    }

    /// The expected share of documents held out.
    pub fn fraction(&self) -> f64 {
        self.fraction
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.seed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn share_is_as_asked_and_the_seed_matters() {
        let texts: Vec<String> = (0..20_000).map(|i| format!("document {i}")).collect();
        let held_out = |seed| -> Vec<bool> {
            let rule = SplitRule::new(0.015, seed).unwrap();
            texts.iter().map(|text| rule.split(text) == Split::Val).collect()
        };
        let first = held_out(1);
        let count = first.iter().filter(|&&held| held).count();
        // 300 expected, standard deviation 17.
        assert!((230..370).contains(&count), "{count}");
        assert_ne!(first, held_out(2));
        let none = SplitRule::new(0.0, 1).unwrap();
        assert!(texts.iter().all(|text| none.split(text) == Split::Train));
    }

    #[test]
    fn sides_are_pinned() {
        // Shards of an earlier version must split alike: a change here would leak validation into training.
        let rule = SplitRule::new(0.5, 7).unwrap();
        let sides: String =
            ('a'..='p').map(|c| if rule.split(&c.to_string()) == Split::Val { 'v' } else { 't' }).collect();
        assert_eq!(sides, "vvtvvvvvtvtttvvt");
    }

    #[test]
    fn fraction_out_of_range_is_an_error() {
        for fraction in [-0.1, 1.0, f64::NAN, f64::INFINITY] {
            assert!(matches!(SplitRule::new(fraction, 0), Err(Error::SplitFraction { .. })));
        }
    }

    proptest! {
        #[test]
        fn side_depends_on_the_text_alone(texts in prop::collection::vec(any::<String>(), 1..20), seed: u64) {
            let rule = SplitRule::new(0.3, seed).unwrap();
            let alone: Vec<Split> =
                texts.iter().map(|text| SplitRule::new(0.3, seed).unwrap().split(text)).collect();
            let mut backwards: Vec<Split> = texts.iter().rev().map(|text| rule.split(text)).collect();
            backwards.reverse();
            prop_assert_eq!(alone, backwards);
        }
    }
}
