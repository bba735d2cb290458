//! [`Filter`]: what is asked of each document by itself.

use serde::{Deserialize, Serialize};

use super::Reason;
use crate::error::Error;
use crate::source::{Document, SourceOptions};

/// What a document must be to stay. The default asks nothing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Filter {
    /// One of these stands in the field of the language; empty: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub languages: Vec<String>,
    /// The least number in the field of the score.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_score: Option<f64>,
    /// The fewest characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_chars: Option<u64>,
    /// The most characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_chars: Option<u64>,
}

impl Filter {
    /// How texts are read so that this can be asked: with the fields of language and score, where something is asked of them.
    pub fn reading(&self, text_field: &str, language_field: &str, score_field: &str) -> SourceOptions {
        SourceOptions {
            text_field: text_field.to_owned(),
            language_field: (!self.languages.is_empty()).then(|| language_field.to_owned()),
            score_field: self.min_score.map(|_| score_field.to_owned()),
            ..SourceOptions::default()
        }
    }

    /// Why a document goes; `None`: it stays. One whose language or score is null goes.
    pub fn reason_against(&self, document: &Document) -> Option<Reason> {
        if !self.languages.is_empty() && !document.language.as_ref().is_some_and(|found| self.languages.contains(found))
        {
            return Some(Reason::Language);
        }
        if self.min_score.is_some_and(|least| !document.score.is_some_and(|found| found >= least)) {
            return Some(Reason::Score);
        }
        if self.min_chars.is_none() && self.max_chars.is_none() {
            return None;
        }
        let chars = document.text.chars().count() as u64;
        if self.min_chars.is_some_and(|least| chars < least) {
            return Some(Reason::TooShort);
        }
        self.max_chars.is_some_and(|most| chars > most).then_some(Reason::TooLong)
    }

    /// Whether anything can meet it.
    ///
    /// # Errors
    /// [`Error::LoaderSetting`].
    pub fn check(&self) -> Result<(), Error> {
        let wrong = |field, found: String, expected| Err(Error::LoaderSetting { field, found, expected });
        if let Some(score) = self.min_score.filter(|score| !score.is_finite()) {
            return wrong("the least score", score.to_string(), "a finite number");
        }
        match (self.min_chars, self.max_chars) {
            (Some(least), Some(most)) if least > most => {
                wrong("the fewest characters", format!("{least}, above the most, {most},"), "at most that")
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_condition_by_itself() {
        let document = |text: &str, language: Option<&str>, score: Option<f64>| Document {
            text: text.to_owned(),
            language: language.map(str::to_owned),
            score,
        };
        let plain = document("héé", None, None);
        assert_eq!(Filter::default().reason_against(&plain), None);
        let english = Filter { languages: vec!["en".into(), "de".into()], ..Filter::default() };
        for (language, reason) in
            [(Some("de"), None), (Some("fr"), Some(Reason::Language)), (None, Some(Reason::Language))]
        {
            assert_eq!(english.reason_against(&document("x", language, None)), reason);
        }
        let good = Filter { min_score: Some(2.5), ..Filter::default() };
        for (score, reason) in [
            (Some(2.5), None),
            (Some(2.4), Some(Reason::Score)),
            (Some(f64::NAN), Some(Reason::Score)),
            (None, Some(Reason::Score)),
        ] {
            assert_eq!(good.reason_against(&document("x", None, score)), reason);
        }
        let length = |min_chars, max_chars| Filter { min_chars, max_chars, ..Filter::default() }.reason_against(&plain);
        assert_eq!(
            (length(Some(3), Some(3)), length(Some(4), None), length(None, Some(2))),
            (None, Some(Reason::TooShort), Some(Reason::TooLong))
        );
    }

    #[test]
    fn conditions_that_nothing_meets_are_errors() {
        for filter in [
            Filter { min_chars: Some(5), max_chars: Some(4), ..Filter::default() },
            Filter { min_score: Some(f64::NAN), ..Filter::default() },
        ] {
            assert!(matches!(filter.check(), Err(Error::LoaderSetting { .. })));
        }
    }
}
