//! Every way a recipe, a checkpoint or a run directory can be wrong.
//!
//! Each message names the file, the key or field, what was found there, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

/// An error of the `train` crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The operating system refused something other than space.
    #[error("{}: cannot {doing}: {source}; check that the path exists and its permissions", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was being done, as a verb: "read", "create".
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// No room, seen before writing (`available` is known) or while writing.
    #[error(
        "{}: the disk is full: {needed} bytes are needed{}; free some space or lower keep_last. Older checkpoints \
         are untouched: run again with --resume", path.display(),
        available.map(|bytes| format!(", {bytes} are free")).unwrap_or_default()
    )]
    DiskFull {
        /// The file or folder that was being written.
        path: PathBuf,
        /// Bytes that had to be written.
        needed: u64,
        /// Bytes free, when they were counted ahead.
        available: Option<u64>,
    },

    /// The checkpoints of a run that is about to begin or go on have no room.
    #[error(
        "{}: {checkpoints} checkpoints of {each} bytes each will be here at once: {needed} more bytes are needed, \
         {available} are free; free some space, lower keep_last, raise keep_every, or set run.dir to another disk",
        path.display()
    )]
    DiskTooSmall {
        /// The folder of the checkpoints.
        path: PathBuf,
        /// Most of them at once.
        checkpoints: u64,
        /// Bytes of one.
        each: u64,
        /// Bytes that must be free.
        needed: u64,
        /// Bytes that are.
        available: u64,
    },

    /// The recipe is not TOML.
    #[error("{file}: not valid TOML: {message}")]
    RecipeSyntax {
        /// The recipe, or the flag that overrides it.
        file: String,
        /// Where and why, as the parser says it.
        message: String,
    },
    /// A key that no section has.
    #[error("{file}: unknown key `{key}` (= {found}); {remedy}")]
    RecipeUnknownKey {
        /// The recipe, or the flag that overrides it.
        file: String,
        /// Path of the key, as `pretrain.lr`.
        key: String,
        /// Its value.
        found: String,
        /// The nearest known key, or all of them.
        remedy: String,
    },
    /// A key without which the recipe cannot be run.
    #[error("{file}: `{key}` is missing; {remedy}")]
    RecipeMissingKey {
        /// The recipe.
        file: String,
        /// Path of the key.
        key: String,
        /// What to write.
        remedy: String,
    },
    /// A value of another type than the key takes.
    #[error("{file}: `{key}` = {found}: expected {expected}")]
    RecipeWrongType {
        /// The recipe, or the flag that overrides it.
        file: String,
        /// Path of the key.
        key: String,
        /// Its value.
        found: String,
        /// The type, with an example.
        expected: String,
    },
    /// A value out of bounds, or one that contradicts another.
    #[error("{file}: `{key}` = {found}: {remedy}")]
    RecipeValue {
        /// The recipe, or the flag that overrides it.
        file: String,
        /// Path of the key.
        key: String,
        /// Its value.
        found: String,
        /// What to write instead.
        remedy: String,
    },
    /// A prompt of `samples` that the cache of samples cannot hold.
    #[error("{stage}.samples[{number}] has {tokens} tokens: shorten it to {most}")]
    SampleTooLong {
        /// The stage.
        stage: &'static str,
        /// Which of its samples, from 0.
        number: usize,
        /// Its tokens.
        tokens: usize,
        /// Most that it may have.
        most: usize,
    },
    /// A `key=value` flag that is not one.
    #[error("override `{text}`: {remedy}; write it like pretrain.lr=1e-3")]
    RecipeOverride {
        /// The flag.
        text: String,
        /// What is wrong with it.
        remedy: String,
    },
    /// A data path that leads to no file of a known kind.
    #[error("{file}: `{key}` = \"{found}\": {remedy}")]
    RecipeNoFiles {
        /// The recipe.
        file: String,
        /// Path of the key.
        key: String,
        /// The path, folder or pattern.
        found: String,
        /// Why nothing was found and what to change.
        remedy: String,
    },

    /// A file of a checkpoint is not there.
    #[error(
        "{}: missing from the checkpoint; delete this checkpoint's folder and resume from an older one",
        path.display()
    )]
    CheckpointMissingFile {
        /// The file.
        path: PathBuf,
    },
    /// A file of a checkpoint has another length than when it was written.
    #[error(
        "{}: {found} bytes long, {expected} were written: truncated or overwritten; delete this checkpoint's folder \
         and resume from an older one", path.display()
    )]
    CheckpointLength {
        /// The file.
        path: PathBuf,
        /// Bytes written.
        expected: u64,
        /// Bytes there now.
        found: u64,
    },
    /// A file of a checkpoint holds other bytes than were written.
    #[error(
        "{}: checksum {found}, {expected} was written: the file is damaged; delete this checkpoint's folder and resume \
         from an older one", path.display()
    )]
    CheckpointChecksum {
        /// The file.
        path: PathBuf,
        /// XXH3-128 of the bytes written.
        expected: String,
        /// XXH3-128 of the bytes there now.
        found: String,
    },
    /// The list of checksums itself is damaged.
    #[error(
        "{}: {reason}: the list of checksums is damaged; delete this checkpoint's folder and resume from an older one",
        path.display()
    )]
    CheckpointChecksumList {
        /// The list.
        path: PathBuf,
        /// What is wrong in it.
        reason: String,
    },
    /// A checkpoint of another version of this program.
    #[error(
        "{}: checkpoint format {found}, this program reads format {supported}; resume with the version that wrote it",
        path.display()
    )]
    CheckpointVersion {
        /// The file that states the version.
        path: PathBuf,
        /// The version it states.
        found: String,
        /// The version this program reads.
        supported: u32,
    },
    /// The state is whole, but not the state that was asked for.
    #[error(
        "{}: {reason}; was this checkpoint written by another stage or another version of the program?",
        path.display()
    )]
    CheckpointState {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// A tensor is missing, repeated, or of another type or shape than was asked for.
    #[error(
        "{}: tensor {name}: {reason}; the checkpoint belongs to another model or another stage",
        path.display()
    )]
    CheckpointTensor {
        /// The file of tensors.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// What does not fit.
        reason: String,
    },
    /// The mark that names the best checkpoint cannot be read.
    #[error("{}: {reason}; delete the file, it is written again at the next best validation", path.display())]
    CheckpointBestMark {
        /// The mark.
        path: PathBuf,
        /// What is wrong in it.
        reason: String,
    },

    /// A line of `metrics.jsonl`, not the last, is no row of metrics.
    #[error("{}: line {line}: {reason}; mend or delete that line", path.display())]
    MetricsLine {
        /// The file.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
        /// What is wrong in it.
        reason: String,
    },
    /// Not even the run's lock can be written.
    #[error("{}: the disk is full, and the run cannot be locked; free some space, or choose a folder on another disk for a run that is \
             not begun", path.display())]
    NoRoomToBegin {
        /// The run's folder.
        path: PathBuf,
    },
    /// Another process works on the same run.
    #[error(
        "{}: {} is training in this directory; wait for it, stop it, or choose another run.dir", path.display(),
        pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
    )]
    RunLocked {
        /// The lock file.
        path: PathBuf,
        /// The other process, when it could be read.
        pid: Option<u32>,
    },
    /// The loss or the gradient is not a finite number.
    #[error(
        "{stage} step {step}: {what} is {value}; the batch is {batch}. Weights were not touched and the last \
         checkpoint is intact, but the same recipe would come here again: lower lr, raise warmup, or set clip = 1.0, \
         and begin in another run.dir; or let the run go past it: --resume --set run.guard.non_finite=rollback"
    )]
    NonFinite {
        /// The stage.
        stage: &'static str,
        /// The step, from 1.
        step: u64,
        /// The loss or the gradient norm.
        what: &'static str,
        /// What it is.
        value: f64,
        /// Where the batch came from.
        batch: String,
    },
    /// The guard has gone back again and again, and it did not help.
    #[error(
        "{stage} step {step}: {times} rollbacks for the same place and {what} is still {value}; the last checkpoint is \
         intact: lower lr or raise warmup in another run.dir, raise run.guard.before so that more batches are passed \
         over, or go on as it is with --resume --set run.guard.spike=warn"
    )]
    GuardGaveUp {
        /// The stage.
        stage: &'static str,
        /// The step, from 1.
        step: u64,
        /// Rollbacks, the one that was not done included.
        times: u64,
        /// The loss or the gradient norm.
        what: &'static str,
        /// What it is.
        value: f64,
    },
    /// The weights or the optimizer's state hold a number that is not finite: nothing was written.
    #[error(
        "{}: not written: {tensor} holds a number that is not finite; the last checkpoint is intact: resume from it with \
         a lower lr in another run.dir, or with run.guard.spike = \"rollback\"", path.display()
    )]
    CheckpointNotFinite {
        /// The checkpoint that would have been written.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// A feed has no batch where the run needs one.
    #[error("{stage} step {step}: {batch} has no supervised token; add data, or lower the number of steps")]
    NoBatch {
        /// The stage.
        stage: &'static str,
        /// The step, from 1.
        step: u64,
        /// Where the batch would have come from.
        batch: String,
    },
    /// A checkpoint was made with other settings.
    #[error(
        "{}: the checkpoint was made with other settings: {differences}; use the recipe it was made with, or another \
         run.dir", path.display()
    )]
    RecipeChanged {
        /// The checkpoint.
        path: PathBuf,
        /// Each key with what it was and what it is.
        differences: String,
    },
    /// A run that is to be resumed has no checkpoint, or one that is to begin has some.
    #[error("{}: {reason}", path.display())]
    RunState {
        /// The run's folder.
        path: PathBuf,
        /// What is there and what to do.
        reason: String,
    },
    /// No micro-batch that was allowed fits into the device's memory.
    #[error("{plan}; {remedy}")]
    DoesNotFit {
        /// What the smallest that was allowed needs.
        plan: Box<casallm_compute::ComputeError>,
        /// What would fit.
        remedy: String,
    },
    /// The model or its directory.
    #[error(transparent)]
    Model(#[from] casallm_model::error::ModelError),
    /// The device.
    #[error(transparent)]
    Compute(#[from] casallm_compute::ComputeError),
    /// The data.
    #[error(transparent)]
    Data(#[from] casallm_data::Error),
    /// Signals cannot be heard.
    #[error("cannot listen for Ctrl-C: {source}; run without a signal filter")]
    Signals {
        /// What the system said.
        source: io::Error,
    },
}

impl TrainError {
    /// Whether it is none: a signal came while data was being prepared, and the same command goes on where that was.
    pub fn is_stop(&self) -> bool {
        matches!(self, Self::Data(casallm_data::Error::Stopped))
    }

    /// [`TrainError::DiskFull`] when `source` says that there is no room, [`TrainError::Io`] otherwise.
    pub(crate) fn from_io(path: &Path, doing: &'static str, needed: u64, source: io::Error) -> Self {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        if matches!(source.kind(), StorageFull | QuotaExceeded) {
            return Self::DiskFull { path: path.to_owned(), needed, available: None };
        }
        Self::Io { path: path.to_owned(), doing, source }
    }
}
