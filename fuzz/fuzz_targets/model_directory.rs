//! A folder with a model, read as our own and as another program's: the bytes before the first NUL are its config, those after
//! it its weights. There are no checksums, which would keep every byte from being read.
#![no_main]

use std::fs;

use casallm_fuzz::folder;
use casallm_model::directory::{CHECKSUMS, CONFIG, ModelDirectory, WEIGHTS};
use casallm_model::formats::ForeignModel;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let cut = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let (config, weights) = (&bytes[..cut], bytes.get(cut + 1..).unwrap_or_default());
    let folder = folder();
    for (name, contents) in [(CONFIG, config), (WEIGHTS, weights), (CHECKSUMS, b"{}")] {
        fs::write(folder.join(name), contents).expect("a file");
    }
    if let Ok(directory) = ModelDirectory::open(folder) {
        let _ = directory.read_weights(|_, _, _| Ok(()));
    }
    if let Ok(mut model) = ForeignModel::open(folder) {
        for spec in model.config().parameters() {
            let _ = model.values(&spec);
        }
    }
});
