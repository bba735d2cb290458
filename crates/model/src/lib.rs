//! The model crate.
