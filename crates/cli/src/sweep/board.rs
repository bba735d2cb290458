//! What a person sees of all trials together: one bar over their steps, a line for each that ends.

use std::sync::{Mutex, MutexGuard, PoisonError};

use casallm_train::events::{Event, What};
use casallm_train::metrics::MetricsRow;
use casallm_train::planning::MemoryChoice;
use casallm_train::recipe::Stage;
use casallm_train::stages::StageObserver;
use casallm_train::trainer::Observer;
use serde_json::Value;

use crate::console::Console;

/// The console, shared by the trials that run at a time.
pub(super) struct Board {
    inner: Mutex<Inner>,
}

struct Inner {
    console: Console,
    /// Steps done and steps in all, of the trials that had something to do; `None` until it is known.
    steps: Vec<Option<(u64, u64)>>,
    finished: usize,
}

impl Board {
    /// For so many trials; `steps` where they are known.
    pub(super) fn new(console: Console, steps: Vec<Option<u64>>) -> Self {
        let steps = steps.into_iter().map(|steps| steps.map(|steps| (0, steps))).collect();
        Board { inner: Mutex::new(Inner { console, steps, finished: 0 }) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A trial that panicked has not left a line half written.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The console, for as long as the work is short.
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut Console) -> T) -> T {
        work(&mut self.lock().console)
    }

    /// A trial has nothing left to do.
    pub(super) fn ended(&self, trial: usize, line: &str) {
        let mut inner = self.lock();
        inner.finished += 1;
        if let Some((done, steps)) = &mut inner.steps[trial] {
            *done = *steps;
        }
        inner.console.say(line);
    }

    /// The console alone, when all is done.
    pub(super) fn into_console(self) -> Console {
        let mut console = self.inner.into_inner().unwrap_or_else(PoisonError::into_inner).console;
        console.clear();
        console
    }
}

/// Hears one trial.
pub(super) struct Listener<'a> {
    board: &'a Board,
    trial: usize,
    name: &'a str,
    /// Whether what is shared is being made, which is worth a bar of its own.
    preparing: bool,
    /// The task that has a bar.
    task: Option<String>,
}

impl<'a> Listener<'a> {
    /// Of the trial of that number.
    pub(super) fn new(board: &'a Board, trial: usize, name: &'a str) -> Self {
        Listener { board, trial, name, preparing: false, task: None }
    }

    /// The same, of what is done for all.
    pub(super) fn preparing(&self) -> Self {
        Listener { preparing: true, ..Listener::new(self.board, self.trial, self.name) }
    }

    /// A line for machines, with the trial's name.
    fn emit(&self, console: &mut Console, line: serde_json::Result<Value>) {
        if let Ok(Value::Object(mut line)) = line {
            line.insert("trial".to_owned(), self.name.into());
            console.emit(&Value::Object(line));
        }
    }
}

impl Observer for Listener<'_> {
    fn step(&mut self, row: &MetricsRow, steps: u64) {
        let mut inner = self.board.lock();
        inner.steps[self.trial] = Some((row.step, steps));
        // Of those that have not begun the length of this one is the best guess.
        let (done, total) = inner.steps.iter().fold((0, 0), |(done, total), trial| {
            let (did, of) = trial.unwrap_or((0, steps));
            (done + did, total + of)
        });
        let loss = row.loss.map(|loss| format!(" loss {loss:.3}")).unwrap_or_default();
        let message = format!("{} of {} trials done, {}{loss}", inner.finished, inner.steps.len(), self.name);
        inner.console.show("sweep", "steps", done, Some(total), &message);
        self.emit(&mut inner.console, serde_json::to_value(row));
    }

    fn note(&mut self, text: &str) {
        self.board.with(|console| console.say(&format!("{}: {text}", self.name)));
    }

    fn event(&mut self, event: &Event) {
        self.board.with(|console| {
            self.emit(console, serde_json::to_value(event));
            // Of many models nobody reads along; their samples are in their metrics.
            if !matches!(event.what, What::Sample { .. }) {
                console.say(&format!("{}: {event}", self.name));
            }
        });
    }
}

impl StageObserver for Listener<'_> {
    fn progress(&mut self, task: &str, unit: &'static str, done: u64, total: Option<u64>) {
        if self.preparing {
            self.task = Some(task.to_owned());
            self.board.with(|console| console.progress(task, unit, done, total));
        }
    }

    fn finished(&mut self, task: &str) {
        // What was there already has had nothing to show.
        if self.task.take().is_some_and(|shown| shown == task) {
            self.board.with(|console| console.finished(task));
        }
    }

    fn planned(&mut self, _: Stage, _: &MemoryChoice) {}
}
