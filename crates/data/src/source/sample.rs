//! [`sample`]: a part of a stream that is like the whole.

use std::collections::BinaryHeap;

use super::Document;
use crate::error::Error;
use crate::seeded::SplitMix64;

/// Documents that were drawn.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Their texts, in the order of the stream.
    pub texts: Vec<String>,
    /// Bytes of the texts.
    pub bytes: u64,
    /// Bytes of the stream.
    pub read: u64,
}

/// Reads a stream to its end and keeps documents of at most `bytes` together, each with the same chance wherever it stands: a
/// number is drawn for each place from `seed`, and those with the least numbers stay, as many as fit (a reservoir: Vitter
/// 1985; by keys: Efraimidis and Spirakis 2006). A stream that fits is kept whole. The same stream and seed give the same sample.
/// A first document that is too long by itself is cut. `progress` hears the bytes read, each MiB. Memory: `bytes` and one document.
///
/// # Errors
/// The first error of `documents`; [`Error::NothingKept`] when there is none.
pub fn sample(
    documents: impl Iterator<Item = Result<Document, Error>>,
    bytes: u64,
    seed: u64,
    progress: &mut dyn FnMut(u64),
) -> Result<Sample, Error> {
    let mut kept: BinaryHeap<(u64, usize, String)> = BinaryHeap::new();
    let mut sample = Sample::default();
    // Whoever drew as much or more is out.
    let mut limit = u64::MAX;
    for (place, document) in documents.enumerate() {
        let text = document?.text;
        let before = sample.read;
        sample.read += text.len() as u64;
        if before >> 20 != sample.read >> 20 {
            progress(sample.read);
        }
        let drawn = SplitMix64::new(seed, place as u64).next_u64();
        if drawn < limit {
            sample.bytes += text.len() as u64;
            kept.push((drawn, place, text));
        }
        while sample.bytes > bytes && kept.len() > 1 {
            if let Some((drawn, _, text)) = kept.pop() {
                sample.bytes -= text.len() as u64;
                limit = drawn;
            }
        }
    }
    if kept.is_empty() {
        return Err(Error::NothingKept {
            source_name: "tokenizer training".to_owned(),
            counts: "none passes the filter and is trained on".to_owned(),
        });
    }
    let mut kept = kept.into_vec();
    kept.sort_unstable_by_key(|(_, place, _)| *place);
    sample.texts = kept.into_iter().map(|(_, _, text)| text).collect();
    if let ([only], true) = (&mut sample.texts[..], sample.bytes > bytes) {
        let end = (0..=bytes as usize).rev().find(|end| only.is_char_boundary(*end));
        only.truncate(end.unwrap_or(0));
        sample.bytes = only.len() as u64;
    }
    Ok(sample)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn drawn(texts: &[String], bytes: u64, seed: u64) -> Sample {
        let documents = texts.iter().map(|text| Ok(Document::from(text.clone())));
        sample(documents, bytes, seed, &mut |_| {}).unwrap()
    }

    #[test]
    fn every_part_of_the_stream_has_the_same_chance() {
        let texts: Vec<String> = (0..10_000).map(|i| format!("{i:05} {}", "x".repeat(i % 50))).collect();
        let found = drawn(&texts, 30_000, 1);
        assert!((29_900..=30_000).contains(&found.bytes), "{}", found.bytes);
        assert_eq!(found.read, texts.iter().map(|text| text.len() as u64).sum::<u64>());
        assert!(found.texts.is_sorted());
        // About 970 of 10,000: 97 of each tenth, with a deviation of 9.4.
        for tenth in 0..10 {
            let count = found.texts.iter().filter(|text| text[1..2] == tenth.to_string()).count();
            assert!((50..150).contains(&count), "{count} of part {tenth}");
        }
        assert_eq!(found, drawn(&texts, 30_000, 1));
        assert_ne!(found, drawn(&texts, 30_000, 2));
    }

    #[test]
    fn a_document_that_is_too_long_is_cut_and_an_error_ends_it() {
        let found = drawn(&["éé".to_owned()], 3, 0);
        assert_eq!((found.texts, found.bytes, found.read), (vec!["é".to_owned()], 2, 4));
        let broken = [Ok(Document::from("a".to_owned())), Err(Error::NoFiles { path: "x".into() })];
        assert!(matches!(sample(broken.into_iter(), 9, 0, &mut |_| {}), Err(Error::NoFiles { .. })));
        assert!(matches!(sample(std::iter::empty(), 9, 0, &mut |_| {}), Err(Error::NothingKept { .. })));
    }

    proptest! {
        #[test]
        fn a_sample_fits_and_a_larger_one_has_it(lengths in prop::collection::vec(1usize..90, 1..80), bytes in 90u64..3000, seed: u64) {
            let texts: Vec<String> = lengths.iter().enumerate().map(|(i, length)| format!("{i:0>length$}")).collect();
            let all: u64 = texts.iter().map(|text| text.len() as u64).sum();
            let found = drawn(&texts, bytes, seed);
            prop_assert!(found.bytes <= bytes);
            prop_assert_eq!(found.texts.iter().map(|text| text.len() as u64).sum::<u64>(), found.bytes);
            prop_assert_eq!(&drawn(&texts, all.max(1), seed).texts, &texts);
            let more = drawn(&texts, 2 * bytes, seed);
            prop_assert!(found.texts.iter().all(|text| more.texts.contains(text)));
        }
    }
}
