//! Whatever is wrong with a file, a recipe or a disk: exit code 2, an error that names the thing, the value and the
//! remedy, no panic, and nothing that was there before is lost.

mod checkpoints;
#[cfg(target_os = "linux")]
mod disk;
mod models;
mod recipe;
mod shards;
#[path = "../support/mod.rs"]
mod support;
mod text;
