//! [`EvalSets`]: the examinations that a model must not have read.
//!
//! A document that shares a run of 13 words with a passage of an evaluation set goes (Brown et al. 2020, arXiv 2005.14165,
//! appendix C; words as in `words`). Every text of every record is a passage: questions, answers, contexts. What
//! is shorter than 13 words cannot be told from chance and is only counted.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ahash::AHashMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use xxhash_rust::xxh3::Xxh3;

use super::words::{hash_words, runs};
use crate::error::Error;
use crate::source::{SourceOptions, find_files, is_text_file, open_documents, open_records};

/// Words of a run.
pub const RUN_WORDS: usize = 13;

/// One evaluation set, and what came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvalSet {
    /// Texts in its records.
    pub passages: u64,
    /// Of these, shorter than 13 words: they protect nothing.
    pub shorter: u64,
    /// Documents that shared a run with it and went.
    pub documents: u64,
}

/// The runs of words of evaluation sets. Memory: at most 40 bytes for each word of them.
#[derive(Default)]
pub struct EvalSets {
    names: Vec<String>,
    sets: Vec<EvalSet>,
    /// Of each run, which sets have it: a place in `companies`.
    runs: AHashMap<u64, u32>,
    /// Sets that have a run in common, in order.
    companies: Vec<Vec<u32>>,
    fingerprint: String,
}

impl EvalSets {
    /// Reads every data file of files, folders or patterns: each file is a set, named by its path below the folder.
    ///
    /// # Errors
    /// Those of [`find_files`] and of reading; [`Error::NoEvalText`] when not one passage has 13 words.
    pub fn read(paths: &[PathBuf]) -> Result<Self, Error> {
        let mut sets = Builder::default();
        for path in paths {
            for file in find_files(path)? {
                sets.begin(&name_of(path, &file));
                if is_text_file(&file) {
                    for document in open_documents(&file, &SourceOptions::default())? {
                        sets.add(&document?.text);
                    }
                } else {
                    for record in open_records(&file)? {
                        sets.add_all(&record?);
                    }
                }
            }
        }
        if sets.built.runs.is_empty() {
            let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
            return Err(Error::NoEvalText { path: names.join(", "), words: RUN_WORDS });
        }
        Ok(sets.finish())
    }

    /// Sets of plain texts.
    pub fn of_texts<'a>(texts: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut sets = Builder::default();
        for (name, text) in texts {
            sets.begin(name);
            sets.add(text);
        }
        sets.finish()
    }

    /// What the sets are made of, 128 bits in hexadecimal: other sets, other decisions.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.names.len()
    }

    /// The sets by name, none of them met yet.
    pub(super) fn table(&self) -> BTreeMap<String, EvalSet> {
        self.names.iter().cloned().zip(self.sets.iter().cloned()).collect()
    }

    pub(super) fn name(&self, set: u32) -> &str {
        &self.names[set as usize]
    }

    /// The sets of which a document has a run, by the hashes of its words.
    pub(super) fn met_by(&self, words: &[u64]) -> Vec<u32> {
        let mut met: Vec<u32> = Vec::new();
        let mut last = None;
        for company in runs(words, RUN_WORDS).filter_map(|run| self.runs.get(&run)) {
            if last.replace(company) != Some(company) {
                met.extend(&self.companies[*company as usize]);
            }
        }
        met.sort_unstable();
        met.dedup();
        met
    }
}

impl std::fmt::Debug for EvalSets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EvalSets").field("names", &self.names).field("runs", &self.runs.len()).finish_non_exhaustive()
    }
}

impl PartialEq for EvalSets {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

#[derive(Default)]
struct Builder {
    built: EvalSets,
    numbers: AHashMap<String, u32>,
    /// Companies by their members.
    known: AHashMap<Vec<u32>, u32>,
    digest: Xxh3,
    words: Vec<u64>,
    current: u32,
}

impl Builder {
    /// What follows is of the set of this name.
    fn begin(&mut self, name: &str) {
        let next = self.built.names.len() as u32;
        self.current = *self.numbers.entry(name.to_owned()).or_insert(next);
        if self.current == next {
            self.built.names.push(name.to_owned());
            self.built.sets.push(EvalSet::default());
        }
        self.digest.update(name.as_bytes());
        self.digest.update(&[0xFF]);
    }

    /// Every text in a record.
    fn add_all(&mut self, value: &Value) {
        match value {
            Value::String(text) => self.add(text),
            Value::Array(values) => values.iter().for_each(|value| self.add_all(value)),
            Value::Object(fields) => fields.values().for_each(|value| self.add_all(value)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn add(&mut self, text: &str) {
        let mut words = std::mem::take(&mut self.words);
        hash_words(text, &mut words);
        let set = &mut self.built.sets[self.current as usize];
        set.passages += 1;
        set.shorter += u64::from(words.len() < RUN_WORDS);
        for run in runs(&words, RUN_WORDS) {
            self.digest.update(&run.to_le_bytes());
            let before = self.built.runs.get(&run).copied();
            let company = self.joined(before);
            self.built.runs.insert(run, company);
        }
        self.words = words;
    }

    /// The company of the current set and those of `before`.
    fn joined(&mut self, before: Option<u32>) -> u32 {
        let mut members = before.map_or_else(Vec::new, |company| self.built.companies[company as usize].clone());
        if let (Some(company), true) = (before, members.contains(&self.current)) {
            return company;
        }
        members.push(self.current);
        members.sort_unstable();
        let next = self.built.companies.len() as u32;
        let companies = &mut self.built.companies;
        *self.known.entry(members).or_insert_with_key(|members| {
            companies.push(members.clone());
            next
        })
    }

    fn finish(self) -> EvalSets {
        EvalSets { fingerprint: format!("{:032x}", self.digest.digest128()), ..self.built }
    }
}

/// The file's path below the folder, or its name where it was named itself, without the endings.
fn name_of(given: &Path, file: &Path) -> String {
    let below = file.strip_prefix(given).ok().filter(|below| !below.as_os_str().is_empty());
    let path = below.or(file.file_name().map(Path::new)).unwrap_or(file);
    let name = path.to_string_lossy().replace('\\', "/");
    let plain = [".zst", ".zstd", ".gz", ".gzip"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(&name);
    plain.rsplit_once('.').map_or(plain, |(name, _)| name).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<u64> {
        let mut words = Vec::new();
        hash_words(text, &mut words);
        words
    }

    const QUESTION: &str = "Which of these animals sleeps through the whole of a long and cold winter, without food?";

    #[test]
    fn a_run_of_thirteen_words_is_met_and_one_of_twelve_is_not() {
        let short = "Too short to be told from chance";
        let sets = EvalSets::of_texts([
            ("a", QUESTION),
            ("b", short),
            ("b", QUESTION),
            ("c", &QUESTION.replace("food", "water")),
        ]);
        let met = |text: &str| sets.met_by(&words(text)).into_iter().map(|set| sets.name(set)).collect::<Vec<_>>();
        let thirteen = "which OF these Animals sleeps - through the whole of a long (and) cold";
        assert_eq!(met(&format!("Before it. {thirteen} day?")), ["a", "b", "c"]);
        assert_eq!(met(&thirteen[..thirteen.len() - 5]), Vec::<&str>::new());
        assert_eq!(met(&format!("x {short} y")), Vec::<&str>::new());
        assert_eq!(met("animals sleeps through the whole of a long and cold winter without water"), ["c"]);
        let table = sets.table();
        assert_eq!(table["b"], EvalSet { passages: 2, shorter: 1, documents: 0 });
        assert_ne!(sets, EvalSets::of_texts([("a", QUESTION)]));
        assert_eq!(sets.fingerprint().len(), 32);
    }

    #[test]
    fn files_are_sets_and_every_text_in_them_counts() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("core")).unwrap();
        let record = serde_json::json!({"id": 7, "choices": {"text": [QUESTION, "short"]}, "none": null});
        std::fs::write(dir.path().join("core/arc.v2.jsonl"), record.to_string()).unwrap();
        std::fs::write(dir.path().join("held.txt"), format!("{QUESTION} {QUESTION}")).unwrap();
        let sets = EvalSets::read(&[dir.path().to_owned()]).unwrap();
        let names: Vec<String> = sets.table().into_keys().collect();
        assert_eq!(names, ["core/arc.v2", "held"]);
        assert_eq!((sets.count(), sets.met_by(&words(QUESTION)).len()), (2, 2));
        let one = EvalSets::read(&[dir.path().join("held.txt")]).unwrap();
        assert_eq!(one.name(0), "held");
        std::fs::write(dir.path().join("held.txt"), "a few words").unwrap();
        let refused = EvalSets::read(&[dir.path().join("held.txt")]).unwrap_err();
        assert!(refused.to_string().contains("held.txt") && refused.to_string().contains("13 words"), "{refused}");
    }
}
