use tempfile::TempDir;

use super::*;
use crate::batch::Batch;
use crate::error::Error;
use crate::shards::tests::{options, shards_of};
use crate::shards::{ShardOptions, ShardSet};
use crate::split::{Split, SplitRule};
use crate::tokenizer::tests::{invented_documents, trained};
use proptest::prelude::*;

fn set(documents: u64, seed: u64, split: Split) -> (TempDir, ShardSet) {
    let tokenizer = trained(300);
    let dir = shards_of(&invented_documents(documents, seed), &tokenizer, &options(1000));
    let set = ShardSet::open(dir.path(), split, &tokenizer).unwrap();
    (dir, set)
}

fn loader(weights: &[f64], context: usize, seed: u64) -> PretrainLoader {
    let source = |(index, &weight): (usize, &f64)| {
        // The mapping outlives the names of its files.
        let (_dir, shards) = set(40 + 20 * index as u64, index as u64, Split::Train);
        WeightedSource { shards, weight }
    };
    PretrainLoader::new(weights.iter().enumerate().map(source).collect(), context, seed).unwrap()
}

#[test]
fn one_epoch_covers_every_window_once() {
    let context = 33;
    let loader = loader(&[1.0], context, 4);
    let (_dir, set) = set(40, 0, Split::Train);
    let mut tokens = Vec::new();
    set.read(0, u64::MAX, &mut tokens).unwrap();
    let count = (tokens.len() - 1) / context;
    let slack = tokens.len() - 1 - count * context;
    for epoch in 0..3 {
        let mut rows: Vec<Vec<u32>> = (0..count).map(|i| loader.row((epoch * count + i) as u64).unwrap()).collect();
        let cut = |offset: usize| -> Vec<Vec<u32>> {
            (0..count).map(|w| tokens[offset + w * context..][..context + 1].to_vec()).collect()
        };
        let in_order = rows.clone();
        rows.sort();
        let offset = (0..=slack).find(|&offset| {
            let mut expected = cut(offset);
            assert_ne!(expected, in_order, "shuffled");
            expected.sort();
            expected == rows
        });
        assert!(offset.is_some(), "epoch {epoch}");
    }
    assert_ne!(loader.row(0).unwrap(), loader.row(count as u64).unwrap());
    let progress = loader.progress(count as u64 * 3 / 2);
    assert!((progress[0].epochs - 1.5).abs() < 0.02 && progress[0].source == "test");
    assert_eq!(loader.tokens(), tokens.len() as u64);
}

#[test]
fn sources_come_by_weight_and_epochs_are_counted() {
    let loader = loader(&[3.0, 1.0], 16, 1);
    let progress = loader.progress(400);
    assert_eq!([progress[0].rows, progress[1].rows], [300, 100]);
    assert!(progress[0].epochs > progress[1].epochs);
}

#[test]
fn batch_is_its_rows() {
    let loader = loader(&[1.0, 2.0], 16, 1);
    let batch = loader.batch(5, 3).unwrap();
    let rows: Vec<Vec<u32>> = (5..8).map(|sample| loader.row(sample).unwrap()).collect();
    assert_eq!(batch.cu_seqlens, [0, 16, 32, 48]);
    assert_eq!(batch.tokens[16..32], rows[1][..16]);
    assert_eq!(batch.targets[16..32], rows[1][1..]);
    assert_eq!(batch.supervised(), 48.0);
    assert_eq!(loader.context(), 16);
}

#[test]
fn settings_that_cannot_be_served_are_errors() {
    let make = |weight: f64, context: usize| {
        let (_dir, shards) = set(5, 0, Split::Train);
        PretrainLoader::new(vec![WeightedSource { shards, weight }], context, 0)
    };
    assert!(make(1.0, 8).is_ok());
    for weight in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(matches!(make(weight, 8), Err(Error::LoaderSetting { field: "weight", .. })));
    }
    assert!(matches!(make(1.0, 0), Err(Error::LoaderSetting { field: "context", .. })));
    let long = make(1.0, 1 << 20);
    assert!(matches!(long, Err(Error::SourceTooShort { split: "train", needed, .. }) if needed == (1 << 20) + 1));
    let none = PretrainLoader::new(Vec::new(), 8, 0);
    assert!(matches!(none, Err(Error::LoaderSetting { field: "sources", .. })));
}

#[test]
fn validation_is_fixed_and_counts_the_bytes_of_its_targets() {
    let tokenizer = trained(300);
    // Everything held out would leave no training shard, and a fraction of 1 is refused: nearly everything.
    let texts = invented_documents(60, 3);
    let held = ShardOptions::new(SplitRule::new(0.999, 0).unwrap(), "");
    let dir = shards_of(&texts, &tokenizer, &held);
    let open = || ShardSet::open(dir.path(), Split::Val, &tokenizer).unwrap();
    let whole = ValidationLoader::new(vec![open()], 10, u64::MAX, &tokenizer).unwrap();
    let known = whole.sources()[0].clone();
    assert_eq!(known.tokens, known.rows * 10);
    let mut tokens = Vec::new();
    open().read(0, u64::MAX, &mut tokens).unwrap();
    assert_eq!(known.rows, (tokens.len() as u64 - 1) / 10);
    let covered = &tokens[1..=known.tokens as usize];
    let text = tokenizer.decode(covered);
    // Cut in the middle of a character at the end, the text is longer than its bytes by the replacement's.
    assert!(known.bytes.abs_diff(text.len() as u64) <= 2 && known.bytes > 0);

    let few = ValidationLoader::new(vec![open(), open()], 10, 7, &tokenizer).unwrap();
    assert_eq!(few.sources().iter().map(|s| s.rows).collect::<Vec<_>>(), [7, 7]);
    let batch = few.batch(1, 5, 100).unwrap().unwrap();
    assert_eq!(batch.tokens, tokens[50..70]);
    assert_eq!(batch.targets, tokens[51..71]);
    assert_eq!(batch.cu_seqlens, [0, 10, 20]);
    assert_eq!(few.batch(1, 7, 1).unwrap(), None);
    assert_eq!(few.batch(2, 0, 1).unwrap(), None);
    let bytes: u64 = (0..7)
        .flat_map(|row| few.batch(0, row, 1).unwrap().unwrap().targets)
        .map(|id| u64::from(tokenizer.byte_lengths()[id as usize]))
        .sum();
    assert_eq!(bytes, few.sources()[0].bytes);

    let short = ValidationLoader::new(vec![open()], 1 << 20, 7, &tokenizer);
    assert!(matches!(short, Err(Error::SourceTooShort { split: "val", .. })));
    for (context, rows) in [(0, 1), (8, 0)] {
        let refused = ValidationLoader::new(vec![open()], context, rows, &tokenizer);
        assert!(matches!(refused, Err(Error::LoaderSetting { .. })));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn rows_depend_on_their_number_alone(context in 1usize..80, seed: u64, mut samples in prop::collection::vec(0u64..1 << 40, 1..30)) {
        let weights = [1.0, 0.3, 2.0];
        let first = loader(&weights, context, seed);
        let ahead: Vec<Vec<u32>> = samples.iter().map(|&s| first.row(s).unwrap()).collect();
        prop_assert!(ahead.iter().all(|row| row.len() == context + 1));
        let again = loader(&weights, context, seed);
        let mut back: Vec<Vec<u32>> = samples.iter().rev().map(|&s| again.row(s).unwrap()).collect();
        back.reverse();
        prop_assert_eq!(&ahead, &back);
        samples.truncate(1);
        let batch = again.batch(samples[0], 2).unwrap();
        let rows = [again.row(samples[0]).unwrap(), again.row(samples[0] + 1).unwrap()];
        prop_assert_eq!(batch, Batch::from_rows(rows.iter().map(Vec::as_slice)).unwrap());
    }
}
