//! Training runs as a dashboard sees them: read from their folders while they are written, and never written to.
//!
//! `metrics.jsonl` is the one truth. It is read onwards from where it was read last ([`tail`]), line by line with types of
//! its own that tolerate what they do not know ([`line`]), and held as columns ([`columns`]) of one [`Run`]. Which runs
//! there are is looked up in the folder each time ([`Runs`]): no name of a request ever becomes a path. Called by `api` and
//! by the terminal's view; knows nothing of training.

mod columns;
mod folder;
mod line;
mod run;
mod settings;
mod tail;

pub use columns::{DENSE, Samples, Sparse, StageColumns};
pub use folder::{Listing, Runs, RunsError, Summary};
pub use line::Latest;
pub use run::{EventLine, MOST_EVENTS, MOST_ROWS, Run};
pub use settings::Settings;
