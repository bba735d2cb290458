//! The train crate.
