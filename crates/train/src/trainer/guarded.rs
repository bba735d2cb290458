//! What is done about a step that the guard does not like.

use casallm_compute::Device;
use casallm_model::error::ModelError;

use super::Trainer;
use crate::diary::Diary;
use crate::error::TrainError;
use crate::events::{Action, What};
use crate::feed::Feed;
use crate::guard::{IN_A_ROW, Outlier, ROLLBACKS};
use crate::metrics::Position;
use crate::saver::Saver;
use crate::snapshot::Progress;
use crate::trainer::saving::say_failed;

/// What has become of the step.
pub(super) enum Handled {
    /// It was as any other.
    Updated,
    /// It left weights and optimizer as they were.
    NotUpdated,
    /// So many steps are done now.
    GoneBack(u64),
}

impl<D: Device> Trainer<D> {
    /// Does what the recipe says about the outlier that step `step`, counted from 0, is.
    pub(super) fn handle(
        &mut self,
        outlier: Outlier,
        (feed, step): (&dyn Feed, u64),
        saver: &mut Saver<'_>,
        diary: &mut Diary<'_>,
        progress: &mut Progress,
    ) -> Result<Handled, TrainError> {
        let action = self.guard.action(&outlier);
        if action == Action::Stop {
            return Err(self.not_finite(feed, step, outlier));
        }
        let told = outlier.told(feed.describe(self.guard.batch_of(step)), action);
        if outlier.above.is_none() {
            self.forgive()?;
        }
        if action == Action::Rollback {
            let bad = self.outliers_from(feed, step)?;
            if let Some(to) = self.go_back((step, &bad, outlier), told.clone(), saver, diary, progress)? {
                return Ok(Handled::GoneBack(to));
            }
            diary.event(step + 1, told)?;
            diary.event(step + 1, What::NotRolledBack)?;
        } else {
            diary.event(step + 1, told)?;
        }
        if self.guard.count() {
            if outlier.above.is_none() {
                return Err(self.not_finite(feed, step, outlier));
            }
            diary.event(step + 1, What::NewLevel { outliers: IN_A_ROW })?;
        }
        Ok(if action == Action::Warn { Handled::Updated } else { Handled::NotUpdated })
    }

    /// The error of a step that is not finite.
    pub(super) fn not_finite(&mut self, feed: &dyn Feed, step: u64, outlier: Outlier) -> TrainError {
        let (stage, batch) = (self.config.stage.name(), feed.describe(self.guard.batch_of(step)));
        self.drop_queued();
        TrainError::NonFinite { stage, step: step + 1, what: outlier.quantity.name(), value: outlier.value, batch }
    }

    /// What is queued has been done without its update, and comes to nothing.
    fn drop_queued(&mut self) {
        let device = self.network.device();
        for _ in self.queued.drain(..) {
            device.collect_tally(&mut self.tally);
        }
    }

    /// After a step that is not finite: a tally that has refused refuses for good.
    fn forgive(&mut self) -> Result<(), TrainError> {
        self.drop_queued();
        self.tally = self.network.device().allocate_tally().map_err(ModelError::from)?;
        Ok(())
    }

    /// The batches from that of step `step` on that are outliers to the weights as they are, one after the other.
    fn outliers_from(&mut self, feed: &dyn Feed, step: u64) -> Result<Vec<u64>, TrainError> {
        let mut bad = vec![self.guard.batch_of(step)];
        while (bad.len() as u64) < IN_A_ROW {
            let next = self.guard.next_batch(bad[bad.len() - 1]);
            let weighed = self.add_gradients(feed, step, next)?;
            let device = self.network.device().clone();
            device.clip(&self.gradients.all(), self.config.clip, &mut self.tally);
            let totals = device.read_tally(&self.tally);
            device.check()?;
            match self.guard.judge(weighed.loss(totals.head.weighted_loss), totals.gradient_norm) {
                None => break,
                Some(outlier) if outlier.above.is_none() => self.forgive()?,
                Some(_) => {}
            }
            bad.push(next);
        }
        Ok(bad)
    }

    /// Goes back to the newest good checkpoint from before what is passed over; `None` where there is none.
    fn go_back(
        &mut self,
        (step, bad, outlier): (u64, &[u64], Outlier),
        told: What,
        saver: &mut Saver<'_>,
        diary: &mut Diary<'_>,
        progress: &mut Progress,
    ) -> Result<Option<u64>, TrainError> {
        let times = self.guard.rollbacks_at(step + 1);
        if times > ROLLBACKS {
            let (stage, what) = (self.config.stage.name(), outlier.quantity.name());
            return Err(TrainError::GuardGaveUp { stage, step: step + 1, times, what, value: outlier.value });
        }
        if let Some(saved) = saver.wait() {
            say_failed(saved, diary)?;
        }
        let store = saver.store();
        let (before, every) = (step.saturating_sub(self.guard.config.before), self.config.checkpoint_every);
        // One that is there because the run was interrupted would not be there had it not been.
        let mut latest = store.latest_good_of(|at| at <= before && at.is_multiple_of(every))?;
        if latest.checkpoint.is_none() {
            latest = store.latest_good_of(|at| at <= step && at.is_multiple_of(every))?;
        }
        if latest.checkpoint.is_none() {
            latest = store.latest_good_of(|at| at <= step)?;
        }
        for skipped in &latest.skipped {
            diary.event(step + 1, What::DamagedCheckpoint { reason: skipped.error.to_string() })?;
        }
        let Some(mut checkpoint) = latest.checkpoint else { return Ok(None) };
        let (to, seconds) = (checkpoint.step(), progress.seconds);
        *progress = self.load(&mut checkpoint)?;
        progress.seconds = seconds;
        let passed_over = self.guard.pass_over(bad, (to, step + 1), times);
        progress.best = progress.best.filter(|best| store.path_of(best.step).exists());
        store.set_back(to, progress.best)?;
        diary.set_back(Position { step: to, lines: progress.lines })?;
        diary.event(step + 1, told)?;
        diary.event(step + 1, What::RolledBack { to, passed_over })?;
        Ok(Some(to))
    }
}
