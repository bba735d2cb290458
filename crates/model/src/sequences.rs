//! Several sequences through one network, each with its own part of one KV cache: what a server of many conversations
//! runs, and, with a single sequence, what [`Decoder`](crate::decoder::Decoder) runs. Token ids in, logits out.
//!
//! Whoever calls keeps the books: which tokens a sequence holds, and therefore where its next ones go. Rows of the cache
//! can be taken out and put back ([`Sequences::save`], [`Sequences::restore`]), into any sequence, so that a prefix that
//! was read once need not be read again.

use std::ops::{Deref, Range};

use casallm_compute::{CacheFormat, DType, Device, Out, Span};

use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::network::{KvCache, Network};
use crate::workspace::{Workspace, WorkspaceShape};

/// Tokens that one sequence reads in a pass.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    /// Which sequence.
    pub sequence: usize,
    /// Tokens that it holds already, and keeps: the first of `ids` is at this position.
    pub at: usize,
    /// What it reads; at least one.
    pub ids: &'a [u32],
    /// Whether the logits after the last one are wanted.
    pub logits: bool,
}

/// Sequences of one network. `N` is how the network is held: borrowed or shared.
pub struct Sequences<N, D: Device> {
    pub(crate) network: N,
    pub(crate) cache: KvCache<D::Buffer>,
    pub(crate) workspace: Workspace<D::Buffer>,
    /// Hidden rows whose logits are wanted, and these logits.
    pub(crate) hidden: D::Buffer,
    pub(crate) logits: D::Buffer,
    pub(crate) values: Vec<f32>,
    count: usize,
    capacity: usize,
}

impl<N: Deref<Target = Network<D>>, D: Device> Sequences<N, D> {
    /// `count` empty sequences of up to `capacity` tokens each (at most the model's context), in passes of up to `tokens`
    /// tokens together.
    ///
    /// # Errors
    /// The memory cannot be had.
    pub fn new(network: N, count: usize, capacity: usize, tokens: usize) -> Result<Self, ModelError> {
        let format = network.dtype().into();
        Self::with_cache(network, format, count, capacity, tokens)
    }

    /// The same with keys and values held in another format than activations.
    ///
    /// # Errors
    /// The device does not support the format, or the memory cannot be had.
    pub fn with_cache(
        network: N,
        format: CacheFormat,
        count: usize,
        capacity: usize,
        tokens: usize,
    ) -> Result<Self, ModelError> {
        let config = network.config();
        let capacity = capacity.clamp(1, config.context);
        let shape = WorkspaceShape {
            tokens: tokens.max(1),
            sequence: capacity,
            dtype: network.dtype(),
            matrices: network.parameters.format(),
            training: None,
        };
        let device = network.device();
        let cache = KvCache::new(&network, format, count * capacity)?;
        let workspace = Workspace::new(&**device, config, shape)?;
        let hidden = device.allocate("last hidden", network.dtype(), count * config.n_embd)?;
        let logits = device.allocate("last logits", DType::F32, count * config.vocab_size)?;
        let values = vec![0.0; count * config.vocab_size];
        Ok(Sequences { network, cache, workspace, hidden, logits, values, count, capacity })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Tokens that each can hold.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Most tokens of one pass.
    pub fn pass_tokens(&self) -> usize {
        self.workspace.tokens()
    }

    /// The network.
    pub fn network(&self) -> &Network<D> {
        &self.network
    }

    /// Reads one piece each of some sequences, in one pass over the weights. Gives the wanted logits, `[pieces that want
    /// them, vocab_size]`, in their order.
    ///
    /// # Errors
    /// [`ModelError::ContextOverflow`] when a piece does not fit its sequence, [`ModelError::Batch`] for a piece without
    /// tokens, an id outside the vocabulary, a sequence that does not exist or comes twice, or more tokens than a pass
    /// has: nothing is read then. [`ModelError::Compute`] when the device has failed.
    pub fn forward(&mut self, pieces: &[Piece<'_>]) -> Result<&[f32], ModelError> {
        Ok(self.forward_while(pieces, &|| true)?.unwrap_or_default())
    }

    /// The same, unless `go_on`, which is asked between the model's blocks, says no before the end: then `None`, and what
    /// the sequences held at and after their pieces' positions is lost.
    ///
    /// # Errors
    /// As [`Sequences::forward`].
    pub fn forward_while(
        &mut self,
        pieces: &[Piece<'_>],
        go_on: &(dyn Fn() -> bool + Sync),
    ) -> Result<Option<&[f32]>, ModelError> {
        let (spans, last) = self.lay_out(pieces)?;
        let tokens = pieces.iter().map(|piece| piece.ids.len()).sum();
        let network = &*self.network;
        let (device, config) = (&*network.device, &network.config);
        let head = network.parameters.matrix(network.parameters.index().head);
        // While decoding, one token after the other is the same work on a cache that grows by a row.
        let whole = device.together(|| {
            let whole = network.forward(&mut self.workspace, &spans, tokens, Some(&mut self.cache), None, go_on);
            if whole && !last.is_empty() {
                device.gather_rows(&self.workspace.shared.hidden, config.n_embd, &last, &mut self.hidden);
                device.linear(&self.hidden, head, None, last.len(), Out::Store(&mut self.logits));
            }
            whole
        });
        if !whole {
            device.check()?;
            return Ok(None);
        }
        let values = &mut self.values[..last.len() * config.vocab_size];
        if last.is_empty() {
            // Waits as well: who reads a long prompt piece by piece, to be able to stop, must not run ahead of the device.
            device.read_f32(&self.workspace.shared.hidden, 0, &mut [0.0]);
        } else {
            device.read_f32(&self.logits, 0, values);
        }
        device.check()?;
        Ok(Some(values))
    }

    /// Checks the pieces and writes their ids, positions and slots to the device. Gives their spans, and the rows whose logits
    /// are wanted.
    pub(crate) fn lay_out(&mut self, pieces: &[Piece<'_>]) -> Result<(Vec<Span>, Vec<u32>), ModelError> {
        self.check(pieces)?;
        let (mut ids, mut positions, mut slots) = (Vec::new(), Vec::new(), Vec::new());
        let (mut spans, mut last) = (Vec::new(), Vec::new());
        for piece in pieces {
            let (q_start, q_len, kv_start) = (ids.len(), piece.ids.len(), piece.sequence * self.capacity);
            spans.push(Span { q_start, q_len, kv_start, kv_len: piece.at + q_len });
            ids.extend_from_slice(piece.ids);
            positions.extend((piece.at as u32..).take(q_len));
            slots.extend(((kv_start + piece.at) as u32..).take(q_len));
            if piece.logits {
                last.push(ids.len() as u32 - 1);
            }
        }
        let device = &*self.network.device;
        device.write_u32(&mut self.workspace.ids, 0, &ids);
        device.write_u32(&mut self.workspace.positions, 0, &positions);
        device.write_u32(&mut self.workspace.slots, 0, &slots);
        Ok((spans, last))
    }

    fn check(&self, pieces: &[Piece<'_>]) -> Result<(), ModelError> {
        let vocab_size = self.network.config.vocab_size;
        let mut tokens = 0;
        for (i, piece) in pieces.iter().enumerate() {
            if piece.ids.is_empty() {
                return Err(ModelError::Batch("no tokens to read".into()));
            }
            if piece.sequence >= self.count || pieces[..i].iter().any(|other| other.sequence == piece.sequence) {
                return Err(ModelError::Batch(format!(
                    "sequence {}: each of the {} has one piece a pass",
                    piece.sequence, self.count
                )));
            }
            let end = piece.at.saturating_add(piece.ids.len());
            if end > self.capacity {
                return Err(ModelError::ContextOverflow { tokens: end, context: self.capacity });
            }
            if let Some(id) = piece.ids.iter().find(|id| **id as usize >= vocab_size) {
                return Err(ModelError::Batch(format!("token id {id}; the vocabulary has {vocab_size}")));
            }
            tokens += piece.ids.len();
        }
        if tokens > self.pass_tokens() {
            return Err(ModelError::Batch(format!("{tokens} tokens; a pass has {}", self.pass_tokens())));
        }
        Ok(())
    }

    /// The keys and values of some tokens of a sequence: for each layer the keys, then the values.
    ///
    /// # Panics
    /// The tokens are beyond the sequence's capacity.
    pub fn save(&self, sequence: usize, tokens: Range<usize>) -> Vec<u8> {
        let device = &*self.network.device;
        let (first, len) = self.rows(sequence, &tokens);
        let mut bytes = Vec::with_capacity(tokens.len() * self.bytes_a_token());
        for buffer in self.cache.layers.iter().flat_map(|(k, v)| [k, v]) {
            bytes.extend_from_slice(&device.read_bytes(buffer, first, len));
        }
        bytes
    }

    /// Puts back what [`Sequences::save`] gave, as the tokens from `at` on of any sequence; or only the first `tokens` of it.
    ///
    /// # Panics
    /// They are beyond the sequence's capacity, or `bytes` holds fewer or is of another network.
    pub fn restore(&mut self, sequence: usize, at: usize, tokens: usize, bytes: &[u8]) {
        let device = &*self.network.device;
        let (first, len) = self.rows(sequence, &(at..at + tokens));
        let buffers = 2 * self.cache.layers.len();
        assert!(bytes.len().is_multiple_of(buffers), "rows of another network");
        let (each, size) = (bytes.len() / buffers, self.cache.format.dtype().size());
        let buffers = self.cache.layers.iter_mut().flat_map(|(k, v)| [k, v]);
        for (buffer, rows) in buffers.zip(bytes.chunks_exact(each.max(1))) {
            device.write_bytes(buffer, first, &rows[..len * size]);
        }
    }

    /// Elements of a buffer of the cache: the first one, and how many.
    fn rows(&self, sequence: usize, tokens: &Range<usize>) -> (usize, usize) {
        assert!(sequence < self.count && tokens.end <= self.capacity, "rows beyond the sequence");
        let ModelConfig { n_kv_head, head_dim, .. } = self.network.config;
        let row = self.cache.format.row_len(n_kv_head, head_dim);
        ((sequence * self.capacity + tokens.start) * row, tokens.len() * row)
    }

    /// Bytes of one token's keys and values in this cache.
    pub fn bytes_a_token(&self) -> usize {
        KvCache::<D::Buffer>::bytes(&self.network.config, self.cache.format, 1) as usize
    }
}
