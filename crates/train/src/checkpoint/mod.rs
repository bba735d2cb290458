//! Checkpoints: what a run needs to go on as if it had never stopped.
//!
//! A checkpoint is a directory `step-000123` of three files: `state.json` (step and whatever the trainer wants to
//! know again), `tensors.safetensors` (weights, moments), and `checksums.txt` (XXH3-128 and length of the other two,
//! and of itself). It is written under another name, fsynced and renamed, so that a directory of that name is whole.
//! Checksums are verified before anything is believed. Called by the trainer.
//!
//! Writing streams each tensor once through the checksum to the disk; reading verifies by streaming, then reads each
//! tensor straight into the caller's buffer. Neither holds a second copy of the weights.

mod checksums;
mod disk;
mod read;
mod retention;
mod room;
mod store;
mod tensors;
#[cfg(test)]
mod tests;

pub use read::{Checkpoint, Skipped};
pub use retention::Best;
pub use room::Ahead;
pub use store::{CheckpointStore, Latest};
pub use tensors::{Bytes, Dtype, TensorRef};

/// The layout of a checkpoint that this program writes and reads.
pub const FORMAT: u32 = 1;

const STATE: &str = "state.json";
const TENSORS: &str = "tensors.safetensors";
const CHECKSUMS: &str = "checksums.txt";
