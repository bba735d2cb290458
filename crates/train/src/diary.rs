//! Tells how a run goes: every row and event to `metrics.jsonl`, and then to whoever listens.

use std::fs::File;

use crate::error::TrainError;
use crate::events::{Event, What};
use crate::metrics::{MetricsLog, MetricsRow, Position};
use crate::recipe::Stage;
use crate::trainer::Observer;

/// The metrics of a stage and who listens.
pub(crate) struct Diary<'a> {
    stage: Stage,
    metrics: MetricsLog,
    observer: &'a mut dyn Observer,
    /// Whether it was said that lines wait for room on the disk.
    said_waiting: bool,
}

impl<'a> Diary<'a> {
    pub(crate) fn new(stage: Stage, metrics: MetricsLog, observer: &'a mut dyn Observer) -> Self {
        Diary { stage, metrics, observer, said_waiting: false }
    }

    /// A step is done.
    pub(crate) fn row(&mut self, row: &MetricsRow, steps: u64) -> Result<(), TrainError> {
        self.metrics.append(row)?;
        self.observer.step(row, steps);
        self.say_waiting(row.step);
        Ok(())
    }

    /// Something happened.
    pub(crate) fn event(&mut self, step: u64, what: What) -> Result<(), TrainError> {
        let event = Event { what, step, stage: self.stage };
        self.metrics.append_event(&event)?;
        self.observer.event(&event);
        self.say_waiting(step);
        Ok(())
    }

    /// Something for who reads the file, or another that is made of the same; people know it already.
    pub(crate) fn record(&mut self, step: u64, what: What) -> Result<(), TrainError> {
        let event = Event { what, step, stage: self.stage };
        self.metrics.append_event(&event)?;
        self.observer.recorded(&event);
        Ok(())
    }

    /// Something happened that leaves no trace in the file.
    pub(crate) fn say(&mut self, step: u64, what: What) {
        self.observer.event(&Event { what, step, stage: self.stage });
    }

    /// Reproducible lines of the stage so far.
    pub(crate) fn lines(&self) -> u64 {
        self.metrics.lines()
    }

    /// The file, which must be synced before a checkpoint that knows its lines becomes visible.
    pub(crate) fn for_sync(&mut self) -> Result<File, TrainError> {
        self.metrics.for_sync()
    }

    /// Cuts the file back to a checkpoint.
    pub(crate) fn set_back(&mut self, to: Position) -> Result<(), TrainError> {
        self.metrics.set_back(to)
    }

    fn say_waiting(&mut self, step: u64) {
        let waiting = self.metrics.waits_for();
        let what = waiting.filter(|_| !self.said_waiting).map(|reason| What::MetricsWait { reason });
        self.said_waiting = self.metrics.waits_for().is_some();
        if let Some(what) = what {
            self.say(step, what);
        }
    }
}
