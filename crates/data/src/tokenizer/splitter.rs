//! Where words begin and end: byte-level BPE merges never cross these borders.
//!
//! The split is that of GPT-4: contractions; letters with one leading mark or space; digits in groups of at most three,
//! unless told otherwise; marks with one leading space and the line ends after them; white space up to a line end; white
//! space that leaves its last character to the next word. Three digits, because llama.cpp knows threes and single digits
//! and no pairs; pairs spare a small vocabulary some hundred tokens (docs/LOG.md has what each costs).

use std::ops::Range;
use std::sync::LazyLock;

use regex_automata::meta::Regex;
use regex_automata::{Anchored, Input};

/// How many digits are a word, at most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Digits {
    /// Each digit alone, as Qwen2 and later: llama.cpp knows this way.
    One,
    /// Pairs, from a number's left.
    Two,
    /// Threes, as GPT-4 and Llama 3: llama.cpp knows this way.
    #[default]
    Three,
}

impl Digits {
    /// Every choice.
    pub const ALL: [Digits; 3] = [Digits::One, Digits::Two, Digits::Three];

    /// The number.
    pub fn number(self) -> usize {
        match self {
            Digits::One => 1,
            Digits::Two => 2,
            Digits::Three => 3,
        }
    }

    /// The pattern as tokenizer.json states it.
    pub(super) fn pattern(self) -> String {
        PATTERN.replace("{1,2}", &format!("{{1,{}}}", self.number()))
    }
}

/// The pattern of [`Digits::Two`].
const PATTERN: &str = r"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";

/// The pattern without its look-ahead, so that a finite automaton runs it: many times faster than backtracking.
/// [`words`] makes up for it by handing back the last space.
fn automaton(digits: Digits) -> Regex {
    let plain = digits.pattern().replace(r"|\s+(?!\S)", "");
    Regex::new(&plain).expect("the patterns are constants, compiled by the tests")
}

static ONE: LazyLock<Regex> = LazyLock::new(|| automaton(Digits::One));
static TWO: LazyLock<Regex> = LazyLock::new(|| automaton(Digits::Two));
static THREE: LazyLock<Regex> = LazyLock::new(|| automaton(Digits::Three));

/// The byte ranges of the words of `text`, in order and without gaps.
pub(super) fn words(digits: Digits, text: &str) -> impl Iterator<Item = Range<usize>> + '_ {
    let automaton = match digits {
        Digits::One => &ONE,
        Digits::Two => &TWO,
        Digits::Three => &THREE,
    };
    cut(automaton, false, text, move |bytes, at| plain_word(bytes, at, digits))
}

/// The same by another pattern of the family: one in which a word of letters takes at most one space before it, every
/// character begins some word, and `|\s+(?!\S)|\s+` stands last, of which `automaton` has only the second.
/// `line_ends` says whether that alternative can meet a run which ends in a line end.
pub(super) fn words_of<'a>(
    automaton: &'a Regex,
    line_ends: bool,
    text: &'a str,
) -> impl Iterator<Item = Range<usize>> + 'a {
    cut(automaton, line_ends, text, ascii_word)
}

/// The words of `text`: where `plain` knows the end of one it need not be searched for.
fn cut<'a>(
    automaton: &'a Regex,
    line_ends: bool,
    text: &'a str,
    plain: impl Fn(&[u8], usize) -> Option<usize> + 'a,
) -> impl Iterator<Item = Range<usize>> + 'a {
    let mut at = 0;
    std::iter::from_fn(move || {
        if at == text.len() {
            return None;
        }
        // Every character begins some word, so the search is anchored: one scan, forward only.
        let search = || automaton.search_half(&Input::new(text).range(at..).anchored(Anchored::Yes));
        let end = match plain(text.as_bytes(), at) {
            Some(end) => end,
            None => hand_back(text, at, search()?.offset(), line_ends),
        };
        let word = at..end;
        at = end;
        Some(word)
    })
}

/// The end of a word of ASCII letters, with or without a space before them: most words of English, found without the
/// automaton. `None` when the word is another, or a letter past ASCII may follow.
fn ascii_word(bytes: &[u8], at: usize) -> Option<usize> {
    let first = at + usize::from(bytes[at] == b' ');
    let letters = bytes[first..].iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
    let end = first + letters;
    (letters > 0 && bytes.get(end).is_none_or(u8::is_ascii)).then_some(end)
}

/// The end of a word of our own pattern of which, and of what follows, all is ASCII: nearly every word of English. `None` where
/// the automaton is to look.
fn plain_word(bytes: &[u8], at: usize, digits: Digits) -> Option<usize> {
    ascii_word(bytes, at).or_else(|| match bytes[at] {
        b'0'..=b'9' => ascii_digits(bytes, at, digits.number()),
        // A mark may come after a space; a space before something else is white space.
        b' ' => ascii_marks(bytes, at + 1, true).or_else(|| ascii_space(bytes, at)),
        b'\t'..=b'\r' => ascii_space(bytes, at),
        _ => ascii_marked_word(bytes, at).or_else(|| ascii_marks(bytes, at, false)),
    })
}

/// `\p{N}{1,most}`.
fn ascii_digits(bytes: &[u8], at: usize, most: usize) -> Option<usize> {
    let end = at + run(&bytes[..bytes.len().min(at + most)], at, u8::is_ascii_digit);
    (end == at + most || bytes.get(end).is_none_or(u8::is_ascii)).then_some(end)
}

/// `[^\r\n\p{L}\p{N}]?\p{L}+` with a mark; an apostrophe may begin a contraction.
fn ascii_marked_word(bytes: &[u8], at: usize) -> Option<usize> {
    let letters = run(bytes, at + 1, u8::is_ascii_alphabetic);
    let end = at + 1 + letters;
    let marked = bytes[at].is_ascii_punctuation() && bytes[at] != b'\'' && letters > 0;
    (marked && bytes.get(end).is_none_or(u8::is_ascii)).then_some(end)
}

/// `[^\s\p{L}\p{N}]+[\r\n]*` from `from` on, after a space or without. A lone mark before a letter is that word's, or begins a
/// contraction.
fn ascii_marks(bytes: &[u8], from: usize, spaced: bool) -> Option<usize> {
    let marks = run(bytes, from, u8::is_ascii_punctuation);
    let end = from + marks;
    // Control characters are marks too.
    let known = |next: &u8| next.is_ascii_alphanumeric() || matches!(next, b' ' | b'\t'..=b'\r');
    let lone = marks == 1 && !spaced && bytes.get(end).is_some_and(u8::is_ascii_alphabetic);
    (marks > 0 && !lone && bytes.get(end).is_none_or(known))
        .then(|| end + run(bytes, end, |b| matches!(b, b'\n' | b'\r')))
}

/// `\s*[\r\n]|\s+(?!\S)|\s+`, where it is no single space or tab that a word or a mark takes.
fn ascii_space(bytes: &[u8], at: usize) -> Option<usize> {
    let spaces = run(bytes, at, |b| matches!(b, b' ' | b'\t'..=b'\r'));
    let end = at + spaces;
    let next = bytes.get(end);
    if !next.is_none_or(u8::is_ascii) {
        return None;
    }
    if let Some(line_end) = bytes[at..end].iter().rposition(|b| matches!(b, b'\n' | b'\r')) {
        return Some(at + line_end + 1);
    }
    match next {
        None => Some(end),
        // The last space is the next word's.
        Some(_) if spaces > 1 => Some(end - 1),
        Some(next) => next.is_ascii_digit().then_some(end),
    }
}

/// How many bytes from `at` on are of a kind.
fn run(bytes: &[u8], at: usize, kind: impl Fn(&u8) -> bool) -> usize {
    bytes[at..].iter().take_while(|byte| kind(byte)).count()
}

/// `\s+(?!\S)`: a run of white space before a word leaves it one space. Of all alternatives only that one ends so.
fn hand_back(text: &str, at: usize, end: usize, line_ends: bool) -> usize {
    let last = text[at..end].chars().next_back().filter(|_| end < text.len());
    let handed = |space: char| space.is_whitespace() && (line_ends || !matches!(space, '\r' | '\n'));
    match last {
        Some(space) if handed(space) && end - at > space.len_utf8() => end - space.len_utf8(),
        _ => end,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, SplitDelimiterBehavior};

    fn split(text: &str) -> Vec<&str> {
        split_by(Digits::Two, text)
    }

    fn split_by(digits: Digits, text: &str) -> Vec<&str> {
        words(digits, text).map(|range| &text[range]).collect()
    }

    fn reference(digits: Digits, text: &str) -> Vec<String> {
        let pattern = SplitPattern::Regex(digits.pattern());
        let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false).unwrap();
        let mut pretokenized = PreTokenizedString::from(text);
        split.pre_tokenize(&mut pretokenized).unwrap();
        pretokenized
            .get_splits(OffsetReferential::Original, OffsetType::Byte)
            .into_iter()
            .map(|(word, _, _)| word.to_owned())
            .filter(|word| !word.is_empty())
            .collect()
    }

    #[test]
    fn words_digits_and_spaces() {
        assert_eq!(split("I'll pay  $12345."), ["I", "'ll", " pay", " ", " $", "12", "34", "5", "."]);
        assert_eq!(split("a\n\n  b\t\n"), ["a", "\n\n", " ", " b", "\t\n"]);
        assert_eq!(split("end.\n\nNext   "), ["end", ".\n\n", "Next", "   "]);
        assert_eq!(split("<|user|></s>"), ["<|", "user", "|></", "s", ">"]);
        assert!(split("").is_empty());
        assert_eq!(split_by(Digits::One, "a 1234 b"), ["a", " ", "1", "2", "3", "4", " b"]);
        assert_eq!(split_by(Digits::Three, "a 1234 b"), ["a", " ", "123", "4", " b"]);
    }

    #[test]
    fn text_between_words_is_never_lost() {
        let text = "\u{a0}\u{3000} x\u{85}\u{2028}y \r\n\t z";
        assert_eq!(split(text), reference(Digits::Two, text));
        assert_eq!(split(text).concat(), text);
    }

    proptest! {
        #[test]
        fn automaton_equals_the_stated_pattern(text in r"(?s)(\PC|[ \t\r\n'a-cS0-9\.\u{a0}\u{85}\u{301}]){0,60}") {
            for digits in Digits::ALL {
                prop_assert_eq!(split_by(digits, &text), reference(digits, &text));
            }
            prop_assert_eq!(split(&text).concat(), text);
        }

        #[test]
        fn ascii_of_all_kinds(text in r"[ \t\r\n'(.,ab7\x0b\x1c\x00é]{0,40}") {
            for digits in Digits::ALL {
                prop_assert_eq!(split_by(digits, &text), reference(digits, &text));
            }
        }

        #[test]
        fn any_string(text: String) {
            prop_assert_eq!(split(&text), reference(Digits::Two, &text));
        }
    }
}
