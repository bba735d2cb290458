//! The file of exported conversations. What is refused is refused in words of bounded length.
#![no_main]

use casallm_serve::store::parse_import;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // An error is the usual case; it must be one that a person can read.
    if let Err(error) = parse_import(bytes) {
        assert!(error.to_string().len() < 10_000);
    }
});
