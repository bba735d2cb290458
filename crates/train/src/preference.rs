//! Direct preference optimisation: what pairs of answers are judged by, and what weight their tokens get from it.
//!
//! Rafailov et al. 2023, arXiv 2305.18290. With `p` and `r` the summed log-probabilities of an answer under the trained
//! and the reference model, `reward = beta (p - r)` and `margin = reward(chosen) - reward(rejected)`, the loss of a pair
//! is `-log sigmoid(margin)`; with label smoothing e (conservative DPO, Mitchell 2023, <https://ericmitchell.ai/cdpo.pdf>)
//! it is `-(1 - e) log sigmoid(margin) - e log sigmoid(-margin)`. With length normalisation (Lambert et al. 2024,
//! arXiv 2411.15124) `p` and `r` are divided by the number of the answer's tokens.
//!
//! The derivative with respect to the cross-entropy of one token is `s = beta ((1 - e) sigmoid(-margin) - e sigmoid(margin))`
//! for the chosen answer and `-s` for the rejected one, divided by their tokens under length normalisation: this is the
//! weight of the token in the usual backward pass. Called by the trainer and by validation.

use casallm_data::batch::Batch;
use serde::{Deserialize, Serialize};

/// Log-probabilities of the chosen and the rejected answer of a pair, summed over their tokens, nats.
pub type LogProbabilities = [f64; 2];

/// The objective's settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Objective {
    /// How dear it is to leave the reference model.
    pub beta: f64,
    /// Probability that a pair is labelled the wrong way round, in `[0, 0.5)`.
    pub label_smoothing: f64,
    /// Whether an answer counts by the mean over its tokens in place of their sum.
    pub length_normalised: bool,
}

/// A batch's pairs and what they are judged against.
#[derive(Clone, Debug)]
pub struct Preferences {
    /// The objective.
    pub objective: Objective,
    /// For each batch, for each of its pairs, what the reference model gives.
    pub references: Vec<Vec<LogProbabilities>>,
}

/// Means over pairs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PreferenceMetrics {
    /// The objective's loss.
    pub loss: Option<f64>,
    /// Reward of the chosen answer above that of the rejected one.
    pub margin: Option<f64>,
    /// Share of pairs with a positive margin, in `[0, 1]`; a margin of exactly 0, as at the beginning, counts half.
    pub accuracy: f64,
    /// Reward of chosen answers: `beta` times the log-ratio of the trained and the reference model.
    pub chosen_reward: Option<f64>,
    /// Reward of rejected answers.
    pub rejected_reward: Option<f64>,
    /// Share of pairs whose chosen answer the model itself finds likelier, by its mean over the tokens, than the rejected
    /// one, with no regard to the reference model; a tie counts half.
    pub ranking: f64,
}

/// Sums over pairs.
#[derive(Clone, Copy, Debug, Default)]
pub struct PairTotals {
    pairs: u64,
    loss: f64,
    rewards: [f64; 2],
    accurate: f64,
    ranked: f64,
}

impl PairTotals {
    /// The means; of no pairs, nothing but zeros.
    pub fn mean(&self) -> PreferenceMetrics {
        let n = self.pairs.max(1) as f64;
        let [chosen, rejected] = self.rewards.map(|reward| reward / n);
        PreferenceMetrics {
            loss: Some(self.loss / n),
            margin: Some(chosen - rejected),
            accuracy: self.accurate / n,
            chosen_reward: Some(chosen),
            rejected_reward: Some(rejected),
            ranking: self.ranked / n,
        }
    }
}

/// 1 for a positive number, a half for zero, 0 for others.
fn wins(x: f64) -> f64 {
    f64::from(u8::from(x > 0.0)) + if x == 0.0 { 0.5 } else { 0.0 }
}

/// `1 / (1 + exp(-x))`. `libm`, because the weights of a run that repeats to the bit depend on it.
fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + libm::exp(-x))
}

/// `log(1 + exp(x))`, for any finite x.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + libm::log1p(libm::exp(-x.abs()))
}

impl Objective {
    /// Judges a pair: adds it to `totals` and returns the derivatives of its loss with respect to the cross-entropy of
    /// one token of the chosen and of the rejected answer. `tokens` are their supervised tokens, at least one each.
    pub fn judge(
        &self,
        policy: LogProbabilities,
        reference: LogProbabilities,
        tokens: [usize; 2],
        totals: &mut PairTotals,
    ) -> [f64; 2] {
        let share = tokens.map(|n| if self.length_normalised { 1.0 / n.max(1) as f64 } else { 1.0 });
        let rewards = [0, 1].map(|i| self.beta * share[i] * (policy[i] - reference[i]));
        let (margin, smoothing) = (rewards[0] - rewards[1], self.label_smoothing);
        totals.pairs += 1;
        totals.loss += (1.0 - smoothing) * softplus(-margin) + smoothing * softplus(margin);
        totals.accurate += wins(margin);
        let mean = |i: usize| policy[i] / tokens[i].max(1) as f64;
        totals.ranked += wins(mean(0) - mean(1));
        for (sum, reward) in totals.rewards.iter_mut().zip(rewards) {
            *sum += reward;
        }
        let slope = self.beta * ((1.0 - smoothing) * sigmoid(-margin) - smoothing * sigmoid(margin));
        [slope * share[0], -slope * share[1]]
    }

    /// Judges the pairs of a batch, whose row losses are given: the weight of each row.
    pub fn weigh(
        &self,
        batch: &Batch,
        losses: &[f32],
        references: &[LogProbabilities],
        totals: &mut PairTotals,
    ) -> Vec<f32> {
        let mut weights = vec![0.0; batch.len()];
        let sums = log_probabilities(batch, losses);
        for (i, (policy, reference)) in sums.into_iter().zip(references).enumerate() {
            let rows = [2 * i, 2 * i + 1].map(|s| batch.cu_seqlens[s] as usize..batch.cu_seqlens[s + 1] as usize);
            let supervised = rows.clone().map(|rows| batch.weights[rows].iter().filter(|w| **w != 0.0).count());
            let derivatives = self.judge(policy, *reference, supervised, totals);
            for (rows, derivative) in rows.into_iter().zip(derivatives) {
                for row in rows {
                    // The batch's own weights are 1 where a target is learned.
                    weights[row] = (derivative * f64::from(batch.weights[row])) as f32;
                }
            }
        }
        weights
    }
}

/// The log-probabilities of the pairs of a batch, from its row losses.
pub fn log_probabilities(batch: &Batch, losses: &[f32]) -> Vec<LogProbabilities> {
    let sum = |bounds: &[u32]| -> f64 {
        let rows = bounds[0] as usize..bounds[1] as usize;
        let weighted = rows.map(|row| f64::from(batch.weights[row]) * f64::from(losses[row]));
        -weighted.sum::<f64>()
    };
    let sums: Vec<f64> = batch.cu_seqlens.windows(2).map(sum).collect();
    sums.as_chunks::<2>().0.to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn objective() -> impl Strategy<Value = Objective> {
        (0.01f64..2.0, 0.0f64..0.49, any::<bool>()).prop_map(|(beta, label_smoothing, length_normalised)| Objective {
            beta,
            label_smoothing,
            length_normalised,
        })
    }

    #[test]
    fn at_the_reference_the_loss_is_log_two_and_nothing_is_preferred() {
        let objective = Objective { beta: 0.1, label_smoothing: 0.0, length_normalised: false };
        let mut totals = PairTotals::default();
        let derivatives = objective.judge([-12.0, -9.0], [-12.0, -9.0], [4, 2], &mut totals);
        assert_eq!(derivatives, [0.05, -0.05]);
        let mean = totals.mean();
        assert!((mean.loss.unwrap() - std::f64::consts::LN_2).abs() < 1e-15);
        assert_eq!((mean.margin, mean.accuracy, mean.ranking), (Some(0.0), 0.5, 1.0));
    }

    #[test]
    fn the_weights_of_a_batch_are_zero_outside_of_the_answers() {
        let objective = Objective { beta: 0.5, label_smoothing: 0.0, length_normalised: true };
        let weights = vec![0.0, 1.0, 1.0, 0.0, 1.0];
        let batch = Batch::new(vec![1; 5], vec![2; 5], weights, vec![0, 3, 5]).unwrap();
        let losses = [0.0, 2.0, 3.0, 0.0, 1.0];
        assert_eq!(log_probabilities(&batch, &losses), [[-5.0, -1.0]]);
        let mut totals = PairTotals::default();
        let found = objective.weigh(&batch, &losses, &[[-5.0, -1.0]], &mut totals);
        assert_eq!(found, [0.0, 0.125, 0.125, 0.0, -0.25]);
    }

    proptest! {
        #[test]
        fn derivatives_are_those_of_the_loss(
            objective in objective(),
            policy in [-60.0f64..0.0, -60.0..0.0],
            reference in [-60.0f64..0.0, -60.0..0.0],
            tokens in [1usize..20, 1..20],
        ) {
            let loss = |policy| {
                let mut totals = PairTotals::default();
                objective.judge(policy, reference, tokens, &mut totals);
                totals.loss
            };
            let derivatives = objective.judge(policy, reference, tokens, &mut PairTotals::default());
            for i in 0..2 {
                let h = 1e-4;
                // A cross-entropy is the negative of a log-probability.
                let mut moved = [policy; 2];
                moved[0][i] -= h;
                moved[1][i] += h;
                let slope = (loss(moved[0]) - loss(moved[1])) / (2.0 * h);
                prop_assert!((slope - derivatives[i]).abs() < 1e-6 + 1e-5 * slope.abs(), "{slope} {derivatives:?}");
            }
        }

        #[test]
        fn no_pair_of_finite_numbers_is_judged_by_nan(
            objective in objective(),
            policy in [-1e30f64..0.0, -1e30..0.0],
            reference in [-1e30f64..0.0, -1e30..0.0],
        ) {
            let mut totals = PairTotals::default();
            let derivatives = objective.judge(policy, reference, [3, 1_000_000], &mut totals);
            let mean = totals.mean();
            prop_assert!(derivatives.iter().all(|d| d.is_finite() && d.abs() <= objective.beta));
            prop_assert!(mean.loss.unwrap().is_finite() && mean.loss.unwrap() >= 0.0);
            prop_assert!((0.0..=1.0).contains(&mean.accuracy) && (0.0..=1.0).contains(&mean.ranking));
        }
    }
}
