//! Mutants of a kernel's text: what the tests of every kernel use to show that they would notice a missing barrier.

use std::sync::Arc;

use super::Simulator;
use crate::cuda::kernels::Family;

/// Texts in which one occurrence of a statement is gone, each with the line it was on. Comments do not count.
pub fn without_each(text: &str, statement: &str) -> Vec<(usize, String)> {
    let mut mutants = Vec::new();
    for (at, _) in text.match_indices(statement) {
        let line_start = text[..at].rfind('\n').map_or(0, |i| i + 1);
        if text[line_start..at].contains("//") {
            continue;
        }
        let line = text[..at].matches('\n').count() + 1;
        mutants.push((line, format!("{};{}", &text[..at], &text[at + statement.len()..])));
    }
    mutants
}

/// Deletes each occurrence of each statement in turn and asserts that a trial, which passes on the family as it is,
/// fails under at least one of the seeds. Returns how many mutants there were.
///
/// # Panics
/// The trial fails on the right kernel, or a mutant passes it under every seed.
pub fn assert_each_is_needed(
    family: Family,
    statements: &[&str],
    seeds: std::ops::Range<u64>,
    trial: impl Fn(&Arc<Simulator>) -> Result<(), String>,
) -> usize {
    assert_each_is_needed_by_one(family, &[""], statements, seeds, trial)
}

/// The same of a text that is another kernel with other definitions before it: the trial passes with each of them, and fails
/// with at least one where a statement is missing.
///
/// # Panics
/// As [`assert_each_is_needed`].
pub fn assert_each_is_needed_by_one(
    family: Family,
    definitions: &[&str],
    statements: &[&str],
    seeds: std::ops::Range<u64>,
    trial: impl Fn(&Arc<Simulator>) -> Result<(), String>,
) -> usize {
    let attempt = |text: &str, seed: u64, defined: &str| {
        let simulator = Simulator::new(seed).expect("a compiler: the caller has asked");
        trial(&Arc::new(simulator.with_text(family, format!("{defined}{text}"))))
    };
    for defined in definitions {
        for seed in seeds.clone() {
            if let Err(reason) = attempt(family.text(), seed, defined) {
                panic!("{defined}{}.cu as it is fails with seed {seed}: {reason}", family.name());
            }
        }
    }
    let mut count = 0;
    for statement in statements {
        for (line, text) in without_each(family.text(), statement) {
            count += 1;
            let caught = definitions
                .iter()
                .flat_map(|defined| seeds.clone().map(move |seed| (*defined, seed)))
                .find_map(|(defined, seed)| attempt(&text, seed, defined).err().map(|reason| (seed, reason)));
            let Some((seed, reason)) = caught else {
                panic!("{}.cu without '{statement}' in line {line} passes under every seed", family.name());
            };
            println!("{}.cu without '{statement}' in line {line}: seed {seed}: {reason}", family.name());
        }
    }
    count
}
