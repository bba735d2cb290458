//! What a person sees while something runs: bars with an ETA on a terminal, sparse lines in a log, JSON for machines.
//! Everything goes to stderr but JSON, which goes to stdout.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use casallm_train::events::{Event, What};
use casallm_train::metrics::MetricsRow;
use casallm_train::planning::MemoryChoice;
use casallm_train::preference::PreferenceMetrics;
use casallm_train::recipe::Stage;
use casallm_train::stages::StageObserver;
use casallm_train::trainer::Observer;
use indicatif::ProgressDrawTarget;

use crate::Ended;
use crate::args::Output;
use crate::plan;
use crate::streams::{reader_left, tell, write_line};
use crate::task::Task;

/// Without a terminal, a line at most this often.
const LOG_EVERY: Duration = Duration::from_secs(15);

/// Prints how a command goes.
pub(crate) struct Console {
    json: bool,
    quiet: bool,
    brief: bool,
    terminal: bool,
    /// Whether stdout is a terminal, too. One that is lost later is none any more.
    out_terminal: bool,
    task: Option<Task>,
    logged: Option<Instant>,
    last_validation: Option<f64>,
    last_pairs: Option<PreferenceMetrics>,
    /// Why stdout takes no more lines.
    unwritten: Option<io::Error>,
}

impl Console {
    pub(crate) fn new(output: &Output) -> Self {
        Console {
            json: output.json,
            quiet: output.quiet || output.json,
            brief: false,
            terminal: io::stderr().is_terminal(),
            out_terminal: io::stdout().is_terminal(),
            task: None,
            logged: None,
            last_validation: None,
            last_pairs: None,
            unwritten: None,
        }
    }

    /// The same, without the list of what takes the memory.
    pub(crate) fn brief(self) -> Self {
        Console { brief: true, ..self }
    }

    /// A line for people.
    pub(crate) fn say(&mut self, text: &str) {
        if self.quiet {
            return;
        }
        match &self.task {
            Some(task) => task.bar.suspend(|| tell(text)),
            None => tell(text),
        }
    }

    /// A line for machines.
    pub(crate) fn emit(&mut self, value: &serde_json::Value) {
        if self.json {
            self.write(&value.to_string());
        }
    }

    /// What was asked for, on stdout. What cannot be written is no reason to stop; [`Console::ended`] answers for it.
    pub(crate) fn write(&mut self, text: &str) {
        if self.unwritten.is_some() {
            return;
        }
        if let Err(error) = write_line(text) {
            // A reader that has left has seen what it wanted to see.
            if !reader_left(&error, self.out_terminal) {
                tell(&format!("casallm: cannot write to stdout: {error}; going on without it"));
            }
            self.unwritten = Some(error);
        }
    }

    /// How the command ended, once it has done everything else.
    ///
    /// # Errors
    /// Lines on stdout were lost.
    pub(crate) fn ended(&mut self, ended: Ended) -> Result<Ended> {
        match self.unwritten.take() {
            Some(error) if !reader_left(&error, self.out_terminal) => {
                Err(error).context("the work is done and saved, but not all lines could be written to stdout")
            }
            _ => Ok(ended),
        }
    }

    /// Whether it is time for another line in a log.
    fn due(&mut self) -> bool {
        let due = self.logged.is_none_or(|at| at.elapsed() >= LOG_EVERY);
        if due {
            self.logged = Some(Instant::now());
        }
        due
    }

    /// Moves the bar of a task, or begins it; where there is no terminal, a line now and then.
    pub(crate) fn show(&mut self, name: &str, unit: &str, done: u64, total: Option<u64>, message: &str) {
        if self.quiet {
            return;
        }
        if self.task.as_ref().is_none_or(|task| task.name != name) {
            self.clear();
            // The first line of a task in a log comes after a while: short tasks need none.
            self.logged = Some(Instant::now());
            self.task = Some(Task::new(name, unit, done, total, ProgressDrawTarget::stderr()));
        }
        let due = !self.terminal && self.due();
        let Some(task) = &mut self.task else { return };
        task.show(done, message);
        if due {
            let left = total.and_then(|total| task.left(done, total));
            let left = left.map(|s| format!(", about {} left", duration(s))).unwrap_or_default();
            let of = total.map(|t| format!(" of {t}")).unwrap_or_default();
            tell(&format!("{name}: {done}{of} {unit}{left}  {message}"));
        }
    }

    /// Takes the bar away.
    pub(crate) fn clear(&mut self) {
        if let Some(task) = self.task.take() {
            task.bar.finish_and_clear();
        }
    }
}

impl Observer for Console {
    fn step(&mut self, row: &MetricsRow, steps: u64) {
        if self.json {
            match serde_json::to_value(row) {
                Ok(value) => self.emit(&value),
                Err(error) => tell(&format!("casallm: {error}")),
            }
        }
        if row.bits_per_byte.or(row.val_loss).is_some() {
            self.last_validation = row.bits_per_byte;
        }
        if row.val_preference.is_some() {
            self.last_pairs = row.val_preference;
        }
        let mut message = row.loss.map(|loss| format!("loss {loss:.3}")).unwrap_or_default();
        if let Some(pairs) = self.last_pairs {
            let (accuracy, ranking) = (100.0 * pairs.accuracy, 100.0 * pairs.ranking);
            message += &format!("  held-out pairs preferred {accuracy:.1} %, ranked {ranking:.1} %");
        }
        if let Some(bits) = self.last_validation {
            message += &format!("  validation {bits:.3} bits/byte");
        }
        if let Some(speed) = row.timing.tokens_per_s {
            message += &format!("  {speed:.0} tokens/s");
        }
        if let Some(share) = row.timing.flop_utilisation {
            message += &format!("  {:.0} % of peak", 100.0 * share);
        }
        self.show(row.stage.name(), "steps", row.step, Some(steps), &message);
        if row.step == steps {
            self.clear();
            self.say(&format!("{}: {steps} steps, {message}", row.stage.name()));
            self.last_validation = None;
            self.last_pairs = None;
        }
    }

    fn note(&mut self, text: &str) {
        self.say(text);
    }

    fn event(&mut self, event: &Event) {
        if self.json {
            match serde_json::to_value(event) {
                Ok(value) => self.emit(&value),
                Err(error) => tell(&format!("casallm: {error}")),
            }
        }
        // A quickstart shows samples at its end.
        if !(self.brief && matches!(event.what, What::Sample { .. })) {
            self.say(&event.to_string());
        }
    }
}

impl StageObserver for Console {
    fn progress(&mut self, task: &str, unit: &'static str, done: u64, total: Option<u64>) {
        self.show(task, unit, done, total, "");
    }

    fn finished(&mut self, task: &str) {
        self.clear();
        self.say(&format!("{task}: done"));
    }

    fn planned(&mut self, stage: Stage, choice: &MemoryChoice) {
        self.emit(&serde_json::json!({ "stage": stage, "plan": plan::choice_as_json(choice) }));
        self.say(&plan::headline(stage, choice));
        if !self.brief {
            plan::lines(&choice.plan).iter().for_each(|line| self.say(&format!("  {line}")));
        }
    }
}

/// Seconds as people say them.
pub(crate) fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 90.0 => format!("{s:.0} s"),
        s if s < 5400.0 => format!("{:.0} min", s / 60.0),
        s if s < 129_600.0 => format!("{:.1} h", s / 3600.0),
        s => format!("{:.1} days", s / 86_400.0),
    }
}
