//! What the engine needs of a model. [`Sequences`] is one; tests have a [fake](super::fake).

use std::ops::{Deref, Range};

use casallm_compute::Device;
use casallm_model::error::ModelError;
use casallm_model::network::Network;
use casallm_model::sequences::{Piece, Sequences};

/// Some sequences of token ids, each with its own part of a cache of keys and values.
pub trait SequenceModel {
    /// How many sequences there are.
    fn sequences(&self) -> usize;
    /// Tokens that each can hold.
    fn capacity(&self) -> usize;
    /// Ids are below this.
    fn vocab_size(&self) -> usize;
    /// Most tokens of one pass.
    fn pass_tokens(&self) -> usize;
    /// Bytes that [`SequenceModel::save`] gives a token.
    fn bytes_a_token(&self) -> usize;
    /// Reads pieces of different sequences and gives the wanted logits, `[pieces that want them, vocab_size]`.
    ///
    /// # Errors
    /// The pieces do not fit, or the device has failed.
    fn forward(&mut self, pieces: &[Piece<'_>]) -> Result<&[f32], ModelError> {
        Ok(self.forward_while(pieces, &|| true)?.unwrap_or_default())
    }
    /// The same, unless `go_on` says no before the end: then `None`, and the pieces have not been read. It is asked now and
    /// then, as far as a pass of this model can be broken off.
    ///
    /// # Errors
    /// As [`SequenceModel::forward`].
    fn forward_while(
        &mut self,
        pieces: &[Piece<'_>],
        go_on: &(dyn Fn() -> bool + Sync),
    ) -> Result<Option<&[f32]>, ModelError>;
    /// What the cache holds of some tokens of a sequence; `None` where the device has failed and nobody knows any more.
    fn save(&self, sequence: usize, tokens: Range<usize>) -> Option<Vec<u8>>;
    /// Puts the first `tokens` of what was saved at position `at` of a sequence.
    fn restore(&mut self, sequence: usize, at: usize, tokens: usize, bytes: &[u8]);
}

impl<N: Deref<Target = Network<D>>, D: Device> SequenceModel for Sequences<N, D> {
    fn sequences(&self) -> usize {
        self.count()
    }

    fn capacity(&self) -> usize {
        Sequences::capacity(self)
    }

    fn vocab_size(&self) -> usize {
        self.network().config().vocab_size
    }

    fn pass_tokens(&self) -> usize {
        Sequences::pass_tokens(self)
    }

    fn bytes_a_token(&self) -> usize {
        Sequences::bytes_a_token(self)
    }

    fn forward_while(
        &mut self,
        pieces: &[Piece<'_>],
        go_on: &(dyn Fn() -> bool + Sync),
    ) -> Result<Option<&[f32]>, ModelError> {
        Sequences::forward_while(self, pieces, go_on)
    }

    fn save(&self, sequence: usize, tokens: Range<usize>) -> Option<Vec<u8>> {
        let rows = Sequences::save(self, sequence, tokens);
        // What is read from a device that has failed means nothing, and would be kept.
        self.network().device().check().ok().map(|()| rows)
    }

    fn restore(&mut self, sequence: usize, at: usize, tokens: usize, bytes: &[u8]) {
        Sequences::restore(self, sequence, at, tokens, bytes);
    }
}
