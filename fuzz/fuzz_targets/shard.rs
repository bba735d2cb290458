//! Token shards: the bytes before the first NUL are a manifest, those after it a shard; and the whole is a shard too.
#![no_main]

use std::fs;
use std::sync::OnceLock;

use casallm_data::shards::{Manifest, ShardReader, ShardSet};
use casallm_data::split::Split;
use casallm_data::tokenizer::{MIN_VOCAB_SIZE, Tokenizer, TrainOptions};
use casallm_fuzz::folder;
use libfuzzer_sys::fuzz_target;

fn tokenizer() -> &'static Tokenizer {
    static TOKENIZER: OnceLock<Tokenizer> = OnceLock::new();
    TOKENIZER.get_or_init(|| {
        let options = TrainOptions { vocab_size: MIN_VOCAB_SIZE, ..TrainOptions::default() };
        Tokenizer::train(std::iter::once(Ok("text".to_owned())), &options, &mut |_| {}).expect("bytes alone")
    })
}

fuzz_target!(|bytes: &[u8]| {
    let folder = folder();
    let path = folder.join("train-00000.bin");
    fs::write(&path, bytes).expect("a file");
    if let Ok(shard) = ShardReader::open(&path, 300) {
        let mut ids = Vec::new();
        let _ = shard.read(0, shard.tokens(), &mut ids);
    }
    let cut = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    // An at sign stands for the fingerprint that no fuzzer finds.
    let manifest = String::from_utf8_lossy(&bytes[..cut]).replace('@', &tokenizer().fingerprint());
    fs::write(folder.join("manifest.json"), manifest).expect("a file");
    fs::write(&path, bytes.get(cut + 1..).unwrap_or_default()).expect("a file");
    let _ = Manifest::load(folder);
    if let Ok(set) = ShardSet::open(folder, Split::Train, tokenizer()) {
        let mut ids = Vec::new();
        let _ = set.read(0, set.tokens(), &mut ids);
    }
    let _ = ShardSet::verify(folder, &mut |_, _| {});
});
