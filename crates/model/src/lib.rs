//! The model: its config, parameters, forward and backward passes, cache, sampler, and the directory it is kept in.

pub mod config;
pub mod decoder;
pub mod directory;
pub mod error;
pub mod formats;
pub mod memory;
pub mod network;
pub mod parameters;
pub mod presets;
mod random;
mod safetensors_header;
pub mod sampler;
pub mod scoring;
pub mod selftest;
pub mod sequences;
pub mod specification;
pub mod training;
pub mod workspace;
