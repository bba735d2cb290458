//! Text that cannot be read: each case as the corpus of a recipe, and through `tokenize` and `tokenizer train`.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use casallm_data::file_lock::FileLock;
use flate2::Compression;
use flate2::write::GzEncoder;
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use tempfile::TempDir;

use crate::support::{Tree, conversations, documents, run, trained, trained_folder, write_inputs};

/// A folder with a file of this name and content in it, and a recipe that has it as its corpus.
fn corpus(name: &str, bytes: &[u8]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_inputs(folder.path());
    fs::write(folder.path().join(name), bytes).unwrap();
    folder
}

/// The file is refused by the three commands that read text, also where a run has a tokenizer and shards of good text.
fn refused(folder: &Path, name: &str, named: &[&str]) {
    trained().without("run/checkpoints").write_to(&folder.join("begun"));
    let before = Tree::of(folder);
    let path = format!("data.pretrain.0.path={name}");
    let named = [&[name][..], named].concat();
    for dir in ["run.dir=run", "run.dir=begun/run"] {
        run(folder, &["pretrain", "tiny.toml", "--set", &path, "--set", dir]).refused(&named);
    }
    run(folder, &["tokenizer", "train", name, "--vocab-size", "300", "--output", "tokenizer.json"]).refused(&named);
    run(folder, &["tokenize", name, "-t", "begun/run/tokenizer.json", "-o", "shards"]).refused(&named);
    before.assert_kept_in(folder);
    for unwritten in ["tokenizer.json", "run/tokenizer.json", "run/base", "run/metrics.jsonl", "shards/manifest.json"] {
        assert!(!folder.join(unwritten).exists(), "{unwritten} was written");
    }
}

fn lines() -> Vec<u8> {
    documents(300, 5).iter().flat_map(|text| format!("{{\"text\": \"{text}\"}}\n").into_bytes()).collect()
}

#[test]
fn empty_corpus() {
    for (name, bytes) in [("empty.txt", ""), ("empty.jsonl", "\n"), ("blank.jsonl", "{\"text\": \"  \"}\n")] {
        let folder = corpus(name, bytes.as_bytes());
        refused(folder.path(), name, &["no text found", "check the file", "text field"]);
    }
}

#[test]
fn invalid_utf8() {
    let folder = corpus("latin1.txt", b"The caf\xE9 by the river.");
    refused(folder.path(), "latin1.txt", &["invalid UTF-8 at byte 7", "convert the file to UTF-8"]);
    let folder = corpus("latin1.jsonl", b"{\"text\": \"good\"}\n{\"text\": \"caf\xE9\"}\n");
    refused(folder.path(), "latin1.jsonl", &["invalid UTF-8", "line 2", "convert the file to UTF-8"]);
}

#[test]
fn parquet_without_the_named_column() {
    let folder = corpus("books.parquet", b"");
    let schema = Arc::new(parse_message_type("message book { required binary body (UTF8); }").unwrap());
    let file = fs::File::create(folder.path().join("books.parquet")).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let values: Vec<ByteArray> = documents(300, 4).iter().map(|text| ByteArray::from(text.as_str())).collect();
    column.typed::<ByteArrayType>().write_batch(&values, None, None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
    refused(folder.path(), "books.parquet", &["no column `text`", "it has: body", "set the name of the text field"]);
    // The remedy.
    let train = ["tokenizer", "train", "books.parquet", "--vocab-size", "300", "-o", "books.json"];
    run(folder.path(), &[&train[..], &["--text-field", "body"]].concat()).succeeded();
}

#[test]
fn parquet_that_is_none() {
    let folder = corpus("books.parquet", &lines());
    refused(folder.path(), "books.parquet", &["not a readable parquet file"]);
}

#[test]
fn jsonl_line_without_the_text_field() {
    let folder = corpus("mixed.jsonl", &[lines(), b"{\"title\": \"none\", \"id\": 3}\n".to_vec()].concat());
    let named = ["record 301", "no field `text`", "id, title", "set the name of the text field"];
    refused(folder.path(), "mixed.jsonl", &named);
    let folder = corpus("number.jsonl", b"{\"text\": 17}\n");
    refused(folder.path(), "number.jsonl", &["record 1", "field `text` is a number", "expected a string"]);
}

#[test]
fn jsonl_line_that_is_no_json() {
    let folder = corpus("broken.jsonl", &[lines(), b"{\"text\": \"unfinished\n".to_vec()].concat());
    refused(folder.path(), "broken.jsonl", &["line 301"]);
}

#[test]
fn truncated_zstd() {
    let mut bytes = zstd::encode_all(&lines()[..], 3).unwrap();
    bytes.truncate(bytes.len() * 2 / 3);
    let folder = corpus("cut.jsonl.zst", &bytes);
    refused(folder.path(), "cut.jsonl.zst", &["truncated zstd", "fetch the file again"]);
}

#[test]
fn truncated_gzip() {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(&lines()).unwrap();
    let mut bytes = encoder.finish().unwrap();
    bytes.truncate(bytes.len() * 2 / 3);
    let folder = corpus("cut.jsonl.gz", &bytes);
    refused(folder.path(), "cut.jsonl.gz", &["truncated gzip", "fetch the file again"]);
}

#[test]
fn compressed_by_name_only() {
    let folder = corpus("plain.jsonl.zst", &lines());
    refused(folder.path(), "plain.jsonl.zst", &["the name says zstd, the bytes are plain"]);
}

#[test]
fn too_little_text() {
    let folder = corpus("short.txt", b"The cat sleeps.");
    let path = "data.pretrain.0.path=short.txt";
    let named = ["of the 320 tokens asked for", "give more text"];
    run(folder.path(), &["pretrain", "tiny.toml", "--set", path]).refused(&named);
    // Enough for a vocabulary, and not for a row of validation.
    let fraction = "data.validation_fraction=0.0001";
    let named = ["`stories` (val)", "one row needs 65", "raise data.validation_fraction"];
    run(folder.path(), &["pretrain", "tiny.toml", "--set", fraction]).refused(&named);
}

#[test]
fn a_tokenizer_that_cuts_numbers_otherwise() {
    let folder = trained_folder();
    let pretrain = |digits: &str| {
        fs::remove_dir_all(folder.path().join("run/checkpoints/pretrain")).unwrap();
        run(folder.path(), &["pretrain", "tiny.toml", "--set", &format!("tokenizer.digits={digits}")])
    };
    let named = ["tokenizer.json", "at most 3 digits", "tokenizer.digits is 1", "another run.dir"];
    pretrain("1").refused(&named);
    fs::create_dir_all(folder.path().join("run/checkpoints/pretrain")).unwrap();
    pretrain("3").succeeded();
}

#[test]
fn tokenize_on_what_is_not_there() {
    let folder = trained_folder();
    let to = ["-t", "run/tokenizer.json", "-o", "shards"];
    let tokenize = |arguments: &[&str]| run(folder.path(), &[&["tokenize"][..], arguments].concat());
    tokenize(&[&["nowhere.jsonl"][..], &to].concat()).refused(&["nowhere.jsonl", "no such file or folder"]);
    tokenize(&[&["tiny.toml"][..], &to].concat()).refused(&["tiny.toml", "unknown format", ".jsonl"]);
    tokenize(&["text.jsonl", "-t", "nowhere.json", "-o", "shards"]).refused(&["nowhere.json", "No such file"]);
    tokenize(&["text.jsonl", "-t", "tiny.toml", "-o", "shards"]).refused(&["tiny.toml", "not a usable tokenizer"]);
    tokenize(&["text.jsonl", "-t", "run/tokenizer.json", "-o", "tiny.toml"]).refused(&["tiny.toml", "File exists"]);
    trained().assert_kept_in(folder.path());
}

#[test]
fn tokenize_into_a_folder_of_other_shards() {
    let folder = trained_folder();
    let tokenize = |text: &str, tokenizer: &str, fraction: &str| {
        let output = ["-t", tokenizer, "-o", "run/data/stories", "--validation-fraction", fraction];
        run(folder.path(), &[&["tokenize", text, "--name", "stories"][..], &output].concat())
    };
    let named = ["run/data/stories", "remove them, or choose another --output"];
    fs::write(folder.path().join("other.txt"), documents(50, 8).join("\n\n")).unwrap();
    let train = ["tokenizer", "train", "other.txt", "--vocab-size", "280", "-o", "other.json"];
    run(folder.path(), &train).succeeded();
    let said = |what| [&named[..], &[what]].concat();
    tokenize("other.txt", "run/tokenizer.json", "0.1").refused(&said("made from other text"));
    tokenize("text.jsonl", "other.json", "0.1").refused(&said("made with another tokenizer"));
    tokenize("text.jsonl", "run/tokenizer.json", "0.2").refused(&said("with another split"));
    // The very same is done already.
    tokenize("text.jsonl", "run/tokenizer.json", "0.1").succeeded();
    trained().assert_kept_in(folder.path());
}

#[test]
fn tokenize_into_a_folder_that_is_being_filled() {
    let folder = trained_folder();
    let shards = folder.path().join("shards");
    fs::create_dir(&shards).unwrap();
    let other = FileLock::acquire(&shards.join("tokenize.lock")).unwrap();
    let tokenize = || run(folder.path(), &["tokenize", "text.jsonl", "-t", "run/tokenizer.json", "-o", "shards"]);
    tokenize().refused(&["shards", &format!("in use by process {}", std::process::id()), "another --output"]);
    assert_eq!(fs::read_dir(&shards).unwrap().count(), 1);
    drop(other);
    tokenize().succeeded();
}

#[test]
fn text_shares_a_folder_with_what_is_made_of_it() {
    let folder = trained_folder();
    fs::create_dir(folder.path().join("d")).unwrap();
    for name in ["text.jsonl", "run"] {
        fs::rename(folder.path().join(name), folder.path().join("d").join(name)).unwrap();
    }
    let tokenize =
        || run(folder.path(), &["tokenize", "d", "-t", "d/run/tokenizer.json", "-o", "d/shards"]).succeeded();
    run(folder.path(), &["tokenizer", "train", "d", "--vocab-size", "280", "-o", "d/tokenizer.json"]).succeeded();
    tokenize();
    let before = Tree::of(folder.path());
    // The very same is done already: neither the shards nor the run are text.
    tokenize();
    before.assert_kept_in(folder.path());
}

/// A pattern, and a recipe, may be written from where one stands.
#[test]
fn patterns_begin_where_one_stands() {
    let folder = trained_folder();
    fs::create_dir_all(folder.path().join("d/deep")).unwrap();
    fs::rename(folder.path().join("text.jsonl"), folder.path().join("d/deep/text.jsonl")).unwrap();
    let learned = |pattern: &str| {
        let arguments = ["tokenizer", "train", pattern, "--vocab-size", "280", "-o", "learned.json"];
        run(folder.path(), &arguments).succeeded();
        fs::read(folder.path().join("learned.json")).unwrap()
    };
    let expected = learned("d");
    for pattern in ["d/**/*.jsonl", "./d/**/*.jsonl", "././d/**/*.jsonl", "./**/deep/./*.jsonl"] {
        assert!(learned(pattern) == expected, "{pattern}");
    }
    let recipe = folder.path().join("tiny.toml");
    let text = fs::read_to_string(&recipe).unwrap();
    assert!(text.contains("\"text.jsonl\""), "{text}");
    fs::write(&recipe, text.replace("\"text.jsonl\"", "\"d/**/*.jsonl\"")).unwrap();
    for recipe in ["tiny.toml", "./tiny.toml"] {
        run(folder.path(), &["data", "inspect", recipe]).succeeded();
    }
}

#[test]
fn tokenizer_sizes_that_cannot_be() {
    let folder = trained_folder();
    let train = |size: &str| {
        run(folder.path(), &["tokenizer", "train", "text.jsonl", "-o", "run/tokenizer.json", "--vocab-size", size])
    };
    train("100").refused(&["vocabulary size 100", "at least 262"]);
    train("99999999").refused(&["vocabulary size 99999999", "at most"]);
    train("50000").refused(&["of the 50000 tokens asked for", "or give more text"]);
    trained().assert_kept_in(folder.path());
}

/// A file of conversations for the second stage.
fn refused_conversations(bytes: &[u8], named: &[&str]) {
    let folder = trained_folder();
    fs::write(folder.path().join("chat.jsonl"), bytes).unwrap();
    let before = Tree::of(folder.path());
    run(folder.path(), &["sft", "tiny.toml", "--resume"]).refused(named);
    before.without("run/cleaning.json").assert_kept_in(folder.path());
}

#[test]
fn conversations_that_are_none() {
    let good = conversations(20, 3);
    let with = |line: &str| format!("{good}{line}\n").into_bytes();
    refused_conversations(&with("{\"text\": \"x\"}"), &["chat.jsonl", "row 21", "text", "messages"]);
    let without_content = "{\"messages\": [{\"role\": \"user\"}]}";
    refused_conversations(&with(without_content), &["chat.jsonl", "row 21", "messages[0].content", "a string"]);
    let narrator = "{\"messages\": [{\"role\": \"narrator\", \"content\": \"x\"}]}";
    refused_conversations(&with(narrator), &["chat.jsonl", "row 21", "narrator", "assistant"]);
    refused_conversations(&with("{"), &["chat.jsonl", "line 21"]);
    refused_conversations(b"", &["0 conversations", "context of 64"]);
}

#[test]
fn conversations_that_changed_under_a_run() {
    let more = [trained().file("chat.jsonl"), conversations(5, 9).as_bytes()].concat();
    refused_conversations(&more, &["run/checkpoints/sft/step-000", "other settings", "conversations", "run.dir"]);
}

#[test]
fn text_that_is_all_held_out_is_not_blamed_on_what_is_asked_of_it() {
    let folder = tempfile::tempdir().unwrap();
    write_inputs(folder.path());
    let whole = documents(60, 1).join(" ");
    fs::write(folder.path().join("text.jsonl"), format!("{}\n", serde_json::json!({ "text": whole }))).unwrap();
    run(folder.path(), &["pretrain", "tiny.toml", "--set", "data.validation_fraction=0.999"]).refused(&[
        "data.validation_fraction",
        "0.999",
        "the only document that is kept is held out",
        "shorter documents",
    ]);
    // Conversations and pairs are no others.
    trained().without("run/checkpoints").write_to(folder.path());
    fs::write(folder.path().join("chat.jsonl"), conversations(9, 3)).unwrap();
    run(folder.path(), &["sft", "tiny.toml", "--set", "data.validation_fraction=0.9999"])
        .refused(&["data.validation_fraction", "all 9 conversations that are kept are held out"]);
    let pair = serde_json::json!({ "prompt": "Where is the cat?", "chosen": "Here.", "rejected": "No." });
    fs::write(folder.path().join("pairs.jsonl"), format!("{pair}\n")).unwrap();
    let pairs = "data.dpo=[{name=\"pairs\",path=\"pairs.jsonl\"}]";
    let sets = [pairs, "dpo.batch_tokens=256", "dpo.validation_fraction=0.9999"].map(|set| ["--set", set]).concat();
    run(folder.path(), &[&["dpo", "tiny.toml"][..], &sets].concat())
        .refused(&["dpo.validation_fraction", "the only preference pair that is kept is held out"]);
}
