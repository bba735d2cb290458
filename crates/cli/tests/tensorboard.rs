//! TensorBoard's event files of the real binary. What is in them is tested beside the code, and by
//! `scripts/check_tensorboard.py` with TensorBoard itself.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use support::{Tree, run, trained_folder, write_inputs};

/// The event files of a stage.
fn files(folder: &Path, stage: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder.join("run/tensorboard").join(stage)).unwrap();
    let mut found: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

/// Records of a file, by the lengths in their frames.
fn records(path: &Path) -> usize {
    let bytes = fs::read(path).unwrap();
    let (mut at, mut count) = (0, 0);
    while at < bytes.len() {
        at += u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize + 16;
        count += 1;
    }
    assert_eq!(at, bytes.len(), "{} ends within a record", path.display());
    count
}

/// Lines of `metrics.jsonl` of a stage.
fn lines(folder: &Path, stage: &str) -> usize {
    let text = fs::read_to_string(folder.join("run/metrics.jsonl")).unwrap();
    text.lines().filter(|line| line.contains(&format!("\"stage\":\"{stage}\""))).count()
}

#[test]
fn a_run_writes_them_as_it_goes_and_changes_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_inputs(folder);
    run(folder, &["pretrain", "tiny.toml", "--tensorboard"]).succeeded();
    let found = files(folder, "pretrain");
    assert_eq!(found.len(), 1);
    // And the version, and that it starts.
    assert_eq!(records(&found[0]), lines(folder, "pretrain") + 2);
    let (with, without) = (Tree::of(folder), support::trained());
    assert!(with.file("run/base/model.safetensors") == without.file("run/base/model.safetensors"));
}

#[test]
fn they_are_made_of_a_run_that_is_there() {
    let folder = trained_folder();
    let folder = folder.path();
    let before = Tree::of(folder);
    for _ in 0..2 {
        let said = run(folder, &["tensorboard", "run", "--json"]).succeeded();
        assert_eq!(said.stdout.lines().count(), 2, "{said:?}");
        for stage in ["pretrain", "sft"] {
            let found = files(folder, stage);
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!(records(&found[0]), lines(folder, stage) + 1);
        }
    }
    before.without("run/run.lock").assert_kept_in(folder);
    run(folder, &["tensorboard", "nowhere"]).refused(&["nowhere/metrics.jsonl", "name the folder of a run"]);
    assert!(!folder.join("nowhere").exists());
}
