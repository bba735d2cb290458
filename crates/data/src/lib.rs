//! From files of text to batches of tokens: sources, tokenizer, shards, chats, cleaning, loaders.
//!
//! [`hub`] brings data sets from the Hugging Face Hub. Pre-training: [`source`] streams documents, [`curation`] says which are
//! worth it, [`split`] sends each to train or validation, [`tokenizer`] makes ids, [`shards`] keeps them on disk, [`loader`] serves batches. Fine-tuning:
//! [`conversations`] reads chats, [`cleaning`] drops what would teach a wrong identity, [`identity`] adds the right one,
//! [`system_prompts`] mixes those in, [`chat`] renders, [`packing`] serves. DPO: [`preferences`] reads and serves pairs of answers.
//! Called by `train` and the command line. Knows neither models nor devices: its last product is a [`batch::Batch`].

pub mod batch;
pub mod chat;
pub mod cleaning;
pub mod conversations;
pub mod corpus;
pub mod curation;
pub mod durable;
pub mod error;
pub mod file_lock;
pub mod hub;
pub mod identity;
pub mod lengths;
pub mod loader;
pub mod packing;
pub mod preferences;
mod seeded;
pub mod shards;
pub mod source;
pub mod split;
pub mod system_prompts;
pub mod tokenizer;

pub use error::Error;
