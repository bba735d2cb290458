//! A parquet file: all of its columns as records, and its column of text alone.
#![no_main]

use std::fs;
use std::panic;
use std::sync::Once;

use casallm_data::source::{SourceOptions, open_documents_in, open_records};
use casallm_fuzz::folder;
use libfuzzer_sys::fuzz_target;

/// libFuzzer's hook would end the process at the panics that the reader catches: those of the decoder, on its own assertions.
fn let_the_reader_catch() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| panic::set_hook(Box::new(|_| {})));
}

fuzz_target!(|bytes: &[u8]| {
    let_the_reader_catch();
    let path = folder().join("a.parquet");
    fs::write(&path, bytes).expect("a file");
    let read = panic::catch_unwind(|| {
        if let Ok(records) = open_records(&path) {
            records.take(10_000).for_each(drop);
        }
        if let Ok(documents) = open_documents_in(std::slice::from_ref(&path), &SourceOptions::default()) {
            documents.take(10_000).for_each(drop);
        }
    });
    // What reaches us was not caught where it should have been.
    if read.is_err() {
        std::process::abort();
    }
});
