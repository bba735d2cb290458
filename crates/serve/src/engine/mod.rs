//! The generation engine: token ids in, token ids out. It knows no text.
//!
//! One thread owns the model. Requests wait in a bounded queue; up to as many as the model has sequences are answered at
//! once, all of them a token further with each pass over the weights (continuous batching). Prompts are read in chunks
//! of about a tenth of a second between these passes, so that a long one does not make the others wait; of a second while
//! nobody is answered. Whoever goes away is noticed between two blocks of the model, and what was being read is left. What a sequence holds stays after its answer: a later prompt with the same
//! beginning need not have it read again (`slots`, `stored`, `spill`).

pub mod fake;
mod handle;
mod model;
mod request;
mod sampling;
mod slots;
mod spill;
mod stats;
mod stored;
mod worker;

pub use handle::{Engine, EngineConfig, Generation};
pub use model::SequenceModel;
pub use request::{Event, Finish, Priority, Request, SubmitError, TokenLogprobs, Usage};
pub use spill::Spill;
pub use stats::Stats;

#[cfg(test)]
mod tests;
