//! The keys of `[[data.pretrain]]` that say which documents of a source are kept.

use casallm_data::curation::{Duplicates, Filter, LEAST_SIMILARITY};
use casallm_data::source::SourceOptions;
use serde::Serialize;

use super::optimization::is_default;
use super::section::{Interval, Section};
use crate::error::TrainError;

const MOST_CHARS: u64 = 1 << 40;

/// Which documents of a source are kept.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Keeping {
    /// One of these stands in `language_field`; empty: any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub language: Vec<String>,
    /// Column or key that holds the language.
    #[serde(skip_serializing_if = "is_language")]
    pub language_field: String,
    /// The least number in `score_field`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_score: Option<f64>,
    /// Column or key that holds the score.
    #[serde(skip_serializing_if = "is_score")]
    pub score_field: String,
    /// The fewest characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_chars: Option<u64>,
    /// The most characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_chars: Option<u64>,
    /// Which repetitions are dropped.
    #[serde(skip_serializing_if = "is_default")]
    pub drop_duplicates: Repetitions,
    /// Jaccard similarity from which a document is nearly another.
    #[serde(skip_serializing_if = "is_usual")]
    pub similarity: f64,
}

/// Which repetitions are dropped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Repetitions {
    /// None.
    #[default]
    None,
    /// The same but for white space.
    Exact,
    /// Those, and nearly the same.
    Near,
}

/// Where Lee et al. 2022 put it.
const USUAL_SIMILARITY: f64 = 0.8;

impl Default for Keeping {
    fn default() -> Self {
        Self {
            language: Vec::new(),
            language_field: "language".to_owned(),
            min_score: None,
            score_field: "score".to_owned(),
            min_chars: None,
            max_chars: None,
            drop_duplicates: Repetitions::None,
            similarity: USUAL_SIMILARITY,
        }
    }
}

fn is_language(field: &str) -> bool {
    field == "language"
}

fn is_score(field: &str) -> bool {
    field == "score"
}

fn is_usual(similarity: &f64) -> bool {
    *similarity == USUAL_SIMILARITY
}

impl Keeping {
    pub(super) fn read(section: &Section<'_>) -> Result<Self, TrainError> {
        let usual = Self::default();
        let min_chars = section.integer("min_chars", 1, MOST_CHARS)?;
        let max_chars = section.integer("max_chars", 1, MOST_CHARS)?;
        if let (Some(fewest), Some(most)) = (min_chars, max_chars)
            && fewest > most
        {
            return Err(section.bad("max_chars", most, format!("use at least min_chars = {fewest}")));
        }
        let similarity = section.number("similarity", Interval::POSITIVE.up_to(1.0))?.unwrap_or(usual.similarity);
        if similarity < LEAST_SIMILARITY {
            return Err(section.bad("similarity", similarity, "use a number from 0.7 to 1"));
        }
        let repetitions = [("none", Repetitions::None), ("exact", Repetitions::Exact), ("near", Repetitions::Near)];
        Ok(Self {
            language: section.text_or_texts("language")?.unwrap_or_default(),
            language_field: section.text("language_field")?.unwrap_or(usual.language_field),
            min_score: section.number("min_score", Interval::FINITE)?,
            score_field: section.text("score_field")?.unwrap_or(usual.score_field),
            min_chars,
            max_chars,
            drop_duplicates: section.choice("drop_duplicates", &repetitions)?.unwrap_or_default(),
            similarity,
        })
    }

    /// What is asked of each document by itself.
    pub fn filter(&self) -> Filter {
        let Self { language, min_score, min_chars, max_chars, .. } = self;
        Filter { languages: language.clone(), min_score: *min_score, min_chars: *min_chars, max_chars: *max_chars }
    }

    /// How texts are read so that it can be asked.
    pub fn reading(&self, text_field: &str) -> SourceOptions {
        self.filter().reading(text_field, &self.language_field, &self.score_field)
    }

    /// What is asked of them together.
    pub fn duplicates(&self) -> Duplicates {
        match self.drop_duplicates {
            Repetitions::None => Duplicates::Kept,
            Repetitions::Exact => Duplicates::Exact,
            Repetitions::Near => Duplicates::Near(self.similarity),
        }
    }
}
