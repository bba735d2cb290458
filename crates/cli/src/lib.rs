//! The cli crate.
