//! A model directory: the bytes before the first NUL are its config, those after it its weights. There are no checksums,
//! which would keep every byte from being read.
#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

use casallm_model::directory::{CHECKSUMS, CONFIG, ModelDirectory, WEIGHTS};
use libfuzzer_sys::fuzz_target;

/// One folder for the whole run, in memory where the system has such a place.
fn folder() -> &'static PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let memory = PathBuf::from("/dev/shm");
        let place = if memory.is_dir() { memory } else { std::env::temp_dir() };
        let folder = tempfile::tempdir_in(place).expect("a folder").keep();
        fs::write(folder.join(CHECKSUMS), "{}").expect("a file");
        folder
    })
}

fuzz_target!(|bytes: &[u8]| {
    let cut = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let (config, weights) = (&bytes[..cut], bytes.get(cut + 1..).unwrap_or_default());
    let folder = folder();
    fs::write(folder.join(CONFIG), config).expect("a file");
    fs::write(folder.join(WEIGHTS), weights).expect("a file");
    if let Ok(directory) = ModelDirectory::open(folder) {
        let _ = directory.read_weights(|_, _, _| Ok(()));
    }
});
