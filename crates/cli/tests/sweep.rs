//! `casallm sweep` through the real binary: every combination a run of its own, shared data made once, ranked; interrupted and
//! gone on with; what fails is noted.
#![cfg(unix)]

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use support::{Finished, casallm, run, signal, trained_folder, write_inputs};

fn sweep(folder: &Path, flags: &[&str]) -> Finished {
    run(folder, &[&["sweep", "tiny.toml", "--threads", "1"], flags].concat())
}

fn results(folder: &Path, out: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(folder.join(out).join("sweep.json")).unwrap()).unwrap()
}

/// The last measured bits per byte in a trial's own metrics.
fn last_bits(folder: &Path, trial: &str) -> f64 {
    let text = fs::read_to_string(folder.join(trial).join("metrics.jsonl")).unwrap();
    let rows = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    rows.filter_map(|row| row["bits_per_byte"].as_f64()).next_back().unwrap()
}

#[test]
fn combinations_and_seeds_are_tried_ranked_and_not_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_inputs(folder);
    let flags = [
        "--grid",
        "pretrain.lr=1e-5,3e-3",
        "--grid",
        "model.n_layer=1,2",
        "--seeds",
        "2",
        "--set",
        "pretrain.steps=12",
        "--out",
        "tried",
        "--jobs",
        "2",
        "--tensorboard",
    ];
    let flags = if std::thread::available_parallelism().unwrap().get() < 2 { &flags[..10] } else { &flags[..] };
    let first = sweep(folder, flags).succeeded();
    assert!(first.stdout.contains("pretrain.lr  model.n_layer   seeds"), "{}", first.stdout);
    let found = results(folder, "tried");
    let (trials, ranking) = (found["trials"].as_array().unwrap(), found["ranking"].as_array().unwrap());
    assert_eq!((trials.len(), ranking.len()), (8, 4));
    assert_eq!(found["ranked_by"], "bits_per_byte");
    // A rate that learns nothing in 12 steps comes last, and the table says what the trials' own metrics say.
    for (place, ranked) in ranking.iter().enumerate() {
        assert_eq!(ranked["values"]["pretrain.lr"], if place < 2 { "3e-3" } else { "1e-5" }, "{found:#}");
        assert_eq!((&ranked["finished"], &ranked["steps"]), (&2.into(), &12.into()));
        let (lr, layers) = (&ranked["values"]["pretrain.lr"], &ranked["values"]["model.n_layer"]);
        let name = |seed| format!("tried/lr={},n_layer={},seed={seed}", lr.as_str().unwrap(), layers.as_str().unwrap());
        let (a, b) = (last_bits(folder, &name(1)), last_bits(folder, &name(2)));
        assert!((ranked["last"]["mean"].as_f64().unwrap() - (a + b) / 2.0).abs() < 1e-12);
        let deviation = (a - b).abs() / 2_f64.sqrt();
        assert!(a != b && (ranked["last"]["deviation"].as_f64().unwrap() - deviation).abs() < 1e-12);
    }
    // Tokenizer and shards are one file with many names.
    let shard = |trial: &str| fs::metadata(folder.join(trial).join("data/stories/train-00000.bin")).unwrap();
    let (one, other) = (shard("tried/lr=1e-5,n_layer=1,seed=1"), shard("tried/lr=3e-3,n_layer=2,seed=2"));
    assert_eq!(one.ino(), other.ino());
    assert_eq!(fs::read_dir(folder.join("tried/shared")).unwrap().count(), 1);
    // A trial is what the same recipe gives by hand.
    let by_hand = ["pretrain", "tiny.toml", "--set", "pretrain.steps=12", "--set", "pretrain.lr=3e-3"];
    run(folder, &[&by_hand[..], &["--set", "run.seed=2"]].concat()).succeeded();
    let model = |dir: &str| fs::read(folder.join(dir).join("base/model.safetensors")).unwrap();
    assert!(model("run") == model("tried/lr=3e-3,n_layer=2,seed=2"));
    let html = fs::read_to_string(folder.join("tried/sweep.html")).unwrap();
    assert!(html.contains("lr = 3e-3, n_layer = 2, seed 2") && !html.contains("<script"));
    let text = fs::read_to_string(folder.join("tried/sweep.md")).unwrap();
    assert!(text.contains("| 1 | 3e-3 |") && text.contains("    casallm sweep tiny.toml"), "{text}");

    // Again: nothing is trained, the table is the same; with another recipe it is refused.
    let again = sweep(folder, flags).succeeded();
    assert_eq!(again.stdout, first.stdout);
    assert_eq!(again.stderr.matches("it was done before").count(), 8, "{}", again.stderr);
    let other = [flags, &["--set", "pretrain.clip=0.5"]].concat();
    sweep(folder, &other).refused(&["recipe.toml", "pretrain.clip was 1.0, is 0.5", "--out"]);
}

#[test]
fn what_fails_is_noted_and_the_others_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_inputs(folder);
    // Not even a bad recipe costs time: nothing is there afterwards.
    sweep(folder, &["--grid", "pretrain.lr=1e-3,-1"]).refused(&["lr=-1", "`pretrain.lr`", "no trial was begun"]);
    sweep(folder, &["--grid", "pretrain.lr=1e-3", "--jobs", "0"]).refused(&["--jobs 0"]);
    sweep(folder, &["--stage", "sft", "--grid", "sft.lr=1e-3"]).refused(&["run/base", "casallm pretrain"]);
    assert!(!folder.join("run").exists());
    // The text does not give so many tokens, which shows only when they are learned.
    let flags = ["--grid", "tokenizer.vocab_size=40000,320", "--set", "pretrain.steps=4", "--json"];
    let ended = sweep(folder, &flags);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let found = results(folder, "run/sweep");
    let states: Vec<&str> = found["trials"].as_array().unwrap().iter().map(|t| t["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["failed", "finished"]);
    assert!(found["trials"][0]["error"].as_str().unwrap().contains("vocab"), "{found:#}");
    assert_eq!(found["ranking"][0]["values"]["tokenizer.vocab_size"], "320");
    assert!(fs::read_to_string(folder.join("run/sweep/sweep.md")).unwrap().contains("- `vocab_size=40000`: "));
    let rows = ended.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    assert_eq!(rows.filter(|row| row["trial"] == "vocab_size=320" && row["loss"].is_f64()).count(), 4);
}

#[test]
fn a_signal_saves_and_the_same_command_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_inputs(folder);
    let grid = ["--grid", "pretrain.lr=1e-3,3e-3", "--set", "pretrain.steps=120", "--out", "tried"];
    let flags = [&["sweep", "tiny.toml", "--threads", "1"], &grid[..], &["--json"]].concat();
    let mut child = casallm(folder, &flags).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    // In the middle of the first trial.
    let step = |line: &String| line.contains("\"trial\":\"lr=1e-3\"") && line.contains("\"step\":5,");
    assert!(lines.any(|line| step(&line)));
    signal(&child, "TERM");
    lines.for_each(drop);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let states = |found: &Value| -> Vec<String> {
        found["trials"].as_array().unwrap().iter().map(|t| t["state"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(states(&results(folder, "tried")), ["interrupted", "waiting"]);
    // A dashboard finds the trial, though the sweep holds a lock as runs do.
    let watched = run(folder, &["watch", "tried", "--json"]).succeeded().stdout;
    let watched: Value = serde_json::from_str(&watched).unwrap();
    assert_eq!((&watched["run"], &watched["stage"]), (&"lr=1e-3".into(), &"pretrain".into()));
    let ended = sweep(folder, &grid).succeeded();
    assert!(ended.stderr.contains("lr=1e-3: resumed pretrain after step"), "{}", ended.stderr);
    let found = results(folder, "tried");
    assert_eq!(states(&found), ["finished", "finished"]);
    assert_eq!(found["trials"][0]["measured"]["steps"], 120);
}

#[test]
fn a_trial_goes_on_alone_by_the_recipe_in_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    // A bracket in the name of a folder is no pattern, wherever the recipe's text lands.
    let (folder, place) = (folder.path(), folder.path().join("here [1]"));
    fs::create_dir(&place).unwrap();
    write_inputs(&place);
    fs::write(
        place.join("exam.jsonl"),
        "{\"text\": \"none of these words is ever said in what is learned from here\"}\n",
    )
    .unwrap();
    let recipe = fs::read_to_string(place.join("tiny.toml")).unwrap();
    let recipe =
        recipe.replace("[data]\n", "[data]\ndecontaminate = [\"exa*.jsonl\"]\n").replace("text.jsonl", "te*.jsonl");
    fs::write(place.join("tiny.toml"), recipe).unwrap();
    let flags = ["sweep", "here [1]/tiny.toml", "--grid", "pretrain.lr=1e-3", "--set", "pretrain.steps=400", "--json"];
    let flags = [&flags[..], &["--out", "tried", "--threads", "1"]].concat();
    let mut child = casallm(folder, &flags).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains("\"step\":5,")));
    signal(&child, "TERM");
    lines.for_each(drop);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    // The command that its first line names.
    let recipe = fs::read_to_string(folder.join("tried/lr=1e-3/recipe.toml")).unwrap();
    let command = recipe.split('`').nth(1).unwrap().strip_prefix("casallm ").unwrap();
    let alone = run(folder, &command.split(' ').collect::<Vec<_>>()).succeeded();
    assert!(alone.stderr.contains("resumed pretrain after step"), "{}", alone.stderr);
}

#[test]
fn fine_tuning_is_swept_from_the_recipes_own_model() {
    let folder = trained_folder();
    let folder = folder.path();
    let flags = ["--stage", "sft", "--grid", "sft.lr=1e-3,1e-5", "--out", "tried"];
    sweep(folder, &flags).succeeded();
    let found = results(folder, "tried");
    assert_eq!(found["ranking"][0]["values"]["sft.lr"], "1e-3", "{found:#}");
    // The first is the recipe itself.
    let model = |dir: &str| fs::read(folder.join(dir).join("model/model.safetensors")).unwrap();
    assert!(model("run") == model("tried/lr=1e-3") && model("run") != model("tried/lr=1e-5"));
    sweep(folder, &["--stage", "sft", "--grid", "model.n_layer=1,2"])
        .refused(&["sft does not depend on model.n_layer"]);
}
