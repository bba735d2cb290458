//! `metrics.jsonl`: one JSON object a line, written as the run goes, continued after a resume, never duplicated.
//!
//! Appended by the trainer, read by the report. A line is a step's [`MetricsRow`], or, where it has the key `event`, an
//! [`Event`]. Everything outside [`Timing`] and the events of the machine is a function of the recipe and the data: a
//! resumed run writes the same bytes there as one that never stopped.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use casallm_compute::Sensors;
use serde::{Deserialize, Serialize};

use crate::error::TrainError;
use crate::events::Event;
use crate::preference::PreferenceMetrics;
use crate::recipe::Stage;
use crate::validation::ValidationResult;
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
    /// Training loss of this step, in nats per supervised token; of DPO the mean over its pairs.
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
    /// How the pairs of this step are judged, before its update; of DPO only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preference: Option<PreferenceMetrics>,
    /// How held-out pairs are judged, on rows where it was measured. DPO's row of step 0 holds it, and `val_loss`, as they
    /// were before training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val_preference: Option<PreferenceMetrics>,
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
    /// Memory that the run takes of its device, in bytes: its plan's, samples included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// What the GPU's sensors show, every few seconds, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<Gpu>,
}

/// A GPU at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Gpu {
    /// Share of the last moments in which it was at work, in `[0, 1]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<f64>,
    /// Degrees Celsius.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature_c: Option<f64>,
    /// Watts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_w: Option<f64>,
    /// Memory that all processes together have taken, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
}

impl From<Sensors> for Gpu {
    fn from(sensors: Sensors) -> Self {
        let Sensors { load, temperature_c, power_w, memory_bytes } = sensors;
        Gpu { load, temperature_c, power_w, memory_bytes }
    }
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
#[allow(clippy::large_enum_variant)] // Nearly all lines are rows.
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
    /// A row of a stage of which no step is done.
    pub fn before(stage: Stage) -> Self {
        Self {
            step: 0,
            stage,
            tokens: 0,
            loss: None,
            val_loss: None,
            bits_per_byte: None,
            val: BTreeMap::new(),
            accuracy: None,
            preference: None,
            val_preference: None,
            lr: 0.0,
            grad_norm: None,
            timing: Timing::default(),
        }
    }

    /// Takes over what a validation found.
    pub fn set_validation(&mut self, found: &ValidationResult) {
        if !found.sources.is_empty() {
            self.val_loss = Some(found.loss);
            self.accuracy = Some(found.accuracy);
        }
        self.bits_per_byte = found.bits_per_byte;
        self.val = found.sources.clone();
        self.val_preference = found.preference;
    }

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
    pub fn for_sync(&mut self) -> Result<File, TrainError> {
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
mod tests;
