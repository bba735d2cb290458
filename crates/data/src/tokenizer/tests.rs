use std::path::PathBuf;

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::seeded::SplitMix64;

/// A tokenizer without a merge: one id per byte.
pub(crate) fn byte_tokenizer() -> Tokenizer {
    let spellings: Vec<String> = (0..=255).map(|b| byte_chars::char_of(b).to_string()).collect();
    file::assemble(&spellings, &[], Digits::Two, "test").unwrap()
}

/// Tokens, their types and merges as a GGUF file has them: five control tokens, the bytes, a few merges.
pub(crate) fn foreign_parts() -> (Vec<String>, Vec<i32>, Vec<String>) {
    let mut tokens: Vec<String> =
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<file_sep>", "<think>"].map(str::to_owned).to_vec();
    let mut types = vec![3, 3, 3, 3, 4];
    tokens.extend((0..=255).map(|byte| byte_chars::char_of(byte).to_string()));
    let merges = ["t h", "th e", "Ġ the", "Ġ Ġ", "i n", "Ċ Ċ"];
    tokens.extend(merges.map(|merge| merge.replace(' ', "")));
    types.resize(tokens.len(), 1);
    (tokens, types, merges.map(str::to_owned).to_vec())
}

pub(crate) fn foreign_tokenizer() -> Tokenizer {
    let (tokens, token_types, merges) = foreign_parts();
    let vocabulary =
        GgufVocabulary { model: "gpt2", pre: "smollm", tokens: &tokens, token_types: &token_types, merges: &merges };
    Tokenizer::from_gguf(&vocabulary, "test").unwrap()
}

/// Documents of invented words, so that merges have something to learn.
pub(crate) fn invented_documents(count: u64, seed: u64) -> Vec<String> {
    const SYLLABLES: [&str; 12] = ["ba", "ko", "tri", "né", "lum", "ou", "st", "er", "12", "-", "an", "'s"];
    let mut rng = SplitMix64::new(seed, 0);
    let mut word = || -> String { (0..1 + rng.below(4)).map(|_| SYLLABLES[rng.below(12)]).collect() };
    (0..count)
        .map(|i| {
            let words: Vec<String> = (0..20 + i % 50).map(|_| word()).collect();
            format!("{}.\n", words.join(" "))
        })
        .collect()
}

pub(crate) fn trained(vocab_size: usize) -> Tokenizer {
    train_on(&invented_documents(300, 1), &options(vocab_size)).unwrap()
}

fn options(vocab_size: usize) -> TrainOptions {
    TrainOptions { vocab_size, ..TrainOptions::default() }
}

fn train_on(documents: &[String], options: &TrainOptions) -> Result<Tokenizer, Error> {
    Tokenizer::train(documents.iter().cloned().map(Ok), options, &mut |_| {})
}

fn shared(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data").join(name);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: {} is not here", path.display());
    None
}

#[test]
fn training_gives_the_size_asked_and_controls_first() {
    let mut seen = Vec::new();
    let documents = invented_documents(300, 1);
    let tokenizer = Tokenizer::train(documents.iter().cloned().map(Ok), &options(400), &mut |p| seen.push(p));
    let tokenizer = tokenizer.unwrap();
    assert_eq!(tokenizer.vocab_size(), 400);
    assert_eq!(
        tokenizer.special().unwrap(),
        SpecialTokens { bos: 0, eos: 1, pad: 2, system: 3, user: 4, assistant: 5 }
    );
    assert!((0..6).all(|id| tokenizer.token_bytes(id) == Some(b"")));
    assert_eq!(tokenizer.token_bytes(400), None);
    assert_eq!(tokenizer.byte_lengths()[..7], [0, 0, 0, 0, 0, 0, 1]);
    let last = seen.last().unwrap();
    assert!(last.merging && last.documents == 300 && last.words > 100);
    assert_eq!(last.bytes as usize, documents.iter().map(String::len).sum::<usize>());
    let ids = tokenizer.encode(&documents[0]);
    assert!(ids.len() * 3 < documents[0].len() * 2, "merges were learned");
    assert_eq!(tokenizer.decode(&ids), documents[0]);
}

#[test]
fn training_is_the_same_with_any_number_of_threads() {
    // Three batches of 8 MiB; and a table so small that rare words are forgotten between them.
    let documents = invented_documents(70_000, 2);
    let small = TrainOptions { max_words: 3000, ..options(600) };
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| train_on(&documents, &small).unwrap().to_json())
    };
    let one = on(1);
    assert_eq!(one, on(2));
    assert_eq!(one, on(5));
}

#[test]
fn training_reads_no_more_than_the_sample() {
    let documents = || (0..).map(|i| Ok(format!("sample {i} é ").repeat(50)));
    let mut read = 0;
    let sample = TrainOptions { max_bytes: 100_001, ..options(300) };
    Tokenizer::train(documents(), &sample, &mut |p| read = p.bytes).unwrap();
    assert!((99_990..=100_001).contains(&read), "{read}");
    // One byte left in front of a character of two.
    let sample = TrainOptions { max_bytes: 3, min_frequency: 1, ..options(262) };
    let two = ["ab", "éé"].map(|text| Ok(text.to_owned()));
    Tokenizer::train(two.into_iter(), &sample, &mut |_| {}).unwrap();
}

#[test]
fn clauses_without_spaces_are_learned_from() {
    // Of 30 characters, 90 bytes: no word is short enough to be counted whole.
    let mut rng = SplitMix64::new(3, 0);
    let mut word = || ["学校", "です", "本を", "読む", "大きな", "山"][rng.below(6)];
    let documents: Vec<String> = (0..200).map(|_| (0..15).map(|_| word()).collect::<String>() + "。").collect();
    let tokenizer = train_on(&documents, &options(300)).unwrap();
    for word in ["学校", "大きな"] {
        assert_eq!(tokenizer.encode(word).len(), 1, "{word}");
    }
    // What is long for another reason still is not.
    let lines = ["─".repeat(40), "=".repeat(70), "QUJD".repeat(20)].map(|line| line + " a");
    assert!(matches!(train_on(&lines, &options(270)), Err(Error::VocabularyShort { .. })));
}

#[test]
fn training_errors() {
    let documents = invented_documents(10, 1);
    for size in [0, 261, MAX_VOCAB_SIZE + 1] {
        let refused = train_on(&documents, &options(size));
        assert!(matches!(refused, Err(Error::VocabularySize { found, .. }) if found == size));
    }
    for max_bytes in [0, MAX_SAMPLE_BYTES + 1] {
        let refused = train_on(&documents, &TrainOptions { max_bytes, ..options(300) });
        assert!(matches!(refused, Err(Error::SampleSize { found, .. }) if found == max_bytes));
    }
    let short = train_on(&documents, &options(50_000));
    assert!(matches!(short, Err(Error::VocabularyShort { requested: 50_000, reached }) if reached < 5000));
    assert!(matches!(train_on(&[], &options(300)), Err(Error::EmptyCorpus { .. })));
    assert!(matches!(train_on(&[String::new()], &options(300)), Err(Error::EmptyCorpus { documents: 1, .. })));
    let broken = [Ok("a".to_owned()), Err(Error::NoFiles { path: "x".into() })];
    let refused = Tokenizer::train(broken.into_iter(), &options(300), &mut |_| {});
    assert!(matches!(refused, Err(Error::NoFiles { .. })));
}

#[test]
fn file_keeps_everything() {
    let tokenizer = trained(500);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model/tokenizer.json");
    tokenizer.save(&path).unwrap();
    let loaded = Tokenizer::load(&path).unwrap();
    assert_eq!(loaded.to_json(), tokenizer.to_json());
    assert_eq!(loaded.fingerprint(), tokenizer.fingerprint());
    assert_eq!(loaded.fingerprint().len(), 64);
    assert_ne!(loaded.fingerprint(), trained(501).fingerprint());
    // White space and the order of keys in the file do not matter.
    let value: Value = serde_json::from_str(&tokenizer.to_json()).unwrap();
    let pretty = Tokenizer::from_bytes(serde_json::to_string_pretty(&value).unwrap().as_bytes()).unwrap();
    assert_eq!(pretty.fingerprint(), tokenizer.fingerprint());
    assert!(matches!(Tokenizer::load(&dir.path().join("none")), Err(Error::Io { action: "read", .. })));
}

#[test]
fn other_programs_read_the_file_alike() {
    let ours = trained(700);
    let theirs = tokenizers::Tokenizer::from_bytes(ours.to_json().as_bytes()).unwrap();
    let texts = ["", "ba ko  trilum\n\nst 12345 né's — 漢字 😀\t\t x", "Lumou-er's   "];
    for text in texts.iter().map(|t| t.to_string()).chain(invented_documents(20, 9)) {
        let encoding = theirs.encode(text.as_str(), false).unwrap();
        assert_eq!(ours.encode(&text), encoding.get_ids(), "{text}");
        assert_eq!(theirs.decode(encoding.get_ids(), true).unwrap(), text);
    }
    assert_eq!(theirs.token_to_id("<|assistant|>"), Some(5));
    assert_eq!(theirs.encode("<s><|user|>", false).unwrap().get_ids(), [0, 4]);
    assert_eq!(theirs.get_vocab_size(true), 700);
}

#[test]
fn batch_equals_one_by_one() {
    let tokenizer = trained(500);
    let documents = invented_documents(40, 3);
    let texts: Vec<&str> = documents.iter().map(String::as_str).collect();
    let one_by_one: Vec<Vec<u32>> = texts.iter().map(|text| tokenizer.encode(text)).collect();
    assert_eq!(tokenizer.encode_batch(&texts), one_by_one);
}

#[test]
fn decode_skips_controls_and_survives_anything() {
    let tokenizer = byte_tokenizer();
    let mut ids = vec![0, 4];
    ids.extend(tokenizer.encode("hé"));
    ids.extend([1, 999_999]);
    assert_eq!(tokenizer.decode(&ids), "hé");
    let half = tokenizer.encode("é")[0];
    assert_eq!(tokenizer.decode(&[half, 5]), "\u{fffd}");
}

type Change = fn(&mut Value);

/// The file of a small tokenizer with one thing changed.
fn altered(change: impl FnOnce(&mut Value)) -> Result<Tokenizer, Error> {
    let mut value: Value = serde_json::from_str(&trained(300).to_json()).unwrap();
    change(&mut value);
    Tokenizer::from_bytes(value.to_string().as_bytes())
}

#[test]
fn missing_or_misplaced_control_token_is_an_error() {
    let renamed = altered(|v| {
        v["model"]["vocab"].as_object_mut().unwrap().remove("<|user|>");
        v["model"]["vocab"]["<|human|>"] = 4.into();
    });
    assert!(matches!(renamed, Err(Error::TokenizerSpecial { token: "<|user|>", expected: 4, found: None, .. })));
    let swapped = altered(|v| {
        v["model"]["vocab"]["<s>"] = 1.into();
        v["model"]["vocab"]["</s>"] = 0.into();
    });
    assert!(matches!(swapped, Err(Error::TokenizerSpecial { token: "<s>", found: Some(1), .. })));
    let undeclared = altered(|v| v["added_tokens"] = Value::Array(vec![]));
    assert!(matches!(undeclared, Err(Error::TokenizerSpecial { token: "<s>", found: None, .. })));
    let ordinary = altered(|v| v["added_tokens"][2]["special"] = false.into());
    assert!(matches!(ordinary, Err(Error::TokenizerSpecial { token: "<pad>", .. })));
}

#[test]
fn other_pipeline_is_an_error() {
    let changes: [(&str, Change); 5] = [
        ("normalizer", |v| v["normalizer"] = serde_json::json!({"type": "NFC"})),
        ("pre_tokenizer", |v| v["pre_tokenizer"] = serde_json::json!({"type": "Whitespace"})),
        ("decoder", |v| v["decoder"] = Value::Null),
        ("model", |v| v["model"]["type"] = "WordPiece".into()),
        ("model", |v| v["model"]["dropout"] = 0.1.into()),
    ];
    for (name, change) in changes {
        let refused = altered(change);
        assert!(matches!(refused, Err(Error::TokenizerPipeline { field, .. }) if field == name), "{name}");
    }
}

#[test]
fn file_that_lies_is_an_error_and_no_panic() {
    let changes: [(&str, Change); 8] = [
        ("which is no token of text", |v| v["model"]["merges"][0] = serde_json::json!(["a", "漢"])),
        // The crate's own builder copies such a pair past the end of its buffer.
        ("which is no token of text", |v| {
            v["model"]["merges"][0] = serde_json::json!([";".repeat(400), "b"]);
        }),
        ("which is no token of text", |v| v["model"]["merges"][0] = serde_json::json!(["<", "s>"])),
        ("is not a pair", |v| v["model"]["merges"][0] = "ab".into()),
        ("no token for byte", |v| {
            let vocab = v["model"]["vocab"].as_object_mut().unwrap();
            let id = vocab.remove("a").unwrap();
            vocab.insert("aaaaaaaa".into(), id);
        }),
        ("is given to", |v| v["model"]["vocab"]["a"] = v["model"]["vocab"]["b"].clone()),
        ("with only 300 tokens", |v| v["model"]["vocab"]["a"] = 300.into()),
        ("unknown control token", |v| {
            let mut extra = v["added_tokens"][0].clone();
            extra["content"] = "<|tool|>".into();
            v["added_tokens"].as_array_mut().unwrap().push(extra);
        }),
    ];
    for (expected, change) in changes {
        match altered(change) {
            Err(Error::TokenizerFormat { message, .. }) => assert!(message.contains(expected), "{message}"),
            other => panic!("{expected}: {other:?}"),
        }
    }
    for bytes in [&b""[..], b"{}", b"[1]", b"\xff\xfe"] {
        assert!(matches!(Tokenizer::from_bytes(bytes), Err(Error::TokenizerFormat { .. })));
    }
}

#[test]
fn shakespeare_round_trips_and_matches_the_crate() {
    let Some(path) = shared("pretrain/tinyshakespeare.txt") else {
        return;
    };
    let text = std::fs::read_to_string(path).unwrap();
    let documents: Vec<String> = text.split_inclusive("\n\n").map(str::to_owned).collect();
    let tokenizer = train_on(&documents, &options(2048)).unwrap();
    let ids = tokenizer.encode(&text);
    assert_eq!(tokenizer.decode(&ids), text);
    let bytes_per_token = text.len() as f64 / ids.len() as f64;
    assert!(bytes_per_token > 3.0, "{bytes_per_token}");
    let theirs = tokenizers::Tokenizer::from_bytes(tokenizer.to_json().as_bytes()).unwrap();
    let part = &text[..50_000];
    assert_eq!(tokenizer.encode(part), theirs.encode(part, false).unwrap().get_ids());
}

fn hostile() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        prop::sample::select(SPECIAL_TOKENS.to_vec()).prop_map(str::to_owned),
        prop::sample::select(vec!["<", "|", ">", "</", "<|", "|>", "s", "user", "Ġ", "Ċ", " ", "\n", "\0"])
            .prop_map(str::to_owned),
        any::<String>(),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_text_round_trips_without_control_tokens(text in hostile()) {
        thread_local!(static TOKENIZER: Tokenizer = {
            // Learns the control tokens' own letters, as from a page about chat templates.
            let mut documents = invented_documents(100, 4);
            documents.extend((0..200).map(|_| SPECIAL_TOKENS.concat()));
            train_on(&documents, &options(400)).unwrap()
        });
        TOKENIZER.with(|tokenizer| {
            let ids = tokenizer.encode(&text);
            prop_assert!(ids.iter().all(|&id| (6..400).contains(&id)), "{:?}", ids);
            prop_assert_eq!(tokenizer.decode(&ids), text.as_str());
            let bytes: u32 = ids.iter().map(|&id| tokenizer.byte_lengths()[id as usize]).sum();
            prop_assert_eq!(bytes as usize, text.len());
            Ok(())
        })?;
    }
}
