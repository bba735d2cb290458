//! `tokenize` as a pipeline: what is dropped and said, what is refused, and a process that is killed at any point.

mod support;

use std::fs;
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};
use support::{Seeded, Tree, casallm, documents, run, trained};
use tempfile::TempDir;

const QUESTION: &str = "Which of these animals sleeps through the whole of a long and cold winter without food?";

const PIPELINE: &[&str] = &[
    "tokenize",
    "texts",
    "--tokenizer",
    "tokenizer.json",
    "--output",
    "shards",
    "--shard-tokens",
    "20000",
    "--json",
    "--language",
    "en",
    "--language-field",
    "lang",
    "--min-score",
    "0.5",
    "--min-chars",
    "60",
    "--max-chars",
    "400",
    "--drop-duplicates",
    "near",
    "--decontaminate",
    "evals",
];

/// A folder with texts in three files, evaluation sets and a tokenizer.
fn inputs(count: usize) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut seeded = Seeded(3);
    let mut texts = documents(count, 7);
    for i in 0..count {
        match seeded.below(10) {
            0 => texts[i] = texts[seeded.below(count as u64) as usize].replace(' ', "  "),
            1 => texts[i] = format!("{} {i}", texts[seeded.below(count as u64) as usize]),
            2 => texts[i] = format!("{} {QUESTION}", texts[i]),
            _ => {}
        }
    }
    fs::create_dir_all(folder.path().join("texts")).unwrap();
    fs::create_dir_all(folder.path().join("evals/core")).unwrap();
    let line = |text: &String, seeded: &mut Seeded| {
        let (lang, score) = (seeded.pick(&["en", "en", "en", "en", "de"]), 0.1 * seeded.below(20) as f64);
        format!("{}\n", json!({"text": text, "lang": lang, "score": score}))
    };
    for (part, texts) in texts.chunks(count.div_ceil(3)).enumerate() {
        let lines: String = texts.iter().map(|text| line(text, &mut seeded)).collect();
        let bytes = if part == 1 { zstd::encode_all(lines.as_bytes(), 1).unwrap() } else { lines.into_bytes() };
        let name = if part == 1 { "b.jsonl.zst".to_owned() } else { format!("{part}.jsonl") };
        fs::write(folder.path().join("texts").join(name), bytes).unwrap();
    }
    let record = json!({"query": QUESTION, "choices": ["bear", "bee"], "gold": 0});
    fs::write(folder.path().join("evals/core/animals.jsonl"), record.to_string()).unwrap();
    fs::write(folder.path().join("tokenizer.json"), trained().file("run/tokenizer.json")).unwrap();
    folder
}

fn last_line(stdout: &str) -> Value {
    serde_json::from_str(stdout.lines().last().unwrap()).unwrap()
}

/// Files of the finished shards.
fn shards(folder: &Path) -> Vec<String> {
    let manifest = fs::read(folder.join("shards/manifest.json")).ok();
    let manifest = manifest.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok()).unwrap_or_default();
    manifest["shards"].as_array().into_iter().flatten().map(|shard| shard["file"].to_string()).collect()
}

/// Killed once there are so many finished shards, at whatever it does then; true if it was still there.
fn killed(folder: &Path, arguments: &[&str], finished: usize) -> bool {
    let mut child = casallm(folder, arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while shards(folder).len() < finished && child.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    child.kill().unwrap();
    !child.wait().unwrap().success()
}

#[test]
fn killed_at_any_point_it_ends_with_the_same_bytes() {
    let folder = inputs(60_000);
    let whole = run(folder.path(), PIPELINE).succeeded();
    let report = &last_line(&whole.stdout)["report"];
    let dropped = |reason: &str| report["dropped"][reason]["documents"].as_u64().unwrap_or(0);
    for reason in ["language", "score", "too_short", "too_long", "exact_duplicate", "near_duplicate", "contaminated"] {
        assert!(dropped(reason) > 0, "{reason}: {report}");
    }
    assert_eq!(report["read"]["documents"], 60_000);
    assert_eq!(report["eval_sets"]["core/animals"]["documents"], dropped("contaminated"));
    let expected = Tree::of(&folder.path().join("shards"));
    assert!(expected.0.len() > 50, "{}", expected.0.len());
    fs::remove_dir_all(folder.path().join("shards")).unwrap();

    let all = expected.0.len() - 1;
    let mut finished = 0;
    for more in [0, 1, 7, 20, 3] {
        let wanted = finished + more;
        assert!(killed(folder.path(), PIPELINE, wanted), "{finished} of {all} shards, and it was at its end");
        let found = shards(folder.path()).len();
        assert!(found >= wanted && found < all, "{found} of {all} shards, {wanted} were there");
        finished = found;
    }
    run(folder.path(), PIPELINE).succeeded();
    assert!(Tree::of(&folder.path().join("shards")) == expected);
    // Done is done.
    run(folder.path(), PIPELINE).succeeded();
    assert!(Tree::of(&folder.path().join("shards")) == expected);
    // Another choice of documents is not made over it.
    let other = [PIPELINE, &["--similarity", "0.9"]].concat();
    run(folder.path(), &other).refused(&["shards of another choice of documents", "choose another --output"]);
}

#[test]
fn what_cannot_be_asked_is_refused_by_name() {
    let folder = inputs(300);
    let tokenize = |more: &[&str]| {
        run(folder.path(), &[&["tokenize", "texts", "-t", "tokenizer.json", "-o", "out"], more].concat())
    };
    tokenize(&["--min-score", "1"]).succeeded();
    fs::remove_dir_all(folder.path().join("out")).unwrap();
    tokenize(&["--language", "en"]).refused(&[
        "record 1 has no field `language`",
        "lang, score, text",
        "language field",
    ]);
    tokenize(&["--min-score", "1", "--score-field", "lang"])
        .refused(&["field `lang` is a string", "expected a number"]);
    tokenize(&["--min-chars", "9", "--max-chars", "8"]).refused(&["the fewest characters is 9"]);
    tokenize(&["--min-chars", "100000"]).refused(&["not one document is kept", "300: too short"]);
    tokenize(&["--similarity", "0.9"]).refused(&["--similarity 0.9", "--drop-duplicates near"]);
    tokenize(&["--drop-duplicates", "exact", "--similarity", "0.9"]).refused(&["--drop-duplicates near"]);
    tokenize(&["--drop-duplicates", "near", "--similarity", "0.5"]).refused(&["similarity", "0.5", "from 0.7 to 1"]);
    tokenize(&["--decontaminate", "nowhere"]).refused(&["nowhere", "no such file or folder"]);
    let memory = tokenize(&["--drop-duplicates", "near", "--duplicates-memory", "1MB"]);
    memory.refused(&["more than the 1048576 bytes allowed", "--duplicates-memory", "duplicates_memory"]);
    let train = ["tokenizer", "train", "texts", "-o", "new.json", "--vocab-size", "300"];
    run(folder.path(), &[&train[..], &["--language", "xx", "--language-field", "lang"]].concat())
        .refused(&["not one document is kept"]);
}

#[test]
fn the_same_sample_gives_the_same_tokenizer() {
    let folder = inputs(3000);
    let train = |output: &str, more: &[&str]| {
        let train =
            ["tokenizer", "train", "texts", "--vocab-size", "400", "--sample-bytes", "100000", "--json", "-o", output];
        let told = last_line(&run(folder.path(), &[&train[..], more].concat()).succeeded().stdout);
        assert!(
            (99_000..=100_000).contains(&told["bytes"].as_u64().unwrap())
                && told["bytes_read"].as_u64() > Some(300_000),
            "{told}"
        );
        fs::read(folder.path().join(output)).unwrap()
    };
    let one = train("one.json", &[]);
    assert!(one == train("two.json", &[]));
    assert!(one != train("three.json", &["--seed", "2"]));
}

#[test]
fn sources_of_a_recipe_do_not_repeat_each_other() {
    let folder = inputs(2000);
    let texts = folder.path().join("texts");
    fs::create_dir(folder.path().join("more")).unwrap();
    fs::copy(texts.join("0.jsonl"), folder.path().join("more/0.jsonl")).unwrap();
    fs::rename(texts.join("2.jsonl"), folder.path().join("more/2.jsonl")).unwrap();
    let source = |name: &str, path: &str| {
        format!("[[data.pretrain]]\nname = \"{name}\"\npath = \"{path}\"\ndrop_duplicates = \"exact\"\n")
    };
    let recipe = support::RECIPE
        .replace(
            "[[data.pretrain]]\nname = \"stories\"\npath = \"text.jsonl\"\n",
            &(source("one", "texts") + &source("two", "more")),
        )
        .replace("[data]", "[data]\nduplicates_across_sources = true")
        .replace("steps = 40", "steps = 2");
    fs::write(folder.path().join("tiny.toml"), recipe).unwrap();
    run(folder.path(), &["pretrain", "tiny.toml"]).succeeded();
    let made = Tree::of(&folder.path().join("run/data"));
    let report = |made: &Tree, name: &str| -> Value {
        serde_json::from_slice::<Value>(made.file(&format!("{name}/manifest.json"))).unwrap()["report"].clone()
    };
    // A file of 667 is in both; in itself it repeats little.
    let (one, two) = (report(&made, "one"), report(&made, "two"));
    let gone = |report: &Value| report["dropped"]["exact_duplicate"]["documents"].as_u64().unwrap();
    assert!(gone(&one) < 150 && gone(&two) >= 667, "{one} {two}");
    // Made again after the first, which is there, it is the same.
    fs::remove_dir_all(folder.path().join("run/data/two")).unwrap();
    let said = run(folder.path(), &["pretrain", "tiny.toml", "--resume"]).succeeded();
    assert!(Tree::of(&folder.path().join("run/data")) == made, "{said:?}");
    // Without the key it holds them.
    let alone = ["pretrain", "tiny.toml", "--set", "data.duplicates_across_sources=false", "--set", "run.dir=alone"];
    run(folder.path(), &alone).succeeded();
    let alone = Tree::of(&folder.path().join("alone/data"));
    assert!(gone(&report(&alone, "two")) < 150);
    assert!(alone.file("one/train-00000.bin") == made.file("one/train-00000.bin"));
}

#[test]
fn a_recipe_asks_the_same() {
    let folder = inputs(2000);
    let recipe = support::RECIPE
        .replace("path = \"text.jsonl\"", "path = \"texts\"\nlanguage = \"en\"\nlanguage_field = \"lang\"\nmin_score = 0.5\ndrop_duplicates = \"near\"")
        .replace("[data]", "[data]\ndecontaminate = \"evals\"")
        .replace("steps = 40", "steps = 2");
    fs::write(folder.path().join("tiny.toml"), recipe).unwrap();
    run(folder.path(), &["pretrain", "tiny.toml"]).succeeded();
    let manifest: Value =
        serde_json::from_slice(Tree::of(folder.path()).file("run/data/stories/manifest.json")).unwrap();
    let flags = [
        "tokenize",
        "texts",
        "-t",
        "run/tokenizer.json",
        "-o",
        "shards",
        "--name",
        "stories",
        "--validation-fraction",
        "0.1",
        "--language",
        "en",
        "--language-field",
        "lang",
        "--min-score",
        "0.5",
        "--drop-duplicates",
        "near",
        "--decontaminate",
        "evals",
    ];
    run(folder.path(), &flags).succeeded();
    let by_flags: Value =
        serde_json::from_slice(&fs::read(folder.path().join("shards/manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest, by_flags);
    assert!(manifest["report"]["dropped"]["near_duplicate"]["documents"].as_u64() > Some(10), "{manifest}");
    // A run that has begun keeps its documents.
    let resume = ["pretrain", "tiny.toml", "--resume", "--set", "data.pretrain.0.min_score=0.6"];
    run(folder.path(), &resume).refused(&["run/data/stories", "choice of documents", "run.dir"]);
}
