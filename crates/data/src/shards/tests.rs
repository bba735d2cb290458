use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::curation::{Count, Curation, Duplicates, EvalSets, Filter, Reason, Seen};
use crate::error::Error;
use crate::source::Document;
use crate::split::{Split, SplitRule};
use crate::tokenizer::Tokenizer;
use crate::tokenizer::tests::{byte_tokenizer, invented_documents, trained};

pub(crate) fn options(shard_tokens: u64) -> ShardOptions {
    ShardOptions { shard_tokens, ..ShardOptions::new(SplitRule::new(0.2, 5).unwrap(), "test") }
}

fn documents(texts: &[String]) -> impl Iterator<Item = Result<Document, Error>> + Send + '_ {
    texts.iter().map(|text| Ok(Document::from(text.clone())))
}

/// A folder with the shards of `texts`.
pub(crate) fn shards_of(texts: &[String], tokenizer: &Tokenizer, options: &ShardOptions) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    tokenize(dir.path(), "test", documents(texts), tokenizer, options, &mut |_| {}).unwrap();
    dir
}

fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entry = |e: fs::DirEntry| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap());
    fs::read_dir(folder).unwrap().map(|e| entry(e.unwrap())).collect()
}

fn all_tokens(folder: &Path, split: Split, tokenizer: &Tokenizer) -> Vec<u32> {
    let set = ShardSet::open(folder, split, tokenizer).unwrap();
    let mut tokens = Vec::new();
    set.read(0, u64::MAX, &mut tokens).unwrap();
    assert_eq!(tokens.len() as u64, set.tokens());
    tokens
}

#[test]
fn shards_hold_every_document_between_controls() {
    let tokenizer = trained(400);
    let texts = invented_documents(200, 6);
    let options = options(2000);
    let mut last = TokenizeProgress::default();
    let dir = tempfile::tempdir().unwrap();
    let manifest = tokenize(dir.path(), "test", documents(&texts), &tokenizer, &options, &mut |p| last = p).unwrap();
    assert!(manifest.complete && manifest.of_split(Split::Train).count() > 2, "{manifest:?}");
    let bytes: u64 = texts.iter().map(|text| text.len() as u64).sum();
    assert_eq!((last.documents, last.bytes, last.tokens), (200, bytes, manifest.tokens));
    assert_eq!(manifest.documents, 200);
    for split in [Split::Train, Split::Val] {
        let mut expected = Vec::new();
        let mut bytes = 0;
        for text in texts.iter().filter(|text| options.split.split(text) == split) {
            expected.push(0);
            expected.extend(tokenizer.encode(text));
            expected.push(1);
            bytes += text.len() as u64;
        }
        assert_eq!(all_tokens(dir.path(), split, &tokenizer), expected);
        assert_eq!((manifest.tokens_of(split), manifest.bytes_of(split)), (expected.len() as u64, bytes));
        let set = ShardSet::open(dir.path(), split, &tokenizer).unwrap();
        assert_eq!((set.bytes(), set.source(), set.split()), (bytes, "test", split));
        // Any piece, across shards too.
        for (start, count) in [(0, 1), (1990, 40), (expected.len() as u64 - 3, 10), (expected.len() as u64, 5)] {
            let mut piece = Vec::new();
            set.read(start, count, &mut piece).unwrap();
            let end = (start + count).min(expected.len() as u64);
            assert_eq!(piece, expected[start.min(end) as usize..end as usize]);
        }
    }
    ShardSet::verify(dir.path(), &mut |_, _| {}).unwrap();
    assert_eq!(Manifest::load(dir.path()).unwrap(), manifest);
}

#[test]
fn layout_is_that_of_llm_c() {
    let texts = ["ab".to_owned()];
    let whole = ShardOptions::new(SplitRule::new(0.0, 0).unwrap(), "");
    let dir = shards_of(&texts, &byte_tokenizer(), &whole);
    let bytes = fs::read(dir.path().join("train-00000.bin")).unwrap();
    let header: Vec<i32> = bytes[..1024].chunks(4).map(|c| i32::from_le_bytes(c.try_into().unwrap())).collect();
    assert_eq!(header[..3], [20_240_520, 1, 4]);
    assert!(header[3..].iter().all(|&zero| zero == 0));
    let ids = byte_tokenizer().encode("ab");
    assert_eq!(bytes[1024..], [0, 0, ids[0] as u8, 0, ids[1] as u8, 0, 1, 0]);
    assert_eq!(TokenWidth::of(65_536), TokenWidth::U16);
    assert_eq!((TokenWidth::of(65_537).version(), TokenWidth::of(65_537).bytes()), (2, 4));
}

#[test]
fn wide_tokens_are_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut shard = writer::ShardWriter::create(dir.path(), Split::Val, 3, TokenWidth::U32).unwrap();
    shard.push(&[0, 70_000, 1], 9, 4).unwrap();
    let entry = shard.finish().unwrap();
    assert_eq!((entry.file.as_str(), entry.tokens, entry.bytes, entry.next_document), ("val-00003.bin", 3, 9, 5));
    let reader = ShardReader::open(&dir.path().join(&entry.file), 70_001).unwrap();
    let mut tokens = Vec::new();
    reader.read(1, 2, &mut tokens).unwrap();
    assert_eq!(tokens, [70_000, 1]);
    reader.verify(&entry).unwrap();
    let narrow = ShardReader::open(&dir.path().join(&entry.file), 1000);
    assert!(matches!(narrow, Err(Error::ShardVersion { found: 2, expected: 1, .. })));
}

#[test]
fn shards_are_the_same_with_any_number_of_threads() {
    let tokenizer = trained(400);
    // Several batches of 4 MiB.
    let texts = invented_documents(40_000, 7);
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        contents(pool.install(|| shards_of(&texts, &tokenizer, &options(1_000_000))).path())
    };
    let one = on(1);
    assert!(one.len() > 3);
    assert!(one == on(2) && one == on(4));
}

#[test]
fn interrupted_run_goes_on_after_its_finished_shards() {
    let tokenizer = trained(400);
    let texts = invented_documents(300, 8);
    let options = options(1500);
    let straight = contents(shards_of(&texts, &tokenizer, &options).path());
    let mut taken_up = 0;
    for stop in [1, 40, 111, 299] {
        let dir = tempfile::tempdir().unwrap();
        // The stream breaks in the second batch, so that the first is written before.
        let long = "x ".repeat(3 << 20);
        let first = texts[..stop].iter().cloned().chain([long]).map(|text| Ok(Document::from(text)));
        let broken = first.chain([Err(Error::NoFiles { path: "gone".into() })]);
        let result = tokenize(dir.path(), "test", broken, &tokenizer, &options, &mut |_| {});
        assert!(matches!(result, Err(Error::NoFiles { .. })));
        let begun = match Manifest::load(dir.path()) {
            Ok(manifest) => manifest,
            Err(_) => continue,
        };
        assert!(!begun.complete);
        let refused = ShardSet::open(dir.path(), Split::Train, &tokenizer);
        assert!(matches!(refused, Err(Error::Manifest { message, .. }) if message.contains("not finished")));
        // The long document is not among them: take up from a manifest without its shard.
        let kept: Vec<_> = begun.shards.iter().filter(|s| s.bytes < 1 << 20).cloned().collect();
        let manifest = Manifest {
            documents: kept.iter().map(|s| s.documents).sum(),
            tokens: kept.iter().map(|s| s.tokens).sum(),
            shards: kept.clone(),
            ..begun
        };
        manifest.save(dir.path()).unwrap();
        let written = |name: &str| fs::metadata(dir.path().join(name)).unwrap().modified().unwrap();
        let before: Vec<_> = kept.iter().map(|s| written(&s.file)).collect();
        tokenize(dir.path(), "test", documents(&texts), &tokenizer, &options, &mut |_| {}).unwrap();
        assert!(contents(dir.path()) == straight, "stopped after {stop}");
        let after: Vec<_> = kept.iter().map(|s| written(&s.file)).collect();
        assert_eq!(before, after);
        taken_up += kept.len();
    }
    assert!(taken_up > 5, "{taken_up}");
}

/// Documents of which a third come again, some with a word changed, and every 50th holds a question.
fn documents_to_curate(count: u64) -> (Vec<String>, ShardOptions) {
    let question = "which of these invented animals sleeps through the whole of a long and cold winter";
    let mut texts = invented_documents(count, 12);
    for i in 0..texts.len() {
        match i {
            _ if i % 3 == 2 => texts[i] = format!("{}{}", texts[i / 2], if i % 2 == 0 { " " } else { "\nand more" }),
            _ if i % 50 == 1 => texts[i] += question,
            _ => {}
        }
    }
    let curation = Curation {
        filter: Filter { min_chars: Some(200), ..Filter::default() },
        duplicates: Duplicates::Near(0.8),
        eval_sets: Some(EvalSets::of_texts([("questions", question)]).into()),
        ..Curation::default()
    };
    (texts, ShardOptions { curation, ..options(300_000) })
}

#[test]
fn curated_shards_are_the_same_with_any_number_of_threads_and_say_what_went() {
    let tokenizer = trained(400);
    let (texts, options) = documents_to_curate(20_000);
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| shards_of(&texts, &tokenizer, &options))
    };
    let one = on(1);
    let found = contents(one.path());
    assert!(found.len() > 4 && found == contents(on(2).path()) && found == contents(on(5).path()));
    let manifest = Manifest::load(one.path()).unwrap();
    let report = manifest.report.as_ref().unwrap();
    let bytes = |texts: &[String]| texts.iter().map(|text| text.len() as u64).sum();
    assert_eq!(report.read, Count { documents: 20_000, bytes: bytes(&texts) });
    assert_eq!(report.kept.documents, manifest.documents);
    assert_eq!(report.kept.bytes, manifest.bytes_of(Split::Train) + manifest.bytes_of(Split::Val));
    for reason in [Reason::TooShort, Reason::ExactDuplicate, Reason::NearDuplicate, Reason::Contaminated] {
        assert!(report.dropped[&reason].documents > 100, "{report:?}");
    }
    let went: u64 = report.dropped.values().map(|count| count.documents).sum();
    assert_eq!(went + report.kept.documents, 20_000);
    assert!(report.eval_sets["questions"].documents >= report.dropped[&Reason::Contaminated].documents);
    assert_eq!(manifest.rules, options.curation.rules());

    // Whoever asks for something else gets it.
    let fewer = ShardOptions { curation: Curation { eval_sets: None, ..options.curation.clone() }, ..options };
    let more = tokenize(one.path(), "test", documents(&texts), &tokenizer, &fewer, &mut |_| {}).unwrap();
    // Contaminated documents that repeat one another go as repetitions now.
    let contaminated = manifest.documents + 1..=manifest.documents + report.dropped[&Reason::Contaminated].documents;
    assert!(contaminated.contains(&more.documents), "{} of {contaminated:?}", more.documents);
}

#[test]
fn curated_run_that_was_interrupted_goes_on_as_if_it_never_was() {
    let tokenizer = trained(400);
    let (texts, options) = documents_to_curate(45_000);
    let straight = contents(shards_of(&texts, &tokenizer, &options).path());
    for stop in [20_000, 44_990] {
        let dir = tempfile::tempdir().unwrap();
        let broken = documents(&texts[..stop]).chain([Err(Error::NoFiles { path: "gone".into() })]);
        assert!(tokenize(dir.path(), "test", broken, &tokenizer, &options, &mut |_| {}).is_err());
        let begun = Manifest::load(dir.path()).unwrap();
        assert!(!begun.complete && begun.report.is_none() && !begun.shards.is_empty());
        let written = |name: &str| fs::metadata(dir.path().join(name)).unwrap().modified().unwrap();
        let before: Vec<_> = begun.shards.iter().map(|shard| written(&shard.file)).collect();
        tokenize(dir.path(), "test", documents(&texts), &tokenizer, &options, &mut |_| {}).unwrap();
        assert!(contents(dir.path()) == straight, "stopped after {stop}");
        assert_eq!(before, begun.shards.iter().map(|shard| written(&shard.file)).collect::<Vec<_>>());
    }
}

#[test]
fn what_an_earlier_source_holds_is_dropped_whether_its_shards_are_made_or_there() {
    let tokenizer = trained(400);
    let (texts, options) = documents_to_curate(12_000);
    let (first, second) = texts.split_at(7000);
    let after = |seen: &mut Seen, texts: &[String], options: &ShardOptions| {
        let dir = tempfile::tempdir().unwrap();
        let made =
            tokenize_after(seen, dir.path(), "test", documents(texts), &tokenizer, options, &mut |_| {}).unwrap();
        (dir, made)
    };
    let mut seen = Seen::new(options.curation.duplicates).unwrap();
    let (first_dir, first_made) = after(&mut seen, first, &options);
    let curation = Curation { earlier: Some(first_made.origin().unwrap()), ..options.curation.clone() };
    let later = ShardOptions { curation, ..options.clone() };
    let (second_dir, second_made) = after(&mut seen, second, &later);
    // Together they hold what one source of all the documents holds.
    let whole = Manifest::load(shards_of(&texts, &tokenizer, &options).path()).unwrap();
    let kept = |manifest: &Manifest| manifest.report.as_ref().unwrap().kept.documents;
    assert_eq!(kept(&first_made) + kept(&second_made), kept(&whole));
    let alone = Manifest::load(shards_of(second, &tokenizer, &options).path()).unwrap();
    assert!(kept(&second_made) + 1000 < kept(&alone), "{:?}", second_made.report);

    // Where the first is there it is read again, and tokenised no more.
    assert_eq!(finished(first_dir.path(), "test", &tokenizer, &options).unwrap().as_ref(), Some(&first_made));
    let mut seen = Seen::new(options.curation.duplicates).unwrap();
    seen.see(documents(first), &options.curation, &mut |_| {}).unwrap();
    assert!(contents(after(&mut seen, second, &later).0.path()) == contents(second_dir.path()));
    // After other documents they would be others.
    for options in [
        &options,
        &ShardOptions { curation: Curation { earlier: Some("0".into()), ..later.curation.clone() }, ..later.clone() },
    ] {
        assert_eq!(finished(second_dir.path(), "test", &tokenizer, options).unwrap(), None);
    }
    // They are told in one way.
    let mut seen = Seen::new(Duplicates::Exact).unwrap();
    let refused = seen.see(documents(first), &options.curation, &mut |_| {}).unwrap_err().to_string();
    assert!(refused.contains("the same in all streams"), "{refused}");
}

#[test]
fn memory_that_was_too_little_goes_on_with_more() {
    let tokenizer = trained(400);
    let (texts, options) = documents_to_curate(20_000);
    let straight = contents(shards_of(&texts, &tokenizer, &options).path());
    let dir = tempfile::tempdir().unwrap();
    let little = ShardOptions { curation: Curation { memory: 9 << 20, ..options.curation.clone() }, ..options.clone() };
    let run = |options| tokenize(dir.path(), "test", documents(&texts), &tokenizer, options, &mut |_| {});
    assert!(matches!(run(&little), Err(Error::DuplicateMemory { .. })));
    run(&options).unwrap();
    assert!(contents(dir.path()) == straight);
}

#[test]
fn rules_that_nothing_meets_are_an_error_with_the_reasons() {
    let filter = Filter { min_chars: Some(1 << 30), ..Filter::default() };
    let options = ShardOptions { curation: Curation { filter, ..Curation::default() }, ..options(9) };
    let texts = invented_documents(5, 1);
    let dir = tempfile::tempdir().unwrap();
    let refused = tokenize(dir.path(), "test", documents(&texts), &byte_tokenizer(), &options, &mut |_| {});
    let said = refused.unwrap_err().to_string();
    assert!(said.contains("`test`") && said.contains("5: too short") && said.contains("ask less"), "{said}");
}

#[test]
fn manifest_of_an_earlier_version_is_one_of_all_documents() {
    let tokenizer = byte_tokenizer();
    let dir = shards_of(&invented_documents(30, 1), &tokenizer, &options(1_000_000));
    let path = dir.path().join(MANIFEST_FILE);
    let mut value: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert!(value.get("rules").is_none());
    value.as_object_mut().unwrap().remove("report").unwrap();
    fs::write(&path, value.to_string()).unwrap();
    let never = std::iter::from_fn(|| -> Option<Result<Document, Error>> { panic!("read again") });
    let manifest = tokenize(dir.path(), "test", never, &tokenizer, &options(1_000_000), &mut |_| {}).unwrap();
    assert!(manifest.complete && manifest.report.is_none() && manifest.rules.are_none());
}

#[test]
fn finished_run_is_not_repeated_and_a_changed_one_is() {
    let tokenizer = trained(400);
    let texts = invented_documents(100, 9);
    let dir = shards_of(&texts, &tokenizer, &options(1500));
    let first = contents(dir.path());
    let never = std::iter::from_fn(|| -> Option<Result<Document, Error>> { panic!("read again") });
    tokenize(dir.path(), "test", never, &tokenizer, &options(1500), &mut |_| {}).unwrap();
    assert!(contents(dir.path()) == first);

    // A shard that is gone or cut short is made again.
    fs::write(dir.path().join("train-00000.bin"), b"short").unwrap();
    tokenize(dir.path(), "test", documents(&texts), &tokenizer, &options(1500), &mut |_| {}).unwrap();
    assert!(contents(dir.path()) == first);

    let longer = options(1_000_000);
    let manifest = tokenize(dir.path(), "test", documents(&texts), &tokenizer, &longer, &mut |_| {}).unwrap();
    assert_eq!(manifest.shards.len(), 2);
    assert_eq!(contents(dir.path()).len(), 3, "no file of the earlier run is left");
    let other = ShardOptions { inputs: "other".into(), ..longer };
    let manifest = tokenize(dir.path(), "test", documents(&texts[..9]), &tokenizer, &other, &mut |_| {}).unwrap();
    assert_eq!(manifest.documents, 9);
    let retrained = trained(420);
    let manifest = tokenize(dir.path(), "test", documents(&texts), &retrained, &other, &mut |_| {}).unwrap();
    assert_eq!((manifest.documents, manifest.vocab_size), (100, 420));
}

#[test]
fn settings_out_of_range_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let tokenizer = byte_tokenizer();
    let run = |source: &str, options: &ShardOptions, texts: &[String]| {
        tokenize(dir.path(), source, documents(texts), &tokenizer, options, &mut |_| {})
    };
    for name in ["", "a/b", "..", ".a", "a b"] {
        assert!(matches!(run(name, &options(9), &[]), Err(Error::SourceName { .. })), "{name}");
    }
    for tokens in [0, (1 << 30) + 1] {
        let refused = run("a", &options(tokens), &[]);
        assert!(matches!(refused, Err(Error::LoaderSetting { field: "shard_tokens", .. })));
    }
    assert!(matches!(run("a", &options(9), &[]), Err(Error::EmptyCorpus { .. })));
}

/// Changes the first training shard of a good folder and opens it.
fn damaged(change: impl FnOnce(&mut Vec<u8>)) -> (TempDir, Result<ShardSet, Error>) {
    let tokenizer = byte_tokenizer();
    let dir = shards_of(&invented_documents(30, 1), &tokenizer, &options(1_000_000));
    let path = dir.path().join("train-00000.bin");
    let mut bytes = fs::read(&path).unwrap();
    change(&mut bytes);
    fs::write(&path, bytes).unwrap();
    let set = ShardSet::open(dir.path(), Split::Train, &tokenizer);
    (dir, set)
}

#[test]
fn truncated_shard_is_an_error() {
    for length in [0, 10, 1023] {
        let (_, set) = damaged(|bytes| bytes.truncate(length));
        assert!(matches!(set, Err(Error::ShardLength { expected: 1024, found, .. }) if found == length as u64));
    }
    for length in [1024, 1025, 2000] {
        let (_, set) = damaged(|bytes| bytes.truncate(length));
        assert!(matches!(set, Err(Error::ShardLength { found, .. }) if found == length as u64));
    }
    let (_, set) = damaged(|bytes| bytes.push(0));
    assert!(set.unwrap_err().to_string().contains("truncated or damaged; remove it"));
    let (_, set) = damaged(|bytes| bytes[8..12].copy_from_slice(&(-1i32).to_le_bytes()));
    assert!(matches!(set, Err(Error::ShardLength { .. })));
}

#[test]
fn bad_magic_version_and_count_are_errors() {
    let (_, set) = damaged(|bytes| bytes[0] ^= 1);
    assert!(matches!(set, Err(Error::ShardMagic { expected: MAGIC, .. })));
    let (_, set) = damaged(|bytes| bytes[4] = 7);
    assert!(matches!(set, Err(Error::ShardVersion { found: 7, expected: 1, .. })));
    let (_, set) = damaged(|bytes| {
        bytes.truncate(1024 + 20);
        bytes[8..12].copy_from_slice(&10i32.to_le_bytes());
    });
    assert!(matches!(set, Err(Error::ShardCount { found: 10, .. })));
}

#[test]
fn id_outside_the_vocabulary_is_an_error() {
    let (_, set) = damaged(|bytes| bytes[1024 + 14..1024 + 16].copy_from_slice(&[0xFF, 0xFF]));
    let set = set.unwrap();
    set.read(0, 7, &mut Vec::new()).unwrap();
    let refused = set.read(5, 10, &mut Vec::new());
    assert!(matches!(refused, Err(Error::ShardToken { position: 7, id: 65_535, vocab_size: 262, .. })));
}

#[test]
fn flipped_bit_is_found_by_verify() {
    let (dir, set) = damaged(|bytes| bytes[1024 + 40] ^= 1);
    assert!(set.is_ok());
    assert!(matches!(ShardSet::verify(dir.path(), &mut |_, _| {}), Err(Error::ShardChecksum { .. })));
}

#[test]
fn other_tokenizer_or_vocabulary_is_an_error() {
    let tokenizer = trained(400);
    let dir = shards_of(&invented_documents(30, 1), &tokenizer, &options(1_000_000));
    let open = |tokenizer: &Tokenizer| ShardSet::open(dir.path(), Split::Train, tokenizer);
    assert!(open(&tokenizer).is_ok());
    assert!(matches!(open(&trained(401)), Err(Error::ShardVocabulary { expected: 401, found: 400, .. })));
    let other = Tokenizer::train(
        invented_documents(300, 99).into_iter().map(|text| Ok(text.replace('k', "q"))),
        &crate::tokenizer::TrainOptions { vocab_size: 400, ..Default::default() },
        &mut |_| {},
    );
    let other = other.unwrap();
    let refused = open(&other).unwrap_err();
    assert!(refused.to_string().contains(&tokenizer.fingerprint()));
    assert!(matches!(refused, Error::ShardTokenizer { expected, .. } if expected == other.fingerprint()));
}

#[test]
fn manifest_that_is_missing_or_lies_is_an_error() {
    let tokenizer = byte_tokenizer();
    let dir = shards_of(&invented_documents(30, 1), &tokenizer, &options(1_000_000));
    let path = dir.path().join(MANIFEST_FILE);
    let good = fs::read_to_string(&path).unwrap();
    let with = |text: &str| {
        fs::write(&path, text).unwrap();
        ShardSet::open(dir.path(), Split::Train, &tokenizer).unwrap_err()
    };
    for bad in [
        "".to_owned(),
        "{}".to_owned(),
        good.replace("\"version\": 1", "\"version\": 2"),
        good.replace("train-00000.bin", "../train-00000.bin"),
    ] {
        assert!(matches!(with(&bad), Error::Manifest { .. }), "{bad}");
    }
    let gone = with(&good.replace("train-00000.bin", "train-00009.bin"));
    assert!(matches!(gone, Error::Io { action: "open", .. }));
    fs::remove_file(&path).unwrap();
    let none = ShardSet::open(dir.path(), Split::Train, &tokenizer).unwrap_err();
    assert!(none.to_string().contains("there are no shards here; run `casallm tokenize`"));
}
