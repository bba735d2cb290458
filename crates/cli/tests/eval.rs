//! `casallm eval` on a model trained here: what it prints, what it keeps, how it goes on after a cut.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use support::{run, trained_folder};

/// Task data of a few items, as files are named on the Hub.
fn write_data(folder: &Path) {
    let rows = |path: &str, rows: &[Value]| {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, rows.iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
    };
    let hellaswag: Vec<Value> = (0..9)
        .map(|i| {
            json!({
                "activity_label": "Walking", "ctx_a": format!("A man has {i} dogs."), "ctx_b": "he",
                "endings": ["walks them in the park.", "is a cell.", "reads a book about them.", "sleeps."],
                "label": (i % 4).to_string(),
            })
        })
        .collect();
    rows("hellaswag_validation.jsonl", &hellaswag);
    let mmlu = |split: &str, i: usize| json!({"subject": "us_law", "split": split, "question": format!("What is {i}?"), "choices": ["a", "b", "c", "d"], "answer": i % 4});
    rows("mmlu/mmlu_test.jsonl", &(0..5).map(|i| mmlu("test", i)).collect::<Vec<_>>());
    rows("mmlu/mmlu_dev.jsonl", &(5..8).map(|i| mmlu("dev", i)).collect::<Vec<_>>());
    rows(
        "lambada_openai_test.jsonl",
        &[json!({"text": "The cat and the dog"}), json!({"text": "The dog and the cat"})],
    );
    rows("gsm8k_test.jsonl", &[json!({"question": "What is 1 + 1?", "answer": "It is 2.\n#### 2"})]);
}

/// The result of a command line, printed as one line of JSON.
fn result(folder: &Path, arguments: &str) -> Value {
    let all: Vec<&str> = "eval --json --device cpu".split(' ').chain(arguments.split(' ')).collect();
    let finished = run(folder, &all).succeeded();
    assert_eq!(finished.stdout.lines().count(), 1, "{finished:#?}");
    serde_json::from_str(&finished.stdout).unwrap()
}

fn journal(folder: &Path, result: &Value, task: &str) -> PathBuf {
    folder.join(result["tasks"][task]["journal"].as_str().unwrap())
}

/// The lines of a journal in the order of their items, the head first: they are written as passes end.
fn lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    let item = |line: &String| serde_json::from_str::<Value>(line).unwrap()["item"].as_u64();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort_by_key(item);
    lines
}

#[test]
fn tasks_texts_and_identity_in_one_result() {
    let folder = trained_folder();
    let (path, data) = (folder.path(), folder.path().join("data_of_tasks"));
    write_data(&data);
    fs::write(path.join("words.txt"), "The dog and the cat walk in the park.\n\nA cell is small.\n").unwrap();
    let model = model(path);
    let found = result(path, &format!("--model {model} --data data_of_tasks --text words.txt --out out"));
    let task = |name: &str| &found["tasks"][name];
    assert_eq!((&task("hellaswag")["items"], &task("hellaswag")["split"]), (&json!(9), &json!("validation")));
    for (name, metrics) in [
        ("hellaswag", &["acc", "acc_bytes", "acc_norm"][..]),
        ("mmlu", &["acc"]),
        ("lambada_openai", &["acc", "perplexity"]),
    ] {
        let names: Vec<&String> = task(name)["metrics"].as_object().unwrap().keys().collect();
        assert_eq!(names, metrics, "{name}");
    }
    assert_eq!(task("mmlu")["subjects"].as_object().unwrap().len(), 1);
    let acc_norm = task("hellaswag")["metrics"]["acc_norm"]["value"].as_f64().unwrap();
    let acc = task("lambada_openai")["metrics"]["acc"]["value"].as_f64().unwrap();
    let expected = ((acc_norm - 0.25) / 0.75 + acc) / 2.0;
    assert!((found["core"]["value"].as_f64().unwrap() - expected).abs() < 1e-12, "{found}");
    assert_eq!(found["core"]["tasks"], json!(["hellaswag", "lambada_openai"]));
    // What is not there, and what lacks its examples, is told.
    let left_out = &found["left_out"];
    assert!(left_out["piqa"].as_str().unwrap().contains("piqa_validation.jsonl"), "{left_out}");
    assert!(left_out["gsm8k"].as_str().unwrap().contains("5 examples"), "{left_out}");
    assert!(left_out["hellaswag"].is_null() && left_out.as_object().unwrap().len() == 9, "{left_out}");
    // The run that the model stands in says what it is called; a model alone does not.
    assert_eq!((&found["identity"]["name"], &found["identity"]["identity"]["of"]), (&json!("Tiny"), &json!(20)));
    fs::rename(path.join(&model), path.join("alone")).unwrap();
    run(path, &["eval", "--model", "alone", "--tasks", "identity", "--device", "cpu"]).refused(&["identity", "--name"]);
    fs::rename(path.join("alone"), path.join(&model)).unwrap();
    let bits = found["texts"][0]["bits_per_byte"].as_f64().unwrap();
    assert!(bits > 0.5 && bits < 20.0, "{bits}");
    assert_eq!(found["texts"][0]["bytes"], fs::metadata(path.join("words.txt")).unwrap().len());
    assert_eq!(found["model"]["sha256"].as_str().unwrap().len(), 64);
    let written: Value = serde_json::from_slice(&fs::read(path.join("out/result.json")).unwrap()).unwrap();
    assert_eq!(written, found);

    // By name, in f32, with examples, by generation; and the questions about itself.
    let line = format!("--model {model} --data data_of_tasks --out out --weights f32");
    let shots = result(path, &format!("{line} --tasks mmlu --fewshot 3"));
    assert_eq!(shots["tasks"]["mmlu"]["fewshot"], 3);
    let written = result(path, &format!("{line} --tasks gsm8k,identity --fewshot 0 --name Ada"));
    assert_eq!(written["tasks"]["gsm8k"]["metric"], "exact_match,strict-match");
    assert_eq!((&written["identity"]["name"], &written["identity"]["identity"]["of"]), (&json!("Ada"), &json!(20)));
    assert_eq!(
        (&written["identity"]["refusals"]["of"], &written["identity"]["greetings"]["of"]),
        (&json!(10), &json!(3))
    );

    // Whoever gives a name wants it asked, whatever else there is.
    let named = result(path, &format!("--model {model} --text words.txt --name Ada --out out"));
    assert_eq!((&named["identity"]["name"], named["texts"].as_array().unwrap().len()), (&json!("Ada"), 1));
    // A task counts once, however often it is named.
    let twice = result(path, &format!("--model {model} --data data_of_tasks --out out --tasks hellaswag,hellaswag"));
    assert_eq!(twice["core"]["tasks"], json!(["hellaswag"]));

    // For people: a table.
    let line = format!("eval --model {model} --data data_of_tasks --out out --tasks hellaswag --device cpu");
    let table = run(path, &line.split(' ').collect::<Vec<_>>()).succeeded().stdout;
    assert!(table.lines().nth(1).unwrap().starts_with("hellaswag            9     0  validation  acc "), "{table}");
}

#[test]
fn a_cut_evaluation_goes_on_and_comes_to_the_same() {
    let folder = trained_folder();
    let path = folder.path();
    write_data(&path.join("data_of_tasks"));
    let line = format!("--model {} --data data_of_tasks --tasks hellaswag", model(path));
    let whole = result(path, &format!("{line} --out whole"));
    let limited = result(path, &format!("{line} --out cut --limit 4"));
    assert_eq!(
        (&limited["tasks"]["hellaswag"]["items"], &limited["tasks"]["hellaswag"]["timing"]["items"]),
        (&json!(4), &json!(4))
    );
    // Cut in the middle of the line of an item.
    let cut = journal(path, &limited, "hellaswag");
    let bytes = fs::read(&cut).unwrap();
    fs::write(&cut, &bytes[..bytes.len() - 7]).unwrap();
    let resumed = result(path, &format!("{line} --out cut"));
    assert_eq!(resumed["tasks"]["hellaswag"]["timing"]["items"], 6, "three were there");
    assert_eq!(resumed["tasks"]["hellaswag"]["metrics"], whole["tasks"]["hellaswag"]["metrics"]);
    assert_eq!(lines(&cut), lines(&journal(path, &whole, "hellaswag")), "to the bit");
    // All there: nothing is computed. Other weights have another file.
    let again = result(path, &format!("{line} --out cut"));
    assert_eq!(again["tasks"]["hellaswag"]["timing"]["items"], 0);
    let other = result(path, &format!("{line} --out cut --weights f32"));
    assert_ne!(journal(path, &other, "hellaswag"), cut);
    // Damage is named.
    let text = fs::read_to_string(&cut).unwrap();
    fs::write(&cut, text.replacen("{\"acc\"", "acc", 1)).unwrap();
    let all = format!("eval --device cpu {line} --out cut");
    run(path, &all.split(' ').collect::<Vec<_>>()).refused(&["hellaswag-", ": line 2: ", "remove the file"]);
}

#[test]
fn a_report_shows_what_was_found_of_the_model_that_is_there() {
    let folder = trained_folder();
    let path = folder.path();
    let model = path.join("run/model");
    let card = || {
        run(path, &["report", "run", "--no-exam"]).succeeded();
        fs::read_to_string(path.join("run/model-card.md")).unwrap()
    };
    result(path, "--model run/model --tasks identity");
    assert!(card().contains("gives its name"));
    // The stage is trained anew; what was found of the weights before it is not these'.
    fs::remove_dir_all(path.join("run/checkpoints/sft")).unwrap();
    let before = fs::read(model.join("checksums.json")).unwrap();
    run(path, &["sft", "tiny.toml", "--set", "sft.lr=2e-3"]).succeeded();
    assert_ne!(fs::read(model.join("checksums.json")).unwrap(), before);
    assert!(model.join("eval/result.json").exists() && !card().contains("gives its name"));
}

#[test]
fn a_result_keeps_what_was_found_before_of_the_same_model() {
    let folder = trained_folder();
    let path = folder.path();
    write_data(&path.join("data_of_tasks"));
    fs::write(path.join("words.txt"), "The dog and the cat walk in the park.\n").unwrap();
    let kept = || -> Value { serde_json::from_slice(&fs::read(path.join("out/result.json")).unwrap()).unwrap() };
    let line = format!("--model {} --out out", model(path));
    let tasks = |result: &Value| result["tasks"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let whole = result(path, &format!("{line} --data data_of_tasks --text words.txt"));
    result(path, &format!("{line} --tasks identity --name Ada"));
    let last = result(path, &format!("{line} --data data_of_tasks --tasks mmlu --fewshot 1"));
    assert_eq!((tasks(&last), &last["identity"]), (vec!["mmlu".to_owned()], &json!(null)), "what was asked is printed");
    let found = kept();
    assert_eq!(tasks(&found), ["hellaswag", "lambada_openai", "mmlu"]);
    assert_eq!((&found["tasks"]["mmlu"]["fewshot"], &found["identity"]["name"]), (&json!(1), &json!("Ada")));
    assert_eq!((&found["core"], &found["texts"]), (&whole["core"], &whole["texts"]));
    // What was not found under the same conditions is of no use beside it.
    result(path, &format!("{line} --data data_of_tasks --tasks hellaswag --limit 4"));
    assert_eq!((tasks(&kept()), &kept()["identity"]), (vec!["hellaswag".to_owned()], &json!(null)));
}

#[test]
fn items_that_lost_their_beginning_are_told() {
    let folder = trained_folder();
    let path = folder.path();
    write_data(&path.join("data_of_tasks"));
    let gsm8k = |question: &str| json!({"question": question, "answer": "It is 2.\n#### 2"}).to_string() + "\n";
    let questions = gsm8k("Dogs?") + &gsm8k("Cats?") + &gsm8k(&"And how many dogs and cats are there? ".repeat(9));
    fs::write(path.join("data_of_tasks/gsm8k_test.jsonl"), questions).unwrap();
    let line = format!("--model {} --data data_of_tasks --out out", model(path));
    let found = result(path, &format!("{line} --tasks gsm8k,hellaswag --fewshot 0"));
    let cut = |found: &Value| ["gsm8k", "hellaswag"].map(|task| found["tasks"][task]["cut"].clone());
    assert_eq!(cut(&found), [json!(1), json!(0)]);
    // From a journal as well, and for people.
    let line = format!("{line} --tasks hellaswag --context 16");
    assert_eq!(result(path, &line)["tasks"]["hellaswag"]["cut"], 9);
    assert_eq!(result(path, &line)["tasks"]["hellaswag"]["cut"], 9);
    let table = run(path, &format!("eval --device cpu {line}").split(' ').collect::<Vec<_>>()).succeeded().stdout;
    assert!(table.contains("hellaswag: 9 of 9 items were longer than the context and lost their beginning"), "{table}");
}

#[test]
fn the_same_bytes_in_another_format_are_other_documents() {
    let folder = trained_folder();
    let path = folder.path();
    let text: String = (0..4).map(|i| format!("{}\n", json!({"text": format!("The dog {i} walks.")}))).collect();
    let line = |name: &str, out: &str| {
        fs::write(path.join(name), &text).unwrap();
        let found = result(path, &format!("--model {} --text {name} --out {out}", model(path)));
        ["documents", "bytes", "tokens", "bits_per_byte"].map(|key| found["texts"][0][key].clone())
    };
    let expected = [line("words.txt", "out"), line("words.jsonl", "alone")];
    assert_eq!((&expected[0][0], &expected[1][0]), (&json!(1), &json!(4)));
    assert_eq!(line("words.jsonl", "out"), expected[1], "beside the results of words.txt");
}

#[test]
fn what_cannot_be_asked_is_refused_by_name() {
    let folder = trained_folder();
    let path = folder.path();
    write_data(&path.join("data_of_tasks"));
    let model = model(path);
    let refused = |arguments: &str, named: &[&str]| {
        let all: Vec<&str> = "eval --device cpu --model".split(' ').chain([model.as_str()]).collect();
        run(path, &all.into_iter().chain(arguments.split(' ')).collect::<Vec<_>>()).refused(named);
    };
    refused("--tasks hellaswag", &["hellaswag", "--data"]);
    refused("--data data_of_tasks --tasks nonsense", &["`nonsense`", "arc_challenge"]);
    refused("--data data_of_tasks --tasks piqa", &["piqa", "piqa_validation.jsonl"]);
    refused("--data data_of_tasks --tasks gsm8k", &["gsm8k: 5 examples", "train", "--fewshot 0"]);
    refused("--data nowhere --tasks piqa", &["nowhere"]);
    // The identity alone would pass for a judgement.
    refused("--data run", &["--data run: no task can be asked", "casallm fetch eval"]);
    refused("--text words.txt --context 100000", &["--context 100000"]);
    fs::write(path.join("data_of_tasks/piqa_validation.jsonl"), "{\"goal\": \"a\", \"sol1\": \"b\"}\n").unwrap();
    refused("--data data_of_tasks --tasks piqa", &["piqa_validation.jsonl: record 1", "`sol2`"]);
}

/// The fine-tuned model of the run.
fn model(folder: &Path) -> String {
    let found = ["model", "run/model"].into_iter().find(|path| folder.join(path).join("config.json").exists());
    found.expect("a trained model").to_owned()
}
