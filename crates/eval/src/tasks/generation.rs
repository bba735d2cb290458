//! GSM8K, whose answers the model writes: `gsm8k/gsm8k.yaml`.

use std::sync::LazyLock;

use regex::Regex;

use super::Doc;
use crate::data_folder::Record;
use crate::error::EvalError;

/// What ends an answer, and is no part of it.
pub const GSM8K_STOPS: [&str; 3] = ["Question:", "</s>", "<|im_end|>"];

pub(super) fn gsm8k(record: &Record) -> Result<Doc, EvalError> {
    let context = format!("Question: {}\nAnswer:", record.text("question")?);
    Ok(Doc::ask(context, vec![record.text("answer")?.to_owned()], 0))
}

/// The numbers that the harness' two filters take from an answer: the first after `####`, and the last of all.
pub fn extracted(answer: &str) -> [String; 2] {
    static STRICT: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"#### (\-?[0-9\.\,]+)").ok());
    static FLEXIBLE: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"(-?[$0-9.,]{2,})|(-?[0-9]+)").ok());
    // What the harness has where nothing matches.
    let none = || "[invalid]".to_owned();
    let strict = STRICT.as_ref().and_then(|pattern| Some(pattern.captures(answer)?.get(1)?.as_str().trim().to_owned()));
    let flexible =
        FLEXIBLE.as_ref().and_then(|pattern| Some(pattern.find_iter(answer).last()?.as_str().trim().to_owned()));
    [strict.unwrap_or_else(none), flexible.unwrap_or_else(none)]
}

/// Whether a number is that of the right answer, once both are without what the harness ignores.
pub fn grades(found: &str, right: &str) -> bool {
    static IGNORED: LazyLock<Option<[Regex; 4]>> = LazyLock::new(|| {
        let pattern = |text| Regex::new(text).ok();
        Some([pattern(",")?, pattern(r"\$")?, pattern("(?s).*#### ")?, pattern(r"\.$")?])
    });
    let bare = |text: &str| {
        let ignored = IGNORED.as_ref().map_or(&[][..], |patterns| &patterns[..]);
        let text = ignored.iter().fold(text.to_owned(), |text, pattern| pattern.replace_all(&text, "").into_owned());
        text.to_lowercase()
    };
    bare(found) == bare(right)
}
