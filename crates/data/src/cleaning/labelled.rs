//! The labelled sample for the measure of precision and recall: `labelled.tsv`, whose head says what the labels mean.
//!
//! A hash of each sentence decides its half: where one falls depends on neither its place nor on what else is there. Rules are
//! written on what goes wrong in the first half. Of the held-out half only totals are ever printed.

use crate::seeded::text_hash;

const SAMPLE: &str = include_str!("labelled.tsv");
const SEEN: &str = include_str!("seen.tsv");

/// One line of the sample.
pub(super) struct Labelled {
    /// A claim to be, or to be made by, another model or company.
    pub(super) claim: bool,
    /// What the assistant says.
    pub(super) said: String,
    /// What it was asked.
    pub(super) asked: Option<&'static str>,
}

impl Labelled {
    /// Whether the line only measures.
    pub(super) fn held_out(&self) -> bool {
        text_hash([self.said.as_str()].into_iter().chain(self.asked), 0) & 1 == 1
    }
}

fn read(lines: &'static str) -> Vec<Labelled> {
    let one = |line: &'static str| {
        let mut columns = line.split('\t');
        let claim = match columns.next().unwrap() {
            "claim" => true,
            "mention" => false,
            other => panic!("{other}: {line}"),
        };
        let said = columns.next().unwrap_or_else(|| panic!("{line}")).replace("\\n", "\n");
        let asked = columns.next();
        assert_eq!(columns.next(), None, "{line}");
        Labelled { claim, said, asked }
    };
    lines.lines().filter(|line| !line.starts_with('#')).map(one).collect()
}

/// The sample.
pub(super) fn sample() -> Vec<Labelled> {
    read(SAMPLE)
}

/// The sample that the first rules were written on.
pub(super) fn seen() -> Vec<Labelled> {
    read(SEEN)
}
