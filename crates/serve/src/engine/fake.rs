//! A model without weights, for tests: the next token is a function of all tokens before it, as far as the cache really
//! holds them. A row lost, misplaced or of another sequence changes what it says.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use casallm_compute::ComputeError;
use casallm_model::error::ModelError;
use casallm_model::sequences::Piece;

use super::model::SequenceModel;

/// Says [`FakeModel::next`] of what it has read.
pub struct FakeModel {
    rows: Vec<Vec<u32>>,
    capacity: usize,
    vocab_size: usize,
    logits: Vec<f32>,
    pace: Duration,
    passes: Passes,
    broken_off: Arc<AtomicUsize>,
    ill: Option<u32>,
    fatal: Option<u32>,
    failed: Arc<AtomicBool>,
}

/// The passes that a [`FakeModel`] has made: (sequence, tokens) of each piece.
pub type Passes = Arc<Mutex<Vec<Vec<(usize, usize)>>>>;

impl FakeModel {
    /// `sequences` of `capacity` tokens, ids below `vocab_size`.
    pub fn new(sequences: usize, capacity: usize, vocab_size: usize) -> Self {
        let rows = vec![vec![u32::MAX; capacity]; sequences];
        FakeModel {
            rows,
            capacity,
            vocab_size,
            logits: Vec::new(),
            pace: Duration::ZERO,
            passes: Passes::default(),
            broken_off: Arc::default(),
            ill: None,
            fatal: None,
            failed: Arc::default(),
        }
    }

    /// The same, taking that long for each token of a pass.
    #[must_use]
    pub fn slow(mut self, pace: Duration) -> Self {
        self.pace = pace;
        self
    }

    /// The same, giving no numbers after this token.
    #[must_use]
    pub fn ill_after(mut self, id: u32) -> Self {
        self.ill = Some(id);
        self
    }

    /// The same, panicking at this token.
    #[must_use]
    pub fn panics_at(mut self, id: u32) -> Self {
        self.fatal = Some(id);
        self
    }

    /// Whether its device has failed: once it has, it does nothing more.
    pub fn failure(&self) -> Arc<AtomicBool> {
        self.failed.clone()
    }

    fn failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// The passes made so far, and to come.
    pub fn passes(&self) -> Passes {
        self.passes.clone()
    }

    /// How many passes have been broken off.
    pub fn broken_off(&self) -> Arc<AtomicUsize> {
        self.broken_off.clone()
    }

    /// What comes after `ids`.
    pub fn next(ids: &[u32], vocab_size: usize) -> u32 {
        // FNV-1a.
        let hash = ids
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, id| (hash ^ u64::from(*id)).wrapping_mul(0x0000_0100_0000_01b3));
        ((hash >> 20) % vocab_size as u64) as u32
    }
}

impl SequenceModel for FakeModel {
    fn sequences(&self) -> usize {
        self.rows.len()
    }

    fn capacity(&self) -> usize {
        self.capacity
    }

    fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    fn pass_tokens(&self) -> usize {
        512
    }

    fn bytes_a_token(&self) -> usize {
        4
    }

    fn forward_while(
        &mut self,
        pieces: &[Piece<'_>],
        go_on: &(dyn Fn() -> bool + Sync),
    ) -> Result<Option<&[f32]>, ModelError> {
        self.logits.clear();
        if self.failed() {
            let (doing, reason) = ("a pass".to_owned(), "this fake was told to fail".to_owned());
            return Err(ComputeError::Gpu { doing, reason }.into());
        }
        for piece in pieces {
            assert!(!self.fatal.is_some_and(|id| piece.ids.contains(&id)), "the token at which this fake panics");
            let end = piece.at + piece.ids.len();
            if end > self.capacity {
                return Err(ModelError::ContextOverflow { tokens: end, context: self.capacity });
            }
            let rows = &mut self.rows[piece.sequence];
            rows[piece.at..end].copy_from_slice(piece.ids);
            if piece.logits {
                let next = Self::next(&rows[..end], self.vocab_size);
                let other = if self.ill == piece.ids.last().copied() { f32::NAN } else { 0.0 };
                self.logits.extend((0..self.vocab_size as u32).map(|id| if id == next { 5.0 } else { other }));
            }
        }
        self.passes
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .push(pieces.iter().map(|piece| (piece.sequence, piece.ids.len())).collect());
        let tokens: usize = pieces.iter().map(|piece| piece.ids.len()).sum();
        if !self.pace.is_zero() {
            // It stands for the time that a model computes, in eight blocks.
            for _ in 0..8 {
                if !go_on() {
                    self.broken_off.fetch_add(1, Ordering::Relaxed);
                    return Ok(None);
                }
                std::thread::sleep(self.pace * tokens as u32 / 8);
            }
        }
        Ok(Some(&self.logits))
    }

    fn save(&self, sequence: usize, tokens: Range<usize>) -> Option<Vec<u8>> {
        let rows = &self.rows[sequence][tokens];
        (!self.failed()).then(|| rows.iter().flat_map(|id| id.to_le_bytes()).collect())
    }

    fn restore(&mut self, sequence: usize, at: usize, tokens: usize, bytes: &[u8]) {
        for (row, bytes) in self.rows[sequence][at..at + tokens].iter_mut().zip(bytes.as_chunks::<4>().0) {
            *row = u32::from_le_bytes(*bytes);
        }
    }
}
