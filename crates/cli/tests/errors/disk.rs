//! A disk that is full: what was there stays, and the same command goes on once there is room.
//!
//! Linux has a file that is always full, `/dev/full`. A link to it under the name that a file is first written by makes
//! that one file meet a full disk, without any rights. Checkpoints, whose temporary folders are removed at the start,
//! meet a small disk of their own where the system mounts one, and everywhere a limit on the size of a file.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use crate::support::{Finished, SmallDisk, Tree, casallm, run, trained, trained_folder, write_inputs};

const FULL: &str = "/dev/full";

/// Runs a command while `temporary` leads to a full disk: refused, nothing lost; then once more, with room.
fn full_then_free(folder: &Path, temporary: &str, arguments: &[&str], named: &[&str]) {
    let before = Tree::of(folder);
    symlink(FULL, folder.join(temporary)).unwrap();
    run(folder, arguments).refused(named);
    before.assert_kept_in(folder);
    assert!(fs::symlink_metadata(folder.join(temporary)).is_err(), "{temporary} was left behind");
    run(folder, arguments).succeeded();
}

#[test]
fn full_disk_under_a_tokenizer() {
    let folder = trained_folder();
    let output = "run/tokenizer.json";
    let train = ["tokenizer", "train", "text.jsonl", "--vocab-size", "300", "--output", output];
    let named = [output, "the disk is full", "free some space", "run the same command again"];
    full_then_free(folder.path(), "run/tokenizer.json.tmp", &train, &named);
}

#[test]
fn full_disk_under_shards() {
    for name in ["train-00000.bin", "val-00000.bin"] {
        let folder = trained_folder();
        let tokenize =
            ["tokenize", "text.jsonl", "-t", "run/tokenizer.json", "-o", "shards", "--validation-fraction", "0.1"];
        fs::create_dir(folder.path().join("shards")).unwrap();
        let named = [name, "the disk is full", "free some space", "run the same command again"];
        full_then_free(folder.path(), &format!("shards/{name}.tmp"), &tokenize, &named);
        let written = fs::read(folder.path().join("shards").join(name)).unwrap();
        assert!(written == trained().file(&format!("run/data/stories/{name}")));
    }
}

#[test]
fn full_disk_under_a_model() {
    for (stage, model) in [("pretrain", "run/base"), ("sft", "run/model")] {
        let folder = trained_folder();
        let temporary = format!("{model}/.model.safetensors.tmp");
        let named = [&format!("{model}/model.safetensors")[..], "No space left", "the space left on the disk"];
        full_then_free(folder.path(), &temporary, &[stage, "tiny.toml", "--resume"], &named);
        trained().assert_kept_in(folder.path());
    }
}

#[test]
fn full_disk_under_metrics() {
    let folder = trained_folder();
    // The torn last line of a process that was killed, which is to be cut off.
    let mut metrics = OpenOptions::new().append(true).open(folder.path().join("run/metrics.jsonl")).unwrap();
    std::io::Write::write_all(&mut metrics, b"{\"step\":4").unwrap();
    let named = ["run/metrics.jsonl", "the disk is full", "free some space", "--resume"];
    full_then_free(folder.path(), "run/.tmp-metrics.jsonl", &["pretrain", "tiny.toml", "--resume"], &named);
    trained().assert_kept_in(folder.path());
}

#[test]
fn full_disk_under_the_report_of_cleaning() {
    let folder = trained_folder();
    let named = ["run/cleaning.json", "the disk is full", "free some space", "--resume"];
    full_then_free(folder.path(), "run/.tmp-cleaning.json", &["sft", "tiny.toml", "--resume"], &named);
    trained().assert_kept_in(folder.path());
}

#[test]
fn file_size_limit_under_a_checkpoint() {
    let folder = trained_folder();
    let [older, newer] = ["run/checkpoints/pretrain/step-000039", "run/checkpoints/pretrain/step-000040"];
    for gone in [newer, "run/base", "run/model"] {
        fs::remove_dir_all(folder.path().join(gone)).unwrap();
    }
    let before = Tree::of(folder.path());
    assert!(before.0.keys().any(|path| path.starts_with(older)));
    // 200 blocks of 512 bytes (of 1024 in some shells): less than a checkpoint, more than anything else. The signal
    // that goes with the limit is ignored, as batch systems do, so that the write itself fails.
    let script = "trap '' XFSZ; ulimit -f 200; exec \"$0\" pretrain tiny.toml --resume";
    let mut limited = Command::new("sh");
    limited.args(["-c", script, env!("CARGO_BIN_EXE_casallm")]).current_dir(folder.path());
    let refused = Finished::of("pretrain with a limit", &limited.output().unwrap());
    refused.refused(&["step-000040", "tensors.safetensors", "File too large"]);
    before.without("run/metrics.jsonl").assert_kept_in(folder.path());
    run(folder.path(), &["pretrain", "tiny.toml", "--resume"]).succeeded();
    for file in ["run/base/model.safetensors", &format!("{newer}/tensors.safetensors")] {
        assert!(fs::read(folder.path().join(file)).unwrap() == trained().file(file), "{file} differs");
    }
}

/// Before a token is read: what is needed, what is there, and what to do.
#[test]
fn disk_without_room_for_the_checkpoints() {
    let Some(disk) = SmallDisk::new(2 << 10) else { return };
    let folder = tempfile::tempdir().unwrap();
    write_inputs(folder.path());
    let run_dir = disk.path().join("run");
    let set = format!("run.dir={}", run_dir.display());
    let refused = run(folder.path(), &["pretrain", "tiny.toml", "--set", &set]);
    let named =
        ["checkpoints/pretrain", "4 checkpoints of", "more bytes are needed", "are free", "keep_last", "run.dir"];
    refused.refused(&named);
    let left: Vec<_> = Tree::of(&run_dir).0.into_keys().collect();
    assert_eq!(left, [Path::new("run.lock")], "nothing was begun");
}

/// Locks are the first that is written: what stops here has begun nothing.
#[test]
fn full_disk_at_the_start() {
    let Some(disk) = SmallDisk::new(64) else { return };
    let folder = trained_folder();
    let before = Tree::of(folder.path());
    let at = |name: &str| disk.path().join(name).display().to_string();
    fs::write(at("filling"), vec![1; 128 << 10]).unwrap_err();
    let serve = ["serve", "--model", "run/model", "--port", "0"];
    let (database, cache, run_dir) = (at("chat.db"), at("kv"), format!("run.dir={}", at("run")));
    let refused = |arguments: &[&str], named: &[&str]| run(folder.path(), arguments).refused(named);
    refused(&[&serve[..], &["--db", &database]].concat(), &["chat.db", "the disk is full", "Free some"]);
    refused(&[&serve[..], &["--ephemeral", "--cache-dir", &cache]].concat(), &["kv", "No space left", "--cache-dir"]);
    let begun = refused(&["pretrain", "tiny.toml", "--set", &run_dir], &["the disk is full", "another disk"]);
    assert!(!begun.stderr.contains("--resume"), "{}", begun.stderr);
    before.assert_kept_in(folder.path());
}

#[test]
fn full_disk_behind_stdout() {
    let folder = trained_folder();
    let to_full = |arguments: &[&str]| {
        let mut command = casallm(folder.path(), arguments);
        command.stdout(OpenOptions::new().write(true).open(FULL).unwrap());
        Finished::of(&arguments.join(" "), &command.output().unwrap())
    };
    for arguments in [
        &["chat", "--model", "run/model", "--prompt", "Who are you?", "--temperature", "0"][..],
        &[
            "bench",
            "train",
            "--n-layer",
            "1",
            "--n-embd",
            "64",
            "--n-head",
            "2",
            "--vocab-size",
            "512",
            "--context",
            "16",
        ],
        &["selftest", "--json"],
        &["tokenize", "text.jsonl", "-t", "run/tokenizer.json", "-o", "shards", "--json"],
    ] {
        to_full(arguments).refused(&["stdout", "No space left"]);
    }
    // A conversation over stdin is no other.
    fs::write(folder.path().join("questions"), "Who are you?\nWhere is the cat?\n").unwrap();
    let mut command = casallm(folder.path(), &["chat", "--model", "run/model", "--temperature", "0"]);
    command.stdin(fs::File::open(folder.path().join("questions")).unwrap());
    command.stdout(OpenOptions::new().write(true).open(FULL).unwrap());
    Finished::of("chat", &command.output().unwrap()).refused(&["stdout", "No space left"]);
    // A training goes on all the same: what it was to print stands in metrics.jsonl too.
    let train = to_full(&["pretrain", "tiny.toml", "--set", "run.dir=again", "--json"]);
    train.refused(&["stdout", "No space left", "the work is done and saved"]);
    let written = fs::read(folder.path().join("again/base/model.safetensors")).unwrap();
    assert!(written == trained().file("run/base/model.safetensors"));
    trained().assert_kept_in(folder.path());
}

#[test]
fn full_disk_behind_stderr() {
    let folder = tempfile::tempdir().unwrap();
    write_inputs(folder.path());
    let mut command = casallm(folder.path(), &["pretrain", "tiny.toml"]);
    let status = command.stderr(OpenOptions::new().write(true).open(FULL).unwrap()).status().unwrap();
    assert_eq!(status.code(), Some(0));
    let written = fs::read(folder.path().join("run/base/model.safetensors")).unwrap();
    assert!(written == trained().file("run/base/model.safetensors"));
    // Errors have nowhere to go, and the code still tells.
    let mut command = casallm(folder.path(), &["pretrain", "nowhere.toml"]);
    let status = command.stderr(OpenOptions::new().write(true).open(FULL).unwrap()).status().unwrap();
    assert_eq!(status.code(), Some(2));
}
