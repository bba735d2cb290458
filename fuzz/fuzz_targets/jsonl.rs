//! Lines of JSON, plain or compressed: the first byte says how the rest is packed and read.
#![no_main]

use std::fs;

use casallm_data::conversations::read_conversations;
use casallm_data::source::open_records;
use casallm_fuzz::folder;
use libfuzzer_sys::fuzz_target;

/// What a byte makes of the rest.
const NAMES: [&str; 6] = ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.json", "a.json.gz", "a.json.zst"];

fuzz_target!(|bytes: &[u8]| {
    let Some((first, rest)) = bytes.split_first() else { return };
    let path = folder().join(NAMES[usize::from(*first) % NAMES.len()]);
    fs::write(&path, rest).expect("a file");
    if let Ok(records) = open_records(&path) {
        // A few bytes may stand for gigabytes.
        records.take(1_000).for_each(drop);
    }
    if rest.len() < 4_096 && path.extension().is_some_and(|end| end == "jsonl") {
        let _ = read_conversations(&path);
    }
});
