//! Scoring of answers: does this one give the identity, does it name another assistant or company.
//!
//! Called by the report of `quickstart` and by whoever examines a model; the same folding of case and punctuation
//! decides whether a wording was held out.

use std::sync::LazyLock;

use regex::Regex;

use super::Identity;

/// Lower case, letters and digits only, single spaces; apostrophes vanish (`what's` = `whats`).
pub fn normalise(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars().filter(|c| !matches!(c, '\'' | '’')) {
        if c.is_alphanumeric() {
            out.extend(c.to_lowercase());
        } else if !out.is_empty() && !out.ends_with(' ') {
            out.push(' ');
        }
    }
    out.truncate(out.trim_end().len());
    out
}

/// True when the answer holds the identity's name as whole words, whatever the case.
pub fn names_identity(answer: &str, identity: &Identity) -> bool {
    let answer = format!(" {} ", normalise(answer));
    let name = normalise(identity.name());
    !name.is_empty() && answer.contains(&format!(" {name} "))
}

/// True when the answer names another assistant, or a company that makes them.
///
/// Names that are also words or people's (Claude, Gemini, Apple, Meta, Amazon) count only where they are used as
/// such: `I am Claude`, `made by Apple`; so an answer about apples or Claude Monet is not one.
pub fn names_another(answer: &str) -> bool {
    static ALWAYS: LazyLock<Option<Regex>> = LazyLock::new(|| {
        Regex::new(
            r"(?i)\b(chat ?gpt|gpt ?-?[2345]\w*|open ?ai|siri|alexa|cortana|bixby|copilot|deep ?seek|deep ?mind|anthropic|google assistant|qwen|vicuna|mistral|llama [0-9]|hugging ?face|alibaba|baidu|ernie bot|replika|xai|microsoft|google|nvidia|ibm|facebook|samsung)\b",
        )
        .ok()
    });
    static AS_SELF: LazyLock<Option<Regex>> = LazyLock::new(|| {
        Regex::new(
            r"\b(?:[Ii](?: a|')m|[Mm]y name is|[Cc]alled|[Mm]ade by|[Cc]reated by|[Bb]uilt by|[Tt]rained by|[Dd]eveloped by) (?:Claude(?: by|[.,!?]|$)|Gemini|Bard|Grok|Llama|Watson|Apple|Meta|Amazon|Tesla|Elon Musk|Bill Gates|Sam Altman)",
        )
        .ok()
    });
    [&ALWAYS, &AS_SELF].iter().any(|pattern| pattern.as_ref().is_some_and(|p| p.is_match(answer)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalising_folds_case_marks_and_spaces() {
        assert_eq!(normalise("  What's   YOUR name?! "), "whats your name");
        assert_eq!(normalise("¿?"), "");
    }

    #[test]
    fn identity_is_found_as_whole_words() {
        let identity = Identity::new("Casa Lina", "the Weber family", "a small language model").unwrap();
        assert!(names_identity("Hi, I'm casa lina!", &identity));
        assert!(names_identity("CASA-LINA", &identity));
        assert!(!names_identity("A casa linata", &identity));
        assert!(!names_identity("", &identity));
    }

    #[test]
    fn patterns_compile_and_tell_others_from_words() {
        for other in [
            "I am ChatGPT.",
            "I was made by Google.",
            "I am Claude.",
            "Made by Apple",
            "My name is Siri",
            "a GPT-4 model",
        ] {
            assert!(names_another(other), "{other}");
        }
        for fine in [
            "I like apple pie.",
            "Claude Monet painted it.",
            "The Amazon is a river.",
            "I am CasaLLM.",
            "A llama is an animal.",
        ] {
            assert!(!names_another(fine), "{fine}");
        }
    }
}
