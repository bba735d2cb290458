//! Which checkpoints there are, which is the best, and which may go.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::TrainError;
use crate::whole_file;

const PREFIX: &str = "step-";
const BEST: &str = "best.json";

/// Prefix of everything that is not whole.
pub(super) const UNFINISHED: &str = ".tmp-";
const REPLACED: &str = ".tmp-replaced-";

/// The checkpoint with the lowest validation loss so far.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Best {
    /// Its step.
    pub step: u64,
    /// Its validation loss, in nats per token.
    pub val_loss: f64,
}

/// The directory name of a step; names of up to six digits sort like their steps.
pub(super) fn name_of(step: u64) -> String {
    format!("{PREFIX}{step:06}")
}

/// Steps for which there is a directory, oldest first.
pub(super) fn steps(directory: &Path) -> Result<Vec<u64>, TrainError> {
    let mut steps = Vec::new();
    for entry in entries(directory)? {
        let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let step = name.strip_prefix(PREFIX).and_then(|digits| digits.parse::<u64>().ok());
        // A hand-made `step-1` is not ours: two names for one step would have no order.
        if let Some(step) = step.filter(|step| name_of(*step) == name && entry.is_dir()) {
            steps.push(step);
        }
    }
    steps.sort_unstable();
    Ok(steps)
}

/// Where the checkpoint at `path` waits while another of the same step takes its name.
pub(super) fn replaced_name(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{REPLACED}{name}"))
}

/// Removes what interrupted writes left. A checkpoint that was about to be replaced gets its name back.
pub(super) fn remove_unfinished(directory: &Path) -> Result<(), TrainError> {
    for entry in entries(directory)? {
        let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let original = name.strip_prefix(REPLACED).map(|original| directory.join(original));
        match original.filter(|original| !original.exists()) {
            Some(original) => {
                fs::rename(&entry, original).map_err(|source| TrainError::from_io(&entry, "rename", 0, source))?
            }
            None if name.starts_with(UNFINISHED) => remove(&entry)?,
            None => {}
        }
    }
    Ok(())
}

/// Removes a directory or file in one step as others see it: it loses its name first.
pub(super) fn remove(path: &Path) -> Result<(), TrainError> {
    let io = |source| TrainError::from_io(path, "remove", 0, source);
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let doomed = if name.starts_with(UNFINISHED) {
        path.to_owned()
    } else {
        let doomed = path.with_file_name(format!("{UNFINISHED}{name}-removed"));
        fs::rename(path, &doomed).map_err(io)?;
        doomed
    };
    if doomed.is_dir() { fs::remove_dir_all(&doomed) } else { fs::remove_file(&doomed) }.map_err(io)
}

/// The mark of the best, `None` when there is none.
pub(super) fn best(directory: &Path) -> Result<Option<Best>, TrainError> {
    let path = directory.join(BEST);
    let damaged = |reason: String| TrainError::CheckpointBestMark { path: path.clone(), reason };
    match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| damaged(error.to_string())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(TrainError::from_io(&path, "read", 0, error)),
    }
}

pub(super) fn mark_best(directory: &Path, best: Best) -> Result<(), TrainError> {
    let path = directory.join(BEST);
    if !best.val_loss.is_finite() {
        let reason = format!("validation loss {} marks nothing", best.val_loss);
        return Err(TrainError::CheckpointBestMark { path, reason });
    }
    let text = serde_json::to_vec(&best)
        .map_err(|error| TrainError::CheckpointBestMark { path: path.clone(), reason: error.to_string() })?;
    whole_file::replace(&path, &text)
}

/// Takes the mark away.
pub(super) fn unmark_best(directory: &Path) -> Result<(), TrainError> {
    let path = directory.join(BEST);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(TrainError::from_io(&path, "remove", 0, error))
        }
        _ => Ok(()),
    }
}

/// Which checkpoints are kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kept {
    /// So many of those that the schedule has, the newest.
    pub(super) last: usize,
    /// Those of the steps that are multiples of this.
    pub(super) every: Option<u64>,
    /// What the schedule has: every so many steps, and at the last step. All of them, where it is not known.
    pub(super) regular: Option<(u64, u64)>,
}

impl Kept {
    /// Whether the schedule has a checkpoint at this step, or it is there because the run was stopped.
    pub(super) fn is_regular(&self, step: u64) -> bool {
        self.regular.is_none_or(|(every, steps)| step.is_multiple_of(every) || step == steps)
    }
}

/// Removes all checkpoints up to `newest` but that one, the last few of the schedule, those of every so many steps, and
/// the best.
///
/// One that is there because the run was stopped pushes out no other, or a run that was stopped could not go back as far
/// as one that was not. Later ones are left alone: they are damaged ones that a resume passed over, or of a run that has
/// been set back, and neither may push out a good one.
pub(super) fn prune(directory: &Path, newest: u64, kept: Kept) -> Result<(), TrainError> {
    // A mark that cannot be read may stand for any of them: keep all until the next one is written.
    let Ok(best) = best(directory) else { return Ok(()) };
    let steps: Vec<u64> = steps(directory)?.into_iter().filter(|step| *step <= newest).collect();
    // Where the schedule has had too few (perhaps it was another one before), others stand in for them.
    let (regular, others): (Vec<u64>, Vec<u64>) = steps.iter().rev().partition(|step| kept.is_regular(**step));
    let last: Vec<u64> = regular.into_iter().chain(others).take(kept.last).collect();
    let stays = |step: u64| {
        step == newest
            || last.contains(&step)
            || best.is_some_and(|best| best.step == step)
            || kept.every.is_some_and(|every| step > 0 && step.is_multiple_of(every))
    };
    for step in steps.into_iter().filter(|step| !stays(*step)) {
        remove(&directory.join(name_of(step)))?;
    }
    Ok(())
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>, TrainError> {
    let io = |source| TrainError::from_io(directory, "list", 0, source);
    fs::read_dir(directory).map_err(io)?.map(|entry| entry.map(|e| e.path()).map_err(io)).collect()
}
