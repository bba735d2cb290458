//! One line of `metrics.jsonl`, as far as a dashboard needs it: unknown keys are passed over, missing ones are missing.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

/// Longer lines are counted as damaged: a row has hundreds of bytes, an event with a long sample some thousands.
pub(super) const MOST_LINE: usize = 1 << 20;

/// A step's numbers. What was not measured, or was not finite, is `None`.
#[derive(Debug, Deserialize)]
pub(super) struct Row<'a> {
    #[serde(borrow)]
    pub stage: Cow<'a, str>,
    pub step: u64,
    event: Option<IgnoredAny>,
    #[serde(default)]
    pub tokens: u64,
    pub loss: Option<f64>,
    pub val_loss: Option<f64>,
    pub bits_per_byte: Option<f64>,
    #[serde(default, borrow)]
    pub val: BTreeMap<Cow<'a, str>, Source>,
    pub accuracy: Option<f64>,
    pub preference: Option<Preference>,
    pub val_preference: Option<Preference>,
    pub lr: Option<f64>,
    pub grad_norm: Option<f64>,
    #[serde(default)]
    pub timing: Timing,
}

/// Validation on one source.
#[derive(Debug, Deserialize)]
pub(super) struct Source {
    pub loss: Option<f64>,
    pub bits_per_byte: Option<f64>,
}

/// How pairs of answers are judged.
#[derive(Debug, Deserialize)]
pub(super) struct Preference {
    pub loss: Option<f64>,
    pub margin: Option<f64>,
    pub accuracy: Option<f64>,
    pub chosen_reward: Option<f64>,
    pub rejected_reward: Option<f64>,
    pub ranking: Option<f64>,
}

/// What depends on the machine.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Timing {
    pub seconds: Option<f64>,
    pub tokens_per_s: Option<f64>,
    pub flop_utilisation: Option<f64>,
    pub checkpoint_s: Option<f64>,
    pub memory_bytes: Option<f64>,
    pub gpu: Option<Gpu>,
}

/// What a GPU tells of itself.
#[derive(Debug, Deserialize)]
pub(super) struct Gpu {
    pub load: Option<f64>,
    pub temperature_c: Option<f64>,
    pub power_w: Option<f64>,
    pub memory_bytes: Option<f64>,
}

/// An event: what it is, where, and all that it says.
#[derive(Debug)]
pub(super) struct Event {
    pub kind: String,
    pub stage: String,
    pub step: u64,
    pub value: Value,
}

/// A line.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // Nearly all lines are rows.
pub(super) enum Line<'a> {
    Row(Row<'a>),
    Event(Event),
    /// Neither.
    Damaged,
}

/// Longest name of a stage, of a source of validation, of a kind of event.
pub(super) const MOST_NAME: usize = 64;

impl<'a> Line<'a> {
    /// Reads a line without its line break.
    pub(super) fn parse(bytes: &'a [u8]) -> Self {
        std::str::from_utf8(bytes).map_or(Line::Damaged, Self::parse_text)
    }

    /// The same of what is known to be text: strings in it need not be checked one by one.
    pub(super) fn parse_text(text: &'a str) -> Self {
        if text.len() > MOST_LINE {
            return Line::Damaged;
        }
        match serde_json::from_str::<Row<'a>>(text) {
            Ok(row) if row.event.is_none() && row.stage.len() <= MOST_NAME => return Line::Row(row),
            _ => {}
        }
        match serde_json::from_str::<Value>(text).ok().and_then(Self::event) {
            Some(event) => Line::Event(event),
            None => Line::Damaged,
        }
    }

    fn event(value: Value) -> Option<Event> {
        let text = |key: &str| value.get(key)?.as_str().filter(|text| text.len() <= MOST_NAME).map(str::to_owned);
        let (kind, stage) = (text("event")?, text("stage").unwrap_or_default());
        let step = value.get("step").and_then(Value::as_u64).unwrap_or(0);
        Some(Event { kind, stage, step, value })
    }
}

/// The numbers of a run's newest row, for a list of runs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Latest {
    /// Its stage.
    pub stage: String,
    /// Steps done in the stage.
    pub step: u64,
    /// Nats a token.
    pub loss: Option<f64>,
    /// The newest validation that is near the end of the file.
    pub val_loss: Option<f64>,
    /// The same, in bits per byte.
    pub bits_per_byte: Option<f64>,
    /// Training tokens a second.
    pub tokens_per_s: Option<f64>,
    /// Seconds of training in the stage.
    pub seconds: Option<f64>,
    /// Steps that the stage is to have, where an event near the end says so.
    pub planned: Option<u64>,
}

impl Latest {
    /// Of the last bytes of a file; the first and the last line may be torn. `None` where no row is among them.
    pub(super) fn of(end: &[u8], whole: bool) -> Option<Self> {
        let mut lines: Vec<&[u8]> = end.split(|byte| *byte == b'\n').collect();
        // What follows the last line break is torn, or nothing.
        lines.pop();
        if !whole && !lines.is_empty() {
            lines.remove(0);
        }
        let mut latest: Option<Latest> = None;
        let mut planned: Option<(String, u64)> = None;
        for line in lines {
            match Line::parse(line) {
                Line::Row(row) => {
                    let before = latest.take().filter(|before| before.stage == row.stage).unwrap_or_default();
                    latest = Some(Latest {
                        step: row.step,
                        loss: row.loss,
                        val_loss: row.val_loss.or(before.val_loss),
                        bits_per_byte: row.bits_per_byte.or(before.bits_per_byte),
                        tokens_per_s: row.timing.tokens_per_s,
                        seconds: row.timing.seconds,
                        planned: None,
                        stage: row.stage.into_owned(),
                    });
                }
                Line::Event(event) => {
                    planned = event.planned().map(|steps| (event.stage.clone(), steps)).or(planned);
                }
                Line::Damaged => {}
            }
        }
        let mut latest = latest?;
        latest.planned = planned.filter(|(stage, _)| *stage == latest.stage).map(|(_, steps)| steps);
        Some(latest)
    }
}

impl Event {
    /// Steps that the stage is to have, where this says so.
    pub(super) fn planned(&self) -> Option<u64> {
        let steps = (self.kind == "began").then(|| self.value.get("steps")?.as_u64()).flatten()?;
        (steps > 0).then_some(steps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: &str = r#"{"step":3,"stage":"pretrain","tokens":768,"loss":5.25,"val_loss":5.5,"bits_per_byte":2.5,"val":{"stories":{"loss":5.5,"bits_per_byte":2.5}},"lr":0.001,"grad_norm":null,"timing":{"seconds":1.5,"tokens_per_s":512.0,"gpu":{"load":0.5,"temperature_c":61}},"of_tomorrow":{"a":[1]}}"#;

    #[test]
    fn a_row_is_read_and_what_is_unknown_is_passed_over() {
        let Line::Row(row) = Line::parse(ROW.as_bytes()) else { panic!() };
        assert_eq!(
            (row.step, &*row.stage, row.tokens, row.loss, row.grad_norm),
            (3, "pretrain", 768, Some(5.25), None)
        );
        assert_eq!(row.val["stories"].bits_per_byte, Some(2.5));
        assert_eq!(row.timing.gpu.unwrap().temperature_c, Some(61.0));
    }

    #[test]
    fn an_event_is_no_row_and_junk_is_neither() {
        let Line::Event(event) = Line::parse(br#"{"event":"resumed","step":4,"stage":"sft","x":1}"#) else { panic!() };
        assert_eq!((event.kind.as_str(), event.stage.as_str(), event.step), ("resumed", "sft", 4));
        let began = Line::parse(br#"{"event":"began","step":0,"stage":"sft","steps":70,"tokens_per_step":9}"#);
        assert!(matches!(began, Line::Event(event) if event.planned() == Some(70)));
        let long = format!(r#"{{"step":1,"stage":"{}"}}"#, "x".repeat(MOST_NAME + 1));
        let longer = format!(r#"{{"step":1,"stage":"sft","note":"{}"}}"#, "x".repeat(MOST_LINE));
        let junk =
            ["", "null", "[]", "{", r#"{"step":-1,"stage":"sft"}"#, r#"{"stage":"sft"}"#, r#"{"event":7}"#, "\u{0}"];
        for junk in junk.into_iter().chain([long.as_str(), longer.as_str()]) {
            assert!(matches!(Line::parse(junk.as_bytes()), Line::Damaged), "{}", &junk[..junk.len().min(60)]);
        }
        assert!(matches!(Line::parse(b"\xff\xfe"), Line::Damaged));
    }

    #[test]
    fn the_newest_row_is_found_between_torn_lines() {
        let end = format!(
            "torn\":1}}\n{ROW}\n{}\n{}\n{{\"step\":5,\"sta",
            r#"{"event":"began","step":0,"stage":"pretrain","steps":70}"#,
            r#"{"step":4,"stage":"pretrain","loss":5.0}"#
        );
        let latest = Latest::of(end.as_bytes(), false).unwrap();
        assert_eq!((latest.step, latest.loss, latest.bits_per_byte), (4, Some(5.0), Some(2.5)));
        assert_eq!(latest.planned, Some(70));
        assert_eq!(Latest::of(b"{\"step\":5,\"sta", true), None);
        assert_eq!(Latest::of(b"", true), None);
    }
}
