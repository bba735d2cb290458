//! How likely given tokens are: what [`Sequences`] read, and the log-probability of chosen targets in place of logits.
//!
//! Called by whoever judges a model. The logits of a whole pass never exist: rows that nobody asked for cost no product with
//! the head, and those asked for go through the fused head of training.

use std::ops::Deref;

use casallm_compute::{Device, Head, Out};

use crate::error::ModelError;
use crate::network::Network;
use crate::sequences::{Piece, Sequences};

/// A target whose log-probability is wanted. A row may be asked for several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// After which token of the pass, counted over all pieces in their order.
    pub row: usize,
    /// The token that may follow it.
    pub target: u32,
    /// Whether it is asked if the target leads as well, which costs a second product.
    pub leads: bool,
}

/// What was found of a target.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scored {
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// Whether no token is likelier, and none of a smaller id as likely; false where that was not asked.
    pub leads: bool,
}

impl<N: Deref<Target = Network<D>>, D: Device> Sequences<N, D> {
    /// Reads one piece each of some sequences, as [`Sequences::forward`] does, and scores the wanted targets, in their order.
    ///
    /// # Errors
    /// As [`Sequences::forward`], and [`ModelError::Batch`] for a row beyond the pass or a target outside the vocabulary.
    pub fn score(&mut self, pieces: &[Piece<'_>], wanted: &[Wanted]) -> Result<Vec<Scored>, ModelError> {
        let (spans, _) = self.lay_out(pieces)?;
        let tokens: usize = pieces.iter().map(|piece| piece.ids.len()).sum();
        let network = &*self.network;
        let (device, config) = (&*network.device, &network.config);
        if let Some(wrong) = wanted.iter().find(|w| w.row >= tokens || w.target as usize >= config.vocab_size) {
            return Err(ModelError::Batch(format!(
                "target {} after row {}; the pass has {tokens} rows, the vocabulary {} tokens",
                wrong.target, wrong.row, config.vocab_size
            )));
        }
        network.forward(&mut self.workspace, &spans, tokens, Some(&mut self.cache), None, &|| true);
        let head = network.parameters.matrix(network.parameters.index().head);
        let mut scored = Vec::with_capacity(wanted.len());
        let workspace = &mut self.workspace;
        // The activation's place is free once the blocks are done.
        let room = (device.len(&workspace.shared.wide) / config.n_embd).clamp(1, workspace.tokens());
        for wanted in wanted.chunks(room) {
            let rows: Vec<u32> = wanted.iter().map(|w| w.row as u32).collect();
            let targets: Vec<u32> = wanted.iter().map(|w| w.target).collect();
            let (hidden, gathered) = (&workspace.shared.hidden, &mut workspace.shared.wide);
            device.gather_rows(hidden, config.n_embd, &rows, gathered);
            device.write_u32(&mut workspace.targets, 0, &targets);
            device.write_f32(&mut workspace.weights, 0, &vec![1.0; rows.len()]);
            let inputs = Head {
                hidden: gathered,
                weight: head,
                targets: &workspace.targets,
                weights: &workspace.weights,
                tokens: rows.len(),
            };
            device.head(&inputs, &mut workspace.losses, None);
            let mut losses = vec![0.0; rows.len()];
            device.read_f32(&workspace.losses, 0, &mut losses);
            scored.extend(losses.iter().map(|loss| Scored { logprob: -loss, leads: false }));
        }
        let asked: Vec<usize> = (0..wanted.len()).filter(|i| wanted[*i].leads).collect();
        for some in asked.chunks(self.count()) {
            let network = &*self.network;
            let rows: Vec<u32> = some.iter().map(|i| wanted[*i].row as u32).collect();
            device.gather_rows(&self.workspace.shared.hidden, config.n_embd, &rows, &mut self.hidden);
            let head = network.parameters.matrix(network.parameters.index().head);
            device.linear(&self.hidden, head, None, rows.len(), Out::Store(&mut self.logits));
            let values = &mut self.values[..rows.len() * config.vocab_size];
            device.read_f32(&self.logits, 0, values);
            for (i, logits) in some.iter().zip(values.chunks_exact(config.vocab_size)) {
                let target = wanted[*i].target as usize;
                let before = logits[..target].iter().all(|logit| *logit < logits[target]);
                scored[*i].leads = before && logits[target..].iter().all(|logit| *logit <= logits[target]);
            }
        }
        device.check()?;
        Ok(scored)
    }
}
