//! Loss and gradients of a batch: the forward pass, the fused head, and the backward pass by hand.

use casallm_compute::{DType, Device, Head, HeadGradient, HeadResult, NormGradient, Span};

use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::network::{Extent, Network, Pass};
use crate::parameters::{LayerIndex, LinearIndex, NormIndex};
use crate::specification::ParameterSpec;
use crate::workspace::{BackwardBuffers, LayerActivations, Recompute, Shared, Workspace};

/// A batch in the one format of every stage: flat ids, a target and a weight for each, document boundaries.
#[derive(Clone, Copy, Debug)]
pub struct BatchView<'a> {
    /// `[tokens]`.
    pub tokens: &'a [u32],
    /// `[tokens]`: what follows each token.
    pub targets: &'a [u32],
    /// `[tokens]`: how much each target counts; 0 for not at all.
    pub weights: &'a [f32],
    /// Boundaries: 0, then the end of each sequence, the last being `tokens`.
    pub cu_seqlens: &'a [u32],
}

/// Gradients of every parameter, in canonical order, f32.
pub struct Gradients<B> {
    buffers: Vec<B>,
}

impl<B> Gradients<B> {
    /// Zeroed gradients.
    ///
    /// # Errors
    /// The memory cannot be had.
    pub fn new<D: Device<Buffer = B>>(device: &D, config: &ModelConfig) -> Result<Self, ModelError> {
        let specs = config.parameters();
        let one = |spec: &ParameterSpec| Ok(device.allocate(&spec.name, DType::F32, spec.len())?);
        Ok(Gradients { buffers: specs.iter().map(one).collect::<Result<_, ModelError>>()? })
    }

    /// Gradient of parameter `i`.
    pub fn get(&self, i: usize) -> &B {
        &self.buffers[i]
    }

    /// Back to zero, before the first micro-batch of a step.
    pub fn clear<D: Device<Buffer = B>>(&mut self, device: &D) {
        for buffer in &mut self.buffers {
            device.clear_gradient(buffer);
        }
    }

    /// All of them, in canonical order.
    pub fn all(&self) -> Vec<&B> {
        self.buffers.iter().collect()
    }

    /// The global norm: root of the sum of all squares.
    pub fn norm<D: Device<Buffer = B>>(&self, device: &D) -> f64 {
        self.buffers.iter().map(|b| device.sum_of_squares(b)).sum::<f64>().sqrt()
    }

    fn norm_gradient(&mut self, index: NormIndex) -> NormGradient<'_, B> {
        match index.bias {
            None => NormGradient { weight: &mut self.buffers[index.weight], bias: None },
            Some(bias) => {
                let (weight, bias) = self.pair(index.weight, bias);
                NormGradient { weight, bias: Some(bias) }
            }
        }
    }

    fn linear_gradient(&mut self, index: LinearIndex) -> (&mut B, Option<&mut B>) {
        match index.bias {
            None => (&mut self.buffers[index.weight], None),
            Some(bias) => {
                let (weight, bias) = self.pair(index.weight, bias);
                (weight, Some(bias))
            }
        }
    }

    /// Two gradients at once, the first of the smaller index.
    fn pair(&mut self, first: usize, second: usize) -> (&mut B, &mut B) {
        let (before, from_second) = self.buffers.split_at_mut(second);
        (&mut before[first], &mut from_second[0])
    }
}

/// [`Device::head`], or what stands in for it.
trait RunHead<D: Device, R>:
    FnOnce(&D, &Head<'_, D::Buffer, D::Matrix>, &mut D::Buffer, Option<HeadGradient<'_, D::Buffer>>) -> R
{
}

impl<D: Device, R, F> RunHead<D, R> for F where
    F: FnOnce(&D, &Head<'_, D::Buffer, D::Matrix>, &mut D::Buffer, Option<HeadGradient<'_, D::Buffer>>) -> R
{
}

/// What the gradient of a block works with: what all layers share, what this one has kept, what the backward pass has.
type Buffers<'a, B> = (&'a mut Shared<B>, &'a mut LayerActivations<B>, &'a mut BackwardBuffers<B>);

impl<D: Device> Network<D> {
    /// Loss of a batch without gradients. Row losses stay in the workspace for [`Network::row_losses`].
    ///
    /// # Errors
    /// [`ModelError::Batch`] or [`ModelError::ContextOverflow`] for a batch that does not fit.
    pub fn loss(&self, workspace: &mut Workspace<D::Buffer>, batch: BatchView<'_>) -> Result<HeadResult, ModelError> {
        let spans = self.load(workspace, batch)?;
        self.device.together(|| self.forward(workspace, &spans, batch.tokens.len(), None, None, &|| true));
        self.head_losses(workspace, batch.tokens.len())
    }

    /// The head without gradients.
    fn head_losses(&self, workspace: &mut Workspace<D::Buffer>, tokens: usize) -> Result<HeadResult, ModelError> {
        let weight = self.parameters.matrix(self.parameters.index().head);
        let Workspace { shared, targets, weights, losses, .. } = workspace;
        let head = Head { hidden: &shared.hidden, weight, targets, weights, tokens };
        let result = self.device.head(&head, losses, None);
        self.device.check()?;
        Ok(result)
    }

    /// Loss of a batch; adds the gradients of `scale * sum_i weights[i] * loss[i]`.
    ///
    /// # Errors
    /// As [`Network::loss`]; also a workspace that was made for inference.
    pub fn loss_and_gradients(
        &self,
        workspace: &mut Workspace<D::Buffer>,
        batch: BatchView<'_>,
        scale: f32,
        dropout_seed: u64,
        gradients: &mut Gradients<D::Buffer>,
    ) -> Result<HeadResult, ModelError> {
        self.pass(workspace, batch, (scale, dropout_seed), gradients, D::head)
    }

    /// The same, with the loss added to a tally: nothing is waited for.
    ///
    /// # Errors
    /// As [`Network::loss_and_gradients`].
    pub fn add_micro_batch(
        &self,
        workspace: &mut Workspace<D::Buffer>,
        batch: BatchView<'_>,
        (scale, dropout_seed): (f32, u64),
        gradients: &mut Gradients<D::Buffer>,
        tally: &mut D::Tally,
    ) -> Result<(), ModelError> {
        self.pass(workspace, batch, (scale, dropout_seed), gradients, |device, head, losses, gradient| {
            device.head_to_tally(head, losses, gradient, tally);
        })
    }

    /// As [`Network::add_micro_batch`], for an objective that is no weighted sum of losses: between the forward and the
    /// backward pass `weigh` is given the row losses (nats; 0 where `batch.weights` is 0) and returns a weight of either
    /// sign for each row, which by the chain rule is the objective's derivative with respect to that row's loss. The
    /// tally is given the sum of these weights times the losses. Waits for the losses.
    ///
    /// # Errors
    /// As [`Network::loss_and_gradients`]; also weights of another number.
    pub fn add_weighed(
        &self,
        workspace: &mut Workspace<D::Buffer>,
        batch: BatchView<'_>,
        (scale, dropout_seed): (f32, u64),
        gradients: &mut Gradients<D::Buffer>,
        tally: &mut D::Tally,
        weigh: impl FnOnce(&[f32]) -> Vec<f32>,
    ) -> Result<(), ModelError> {
        let spans = self.load(workspace, batch)?;
        let tokens = batch.tokens.len();
        self.device.together(|| self.forward(workspace, &spans, tokens, None, Some(dropout_seed), &|| true));
        self.head_losses(workspace, tokens)?;
        let weights = weigh(&self.row_losses(workspace, tokens));
        if weights.len() != tokens {
            return Err(ModelError::Batch(format!("{tokens} tokens with {} weights", weights.len())));
        }
        self.device.write_f32(&mut workspace.weights, 0, &weights);
        self.device.together(|| {
            self.head_backward(workspace, tokens, scale, gradients, |device, head, losses, gradient| {
                device.head_to_tally(head, losses, gradient, tally);
            })?;
            self.backward(workspace, &spans, tokens, dropout_seed, gradients);
            Ok(())
        })
    }

    /// Forward, the head that is given, backward.
    fn pass<R: Send>(
        &self,
        workspace: &mut Workspace<D::Buffer>,
        batch: BatchView<'_>,
        (scale, dropout_seed): (f32, u64),
        gradients: &mut Gradients<D::Buffer>,
        head: impl RunHead<D, R> + Send,
    ) -> Result<R, ModelError> {
        let spans = self.load(workspace, batch)?;
        let tokens = batch.tokens.len();
        // The batch is on the device: from here on every one of its size and boundaries is the same work.
        self.device.together(|| {
            self.forward(workspace, &spans, tokens, None, Some(dropout_seed), &|| true);
            let result = self.head_backward(workspace, tokens, scale, gradients, head)?;
            self.backward(workspace, &spans, tokens, dropout_seed, gradients);
            Ok(result)
        })
    }

    /// Logits of every row of the batch last given to [`Network::loss`], `[tokens, vocab_size]`. For tests and tools:
    /// a training step never materialises them.
    ///
    /// # Errors
    /// The memory cannot be had.
    pub fn all_logits(&self, workspace: &Workspace<D::Buffer>, tokens: usize) -> Result<Vec<f32>, ModelError> {
        let weight = self.parameters.matrix(self.parameters.index().head);
        let len = tokens * self.config.vocab_size;
        let mut logits = self.device.allocate("logits", DType::F32, len)?;
        self.device.linear(&workspace.shared.hidden, weight, None, tokens, casallm_compute::Out::Store(&mut logits));
        let mut values = vec![0.0; len];
        self.device.read_f32(&logits, 0, &mut values);
        Ok(values)
    }

    /// Row losses (nats, unweighted) of the batch last evaluated.
    pub fn row_losses(&self, workspace: &Workspace<D::Buffer>, tokens: usize) -> Vec<f32> {
        let mut losses = vec![0.0; tokens];
        self.device.read_f32(&workspace.losses, 0, &mut losses);
        losses
    }

    /// Checks a batch and copies it to the device.
    fn load(&self, workspace: &mut Workspace<D::Buffer>, batch: BatchView<'_>) -> Result<Vec<Span>, ModelError> {
        let tokens = batch.tokens.len();
        let bad = |what: String| Err(ModelError::Batch(what));
        if tokens == 0 || tokens > workspace.shape.tokens {
            return bad(format!("{tokens} tokens; the workspace takes 1 to {}", workspace.shape.tokens));
        }
        if batch.targets.len() != tokens || batch.weights.len() != tokens {
            let (targets, weights) = (batch.targets.len(), batch.weights.len());
            return bad(format!("{tokens} tokens with {targets} targets and {weights} weights"));
        }
        let vocab_size = self.config.vocab_size as u32;
        if let Some(id) = batch.tokens.iter().chain(batch.targets).find(|id| **id >= vocab_size) {
            return bad(format!("token id {id}; the vocabulary has {vocab_size}"));
        }
        let boundaries = batch.cu_seqlens;
        if boundaries.first() != Some(&0)
            || boundaries.last() != Some(&(tokens as u32))
            || boundaries.windows(2).any(|w| w[0] >= w[1])
        {
            return bad("cu_seqlens must rise from 0 to the number of tokens".into());
        }
        let limit = self.config.context.min(workspace.shape.sequence);
        let mut spans = Vec::with_capacity(boundaries.len());
        let mut positions = Vec::with_capacity(tokens);
        for ends in boundaries.windows(2) {
            let (start, len) = (ends[0] as usize, (ends[1] - ends[0]) as usize);
            if len > limit {
                return Err(ModelError::ContextOverflow { tokens: len, context: limit });
            }
            spans.push(Span { q_start: start, q_len: len, kv_start: start, kv_len: len });
            positions.extend(0..len as u32);
        }
        let slots: Vec<u32> = (0..tokens as u32).collect();
        let device = &*self.device;
        device.write_u32(&mut workspace.ids, 0, batch.tokens);
        device.write_u32(&mut workspace.targets, 0, batch.targets);
        device.write_u32(&mut workspace.positions, 0, &positions);
        device.write_u32(&mut workspace.slots, 0, &slots);
        device.write_f32(&mut workspace.weights, 0, batch.weights);
        Ok(spans)
    }

    /// The head's loss and gradients, then the final norm's: leaves the residual stream's gradient in `dx`.
    fn head_backward<R>(
        &self,
        workspace: &mut Workspace<D::Buffer>,
        tokens: usize,
        scale: f32,
        gradients: &mut Gradients<D::Buffer>,
        run: impl RunHead<D, R>,
    ) -> Result<R, ModelError> {
        let index = self.parameters.index();
        let Workspace { targets, weights, losses, stats, shared, backward, .. } = workspace;
        let Shared { x, hidden, .. } = shared;
        let Some(back) = backward else {
            return Err(ModelError::Batch("this workspace was made for inference".into()));
        };
        let head = Head { hidden, weight: self.parameters.matrix(index.head), targets, weights, tokens };
        let weight = &mut gradients.buffers[index.head];
        let gradient = HeadGradient { scale, hidden: &mut back.d_hidden, weight };
        let result = run(&self.device, &head, losses, Some(gradient));
        self.device.fill_zero(&mut back.dx);
        let d = self.config.n_embd;
        let (norm, gradient) = (self.norm(index.norm), gradients.norm_gradient(index.norm));
        self.device.norm_backward(&norm, x, stats, &back.d_hidden, tokens, d, &mut back.dx, gradient);
        Ok(result)
    }

    /// The blocks in reverse, then the embedding.
    fn backward(
        &self,
        workspace: &mut Workspace<D::Buffer>,
        spans: &[Span],
        tokens: usize,
        dropout_seed: u64,
        gradients: &mut Gradients<D::Buffer>,
    ) {
        let device = &*self.device;
        let index = self.parameters.index();
        let d = self.config.n_embd;
        let Workspace { shape, ids, positions, slots, shared, entrances, layers, backward, .. } = workspace;
        let Some(back) = backward else { return };
        let pass = Pass { spans, tokens, positions, slots, dropout_seed: Some(dropout_seed) };
        let repeats = shape.training == Some(Recompute::Block);
        for (i, (layer, x_in)) in index.layers.iter().zip(entrances).enumerate().rev() {
            let at = i.min(layers.len() - 1);
            let acts = &mut layers[at];
            if repeats {
                device.copy(x_in, tokens * d, &mut shared.x);
                self.block(i, &pass, shared, acts, None, Extent::ForBackward);
            } else if acts.heads.is_none()
                && let (Some(qkv), Some(heads)) = (&acts.qkv, &mut shared.heads)
                && let Some((k, v)) = &mut heads.kv
            {
                device.split_qkv(&self.split(layer, positions, slots), qkv, tokens, &mut heads.q, k, v);
            }
            self.mlp_backward(i, layer, &pass, (shared, acts, back), gradients);
            self.attention_backward(i, layer, &pass, x_in, (shared, acts, back), gradients);
        }
        if let Some(dropout) = self.dropout(pass.dropout_seed, 0) {
            device.dropout(dropout, tokens * d, &mut back.dx);
        }
        device.embedding_backward(ids, &back.dx, tokens, d, &mut gradients.buffers[index.embed]);
    }

    /// Of `x += down(act(up(norm2(x))))`: adds to the stream's gradient and to the parameters'.
    fn mlp_backward(
        &self,
        i: usize,
        layer: &LayerIndex,
        pass: &Pass<'_, D::Buffer>,
        (shared, acts, back): Buffers<'_, D::Buffer>,
        gradients: &mut Gradients<D::Buffer>,
    ) {
        let device = &*self.device;
        let (d, n_ff, up_rows, tokens) = (self.config.n_embd, self.config.n_ff, self.config.up_rows(), pass.tokens);
        let Shared { x, hidden, wide, .. } = shared;
        let d_branch = &mut *hidden;
        device.branch_gradient(self.dropout(pass.dropout_seed, 2 * i + 2), &back.dx, tokens * d, d_branch);
        device.linear_backward_input(d_branch, self.parameters.matrix(layer.down.weight), tokens, wide);
        let again = acts.activated.is_none();
        device.activation_backward(self.activation_kind(), &mut acts.up, wide, tokens, n_ff, again);
        let (activated, d_up) = (acts.activated.as_ref().unwrap_or(wide), &acts.up);
        let (weight, bias) = gradients.linear_gradient(layer.down);
        device.linear_backward_weight(d_branch, activated, tokens, (d, n_ff), weight, bias);

        let norm = self.norm(layer.norm2);
        let x_mid = acts.x_mid.as_ref().unwrap_or(x);
        let normed = match &acts.hidden {
            Some([_, second]) => second,
            None => {
                device.norm_again(&norm, x_mid, &acts.stats2, tokens, d, hidden);
                &*hidden
            }
        };
        let (weight, bias) = gradients.linear_gradient(layer.up);
        device.linear_backward_weight(d_up, normed, tokens, (up_rows, d), weight, bias);
        device.linear_backward_input(d_up, self.parameters.matrix(layer.up.weight), tokens, &mut back.d_hidden);
        let gradient = gradients.norm_gradient(layer.norm2);
        device.norm_backward(&norm, x_mid, &acts.stats2, &back.d_hidden, tokens, d, &mut back.dx, gradient);
    }

    /// Of `x += out(attention(split(qkv(norm1(x)))))`, likewise; `x_in` is that `x`.
    fn attention_backward(
        &self,
        i: usize,
        layer: &LayerIndex,
        pass: &Pass<'_, D::Buffer>,
        x_in: &D::Buffer,
        (shared, acts, back): Buffers<'_, D::Buffer>,
        gradients: &mut Gradients<D::Buffer>,
    ) {
        let device = &*self.device;
        let (d, width, tokens) = (self.config.n_embd, self.config.attention_width(), pass.tokens);
        let Shared { hidden, wide, heads, .. } = shared;
        let Some(heads) = acts.heads.as_ref().or(heads.as_ref()) else { return };
        let (Some((k, v)), Some(lse)) = (&heads.kv, &acts.lse) else { return };
        let BackwardBuffers { dx, d_hidden, dk, dv } = back;
        let d_branch = &mut *hidden;
        device.branch_gradient(self.dropout(pass.dropout_seed, 2 * i + 1), dx, tokens * d, d_branch);
        let (weight, bias) = gradients.linear_gradient(layer.out);
        device.linear_backward_weight(d_branch, &acts.attended, tokens, (d, width), weight, bias);
        let d_attended = &mut *d_hidden;
        device.linear_backward_input(d_branch, self.parameters.matrix(layer.out.weight), tokens, d_attended);
        let dq = &mut *hidden;
        let shape = self.attention_shape();
        let operands = [&heads.q, k, v];
        device.attention_backward(shape, pass.spans, operands, &acts.attended, lse, d_attended, [dq, dk, dv]);
        let split = self.split(layer, pass.positions, pass.slots);
        let d_norm = layer.qk_norm.map(|(q, k)| gradients.pair(q, k));
        let d_qkv = acts.qkv.as_mut().unwrap_or(wide);
        device.split_qkv_backward(&split, d_qkv, [&*hidden, dk, dv], tokens, d_norm);

        let norm = self.norm(layer.norm1);
        let normed = match &acts.hidden {
            Some([first, _]) => first,
            None => {
                device.norm_again(&norm, x_in, &acts.stats1, tokens, d, hidden);
                &*hidden
            }
        };
        let weight = &mut gradients.buffers[layer.qkv];
        device.linear_backward_weight(d_qkv, normed, tokens, (self.config.qkv_rows(), d), weight, None);
        device.linear_backward_input(d_qkv, self.parameters.matrix(layer.qkv), tokens, d_hidden);
        let gradient = gradients.norm_gradient(layer.norm1);
        device.norm_backward(&norm, x_in, &acts.stats1, d_hidden, tokens, d, dx, gradient);
    }
}
