//! The directory of a run's checkpoints: saving, finding the latest good one, keeping the last few and the best.

use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::checksums::{self, Entry, Summing};
use super::disk::{Disk, DiskFile, SystemDisk};
use super::read::{self, Checkpoint, Skipped};
use super::retention::{self, Best, Kept, UNFINISHED, name_of};
use super::tensors::{self, TensorRef};
use super::{CHECKSUMS, FORMAT, STATE, TENSORS};
use crate::error::TrainError;
use crate::whole_file::sync_directory;

/// Left free on the disk beside a checkpoint, for file system blocks, metrics and the like.
pub(super) const MARGIN: u64 = 1 << 20;

/// The directory of a run's checkpoints.
///
/// One process at a time: [`crate::run_lock::RunLock`] sees to it.
#[derive(Debug)]
pub struct CheckpointStore {
    pub(super) directory: PathBuf,
    pub(super) kept: Kept,
    pub(super) disk: Box<dyn Disk>,
}

/// What [`CheckpointStore::latest_good`] found.
#[derive(Debug)]
pub struct Latest {
    /// The newest checkpoint that is whole; `None` when there is none at all.
    pub checkpoint: Option<Checkpoint>,
    /// Newer ones that are not, newest first.
    pub skipped: Vec<Skipped>,
}

/// What `state.json` holds.
#[derive(Serialize)]
struct State<'a, T> {
    format: u32,
    step: u64,
    meta: &'a T,
}

impl CheckpointStore {
    /// Opens the directory, creating it where needed, and removes what an interrupted save left there. Keeps the last
    /// `keep_last` checkpoints (at least one) and the best.
    ///
    /// # Errors
    /// [`TrainError::Io`] or [`TrainError::DiskFull`].
    pub fn new(directory: impl Into<PathBuf>, keep_last: usize) -> Result<Self, TrainError> {
        Self::on(directory.into(), keep_last, Box::new(SystemDisk))
    }

    pub(super) fn on(directory: PathBuf, keep_last: usize, disk: Box<dyn Disk>) -> Result<Self, TrainError> {
        fs::create_dir_all(&directory).map_err(|source| TrainError::from_io(&directory, "create", 0, source))?;
        retention::remove_unfinished(&directory)?;
        let kept = Kept { last: keep_last.max(1), every: None, regular: None };
        Ok(Self { directory, kept, disk })
    }

    /// The same, which also keeps every checkpoint whose step is a multiple of `steps`.
    #[must_use]
    pub fn keeping_every(self, steps: Option<u64>) -> Self {
        Self { kept: Kept { every: steps.filter(|steps| *steps > 0), ..self.kept }, ..self }
    }

    /// The same, for a run of so many steps that saves every `every` steps and at the end: a checkpoint of another step,
    /// which is there because the run was stopped, is kept as long as it is the newest, and does not count among the last.
    #[must_use]
    pub fn regularly(self, every: u64, steps: u64) -> Self {
        Self { kept: Kept { regular: Some((every, steps)), ..self.kept }, ..self }
    }

    /// Where the checkpoints are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where the checkpoint of `step` is or would be.
    pub fn path_of(&self, step: u64) -> PathBuf {
        self.directory.join(name_of(step))
    }

    /// What the newest checkpoint whose state can be read says beside its tensors, which are not looked at.
    ///
    /// # Errors
    /// [`TrainError::Io`].
    pub fn newest_meta<T: serde::de::DeserializeOwned>(&self) -> Result<Option<T>, TrainError> {
        Ok(self.steps()?.into_iter().rev().find_map(|step| read::peek(&self.path_of(step)).ok()))
    }

    /// Steps for which there is a checkpoint, verified or not, oldest first.
    ///
    /// # Errors
    /// [`TrainError::Io`].
    pub fn steps(&self) -> Result<Vec<u64>, TrainError> {
        retention::steps(&self.directory)
    }

    /// Writes the checkpoint of `step`, replacing one of the same step, then removes those that need not be kept.
    /// `meta` comes back from [`Checkpoint::meta`]; of its floats, those that are not finite come back as null.
    ///
    /// # Errors
    /// [`TrainError::DiskFull`] when it will not fit or did not, [`TrainError::Io`], [`TrainError::CheckpointTensor`]
    /// when the bytes of a tensor do not fit its shape or a name comes twice, [`TrainError::CheckpointState`] when
    /// `meta` has no JSON form. Older checkpoints are then as they were, and nothing of this one is left.
    pub fn save<'a, T: Serialize>(
        &self,
        step: u64,
        meta: &T,
        tensors: impl IntoIterator<Item = TensorRef<'a>>,
    ) -> Result<PathBuf, TrainError> {
        let path = self.path_of(step);
        let tensors: Vec<TensorRef<'a>> = tensors.into_iter().collect();
        let (header, tensor_bytes) = tensors::header(&tensors)
            .map_err(|(name, reason)| TrainError::CheckpointTensor { path: path.join(TENSORS), name, reason })?;
        let state = serde_json::to_vec_pretty(&State { format: FORMAT, step, meta })
            .map_err(|error| TrainError::CheckpointState { path: path.join(STATE), reason: error.to_string() })?;
        let needed = tensor_bytes + state.len() as u64 + MARGIN;
        self.check_space(&path, needed)?;

        let unfinished = self.directory.join(format!("{UNFINISHED}{}", name_of(step)));
        let written = self.write(&unfinished, needed, &state, &header, &tensors).and_then(|()| {
            self.publish(&unfinished, &path).map_err(|source| TrainError::from_io(&path, "write", needed, source))
        });
        if let Err(error) = written {
            // A full disk needs the room back; what cannot be removed now is removed at the next start.
            let _ = fs::remove_dir_all(&unfinished);
            return Err(error);
        }
        sync_directory(&self.directory)?;
        retention::prune(&self.directory, step, self.kept)?;
        Ok(path)
    }

    /// Marks the checkpoint of `step` as the one with the lowest validation loss (nats per token), which is kept until
    /// another takes its place.
    ///
    /// # Errors
    /// [`TrainError::CheckpointBestMark`] when the loss is not finite, [`TrainError::Io`], [`TrainError::DiskFull`].
    pub fn mark_best(&self, step: u64, val_loss: f64) -> Result<(), TrainError> {
        retention::mark_best(&self.directory, Best { step, val_loss })
    }

    /// Removes the checkpoints after `step`, which are of a way that the run has gone back on, and makes `best` the best,
    /// if it is still there.
    ///
    /// # Errors
    /// [`TrainError::Io`], [`TrainError::DiskFull`].
    pub fn set_back(&self, step: u64, best: Option<Best>) -> Result<(), TrainError> {
        for later in self.steps()?.into_iter().filter(|later| *later > step) {
            retention::remove(&self.path_of(later))?;
        }
        match best {
            Some(best) if self.path_of(best.step).exists() => retention::mark_best(&self.directory, best),
            _ => retention::unmark_best(&self.directory),
        }
    }

    /// The best so far.
    ///
    /// # Errors
    /// [`TrainError::CheckpointBestMark`] when the mark is damaged, [`TrainError::Io`].
    pub fn best(&self) -> Result<Option<Best>, TrainError> {
        retention::best(&self.directory)
    }

    /// Verifies from the newest checkpoint back to the first that is whole.
    ///
    /// # Errors
    /// [`TrainError::Io`] when the directory cannot be listed. Damaged checkpoints are no error: they are in
    /// [`Latest::skipped`], which the caller must show.
    pub fn latest_good(&self) -> Result<Latest, TrainError> {
        self.latest_good_of(|_| true)
    }

    /// As [`CheckpointStore::latest_good`], of the checkpoints whose steps fit.
    ///
    /// # Errors
    /// As of [`CheckpointStore::latest_good`].
    pub fn latest_good_of(&self, fits: impl Fn(u64) -> bool) -> Result<Latest, TrainError> {
        let mut skipped = Vec::new();
        for step in self.steps()?.into_iter().rev().filter(|step| fits(*step)) {
            match self.open(step) {
                Ok(checkpoint) => return Ok(Latest { checkpoint: Some(checkpoint), skipped }),
                Err(error) => skipped.push(Skipped { path: self.path_of(step), error }),
            }
        }
        Ok(Latest { checkpoint: None, skipped })
    }

    /// Verifies and opens the checkpoint of `step`.
    ///
    /// # Errors
    /// As [`Checkpoint::open`], and [`TrainError::CheckpointState`] when it is of another step than its name says.
    pub fn open(&self, step: u64) -> Result<Checkpoint, TrainError> {
        let path = self.path_of(step);
        let checkpoint = Checkpoint::open(&path)?;
        if checkpoint.step() != step {
            let reason = format!("holds step {}, the directory's name says {step}", checkpoint.step());
            return Err(TrainError::CheckpointState { path: path.join(STATE), reason });
        }
        Ok(checkpoint)
    }

    fn check_space(&self, path: &Path, needed: u64) -> Result<(), TrainError> {
        // Where the system does not tell, the write itself will.
        match self.disk.available(&self.directory) {
            Ok(available) if available < needed => {
                Err(TrainError::DiskFull { path: path.to_owned(), needed, available: Some(available) })
            }
            _ => Ok(()),
        }
    }

    fn write(
        &self,
        unfinished: &Path,
        needed: u64,
        state: &[u8],
        header: &[u8],
        tensors: &[TensorRef<'_>],
    ) -> Result<(), TrainError> {
        if unfinished.exists() {
            retention::remove(unfinished)?;
        }
        fs::create_dir(unfinished).map_err(|source| TrainError::from_io(unfinished, "create", needed, source))?;
        let entries = [
            self.write_file(unfinished, STATE, needed, |out| out.write_all(state))?,
            self.write_file(unfinished, TENSORS, needed, |out| tensors::write(out, header, tensors))?,
        ];
        let list = checksums::render(&entries);
        self.write_file(unfinished, CHECKSUMS, needed, |out| out.write_all(list.as_bytes()))?;
        sync_directory(unfinished)
    }

    fn write_file(
        &self,
        directory: &Path,
        name: &str,
        needed: u64,
        fill: impl FnOnce(&mut Summing<BufWriter<Box<dyn DiskFile>>>) -> io::Result<()>,
    ) -> Result<Entry, TrainError> {
        let path = directory.join(name);
        let write = || {
            let mut out = Summing::new(BufWriter::with_capacity(1 << 20, self.disk.create(&path)?));
            fill(&mut out)?;
            let (buffered, entry) = out.finish(name);
            let mut file = buffered.into_inner().map_err(io::IntoInnerError::into_error)?;
            file.sync()?;
            Ok(entry)
        };
        write().map_err(|source| TrainError::from_io(&path, "write", needed, source))
    }

    /// Gives the finished directory its name. One of the same step, as after a resume, makes room first.
    fn publish(&self, unfinished: &Path, path: &Path) -> io::Result<()> {
        if path.exists() {
            let replaced = retention::replaced_name(path);
            fs::rename(path, &replaced)?;
            fs::rename(unfinished, path)?;
            // The checkpoint is in place; what cannot be removed now is removed at the next start.
            let _ = fs::remove_dir_all(&replaced);
            return Ok(());
        }
        fs::rename(unfinished, path)
    }
}
