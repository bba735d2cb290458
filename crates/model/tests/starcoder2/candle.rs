//! candle's Starcoder2 (`candle_transformers::models::starcoder2`), in a process of its own; with-candle/Cargo.toml says why.
//!
//! What candle does in another way than `transformers` does not touch our files. It always ties the head to the embedding; so
//! does the classic block. It has biases everywhere or nowhere, `use_bias`; we write zeros for those of q, k and v. It masks
//! one key too many of a sliding window, and none when ids come one by one; ours is null. It takes `gelu` by the error
//! function, as `transformers` does.

use std::path::Path;
use std::process::Command;

use serde::Deserialize;

/// What it says.
#[derive(Deserialize)]
pub struct Told {
    /// Logits behind each beginning of the ids, read at once.
    pub whole: Vec<Vec<f32>>,
    /// The same, through candle's cache.
    pub one_by_one: Vec<Vec<f32>>,
    /// The likeliest ids after them.
    pub continuation: Vec<u32>,
}

/// Has the model in `folder` read `ids` and go on for `tokens`. `None`, which is said, where candle is not to be had; where
/// `CASALLM_REQUIRE_CANDLE` is 1 the test fails instead.
pub fn told(folder: &Path, ids: &[u32], tokens: usize) -> Option<Told> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/starcoder2/with-candle");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("with-candle");
    let cargo = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO"));
        command.args(arguments).args(["--locked", "--manifest-path"]).arg(package.join("Cargo.toml"));
        command.env("CARGO_TARGET_DIR", &target).output().unwrap()
    };
    // The one thing that a machine may lack is a way to the crates.
    let fetched = cargo(&["fetch"]);
    if !fetched.status.success() {
        let reason = String::from_utf8_lossy(&fetched.stderr);
        let required = std::env::var("CASALLM_REQUIRE_CANDLE").is_ok_and(|value| value == "1");
        assert!(!required, "CASALLM_REQUIRE_CANDLE is set and candle is not to be had: {reason}");
        println!("skipped: candle is not to be had: {reason}");
        return None;
    }
    let built = cargo(&["build", "--offline"]);
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let mut program = Command::new(target.join("debug/starcoder2-with-candle"));
    program.arg(folder).arg(tokens.to_string()).args(ids.iter().map(u32::to_string));
    let said = program.output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    Some(serde_json::from_slice(&said.stdout).unwrap())
}
