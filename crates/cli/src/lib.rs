//! The `casallm` command line as a library: what the binary and the tests share.
//!
//! [`report`] draws the page that a finished run leaves behind. Knows no training and no model: it is given plain data.

pub mod report;
