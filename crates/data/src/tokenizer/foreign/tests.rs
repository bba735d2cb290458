use serde_json::{Value, json};

use super::*;
use crate::tokenizer::tests::{byte_tokenizer, foreign_parts, foreign_tokenizer};

/// Damage to a file.
type Change = fn(&mut Value);

fn of(parts: &(Vec<String>, Vec<i32>, Vec<String>), model: &str, pre: &str) -> Result<Tokenizer, Error> {
    let (tokens, token_types, merges) = parts;
    Tokenizer::from_gguf(&GgufVocabulary { model, pre, tokens, token_types, merges }, "a.gguf")
}

#[test]
fn a_gguf_vocabulary_is_the_tokenizer_that_other_programs_read() {
    let texts = [
        "",
        " ",
        "the there 12 in  the\n\n\n int",
        "It's WE'LL \u{1F600} é\u{301} 漢字\t\tthe",
        "½ ٣ x\u{85}\u{a0}y \r\n",
    ];
    for pre in ["gpt-2", "smollm", "llama-bpe", "qwen2"] {
        let ours = of(&foreign_parts(), "gpt2", pre).unwrap();
        let theirs = tokenizers::Tokenizer::from_bytes(ours.to_json().as_bytes()).unwrap();
        for text in texts {
            let ids = ours.encode(text);
            assert_eq!(ids, theirs.encode(text, false).unwrap().get_ids(), "{pre}: {text}");
            assert_eq!(ours.decode(&ids), text);
        }
        assert_eq!(theirs.token_to_id("<|im_end|>"), Some(2));
        let again = Tokenizer::of_model(ours.to_json().as_bytes()).unwrap();
        assert_eq!((again.fingerprint(), again.vocab_size()), (ours.fingerprint(), ours.vocab_size()));
        assert_eq!(again.controls(), ours.controls());
    }
}

#[test]
fn text_never_gives_a_control_token() {
    let tokenizer = foreign_tokenizer();
    assert_eq!(tokenizer.control_id("<|im_start|>"), Some(1));
    for control in tokenizer.controls() {
        let ids = tokenizer.encode(&control.content);
        assert!(ids.iter().all(|id| tokenizer.controls().iter().all(|control| control.id != *id)));
        assert_eq!(tokenizer.decode(&ids), control.content);
        // What the model says itself: a sign is not shown, a mark in the text is.
        let said = tokenizer.decode(&[control.id]);
        assert_eq!(said, if control.hidden { "" } else { control.content.as_str() });
    }
    assert!(tokenizer.controls().iter().any(|control| !control.hidden));
    assert!(matches!(tokenizer.special(), Err(Error::TokenizerNotOwn { found }) if found.contains("<|im_start|>")));
}

#[test]
fn a_whole_word_is_one_token_where_merges_are_ignored() {
    let mut parts = foreign_parts();
    // A word that no merge makes.
    parts.0.push("zebra".to_owned());
    parts.1.push(1);
    let whole = |pre| of(&parts, "gpt2", pre).unwrap().encode("zebra").len();
    assert_eq!((whole("llama-bpe"), whole("gpt-2")), (1, 5));
}

#[test]
fn normalised_text_is_composed_first() {
    let mut value: Value = serde_json::from_str(&foreign_tokenizer().to_json()).unwrap();
    value["normalizer"] = json!({"type": "NFC"});
    let tokenizer = Tokenizer::of_model(value.to_string().as_bytes()).unwrap();
    assert_eq!(tokenizer.encode("e\u{301}"), tokenizer.encode("é"));
    assert_ne!(foreign_tokenizer().encode("e\u{301}"), foreign_tokenizer().encode("é"));
}

#[test]
fn bytes_that_the_vocabulary_lacks_are_left_out() {
    let (mut tokens, mut types, merges) = foreign_parts();
    // SmolLM2 has no token for some control characters.
    let place = tokens.iter().position(|token| token == "Ā").unwrap();
    tokens.remove(place);
    types.remove(place);
    let tokenizer = of(&(tokens, types, merges), "gpt2", "smollm").unwrap();
    assert_eq!(tokenizer.decode(&tokenizer.encode("a\0b")), "ab");
}

#[test]
fn what_cannot_be_followed_is_refused_by_name() {
    for (model, pre, named) in [("llama", "default", "\"llama\""), ("gpt2", "deepseek-llm", "\"deepseek-llm\"")] {
        let refused = of(&foreign_parts(), model, pre).unwrap_err();
        assert!(matches!(refused, Error::TokenizerForeign { .. }));
        let message = refused.to_string();
        assert!(message.contains("a.gguf") && message.contains(named) && message.contains("SmolLM2"), "{message}");
    }
    let changes: [(&str, Change); 5] = [
        ("normalizer", |v| v["normalizer"] = json!({"type": "Lowercase"})),
        ("pre_tokenizer", |v| v["pre_tokenizer"] = json!({"type": "Whitespace"})),
        ("decoder", |v| v["decoder"] = Value::Null),
        ("model", |v| v["model"]["type"] = "Unigram".into()),
        ("model", |v| v["model"]["byte_fallback"] = true.into()),
    ];
    for (name, change) in changes {
        let mut value: Value = serde_json::from_str(&foreign_tokenizer().to_json()).unwrap();
        change(&mut value);
        let refused = Tokenizer::of_model(value.to_string().as_bytes());
        assert!(matches!(refused, Err(Error::TokenizerForeign { field, .. }) if field == name), "{name}");
    }
}

#[test]
fn a_file_that_lies_is_an_error_and_no_panic() {
    let changes: [(&str, Change); 9] = [
        ("uses `漢`", |v| v["model"]["merges"][0] = json!(["a", "漢"])),
        ("uses `<|im_end|>`", |v| v["model"]["merges"][0] = json!(["<|im_end", "|>"])),
        ("is not a pair", |v| v["model"]["merges"][0] = "ab".into()),
        ("is given twice", |v| v["model"]["vocab"]["a"] = v["model"]["vocab"]["b"].clone()),
        ("ids up to 4294967296", |v| v["model"]["vocab"]["a"] = u32::MAX.into()),
        ("is not byte-level", |v| v["model"]["vocab"]["漢"] = 270.into()),
        ("has the ids 2 and 999", |v| v["model"]["vocab"]["<|im_end|>"] = 999.into()),
        ("has no name", |v| v["added_tokens"][0]["content"] = "".into()),
        ("stands twice", |v| {
            v["added_tokens"][1]["content"] = v["added_tokens"][0]["content"].clone();
            v["added_tokens"][1]["id"] = 0.into();
        }),
    ];
    for (expected, change) in changes {
        let mut value: Value = serde_json::from_str(&foreign_tokenizer().to_json()).unwrap();
        value["model"]["vocab"]["<|im_end"] = 271.into();
        value["model"]["vocab"]["|>"] = 272.into();
        change(&mut value);
        match Tokenizer::of_model(value.to_string().as_bytes()) {
            Err(Error::TokenizerFormat { message, .. }) => assert!(message.contains(expected), "{message}"),
            other => panic!("{expected}: {other:?}"),
        }
    }
    for bytes in [&b""[..], b"{}", b"[1]", b"\xff\xfe"] {
        assert!(matches!(Tokenizer::of_model(bytes), Err(Error::TokenizerFormat { .. })));
    }
    let (tokens, types, merges) = foreign_parts();
    for (parts, expected) in [
        ((tokens.clone(), types[1..].to_vec(), merges.clone()), "token types"),
        ((tokens.clone(), vec![9; types.len()], merges.clone()), "of type 9"),
        ((tokens.clone(), types.clone(), vec!["ab".to_owned()]), "not a pair"),
        ((vec![], vec![], vec![]), "ids up to 0"),
    ] {
        assert!(of(&parts, "gpt2", "smollm").unwrap_err().to_string().contains(expected), "{expected}");
    }
}

#[test]
fn a_vocabulary_leaves_as_it_came() {
    let (tokens, token_types, merges) = foreign_parts();
    for pre in ["gpt-2", "smollm", "llama-bpe", "qwen2"] {
        let stated =
            of(&(tokens.clone(), token_types.clone(), merges.clone()), "gpt2", pre).unwrap().to_gguf().unwrap();
        assert_eq!((stated.pre, stated.differs), (pre, None));
        assert_eq!(
            (stated.tokens, stated.token_types, stated.merges),
            (tokens.clone(), token_types.clone(), merges.clone())
        );
    }
    // An id that stands for nothing keeps its place.
    let mut value: Value = serde_json::from_str(&foreign_tokenizer().to_json()).unwrap();
    let size = tokens.len() as u32;
    value["added_tokens"].as_array_mut().unwrap().push(json!({"id": size + 1, "content": "<mark>", "special": false}));
    let stated = Tokenizer::of_model(value.to_string().as_bytes()).unwrap().to_gguf().unwrap();
    assert_eq!(stated.tokens[size as usize..], [format!("[PAD{size}]"), "<mark>".to_owned()]);
    assert_eq!(stated.token_types[size as usize..], [5, 4]);
    // A word that is a token is taken whole, as llama.cpp does for Llama 3 alone.
    value["model"]["ignore_merges"] = true.into();
    let refused = Tokenizer::of_model(value.to_string().as_bytes()).unwrap().to_gguf().unwrap_err();
    assert!(matches!(refused, Error::TokenizerForeign { field: "ignore_merges", .. }), "{refused}");
}

#[test]
fn our_own_vocabulary_is_stated_with_the_nearest_way_of_cutting() {
    let tokenizer = byte_tokenizer();
    let stated = tokenizer.to_gguf().unwrap();
    assert_eq!(stated.pre, "smaug-bpe");
    assert!(stated.differs.is_some_and(|differs| differs.contains("numbers")));
    // Those that llama.cpp has the patterns of.
    for (digits, pre, pattern) in [(1, "qwen2", Scheme::Qwen2), (3, "smaug-bpe", Scheme::Llama3)] {
        let json = tokenizer.to_json().replace("{1,2}", &format!("{{1,{digits}}}"));
        let own = Tokenizer::from_bytes(json.as_bytes()).unwrap();
        assert_eq!(
            (own.to_gguf().unwrap().pre, own.to_gguf().unwrap().differs, own.to_json()),
            (pre, None, json.clone())
        );
        let mut value: Value = serde_json::from_str(&json).unwrap();
        value["pre_tokenizer"] = pattern.to_json();
        let theirs = Tokenizer::of_model(value.to_string().as_bytes()).unwrap();
        for text in ["I'll  pay 1234567.\n\n \nWE'LL\t\r\n 89", "12½٣٣٣٣ c\u{a0}\u{3000}d \u{85}\n", "漢字\n\n  2026 "]
        {
            assert_eq!(own.encode(text), theirs.encode(text), "{digits}: {text:?}");
        }
    }
    assert_eq!(stated.tokens.len(), tokenizer.vocab_size());
    assert_eq!(stated.tokens[..2], ["<s>", "</s>"]);
    assert_eq!(stated.token_types[..7], [3, 3, 3, 3, 3, 3, 1]);
    // But for numbers of three and more digits it is that of Llama 3, merged as ever.
    let mut value: Value = serde_json::from_str(&tokenizer.to_json()).unwrap();
    value["pre_tokenizer"] = Scheme::Llama3.to_json();
    let nearest = Tokenizer::of_model(value.to_string().as_bytes()).unwrap();
    assert_eq!(nearest.to_gguf().unwrap().pre, "smaug-bpe");
    for text in ["I'll  pay 12.\n\n \nWE'LL\t\r\n x", "a1b22 c\u{a0}\u{3000}d \u{85}\n", "½ ٣ 漢字\n\n  "] {
        assert_eq!(nearest.encode(text), tokenizer.encode(text), "{text:?}");
    }
}

#[derive(serde::Deserialize)]
struct Fixture {
    tokens: Vec<String>,
    token_types: Vec<i32>,
    merges: Vec<String>,
    texts: Vec<String>,
    ids: BTreeMap<String, Vec<Vec<u32>>>,
}

#[test]
fn ids_are_those_of_llama_cpp() {
    // Written by llamacpp_tokens.py beside it, with llama.cpp.
    let fixture: Fixture = serde_json::from_str(include_str!("../../../tests/fixtures/llamacpp_tokens.json")).unwrap();
    assert_eq!(fixture.ids.len(), 4);
    let parts = (fixture.tokens, fixture.token_types, fixture.merges);
    for (pre, expected) in fixture.ids {
        let tokenizer = of(&parts, "gpt2", &pre).unwrap();
        assert_eq!(expected.len(), fixture.texts.len());
        for (text, expected) in fixture.texts.iter().zip(expected) {
            assert_eq!(tokenizer.encode(text), expected, "{pre}: {text:?}");
            assert_eq!(tokenizer.decode(&expected), *text);
        }
    }
}
