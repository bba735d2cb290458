//! Whether the checkpoints of a run fit the disk, asked before any time is spent.

use super::store::{CheckpointStore, MARGIN};
use crate::error::TrainError;

/// What a run will write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ahead {
    /// Bytes of a checkpoint.
    pub bytes: u64,
    /// Steps between two.
    pub every: u64,
    /// Steps done.
    pub step: u64,
    /// Steps of the run.
    pub steps: u64,
}

impl CheckpointStore {
    /// Refuses a run whose checkpoints do not fit the disk beside those that are there: the last few, the best, those that
    /// are kept for good, and the one that is written before an old one goes.
    ///
    /// # Errors
    /// [`TrainError::DiskTooSmall`]; [`TrainError::Io`] when the directory cannot be listed.
    pub fn check_room(&self, ahead: Ahead) -> Result<(), TrainError> {
        // Where the system does not tell, the writes themselves will.
        let Ok(available) = self.disk.available(&self.directory) else { return Ok(()) };
        let steps = self.steps()?;
        let there = steps.len() as u64;
        // That of a run that was stopped goes when the next is there.
        let besides = u64::from(steps.last().is_some_and(|newest| !self.kept.is_regular(*newest)));
        let written =
            (ahead.steps - ahead.step.min(ahead.steps)).div_ceil(ahead.every.max(1)) + u64::from(ahead.step == 0);
        let kept = self.kept.every.map_or(0, |every| ahead.steps / every);
        let most = (self.kept.last as u64 + 2 + besides).saturating_add(kept).min(there.saturating_add(written));
        let needed = most.saturating_sub(there).saturating_mul(ahead.bytes).saturating_add(MARGIN);
        if written == 0 || needed <= available {
            return Ok(());
        }
        Err(TrainError::DiskTooSmall {
            path: self.directory.clone(),
            checkpoints: most,
            each: ahead.bytes,
            needed,
            available,
        })
    }
}
