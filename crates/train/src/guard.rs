//! The guard: which steps are outliers, what is done about them, and which batches are passed over.
//!
//! A step's loss and gradient norm are compared with the mean and deviation of the last steps that were none (the
//! z-score; only what is above the mean counts). Where an outlier may lead to no update, it is looked for before the
//! update, so that weights never hold one. Everything it knows is a function of the steps before and stands in the
//! checkpoint: a run that is resumed judges as one that never stopped.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::events::{Action, Quantity, What};

/// Outliers in a row after which they are none: the data has changed, or the model has. Also the most batches that are
/// passed over for one spike.
pub(crate) const IN_A_ROW: u64 = 32;
/// Rollbacks for the same place after which the run ends.
pub(crate) const ROLLBACKS: u64 = 3;
/// Steps by which a run must have come further than at the last rollback, or else it is at the same place.
const SAME_PLACE: u64 = 4;
/// The deviation is taken for at least this share of the mean: a change of `z` percent is no spike, however quiet the
/// steps before were.
const LEAST_DEVIATION: f64 = 0.01;

/// Settings of the guard.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct GuardConfig {
    /// Steps whose mean and deviation are compared with; nothing is judged before there are so many.
    pub window: usize,
    /// Deviations above the mean from which a step is an outlier.
    pub z: f64,
    /// What is done about one: [`Action::Warn`], [`Action::Skip`] or [`Action::Rollback`].
    pub spike: Action,
    /// What is done about a loss or norm that is not finite: [`Action::Stop`], [`Action::Skip`] or [`Action::Rollback`].
    pub non_finite: Action,
    /// Batches before a spike that a rollback passes over too.
    pub before: u64,
}

impl Default for GuardConfig {
    fn default() -> Self {
        GuardConfig { window: 128, z: 6.0, spike: Action::Warn, non_finite: Action::Stop, before: 16 }
    }
}

impl GuardConfig {
    /// Whether an update waits for the judgement.
    pub(crate) fn decides(&self) -> bool {
        self.spike != Action::Warn
    }

    /// Whether the run may go back to a checkpoint.
    pub fn goes_back(&self) -> bool {
        self.spike == Action::Rollback || self.non_finite == Action::Rollback
    }
}

/// What the guard knows, as it stands in a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct GuardState {
    /// Losses of the last steps that were no outliers, the latest last.
    losses: VecDeque<f64>,
    /// Their gradient norms.
    norms: VecDeque<f64>,
    /// Outliers in a row.
    outliers: u64,
    /// Batches that are passed over, by their numbers in the feed, ascending.
    passed_over: Vec<u64>,
    /// Rollbacks for the same place, and the step of the last.
    rollbacks: (u64, u64),
}

/// A step's value that is out of the ordinary.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Outlier {
    pub(crate) quantity: Quantity,
    pub(crate) value: f64,
    /// Mean of the window and deviations above it; `None` where the value is not finite.
    pub(crate) above: Option<(f64, f64)>,
}

/// The guard of a run.
#[derive(Clone, Debug)]
pub(crate) struct Guard {
    pub(crate) config: GuardConfig,
    state: GuardState,
}

impl Guard {
    pub(crate) fn new(config: GuardConfig) -> Self {
        Guard { config, state: GuardState::default() }
    }

    /// What a checkpoint is to hold.
    pub(crate) fn state(&self) -> &GuardState {
        &self.state
    }

    /// Goes on from a checkpoint. A smaller window than that of then takes the latest of it.
    pub(crate) fn restore(&mut self, state: GuardState) {
        self.state = state;
        self.trim();
    }

    /// Judges a step's loss and gradient norm.
    pub(crate) fn judge(&self, loss: f64, norm: f64) -> Option<Outlier> {
        let values = [(Quantity::Loss, loss, &self.state.losses), (Quantity::GradNorm, norm, &self.state.norms)];
        if let Some((quantity, value, _)) = values.into_iter().find(|(_, value, _)| !value.is_finite()) {
            return Some(Outlier { quantity, value, above: None });
        }
        let far = |(quantity, value, window): (Quantity, f64, &VecDeque<f64>)| {
            let (mean, deviation) = moments(window);
            let z = (value - mean) / deviation.max(LEAST_DEVIATION * mean.abs()).max(f64::MIN_POSITIVE);
            (z > self.config.z).then_some(Outlier { quantity, value, above: Some((mean, z)) })
        };
        if self.state.losses.len() < self.config.window { None } else { values.into_iter().find_map(far) }
    }

    /// What is done about an outlier.
    pub(crate) fn action(&self, outlier: &Outlier) -> Action {
        if outlier.above.is_some() { self.config.spike } else { self.config.non_finite }
    }

    /// Takes a step that is no outlier into the window.
    pub(crate) fn take(&mut self, loss: f64, norm: f64) {
        self.state.outliers = 0;
        self.state.losses.push_back(loss);
        self.state.norms.push_back(norm);
        self.trim();
    }

    /// Counts an outlier that was no reason to go back. True at one too many in a row: then the window begins anew.
    pub(crate) fn count(&mut self) -> bool {
        self.state.outliers += 1;
        if self.state.outliers < IN_A_ROW {
            return false;
        }
        self.state.outliers = 0;
        self.state.losses.clear();
        self.state.norms.clear();
        true
    }

    /// The number in the feed of the batch that step `step`, counted from 0, trains on.
    pub(crate) fn batch_of(&self, step: u64) -> u64 {
        let passed = |batch, over: &u64| if *over <= batch { batch + 1 } else { batch };
        self.state.passed_over.iter().fold(step, passed)
    }

    /// The batch after `batch` that is not passed over.
    pub(crate) fn next_batch(&self, batch: u64) -> u64 {
        let mut next = batch + 1;
        while self.state.passed_over.binary_search(&next).is_ok() {
            next += 1;
        }
        next
    }

    /// Passes over the outlying batches and those before them, at step `step`, counted from 1. Called with the state of
    /// the checkpoint of step `to` that the run has gone back to; `rollbacks` is what [`Guard::rollbacks_at`] said before.
    pub(crate) fn pass_over(&mut self, outliers: &[u64], (to, step): (u64, u64), rollbacks: u64) -> Vec<u64> {
        let first = outliers.first().map_or(0, |first| first.saturating_sub(self.config.before));
        // What was trained on before the checkpoint cannot be passed over any more.
        let first = first.max(self.batch_of(to));
        let last = outliers.last().copied().unwrap_or(0);
        let fresh = |batch: &u64| self.state.passed_over.binary_search(batch).is_err();
        let fresh: Vec<u64> = (first..=last).filter(fresh).collect();
        self.state.passed_over.extend(&fresh);
        self.state.passed_over.sort_unstable();
        self.state.outliers = 0;
        self.state.rollbacks = (rollbacks, step);
        fresh
    }

    /// Rollbacks for the place of step `step`, one at it included.
    pub(crate) fn rollbacks_at(&self, step: u64) -> u64 {
        let (count, last) = self.state.rollbacks;
        if count > 0 && step <= last + SAME_PLACE { count + 1 } else { 1 }
    }

    fn trim(&mut self) {
        for window in [&mut self.state.losses, &mut self.state.norms] {
            let surplus = window.len().saturating_sub(self.config.window);
            window.drain(..surplus);
        }
    }
}

impl Outlier {
    /// As an event.
    pub(crate) fn told(&self, batch: String, action: Action) -> What {
        let Outlier { quantity, value, above } = *self;
        match above {
            Some((mean, z)) => What::Spike { quantity, value, mean, z, batch, action },
            None => {
                let value = if value.is_nan() { "not a number" } else { "infinite" }.to_owned();
                What::NotFinite { quantity, value, batch, action }
            }
        }
    }
}

/// Mean and standard deviation.
fn moments(values: &VecDeque<f64>) -> (f64, f64) {
    let n = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares = values.iter().map(|value| (value - mean) * (value - mean)).sum::<f64>();
    (mean, (squares / n).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(window: usize, before: u64) -> Guard {
        Guard::new(GuardConfig { window, before, z: 4.0, ..Default::default() })
    }

    fn filled(window: usize) -> Guard {
        let mut guard = guard(window, 0);
        (0..window).for_each(|i| guard.take(3.0 + 0.1 * (i % 2) as f64, 1.0));
        guard
    }

    #[test]
    fn nothing_is_judged_before_the_window_is_full_but_what_is_not_finite() {
        let mut guard = guard(4, 0);
        for _ in 0..4 {
            assert_eq!(guard.judge(1e9, 1e9), None);
            assert!(guard.judge(f64::NAN, 1.0).is_some_and(|o| o.above.is_none() && o.quantity == Quantity::Loss));
            assert!(guard.judge(1.0, f64::INFINITY).is_some_and(|o| o.quantity == Quantity::GradNorm));
            guard.take(3.0, 1.0);
        }
        assert!(guard.judge(1e9, 1.0).is_some());
    }

    #[test]
    fn an_outlier_is_above_the_mean_by_so_many_deviations() {
        // The mean is 3.05 and the deviation 0.05.
        let guard = filled(10);
        assert_eq!(guard.judge(3.249, 1.0), None);
        let Some(Outlier { quantity: Quantity::Loss, above: Some((mean, z)), .. }) = guard.judge(3.251, 1.0) else {
            panic!("not an outlier")
        };
        assert!((mean - 3.05).abs() < 1e-12 && (z - 4.02).abs() < 1e-6, "{mean} {z}");
        assert_eq!(guard.judge(0.0, 0.0), None, "what is below is no trouble");
        // Norms that never changed: a hundredth of the mean is taken for their deviation.
        assert_eq!(guard.judge(3.0, 1.039), None);
        assert!(guard.judge(3.0, 1.041).is_some_and(|o| o.quantity == Quantity::GradNorm));
    }

    #[test]
    fn outliers_stay_out_of_the_window_until_they_are_the_rule() {
        let mut guard = filled(10);
        let before = guard.state().clone();
        for _ in 1..IN_A_ROW {
            assert!(!guard.count());
        }
        assert_eq!((&before.losses, &before.norms), (&guard.state().losses, &guard.state().norms));
        assert!(guard.judge(9.0, 1.0).is_some());
        assert!(guard.count());
        assert_eq!(guard.judge(9.0, 1.0), None);
        let mut guard = filled(10);
        guard.count();
        guard.take(3.0, 1.0);
        assert!((1..IN_A_ROW).all(|_| !guard.count()), "they were not in a row");
    }

    #[test]
    fn batches_that_are_passed_over_shift_those_behind_them() {
        let mut guard = guard(4, 2);
        assert_eq!(guard.pass_over(&[10, 11], (6, 9), 1), [8, 9, 10, 11]);
        assert_eq!(guard.pass_over(&[13], (6, 9), 2), [12, 13], "11 is passed over already");
        let batches: Vec<u64> = (0..12).map(|step| guard.batch_of(step)).collect();
        assert_eq!(batches, [0, 1, 2, 3, 4, 5, 6, 7, 14, 15, 16, 17]);
        assert_eq!((guard.next_batch(6), guard.next_batch(7)), (7, 14));
        assert_eq!(guard.pass_over(&[15], (9, 10), 1), [15], "14 was trained on before the checkpoint");
        assert_eq!(guard.pass_over(&[1], (0, 2), 1), [0, 1]);
        assert_eq!((0..3).map(|step| guard.batch_of(step)).collect::<Vec<_>>(), [2, 3, 4]);
    }

    #[test]
    fn rollbacks_for_one_place_are_counted_and_those_for_another_begin_anew() {
        let mut guard = guard(4, 0);
        assert_eq!(guard.rollbacks_at(100), 1);
        guard.pass_over(&[99], (90, 100), 1);
        assert_eq!((guard.rollbacks_at(104), guard.rollbacks_at(105)), (2, 1));
    }

    #[test]
    fn what_it_knows_comes_back_to_the_bit() {
        let mut guard = filled(7);
        guard.take(1.0 / 3.0, 2.0f64.sqrt());
        guard.pass_over(&[4], (0, 5), 1);
        let json = serde_json::to_string(guard.state()).unwrap();
        let state: GuardState = serde_json::from_str(&json).unwrap();
        assert_eq!(&state, guard.state());
        let mut smaller = Guard::new(GuardConfig { window: 2, ..guard.config });
        smaller.restore(state);
        assert_eq!(smaller.state().losses, [3.0, 1.0 / 3.0]);
        // A checkpoint from before there was a guard.
        assert_eq!(serde_json::from_str::<GuardState>("{}").unwrap(), GuardState::default());
    }
}
