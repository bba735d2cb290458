//! Where a stage's batches come from: a pure function of the step, so that resuming is remembering a number.

use casallm_data::batch::Batch;
use casallm_data::loader::PretrainLoader;
use casallm_data::packing::ConversationSet;

use crate::error::TrainError;

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
    accumulation: usize,
    /// First step of each epoch, and the end.
    starts: Vec<u64>,
}

impl SftFeed {
    /// `epochs` passes over the set, `accumulation` micro-batches a step; the last step of a pass may have fewer.
    pub fn new(set: ConversationSet, epochs: u64, accumulation: usize) -> Self {
        let mut starts = vec![0];
        for epoch in 0..epochs {
            let steps = set.plan(epoch).len().div_ceil(accumulation) as u64;
            starts.push(starts[starts.len() - 1] + steps);
        }
        SftFeed { set, accumulation, starts }
    }

    /// Steps of all passes.
    pub fn steps(&self) -> u64 {
        self.starts[self.starts.len() - 1]
    }

    /// The conversations.
    pub fn set(&self) -> &ConversationSet {
        &self.set
    }

    /// Epoch of a step, and its first micro-batch there. Beyond the last step another epoch begins.
    fn place(&self, step: u64) -> (u64, usize) {
        let passed = self.starts.partition_point(|start| *start <= step).saturating_sub(1);
        let (mut epoch, mut start) = (passed as u64, self.starts[passed]);
        while step >= self.steps() {
            let steps = self.steps_of(epoch);
            if step < start + steps {
                break;
            }
            (epoch, start) = (epoch + 1, start + steps);
        }
        (epoch, (step - start) as usize * self.accumulation)
    }

    /// Steps of an epoch: at least one.
    fn steps_of(&self, epoch: u64) -> u64 {
        self.set.plan(epoch).len().div_ceil(self.accumulation).max(1) as u64
    }
}

impl Feed for SftFeed {
    fn micro_batches(&self, step: u64) -> Result<Vec<Batch>, TrainError> {
        let (epoch, first) = self.place(step);
        let plan = self.set.plan(epoch);
        Ok((first..first + self.accumulation).filter_map(|i| plan.batch(i)).collect())
    }

    fn describe(&self, step: u64) -> String {
        let (epoch, first) = self.place(step);
        format!("packed batches {first} to {} of epoch {epoch}", first + self.accumulation - 1)
    }
}
