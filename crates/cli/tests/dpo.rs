//! `casallm dpo`: from a fine-tuned run and pairs of answers to a model beside the fine-tuned one, resumed to the bit.

mod support;

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use support::{Tree, run, trained_folder};
use tempfile::TempDir;

const SECTION: &str = r#"
[[data.dpo]]
name = "manners"
path = "pairs.jsonl"

[dpo]
epochs = 2
batch_tokens = 256
micro_batch = 2
beta = 0.2
validation_fraction = 0.2
lr = 1e-3
eval_every = 3
eval_tokens = 256
checkpoint_every = 2
keep_last = 100
"#;

/// A fine-tuned run with a recipe that goes on, and pairs in three layouts, three of which teach nothing.
fn inputs() -> TempDir {
    let folder = trained_folder();
    let recipe = fs::read_to_string(folder.path().join("tiny.toml")).unwrap();
    fs::write(folder.path().join("tiny.toml"), recipe + SECTION).unwrap();
    let mut rows = Vec::new();
    for i in 0..40 {
        let (good, bad) = (format!("It is near the tree {i}."), format!("Go away {i}!"));
        rows.push(json!({"prompt": format!("Where is cat {i}?"), "chosen": good, "rejected": bad}));
        let talk = format!("\n\nHuman: Where is dog {i}?\n\nAssistant: ");
        rows.push(json!({"chosen": format!("{talk}{good}"), "rejected": format!("{talk}{bad}")}));
    }
    let said = |role: &str, content: &str| json!({"role": role, "content": content});
    rows.push(json!({"chosen": [said("user", "Hi"), said("assistant", "Hello.")],
                     "rejected": [said("user", "Hi"), said("assistant", "What?")]}));
    rows.push(json!({"prompt": "a", "chosen": "same", "rejected": "same"}));
    rows.push(json!({"prompt": "b", "chosen": "", "rejected": "x"}));
    rows.push(json!({"prompt": "c", "chosen": "y", "rejected": "long ".repeat(100)}));
    let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
    fs::write(folder.path().join("pairs.jsonl"), lines).unwrap();
    folder
}

fn dpo(folder: &Path, flags: &[&str]) -> support::Finished {
    run(folder, &[&["dpo", "tiny.toml"], flags].concat())
}

/// The stage's rows without their timing.
fn rows(folder: &Path) -> Vec<Value> {
    let text = fs::read_to_string(folder.join("run/metrics.jsonl")).unwrap();
    let rows = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let untimed = rows.map(|mut row| {
        row.as_object_mut().unwrap().remove("timing");
        row
    });
    // What is no row says that the run was resumed, which a run that was not does not.
    untimed.filter(|row| row["stage"] == "dpo" && row["event"].is_null()).collect()
}

#[test]
fn a_run_goes_from_pairs_to_a_model_and_resumes_to_the_bit() {
    let folder = inputs();
    let folder = folder.path();
    let before = Tree::of(folder);
    let text = dpo(folder, &[]).succeeded();
    for said in ["1 pairs left out: the answers are equal", "an answer is empty", "too long for the context"] {
        assert!(text.stderr.contains(said), "{said}: {}", text.stderr);
    }
    assert!(text.stderr.contains("reference model: done"), "{}", text.stderr);
    let whole = Tree::of(folder);
    for kept in ["run/model/model.safetensors", "run/model/checksums.json", "run/cleaning.json"] {
        assert!(before.file(kept) == whole.file(kept), "{kept} was changed");
    }
    let expected = rows(folder);
    assert_eq!(expected[0]["step"], 0);
    assert_eq!(expected[0]["val_preference"]["accuracy"], 0.5);
    assert_eq!(expected[0]["val_preference"]["margin"], 0.0);
    for source in ["conversations", "stories"] {
        assert!(expected[0]["val"][source]["bits_per_byte"].is_f64(), "{}", expected[0]);
    }
    let last = expected.last().unwrap();
    assert_eq!(last["val_preference"]["accuracy"], 1.0, "{last}");
    let pairs: Value = serde_json::from_slice(whole.file("run/pairs.json")).unwrap();
    assert_eq!(pairs["rows"], 84);
    assert_eq!(pairs["counts"], json!({"empty_answer": 1, "equal_answers": 1, "too_long": 1}));
    assert!(run(folder, &["chat", "--model", "run/dpo", "--prompt", "Hi"]).succeeded().stderr.is_empty());

    // Stopped after step 4 by a power cut, on one thread then.
    for entry in fs::read_dir(folder.join("run/checkpoints/dpo")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.strip_prefix("step-").is_some_and(|step| step.parse::<u64>().unwrap() > 4) {
            fs::remove_dir_all(path).unwrap();
        }
    }
    fs::remove_dir_all(folder.join("run/dpo")).unwrap();
    let resumed = dpo(folder, &["--resume", "--threads", "1"]).succeeded();
    assert!(resumed.stderr.contains("resumed dpo after step 4"), "{}", resumed.stderr);
    assert!(!resumed.stderr.contains("reference model"), "computed again: {}", resumed.stderr);
    assert_eq!(rows(folder), expected);
    let after = Tree::of(folder);
    for file in ["run/dpo/model.safetensors", "run/dpo/checksums.json", "run/dpo-references.bin"] {
        assert!(whole.file(file) == after.file(file), "{file} differs");
    }
}

#[test]
fn what_it_cannot_begin_with_is_refused_by_name() {
    let folder = inputs();
    let folder = folder.path();
    dpo(folder, &["--set", "dpo.epochs=1"]).succeeded();
    // Other pairs than those of the checkpoints.
    let pairs = fs::read_to_string(folder.join("pairs.jsonl")).unwrap();
    fs::write(folder.join("pairs.jsonl"), pairs.replacen("Go away 1!", "Leave me!", 1)).unwrap();
    dpo(folder, &["--set", "dpo.epochs=1", "--resume"]).refused(&["dpo-references.bin", "another pairs"]);
    fs::write(folder.join("pairs.jsonl"), pairs).unwrap();
    // A damaged file.
    let path = folder.join("run/dpo-references.bin");
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    dpo(folder, &["--set", "dpo.epochs=1", "--resume"]).refused(&["damaged; delete it"]);
    // Without it, it is computed again, from the model that has not changed.
    fs::remove_file(&path).unwrap();
    assert!(dpo(folder, &["--set", "dpo.epochs=1", "--resume"]).succeeded().stderr.contains("reference model: done"));
    // Other settings, no model, no pairs.
    dpo(folder, &["--set", "dpo.epochs=1", "--set", "dpo.beta=0.5", "--resume"]).refused(&["beta"]);
    fs::remove_dir_all(folder.join("run/checkpoints/dpo")).unwrap();
    dpo(folder, &["--set", "dpo.context=8", "--set", "dpo.batch_tokens=64"])
        .refused(&["preference pairs", "too long for the context"]);
    fs::remove_dir_all(folder.join("run/model")).unwrap();
    dpo(folder, &[]).refused(&["run/model", "casallm sft"]);
}
