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
use crate::streams::word;

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
                let (root, again) = (run.root().display(), word(run.root()));
                self.inner.note(&format!(
                    "{root}: no more TensorBoard files: {reason}; training goes on, and \
                     `casallm tensorboard {again}` makes them of metrics.jsonl"
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

    /// Writes an event, or keeps it until it is known from which step on.
    fn keep(&mut self, event: &Event) {
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
        self.keep(event);
    }

    fn recorded(&mut self, event: &Event) {
        self.inner.recorded(event);
        self.keep(event);
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

#[cfg(test)]
mod tests {
    use casallm_train::events::{Action, Quantity};

    use super::super::wire::reading::{Said, records};
    use super::*;

    /// Keeps the notes.
    #[derive(Default)]
    struct Notes(Vec<String>);

    impl Observer for Notes {
        fn step(&mut self, _: &MetricsRow, _: u64) {}

        fn note(&mut self, text: &str) {
            self.0.push(text.to_owned());
        }

        fn event(&mut self, _: &Event) {}
    }

    impl StageObserver for Notes {
        fn progress(&mut self, _: &str, _: &'static str, _: u64, _: Option<u64>) {}

        fn finished(&mut self, _: &str) {}

        fn planned(&mut self, _: Stage, _: &MemoryChoice) {}
    }

    fn row(step: u64) -> MetricsRow {
        let mut row = MetricsRow::before(Stage::Pretrain);
        (row.step, row.loss) = (step, Some(step as f64));
        row
    }

    fn event(step: u64, what: What) -> Event {
        Event { what, step, stage: Stage::Pretrain }
    }

    fn spike(step: u64) -> Event {
        let (quantity, action, batch) = (Quantity::Loss, Action::Rollback, String::new());
        event(step, What::Spike { quantity, value: 9.0, mean: 1.0, z: 8.0, batch, action })
    }

    /// What TensorBoard has after reading the folder's files in their order: steps of rows, and events with theirs.
    fn shown(run: &RunDir) -> (Vec<u64>, Vec<(String, u64)>) {
        let (mut rows, mut events) = (Vec::new(), Vec::new());
        for path in files_in(&folder_of(run, Stage::Pretrain)).unwrap() {
            let said = records(&fs::read(path).unwrap());
            assert_eq!(said[0], Said::Version);
            for said in said {
                match said {
                    Said::Version => {}
                    Said::Start(from) => {
                        rows.retain(|step| *step < from);
                        events.retain(|(_, step)| *step < from);
                    }
                    Said::Values(step, values) if values[0].1.is_some() => {
                        assert!(values.contains(&("train/loss".to_owned(), Some(step as f32))), "{values:?}");
                        rows.push(step);
                    }
                    Said::Values(step, values) => events.push((values[0].0.clone(), step)),
                }
            }
        }
        (rows, events)
    }

    fn run_in(folder: &tempfile::TempDir) -> (RunDir, String) {
        let path = folder.path().join("run").to_str().unwrap().to_owned();
        (RunDir::new(&path), path)
    }

    #[test]
    fn what_a_resumed_run_and_a_rollback_repeat_is_shown_once() {
        let folder = tempfile::tempdir().unwrap();
        let ((run, path), mut notes) = (run_in(&folder), Notes::default());
        let mut first = Recorder::new(&mut notes, &path, true);
        let began = || What::Began { steps: 20, tokens_per_step: 8, device: "cpu".into() };
        first.recorded(&event(0, began()));
        (1..=8).for_each(|step| first.step(&row(step), 20));
        // Another process goes on from step 6; a damaged checkpoint is told of before it says so.
        let mut second = Recorder::new(&mut notes, &path, true);
        second.event(&event(6, What::DamagedCheckpoint { reason: "no".into() }));
        second.event(&event(6, What::Resumed));
        second.recorded(&event(6, began()));
        (7..=10).for_each(|step| second.step(&row(step), 20));
        let resumed: Vec<_> = [("began", 0), ("damaged_checkpoint", 6), ("resumed", 6), ("began", 6)]
            .map(|(name, step)| (format!("events/{name}"), step))
            .into();
        assert_eq!(shown(&run), ((1..=10).collect(), resumed.clone()));
        second.event(&spike(11));
        second.event(&event(11, What::RolledBack { to: 9, passed_over: vec![10] }));
        (10..=12).for_each(|step| second.step(&row(step), 20));
        second.event(&event(12, What::Sample { prompt: "Once\nupon / a time".into(), text: "there".into() }));
        let mut told = resumed;
        told.extend([("events/spike".to_owned(), 11), ("events/rolled_back".to_owned(), 11)]);
        told.push(("samples/Once upon   a time".to_owned(), 12));
        assert_eq!(shown(&run), ((1..=12).collect(), told));
        assert!(notes.0.is_empty(), "{:?}", notes.0);
    }

    #[test]
    fn a_run_that_began_without_has_its_first_steps_too() {
        let folder = tempfile::tempdir().unwrap();
        let ((run, path), mut notes) = (run_in(&folder), Notes::default());
        fs::create_dir_all(run.root()).unwrap();
        let lines: String = (1..=5).map(|step| serde_json::to_string(&row(step)).unwrap() + "\n").collect();
        fs::write(run.metrics(), lines).unwrap();
        let mut recorder = Recorder::new(&mut notes, &path, true);
        recorder.event(&event(3, What::Resumed));
        recorder.step(&row(4), 20);
        assert_eq!(shown(&run).0, [1, 2, 3, 4]);
    }

    #[test]
    fn what_cannot_be_written_is_said_once() {
        let folder = tempfile::tempdir().unwrap();
        let ((run, path), mut notes) = (run_in(&folder), Notes::default());
        fs::create_dir_all(run.root()).unwrap();
        fs::write(run.root().join("tensorboard"), "a file where the folder should be").unwrap();
        let mut recorder = Recorder::new(&mut notes, &path, true);
        (1..=3).for_each(|step| recorder.step(&row(step), 20));
        assert_eq!(notes.0.len(), 1);
        assert!(notes.0[0].contains("casallm tensorboard") && notes.0[0].contains("training goes on"), "{:?}", notes.0);
        // And nobody who has not asked gets any.
        let other = folder.path().join("other");
        Recorder::new(&mut notes, other.to_str().unwrap(), false).step(&row(1), 20);
        assert!(!other.exists());
    }
}
