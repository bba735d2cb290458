//! Checkpoints of a run: written as it goes, read when it is resumed.

use casallm_compute::{Device, DeviceInfo};

use super::Trainer;
use crate::checkpoint::{Ahead, Checkpoint, CheckpointStore};
use crate::diary::Diary;
use crate::error::TrainError;
use crate::events::What;
use crate::saver::{Label, Saved, Saver, timed};
use crate::snapshot::{self, Progress};

/// Says that a checkpoint could not be written, where that is no end of the run: the disk refuses, or the numbers are not
/// finite.
pub(super) fn say_failed(saved: Saved, diary: &mut Diary<'_>) -> Result<(), TrainError> {
    let Saved { step, result } = saved;
    match result {
        Err(error @ (TrainError::DiskFull { .. } | TrainError::Io { .. } | TrainError::CheckpointNotFinite { .. })) => {
            diary.event(step, What::CheckpointFailed { reason: error.to_string() })
        }
        result => result,
    }
}

impl<D: Device> Trainer<D> {
    /// Refuses a run whose checkpoints do not fit the disk.
    pub(super) fn check_room(&self, store: &CheckpointStore, step: u64) -> Result<(), TrainError> {
        let bytes = snapshot::bytes(self.network.config(), &self.config.optimizer);
        let every = self.config.checkpoint_every;
        store.check_room(Ahead { bytes, every, step, steps: self.config.schedule.steps })
    }

    /// Begins a checkpoint of `step` finished steps, and returns the seconds that the steps have waited for it. That it
    /// cannot be written is said, and is no error; but of the `last` one it is, for there is no next to try again at.
    pub(super) fn save(
        &mut self,
        saver: &mut Saver<'_>,
        diary: &mut Diary<'_>,
        (step, last): (u64, bool),
        progress: &mut Progress,
        best: Option<f64>,
    ) -> Result<f64, TrainError> {
        let (earlier, waited) = timed(|| saver.wait());
        if let Some(saved) = earlier {
            // Less than this is the end of a write that took as long as the steps between.
            if waited > 1.0 {
                diary.event(saved.step, What::CheckpointWaited { seconds: waited })?;
            }
            say_failed(saved, diary)?;
        }
        let (begun, seconds) = timed(|| {
            progress.lines = Some(diary.lines());
            progress.guard = self.guard.state().clone();
            let metrics = match diary.for_sync() {
                Ok(metrics) => metrics,
                Err(error) => return Ok(Some(Saved { step, result: Err(error) })),
            };
            let label = Label { step, progress: progress.clone(), metrics, best };
            saver.begin(label, &self.network.parameters, &self.optimizer)
        });
        let saved = begun?;
        match saved {
            Some(Saved { result, .. }) if last => result?,
            Some(saved) => say_failed(saved, diary)?,
            None if last => saver.wait().map_or(Ok(()), |saved| saved.result)?,
            None => {}
        }
        Ok(waited + seconds)
    }

    /// Loads the newest good checkpoint, if any: steps done and what is known of them. What there is to tell comes with it.
    pub(super) fn resume(
        &mut self,
        store: &CheckpointStore,
        told: &mut Vec<What>,
    ) -> Result<(u64, Progress), TrainError> {
        let DeviceInfo { name, isa, .. } = self.network.device().info();
        let device_name = format!("{name} ({isa})");
        let latest = store.latest_good()?;
        for skipped in &latest.skipped {
            told.push(What::DamagedCheckpoint { reason: skipped.error.to_string() });
        }
        let Some(mut checkpoint) = latest.checkpoint else {
            if let Some(skipped) = latest.skipped.into_iter().next() {
                // Beginning anew would bury what went wrong, and overwrite it.
                return Err(skipped.error);
            }
            let progress =
                Progress { settings: self.config.settings.clone(), device: device_name, ..Default::default() };
            return Ok((0, progress));
        };
        let mut progress = self.load(&mut checkpoint)?;
        if progress.device != device_name {
            let made_on = std::mem::replace(&mut progress.device, device_name.clone());
            told.push(What::OtherDevice { made_on, now_on: device_name });
        }
        match progress.best {
            // The process may have ended between saving this checkpoint and marking it.
            Some(best) if best.step == checkpoint.step() => store.mark_best(best.step, best.val_loss)?,
            // One that is not there is none to be better than.
            Some(best) if !store.path_of(best.step).exists() => progress.best = None,
            _ => {}
        }
        told.push(What::Resumed);
        Ok((checkpoint.step(), progress))
    }

    /// Goes on from a checkpoint.
    pub(super) fn load(&mut self, checkpoint: &mut Checkpoint) -> Result<Progress, TrainError> {
        let saved: Progress = checkpoint.meta()?;
        if saved.settings != self.config.settings {
            return Err(TrainError::RecipeChanged {
                path: checkpoint.path().to_owned(),
                differences: differences(&saved.settings, &self.config.settings),
            });
        }
        let progress = snapshot::load(checkpoint, &mut self.network.parameters, &mut self.optimizer)?;
        self.guard.restore(progress.guard.clone());
        Ok(progress)
    }
}

/// Lines that differ between two canonical settings.
fn differences(saved: &str, now: &str) -> String {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<std::collections::BTreeSet<_>>();
    let (saved, now) = (lines(saved), lines(now));
    let was = saved.difference(&now).map(|line| format!("was `{line}`"));
    let is = now.difference(&saved).map(|line| format!("is `{line}`"));
    was.chain(is).collect::<Vec<_>>().join(", ")
}
