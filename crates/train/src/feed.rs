//! Where a stage's batches come from: a pure function of the step, so that resuming is remembering a number.

use std::ops::Range;

use casallm_data::batch::Batch;
use casallm_data::loader::PretrainLoader;
use casallm_data::packing::{ConversationSet, EpochPlan};
use casallm_data::preferences::{PairPlan, PairSet};

use crate::error::TrainError;
use crate::preference::{LogProbabilities, Objective, Preferences};

/// The micro-batches of every optimizer step.
pub trait Feed {
    /// The micro-batches of step `step`, counted from 0; never empty, never without a supervised token. Where batches have
    /// been passed over the stage asks for as many beyond its last step.
    ///
    /// # Errors
    /// The data cannot be read.
    fn micro_batches(&self, step: u64) -> Result<Vec<Batch>, TrainError>;

    /// Where the batch of a step comes from, for messages.
    fn describe(&self, step: u64) -> String;

    /// For steps over preference pairs, what those of its micro-batches are judged against: sequences 2 i and 2 i + 1 of
    /// a batch are the answers of its pair i. `None` where a step is a weighted sum of losses.
    fn preferences(&self, _step: u64) -> Option<Preferences> {
        None
    }
}

/// Passes over data of which each pass has its own number of steps.
struct Passes {
    /// First step of each pass, and the end.
    starts: Vec<u64>,
}

impl Passes {
    /// `steps` is how many steps a pass has.
    fn new(passes: u64, steps: impl Fn(u64) -> usize) -> Self {
        let mut starts = vec![0];
        for pass in 0..passes {
            starts.push(starts[starts.len() - 1] + steps(pass) as u64);
        }
        Passes { starts }
    }

    fn steps(&self) -> u64 {
        self.starts[self.starts.len() - 1]
    }

    /// Pass of a step, and its number there. Beyond the last step another pass begins; `steps` as in [`Passes::new`].
    fn place(&self, step: u64, steps: impl Fn(u64) -> usize) -> (u64, usize) {
        let passed = self.starts.partition_point(|start| *start <= step).saturating_sub(1);
        let (mut pass, mut start) = (passed as u64, self.starts[passed]);
        while step >= self.steps() {
            // At least one step, also of a pass over nothing.
            let steps = steps(pass).max(1) as u64;
            if step < start + steps {
                break;
            }
            (pass, start) = (pass + 1, start + steps);
        }
        (pass, (step - start) as usize)
    }
}

fn describe(batches: &Range<usize>, pass: u64) -> String {
    format!("packed batches {} to {} of epoch {pass}", batches.start, batches.end.saturating_sub(1))
}

/// Rows of documents.
pub struct PretrainFeed {
    /// The rows.
    pub loader: PretrainLoader,
    /// Rows of a micro-batch.
    pub rows: usize,
    /// Micro-batches of a step.
    pub accumulation: usize,
}

impl PretrainFeed {
    fn first(&self, step: u64) -> u64 {
        step * (self.rows * self.accumulation) as u64
    }
}

impl Feed for PretrainFeed {
    fn micro_batches(&self, step: u64) -> Result<Vec<Batch>, TrainError> {
        let batch = |i: usize| self.loader.batch(self.first(step) + (i * self.rows) as u64, self.rows);
        Ok((0..self.accumulation).map(batch).collect::<Result<_, _>>()?)
    }

    fn describe(&self, step: u64) -> String {
        let first = self.first(step);
        format!("rows {first} to {} of the loader's order", self.first(step + 1) - 1)
    }
}

/// Packed conversations.
pub struct SftFeed {
    set: ConversationSet,
    step_tokens: usize,
    passes: Passes,
}

impl SftFeed {
    /// `epochs` passes over the set, in steps of at most `step_tokens`.
    pub fn new(set: ConversationSet, epochs: u64, step_tokens: usize) -> Self {
        let passes = Passes::new(epochs, |epoch| set.plan(epoch, step_tokens).steps());
        SftFeed { set, step_tokens, passes }
    }

    /// Steps of all passes.
    pub fn steps(&self) -> u64 {
        self.passes.steps()
    }

    /// The conversations.
    pub fn set(&self) -> &ConversationSet {
        &self.set
    }

    fn place(&self, step: u64) -> (EpochPlan<'_>, Range<usize>) {
        let plan = |epoch| self.set.plan(epoch, self.step_tokens);
        let (epoch, step) = self.passes.place(step, |epoch| plan(epoch).steps());
        let plan = plan(epoch);
        let batches = plan.step(step);
        (plan, batches)
    }
}

impl Feed for SftFeed {
    fn micro_batches(&self, step: u64) -> Result<Vec<Batch>, TrainError> {
        let (plan, batches) = self.place(step);
        Ok(batches.filter_map(|i| plan.batch(i)).collect())
    }

    fn describe(&self, step: u64) -> String {
        let (plan, batches) = self.place(step);
        describe(&batches, plan.epoch())
    }
}

/// Preference pairs.
pub struct DpoFeed {
    set: PairSet,
    objective: Objective,
    /// What the reference model gives, by pair.
    references: Vec<LogProbabilities>,
    step_tokens: usize,
    passes: Passes,
}

impl DpoFeed {
    /// `epochs` passes over the set, in steps of at most `step_tokens`. `references` has one entry for each pair.
    pub fn new(
        set: PairSet,
        objective: Objective,
        references: Vec<LogProbabilities>,
        epochs: u64,
        step_tokens: usize,
    ) -> Self {
        assert_eq!(set.pairs().len(), references.len(), "a reference for each pair");
        let passes = Passes::new(epochs, |epoch| set.plan(epoch, step_tokens).steps());
        DpoFeed { set, objective, references, step_tokens, passes }
    }

    /// Steps of so many passes over a set.
    pub fn steps(set: &PairSet, epochs: u64, step_tokens: usize) -> u64 {
        Passes::new(epochs, |epoch| set.plan(epoch, step_tokens).steps()).steps()
    }

    /// Pass of a step, its plan, and the step's batches there.
    fn place(&self, step: u64) -> (u64, PairPlan<'_>, Range<usize>) {
        let plan = |epoch| self.set.plan(epoch, self.step_tokens);
        let (epoch, step) = self.passes.place(step, |epoch| plan(epoch).steps());
        let plan = plan(epoch);
        let batches = plan.step(step);
        (epoch, plan, batches)
    }
}

impl Feed for DpoFeed {
    fn micro_batches(&self, step: u64) -> Result<Vec<Batch>, TrainError> {
        let (_, plan, batches) = self.place(step);
        Ok(batches.filter_map(|i| plan.batch(i)).collect())
    }

    fn describe(&self, step: u64) -> String {
        let (epoch, _, batches) = self.place(step);
        describe(&batches, epoch)
    }

    fn preferences(&self, step: u64) -> Option<Preferences> {
        let (_, plan, batches) = self.place(step);
        let of = |i: usize| plan.members(i).iter().map(|pair| self.references[*pair]).collect::<Vec<_>>();
        Some(Preferences { objective: self.objective, references: batches.map(of).collect() })
    }
}
