//! Documents that were there before, the same or nearly: the first in the stream stays.
//!
//! Exact: 128 bits of XXH3 of the text with its white space made alike, of each document that stayed. Near: the sketch of each
//! document that stayed, and 16 tables of bands of 8 bytes of it (locality-sensitive hashing: Leskovec, Rajaraman and Ullman,
//! "Mining of Massive Datasets", section 3.4; 128 values in bands of 8 find pairs of a Jaccard similarity `j` with a chance
//! of `1 - (1 - j^8)^16`: 0.95 at 0.8, 0.9999 at 0.9). What a band finds is compared by the whole sketch, so that a page
//! that only resembles stays. The way of Lee et al. 2022, "Deduplicating Training Data Makes Language Models Better"
//! (arXiv 2107.06499), with a fixed number of bytes a document. Decisions are made in the order of the stream, by one thread;
//! hashes and sketches come from all.

use super::sketch::{BINS, Sketch, similarity};
use super::table::Table;
use crate::seeded::mix;

/// Bytes of a band.
const ROWS: usize = 8;
const BANDS: usize = BINS / ROWS;

/// Documents with the same band that are compared; later ones with it are not remembered by it. Millions of pages may share a
/// band (a licence, a menu) and not be alike.
const MOST_COMPARED: usize = 32;

/// Documents in a piece of memory: 8 MiB of sketches.
const PIECE: usize = 1 << 16;

/// At most so many bytes a document that stays, where only the same is dropped.
pub const EXACT_BYTES: u64 = 43;

/// At most so many bytes a document that stays, where what is nearly the same is dropped too.
pub const NEAR_BYTES: u64 = 343;

/// Hashes of the documents that stayed.
pub(super) struct ExactIndex {
    /// 0 is a free slot; the one hash that is 0 counts as 1.
    table: Table<u128>,
}

impl ExactIndex {
    pub(super) fn new() -> Self {
        Self { table: Table::new() }
    }

    pub(super) fn has(&self, hash: u128) -> bool {
        let hash = hash.max(1);
        self.table.candidates(hash as u64).any(|found| found == hash)
    }

    pub(super) fn add(&mut self, hash: u128) {
        self.table.add(hash.max(1), |hash| hash as u64);
    }

    /// Bytes with one more document, those included that are taken only for a moment.
    pub(super) fn bytes_with_another(&self) -> u64 {
        self.table.bytes_with_another() + self.table.bytes_of_growing()
    }
}

/// Sketches of the documents that stayed, and where to look for a like one.
pub(super) struct NearIndex {
    threshold: f64,
    /// In pieces, so that growing copies nothing.
    sketches: Vec<Vec<Sketch>>,
    /// Of each band the numbers of documents, from 1.
    bands: [Table<u32>; BANDS],
}

impl NearIndex {
    /// Finds documents of a Jaccard similarity of `threshold` and more.
    pub(super) fn new(threshold: f64) -> Self {
        Self { threshold, sketches: Vec::new(), bands: std::array::from_fn(|_| Table::new()) }
    }

    /// Whether a like document stayed.
    pub(super) fn has_like(&self, sketch: &Sketch) -> bool {
        (0..BANDS).any(|band| self.sharing(band, sketch).any(|found| similarity(found, sketch) >= self.threshold))
    }

    /// Remembers a document.
    pub(super) fn add(&mut self, sketch: &Sketch) {
        if self.sketches.last().is_none_or(|piece| piece.len() == PIECE) {
            self.sketches.push(Vec::with_capacity(PIECE));
        }
        if let Some(piece) = self.sketches.last_mut() {
            piece.push(*sketch);
        }
        let number = self.documents() as u32;
        for band in 0..BANDS {
            if self.sharing(band, sketch).count() < MOST_COMPARED {
                let sketches = &self.sketches;
                self.bands[band].add(number, |number| band_hash(band, of(sketches, number)));
            }
        }
    }

    /// Documents that stayed.
    pub(super) fn documents(&self) -> u64 {
        let full = self.sketches.len().saturating_sub(1) * PIECE;
        (full + self.sketches.last().map_or(0, Vec::len)) as u64
    }

    /// Whether numbers of documents are used up.
    pub(super) fn is_full(&self) -> bool {
        self.documents() >= u64::from(u32::MAX)
    }

    /// Bytes with one more document, those included that are taken only for a moment.
    pub(super) fn bytes_with_another(&self) -> u64 {
        let pieces = self.documents() / PIECE as u64 + 1;
        let growing = self.bands.iter().map(Table::bytes_of_growing).max().unwrap_or(0);
        let bands: u64 = self.bands.iter().map(Table::bytes_with_another).sum();
        pieces * (PIECE * BINS) as u64 + bands + growing
    }

    /// The documents with this band of `sketch`.
    fn sharing<'a>(&'a self, band: usize, sketch: &'a Sketch) -> impl Iterator<Item = &'a Sketch> + 'a {
        let found = self.bands[band].candidates(band_hash(band, sketch)).map(|number| of(&self.sketches, number));
        found.filter(move |found| rows(band, found) == rows(band, sketch))
    }
}

fn of(sketches: &[Vec<Sketch>], number: u32) -> &Sketch {
    let at = number as usize - 1;
    &sketches[at / PIECE][at % PIECE]
}

fn rows(band: usize, sketch: &Sketch) -> &[u8] {
    &sketch[band * ROWS..(band + 1) * ROWS]
}

fn band_hash(band: usize, sketch: &Sketch) -> u64 {
    mix(rows(band, sketch).iter().fold(0, |value, row| value << 8 | u64::from(*row)))
}

#[cfg(test)]
mod tests {
    use super::super::sketch::sketch;
    use super::*;
    use crate::seeded::SplitMix64;

    fn random_words(count: usize, seed: u64) -> Vec<u64> {
        let mut random = SplitMix64::new(seed, 9);
        (0..count).map(|_| random.next_u64()).collect()
    }

    fn sketch_of(words: &[u64]) -> Sketch {
        sketch(words, &mut Vec::new()).unwrap()
    }

    #[test]
    fn the_same_is_found_whatever_grew_between() {
        let mut index = ExactIndex::new();
        let hashes: Vec<u128> = random_words(5000, 1).into_iter().map(u128::from).chain([0]).collect();
        for hash in &hashes {
            assert!(!index.has(*hash));
            index.add(*hash);
        }
        assert!(hashes.iter().all(|hash| index.has(*hash)) && index.has(1) && !index.has(2));
        assert!(index.bytes_with_another() <= EXACT_BYTES * 5001 * 3 / 2, "{}", index.bytes_with_another());
    }

    #[test]
    fn near_duplicates_are_found_and_others_stay() {
        let mut index = NearIndex::new(0.8);
        let documents: Vec<Vec<u64>> = (0..500).map(|i| random_words(60 + 7 * i as usize % 400, i)).collect();
        for words in &documents {
            assert!(!index.has_like(&sketch_of(words)));
            index.add(&sketch_of(words));
        }
        let mut found = 0;
        for words in &documents {
            // One word in a hundred is another: five runs of a hundred, j = 0.9.
            let mut changed = words.clone();
            changed.iter_mut().skip(50).step_by(100).for_each(|word| *word ^= 1);
            found += usize::from(index.has_like(&sketch_of(&changed)));
            // Every third: no run is left.
            changed.iter_mut().step_by(3).for_each(|word| *word ^= 2);
            assert!(!index.has_like(&sketch_of(&changed)));
            // The first half, with as much of something else: j = 1 / 3.
            let half = [&words[..words.len() / 2], &random_words(words.len() / 2, 77)].concat();
            assert!(!index.has_like(&sketch_of(&half)));
        }
        assert!(found > 480, "{found} of 500");
        assert_eq!(index.documents(), 500);
    }

    #[test]
    fn bytes_are_as_said() {
        // Just before the tables grow and just after; pieces of sketches are a constant.
        let mut index = NearIndex::new(0.8);
        let piece = (PIECE * BINS) as u64;
        let mut most: f64 = 0.0;
        for i in 0..8000 {
            index.add(&sketch_of(&random_words(6, i)));
            let growing = index.bands.iter().map(Table::bytes_of_growing).max().unwrap();
            if i > 1000 {
                let tables = (index.bytes_with_another() - growing - piece) as f64 / (i + 2) as f64;
                most = most.max(tables + BINS as f64);
            }
        }
        assert!(most <= (NEAR_BYTES - EXACT_BYTES) as f64 && most > 250.0, "{most}");
    }

    #[test]
    fn a_band_that_everybody_has_costs_no_more() {
        let mut index = NearIndex::new(0.99);
        for i in 0..500u64 {
            let mut sketch = [0; BINS];
            sketch[8..16].copy_from_slice(&i.to_le_bytes());
            sketch[16..].iter_mut().zip(random_words(112, i)).for_each(|(byte, random)| *byte = random as u8);
            assert!(!index.has_like(&sketch));
            index.add(&sketch);
        }
        assert_eq!(index.sharing(0, &[0; BINS]).count(), MOST_COMPARED);
    }
}
