//! One sequence through a network with a KV cache: prefill, more prefill on top, decode. Token ids in, logits out.

use casallm_compute::{CacheFormat, Device};

use crate::error::ModelError;
use crate::network::Network;
use crate::sequences::{Piece, Sequences};

/// Tokens of one prefill pass: bounds the workspace, long enough that the matrix kernels are at their best.
const CHUNK: usize = 512;

/// The state of one sequence.
pub struct Decoder<'a, D: Device> {
    sequences: Sequences<&'a Network<D>, D>,
    len: usize,
}

impl<'a, D: Device> Decoder<'a, D> {
    /// An empty sequence that may grow to `capacity` tokens (at most the model's context).
    ///
    /// # Errors
    /// The memory cannot be had.
    pub fn new(network: &'a Network<D>, capacity: usize) -> Result<Self, ModelError> {
        Self::with_cache(network, network.dtype().into(), capacity)
    }

    /// The same with keys and values held in another format than activations.
    ///
    /// # Errors
    /// The device does not support the format, or the memory cannot be had.
    pub fn with_cache(network: &'a Network<D>, format: CacheFormat, capacity: usize) -> Result<Self, ModelError> {
        let capacity = capacity.clamp(1, network.config().context);
        let sequences = Sequences::with_cache(network, format, 1, capacity, CHUNK.min(capacity))?;
        Ok(Decoder { sequences, len: 0 })
    }

    /// Tokens held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing has been read yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Tokens that can be held.
    pub fn capacity(&self) -> usize {
        self.sequences.capacity()
    }

    /// Forgets everything after the first `len` tokens.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Reads tokens and gives the logits that follow the last one.
    ///
    /// # Errors
    /// [`ModelError::ContextOverflow`] when they do not fit (nothing is read then); [`ModelError::Batch`] for none, or
    /// for an id outside the vocabulary; [`ModelError::Compute`] when the device has failed.
    pub fn extend(&mut self, ids: &[u32]) -> Result<&[f32], ModelError> {
        let capacity = self.capacity();
        if self.len + ids.len() > capacity {
            return Err(ModelError::ContextOverflow { tokens: self.len + ids.len(), context: capacity });
        }
        let vocab_size = self.sequences.network().config().vocab_size;
        if let Some(id) = ids.iter().find(|id| **id as usize >= vocab_size) {
            return Err(ModelError::Batch(format!("token id {id}; the vocabulary has {vocab_size}")));
        }
        let chunk = self.sequences.pass_tokens();
        // The last pass, of one token at least, is the one whose logits count.
        let (before, last) = ids.split_at(ids.len().saturating_sub(1) / chunk * chunk);
        for ids in before.chunks(chunk) {
            self.sequences.forward(&[Piece { sequence: 0, at: self.len, ids, logits: false }])?;
            self.len += ids.len();
        }
        let logits = self.sequences.forward(&[Piece { sequence: 0, at: self.len, ids: last, logits: true }])?;
        self.len += last.len();
        Ok(logits)
    }
}
