//! Token shards that lie.

use std::fs;
use std::path::Path;

use crate::support::{Tree, run, trained, trained_folder};

const SHARD: &str = "run/data/stories/train-00000.bin";

/// Changes the training shard of a finished run; resuming must refuse it and leave everything as it is.
fn refused_with(change: impl FnOnce(&mut Vec<u8>), named: &[&str]) {
    let folder = trained_folder();
    let mut bytes = trained().file(SHARD).to_vec();
    change(&mut bytes);
    fs::write(folder.path().join(SHARD), bytes).unwrap();
    let before = Tree::of(folder.path());
    run(folder.path(), &["pretrain", "tiny.toml", "--resume"]).refused(named);
    before.assert_kept_in(folder.path());
    // The remedy that the message gives: without the shard it is made again, from the same text.
    fs::remove_file(folder.path().join(SHARD)).unwrap();
    run(folder.path(), &["pretrain", "tiny.toml", "--resume"]).succeeded();
    trained().assert_kept_in(folder.path());
}

#[test]
fn truncated_shard() {
    let promised = trained().file(SHARD).len().to_string();
    refused_with(|bytes| bytes.truncate(2000), &[SHARD, "2000 bytes", &promised, "truncated", "remove it"]);
    refused_with(|bytes| bytes.truncate(100), &[SHARD, "100 bytes", "1024", "truncated", "remove it"]);
    refused_with(|bytes| bytes.clear(), &[SHARD, "0 bytes", "1024", "truncated", "remove it"]);
}

#[test]
fn shard_with_bytes_behind_its_end() {
    let found = (trained().file(SHARD).len() + 10).to_string();
    refused_with(|bytes| bytes.extend([0; 10]), &[SHARD, &found, "remove it"]);
}

#[test]
fn bad_magic() {
    refused_with(|bytes| bytes[..4].copy_from_slice(b"PK\x03\x04"), &[SHARD, "bad magic", "20240520", "remove it"]);
}

#[test]
fn shard_of_another_layout() {
    refused_with(|bytes| bytes[4] = 7, &[SHARD, "version 7", "expected 1", "remove the shard"]);
}

#[test]
fn shard_with_fewer_tokens_than_the_manifest_says() {
    let tokens = (trained().file(SHARD).len() - 1024) / 2;
    let fewer = (tokens - 50) as i32;
    let change = |bytes: &mut Vec<u8>| {
        bytes.truncate(bytes.len() - 100);
        bytes[8..12].copy_from_slice(&fewer.to_le_bytes());
    };
    refused_with(change, &[SHARD, &fewer.to_string(), &tokens.to_string(), "manifest", "remove the shard"]);
}

#[test]
fn token_outside_the_vocabulary() {
    // Met at the start, not when training comes to it.
    let folder = trained_folder();
    fs::remove_dir_all(folder.path().join("run/checkpoints")).unwrap();
    let path = folder.path().join(SHARD);
    let mut bytes = fs::read(&path).unwrap();
    for token in bytes[1024..].chunks_exact_mut(2).step_by(7) {
        token.copy_from_slice(&60_000u16.to_le_bytes());
    }
    fs::write(&path, bytes).unwrap();
    let before = Tree::of(folder.path()).without("run/metrics.jsonl");
    let refused = run(folder.path(), &["pretrain", "tiny.toml"]);
    refused.refused(&[SHARD, "checksum", "damaged; remove the shard"]);
    before.assert_kept_in(folder.path());
}

/// Of the right length, and so only the checksum can tell.
#[test]
fn shards_that_have_changed_since_they_were_written() {
    let folder = trained_folder();
    let shard = folder.path().join(SHARD);
    let whole = fs::read(&shard).unwrap();
    let mut changed = whole.clone();
    let last = changed.len() - 2;
    changed[last] ^= 1;
    fs::write(&shard, changed).unwrap();
    fs::remove_dir_all(folder.path().join("run/checkpoints/pretrain")).unwrap();
    let named = [SHARD, "checksum", "damaged; remove the shard"];
    run(folder.path(), &["pretrain", "tiny.toml"]).refused(&named);
    // As it says: the same shards come of the same text.
    fs::remove_file(&shard).unwrap();
    run(folder.path(), &["pretrain", "tiny.toml"]).succeeded();
    assert!(fs::read(&shard).unwrap() == whole);
}

/// A tokenizer of the same size, learned from other text.
fn other_tokenizer(folder: &Path, vocab_size: &str) {
    let lines: String = (0..400).map(|n| format!("{{\"text\": \"bridges and waterfalls {n} beyond\"}}\n")).collect();
    fs::write(folder.join("other.jsonl"), lines).unwrap();
    let inputs = ["tokenizer", "train", "other.jsonl", "text.jsonl", "--vocab-size", vocab_size];
    let output = ["--output", "run/tokenizer.json"];
    run(folder, &[&inputs[..], &output].concat()).succeeded();
}

#[test]
fn shard_of_another_tokenizer() {
    let folder = trained_folder();
    other_tokenizer(folder.path(), "320");
    let before = Tree::of(folder.path());
    let manifest = "run/data/stories/manifest.json";
    let named = [manifest, "made with tokenizer", "restore that tokenizer", "remove the shards"];
    run(folder.path(), &["pretrain", "tiny.toml", "--resume"]).refused(&named);
    // Just so without a checkpoint: shards that are there are not made anew in silence.
    fs::remove_dir_all(folder.path().join("run/checkpoints")).unwrap();
    let before = before.without("run/checkpoints");
    run(folder.path(), &["pretrain", "tiny.toml"]).refused(&named);
    before.assert_kept_in(folder.path());
}

#[test]
fn vocabulary_mismatch() {
    let folder = trained_folder();
    // Of the recipe and the tokenizer.
    let larger = ["--set", "tokenizer.vocab_size=352"];
    run(folder.path(), &[&["pretrain", "tiny.toml", "--resume"][..], &larger].concat()).refused(&[
        "run/tokenizer.json",
        "320 tokens",
        "tokenizer.vocab_size is 352",
        "set it to that",
    ]);
    // Of the recipe and the model that is to be tuned.
    run(folder.path(), &[&["sft", "tiny.toml", "--resume"][..], &larger].concat()).refused(&[
        "run/base",
        "vocab_size is 320",
        "352",
        "restore the recipe",
    ]);
    trained().assert_kept_in(folder.path());
    // Of the tokenizer and the shards.
    other_tokenizer(folder.path(), "352");
    let before = Tree::of(folder.path());
    run(folder.path(), &[&["pretrain", "tiny.toml", "--resume"][..], &larger].concat()).refused(&[
        "run/data/stories/manifest.json",
        "vocabulary of 320",
        "352",
        "restore that tokenizer",
    ]);
    before.assert_kept_in(folder.path());
}

#[test]
fn text_that_changed_under_a_run() {
    let folder = trained_folder();
    let text = folder.path().join("text.jsonl");
    fs::write(&text, [trained().file("text.jsonl"), b"{\"text\": \"one more\"}\n"].concat()).unwrap();
    let before = Tree::of(folder.path());
    let named = ["run/data/stories", "other text", "restore the text", "run.dir"];
    run(folder.path(), &["pretrain", "tiny.toml", "--resume"]).refused(&named);
    before.assert_kept_in(folder.path());
}

/// Without its manifest nothing tells what shards were made from, so they are made again; whether they are those that the
/// run began with, the checkpoint knows.
#[test]
fn manifest_damaged_under_a_run() {
    let folder = trained_folder();
    let manifest = folder.path().join("run/data/stories/manifest.json");
    let damage = || fs::write(&manifest, "{").unwrap();
    damage();
    run(folder.path(), &["pretrain", "tiny.toml", "--resume"]).succeeded();
    trained().assert_kept_in(folder.path());

    let text = folder.path().join("text.jsonl");
    fs::write(&text, [trained().file("text.jsonl"), b"{\"text\": \"one more\"}\n"].concat()).unwrap();
    damage();
    let before = Tree::of(folder.path()).without("run/data/stories");
    let named = ["run/checkpoints/pretrain/step-", "other settings", "was `shards = ", "run.dir"];
    run(folder.path(), &["pretrain", "tiny.toml", "--resume"]).refused(&named);
    before.assert_kept_in(folder.path());
}
