//! How good a model is: tasks as lm-evaluation-harness has them, bits per byte of any text, and whether it knows its name.
//!
//! [`data_folder`] finds the records, [`tasks`] turns them into questions, [`prompts`] puts examples before them, [`encoding`] makes
//! tokens, [`batching`] and [`generating`] run the model, [`journal`] keeps what was found of each item, and [`results`] sums up.
//! [`run`] is all of that for a task, [`text`] for texts, [`identity`] for a chat model's name. Called by the command line. Knows
//! nothing of training and serving.

pub mod batching;
pub mod data_folder;
pub mod encoding;
pub mod error;
pub mod generating;
pub mod identity;
pub mod journal;
pub mod prompts;
pub mod python_random;
pub mod results;
pub mod run;
pub mod tasks;
pub mod text;

pub use error::EvalError;
