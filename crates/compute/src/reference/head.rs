//! The output head and cross-entropy: `logits = h Wᵀ`, `loss = log sum_v exp(logits[v]) - logits[target]`.
//!
//! Of `L = scale sum_i w_i loss_i`, with `p = softmax(logits)`: `d_logits[i] = scale w_i (p - onehot(target))`; the
//! rest is the linear layer's backward pass.

use super::linear;

/// Input of the head.
#[derive(Clone, Copy)]
pub struct Head<'a> {
    /// `[tokens, n_embd]`.
    pub hidden: &'a [f64],
    /// `[vocab_size, n_embd]`.
    pub weight: &'a [f64],
    /// `[tokens]`.
    pub targets: &'a [u32],
    /// `[tokens]`.
    pub weights: &'a [f64],
}

/// What the head reports of each row.
pub struct Rows {
    /// Loss in nats, 0 where the weight is 0.
    pub losses: Vec<f64>,
    /// The target's logit minus the largest other one (infinite in a vocabulary of one): positive where the model's
    /// first choice is the target.
    pub margins: Vec<f64>,
}

fn log_sum_exp(logits: &[f64]) -> f64 {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    max + logits.iter().map(|x| (x - max).exp()).sum::<f64>().ln()
}

impl Head<'_> {
    fn n_embd(&self) -> usize {
        self.hidden.len() / self.targets.len()
    }

    /// The logits of every row at once, as the fast kernels never hold them.
    fn logits(&self) -> Vec<Vec<f64>> {
        let logits = linear::forward(self.hidden, self.weight, None, self.n_embd());
        logits.chunks_exact(self.weight.len() / self.n_embd()).map(<[f64]>::to_vec).collect()
    }
}

/// Loss and margin of each row.
pub fn forward(head: &Head<'_>) -> Rows {
    let mut rows = Rows { losses: Vec::new(), margins: Vec::new() };
    for (i, logits) in head.logits().iter().enumerate() {
        let target = head.targets[i] as usize;
        let loss = log_sum_exp(logits) - logits[target];
        rows.losses.push(if head.weights[i] == 0.0 { 0.0 } else { loss });
        let others = logits.iter().enumerate().filter(|(v, _)| *v != target).map(|(_, x)| *x);
        rows.margins.push(logits[target] - others.fold(f64::NEG_INFINITY, f64::max));
    }
    rows
}

/// `(d_hidden, d_weight)` of `scale * sum_i weights[i] * loss[i]`.
pub fn backward(head: &Head<'_>, scale: f64) -> (Vec<f64>, Vec<f64>) {
    let n_embd = head.n_embd();
    let vocab_size = head.weight.len() / n_embd;
    let mut d_logits = Vec::new();
    for (i, logits) in head.logits().iter().enumerate() {
        let total = log_sum_exp(logits);
        for (v, x) in logits.iter().enumerate() {
            let one_hot = if v == head.targets[i] as usize { 1.0 } else { 0.0 };
            d_logits.push(scale * head.weights[i] * ((x - total).exp() - one_hot));
        }
    }
    let d_hidden = linear::backward_input(&d_logits, head.weight, vocab_size);
    (d_hidden, linear::backward_weight(&d_logits, head.hidden, vocab_size, n_embd).0)
}
