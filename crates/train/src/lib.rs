//! Training: from a recipe to a run directory with checkpoints, metrics and a model.
//!
//! [`recipe`] reads the one file that describes a run; [`schedule`] turns a step into a learning rate; [`checkpoint`]
//! keeps what a run needs to go on as if it had never stopped; [`metrics`] is its diary, [`events`] included; [`guard`]
//! finds the steps that would spoil it; [`interrupt`] hears Ctrl-C; [`run_lock`] keeps two processes out of one run. Called by the command line. Knows no HTTP and draws nothing.

pub mod checkpoint;
mod diary;
pub mod error;
pub mod events;
pub mod feed;
pub mod forecast;
pub mod guard;
pub mod interrupt;
pub mod machine;
pub mod metrics;
pub mod optimizer;
mod pace;
pub mod peak;
pub mod planning;
pub mod preference;
pub mod recipe;
pub mod run_lock;
pub mod samples;
mod saver;
pub mod schedule;
mod snapshot;
pub mod stages;
pub mod trainer;
pub mod validation;
mod whole_file;

pub use error::TrainError;
