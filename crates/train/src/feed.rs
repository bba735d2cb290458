//! Where a stage's batches come from: a pure function of the step, so that resuming is remembering a number.

use casallm_data::batch::Batch;
use casallm_data::loader::PretrainLoader;
use casallm_data::packing::ConversationSet;
use casallm_data::preferences::PairSet;

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

/// Passes over data of which each pass has its own number of micro-batches; the last step of a pass may have fewer.
struct Passes {
    accumulation: usize,
    /// First step of each pass, and the end.
    starts: Vec<u64>,
}

impl Passes {
    /// `batches` is how many micro-batches a pass has.
    fn new(passes: u64, accumulation: usize, batches: impl Fn(u64) -> usize) -> Self {
        let mut starts = vec![0];
        for pass in 0..passes {
            starts.push(starts[starts.len() - 1] + batches(pass).div_ceil(accumulation) as u64);
        }
        Passes { accumulation, starts }
    }

    fn steps(&self) -> u64 {
        self.starts[self.starts.len() - 1]
    }

    /// Pass of a step, and its micro-batches there. Beyond the last step another pass begins; `batches` as in
    /// [`Passes::new`].
    fn place(&self, step: u64, batches: impl Fn(u64) -> usize) -> (u64, std::ops::Range<usize>) {
        let passed = self.starts.partition_point(|start| *start <= step).saturating_sub(1);
        let (mut pass, mut start) = (passed as u64, self.starts[passed]);
        while step >= self.steps() {
            // At least one step, also of a pass over nothing.
            let steps = batches(pass).div_ceil(self.accumulation).max(1) as u64;
            if step < start + steps {
                break;
            }
            (pass, start) = (pass + 1, start + steps);
        }
        let first = (step - start) as usize * self.accumulation;
        (pass, first..first + self.accumulation)
    }

    fn describe(&self, step: u64, batches: impl Fn(u64) -> usize) -> String {
        let (pass, batches) = self.place(step, batches);
        format!("packed batches {} to {} of epoch {pass}", batches.start, batches.end - 1)
    }
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
    passes: Passes,
}

impl SftFeed {
    /// `epochs` passes over the set, `accumulation` micro-batches a step; the last step of a pass may have fewer.
    pub fn new(set: ConversationSet, epochs: u64, accumulation: usize) -> Self {
        let passes = Passes::new(epochs, accumulation, |epoch| set.plan(epoch).len());
        SftFeed { set, passes }
    }

    /// Steps of all passes.
    pub fn steps(&self) -> u64 {
        self.passes.steps()
    }

    /// The conversations.
    pub fn set(&self) -> &ConversationSet {
        &self.set
    }
}

impl Feed for SftFeed {
    fn micro_batches(&self, step: u64) -> Result<Vec<Batch>, TrainError> {
        let (epoch, batches) = self.passes.place(step, |epoch| self.set.plan(epoch).len());
        let plan = self.set.plan(epoch);
        Ok(batches.filter_map(|i| plan.batch(i)).collect())
    }

    fn describe(&self, step: u64) -> String {
        self.passes.describe(step, |epoch| self.set.plan(epoch).len())
    }
}

/// Preference pairs.
pub struct DpoFeed {
    set: PairSet,
    objective: Objective,
    /// What the reference model gives, by pair.
    references: Vec<LogProbabilities>,
    passes: Passes,
}

impl DpoFeed {
    /// `epochs` passes over the set, `accumulation` micro-batches a step. `references` has one entry for each pair.
    pub fn new(
        set: PairSet,
        objective: Objective,
        references: Vec<LogProbabilities>,
        epochs: u64,
        accumulation: usize,
    ) -> Self {
        assert_eq!(set.pairs().len(), references.len(), "a reference for each pair");
        let passes = Passes::new(epochs, accumulation, |epoch| set.plan(epoch).len());
        DpoFeed { set, objective, references, passes }
    }

    /// Steps of so many passes over a set.
    pub fn steps(set: &PairSet, epochs: u64, accumulation: usize) -> u64 {
        Passes::new(epochs, accumulation, |epoch| set.plan(epoch).len()).steps()
    }
}

impl Feed for DpoFeed {
    fn micro_batches(&self, step: u64) -> Result<Vec<Batch>, TrainError> {
        let (epoch, batches) = self.passes.place(step, |epoch| self.set.plan(epoch).len());
        let plan = self.set.plan(epoch);
        Ok(batches.filter_map(|i| plan.batch(i)).collect())
    }

    fn describe(&self, step: u64) -> String {
        self.passes.describe(step, |epoch| self.set.plan(epoch).len())
    }

    fn preferences(&self, step: u64) -> Option<Preferences> {
        let (epoch, batches) = self.passes.place(step, |epoch| self.set.plan(epoch).len());
        let plan = self.set.plan(epoch);
        let of = |i: usize| plan.members(i).iter().map(|pair| self.references[*pair]).collect::<Vec<_>>();
        let references = batches.map(of).filter(|references| !references.is_empty()).collect();
        Some(Preferences { objective: self.objective, references })
    }
}
