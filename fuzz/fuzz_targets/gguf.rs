//! A GGUF file: its metadata, its list of tensors, and their values.
#![no_main]

use std::fs;

use casallm_fuzz::folder;
use casallm_model::formats::ForeignModel;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let path = folder().join("model.gguf");
    fs::write(&path, bytes).expect("a file");
    if let Ok(mut model) = ForeignModel::open(&path) {
        for spec in model.config().parameters() {
            let _ = model.values(&spec);
        }
    }
});
