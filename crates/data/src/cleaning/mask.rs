//! Hides what is quoted or is code, and finds sentences: a claim counts only in the speaker's own words.

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

/// The text with quotations, code fences and inline code replaced by spaces; byte positions stay the same.
pub(super) fn mask_quoted(text: &str) -> String {
    static QUOTED: LazyLock<Option<Regex>> = LazyLock::new(|| {
        Regex::new(
            r#"(?s)```.*?(?:```|$)|`[^`\n]*`|"[^"\n]*"|“[^”]*”|«[^»]*»|(?:^|[\s(])(?:'|‘)[^\n]+?(?:'|’)(?:[\s.,!?;:)]|$)"#,
        )
        .ok()
    });
    let mut bytes = text.as_bytes().to_vec();
    if let Some(quoted) = QUOTED.as_ref() {
        for found in quoted.find_iter(text) {
            bytes[found.range()].fill(b' ');
        }
    }
    // Only whole matches were overwritten, with ASCII, so this is UTF-8 again.
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

/// The sentences of a text as byte ranges that cover it, each with the space that follows it. Ends are looked for in `masked`,
/// what [`mask_quoted`] made of the text: a quotation or code is of one sentence, and that after a sentence is no space of it.
pub(super) fn sentences(masked: &str, text: &str) -> Vec<Range<usize>> {
    let bytes = masked.as_bytes();
    let mut out = Vec::new();
    let mut start = 0;
    let mut at = 0;
    while at < bytes.len() {
        let ends = bytes[at] == b'\n'
            || (matches!(bytes[at], b'.' | b'!' | b'?') && bytes.get(at + 1).is_none_or(u8::is_ascii_whitespace));
        at += 1;
        if ends {
            while text.as_bytes().get(at).is_some_and(u8::is_ascii_whitespace) {
                at += 1;
            }
            out.push(start..at);
            start = at;
        }
    }
    if start < bytes.len() {
        out.push(start..bytes.len());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotations_and_code_are_hidden_in_place() {
        for text in [
            "He said \"I am X\" and left",
            "“I am X”",
            "run `I am X` now",
            "```\nI am X\n``` end",
            "says 'I'm X' twice",
            "open ```I am X",
        ] {
            let masked = mask_quoted(text);
            assert_eq!(masked.len(), text.len());
            assert!(!masked.contains('X'), "{masked}");
        }
        assert_eq!(mask_quoted("I'm fine and it's ok"), "I'm fine and it's ok");
    }

    #[test]
    fn sentences_cover_the_text() {
        let parts = |text| -> Vec<&str> { sentences(&mask_quoted(text), text).into_iter().map(|r| &text[r]).collect() };
        assert_eq!(parts("One. Two 3.5!\nThree"), ["One. ", "Two 3.5!\n", "Three"]);
        assert_eq!(
            parts("See:\n```\nx. y\n\n```\nOne. “Two. é” 3"),
            ["See:\n", "```\nx. y\n\n```\n", "One. ", "“Two. é” 3"]
        );
        assert!(parts("").is_empty());
    }
}
