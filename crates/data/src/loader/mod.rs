//! Loaders: token shards to pre-training batches. Called by `train`.
//!
//! A row has `context` positions, cut from the run of tokens without regard to documents, so every row is full and one
//! segment. What a row holds is a function of its number and the settings alone: to resume, remember the number.

mod permutation;
mod pretrain;
mod schedule;
mod validation;

pub use pretrain::{PretrainLoader, SourceProgress, WeightedSource};
pub use validation::{ValidationLoader, ValidationSource};

#[cfg(test)]
mod tests;
