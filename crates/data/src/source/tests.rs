use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::error::Error;

fn zstd_of(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).unwrap()
}

fn gzip_of(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn written(files: &[(&str, &[u8])]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    dir
}

fn texts_with(path: &Path, options: &SourceOptions) -> Result<Vec<String>, Error> {
    open_documents(path, options)?.map(|document| document.map(|d| d.text)).collect()
}

fn texts(path: &Path) -> Result<Vec<String>, Error> {
    texts_with(path, &SourceOptions::default())
}

/// The error of reading one file.
fn refusal(name: &str, bytes: &[u8]) -> Error {
    let dir = written(&[(name, bytes)]);
    texts(&dir.path().join(name)).unwrap_err()
}

fn fixture(name: &str) -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/parquet_fixtures");
    let path = folder.join(name);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: {} is not here", path.display());
    None
}

const LINES: &[u8] = b"\xEF\xBB\xBF{\"text\": \"one\"}\n\n{\"id\": 1, \"text\": \"tw\\u00f6\"}\r\n{\"text\": null}\n{\"text\": \" \"}\n{\"text\": \"three\"}";
const ARRAY: &[u8] =
    b" [ {\"text\": \"one\"},\n{\"a\": [1, {\"b\": \"]\\\"}\"}], \"text\": \"tw\xC3\xB6\"} ,{\"text\":\"three\"}]\n ";
const SEQUENCE: &[u8] = b"{\"text\": \"one\"}{\n\"text\": \"tw\xC3\xB6\"}\n\n{\"text\": \"three\"}";

#[test]
fn every_format_plain_and_compressed() {
    for (name, bytes) in [("a.jsonl", LINES), ("a.json", ARRAY), ("b.json", SEQUENCE), ("c.ndjson", LINES)] {
        for (end, bytes) in [("", bytes.to_vec()), (".zst", zstd_of(bytes)), (".gz", gzip_of(bytes))] {
            let name = format!("{name}{end}");
            let dir = written(&[(&name, &bytes)]);
            assert_eq!(texts(&dir.path().join(&name)).unwrap(), ["one", "twö", "three"], "{name}");
        }
        // The bytes decide where the name says nothing of compression.
        let dir = written(&[(name, &zstd_of(bytes))]);
        assert_eq!(texts(&dir.path().join(name)).unwrap().len(), 3);
    }
    // As `zstd --long=28` writes it.
    let mut far = zstd::Encoder::new(Vec::new(), 1).unwrap();
    far.window_log(28).unwrap();
    far.write_all(LINES).unwrap();
    let dir = written(&[("a.jsonl.zst", &far.finish().unwrap())]);
    assert_eq!(texts(dir.path()).unwrap().len(), 3);
    let two_frames = [zstd_of(b"{\"text\": \"a\"}\n"), zstd_of(b"{\"text\": \"b\"}\n")].concat();
    let two_members = [gzip_of(b"{\"text\": \"a\"}\n"), gzip_of(b"{\"text\": \"b\"}\n")].concat();
    // As `pzstd` writes it: before each frame one without data, with the size of what comes.
    let skipped = |sign: u8| [&[sign, 0x2A, 0x4D, 0x18, 4, 0, 0, 0, 9, 9, 9, 9], &two_frames[..]].concat();
    let (first, last) = (skipped(0x50), skipped(0x5F));
    let dir = written(&[
        ("a.jsonl.zst", &two_frames),
        ("b.jsonl.gz", &two_members),
        ("c.jsonl.zst", &first),
        ("d.jsonl", &last),
    ]);
    assert_eq!(texts(dir.path()).unwrap(), ["a", "b"].repeat(4));
}

#[test]
fn text_file_is_one_document_or_pieces_between_paragraphs() {
    let text = "\u{feff}Ünder the trees.\n\nA second paragraph.\nIts second line.\n\nEnd";
    let dir = written(&[("a.txt", text.as_bytes()), ("b.md.gz", &gzip_of(b"x"))]);
    assert_eq!(texts(dir.path()).unwrap(), [text.trim_start_matches('\u{feff}'), "x"]);
    let pieces = |bytes| {
        let options = SourceOptions { text_file_bytes: bytes, ..SourceOptions::default() };
        texts_with(&dir.path().join("a.txt"), &options).unwrap()
    };
    assert_eq!(pieces(60), ["Ünder the trees.\n\nA second paragraph.\nIts second line.\n\n", "End"]);
    assert_eq!(pieces(30)[1..], ["A second paragraph.\n", "Its second line.\n\nEnd"]);
}

#[test]
fn paths_folders_and_patterns_are_sorted() {
    let line = |name: &str| format!("{{\"text\": \"{name}\"}}");
    let files = ["b/2.jsonl", "b/1.jsonl", "a.jsonl", "c.jsonl.zst", "notes.pdf"].map(|name| {
        let bytes = line(name).into_bytes();
        (name, if name.ends_with("zst") { zstd_of(&bytes) } else { bytes })
    });
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
    let dir = written(&files);
    let at = |name: &str| dir.path().join(name);
    assert_eq!(texts(dir.path()).unwrap(), ["a.jsonl", "b/1.jsonl", "b/2.jsonl", "c.jsonl.zst"]);
    assert_eq!(texts(&at("*.jsonl*")).unwrap(), ["a.jsonl", "c.jsonl.zst"]);
    let both = open_documents_in(&[at("c.jsonl.zst"), at("b")], &SourceOptions::default()).unwrap();
    let both: Vec<String> = both.map(|document| document.unwrap().text).collect();
    assert_eq!(both, ["c.jsonl.zst", "b/1.jsonl", "b/2.jsonl"]);

    for twice in [[at(""), at("b/1.jsonl")], [at("a.jsonl"), at("./a.jsonl")], [at("b"), at("*/2.jsonl")]] {
        let refused = open_documents_in(&twice, &SourceOptions::default()).err().unwrap();
        assert!(matches!(refused, Error::FileTwice { .. }), "{refused}");
    }
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(at("b"), at("link")).unwrap();
        for twice in [[at("b"), at("link")], [at("link/1.jsonl"), at("b/1.jsonl")], [at("b"), at("b/../link/*")]] {
            let refused = open_documents_in(&twice, &SourceOptions::default()).err().unwrap();
            assert!(matches!(refused, Error::FileTwice { .. }), "{refused}");
        }
        // A second name for a file may be meant.
        std::os::unix::fs::symlink(at("a.jsonl"), at("again.jsonl")).unwrap();
        assert_eq!(find_files_in(&[at("a.jsonl"), at("again.jsonl")]).unwrap().len(), 2);
    }
    assert!(matches!(find_files(&at("none.jsonl")), Err(Error::NoSuchPath { .. })));
    for nothing in ["*.pdf", "**bad[", "none/*.txt"] {
        assert!(matches!(find_files(&at(nothing)), Err(Error::NoFiles { .. })), "{nothing}");
    }
    assert!(matches!(find_files(&at("notes.pdf")), Err(Error::UnknownFormat { .. })));
    assert!(matches!(open_documents_in(&[], &SourceOptions::default()), Err(Error::NoFiles { .. })));
    assert!(matches!(open_records(&at("none.jsonl")), Err(Error::Io { action: "open", .. })));
    assert!(matches!(open_records(&at("a.txt")), Err(Error::Io { .. } | Error::UnknownFormat { .. })));
}

#[cfg(unix)]
#[test]
fn a_pattern_finds_a_file_once_and_nothing_hidden() {
    let dir = written(&[
        ("d/a.jsonl", b"{}"),
        ("d/in/b.jsonl", b"{}"),
        ("d/.aside/c.jsonl", b"{}"),
        ("d/in/.d.jsonl", b"{}"),
    ]);
    for (target, link) in [("d", "d/up"), ("d", "d/in/up"), ("d/in", "d/latest")] {
        std::os::unix::fs::symlink(dir.path().join(target), dir.path().join(link)).unwrap();
    }
    let found = |pattern: &str| -> Vec<String> {
        let files = find_files(&dir.path().join(pattern)).unwrap();
        files.iter().map(|file| file.strip_prefix(dir.path()).unwrap().display().to_string()).collect()
    };
    for pattern in ["d/**/*.jsonl", "**/*.jsonl", "d//./**/*.jsonl"] {
        assert_eq!(found(pattern), ["d/a.jsonl", "d/in/b.jsonl"], "{pattern}");
    }
    assert_eq!(found("d/*/*.jsonl"), ["d/in/b.jsonl", "d/up/a.jsonl"]);
    assert_eq!(found("d/**/latest/*.jsonl"), ["d/latest/b.jsonl"]);
    assert_eq!(found("d/.aside/**/*.jsonl"), ["d/.aside/c.jsonl"]);
    assert_eq!(found("d/**/.aside/*.jsonl"), ["d/.aside/c.jsonl"]);
}

#[cfg(unix)]
#[test]
fn a_link_that_leads_nowhere_is_not_passed_over() {
    use std::os::unix::fs::symlink;

    let dir = written(&[("d/a.jsonl", b"{}")]);
    let at = |name: &str| dir.path().join(name);
    symlink("a.jsonl", at("d/b.jsonl")).unwrap();
    // What would be passed over in any case.
    symlink("nowhere", at("d/notes")).unwrap();
    symlink("nowhere", at("d/.c.jsonl")).unwrap();
    for path in ["d", "d/*", "d/**/*"] {
        assert_eq!(find_files(&at(path)).unwrap(), [at("d/a.jsonl"), at("d/b.jsonl")], "{path}");
    }
    for target in ["nowhere.jsonl", "c.jsonl"] {
        symlink(target, at("d/c.jsonl")).unwrap();
        for path in ["d", "d/*.jsonl", "d/**/*.jsonl"] {
            let refused = find_files(&at(path)).unwrap_err();
            assert!(matches!(&refused, Error::BrokenLink { .. }), "{path}: {refused}");
            assert!(refused.to_string().contains("d/c.jsonl is a link"), "{refused}");
        }
        fs::remove_file(at("d/c.jsonl")).unwrap();
    }
}

#[test]
fn fingerprint_tells_inputs_apart() {
    let dir = written(&[("a.jsonl", b"1"), ("b.jsonl", b"2")]);
    let files = find_files(dir.path()).unwrap();
    let options = SourceOptions::default();
    let first = fingerprint_files(&files, &options, None).unwrap();
    assert_eq!(first, fingerprint_files(&files, &options, Some(&first)).unwrap());
    assert_ne!(first, fingerprint_files(&files[..1], &options, None).unwrap());
    let other_field = SourceOptions { text_field: "body".into(), ..SourceOptions::default() };
    assert_ne!(first, fingerprint_files(&files, &other_field, None).unwrap());
    fs::write(&files[0], "3").unwrap();
    assert_ne!(first, fingerprint_files(&files, &options, None).unwrap());
    let embedded = |bytes| fingerprint_embedded("a.jsonl", bytes, &options);
    assert_ne!(embedded(b"1"), embedded(b"2"));
    let missing = fingerprint_files(&[dir.path().join("none")], &options, None);
    assert!(matches!(missing, Err(Error::Io { .. })));
}

#[test]
fn fingerprint_tells_what_changed_in_the_middle() {
    let dir = written(&[("a.jsonl", &[b'x'; 300_000]), ("b.txt", b"text")]);
    let files = find_files(dir.path()).unwrap();
    let options = SourceOptions::default();
    let of = |like: Option<&str>| fingerprint_files(&files, &options, like).unwrap();
    // As the versions before it made it, of these very bytes: names, sizes and ends.
    let older = "3d65026fd5093dc8133f9cba57a933fdbfabef9242386d6c8a018727e2ea52d7";
    let first = of(None);
    assert_eq!((of(Some(older)).as_str(), of(Some(""))), (older, first.clone()));
    let mut bytes = fs::read(&files[0]).unwrap();
    bytes[150_000] = b'y';
    fs::write(&files[0], bytes).unwrap();
    assert_ne!(of(Some(&first)), first);
    assert_eq!(of(Some(older)), older, "what was made before that was known stays what it is");
    let other = older.replace('3', "4");
    assert_eq!(of(Some(&other)), of(None), "what is made anew knows of it");

    // Of much text pieces are looked at: what shifts or shuffles it is seen.
    let large = dir.path().join("a.jsonl");
    let write = |odd: bool| {
        let mut file = fs::File::create(&large).unwrap();
        file.write_all(&[b'x'; 1 << 20]).unwrap();
        let mut middle = vec![b'x'; 80 << 20];
        middle.iter_mut().skip(usize::from(odd)).step_by(2).for_each(|byte| *byte = b'y');
        file.write_all(&middle).unwrap();
        // The end is a hole.
        file.set_len(300 << 20).unwrap();
        of(None)
    };
    let even = write(false);
    assert_ne!(write(true), even);
    assert_eq!(write(false), even);
}

#[test]
fn embedded_bytes_are_read_by_their_name() {
    let lines: &'static [u8] = Vec::leak(zstd_of(LINES));
    let options = SourceOptions::default();
    let documents: Vec<_> = open_embedded("a.jsonl.zst", lines, &options).unwrap().collect();
    assert_eq!(documents.len(), 3);
    let rows: Vec<Value> = open_embedded_records("a.jsonl.zst", lines).unwrap().map(Result::unwrap).collect();
    assert_eq!(rows[1], json!({"id": 1, "text": "twö"}));
    let text = open_embedded("a.txt", b"text", &options).unwrap().next().unwrap().unwrap();
    assert_eq!(text.text, "text");
    assert!(matches!(open_embedded("a.parquet", b"PAR1", &options), Err(Error::UnknownFormat { .. })));
    let text = open_embedded_records("a.txt", b"").err().unwrap();
    assert!(matches!(&text, Error::NoRecords { .. }) && text.to_string().contains(".jsonl"), "{text}");
    assert!(matches!(open_embedded("a.jsonl.gz", lines, &options), Err(Error::Compressed { .. })));
}

#[test]
fn empty_corpus_is_an_error() {
    for (name, seen) in [("a.txt", 0), ("b.jsonl", 0), ("c.json", 0)] {
        let error = refusal(name, b"");
        assert!(matches!(error, Error::EmptyCorpus { documents, .. } if documents == seen), "{name}");
    }
    let error = refusal("a.jsonl", b"{\"text\": \"\"}\n{\"text\": null}\n");
    assert!(matches!(error, Error::EmptyCorpus { documents: 2, .. }));
    assert!(matches!(refusal("a.json", b"[]"), Error::EmptyCorpus { .. }));
}

#[test]
fn invalid_utf8_is_named_with_its_place() {
    let at = |error: Error| match error {
        Error::InvalidUtf8 { offset, line, .. } => (offset, line),
        other => panic!("{other}"),
    };
    assert_eq!(at(refusal("a.txt", b"abc\xFFd")), (3, None));
    assert_eq!(at(refusal("a.txt", b"abc\xE2\x82")), (3, None));
    assert_eq!(at(refusal("a.jsonl", b"{\"text\": \"a\"}\n{\"text\": \"\xC0\"}\n")), (24, Some(2)));
    assert_eq!(at(refusal("a.json", b"[{\"text\": \"a\"},\n {\n\"text\": \"\xC0\"}]")), (28, Some(3)));
    assert_eq!(at(refusal("a.txt.gz", &gzip_of(b"\xFF"))), (0, None));
}

#[test]
fn broken_json_is_named_with_its_line() {
    let at = |error: Error| match error {
        Error::BrokenJson { line, .. } => line,
        other => panic!("{other}"),
    };
    assert_eq!(at(refusal("a.jsonl", b"{\"text\": \"a\"}\n\n{\"text\": ")), 3);
    assert_eq!(at(refusal("a.jsonl", b"{\"text\": \"a\"} x")), 1);
    for (bytes, line) in [
        (&b"[{\"text\": \"a\"},\n{\"text\" 1}]"[..], 2),
        (b"[{\"text\": \"a\"}\n{\"text\": 1}]", 2),
        (b"[{\"text\": \"a\"},\n\n", 3),
        (b"[{\"text\": \"a", 1),
        (b"[{\"text\": \"a\"}]\nx", 2),
        (b"[{\"text\": \"a\"},]", 1),
        (b"{\"text\": \"a\"}\n7", 2),
        (b"\n\"text\"", 2),
        (b"[1 2]", 1),
    ] {
        assert_eq!(at(refusal("a.json", bytes)), line, "{}", String::from_utf8_lossy(bytes));
    }
    let deep = [b"[".repeat(100_000), b"]".repeat(100_000)].concat();
    assert_eq!(at(refusal("a.json", &deep)), 1);
}

#[test]
fn field_that_is_missing_or_no_string_is_named() {
    let error = refusal("a.jsonl", b"{\"text\": \"a\"}\n{\"body\": \"b\", \"id\": 1}\n");
    assert!(matches!(
        &error,
        Error::MissingField { record: 2, field, found, .. } if field == "text" && found == "body, id"
    ));
    assert!(error.to_string().contains("a.jsonl: record 2 has no field `text`"));
    assert!(matches!(refusal("a.json", b"[7]"), Error::MissingField { record: 1, .. }));
    for (value, kind) in [("true", "a boolean"), ("1", "a number"), ("[]", "a list"), ("{}", "an object")] {
        let error = refusal("a.jsonl", format!("{{\"text\": {value}}}").as_bytes());
        assert!(matches!(error, Error::FieldType { found, record: 1, .. } if found == kind));
    }
}

fn asking(language: Option<&str>, score: Option<&str>) -> SourceOptions {
    let [language_field, score_field] = [language, score].map(|field| field.map(str::to_owned));
    SourceOptions { language_field, score_field, ..SourceOptions::default() }
}

#[test]
fn language_and_score_are_read_where_they_are_asked_for() {
    let lines = b"{\"text\": \"a\", \"lang\": \"en\", \"q\": 2}\n{\"text\": \"b\", \"lang\": null, \"q\": null}\n";
    let dir = written(&[
        ("a.jsonl", lines),
        ("bad.json", b"[{\"text\": \"c\", \"lang\": 5, \"q\": \"high\"}]"),
        ("c.txt", b"d"),
    ]);
    let read = |file: &str, options: &SourceOptions| -> Result<Vec<Document>, Error> {
        open_documents(&dir.path().join(file), options)?.collect()
    };
    let found = read("a.jsonl", &asking(Some("lang"), Some("q"))).unwrap();
    let first = Document { text: "a".into(), language: Some("en".into()), score: Some(2.0) };
    assert_eq!(found, [first, Document::from("b".to_owned())]);
    let plain = read("a.jsonl", &SourceOptions::default()).unwrap();
    assert_eq!(plain, ["a", "b"].map(|text| Document::from(text.to_owned())));
    // A column may have several parts.
    let same = SourceOptions { text_field: "lang".into(), ..asking(Some("lang"), None) };
    assert_eq!(
        read("a.jsonl", &same).unwrap()[0],
        Document { text: "en".into(), language: Some("en".into()), score: None }
    );

    let missing = read("a.jsonl", &asking(None, Some("score"))).unwrap_err().to_string();
    assert!(
        missing.contains("record 1 has no field `score`; it has: lang, q, text; set the name of the score field"),
        "{missing}"
    );
    let wrong = read("bad.json", &asking(Some("lang"), None)).unwrap_err().to_string();
    assert!(wrong.contains("field `lang` is a number, expected a string"), "{wrong}");
    let wrong = read("bad.json", &asking(None, Some("q"))).unwrap_err().to_string();
    assert!(wrong.contains("field `q` is a string, expected a number"), "{wrong}");
    let none = read("c.txt", &asking(Some("lang"), None)).unwrap_err().to_string();
    assert!(
        none.contains("c.txt") && none.contains("no field `lang`") && none.contains("ask nothing of the language"),
        "{none}"
    );
}

#[test]
fn damaged_compression_is_an_error() {
    let text: String = (0..20_000).map(|i| format!("{{\"text\": \"{i}\"}}\n")).collect();
    let text = text.into_bytes();
    for (name, format, bytes) in [("a.jsonl.zst", "zstd", zstd_of(&text)), ("a.jsonl.gz", "gzip", gzip_of(&text))] {
        let cut = refusal(name, &bytes[..bytes.len() * 2 / 3]);
        assert!(matches!(&cut, Error::Compressed { format: f, .. } if *f == format), "{cut}");
        assert!(cut.to_string().contains("fetch the file again"));
        assert!(matches!(refusal(name, LINES), Error::Compressed { .. }), "a name that lies");
        let mut flipped = bytes.clone();
        let middle = flipped.len() / 2;
        flipped[middle..middle + 8].fill(0xA5);
        let error = refusal(name, &flipped);
        let told = matches!(error, Error::Compressed { .. } | Error::BrokenJson { .. } | Error::InvalidUtf8 { .. });
        assert!(told, "{error}");
    }
    assert!(matches!(refusal("a.jsonl.gz", &zstd_of(LINES)), Error::Compressed { format: "gzip", .. }));
    assert!(matches!(refusal("a.txt.zst", b""), Error::Compressed { .. }));
}

#[test]
fn error_ends_the_stream() {
    let dir = written(&[("a.jsonl", b"{\"text\": \"a\"}\nx\n{\"text\": \"b\"}\n")]);
    let mut documents = open_documents(dir.path(), &SourceOptions::default()).unwrap();
    assert!(documents.next().unwrap().is_ok());
    assert!(documents.next().unwrap().is_err());
    assert!(documents.next().is_none());
    let mut records = open_records(&dir.path().join("a.jsonl")).unwrap();
    assert_eq!([records.next().unwrap().is_ok(), records.next().unwrap().is_ok()], [true, false]);
    assert!(records.next().is_none());
}

#[test]
fn parquet_text_of_both_codecs() {
    for name in ["finewebedu_schema_snappy.parquet", "finewebedu_schema_zstd.parquet"] {
        let Some(path) = fixture(name) else {
            return;
        };
        let texts = texts(&path).unwrap();
        assert!(texts.len() > 10 && texts.iter().all(|text| !text.is_empty()));
        let rows: Vec<Value> = open_records(&path).unwrap().map(Result::unwrap).collect();
        let by_row: Vec<&str> = rows.iter().filter_map(|row| row["text"].as_str()).collect();
        assert_eq!(texts, by_row);
        assert!(rows[0]["score"].is_number() && rows[0]["url"].is_string(), "{:?}", rows[0]);
    }
}

#[test]
fn parquet_nested_messages() {
    let Some(path) = fixture("ultrachat_schema_zstd.parquet") else {
        return;
    };
    let rows: Vec<Value> = open_records(&path).unwrap().map(Result::unwrap).collect();
    assert!(rows.len() > 10);
    for row in rows {
        let messages = row["messages"].as_array().unwrap();
        assert!(messages.len() >= 2 && messages.iter().all(|m| m["role"].is_string() && m["content"].is_string()));
    }
}

#[test]
fn parquet_without_the_column_names_those_it_has() {
    let Some(path) = fixture("finewebedu_schema_zstd.parquet") else {
        return;
    };
    let options = |field: &str| SourceOptions { text_field: field.into(), ..SourceOptions::default() };
    let error = texts_with(&path, &options("body")).unwrap_err();
    let Error::ParquetColumn { column, columns, .. } = &error else { panic!("{error}") };
    assert!(column == "body" && columns.contains("text, id"), "{columns}");
    let error = texts_with(&path, &options("score")).unwrap_err();
    assert!(matches!(error, Error::ParquetColumnType { found, .. } if found == "DOUBLE"));
    if let Some(chats) = fixture("ultrachat_schema_zstd.parquet") {
        let error = texts_with(&chats, &options("messages")).unwrap_err();
        assert!(matches!(error, Error::ParquetColumnType { found, .. } if found == "a nested structure"));
    }
}

#[test]
fn parquet_language_and_score() {
    let Some(path) = fixture("finewebedu_schema_zstd.parquet") else {
        return;
    };
    let read = |options: &SourceOptions| -> Result<Vec<Document>, Error> { open_documents(&path, options)?.collect() };
    let found = read(&asking(Some("language"), Some("score"))).unwrap();
    let rows: Vec<Value> = open_records(&path).unwrap().map(Result::unwrap).collect();
    for (document, row) in found.iter().zip(&rows) {
        assert_eq!((document.language.as_deref(), document.score), (row["language"].as_str(), row["score"].as_f64()));
        assert_eq!(Some(&*document.text), row["text"].as_str());
    }
    assert!(found.len() == rows.len() && found[0].score.is_some());
    let counted = read(&asking(None, Some("token_count"))).unwrap();
    assert_eq!(counted[0].score, rows[0]["token_count"].as_f64());
    let missing = read(&asking(Some("lang"), None)).unwrap_err();
    assert!(matches!(&missing, Error::ParquetColumn { role: "language", .. }), "{missing}");
    let wrong = read(&asking(None, Some("language"))).unwrap_err();
    assert!(wrong.to_string().contains("`language` holds BYTE_ARRAY, expected numbers"), "{wrong}");
}

/// A file with one nullable column of strings.
fn small_parquet(values: &[Option<&[u8]>]) -> Vec<u8> {
    use parquet::data_type::{ByteArray, ByteArrayType};
    let schema = parquet::schema::parser::parse_message_type("message m { optional binary text (UTF8); }").unwrap();
    let mut bytes = Vec::new();
    let mut writer =
        parquet::file::writer::SerializedFileWriter::new(&mut bytes, schema.into(), Default::default()).unwrap();
    for group in values.chunks(2) {
        let mut rows = writer.next_row_group().unwrap();
        let mut column = rows.next_column().unwrap().unwrap();
        let present: Vec<ByteArray> = group.iter().flatten().map(|v| v.to_vec().into()).collect();
        let levels: Vec<i16> = group.iter().map(|v| i16::from(v.is_some())).collect();
        column.typed::<ByteArrayType>().write_batch(&present, Some(&levels), None).unwrap();
        column.close().unwrap();
        rows.close().unwrap();
    }
    writer.close().unwrap();
    bytes
}

#[test]
fn parquet_nulls_row_groups_and_invalid_utf8() {
    let good = small_parquet(&[Some(b"one"), None, Some(b"two"), Some(b""), Some(b"three")]);
    let dir = written(&[("a.parquet", &good)]);
    assert_eq!(texts(dir.path()).unwrap(), ["one", "two", "three"]);
    let error = refusal("a.parquet", &small_parquet(&[Some(b"one"), Some(b"two"), Some(b"\xFF\xFE")]));
    assert!(error.to_string().ends_with("row 3: the text is not valid UTF-8"), "{error}");
    assert!(matches!(refusal("a.parquet", &small_parquet(&[None])), Error::EmptyCorpus { documents: 1, .. }));
    assert!(matches!(refusal("a.parquet", &small_parquet(&[])), Error::EmptyCorpus { documents: 0, .. }));
}

#[test]
fn parquet_that_is_none_is_an_error() {
    for bytes in [&b""[..], b"PAR1", b"PAR1 not at all PAR1", &[0; 100]] {
        assert!(matches!(refusal("a.parquet", bytes), Error::Parquet { .. }));
    }
    assert!(matches!(refusal("a.parquet.zst", &zstd_of(b"PAR1")), Error::UnknownFormat { .. }));
    let Some(path) = fixture("ultrachat_schema_zstd.parquet") else {
        return;
    };
    let whole = fs::read(path).unwrap();
    let error = refusal("a.parquet", &whole[..whole.len() - 100]);
    assert!(matches!(error, Error::Parquet { .. }), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn damaged_parquet_never_panics(flips in prop::collection::vec((0.0f64..1.0, any::<u8>()), 1..6), near_end: bool) {
        let Some(path) = fixture("ultrachat_schema_zstd.parquet") else {
            return Ok(());
        };
        let mut bytes = fs::read(path).unwrap();
        for (place, byte) in flips {
            // The footer with the schema is the last few kilobytes.
            let from = if near_end { bytes.len() - 3000 } else { 0 };
            let at = from + (place * (bytes.len() - from) as f64) as usize;
            bytes[at] = byte;
        }
        let dir = written(&[("a.parquet", &bytes)]);
        if let Ok(records) = open_records(&dir.path().join("a.parquet")) {
            for record in records {
                if let Err(error) = record {
                    prop_assert!(matches!(error, Error::Parquet { .. }), "{}", error);
                }
            }
        }
    }

    #[test]
    fn pieces_of_a_text_are_the_text(text in "(\\PC|\n){1,200}", bytes in 4usize..50) {
        let dir = written(&[("a.txt", text.as_bytes())]);
        let options = SourceOptions { text_file_bytes: bytes, ..SourceOptions::default() };
        let mut stream = text::TextPieces::new(stream::Stream::open(&dir.path().join("a.txt")).unwrap(), options.text_file_bytes);
        let mut joined = String::new();
        while let Some(piece) = stream.next().unwrap() {
            prop_assert!(!piece.is_empty() && piece.len() <= bytes);
            joined += &piece;
        }
        prop_assert_eq!(joined, text);
    }

    #[test]
    fn json_array_gives_its_elements(values in prop::collection::vec(("\\PC*", any::<i32>()), 0..8), pretty: bool) {
        let values: Vec<Value> = values.into_iter().map(|(text, n)| json!({"text": text, "n": [n, {"}": "]"}]})).collect();
        let bytes = if pretty { serde_json::to_vec_pretty(&values) } else { serde_json::to_vec(&values) };
        let dir = written(&[("a.json", &bytes.unwrap())]);
        let read: Vec<Value> = open_records(&dir.path().join("a.json")).unwrap().map(Result::unwrap).collect();
        prop_assert_eq!(read, values);
    }
}
