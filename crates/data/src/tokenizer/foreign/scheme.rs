//! [`Scheme`]: the ways of cutting text into words that are followed.
//!
//! Each is a pattern of one family (see `splitter::words_of`), so that the automaton that serves our own tokenizers
//! serves them too, in time that grows with the text and no faster, whatever the text.

use std::sync::LazyLock;

use regex_automata::meta::Regex;
use serde_json::{Value, json};

use crate::tokenizer::splitter::{self, Digits};

/// GPT-2's pattern; `ByteLevel` of tokenizer.json means it without saying so.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// Llama 3's pattern.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// The pattern of Qwen2, Qwen2.5 and Qwen3.
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Of the patterns that llama.cpp knows none has digits in groups of two; the nearest differs in nothing else.
const PAIRS_DIFFER: &str =
    "numbers of three and more digits are cut in another way; a tokenizer trained with digits = 1 or 3 is cut the same";

fn automaton(pattern: &str) -> Regex {
    let plain = pattern.replace(r"|\s+(?!\S)", "");
    Regex::new(&plain).expect("the patterns are constants, compiled by the tests")
}

static GPT2_AUTOMATON: LazyLock<Regex> = LazyLock::new(|| automaton(GPT2));
static LLAMA3_AUTOMATON: LazyLock<Regex> = LazyLock::new(|| automaton(LLAMA3));
static QWEN2_AUTOMATON: LazyLock<Regex> = LazyLock::new(|| automaton(QWEN2));

/// The step that turns bytes into characters; with `use_regex` it also cuts as GPT-2 does.
pub(in crate::tokenizer) fn byte_level(use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": use_regex})
}

/// How a tokenizer cuts text into words, across which nothing is merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::tokenizer) enum Scheme {
    /// That of this program, with words of so many digits.
    Own(Digits),
    /// GPT-2.
    Gpt2,
    /// SmolLM: each digit apart, then as GPT-2.
    SmolLm,
    /// Llama 3.
    Llama3,
    /// Qwen2 and later.
    Qwen2,
}

impl Scheme {
    /// Those of other programs, for the search by what a file says.
    const FOREIGN: [Self; 4] = [Self::Gpt2, Self::SmolLm, Self::Llama3, Self::Qwen2];

    /// How many digits are a word, if it is this program's way that tokenizer.json states in `pre_tokenizer`.
    pub(in crate::tokenizer) fn own_digits(stated: &Value) -> Option<Digits> {
        Digits::ALL.into_iter().find(|digits| *stated == Self::Own(*digits).to_json())
    }

    /// The scheme that tokenizer.json states in `pre_tokenizer`.
    pub(super) fn of_json(stated: &Value) -> Option<Self> {
        let mut stated = stated.clone();
        let steps = match stated.get_mut("pretokenizers").and_then(Value::as_array_mut) {
            Some(steps) => steps.iter_mut().collect(),
            None => vec![&mut stated],
        };
        for step in steps.into_iter().filter_map(Value::as_object_mut) {
            if step.get("type") == Some(&json!("ByteLevel")) {
                // It changes no id.
                step.insert("trim_offsets".to_owned(), json!(false));
                // Left out it is true.
                step.entry("use_regex").or_insert(json!(true));
            }
        }
        Self::FOREIGN.into_iter().find(|scheme| scheme.to_json() == stated)
    }

    /// The scheme that a GGUF file names in `tokenizer.ggml.pre`.
    pub(super) fn of_gguf(name: &str) -> Option<Self> {
        match name {
            "gpt-2" | "gpt2" => Some(Self::Gpt2),
            "smollm" => Some(Self::SmolLm),
            "llama-bpe" | "llama3" | "llama-v3" => Some(Self::Llama3),
            "qwen2" => Some(Self::Qwen2),
            _ => None,
        }
    }

    /// The name under which llama.cpp cuts so, or nearly, and what it cuts in another way. `None`: a word that is a token is
    /// taken whole (`ignore_merges`) where llama.cpp merges.
    pub(super) fn gguf(self, ignore_merges: bool) -> Option<(&'static str, Option<&'static str>)> {
        match (self, ignore_merges) {
            // But for digits these are the same pattern, written in another way.
            (Self::Own(Digits::One), false) => Some(("qwen2", None)),
            (Self::Own(Digits::Two), false) => Some(("smaug-bpe", Some(PAIRS_DIFFER))),
            (Self::Own(Digits::Three), false) => Some(("smaug-bpe", None)),
            (Self::Gpt2, false) => Some(("gpt-2", None)),
            (Self::SmolLm, false) => Some(("smollm", None)),
            (Self::Llama3, true) => Some(("llama-bpe", None)),
            (Self::Llama3, false) => Some(("smaug-bpe", None)),
            (Self::Qwen2, false) => Some(("qwen2", None)),
            _ => None,
        }
    }

    /// `pre_tokenizer` of tokenizer.json.
    pub(in crate::tokenizer) fn to_json(self) -> Value {
        let split = |pattern: &str| {
            let split =
                json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
            json!({"type": "Sequence", "pretokenizers": [split, byte_level(false)]})
        };
        match self {
            Self::Own(digits) => split(&digits.pattern()),
            Self::Gpt2 => byte_level(true),
            Self::SmolLm => json!({"type": "Sequence", "pretokenizers": [
                {"type": "Digits", "individual_digits": true},
                byte_level(true),
            ]}),
            Self::Llama3 => split(LLAMA3),
            Self::Qwen2 => split(QWEN2),
        }
    }

    /// Gives the words of `text` in order and without gaps.
    pub(in crate::tokenizer) fn each_word<'a>(self, text: &'a str, mut word: impl FnMut(&'a str)) {
        let mut all = |automaton: &Regex, line_ends: bool, part: &'a str| {
            for range in splitter::words_of(automaton, line_ends, part) {
                word(&part[range]);
            }
        };
        match self {
            Self::Own(digits) => splitter::words(digits, text).for_each(|range| word(&text[range])),
            Self::Gpt2 => all(&GPT2_AUTOMATON, true, text),
            Self::Llama3 => all(&LLAMA3_AUTOMATON, false, text),
            Self::Qwen2 => all(&QWEN2_AUTOMATON, false, text),
            Self::SmolLm => {
                let mut rest = text;
                while let Some(at) = rest.find(char::is_numeric) {
                    let digit = at + rest[at..].chars().next().map_or(0, char::len_utf8);
                    all(&GPT2_AUTOMATON, true, &rest[..at]);
                    all(&GPT2_AUTOMATON, true, &rest[at..digit]);
                    rest = &rest[digit..];
                }
                all(&GPT2_AUTOMATON, true, rest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, PreTokenizerWrapper};

    fn split(scheme: Scheme, text: &str) -> Vec<&str> {
        let mut words = Vec::new();
        scheme.each_word(text, |word| words.push(word));
        words
    }

    /// What the crate does with the same tokenizer.json.
    fn reference(scheme: Scheme, text: &str) -> Vec<String> {
        let theirs: PreTokenizerWrapper = serde_json::from_value(scheme.to_json()).unwrap();
        let mut pretokenized = PreTokenizedString::from(text);
        theirs.pre_tokenize(&mut pretokenized).unwrap();
        pretokenized
            .get_splits(OffsetReferential::Original, OffsetType::Byte)
            .into_iter()
            .map(|(_, (from, to), _)| text[from..to].to_owned())
            .filter(|word| !word.is_empty())
            .collect()
    }

    #[test]
    fn words_of_each_scheme() {
        let text = "I'LL pay  $123\n\n  x";
        assert_eq!(split(Scheme::Gpt2, text), ["I", "'", "LL", " pay", " ", " $", "123", "\n\n ", " x"]);
        assert_eq!(split(Scheme::SmolLm, text), ["I", "'", "LL", " pay", " ", " $", "1", "2", "3", "\n\n ", " x"]);
        assert_eq!(split(Scheme::Llama3, text), ["I", "'LL", " pay", " ", " $", "123", "\n\n", " ", " x"]);
        assert_eq!(split(Scheme::Qwen2, text), ["I", "'LL", " pay", " ", " $", "1", "2", "3", "\n\n", " ", " x"]);
        assert_eq!(split(Scheme::SmolLm, "a  1"), ["a", "  ", "1"]);
    }

    #[test]
    fn a_scheme_is_known_by_what_it_states() {
        for scheme in Scheme::FOREIGN {
            assert_eq!(Scheme::of_json(&scheme.to_json()), Some(scheme));
        }
        // As older files say it.
        let older = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true});
        assert_eq!(Scheme::of_json(&older), Some(Scheme::Gpt2));
        for other in [
            json!({"type": "ByteLevel", "add_prefix_space": true}),
            json!({"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}),
            json!({"type": "Whitespace"}),
            json!(null),
            json!([1]),
        ] {
            assert_eq!(Scheme::of_json(&other), None, "{other}");
        }
    }

    #[test]
    fn a_line_of_a_megabyte_is_cut_at_once() {
        for scheme in Scheme::FOREIGN {
            for piece in [" ", "a", "1", "\n", "'", "\u{3000}"] {
                let text = piece.repeat(1 << 20);
                assert_eq!(split(scheme, &text).iter().map(|word| word.len()).sum::<usize>(), text.len());
            }
        }
    }

    proptest! {
        #[test]
        fn automata_equal_the_crates_pipeline(text in r"(?s)(\PC|[ \t\r\n'a-cS0-9\.\u{a0}\u{85}\u{301}½٣]){0,60}") {
            for scheme in Scheme::FOREIGN {
                prop_assert_eq!(split(scheme, &text), reference(scheme, &text), "{:?}", scheme);
                prop_assert_eq!(split(scheme, &text).concat(), text.as_str());
            }
        }
    }
}
