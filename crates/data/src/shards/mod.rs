//! Token shards: documents tokenised once and memory-mapped for ever.
//!
//! One folder holds one source: `train-00000.bin`, ..., `val-00000.bin`, ..., and `manifest.json`, which tells what is
//! in them and which tokenizer made them. Shards have llm.c's layout (see `layout`); each document is `<s>` text
//! `</s>`, and no document crosses into the next shard. Written by [`tokenize`], read by `loader` through [`ShardSet`].

mod layout;
mod manifest;
mod reader;
mod set;
mod tokenize;
mod writer;

pub use layout::{HEADER_BYTES, MAGIC, TokenWidth};
pub use manifest::{MANIFEST_FILE, Manifest, ShardEntry};
pub use reader::ShardReader;
pub use set::ShardSet;
pub use tokenize::{ShardOptions, TokenizeProgress, finished, tokenize, tokenize_after};

#[cfg(test)]
pub(crate) mod tests;
