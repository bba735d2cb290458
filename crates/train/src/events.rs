//! What happens to a run besides its steps: one line each in `metrics.jsonl`, told on the console in the same words.
//!
//! Some are a function of recipe and data, as rows are, and come again in a run that is repeated or resumed; the others
//! belong to the machine and the moment ([`What::is_reproducible`]), and stay in the file whatever is cut back.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::recipe::Stage;

/// A line of `metrics.jsonl` that is no step: it has the key `event`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// What happened.
    #[serde(flatten)]
    pub what: What,
    /// The step at which it happened: of what is about a step, that one, from 1; otherwise the steps done.
    pub step: u64,
    /// The stage.
    pub stage: Stage,
}

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quantity {
    /// The mean loss of a step's supervised tokens, nats.
    Loss,
    /// The global norm of the gradient before clipping.
    GradNorm,
}

impl Quantity {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Quantity::Loss => "the loss",
            Quantity::GradNorm => "the gradient norm",
        }
    }
}

/// What is done about a step that the guard does not like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It is said; the update is as ever.
    Warn,
    /// There is no update.
    Skip,
    /// Back to a checkpoint from before it, and on without its batches.
    Rollback,
    /// The run ends.
    Stop,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum What {
    /// A step's loss or gradient norm is far above those of the window.
    Spike {
        /// Which of the two.
        quantity: Quantity,
        /// Its value.
        value: f64,
        /// Mean of the window.
        mean: f64,
        /// Deviations above the mean.
        z: f64,
        /// Where the batch came from.
        batch: String,
        /// What is done.
        action: Action,
    },
    /// A step's loss or gradient norm is no finite number.
    NotFinite {
        /// Which of the two.
        quantity: Quantity,
        /// What it is, in words: JSON has no number for it.
        value: String,
        /// Where the batch came from.
        batch: String,
        /// What is done.
        action: Action,
    },
    /// So many outliers in a row are no accident: the window begins anew with what comes.
    NewLevel {
        /// How many.
        outliers: u64,
    },
    /// The run has gone back to a checkpoint.
    RolledBack {
        /// Steps done there: at the newest checkpoint that is whole and old enough. Of all that a repeated run tells again
        /// this alone may be another, where checkpoints were damaged.
        to: u64,
        /// Batches that are passed over from now on, by their numbers in the feed, from 0.
        passed_over: Vec<u64>,
    },
    /// There is no checkpoint to go back to: the update was left out, no more.
    NotRolledBack,
    /// What the model writes as it is now.
    Sample {
        /// What it was given.
        prompt: String,
        /// What it wrote.
        text: String,
    },
    /// A process begins the stage, or goes on with it.
    Began {
        /// Steps of the stage in all.
        steps: u64,
        /// Most tokens of a step.
        tokens_per_step: u64,
        /// What it is trained on: the device, its instruction set, its threads.
        device: String,
    },
    /// A process goes on with the run.
    Resumed,
    /// The checkpoint was made on another device, which rounds differently.
    OtherDevice {
        /// The one it was made on.
        made_on: String,
        /// This one.
        now_on: String,
    },
    /// A checkpoint cannot be trusted and was passed over.
    DamagedCheckpoint {
        /// Which file, what is wrong with it.
        reason: String,
    },
    /// A checkpoint could not be written; the run goes on, and tries again at the next one.
    CheckpointFailed {
        /// Why.
        reason: String,
    },
    /// The one before was not down yet when this checkpoint was due: the steps waited for the disk.
    CheckpointWaited {
        /// How long.
        seconds: f64,
    },
    /// The disk takes no lines of metrics: they wait in memory.
    MetricsWait {
        /// Why.
        reason: String,
    },
    /// A step that took much longer than steps do.
    SlowStep {
        /// How long.
        seconds: f64,
        /// The median of the window.
        usual: f64,
        /// What the machine says of itself.
        machine: Machine,
    },
    /// Steps have become slower.
    Slower {
        /// Median of the last few.
        seconds: f64,
        /// Median of those before.
        usual: f64,
        /// What the machine says of itself.
        machine: Machine,
    },
    /// The clock on the wall has jumped, or the machine has slept. Nothing of a run depends on it.
    Clock {
        /// How far, forward where positive.
        seconds: f64,
    },
    /// Something that the device says.
    Note {
        /// Its words.
        text: String,
    },
}

impl What {
    /// Whether a run that repeats this one comes to the same event at the same place.
    pub fn is_reproducible(&self) -> bool {
        matches!(
            self,
            What::Spike { .. }
                | What::NotFinite { .. }
                | What::NewLevel { .. }
                | What::RolledBack { .. }
                | What::NotRolledBack
                | What::Sample { .. }
        )
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (stage, step) = (self.stage.name(), self.step);
        match &self.what {
            What::Spike { quantity, value, mean, z, batch, action } => write!(
                f,
                "{stage} step {step}: {} is {value:.4}, {z:.1} deviations above the mean of {mean:.4}; the batch is \
                 {batch}; {action}",
                quantity.name()
            ),
            What::NotFinite { quantity, value, batch, action } => {
                write!(f, "{stage} step {step}: {} is {value}; the batch is {batch}; {action}", quantity.name())
            }
            What::NewLevel { outliers } => write!(
                f,
                "{stage} step {step}: {outliers} outliers in a row are a new level; the guard learns it before it warns \
                 again"
            ),
            What::RolledBack { to, passed_over } => write!(
                f,
                "{stage} step {step}: back to step {to}; {} {} passed over: {}",
                count(passed_over.len(), "batch", "batches"),
                if passed_over.len() == 1 { "is" } else { "are" },
                ranges(passed_over)
            ),
            What::NotRolledBack => {
                write!(f, "{stage} step {step}: there is no checkpoint to go back to; the update was left out")
            }
            What::Sample { prompt, text } => {
                write!(f, "{stage} step {step}: {} → {}", one_line(prompt), one_line(text))
            }
            What::Began { steps, tokens_per_step, device } => {
                write!(f, "{stage} has {steps} steps of up to {tokens_per_step} tokens, on {device}; {step} are done")
            }
            What::Resumed => write!(f, "resumed {stage} after step {step}"),
            What::OtherDevice { made_on, now_on } => {
                write!(f, "the checkpoint was made on {made_on}; on {now_on} the run goes on, but not to the same bits")
            }
            What::DamagedCheckpoint { reason } => write!(f, "skipped a damaged checkpoint: {reason}"),
            What::CheckpointFailed { reason } => write!(
                f,
                "{stage} step {step}: no checkpoint: {reason}; training goes on, and tries again at the next one"
            ),
            What::CheckpointWaited { seconds } => write!(
                f,
                "{stage} step {step}: waited {seconds:.1} s for the checkpoint before to be written; raise \
                 checkpoint_every, or give it a faster disk"
            ),
            What::MetricsWait { reason } => {
                write!(f, "{reason}; training goes on, and what metrics.jsonl lacks is kept in memory")
            }
            What::SlowStep { seconds, usual, machine } => {
                write!(f, "{stage} step {step} took {seconds:.1} s, steps take {usual:.1} s; {machine}")
            }
            What::Slower { seconds, usual, machine } => write!(
                f,
                "{stage} step {step}: steps have become slower, {seconds:.2} s instead of {usual:.2} s; {machine}"
            ),
            What::Clock { seconds } => {
                let way = if *seconds < 0.0 { "back" } else { "forward, or the machine has slept" };
                write!(f, "the clock was set {:.0} s {way}; nothing here depends on it", seconds.abs())
            }
            What::Note { text } => write!(f, "{text}"),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Action::Warn => "nothing is done about it",
            Action::Skip => "there is no update",
            Action::Rollback => "the run goes back",
            Action::Stop => "the run ends",
        })
    }
}

/// A text in one line of bounded length.
fn one_line(text: &str) -> String {
    const LONGEST: usize = 160;
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match words.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{} ...", &words[..end]),
        None => words,
    }
}

fn count(n: usize, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

/// Ascending numbers as people write them: `7 to 9, 12`.
fn ranges(numbers: &[u64]) -> String {
    let mut parts: Vec<(u64, u64)> = Vec::new();
    for number in numbers {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ => parts.push((*number, *number)),
        }
    }
    let part = |(first, last)| if first == last { format!("{first}") } else { format!("{first} to {last}") };
    parts.into_iter().map(part).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_flat_line_and_comes_back() {
        let event =
            Event { what: What::RolledBack { to: 6, passed_over: vec![7, 8, 9, 12] }, step: 9, stage: Stage::Pretrain };
        let line = serde_json::to_string(&event).unwrap();
        let expected = r#"{"event":"rolled_back","to":6,"passed_over":[7,8,9,12],"step":9,"stage":"pretrain"}"#;
        assert_eq!(line, expected);
        assert_eq!(serde_json::from_str::<Event>(&line).unwrap(), event);
        assert_eq!(event.to_string(), "pretrain step 9: back to step 6; 4 batches are passed over: 7 to 9, 12");
        let event = Event { what: What::RolledBack { to: 6, passed_over: vec![7] }, ..event };
        assert_eq!(event.to_string(), "pretrain step 9: back to step 6; 1 batch is passed over: 7");
    }
}
