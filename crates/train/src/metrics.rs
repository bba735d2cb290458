//! `metrics.jsonl`: one JSON object a line, written as the run goes, continued after a resume, never duplicated.
//!
//! Appended by the trainer, read by the report. A line is a step's [`MetricsRow`], or, where it has the key `event`, an
//! [`Event`]. Everything outside [`Timing`] and the events of the machine is a function of the recipe and the data: a
//! resumed run writes the same bytes there as one that never stopped.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::TrainError;
use crate::events::Event;
use crate::recipe::Stage;
use crate::whole_file;

/// One line. A number that is not finite is written as null and read as `None`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MetricsRow {
    /// Optimizer steps done, within the stage.
    pub step: u64,
    /// The stage.
    pub stage: Stage,
    /// Tokens trained on so far, within the stage.
    pub tokens: u64,
    /// Training loss of this step, in nats per supervised token.
    pub loss: Option<f64>,
    /// Validation loss, in nats per supervised token, on rows where it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val_loss: Option<f64>,
    /// The same in bits per byte of text, where the text is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits_per_byte: Option<f64>,
    /// Validation by source.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub val: BTreeMap<String, SourceValidation>,
    /// Share of validation tokens that the model puts first, in `[0, 1]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// Learning rate of this step.
    pub lr: f64,
    /// Global norm of the gradient before clipping.
    pub grad_norm: Option<f64>,
    /// What differs from run to run.
    pub timing: Timing,
}

/// Validation on one source.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SourceValidation {
    /// Nats per supervised token.
    pub loss: Option<f64>,
    /// Bits per byte of text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits_per_byte: Option<f64>,
}

/// What depends on the machine and the moment.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Timing {
    /// Seconds of training so far within the stage, those before a resume included.
    pub seconds: Option<f64>,
    /// Training tokens a second since the last row.
    pub tokens_per_s: Option<f64>,
    /// Share of the machine's peak FLOP/s that the step used, in `[0, 1]`, where the peak is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flop_utilisation: Option<f64>,
    /// Seconds that the run stood still before this step for a checkpoint to be copied or written, where it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint_s: Option<f64>,
}

/// A place in the file: a checkpoint's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Steps done.
    pub step: u64,
    /// Reproducible lines of the stage; `None` of checkpoints that do not say.
    pub lines: Option<u64>,
}

/// A line of the file.
enum Line {
    Row(MetricsRow),
    Event(Event),
}

impl Line {
    fn stage(&self) -> Stage {
        match self {
            Line::Row(row) => row.stage,
            Line::Event(event) => event.stage,
        }
    }

    fn step(&self) -> u64 {
        match self {
            Line::Row(row) => row.step,
            Line::Event(event) => event.step,
        }
    }

    fn is_reproducible(&self) -> bool {
        match self {
            Line::Row(_) => true,
            Line::Event(event) => event.what.is_reproducible(),
        }
    }
}

impl MetricsRow {
    /// The line without [`Timing`]: what two runs of one recipe must agree on to the byte.
    ///
    /// # Errors
    /// [`TrainError::MetricsLine`] when it has no JSON form, which no row is known to lack.
    pub fn reproducible_line(&self) -> Result<String, TrainError> {
        let row = Self { timing: Timing::default(), ..self.clone() };
        line(&row, Path::new("metrics.jsonl"))
    }
}

/// Most bytes of lines that wait for a disk with room again: hours of them.
const MOST_WAITING: usize = 16 << 20;

/// The file, open for appending.
#[derive(Debug)]
pub struct MetricsLog {
    path: PathBuf,
    stage: Stage,
    file: File,
    length: u64,
    lines: u64,
    /// Lines that the disk had no room for.
    waiting: Vec<u8>,
}

impl MetricsLog {
    /// Opens or creates the file for a stage that goes on after a checkpoint, or begins (`None`).
    ///
    /// Rows and reproducible events of the stage beyond that place, which will be written again, are removed, and so is a
    /// torn last line; other stages' lines stay. What is kept is kept to the byte.
    ///
    /// # Errors
    /// [`TrainError::MetricsLine`] when a line other than the last is none, [`TrainError::Io`],
    /// [`TrainError::DiskFull`].
    pub fn open(path: &Path, stage: Stage, from: Option<Position>) -> Result<Self, TrainError> {
        let found = read_bytes(path)?;
        let mut kept = Vec::with_capacity(found.len());
        let mut lines = 0;
        for (text, line) in all_lines(path, &found)? {
            let own = line.stage() == stage;
            let keep = match from {
                _ if !own => true,
                None => false,
                Some(_) if !line.is_reproducible() => true,
                Some(Position { lines: Some(count), .. }) => lines < count,
                Some(Position { step, lines: None }) => line.step() <= step,
            };
            if keep {
                kept.extend_from_slice(text);
                kept.push(b'\n');
                lines += u64::from(own && line.is_reproducible());
            }
        }
        if kept != found {
            whole_file::replace(path, &kept)?;
        }
        let io = |source| TrainError::from_io(path, "open", 0, source);
        let file = OpenOptions::new().append(true).create(true).open(path).map_err(io)?;
        Ok(Self { path: path.to_owned(), stage, file, length: kept.len() as u64, lines, waiting: Vec::new() })
    }

    /// Cuts the file back to a checkpoint, as [`MetricsLog::open`] does.
    ///
    /// # Errors
    /// As of [`MetricsLog::open`].
    pub fn set_back(&mut self, to: Position) -> Result<(), TrainError> {
        *self = Self::open(&self.path, self.stage, Some(to))?;
        Ok(())
    }

    /// Rows and reproducible events of the stage.
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// Appends a row; when this returns it survives the process, unless the disk is full: then it waits in memory for
    /// the next one.
    ///
    /// # Errors
    /// [`TrainError::Io`], or [`TrainError::DiskFull`] when more waits than memory is worth.
    pub fn append(&mut self, row: &MetricsRow) -> Result<(), TrainError> {
        self.lines += 1;
        let text = line(row, &self.path)?;
        self.write(text)
    }

    /// Appends an event, as [`MetricsLog::append`] does.
    ///
    /// # Errors
    /// As of [`MetricsLog::append`].
    pub fn append_event(&mut self, event: &Event) -> Result<(), TrainError> {
        self.lines += u64::from(event.what.is_reproducible());
        let text = line(event, &self.path)?;
        self.write(text)
    }

    fn write(&mut self, text: String) -> Result<(), TrainError> {
        self.waiting.extend_from_slice(text.as_bytes());
        self.waiting.push(b'\n');
        match self.flush() {
            Err(TrainError::DiskFull { .. }) if self.waiting.len() <= MOST_WAITING => Ok(()),
            written => written,
        }
    }

    /// Writes what waits.
    fn flush(&mut self) -> Result<(), TrainError> {
        if let Err(source) = self.file.write_all(&self.waiting) {
            // Half a line would run into the next one. Should this fail too, the next open drops it.
            let _ = self.file.set_len(self.length);
            return Err(TrainError::from_io(&self.path, "append to", self.waiting.len() as u64, source));
        }
        self.length += self.waiting.len() as u64;
        self.waiting.clear();
        Ok(())
    }

    /// Why lines wait, if any do.
    pub fn waits_for(&self) -> Option<String> {
        let (path, needed) = (self.path.clone(), self.waiting.len() as u64);
        (needed > 0).then(|| TrainError::DiskFull { path, needed, available: None }.to_string())
    }

    /// The file, to be synced by whoever writes a checkpoint before that becomes visible: lines may outlive a checkpoint,
    /// for a resume removes them, but not the other way round.
    ///
    /// # Errors
    /// [`TrainError::DiskFull`] when lines wait, [`TrainError::Io`].
    pub fn to_sync(&mut self) -> Result<File, TrainError> {
        self.flush()?;
        self.file.try_clone().map_err(|source| TrainError::from_io(&self.path, "open", 0, source))
    }
}

/// All rows of a file, which may be growing: a torn last line is left out. No file has no rows.
///
/// # Errors
/// [`TrainError::MetricsLine`] when a line other than the last is no row, [`TrainError::Io`].
pub fn read(path: &Path) -> Result<Vec<MetricsRow>, TrainError> {
    let bytes = read_bytes(path)?;
    let row = |(_, line)| if let Line::Row(row) = line { Some(row) } else { None };
    Ok(all_lines(path, &bytes)?.into_iter().filter_map(row).collect())
}

/// All events of a file, as [`read`] reads rows.
///
/// # Errors
/// As of [`read`].
pub fn read_events(path: &Path) -> Result<Vec<Event>, TrainError> {
    let bytes = read_bytes(path)?;
    let event = |(_, line)| if let Line::Event(event) = line { Some(event) } else { None };
    Ok(all_lines(path, &bytes)?.into_iter().filter_map(event).collect())
}

fn read_bytes(path: &Path) -> Result<Vec<u8>, TrainError> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read.map_err(|source| TrainError::from_io(path, "read", 0, source)),
    }
}

/// The lines, without their line breaks.
fn all_lines<'a>(path: &Path, bytes: &'a [u8]) -> Result<Vec<(&'a [u8], Line)>, TrainError> {
    let mut rows = Vec::new();
    let mut lines = bytes.split_inclusive(|byte| *byte == b'\n').enumerate().peekable();
    while let Some((index, line)) = lines.next() {
        // Without its line break a line may be the beginning of a longer one, even where it reads as a row.
        let Some(line) = line.strip_suffix(b"\n") else { break };
        let event = |error| serde_json::from_slice(line).map(Line::Event).map_err(|_| error);
        match serde_json::from_slice(line).map(Line::Row).or_else(event) {
            Ok(parsed) => rows.push((line, parsed)),
            Err(_) if lines.peek().is_none() => break,
            Err(error) => {
                return Err(TrainError::MetricsLine {
                    path: path.to_owned(),
                    line: index + 1,
                    reason: error.to_string(),
                });
            }
        }
    }
    Ok(rows)
}

fn line(line: &impl Serialize, path: &Path) -> Result<String, TrainError> {
    serde_json::to_string(line).map_err(|error| TrainError::MetricsLine {
        path: path.to_owned(),
        line: 0,
        reason: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn row(stage: Stage, step: u64) -> MetricsRow {
        let val = SourceValidation { loss: Some(3.0 / 7.0), bits_per_byte: Some(0.1 + 0.2) };
        MetricsRow {
            step,
            stage,
            tokens: step * 1000,
            loss: Some(1.0 / (step as f64 + 3.0)),
            val_loss: step.is_multiple_of(5).then_some(1.1),
            bits_per_byte: None,
            val: if step.is_multiple_of(5) { BTreeMap::from([("books".into(), val)]) } else { BTreeMap::new() },
            accuracy: None,
            lr: 3e-4,
            grad_norm: Some(0.3),
            timing: Timing { seconds: Some(step as f64 * 0.7), tokens_per_s: Some(5600.1), ..Default::default() },
        }
    }

    fn after(step: u64) -> Option<Position> {
        Some(Position { step, lines: None })
    }

    fn log(path: &Path, stage: Stage, from: Option<u64>, steps: std::ops::RangeInclusive<u64>) {
        let mut log = MetricsLog::open(path, stage, from.and_then(after)).unwrap();
        for step in steps {
            log.append(&row(stage, step)).unwrap();
        }
        log.to_sync().unwrap().sync_data().unwrap();
    }

    #[test]
    fn rows_come_back_to_the_bit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        assert_eq!(read(&path).unwrap(), []);
        log(&path, Stage::Pretrain, None, 0..=12);
        assert_eq!(read(&path).unwrap(), (0..=12).map(|step| row(Stage::Pretrain, step)).collect::<Vec<_>>());
    }

    #[test]
    fn a_resumed_log_equals_one_that_never_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let (whole, resumed) = (dir.path().join("whole"), dir.path().join("resumed"));
        log(&whole, Stage::Pretrain, None, 0..=20);
        log(&resumed, Stage::Pretrain, None, 0..=13);
        log(&resumed, Stage::Pretrain, Some(10), 11..=20);
        assert_eq!(fs::read(&resumed).unwrap(), fs::read(&whole).unwrap());
    }

    #[test]
    fn a_new_start_drops_its_own_rows_and_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        log(&path, Stage::Pretrain, None, 0..=3);
        log(&path, Stage::Sft, None, 0..=9);
        log(&path, Stage::Sft, None, 0..=2);
        log(&path, Stage::Sft, Some(1), 2..=2);
        let found: Vec<_> = read(&path).unwrap().iter().map(|row| (row.stage, row.step)).collect();
        let expected: Vec<_> = (0..=3).map(|s| (Stage::Pretrain, s)).chain((0..=2).map(|s| (Stage::Sft, s))).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn non_finite_numbers_are_null() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut bad = row(Stage::Sft, 1);
        bad.loss = Some(f64::NAN);
        bad.timing.tokens_per_s = Some(f64::INFINITY);
        MetricsLog::open(&path, Stage::Sft, None).unwrap().append(&bad).unwrap();
        let read = read(&path).unwrap();
        assert_eq!((read[0].loss, read[0].timing.tokens_per_s), (None, None));
    }

    #[test]
    fn only_the_timing_may_differ() {
        let a = row(Stage::Sft, 1);
        let mut b = a.clone();
        b.timing = Timing { seconds: Some(9.0), checkpoint_s: Some(0.5), ..Default::default() };
        assert_eq!(a.reproducible_line().unwrap(), b.reproducible_line().unwrap());
        b.loss = b.loss.map(|loss| loss + f64::EPSILON);
        assert_ne!(a.reproducible_line().unwrap(), b.reproducible_line().unwrap());
    }

    #[test]
    fn a_bad_line_in_the_middle_is_named_and_nothing_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        log(&path, Stage::Pretrain, None, 1..=3);
        let text = fs::read_to_string(&path).unwrap().replacen("\"step\":2", "\"step\":two", 1);
        fs::write(&path, &text).unwrap();
        for error in [read(&path).unwrap_err(), MetricsLog::open(&path, Stage::Pretrain, after(1)).unwrap_err()] {
            assert!(matches!(error, TrainError::MetricsLine { line: 2, .. }), "{error}");
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_a_full_disk_does_not_take_waits_until_there_is_room() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut log = MetricsLog::open(&path, Stage::Sft, None).unwrap();
        let room = std::mem::replace(&mut log.file, OpenOptions::new().append(true).open("/dev/full").unwrap());
        log.append(&row(Stage::Sft, 1)).unwrap();
        log.append(&row(Stage::Sft, 2)).unwrap();
        assert!(log.waits_for().unwrap().contains("the disk is full"));
        let error = log.to_sync().unwrap_err();
        assert!(matches!(error, TrainError::DiskFull { available: None, .. }), "{error}");
        log.file = room;
        log.append(&row(Stage::Sft, 3)).unwrap();
        assert_eq!(log.waits_for(), None);
        assert_eq!(read(&path).unwrap(), (1..=3).map(|step| row(Stage::Sft, step)).collect::<Vec<_>>());
        // There is an end to it.
        log.file = OpenOptions::new().append(true).open("/dev/full").unwrap();
        log.waiting = vec![b' '; MOST_WAITING];
        assert!(matches!(log.append(&row(Stage::Sft, 4)), Err(TrainError::DiskFull { .. })));
    }

    #[test]
    fn a_checkpoints_place_is_counted_in_what_comes_again() {
        use crate::events::What;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let event = |step, what| Event { what, step, stage: Stage::Pretrain };
        let back = || What::RolledBack { to: 2, passed_over: vec![3] };
        log(&path, Stage::Pretrain, None, 1..=2);
        let mut log = MetricsLog::open(&path, Stage::Pretrain, after(2)).unwrap();
        // Back from step 4, which is told before step 3 is done again; the machine's own event lies in between.
        log.append_event(&event(4, back())).unwrap();
        log.append_event(&event(2, What::Resumed)).unwrap();
        log.append(&row(Stage::Pretrain, 3)).unwrap();
        assert_eq!(log.lines(), 4);
        let whole = fs::read(&path).unwrap();
        log.append(&row(Stage::Pretrain, 4)).unwrap();
        drop(log);
        let place = |lines| Some(Position { step: 3, lines: Some(lines) });
        assert_eq!(MetricsLog::open(&path, Stage::Pretrain, place(4)).unwrap().lines(), 4);
        assert_eq!(fs::read(&path).unwrap(), whole);
        MetricsLog::open(&path, Stage::Pretrain, place(2)).unwrap();
        assert_eq!(read_events(&path).unwrap(), [event(2, What::Resumed)]);
        assert_eq!(read(&path).unwrap().len(), 2);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn a_file_cut_anywhere_loses_only_its_torn_line(place in 0.0f64..=1.0, zeros in 0usize..5) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("metrics.jsonl");
            log(&path, Stage::Pretrain, None, 1..=6);
            let whole = fs::read(&path).unwrap();
            let mut cut = whole[..(whole.len() as f64 * place) as usize].to_vec();
            let complete = cut.iter().filter(|byte| **byte == b'\n').count() as u64;
            // A power cut may leave a file that is longer than what was written, filled with zeros.
            cut.resize(cut.len() + zeros, 0);
            fs::write(&path, &cut).unwrap();
            prop_assert_eq!(read(&path).unwrap().len() as u64, complete);
            log(&path, Stage::Pretrain, Some(complete), complete + 1..=6);
            prop_assert_eq!(fs::read(&path).unwrap(), whole);
        }
    }
}
