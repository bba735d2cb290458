//! A run at this moment, as plain numbers.

use std::path::Path;

use casallm_serve::runs::{DENSE, Run, Settings, StageColumns, Summary};
use casallm_train::events::Event;
use serde_json::{Value, json};

/// Rows by which the pace is judged.
const RECENT: usize = 50;
/// The loss is smoothed over this part of all rows, as on the dashboard's page.
const SMOOTHING: f64 = 1.0 / 60.0;
/// Events that are kept.
const EVENTS: usize = 50;
/// A run that has written nothing for so many seconds, and for so many of its steps, stands still.
const STALLED_SECONDS: f64 = 120.0;
const STALLED_STEPS: f64 = 20.0;

/// It.
#[derive(Debug, Clone, Default)]
pub(super) struct State {
    pub name: String,
    /// `training`, `stalled`, `preparing`, `ended` or `stopped`.
    pub word: &'static str,
    pub stages: Vec<String>,
    pub stage: String,
    pub step: f64,
    pub planned: Option<u64>,
    pub tokens: f64,
    pub seconds: f64,
    /// Seconds of a step, of the newest rows.
    pub each: Option<f64>,
    /// Seconds that are left.
    pub left: Option<f64>,
    /// By their names in the file.
    pub numbers: Vec<(&'static str, f64)>,
    pub loss_smoothed: Option<f64>,
    /// Rows over which the loss is smoothed.
    pub smoothing: f64,
    /// Steps and losses, smoothed.
    pub curve: Vec<(f64, f64)>,
    /// The newest last, with no character that a terminal would obey.
    pub events: Vec<String>,
    pub sample: Option<(String, String)>,
    pub damaged: u64,
}

impl State {
    /// Of a run that was read; of the stage that is named, else the newest.
    pub(super) fn of(run: &Run, folder: &Path, summary: Summary, stage: Option<&str>) -> Self {
        let begun = || run.stages().iter().filter(|stage| stage.rows() > 0);
        let newest = summary.latest.as_ref().map(|latest| latest.stage.as_str());
        let named = stage.or(newest);
        let columns = named.and_then(|name| begun().find(|stage| stage.name == name)).or_else(|| begun().next_back());
        let mut state = State {
            name: printable(&summary.name),
            stages: begun().map(|stage| printable(&stage.name)).collect(),
            damaged: run.damaged().0,
            word: if summary.running { "preparing" } else { "empty" },
            ..State::default()
        };
        let events: Vec<_> = run.events(0).collect();
        for event in &events[events.len().saturating_sub(EVENTS)..] {
            if event.kind != "sample" {
                state.events.push(told(&event.value));
            }
        }
        let Some(columns) = columns else { return state };
        state.stage = printable(&columns.name);
        state.planned = columns.planned.or_else(|| Settings::of(folder)?.planned(&columns.name));
        state.fill(columns);
        let here = |event: &&&casallm_serve::runs::EventLine| event.kind == "sample" && event.stage == columns.name;
        let text = |value: &Value, key: &str| printable(value.get(key).and_then(Value::as_str).unwrap_or_default());
        state.sample =
            events.iter().rev().find(here).map(|event| (text(&event.value, "prompt"), text(&event.value, "text")));
        let stalled = STALLED_SECONDS.max(STALLED_STEPS * state.each.unwrap_or(0.0));
        let done = state.planned.is_none_or(|planned| state.step >= planned as f64);
        state.word = match (summary.running, done) {
            (true, _) if summary.quiet_seconds > stalled => "stalled",
            (true, _) => "training",
            (false, true) => "ended",
            (false, false) => "stopped",
        };
        state
    }

    fn fill(&mut self, columns: &StageColumns) {
        let last = columns.rows() - 1;
        (self.step, self.tokens, self.seconds) = (columns.step[last], columns.tokens[last], columns.seconds[last]);
        let first = last.saturating_sub(RECENT);
        let steps = self.step - columns.step[first];
        self.each = (steps > 0.0).then(|| (self.seconds - columns.seconds[first]) / steps);
        self.left = self.planned.zip(self.each).map(|(planned, each)| (planned as f64 - self.step).max(0.0) * each);
        for (name, column) in DENSE.iter().zip(&columns.dense) {
            if let Some(value) = column.iter().rev().take(1000).find(|value| value.is_finite()) {
                self.numbers.push((name, f64::from(*value)));
            }
        }
        for name in ["val_loss", "bits_per_byte", "val_preference/accuracy"] {
            if let Some(value) = columns.sparse.get(name).and_then(|column| column.values.last()) {
                self.numbers.push((name, *value));
            }
        }
        self.smoothing = (columns.rows() as f64 * SMOOTHING).max(1.0).floor();
        let rate = 1.0 - 1.0 / self.smoothing;
        let (mut sum, mut weight) = (0.0, 0.0);
        for (step, loss) in columns.step.iter().zip(&columns.dense[0]).filter(|(_, loss)| loss.is_finite()) {
            (sum, weight) = (sum * rate + f64::from(*loss), weight * rate + 1.0);
            self.curve.push((*step, sum / weight));
        }
        self.loss_smoothed = self.curve.last().map(|(_, loss)| *loss);
    }

    /// A number by its name in the file.
    pub(super) fn number(&self, name: &str) -> Option<f64> {
        self.numbers.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
    }

    /// For machines.
    pub(super) fn as_json(&self) -> Value {
        let numbers: serde_json::Map<_, _> =
            self.numbers.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        json!({
            "run": self.name, "state": self.word, "stage": self.stage, "stages": self.stages, "step": self.step as u64,
            "steps": self.planned, "tokens": self.tokens as u64, "seconds": self.seconds, "seconds_a_step": self.each,
            "seconds_left": self.left, "loss_smoothed": self.loss_smoothed, "newest": numbers, "events": self.events,
            "damaged_lines": self.damaged,
        })
    }
}

/// In the words of the console; of an event that this version does not know, as it stands.
fn told(event: &Value) -> String {
    let known: Result<Event, _> = serde_json::from_value(event.clone());
    printable(&known.map_or_else(|_| event.to_string(), |event| event.to_string()))
}

/// Text from a file as one line, with nothing in it that a terminal would obey.
fn printable(text: &str) -> String {
    let hidden = |c: char| {
        c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if hidden(c) { ' ' } else { c }).take(2000).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_file_reaches_the_terminal_as_a_command() {
        assert_eq!(printable("a\u{1b}[2Jb\nc\u{202e}d\u{9b}"), "a [2Jb c d ");
        let event = json!({"event": "note", "step": 1, "stage": "sft", "text": "x\u{1b}]0;y\u{7}"});
        assert_eq!(told(&event), "x ]0;y ");
        assert_eq!(told(&json!({"event": "of_tomorrow"})), "{\"event\":\"of_tomorrow\"}");
    }
}
