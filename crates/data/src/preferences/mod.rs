//! Preference pairs: the better and the worse answer to one prompt, read from files and made into token ids.
//!
//! [`read_pairs`] knows the layouts of the field (see [`parse_pair`]); [`PairSet`] fits pairs to a context and packs them
//! into batches. A pair that teaches nothing is dropped, and [`PairReport`] says which and why. Called by `train` (DPO).

mod layouts;
mod set;

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use crate::chat::{Message, Role};
use crate::cleaning::Cleaner;
use crate::error::Error;
use crate::seeded::text_hash;
use crate::source::open_records;

pub use layouts::parse_pair;
pub use set::{PairPlan, PairSet, TokenPair};

/// Two answers to one prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreferencePair {
    /// What was said before; ends with a message of the person.
    pub prompt: Vec<Message>,
    /// The better answer.
    pub chosen: String,
    /// The worse one.
    pub rejected: String,
}

/// A pair and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairRecord {
    /// File or data set.
    pub source: String,
    /// Row in the source, from 1.
    pub row: usize,
    /// The pair.
    pub pair: PreferencePair,
}

/// Why a pair was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DropReason {
    /// One of the answers is empty.
    EmptyAnswer,
    /// The answers are the same.
    EqualAnswers,
    /// The two conversations part before the last answer, so that they are no answers to one prompt.
    DifferentPrompts,
    /// The prompt does not end with a message of the person.
    NoQuestion,
    /// The assistant claims to be somebody else, in the prompt or in the chosen answer.
    AnotherIdentity,
    /// The last question with the longer answer exceeds the context.
    TooLong,
    /// The chat template of the model refuses the conversation.
    Refused,
}

impl DropReason {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            DropReason::EmptyAnswer => "an answer is empty",
            DropReason::EqualAnswers => "the answers are equal",
            DropReason::DifferentPrompts => "the prompts differ",
            DropReason::NoQuestion => "the prompt does not end with a question",
            DropReason::AnotherIdentity => "another identity is claimed",
            DropReason::TooLong => "too long for the context",
            DropReason::Refused => "the chat template refuses it",
        }
    }
}

/// A pair that was dropped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DroppedPair {
    /// File or data set.
    pub source: String,
    /// Row in the source, from 1.
    pub row: usize,
    /// Why.
    pub reason: DropReason,
}

/// What became of the pairs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PairReport {
    /// Rows read.
    pub rows: usize,
    /// Pairs that lost their oldest exchanges to fit the context.
    pub shortened: usize,
    /// How many were dropped, by reason.
    pub counts: BTreeMap<DropReason, usize>,
    /// Each of those, in order.
    pub dropped: Vec<DroppedPair>,
}

impl PairReport {
    fn drop(&mut self, source: &str, row: usize, reason: DropReason) {
        *self.counts.entry(reason).or_default() += 1;
        self.dropped.push(DroppedPair { source: source.to_owned(), row, reason });
    }
}

/// All pairs of a file (jsonl, JSON array or parquet, plain or compressed) that teach something, added to `report`.
///
/// # Errors
/// What the reader reports of the file, and the errors of [`parse_pair`].
pub fn read_pairs(path: &Path, cleaner: &Cleaner, report: &mut PairReport) -> Result<Vec<PairRecord>, Error> {
    let source = path.display().to_string();
    let mut pairs = Vec::new();
    for (index, record) in open_records(path)?.enumerate() {
        let row = index + 1;
        report.rows += 1;
        match parse_pair(&record?, &source, row)?.and_then(|pair| judge(pair, cleaner)) {
            Ok(pair) => pairs.push(PairRecord { source: source.clone(), row, pair }),
            Err(reason) => report.drop(&source, row, reason),
        }
    }
    Ok(pairs)
}

/// The pair, if it teaches what it should.
fn judge(pair: PreferencePair, cleaner: &Cleaner) -> Result<PreferencePair, DropReason> {
    let said = pair.prompt.iter().filter(|m| m.role == Role::Assistant).map(|m| &m.content);
    if pair.chosen.is_empty() || pair.rejected.is_empty() {
        Err(DropReason::EmptyAnswer)
    } else if pair.chosen == pair.rejected {
        Err(DropReason::EqualAnswers)
    } else if pair.prompt.last().is_none_or(|m| m.role != Role::User || m.content.is_empty()) {
        Err(DropReason::NoQuestion)
    } else if said.chain([&pair.chosen]).any(|text| cleaner.claims_another(text)) {
        Err(DropReason::AnotherIdentity)
    } else {
        Ok(pair)
    }
}

/// Splits into (train, validation) by a hash of each prompt and `seed`, so that one prompt is never on both sides.
/// `fraction` in `0.0..1.0` is the expected share of validation.
pub fn split_pairs(pairs: Vec<PairRecord>, fraction: f64, seed: u64) -> (Vec<PairRecord>, Vec<PairRecord>) {
    let threshold = (fraction.clamp(0.0, 1.0) * 2f64.powi(53)) as u64;
    pairs.into_iter().partition(|record| {
        let parts = record.pair.prompt.iter().flat_map(|m| [m.role.name(), m.content.as_str()]);
        text_hash(parts, seed) >> 11 >= threshold
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_teaches_nothing_is_dropped_with_its_reason() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pairs.jsonl");
        let rows = [
            json!({"prompt": "Hi", "chosen": "Hello.", "rejected": "What?"}),
            json!({"prompt": "Hi", "chosen": "  ", "rejected": "What?"}),
            json!({"prompt": "Hi", "chosen": "Same.", "rejected": " Same. "}),
            json!({"prompt": " ", "chosen": "Hello.", "rejected": "What?"}),
            json!({"prompt": "Who are you?", "chosen": "I am ChatGPT, made by OpenAI.", "rejected": "Casa."}),
            json!({"prompt": "Who are you?", "chosen": "I am Casa.", "rejected": "I am ChatGPT, made by OpenAI."}),
            json!({"chosen": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d",
                   "rejected": "\n\nHuman: a\n\nAssistant: x\n\nHuman: c\n\nAssistant: y"}),
        ];
        let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
        std::fs::write(&path, text).unwrap();
        let mut report = PairReport::default();
        let pairs = read_pairs(&path, &Cleaner::new(None), &mut report).unwrap();
        assert_eq!(pairs.iter().map(|p| p.row).collect::<Vec<_>>(), [1, 6]);
        let dropped: Vec<_> = report.dropped.iter().map(|d| (d.row, d.reason)).collect();
        use DropReason::*;
        assert_eq!(
            dropped,
            [(2, EmptyAnswer), (3, EqualAnswers), (4, NoQuestion), (5, AnotherIdentity), (7, DifferentPrompts)]
        );
        assert_eq!((report.rows, report.counts.values().sum::<usize>()), (7, 5));
    }

    #[test]
    fn a_prompt_is_on_one_side_only() {
        let record = |i: usize| PairRecord {
            source: "s".into(),
            row: i,
            pair: PreferencePair {
                prompt: vec![Message::user(format!("question {}", i / 2))],
                chosen: format!("good {i}"),
                rejected: "bad".into(),
            },
        };
        let (train, held_out) = split_pairs((0..800).map(record).collect(), 0.1, 3);
        assert_eq!(train.len() + held_out.len(), 800);
        assert!((40..=120).contains(&held_out.len()), "{}", held_out.len());
        assert!(held_out.iter().all(|h| train.iter().all(|t| t.pair.prompt != h.pair.prompt)));
    }
}
