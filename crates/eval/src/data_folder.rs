//! Which file of a folder holds a split of a task: told by the names, as people and the Hub give them.
//!
//! `arc-easy_test.jsonl.zst`, `ai2_arc/ARC-Easy/test-00000-of-00001.parquet` and `hellaswag_validation.jsonl` are all
//! understood: a path is taken as its words, and must hold the words of one of the task's names and, after them, the split.

use std::path::{Path, PathBuf};

use casallm_data::source::{find_files, open_records};
use serde_json::Value;

use crate::error::EvalError;

/// The data files below a folder.
pub struct DataFolder {
    /// Words of the path below the folder, and the path.
    files: Vec<(String, PathBuf)>,
}

/// The records of a split.
pub struct Split {
    /// Its name.
    pub name: &'static str,
    /// The files that hold it, in order.
    pub files: Vec<PathBuf>,
    /// Each record, with its file and its number in it from 1.
    pub records: Vec<Record>,
}

/// One record, and where it stands for errors.
pub struct Record {
    /// The task that it is read for.
    pub task: &'static str,
    /// Its file.
    pub path: PathBuf,
    /// From 1.
    pub number: usize,
    /// What is there.
    pub value: Value,
}

impl DataFolder {
    /// Lists a folder, or takes one file.
    ///
    /// # Errors
    /// Nothing that can be read is there.
    pub fn open(path: &Path) -> Result<Self, EvalError> {
        let file = |found: PathBuf| {
            let below = found.strip_prefix(path).ok().filter(|below| below.as_os_str() != "");
            (words(below.unwrap_or(found.file_name().map(Path::new).unwrap_or(&found))), found)
        };
        Ok(DataFolder { files: find_files(path)?.into_iter().map(file).collect() })
    }

    /// The files that hold `split` of the task of these names: those of the shallowest folder, all parts of them.
    ///
    /// # Errors
    /// [`EvalError::Ambiguous`] for several files that are not the parts of one, [`EvalError::Parts`] where some of these are not
    /// there.
    pub fn find(&self, task: &'static str, names: &[&str], split: &'static str) -> Result<Vec<PathBuf>, EvalError> {
        let holds = |path: &str| {
            names.iter().any(|name| {
                let wanted = words(Path::new(name));
                path.find(&wanted).is_some_and(|at| path[at + wanted.len() - 1..].contains(&format!(" {split} ")))
            })
        };
        let mut found: Vec<&PathBuf> = self.files.iter().filter(|(path, _)| holds(path)).map(|(_, p)| p).collect();
        let depth = found.iter().map(|path| path.components().count()).min();
        found.retain(|path| Some(path.components().count()) == depth);
        let parts: Vec<Option<Part>> = found.iter().map(|path| Part::of(path)).collect();
        for i in 1..found.len() {
            let belong = parts[i].as_ref().zip(parts[0].as_ref()).is_some_and(|(a, b)| a.belongs_to(b));
            if !belong || found[i].parent() != found[0].parent() || parts[..i].contains(&parts[i]) {
                let (first, second) = (found[0].clone(), found[i].clone());
                return Err(EvalError::Ambiguous { task, split, first, second });
            }
        }
        if let Some(Some(Part { parts, .. })) = parts.first()
            && found.len() < *parts
        {
            return Err(EvalError::Parts { path: found[0].clone(), task, split, found: found.len(), parts: *parts });
        }
        Ok(found.into_iter().cloned().collect())
    }

    /// The records of the first of these splits that is there.
    ///
    /// # Errors
    /// As [`DataFolder::find`], and those of reading.
    pub fn read(
        &self,
        task: &'static str,
        names: &[&str],
        splits: &[&'static str],
    ) -> Result<Option<Split>, EvalError> {
        for &name in splits {
            let files = self.find(task, names, name)?;
            if files.is_empty() {
                continue;
            }
            let mut records = Vec::new();
            for path in &files {
                for (i, value) in open_records(path)?.enumerate() {
                    records.push(Record { task, path: path.clone(), number: i + 1, value: value? });
                }
            }
            if records.is_empty() {
                return Err(EvalError::Empty { path: files[0].clone() });
            }
            return Ok(Some(Split { name, files, records }));
        }
        Ok(None)
    }
}

impl Record {
    /// The error for a field that is not as it should be.
    pub fn fault(&self, field: &'static str, expected: &'static str) -> EvalError {
        EvalError::Field { path: self.path.clone(), record: self.number, field, expected, task: self.task }
    }

    /// A text.
    ///
    /// # Errors
    /// [`EvalError::Field`].
    pub fn text(&self, field: &'static str) -> Result<&str, EvalError> {
        self.value.get(field).and_then(Value::as_str).ok_or_else(|| self.fault(field, "a text"))
    }

    /// A list of texts, of one at least.
    ///
    /// # Errors
    /// [`EvalError::Field`].
    pub fn texts(&self, field: &'static str) -> Result<Vec<String>, EvalError> {
        let found = texts(self.value.get(field)).filter(|found| !found.is_empty());
        found.ok_or_else(|| self.fault(field, "a list of texts"))
    }

    /// A number from 0, as such or in digits.
    ///
    /// # Errors
    /// [`EvalError::Field`].
    pub fn index(&self, field: &'static str) -> Result<usize, EvalError> {
        let value = self.value.get(field);
        let number = value.and_then(|v| v.as_u64().or_else(|| v.as_str()?.trim().parse().ok()));
        number
            .and_then(|n| usize::try_from(n).ok())
            .ok_or_else(|| self.fault(field, "a number from 0, which this split may lack"))
    }

    /// Whether a field is there.
    pub fn has(&self, field: &str) -> bool {
        self.value.get(field).is_some_and(|value| !value.is_null())
    }
}

/// Which part of how many a file is, by a name such as `test-00000-of-00002.parquet`.
#[derive(PartialEq, Eq)]
struct Part {
    /// The words of the name without the number.
    name: Vec<String>,
    number: usize,
    parts: usize,
}

impl Part {
    fn of(path: &Path) -> Option<Self> {
        let mut name: Vec<String> = words(path.file_name()?.as_ref()).split_whitespace().map(str::to_owned).collect();
        let at = name.iter().position(|word| word == "of").filter(|at| *at > 0)?;
        let (number, parts) = (name[at - 1].parse().ok()?, name.get(at + 1)?.parse().ok()?);
        name.remove(at - 1);
        Some(Part { name, number, parts })
    }

    fn belongs_to(&self, other: &Self) -> bool {
        self.name == other.name && self.parts == other.parts
    }
}

/// A list whose elements are all texts.
pub(crate) fn texts(value: Option<&Value>) -> Option<Vec<String>> {
    value?.as_array()?.iter().map(|v| v.as_str().map(str::to_owned)).collect()
}

/// A path as lower-case words between single spaces, with one at each end.
fn words(path: &Path) -> String {
    let text = path.to_string_lossy();
    let mut words = " ".to_owned();
    for c in text.chars() {
        if c.is_alphanumeric() {
            words.extend(c.to_lowercase());
        } else if !words.ends_with(' ') {
            words.push(' ');
        }
    }
    if !words.ends_with(' ') {
        words.push(' ');
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn folder(files: &[&str]) -> (tempfile::TempDir, DataFolder) {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "{\"a\": 1}\n").unwrap();
        }
        let found = DataFolder::open(dir.path()).unwrap();
        (dir, found)
    }

    #[test]
    fn files_are_found_as_people_and_the_hub_name_them() {
        let (dir, data) = folder(&[
            "arc-easy_test.jsonl",
            "arc-easy_validation.jsonl",
            "deep/er/arc-easy_test.jsonl",
            "ai2_arc/ARC-Challenge/test-00000-of-00002.jsonl",
            "ai2_arc/ARC-Challenge/test-00001-of-00002.jsonl",
            "latest_hellaswag.jsonl",
        ]);
        let find = |name, split| data.find("a task", &[name], split).unwrap();
        assert_eq!(find("arc_easy", "test"), [dir.path().join("arc-easy_test.jsonl")]);
        assert!(find("arc_easy", "train").is_empty());
        assert_eq!(find("arc_challenge", "test").len(), 2);
        // Neither a part of a word nor a word before the name is a split.
        assert!(find("hellaswag", "test").is_empty() && find("easy", "validation").len() == 1);
    }

    #[test]
    fn two_files_that_may_both_be_meant_are_an_error_that_names_them() {
        let (_dir, data) = folder(&["piqa_validation.jsonl", "my-piqa-validation.json"]);
        let error = data.find("piqa", &["piqa"], "validation").unwrap_err().to_string();
        assert!(error.contains("my-piqa-validation.json and ") && error.contains("piqa, split validation"), "{error}");
    }

    #[test]
    fn parts_are_told_by_their_own_names_and_are_all_there() {
        let find = |files: &[&str]| {
            let (dir, data) = folder(files);
            let found = data.find("piqa", &["piqa"], "test");
            (dir, found.map(|found| found.len()).map_err(|error| error.to_string()))
        };
        // What a folder is called makes no parts of its files: each item would count twice.
        let (_dir, found) = find(&["proof-of-concept/piqa_test.jsonl", "proof-of-concept/piqa_test.json"]);
        assert!(found.unwrap_err().contains("keep one of them"));
        let (_dir, found) = find(&["piqa/test-0-of-2.jsonl", "piqa/test-1-of-2.jsonl"]);
        assert_eq!(found, Ok(2));
        for other in
            ["piqa/test-0-of-2.json", "piqa/test-00-of-02.jsonl", "piqa/my-test-1-of-2.jsonl", "piqa/test.jsonl"]
        {
            let (_dir, found) = find(&["piqa/test-0-of-2.jsonl", "piqa/test-1-of-2.jsonl", other]);
            assert!(found.unwrap_err().contains("keep one of them"), "{other}");
        }
        let (_dir, found) = find(&["piqa/test-00001-of-00003.jsonl"]);
        let error = found.unwrap_err();
        assert!(error.contains("test-00001-of-00003.jsonl") && error.contains("1 of the 3 parts of piqa"), "{error}");
    }

    #[test]
    fn records_know_where_they_stand() {
        let (_dir, data) = folder(&["piqa_test.jsonl"]);
        let split = data.read("piqa", &["piqa"], &["validation", "test"]).unwrap().unwrap();
        assert_eq!((split.name, split.records.len()), ("test", 1));
        let error = split.records[0].text("goal").unwrap_err().to_string();
        assert!(error.contains("piqa_test.jsonl: record 1: `goal` is missing or not a text"), "{error}");
        assert_eq!(split.records[0].index("a").unwrap(), 1);
    }
}
