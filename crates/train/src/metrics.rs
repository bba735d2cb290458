//! `metrics.jsonl`: one JSON object a line, written as the run goes, continued after a resume, never duplicated.
//!
//! Appended by the trainer, read by the report. Everything outside [`Timing`] is a function of the recipe and the
//! data: a resumed run writes the same bytes there as one that never stopped.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::TrainError;
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

/// The file, open for appending.
#[derive(Debug)]
pub struct MetricsLog {
    path: PathBuf,
    file: File,
    length: u64,
}

impl MetricsLog {
    /// Opens or creates the file for a stage that goes on after step `resumed_from`, or begins (`None`).
    ///
    /// Rows of the stage beyond that step, which will be written again, are removed, and so is a torn last line; other
    /// stages' rows stay. What is kept is kept to the byte.
    ///
    /// # Errors
    /// [`TrainError::MetricsLine`] when a line other than the last is no row, [`TrainError::Io`],
    /// [`TrainError::DiskFull`].
    pub fn open(path: &Path, stage: Stage, resumed_from: Option<u64>) -> Result<Self, TrainError> {
        let found = read_bytes(path)?;
        let mut kept = Vec::with_capacity(found.len());
        for (line, row) in rows(path, &found)? {
            let written_again = row.stage == stage && resumed_from.is_none_or(|step| row.step > step);
            if !written_again {
                kept.extend_from_slice(line);
                kept.push(b'\n');
            }
        }
        if kept != found {
            whole_file::replace(path, &kept)?;
        }
        let io = |source| TrainError::from_io(path, "open", 0, source);
        let file = OpenOptions::new().append(true).create(true).open(path).map_err(io)?;
        Ok(Self { path: path.to_owned(), file, length: kept.len() as u64 })
    }

    /// Appends a row; when this returns it survives the process.
    ///
    /// # Errors
    /// [`TrainError::DiskFull`] or [`TrainError::Io`]; the file is then as it was.
    pub fn append(&mut self, row: &MetricsRow) -> Result<(), TrainError> {
        let mut text = line(row, &self.path)?;
        text.push('\n');
        let written = self.file.write_all(text.as_bytes()).and_then(|()| self.file.flush());
        if let Err(source) = written {
            // Half a line would run into the next one. Should this fail too, the next open drops it.
            let _ = self.file.set_len(self.length);
            return Err(TrainError::from_io(&self.path, "append to", text.len() as u64, source));
        }
        self.length += text.len() as u64;
        Ok(())
    }

    /// Returns once every row survives a power cut. Called before a checkpoint is saved: rows may outlive the
    /// checkpoint, for a resume removes them, but not the other way round.
    ///
    /// # Errors
    /// [`TrainError::DiskFull`] or [`TrainError::Io`].
    pub fn sync(&mut self) -> Result<(), TrainError> {
        self.file.sync_data().map_err(|source| TrainError::from_io(&self.path, "sync", 0, source))
    }
}

/// All rows of a file, which may be growing: a torn last line is left out. No file has no rows.
///
/// # Errors
/// [`TrainError::MetricsLine`] when a line other than the last is no row, [`TrainError::Io`].
pub fn read(path: &Path) -> Result<Vec<MetricsRow>, TrainError> {
    let bytes = read_bytes(path)?;
    Ok(rows(path, &bytes)?.into_iter().map(|(_, row)| row).collect())
}

fn read_bytes(path: &Path) -> Result<Vec<u8>, TrainError> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read.map_err(|source| TrainError::from_io(path, "read", 0, source)),
    }
}

/// The lines that are rows, without their line breaks.
fn rows<'a>(path: &Path, bytes: &'a [u8]) -> Result<Vec<(&'a [u8], MetricsRow)>, TrainError> {
    let mut rows = Vec::new();
    let mut lines = bytes.split_inclusive(|byte| *byte == b'\n').enumerate().peekable();
    while let Some((index, line)) = lines.next() {
        // Without its line break a line may be the beginning of a longer one, even where it reads as a row.
        let Some(line) = line.strip_suffix(b"\n") else { break };
        match serde_json::from_slice(line) {
            Ok(row) => rows.push((line, row)),
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

fn line(row: &MetricsRow, path: &Path) -> Result<String, TrainError> {
    serde_json::to_string(row).map_err(|error| TrainError::MetricsLine {
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
            preference: None,
            val_preference: None,
            lr: 3e-4,
            grad_norm: Some(0.3),
            timing: Timing { seconds: Some(step as f64 * 0.7), tokens_per_s: Some(5600.1), flop_utilisation: None },
        }
    }

    fn log(path: &Path, stage: Stage, from: Option<u64>, steps: std::ops::RangeInclusive<u64>) {
        let mut log = MetricsLog::open(path, stage, from).unwrap();
        for step in steps {
            log.append(&row(stage, step)).unwrap();
        }
        log.sync().unwrap();
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
        b.timing = Timing { seconds: Some(9.0), tokens_per_s: None, flop_utilisation: Some(0.5) };
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
        for error in [read(&path).unwrap_err(), MetricsLog::open(&path, Stage::Pretrain, Some(1)).unwrap_err()] {
            assert!(matches!(error, TrainError::MetricsLine { line: 2, .. }), "{error}");
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_told_from_other_trouble() {
        let full = Path::new("/dev/full");
        let file = OpenOptions::new().append(true).open(full).unwrap();
        let mut log = MetricsLog { path: full.into(), file, length: 0 };
        let error = log.append(&row(Stage::Sft, 1)).unwrap_err();
        assert!(matches!(error, TrainError::DiskFull { available: None, .. }), "{error}");
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
