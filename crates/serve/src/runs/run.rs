//! One run, as far as it was read.

use std::collections::VecDeque;
use std::io;
use std::path::Path;

use serde_json::Value;

use super::columns::StageColumns;
use super::line::{Event, Line};
use super::tail::{Heard, Tail};

/// Rows of a stage that are held; of more, every second, every fourth ... is. 4 million rows of a usual run are 200 MB.
pub const MOST_ROWS: usize = 4 << 20;
/// Events that are held, the newest.
pub const MOST_EVENTS: usize = 20_000;
/// Bytes of their JSON, about.
const MOST_EVENT_BYTES: usize = 32 << 20;
/// Stages beyond so many are damage: a run has three.
const MOST_STAGES: usize = 16;
/// From so many bytes on, lines are read by several threads.
const WORTH_THREADS: usize = 1 << 20;
/// Threads that read a large file.
const THREADS: usize = 4;

/// An event, as it stands in the file.
#[derive(Debug, Clone)]
pub struct EventLine {
    /// What it is.
    pub kind: String,
    /// Its stage.
    pub stage: String,
    /// Steps done.
    pub step: u64,
    /// All that it says.
    pub value: Value,
    bytes: usize,
}

/// A run's metrics.
#[derive(Debug)]
pub struct Run {
    tail: Tail,
    held: Held,
}

/// What the lines came to.
#[derive(Debug)]
struct Held {
    epoch: u64,
    stages: Vec<StageColumns>,
    events: VecDeque<EventLine>,
    event_bytes: usize,
    events_dropped: u64,
    lines: u64,
    damaged: u64,
    first_damaged: Option<u64>,
    most_rows: usize,
}

impl Run {
    /// The run whose folder this is; nothing is read yet. `epoch` tells what was sent of it from what others have sent.
    pub fn new(folder: &Path, epoch: u64) -> Self {
        Run { tail: Tail::new(folder.join("metrics.jsonl")), held: Held::new(epoch, MOST_ROWS) }
    }

    /// Reads what is new.
    ///
    /// # Errors
    /// The file is there and cannot be read.
    pub fn refresh(&mut self) -> io::Result<()> {
        self.tail.read(&mut self.held)
    }

    /// Changes whenever what was sent before is no longer a beginning of what there is.
    pub fn epoch(&self) -> u64 {
        self.held.epoch
    }

    /// The stages, in the order in which they came.
    pub fn stages(&self) -> &[StageColumns] {
        &self.held.stages
    }

    /// The events, the oldest first, from the `from`-th of the file on; those that are not held any more are left out.
    pub fn events(&self, from: u64) -> impl Iterator<Item = &EventLine> {
        let skipped = from.saturating_sub(self.held.events_dropped);
        self.held.events.iter().skip(usize::try_from(skipped).unwrap_or(usize::MAX))
    }

    /// Events of the file, those that are not held any more included.
    pub fn event_count(&self) -> u64 {
        self.held.events_dropped + self.held.events.len() as u64
    }

    /// Of these, how many are not held any more.
    pub fn events_dropped(&self) -> u64 {
        self.held.events_dropped
    }

    /// Lines that are neither row nor event, and the number of the first of them, from 1.
    pub fn damaged(&self) -> (u64, Option<u64>) {
        (self.held.damaged, self.held.first_damaged)
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.held.stages.iter().map(StageColumns::bytes).sum::<usize>() + self.held.event_bytes
    }
}

impl Held {
    fn new(epoch: u64, most_rows: usize) -> Self {
        Held {
            epoch,
            stages: Vec::new(),
            events: VecDeque::new(),
            event_bytes: 0,
            events_dropped: 0,
            lines: 0,
            damaged: 0,
            first_damaged: None,
            most_rows,
        }
    }

    fn take(&mut self, line: Line<'_>, bytes: usize) {
        self.lines += 1;
        match line {
            Line::Row(row) => {
                let most_rows = self.most_rows;
                match self.stage(&row.stage) {
                    Some(stage) => {
                        if stage.push(&row, most_rows) {
                            self.epoch += 1;
                        }
                    }
                    None => self.damage(),
                }
            }
            Line::Event(event) => self.take_event(event, bytes),
            Line::Damaged => self.damage(),
        }
    }

    fn take_event(&mut self, event: Event, bytes: usize) {
        if let (Some(planned), Some(stage)) = (event.planned(), self.stage(&event.stage)) {
            stage.planned = Some(planned);
        }
        let Event { kind, stage, step, value } = event;
        self.event_bytes += bytes;
        self.events.push_back(EventLine { kind, stage, step, value, bytes });
        while self.events.len() > MOST_EVENTS || self.event_bytes > MOST_EVENT_BYTES {
            let Some(oldest) = self.events.pop_front() else { break };
            self.event_bytes -= oldest.bytes;
            self.events_dropped += 1;
        }
    }

    fn stage(&mut self, name: &str) -> Option<&mut StageColumns> {
        let at = self.stages.iter().position(|stage| stage.name == name);
        let at = match at {
            Some(at) => at,
            None if self.stages.len() >= MOST_STAGES || name.is_empty() => return None,
            None => {
                self.stages.push(StageColumns::new(name));
                self.stages.len() - 1
            }
        };
        Some(&mut self.stages[at])
    }

    fn damage(&mut self) {
        self.damaged += 1;
        self.first_damaged.get_or_insert(self.lines);
    }
}

impl Heard for Held {
    fn anew(&mut self) {
        *self = Held::new(self.epoch + 1, self.most_rows);
    }

    fn lines(&mut self, bytes: &[u8]) {
        for lines in parsed(bytes) {
            for (line, length) in lines {
                self.take(line, length);
            }
        }
    }

    fn too_long(&mut self) {
        self.lines += 1;
        self.damage();
    }
}

/// The lines of a block, parsed by several threads where it is large; empty ones are none.
fn parsed(bytes: &[u8]) -> Vec<Vec<(Line<'_>, usize)>> {
    let of = |piece| match std::str::from_utf8(piece) {
        Ok(text) => {
            let lines = text.split('\n').filter(|line| !line.is_empty());
            lines.map(|line| (Line::parse_text(line), line.len())).collect::<Vec<_>>()
        }
        // A line of it is no text; the others may be.
        Err(_) => {
            let lines = piece.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            lines.map(|line| (Line::parse(line), line.len())).collect()
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS);
    if bytes.len() < WORTH_THREADS || threads < 2 {
        return vec![of(bytes)];
    }
    std::thread::scope(|scope| {
        let workers: Vec<_> = pieces(bytes, threads).into_iter().map(|piece| scope.spawn(move || of(piece))).collect();
        // A thread that broke off is ours to hear of, as it would be without threads.
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

/// Cuts behind line breaks.
fn pieces(mut bytes: &[u8], count: usize) -> Vec<&[u8]> {
    let size = bytes.len() / count + 1;
    let mut pieces = Vec::with_capacity(count);
    while !bytes.is_empty() {
        let from = size.min(bytes.len()) - 1;
        let end = bytes[from..].iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |at| from + at + 1);
        let (piece, rest) = bytes.split_at(end);
        pieces.push(piece);
        bytes = rest;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};
    use std::io::Write;
    use std::path::PathBuf;

    use super::*;

    struct Scene {
        folder: tempfile::TempDir,
        run: Run,
    }

    impl Scene {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let run = Run::new(folder.path(), 7);
            Scene { folder, run }
        }

        fn path(&self) -> PathBuf {
            self.folder.path().join("metrics.jsonl")
        }

        fn append(&mut self, text: &str) {
            let mut file = OpenOptions::new().create(true).append(true).open(self.path()).unwrap();
            file.write_all(text.as_bytes()).unwrap();
            self.run.refresh().unwrap();
        }
    }

    fn rows(stage: &str, steps: std::ops::Range<u64>) -> String {
        let row = |step| {
            let (tokens, loss) = (step * 64, 9.0 - step as f64 / 1e6);
            format!(
                "{{\"step\":{step},\"stage\":\"{stage}\",\"tokens\":{tokens},\"loss\":{loss},\"lr\":0.01,\
                 \"timing\":{{\"seconds\":{step}.5}}}}\n"
            )
        };
        steps.map(row).collect()
    }

    #[test]
    fn rows_come_as_they_are_written_and_damage_is_counted() {
        let mut scene = Scene::new();
        scene.run.refresh().unwrap();
        assert!(scene.run.stages().is_empty());
        scene.append(&(rows("pretrain", 1..4) + "{\"step\":4,\"sta"));
        assert_eq!(scene.run.stages()[0].rows(), 3);
        scene.append(
            "ge\":\"pretrain\",\"loss\":1}\nnonsense\n\n{\"event\":\"resumed\",\"step\":4,\"stage\":\"pretrain\"}\n",
        );
        let path = scene.path();
        OpenOptions::new().append(true).open(path).unwrap().write_all(b"{\"step\":5,\"stage\":\"\xff\"}\n").unwrap();
        scene.append(&rows("sft", 0..2));
        let run = &scene.run;
        assert_eq!(run.stages().iter().map(StageColumns::rows).collect::<Vec<_>>(), [4, 2]);
        assert_eq!((run.damaged(), run.event_count(), run.epoch()), ((2, Some(5)), 1, 7));
        assert_eq!(run.events(0).next().unwrap().kind, "resumed");
        assert_eq!(run.events(1).count(), 0);
    }

    #[test]
    fn a_file_that_was_cut_back_is_another_epoch() {
        let mut scene = Scene::new();
        scene.append(&rows("pretrain", 1..40));
        fs::write(
            scene.path(),
            rows("pretrain", 1..20) + "{\"event\":\"resumed\",\"step\":19,\"stage\":\"pretrain\"}\n",
        )
        .unwrap();
        scene.append(&rows("pretrain", 20..30));
        assert_eq!((scene.run.epoch(), scene.run.stages()[0].rows(), scene.run.event_count()), (8, 29, 1));
    }

    #[test]
    fn a_large_file_read_by_several_threads_is_the_same() {
        let mut scene = Scene::new();
        scene.append(&rows("pretrain", 1..30_001));
        let stage = &scene.run.stages()[0];
        assert_eq!(stage.step, (1..30_001).map(f64::from).collect::<Vec<_>>());
        assert_eq!(scene.run.damaged(), (0, None));
        let text = rows("a", 0..9);
        for count in 1..30 {
            assert_eq!(pieces(text.as_bytes(), count).concat(), text.as_bytes());
            assert!(pieces(text.as_bytes(), count).iter().all(|piece| piece.ends_with(b"\n")));
        }
    }

    #[test]
    fn a_file_of_many_stages_and_events_does_not_take_all_memory() {
        let mut scene = Scene::new();
        let stages: String = (0..40).map(|n| rows(&format!("s{n}"), 1..2)).collect();
        let events = "{\"event\":\"note\",\"step\":1,\"stage\":\"sft\",\"text\":\"x\"}\n".repeat(MOST_EVENTS + 5);
        scene.append(&(stages + &events));
        let run = &scene.run;
        assert_eq!((run.stages().len(), run.damaged().0), (MOST_STAGES, 24));
        assert_eq!((run.event_count(), run.events_dropped()), (MOST_EVENTS as u64 + 5, 5));
        assert_eq!(run.events(MOST_EVENTS as u64 + 3).count(), 2);
    }
}
