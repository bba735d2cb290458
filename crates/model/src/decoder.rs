//! One sequence through a network with a KV cache: prefill, more prefill on top, decode. Token ids in, logits out.

use casallm_compute::{DType, Device, Out, Span};

use crate::error::ModelError;
use crate::network::{KvCache, Network};
use crate::workspace::{Workspace, WorkspaceShape};

/// Tokens of one prefill pass: bounds the workspace, long enough that the matrix kernels are at their best.
const CHUNK: usize = 512;

/// The state of one sequence.
pub struct Decoder<'a, D: Device> {
    network: &'a Network<D>,
    cache: KvCache<D::Buffer>,
    workspace: Workspace<D::Buffer>,
    /// The last position's hidden row, and its logits.
    hidden: D::Buffer,
    logits: D::Buffer,
    values: Vec<f32>,
    len: usize,
}

impl<'a, D: Device> Decoder<'a, D> {
    /// An empty sequence that may grow to `capacity` tokens (at most the model's context).
    ///
    /// # Errors
    /// The memory cannot be had.
    pub fn new(network: &'a Network<D>, capacity: usize) -> Result<Self, ModelError> {
        let config = network.config();
        let capacity = capacity.clamp(1, config.context);
        let shape = WorkspaceShape {
            tokens: CHUNK.min(capacity),
            sequence: capacity,
            dtype: network.dtype(),
            matrices: network.parameters.format(),
            training: None,
        };
        let device = network.device();
        Ok(Decoder {
            network,
            cache: KvCache::new(network, capacity)?,
            workspace: Workspace::new(&**device, config, shape)?,
            hidden: device.allocate("last hidden", network.dtype(), config.n_embd)?,
            logits: device.allocate("last logits", DType::F32, config.vocab_size)?,
            values: vec![0.0; config.vocab_size],
            len: 0,
        })
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
        self.cache.slots()
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
        if ids.is_empty() {
            return Err(ModelError::Batch("no tokens to read".into()));
        }
        if self.len + ids.len() > capacity {
            return Err(ModelError::ContextOverflow { tokens: self.len + ids.len(), context: capacity });
        }
        let vocab_size = self.network.config.vocab_size;
        if let Some(id) = ids.iter().find(|id| **id as usize >= vocab_size) {
            return Err(ModelError::Batch(format!("token id {id}; the vocabulary has {vocab_size}")));
        }
        let device = &*self.network.device;
        let config = &self.network.config;
        let head = self.network.parameters.matrix(self.network.parameters.index().head);
        let mut left = ids.len();
        for chunk in ids.chunks(self.workspace.tokens()) {
            let places: Vec<u32> = (self.len as u32..).take(chunk.len()).collect();
            device.write_u32(&mut self.workspace.ids, 0, chunk);
            device.write_u32(&mut self.workspace.positions, 0, &places);
            device.write_u32(&mut self.workspace.slots, 0, &places);
            let kv_len = self.len + chunk.len();
            let span = Span { q_start: 0, q_len: chunk.len(), kv_start: 0, kv_len };
            left -= chunk.len();
            // While decoding, one token after the other is the same work on a cache that grows by a row.
            device.together(|| {
                self.network.forward(&mut self.workspace, &[span], chunk.len(), Some(&mut self.cache), None);
                if left == 0 {
                    let last = chunk.len() as u32 - 1;
                    device.gather_rows(&self.workspace.shared.hidden, config.n_embd, &[last], &mut self.hidden);
                    device.linear(&self.hidden, head, None, 1, Out::Store(&mut self.logits));
                }
            });
            self.len = kv_len;
        }
        device.read_f32(&self.logits, 0, &mut self.values);
        device.check()?;
        Ok(&self.values)
    }
}
