//! Results of single items, one JSON object a line, so that an evaluation that was cut goes on where it was.
//!
//! A file is of one task under one set of conditions (model, weights, examples, data): its name holds their fingerprint, and
//! its first line tells them. Other conditions have another file; nothing is ever overwritten.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::error::EvalError;

/// The results of a task's items.
pub struct Journal {
    path: PathBuf,
    file: File,
    items: BTreeMap<usize, Value>,
}

impl Journal {
    /// Opens the results of a task under these conditions, or begins them. A torn last line is cut off.
    ///
    /// # Errors
    /// [`EvalError::Journal`] for a line that is no result, [`EvalError::Io`].
    pub fn open(folder: &Path, task: &str, conditions: &Value) -> Result<Self, EvalError> {
        let digest = Sha256::digest(conditions.to_string().as_bytes());
        let fingerprint: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        let path = folder.join(format!("{task}-{fingerprint}.jsonl"));
        let io = |action: &'static str, path: &Path| {
            let path = path.to_owned();
            move |source| EvalError::Io { action, path, source }
        };
        fs::create_dir_all(folder).map_err(io("create", folder))?;
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = file.map_err(io("open", &path))?;
        let bytes = fs::read(&path).map_err(io("read", &path))?;
        // What a power cut leaves has no end, or is no text.
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let mut items = BTreeMap::new();
        for (i, line) in bytes[..whole].split(|byte| *byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty()) {
            let fault = |message: String| EvalError::Journal { path: path.clone(), line: i + 1, message };
            let value: Value = serde_json::from_slice(line).map_err(|error| fault(error.to_string()))?;
            if i == 0 {
                if value["conditions"] != *conditions {
                    return Err(fault("it holds the results of other conditions".into()));
                }
                continue;
            }
            let item = value["item"].as_u64().ok_or_else(|| fault("it has no item".into()))?;
            items.insert(item as usize, value);
        }
        file.set_len(whole as u64).map_err(io("write", &path))?;
        file.seek(SeekFrom::End(0)).map_err(io("write", &path))?;
        let mut journal = Journal { path, file, items };
        if whole == 0 {
            journal.write(&json!({"task": task, "conditions": conditions}))?;
        }
        Ok(journal)
    }

    /// Keeps the result of an item: an object, to which `item` is added.
    ///
    /// # Errors
    /// [`EvalError::Io`].
    pub fn add(&mut self, item: usize, mut result: Value) -> Result<(), EvalError> {
        result["item"] = item.into();
        self.write(&result)?;
        self.items.insert(item, result);
        Ok(())
    }

    fn write(&mut self, line: &Value) -> Result<(), EvalError> {
        let written = self.file.write_all(format!("{line}\n").as_bytes());
        written.map_err(|source| EvalError::Io { action: "write", path: self.path.clone(), source })
    }

    /// Results by item.
    pub fn items(&self) -> &BTreeMap<usize, Value> {
        &self.items
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_file_loses_its_torn_line_alone() {
        let dir = tempfile::tempdir().unwrap();
        let conditions = json!({"model": "a"});
        let open = || Journal::open(dir.path(), "piqa", &conditions).unwrap();
        let mut journal = open();
        (0..3).for_each(|i| journal.add(i, json!({"right": true})).unwrap());
        let path = journal.path().to_owned();
        drop(journal);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - 4]).unwrap();
        let mut journal = open();
        assert_eq!(journal.items().keys().copied().collect::<Vec<_>>(), [0, 1]);
        journal.add(2, json!({"right": true})).unwrap();
        assert_eq!(fs::read(&path).unwrap(), whole);
        assert_eq!(open().items().len(), 3);
    }

    #[test]
    fn other_conditions_have_another_file_and_damage_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let open = |model: &str| Journal::open(dir.path(), "piqa", &json!({"model": model}));
        let (first, second) = (open("a").unwrap(), open("b").unwrap());
        assert_ne!(first.path(), second.path());
        let path = first.path().to_owned();
        let text = fs::read_to_string(&path).unwrap();
        for (content, expected) in [
            (text.clone() + "{\"right\": 1}\n", "line 2: it has no item"),
            (text.clone() + "nonsense\n", "line 2: "),
            (text.replace("\"a\"", "\"c\""), "line 1: it holds the results of other conditions"),
        ] {
            fs::write(&path, content).unwrap();
            let error = open("a").err().unwrap().to_string();
            assert!(error.contains(expected) && error.contains("remove the file"), "{error}");
        }
    }
}
