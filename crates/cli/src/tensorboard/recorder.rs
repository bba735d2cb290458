//! `--tensorboard`: hears what the console hears, and writes it to event files as the run goes.

use std::fs;
use std::io;

use casallm_train::events::{Event, What};
use casallm_train::metrics::{self, MetricsRow};
use casallm_train::planning::MemoryChoice;
use casallm_train::recipe::Stage;
use casallm_train::stages::{RunDir, StageObserver};
use casallm_train::trainer::Observer;

use super::file::{EventFile, files_in, next_name, now};
use super::wire::{self, When};
use super::{folder_of, tags};

/// Passes everything on, and writes rows and events where it was asked to.
pub(crate) struct Recorder<'a> {
    inner: &'a mut dyn StageObserver,
    /// `None` where nobody asked, and once it could not be written.
    run: Option<RunDir>,
    open: Option<(Stage, EventFile)>,
    /// Events that wait for what comes next: it tells the step with which the file begins, or the run goes back.
    waiting: Vec<Event>,
}

impl<'a> Recorder<'a> {
    /// Writes to the run's folder where `asked`.
    pub(crate) fn new(inner: &'a mut dyn StageObserver, run_dir: &str, asked: bool) -> Self {
        Recorder { inner, run: asked.then(|| RunDir::new(run_dir)), open: None, waiting: Vec::new() }
    }

    /// What cannot be written is said, once: the numbers are in `metrics.jsonl`.
    fn attempt(&mut self, write: impl FnOnce(&mut Self, &RunDir) -> Result<(), String>) {
        let Some(run) = self.run.take() else { return };
        match write(self, &run) {
            Ok(()) => self.run = Some(run),
            Err(reason) => {
                self.open = None;
                self.waiting.clear();
                let root = run.root().display();
                self.inner.note(&format!(
                    "{root}: no more TensorBoard files: {reason}; training goes on, and \
                     `casallm tensorboard {root}` makes them of metrics.jsonl"
                ));
            }
        }
    }

    /// The file of a stage, begun where it is not open, and with it what waits. From `step` on everything comes anew.
    fn write(&mut self, run: &RunDir, stage: Stage, step: u64, records: &[u8]) -> Result<(), String> {
        if self.open.as_ref().is_none_or(|(open, _)| *open != stage) {
            self.open = Some((stage, begin(run, stage, step)?));
        }
        let Some((_, file)) = &mut self.open else { return Ok(()) };
        let waiting = self.waiting.drain(..).map(|event| tags::event_record(&event, now()));
        let all = waiting.chain([records.to_vec()]).collect::<Vec<_>>().concat();
        file.append(&all).map_err(|error| error.to_string())
    }

    fn is_open(&self, stage: Stage) -> bool {
        self.open.as_ref().is_some_and(|(open, _)| *open == stage)
    }
}

/// Begins a file that goes on from `step`. Where it is the stage's first, it has what `metrics.jsonl` has from before.
fn begin(run: &RunDir, stage: Stage, step: u64) -> Result<EventFile, String> {
    let folder = folder_of(run, stage);
    let io = |error: io::Error| format!("{}: {error}", folder.display());
    fs::create_dir_all(&folder).map_err(io)?;
    let (earlier, wall) = (files_in(&folder).map_err(io)?, now());
    let mut file = EventFile::create(&folder.join(next_name(&earlier, wall)), wall).map_err(io)?;
    let mut records = Vec::new();
    if earlier.is_empty() {
        let rows = metrics::read(&run.metrics()).map_err(|error| error.to_string())?;
        let before: Vec<_> = rows.into_iter().filter(|row| row.stage == stage && row.step < step).collect();
        let last = before.last().and_then(|row| row.timing.seconds).unwrap_or(0.0);
        for row in &before {
            let ago = last - row.timing.seconds.unwrap_or(last);
            records.extend(tags::row_record(row, wall - ago));
        }
    }
    records.extend(wire::start(When { wall, step }));
    file.append(&records).map_err(io)?;
    Ok(file)
}

impl Observer for Recorder<'_> {
    fn step(&mut self, row: &MetricsRow, steps: u64) {
        self.inner.step(row, steps);
        self.attempt(|recorder, run| recorder.write(run, row.stage, row.step, &tags::row_record(row, now())));
    }

    fn note(&mut self, text: &str) {
        self.inner.note(text);
    }

    fn event(&mut self, event: &Event) {
        self.inner.event(event);
        self.attempt(|recorder, run| {
            let (stage, next) = (event.stage, event.step + 1);
            let record = || tags::event_record(event, now());
            match event.what {
                What::Resumed => recorder.write(run, stage, next, &record()),
                What::RolledBack { to, .. } if recorder.is_open(stage) => {
                    // First, for it would take what led to it away as well.
                    let told = std::mem::take(&mut recorder.waiting);
                    recorder.write(run, stage, next, &wire::start(When { wall: now(), step: to + 1 }))?;
                    recorder.waiting = told;
                    recorder.write(run, stage, next, &record())
                }
                What::Spike { .. } | What::NotFinite { .. } => {
                    recorder.waiting.push(event.clone());
                    Ok(())
                }
                _ if recorder.is_open(stage) => recorder.write(run, stage, next, &record()),
                // Said before the stage begins or goes on: the next one tells from where.
                _ => {
                    recorder.waiting.push(event.clone());
                    Ok(())
                }
            }
        });
    }
}

impl StageObserver for Recorder<'_> {
    fn progress(&mut self, task: &str, unit: &'static str, done: u64, total: Option<u64>) {
        self.inner.progress(task, unit, done, total);
    }

    fn finished(&mut self, task: &str) {
        self.inner.finished(task);
    }

    fn planned(&mut self, stage: Stage, choice: &MemoryChoice) {
        self.inner.planned(stage, choice);
    }
}
