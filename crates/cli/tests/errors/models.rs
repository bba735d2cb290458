//! Model directories that cannot be used, and prompts that do not fit.

use std::fs;

use crate::support::{Tree, run, trained, trained_folder};

/// What happens to the bytes of a file.
type Damage = fn(&mut Vec<u8>);

fn chat<'a>(model: &'a str, prompt: &'a str) -> [&'a str; 5] {
    ["chat", "--model", model, "--prompt", prompt]
}

#[test]
fn prompt_longer_than_the_context() {
    let folder = trained_folder();
    let prompt = "Where is the small house near the old garden? ".repeat(20);
    let refused = run(folder.path(), &chat("run/model", &prompt));
    let refused = refused.refused(&["tokens do not fit the context of 64", "shorten the prompt"]);
    assert_eq!(refused.stdout, "");
    let system = [&chat("run/model", "Hi")[..], &["--system", &prompt]].concat();
    run(folder.path(), &system).refused(&["do not fit the context of 64", "shorten the prompt"]);
    trained().assert_kept_in(folder.path());
}

#[test]
fn model_directory_that_is_not_there() {
    let folder = trained_folder();
    run(folder.path(), &chat("nowhere", "Hi")).refused(&["nowhere/", "missing", "model directory", "another folder?"]);
    run(folder.path(), &chat("tiny.toml", "Hi")).refused(&["tiny.toml", "is a file", "a model is a directory"]);
    trained().assert_kept_in(folder.path());
}

#[test]
fn folder_of_a_run_for_its_model() {
    let folder = trained_folder();
    run(folder.path(), &chat("run", "Hi")).refused(&["the model of this run is in run/model"]);
    fs::remove_dir_all(folder.path().join("run/model")).unwrap();
    run(folder.path(), &chat("run", "Hi")).refused(&["the model of this run is in run/base"]);
}

#[test]
fn model_of_another_program() {
    let folder = trained_folder();
    for (to, out) in [("hf", "theirs"), ("gguf", "theirs.gguf")] {
        run(folder.path(), &["export", "run/model", "--to", to, "--out", out]).succeeded();
        let import = format!("casallm import {out} --out DIR");
        run(folder.path(), &chat(out, "Hi")).refused(&[out, &import]);
        run(folder.path(), &["import", out, "--out", "ours"]).succeeded();
        run(folder.path(), &chat("ours", "Hi")).succeeded();
        fs::remove_dir_all(folder.path().join("ours")).unwrap();
    }
    // As it is on the Hub: without checksums.
    fs::remove_file(folder.path().join("theirs/checksums.json")).unwrap();
    run(folder.path(), &chat("theirs", "Hi")).refused(&["Hugging Face", "casallm import theirs --out DIR"]);
}

#[test]
fn model_directory_with_a_damaged_file() {
    for file in ["model.safetensors", "config.json", "tokenizer.json", "checksums.json"] {
        let damages: [(&str, Damage); 3] = [
            ("flipped", |bytes| {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
            }),
            ("cut", |bytes| bytes.truncate(bytes.len() - 7)),
            ("emptied", Vec::clear),
        ];
        for (what, damage) in damages {
            let folder = trained_folder();
            for model in ["run/base", "run/model"] {
                let path = format!("{model}/{file}");
                let mut bytes = trained().file(&path).to_vec();
                damage(&mut bytes);
                fs::write(folder.path().join(&path), bytes).unwrap();
            }
            let before = Tree::of(folder.path());
            // A flipped character in the list of checksums is a checksum that does not fit another file.
            let named = if file == "checksums.json" && what == "flipped" { "checksums.json" } else { file };
            run(folder.path(), &chat("run/model", "Hi")).refused(&["run/model/", named, "restore"]);
            let tune = ["sft", "tiny.toml", "--resume"];
            run(folder.path(), &tune).refused(&["run/base/", named, "restore"]);
            before.assert_kept_in(folder.path());
        }
    }
}

#[test]
fn model_directory_without_a_file() {
    for file in ["model.safetensors", "config.json", "tokenizer.json", "checksums.json"] {
        let folder = trained_folder();
        fs::remove_file(folder.path().join("run/model").join(file)).unwrap();
        let missing = format!("run/model/{file}");
        run(folder.path(), &chat("run/model", "Hi")).refused(&[&missing, "missing", "model directory"]);
    }
}

#[test]
fn model_and_tokenizer_of_different_vocabularies() {
    let folder = trained_folder();
    let train = ["tokenizer", "train", "text.jsonl", "--vocab-size", "300", "-o", "run/model/tokenizer.json"];
    run(folder.path(), &train).succeeded();
    // As the message about the checksum suggests for a file that was changed on purpose.
    let sums = folder.path().join("run/model/checksums.json");
    let text = fs::read_to_string(&sums).unwrap();
    let kept: Vec<&str> = text.lines().filter(|line| !line.contains("\"tokenizer.json\"")).collect();
    fs::write(&sums, kept.join("\n")).unwrap();
    run(folder.path(), &chat("run/model", "Hi")).refused(&[
        "run/model",
        "vocabulary of 320",
        "300",
        "restore the pair",
    ]);
}

#[test]
fn sampler_settings_that_cannot_be() {
    let folder = trained_folder();
    for (flag, value, field) in [
        ("--temperature", "-1", "temperature"),
        ("--temperature", "nan", "temperature"),
        ("--top-p", "2", "top_p"),
        ("--min-p", "2", "min_p"),
        ("--repetition-penalty", "0", "repetition_penalty"),
    ] {
        run(folder.path(), &[&chat("run/model", "Hi")[..], &[flag, value]].concat()).refused(&[field]);
    }
    // More than can be counted is as much as fits.
    let most = u64::MAX.to_string();
    run(folder.path(), &[&chat("run/model", "Hi")[..], &["--max-new-tokens", &most]].concat()).succeeded();
}

/// As a folder that is not the user's, which a test that may write everywhere cannot have.
#[test]
fn folders_that_cannot_be_made_are_told_with_the_flag_that_names_another() {
    let folder = trained_folder();
    let refused = |arguments: &[&str], named: &[&str]| {
        let arguments = [&[arguments[0], "--model", "run/model"], &arguments[1..]].concat();
        run(folder.path(), &arguments).refused(named);
    };
    refused(&["serve", "--port", "0", "--db", "text.jsonl/chat.db"], &["text.jsonl", "--db", "--ephemeral"]);
    refused(
        &["serve", "--port", "0", "--ephemeral", "--cache-dir", "text.jsonl/kv"],
        &["text.jsonl/kv", "--cache-dir"],
    );
    refused(&["eval", "--text", "text.jsonl", "--out", "text.jsonl/out"], &["text.jsonl/out", "--out"]);
}
