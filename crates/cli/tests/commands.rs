//! The command lines that people and scripts use: what they print, where, and how they end.

mod support;

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use support::{Finished, casallm, run, trained, trained_folder, write_inputs};

/// The one line of JSON on stdout.
fn one_line(finished: &Finished) -> Value {
    let lines: Vec<&str> = finished.stdout.lines().collect();
    assert_eq!(lines.len(), 1, "{finished:#?}");
    serde_json::from_str(lines[0]).unwrap()
}

/// Each line of stdout is one JSON object.
fn json_lines(finished: &Finished) -> Vec<Value> {
    let object = |line: &str| -> Value {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        assert!(value.is_object(), "{line}");
        value
    };
    finished.stdout.lines().map(object).collect()
}

fn positive(row: &Value, keys: &[&str]) {
    for key in keys {
        assert!(row[key].as_f64().is_some_and(|value| value > 0.0 && value.is_finite()), "{key} in {row}");
    }
}

#[test]
fn bench_train_prints_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let line =
        "bench train --n-layer 2 --n-embd 64 --n-head 2 --vocab-size 512 --context 64 --batch 1 --steps 3 --json";
    let row = one_line(&run(folder.path(), &line.split(' ').collect::<Vec<_>>()).succeeded());
    positive(&row, &["tokens_per_s", "ms_per_step", "gflops_per_s", "params", "peak_bytes", "threads"]);
    // Embedding, two blocks of 12 d^2 weights and 10 d biases and norms, and the last norm.
    assert_eq!(row["params"], 512 * 64 + 2 * (12 * 64 * 64 + 10 * 64) + 2 * 64);
    assert!(row["isa"].as_str().is_some_and(|isa| !isa.is_empty()), "{row}");
    // Another number of threads, the other blocks and optimizer, and f32.
    let more = "--threads 1 --block modern --n-kv-head 1 --optimizer muon --precision f32";
    let all: Vec<&str> = line.split(' ').chain(more.split(' ')).collect();
    let row = one_line(&run(folder.path(), &all).succeeded());
    assert_eq!((&row["threads"], &row["precision"]), (&Value::from(1), &Value::from("f32")));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "a measurement leaves nothing");
}

#[test]
fn bench_generate_prints_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let line = "bench generate --n-layer 2 --n-embd 64 --n-head 2 --vocab-size 512 --prompt-tokens 32 --new-tokens 8 \
                --weights bf16 --json";
    let row = one_line(&run(folder.path(), &line.split_whitespace().collect::<Vec<_>>()).succeeded());
    positive(&row, &["prefill_tokens_per_s", "decode_tokens_per_s", "bytes_per_pass", "params", "threads"]);
    assert_eq!((&row["weights"], &row["batch"]), (&Value::from("bf16"), &Value::from(1)));
    let f32 = line.replace("bf16", "f32");
    let wide = one_line(&run(folder.path(), &f32.split_whitespace().collect::<Vec<_>>()).succeeded());
    assert_eq!(wide["weights"], "f32");
    let bytes = |row: &Value| row["bytes_per_pass"].as_u64().unwrap();
    assert!(bytes(&wide) > bytes(&row), "{wide} {row}");
    assert_eq!((&row["kv_cache"], &wide["kv_cache"]), (&Value::from("bf16"), &Value::from("f32")));
    let small: Vec<&str> = line.split_whitespace().chain(["--kv-cache", "q8"]).collect();
    let small = one_line(&run(folder.path(), &small).succeeded());
    assert_eq!((&small["weights"], &small["kv_cache"]), (&Value::from("bf16"), &Value::from("q8")));
    // Two layers of keys and values, 36 tokens half way: 128 bytes each, or 2 heads of 34 bytes.
    assert_eq!(bytes(&row) - bytes(&small), 2 * 2 * 36 * (128 - 68), "{small} {row}");
    let eight: Vec<&str> = line.split_whitespace().chain(["--batch", "8"]).collect();
    let eight = one_line(&run(folder.path(), &eight).succeeded());
    assert_eq!(eight["batch"], 8);
    assert!(bytes(&eight) > bytes(&row) && bytes(&eight) < 8 * bytes(&row), "the weights are read once: {eight} {row}");
}

#[test]
fn bench_for_people_has_no_json() {
    let folder = tempfile::tempdir().unwrap();
    let line = "bench train --n-layer 1 --n-embd 64 --n-head 2 --vocab-size 512 --context 16 --steps 1";
    let shown = run(folder.path(), &line.split(' ').collect::<Vec<_>>()).succeeded();
    assert!(shown.stdout.lines().any(|line| line.trim_start().starts_with("tokens_per_s ")), "{shown:#?}");
    assert!(!shown.stdout.contains('{'), "{shown:#?}");
}

#[test]
fn chat_prints_one_answer_and_nothing_else() {
    let folder = trained_folder();
    let ask = |model: &str, more: &[&str]| {
        let line =
            ["chat", "--model", model, "--prompt", "Who are you?", "--temperature", "0", "--max-new-tokens", "64"];
        run(folder.path(), &[&line[..], more].concat()).succeeded()
    };
    let answer = ask("run/model", &[]);
    assert_eq!(answer.stderr, "");
    assert!(answer.stdout.ends_with('\n') && !answer.stdout.trim().is_empty(), "{answer:#?}");
    assert!(!answer.stdout.contains("<|") && !answer.stdout.contains("Who are you?"), "{answer:#?}");
    for threads in ["1", "2"] {
        assert_eq!(ask("run/model", &["--threads", threads]).stdout, answer.stdout);
    }
    // A cache of 8 bits says much the same of a model so sure of it; what is sampled here is the likeliest token.
    let small = ask("run/model", &["--kv-cache", "q8"]);
    assert!(small.stderr.is_empty() && !small.stdout.trim().is_empty(), "{small:#?}");
    // It is the model that answers: another one says something else.
    assert_ne!(ask("run/base", &[]).stdout, answer.stdout);
    trained().assert_kept_in(folder.path());
}

#[test]
fn chat_draws_by_its_seed() {
    let folder = trained_folder();
    let ask = |seed: &str| {
        let line = ["chat", "--model", "run/model", "--prompt", "Where is the cat?", "--temperature", "1.5"];
        run(folder.path(), &[&line[..], &["--seed", seed]].concat()).succeeded().stdout
    };
    assert_eq!(ask("7"), ask("7"));
    let answers: std::collections::BTreeSet<String> = ["1", "2", "3", "4"].map(ask).into();
    assert!(answers.len() > 1, "{answers:?}");
}

#[test]
fn chat_converses_over_stdin() {
    let folder = trained_folder();
    let mut command =
        casallm(folder.path(), &["chat", "--model", "run/model", "--temperature", "0", "--max-new-tokens", "8"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Many turns, of which the context holds few, and one that it cannot hold at all.
    let long = "and the cat ".repeat(60);
    let said: String = (0..6).map(|turn| format!("Where is the house {turn}?\n")).collect();
    child.stdin.take().unwrap().write_all(format!("{said}{long}\nWhere is the dog?\n").as_bytes()).unwrap();
    let finished = Finished::of("chat", &child.wait_with_output().unwrap()).succeeded();
    assert!(finished.stderr.contains("do not fit the context of 64: say it shorter"), "{finished:#?}");
    assert!(finished.stderr.contains("exchanges were left out"), "{finished:#?}");
}

/// What a conversation over stdin prints, to a program that reads it to its end.
fn piped(folder: &Path, lines: &str) -> Finished {
    let arguments = ["chat", "--model", "run/model", "--temperature", "0", "--max-new-tokens", "2"];
    let mut command = casallm(folder, &arguments);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    Finished::of("chat", &child.wait_with_output().unwrap()).succeeded()
}

#[test]
fn chat_over_stdin_passes_over_blank_lines() {
    let folder = trained_folder();
    let dense = piped(folder.path(), "Who are you?\nWhere is the cat?\n").stdout;
    assert!(dense.lines().count() >= 2, "{dense:?}");
    assert_eq!(piped(folder.path(), "\nWho are you?\n  \n\nWhere is the cat?\n\n").stdout, dense);
}

#[test]
fn chat_over_stdin_answers_a_question_that_is_too_long_with_an_empty_line() {
    let folder = trained_folder();
    let answer = piped(folder.path(), "Who are you?\n").stdout;
    let long = "and the cat ".repeat(60);
    let finished = piped(folder.path(), &format!("{long}\nWho are you?\n{long}\n"));
    assert_eq!(finished.stdout, format!("\n{answer}\n"));
    assert_eq!(finished.stderr.matches("do not fit the context of 64: say it shorter").count(), 2, "{finished:#?}");
}

#[test]
fn chat_over_stdin_names_the_line_that_is_not_utf_8() {
    let folder = trained_folder();
    let arguments = ["chat", "--model", "run/model", "--temperature", "0", "--max-new-tokens", "2"];
    let mut command = casallm(folder.path(), &arguments);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"Who are you?\n\nWo ist das Caf\xe9?\n").unwrap();
    let finished = Finished::of("chat", &child.wait_with_output().unwrap());
    assert_eq!(finished.stdout.lines().count(), 1, "what came before is answered: {finished:#?}");
    finished.refused(&["line 3 of the input", "UTF-8", "iconv"]);
}

/// As for `yes | casallm chat | head -1`: it ends when nobody reads any more, and says nothing about it.
#[test]
fn chat_over_stdin_ends_when_its_answers_are_not_read() {
    let folder = trained_folder();
    let arguments = ["chat", "--model", "run/model", "--temperature", "0", "--max-new-tokens", "2"];
    let mut command = casallm(folder.path(), &arguments);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    // More than a pipe holds: it can be written to its end only if the program reads on after the first question.
    let long = "and the cat ".repeat(400) + "\n";
    let written = child.stdin.take().unwrap().write_all(format!("Who are you?\n{}", long.repeat(60)).as_bytes());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(141), ""));
    assert_eq!(written.map_err(|error| error.kind()), Err(ErrorKind::BrokenPipe));
}

#[test]
fn tokenizer_and_shards() {
    let folder = tempfile::tempdir().unwrap();
    write_inputs(folder.path());
    let train = ["tokenizer", "train", "text.jsonl", "--vocab-size", "320", "--output", "new/tokenizer.json", "--json"];
    run(folder.path(), &["tokenizer", "train", "text.jsonl", "-o", "."])
        .refused(&["--output .: a folder", "./tokenizer.json"]);
    let row = one_line(&run(folder.path(), &train).succeeded());
    assert_eq!((&row["tokenizer"], &row["vocab_size"]), (&Value::from("new/tokenizer.json"), &Value::from(320)));
    positive(&row, &["bytes"]);
    let fingerprint = row["fingerprint"].as_str().unwrap();
    let first = fs::read(folder.path().join("new/tokenizer.json")).unwrap();
    run(folder.path(), &train).succeeded();
    assert!(fs::read(folder.path().join("new/tokenizer.json")).unwrap() == first, "learned twice, it differs");

    let tokenize = ["tokenize", "text.jsonl", "--tokenizer", "new/tokenizer.json", "--output", "shards", "--json"];
    let row = one_line(&run(folder.path(), &tokenize).succeeded());
    positive(&row, &["tokens", "bytes", "documents", "validation_tokens"]);
    let manifest: Value =
        serde_json::from_slice(&fs::read(folder.path().join("shards/manifest.json")).unwrap()).unwrap();
    assert_eq!((&manifest["tokenizer"], &manifest["documents"]), (&Value::from(fingerprint), &Value::from(240)));
    // The layout of llm.c: 256 integers, then 16 bits a token.
    let shard = fs::read(folder.path().join("shards/train-00000.bin")).unwrap();
    let header = |place: usize| i32::from_le_bytes(shard[4 * place..4 * place + 4].try_into().unwrap());
    assert_eq!((header(0), header(1)), (20_240_520, 1));
    assert_eq!(row["tokens"], header(2));
    assert_eq!(shard.len(), 1024 + 2 * header(2) as usize);
    let ids = shard[1024..].chunks_exact(2).map(|id| u16::from_le_bytes([id[0], id[1]]));
    // `<s>` and `</s>` around each document.
    assert_eq!(ids.clone().filter(|id| *id == 0).count(), row["documents"].as_u64().unwrap() as usize);
    assert!(ids.clone().next() == Some(0) && ids.clone().next_back() == Some(1) && ids.max() < Some(320));
}

#[test]
fn stages_print_one_object_a_line() {
    let folder = tempfile::tempdir().unwrap();
    write_inputs(folder.path());
    let mut metrics = 0;
    for (stage, steps) in [("pretrain", Some(40)), ("sft", None)] {
        let finished = run(folder.path(), &[stage, "tiny.toml", "--json"]).succeeded();
        assert_eq!(finished.stderr, "");
        let lines = json_lines(&finished);
        let [plan, told @ .., report] = &lines[..] else { panic!("no lines") };
        let (events, rows): (Vec<&Value>, Vec<&Value>) = told.iter().partition(|line| line["event"].is_string());
        assert_eq!((&plan["stage"], &plan["plan"]["micro_batch"]), (&Value::from(stage), &Value::from(2)));
        positive(&plan["plan"], &["total_bytes"]);
        let memory = plan["plan"]["memory"].as_array().unwrap().iter().filter(|item| item["host"] == false);
        let planned: u64 = memory.map(|item| item["bytes"].as_u64().unwrap()).sum();
        for (index, row) in rows.iter().enumerate() {
            assert_eq!((&row["stage"], &row["step"]), (&Value::from(stage), &Value::from(index + 1)));
            positive(row, &["loss", "lr", "grad_norm", "tokens"]);
            assert_eq!(
                row["timing"]["memory_bytes"], planned,
                "what was given back in between is no memory of the run"
            );
        }
        assert!(rows.last().unwrap()["bits_per_byte"].is_f64(), "the last step is validated");
        assert_eq!(rows.len(), steps.unwrap_or(rows.len()));
        // What it writes is told with each validation; that it has begun, only to who reads the file.
        let validated = rows.iter().filter(|row| row["val_loss"].is_f64()).count();
        assert!(!events.is_empty() && events.len().is_multiple_of(validated), "{events:?}");
        for event in &events {
            assert_eq!((&event["event"], &event["stage"]), (&Value::from("sample"), &Value::from(stage)));
            assert!(event["prompt"].is_string() && event["text"].is_string(), "{event}");
        }
        metrics += told.len() + 1;
        for (key, file) in [("report", "run/report.html"), ("model_card", "run/model-card.md")] {
            assert_eq!(report[key], file);
            assert!(fs::read_to_string(folder.path().join(file)).unwrap().contains("Tiny"), "{file}");
        }
    }
    // The report can be made again, from the folder alone and wherever it is.
    fs::rename(folder.path().join("run"), folder.path().join("moved")).unwrap();
    let again =
        run(folder.path(), &["report", "moved", "--no-exam", "--watts", "100", "--price-per-kwh", "0.5", "--json"]);
    let summary = one_line(&again.succeeded());
    positive(&summary["summary"], &["params", "training_seconds"]);
    let card = fs::read_to_string(folder.path().join("moved/model-card.md")).unwrap();
    assert!(card.contains("kWh \\(at 100 W") || card.contains("kWh (at 100 W)"), "{card}");
    let settings = fs::read_to_string(folder.path().join("moved/settings.toml")).unwrap();
    assert!(settings.contains("[model]") && settings.contains("eval_every"), "{settings}");
    fs::rename(folder.path().join("moved"), folder.path().join("run")).unwrap();
    // It is what the run keeps.
    let kept = fs::read_to_string(folder.path().join("run/metrics.jsonl")).unwrap();
    assert_eq!(kept.lines().count(), metrics);
}

#[test]
fn a_report_before_the_first_validation_tells_no_number_that_is_none() {
    let folder = trained_folder();
    let path = folder.path().join("run/metrics.jsonl");
    let before = |line: &str| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        for key in ["val", "val_loss", "bits_per_byte", "accuracy"] {
            line.as_object_mut().unwrap().remove(key);
        }
        format!("{line}\n")
    };
    let lines: String = fs::read_to_string(&path).unwrap().lines().map(before).collect();
    fs::write(&path, lines).unwrap();
    // A price without what it is of is not passed over in silence, as a processor does not say what it draws.
    run(folder.path(), &["report", "run", "--no-exam", "--price-per-kwh", "0.5"])
        .refused(&["--price-per-kwh 0.5", "--watts"]);
    let told = run(folder.path(), &["report", "run", "--no-exam"]).succeeded().stderr;
    let card = fs::read_to_string(folder.path().join("run/model-card.md")).unwrap();
    let page = fs::read_to_string(folder.path().join("run/report.html")).unwrap();
    assert!([&told, &card, &page].into_iter().all(|text| !text.contains("NaN")), "{told}\n{card}");
}

#[test]
fn quiet_prints_nothing() {
    let folder = tempfile::tempdir().unwrap();
    write_inputs(folder.path());
    for line in [
        "pretrain tiny.toml -q",
        "sft tiny.toml --quiet",
        "pretrain tiny.toml --resume -q",
        "tokenizer train text.jsonl -o new.json --vocab-size 300 -q",
        "tokenize text.jsonl -t new.json -o shards -q",
    ] {
        let finished = run(folder.path(), &line.split(' ').collect::<Vec<_>>()).succeeded();
        assert_eq!((&finished.stdout[..], &finished.stderr[..]), ("", ""), "{line}");
    }
}

#[test]
fn stages_tell_people_on_stderr_only() {
    let folder = tempfile::tempdir().unwrap();
    write_inputs(folder.path());
    let finished = run(folder.path(), &["pretrain", "tiny.toml"]).succeeded();
    assert_eq!(finished.stdout, "");
    assert!(finished.stderr.contains("pretrain: 40 steps, loss"), "{finished:#?}");
}

/// A model that has hardly begun writes any byte; and so may whoever wrote its data.
#[test]
fn nothing_that_a_model_or_a_file_says_reaches_the_terminal_as_a_command() {
    let folder = tempfile::tempdir().unwrap();
    write_inputs(folder.path());
    let samples = "pretrain.samples=[\"the \\u001b[2J\", \"the \\u000e\"]";
    let finished =
        run(folder.path(), &["pretrain", "tiny.toml", "--set", "pretrain.steps=8", "--set", samples]).succeeded();
    assert!(finished.stderr.contains("the ␛[2J →"), "{}", finished.stderr);
    let obeyed = |c: char| c.is_control() && c != '\n';
    assert!(!finished.stderr.contains(obeyed), "{:?}", finished.stderr);
}

/// As under `head`, which has enough: quiet, and with the code of a program that the system ends for it.
#[cfg(unix)]
#[test]
fn a_reader_that_left_is_nothing_to_complain_of() {
    let folder = trained_folder();
    for arguments in [&["plan", "gpt3-medium", "--memory", "24GB"][..], &["data", "inspect", "tiny.toml"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = support::casallm(folder.path(), arguments).stdout(writer).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(141), "{arguments:?}: {told}");
        assert!(!told.contains("casallm: "), "{told}");
    }
}

#[test]
fn help_and_version() {
    let folder = tempfile::tempdir().unwrap();
    for command in [
        "",
        "quickstart",
        "tokenizer",
        "tokenizer train",
        "tokenize",
        "pretrain",
        "sft",
        "chat",
        "serve",
        "bench",
        "bench train",
        "bench generate",
        "bench roofline",
        "selftest",
    ] {
        let arguments: Vec<&str> = command.split_whitespace().chain(["--help"]).collect();
        let finished = run(folder.path(), &arguments).succeeded();
        assert!(finished.stdout.contains("Usage: casallm") && finished.stderr.is_empty(), "{finished:#?}");
    }
    let version = run(folder.path(), &["--version"]).succeeded();
    assert_eq!(version.stdout, format!("casallm {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_selftest_of_one_part_has_that_parts_checks() {
    let folder = tempfile::tempdir().unwrap();
    let checks = |arguments: &[&str]| -> Vec<String> {
        let line = [&["selftest", "--device", "cpu", "--json"], arguments].concat();
        let stdout = run(folder.path(), &line).succeeded().stdout;
        let rows = stdout.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        rows.map(|row| row["operation"].as_str().unwrap().to_owned()).collect()
    };
    let norms = checks(&["--part", "norm"]);
    assert!(!norms.is_empty() && norms.iter().all(|operation| operation.starts_with("norm")), "{norms:?}");
    let both = checks(&["--part", "norm", "--part", "head"]);
    assert!(both.len() > norms.len() && both.contains(&"head".to_owned()), "{both:?}");
    // Every level is not one of them.
    let contrary = run(folder.path(), &["selftest", "--all", "--isa", "portable"]);
    assert!(contrary.code == Some(2) && contrary.stderr.contains("--isa"), "{contrary:#?}");
}

#[test]
fn a_budget_on_a_named_card_gives_a_table_and_a_recipe_that_plans() {
    let folder = tempfile::tempdir().unwrap();
    let json = |arguments: &[&str]| -> serde_json::Value {
        let stdout = run(folder.path(), &[&["plan", "--json"], arguments].concat()).succeeded().stdout;
        serde_json::from_str(stdout.lines().next().unwrap()).unwrap()
    };
    // The original: 55 hours on 24 GB.
    let plan = json(&["--gpu", "RTX 4090", "--hours", "55", "--price-per-kwh", "0.3"]);
    let rows = plan["candidates"].as_array().unwrap();
    assert!(rows.len() >= 6, "{plan:#}");
    for row in rows {
        let number = |key: &str| row[key].as_f64().unwrap_or_else(|| panic!("{key}: {row:#}"));
        assert!((number("hours") - 55.0).abs() < 0.01 && number("memory_bytes") < 24.0 * f64::from(1 << 30), "{row:#}");
        assert!((number("tokens") / (number("tokens_per_s") * 3600.0 * 55.0) - 1.0).abs() < 1e-9);
        assert!((number("cost") - 0.3 * number("kwh")).abs() < 1e-9 && (number("kwh") - 0.45 * 55.0).abs() < 1e-9);
    }
    let best = rows.iter().min_by(|a, b| a["loss"].as_f64().unwrap().total_cmp(&b["loss"].as_f64().unwrap())).unwrap();
    assert_eq!(plan["best"], best["preset"]);
    // A machine that is rented and whose electricity is paid besides costs both.
    let both = ["--gpu", "rtx4090", "--hours", "55", "--price-per-hour", "2", "--price-per-kwh", "0.3"];
    let cost = json(&both)["candidates"][0]["cost"].as_f64().unwrap();
    assert!((cost - 55.0 * (2.0 + 0.3 * 0.45)).abs() < 1e-6, "{cost}");
    // Less text than could be read: four passes, and no more hours than they take.
    let short = json(&["gpt3-small", "--gpu", "h200", "--hours", "100", "--tokens", "1B"]);
    let row = &short["candidates"][0];
    assert!(row["tokens"].as_f64() == Some(4e9) && row["hours"].as_f64().unwrap() < 10.0, "{short:#}");

    let line = ["plan", "--gpu", "rtx4090", "--hours", "55", "--write", "my.toml", "--text", "a \"quoted\" name.jsonl"];
    run(folder.path(), &line).succeeded();
    let planned = json(&["my.toml", "--memory", "24GB"]);
    assert_eq!(planned["params"], best["params"]);
    assert_eq!(planned["chosen"]["micro_batch"], best["micro_batch"]);
    // Not over what there is.
    let again = run(folder.path(), &line);
    assert!(again.code == Some(1) || again.code == Some(2), "{again:#?}");
    assert!(again.stderr.contains("my.toml: is there already"), "{again:#?}");
    let nowhere = run(folder.path(), &line.map(|word| if word == "my.toml" { "nowhere/my.toml" } else { word }));
    assert!(nowhere.stderr.contains("nowhere/my.toml: cannot be made"), "{nowhere:#?}");
}

/// What a GPU has no kernels for is no plan: the run would end where it begins to compute.
#[test]
fn heads_that_are_too_wide_for_a_gpu_are_refused_by_its_plan() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = "[[data.pretrain]]\nname = \"a\"\npath = \"a.txt\"\n[model]\nn_layer = 1\nn_embd = 640\nn_head = 2\ncontext = 64\n\
                  [run]\ndir = \"run\"\n[pretrain]\nsteps = 1\n";
    std::fs::write(folder.path().join("wide.toml"), recipe).unwrap();
    run(folder.path(), &["plan", "wide.toml", "--device", "cpu"]).succeeded();
    let refused = run(folder.path(), &["plan", "wide.toml", "--memory", "24GB"]);
    assert_eq!(refused.code, Some(2), "{refused:#?}");
    assert!(refused.stderr.contains("heads of 320") && refused.stderr.contains("n_head"), "{refused:#?}");
}

#[test]
fn budgets_that_say_nothing_are_refused_with_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    for (line, said) in [
        ("plan", "--hours or --money"),
        ("plan --gpu rtx9090 --hours 1", "rtx4090"),
        ("plan --gpu rtx4090 --money 10", "--price-per-hour"),
        ("plan --gpu rtx4090 --hours 0", "use a number above 0"),
        ("plan --gpu rtx4090 --hours NaN", "use a number above 0"),
        ("plan --gpu rtx4090 --money 0 --price-per-hour 1", "--money 0.0: use a number above 0"),
        ("plan --gpu rtx4090 --hours 5 --money NaN --price-per-hour 1", "--money NaN: use a number above 0"),
        ("plan --gpu rtx4090 --money 1e14 --price-per-hour 1e-9", "the money buys 1e23 hours"),
        ("plan --gpu rtx4090 --hours 5 --tokens 0", "like 500M or 10B"),
        ("plan --memory 24GB --hours 5", "--gpu"),
        ("plan gpt4 --gpu rtx4090 --hours 5", "gpt3-nano"),
        ("plan --gpu rtx4090 --hours 5 --write new.toml", "--text"),
        // What would be passed over in silence.
        ("plan gpt3-medium --gpu rtx4090 --write new.toml --text a.txt", "--write is for a budget"),
        ("plan gpt3-medium --gpu rtx4090 --price-per-kwh 0.3", "--hours or --money"),
        ("plan --hours 5 --price-per-hour 2 --price-per-kwh 0.3", "--watts"),
        ("plan --gpu rtx4090 --hours 5 --text a.txt", "add --write my.toml"),
        ("plan --gpu rtx4090 --hours 5 --set model.n_layer=2", "--set changes a recipe"),
    ] {
        let finished = run(folder.path(), &line.split_whitespace().collect::<Vec<_>>());
        assert!(finished.code != Some(0) && finished.stderr.contains(said), "{line}: {finished:#?}");
    }
}

#[test]
fn command_lines_that_are_none_end_with_2() {
    let folder = tempfile::tempdir().unwrap();
    for line in ["", "train", "pretrain", "chat", "chat --model", "bench", "bench train --steps many", "tokenize a.txt"]
    {
        let finished = run(folder.path(), &line.split_whitespace().collect::<Vec<_>>());
        assert_eq!(finished.code, Some(2), "{finished:#?}");
        assert!(finished.stdout.is_empty() && finished.stderr.contains("--help"), "{finished:#?}");
    }
}

#[test]
fn a_reader_that_leaves_stops_no_training() {
    let folder = tempfile::tempdir().unwrap();
    write_inputs(folder.path());
    let mut command = casallm(folder.path(), &["pretrain", "tiny.toml", "--json"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let finished = Finished::of("pretrain", &child.wait_with_output().unwrap()).succeeded();
    assert_eq!(finished.stderr, "");
    let written = fs::read(folder.path().join("run/base/model.safetensors")).unwrap();
    assert!(written == trained().file("run/base/model.safetensors"));
}

/// Linux takes any bytes as a name. What has been made is told of, and not lost to a panic at the end.
#[test]
#[cfg(target_os = "linux")]
fn folders_of_any_bytes_are_told_of() {
    use std::ffi::{OsStr, OsString};
    use std::os::unix::ffi::OsStrExt;

    let folder = trained_folder();
    let odd = OsStr::from_bytes(b"b\xffd");
    fs::rename(folder.path().join("run"), folder.path().join(odd)).unwrap();
    // `@` stands for the folder.
    let told = |arguments: &str, key: &str| {
        let odd_one = |argument: &str| match argument.strip_prefix('@') {
            Some(rest) => [odd, OsStr::new(rest)].into_iter().collect::<OsString>(),
            None => argument.into(),
        };
        let mut command = casallm::<&str>(folder.path(), &[]);
        command.args(arguments.split(' ').map(odd_one)).arg("--json");
        let finished = Finished::of(arguments, &command.output().unwrap()).succeeded();
        let line = json_lines(&finished).pop().unwrap();
        let told = line.pointer(key).and_then(Value::as_str);
        assert!(told.is_some_and(|path| path.contains("b\u{fffd}d")), "{arguments}: {line}");
    };
    told("tokenizer train text.jsonl --vocab-size 300 -o @/made.json", "/tokenizer");
    told("tokenize text.jsonl -t @/tokenizer.json -o @/shards", "/output");
    told("export @/model --to hf --out @/hf", "/out");
    told("import @/hf --out @/imported", "/model");
    told("tensorboard @", "/file");
    told("eval --model @/model --text text.jsonl --limit 1", "/model/path");
}
