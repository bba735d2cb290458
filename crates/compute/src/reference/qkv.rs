//! From a fused `qkv` row to queries, keys and values: per-head RMSNorm (QK-norm, Dehghani et al. 2023,
//! arXiv 2302.05442), then rotary positions (RoPE, Su et al. 2021, arXiv 2104.09864) on halves `(i, i + d/2)`.
//!
//! RoPE turns each pair by the angle of its position: `a' = a cos - b sin`, `b' = b cos + a sin`. Its gradient is the
//! turn back. The norm's gradient is RMSNorm's.

use super::norm::{self, Norm};
use crate::device::{AttentionShape, NormKind};

/// How rows are split.
pub struct Split<'a> {
    /// Dimensions.
    pub shape: AttentionShape,
    /// eps, query weight, key weight (`[head_dim]` each).
    pub norm: Option<(f64, &'a [f64], &'a [f64])>,
    /// `[positions, head_dim / 2]`.
    pub cos: &'a [f64],
    /// `[positions, head_dim / 2]`.
    pub sin: &'a [f64],
    /// `[tokens]`.
    pub positions: &'a [u32],
    /// `[tokens]`.
    pub slots: &'a [u32],
}

/// Turns one head by the angles of a position, or back.
fn rotate(split: &Split<'_>, position: u32, x: &[f64], direction: f64) -> Vec<f64> {
    let half = x.len() / 2;
    let mut out = vec![0.0; x.len()];
    for i in 0..half {
        let at = position as usize * half + i;
        let (cos, sin) = (split.cos[at], direction * split.sin[at]);
        out[i] = x[i] * cos - x[half + i] * sin;
        out[half + i] = x[half + i] * cos + x[i] * sin;
    }
    out
}

fn rms_norm<'a>(eps: f64, weight: &'a [f64]) -> Norm<'a> {
    Norm { kind: NormKind::RmsNorm, eps, weight, bias: None }
}

/// `[q, k, v]`: queries by token, keys and values by slot; NaN in slots that no token is written to.
pub fn forward(split: &Split<'_>, qkv: &[f64], slots: usize) -> [Vec<f64>; 3] {
    let AttentionShape { n_head, n_kv_head, head_dim } = split.shape;
    let mut q = Vec::new();
    let mut k = vec![f64::NAN; slots * n_kv_head * head_dim];
    let mut v = k.clone();
    for (token, row) in qkv.chunks_exact((n_head + 2 * n_kv_head) * head_dim).enumerate() {
        let position = split.positions[token];
        let slot = split.slots[token] as usize * n_kv_head * head_dim;
        for (index, x) in row.chunks_exact(head_dim).enumerate() {
            let turned = |weight: Option<(f64, &[f64])>| match weight {
                Some((eps, weight)) => rotate(split, position, &norm::forward(&rms_norm(eps, weight), x).0, 1.0),
                None => rotate(split, position, x, 1.0),
            };
            if index < n_head {
                q.extend(turned(split.norm.map(|(eps, weight, _)| (eps, weight))));
            } else if index < n_head + n_kv_head {
                let to = &mut k[slot + (index - n_head) * head_dim..][..head_dim];
                to.copy_from_slice(&turned(split.norm.map(|(eps, _, weight)| (eps, weight))));
            } else {
                v[slot + (index - n_head - n_kv_head) * head_dim..][..head_dim].copy_from_slice(x);
            }
        }
    }
    [q, k, v]
}

/// Gradients of a split.
pub struct Gradient {
    /// Shaped like `qkv`.
    pub qkv: Vec<f64>,
    /// `[head_dim]`; 0 without a norm.
    pub q_weight: Vec<f64>,
    /// `[head_dim]`; 0 without a norm.
    pub k_weight: Vec<f64>,
}

/// Gradients from those of queries (by token), keys and values (by slot).
pub fn backward(split: &Split<'_>, qkv: &[f64], [dq, dk, dv]: [&[f64]; 3]) -> Gradient {
    let AttentionShape { n_head, n_kv_head, head_dim } = split.shape;
    let mut gradient = Gradient { qkv: Vec::new(), q_weight: vec![0.0; head_dim], k_weight: vec![0.0; head_dim] };
    for (token, row) in qkv.chunks_exact((n_head + 2 * n_kv_head) * head_dim).enumerate() {
        let position = split.positions[token];
        let slot = split.slots[token] as usize * n_kv_head;
        for (index, x) in row.chunks_exact(head_dim).enumerate() {
            let (d, at, norm) = if index < n_head {
                let norm = split.norm.map(|(eps, weight, _)| (eps, weight, &mut gradient.q_weight));
                (dq, token * n_head + index, norm)
            } else if index < n_head + n_kv_head {
                let norm = split.norm.map(|(eps, _, weight)| (eps, weight, &mut gradient.k_weight));
                (dk, slot + index - n_head, norm)
            } else {
                let at = slot + index - n_head - n_kv_head;
                gradient.qkv.extend(&dv[at * head_dim..][..head_dim]);
                continue;
            };
            let back = rotate(split, position, &d[at * head_dim..][..head_dim], -1.0);
            match norm {
                None => gradient.qkv.extend(back),
                Some((eps, weight, d_weight)) => {
                    let of_norm = norm::backward(&rms_norm(eps, weight), x, &back);
                    gradient.qkv.extend(of_norm.x);
                    for (to, from) in d_weight.iter_mut().zip(of_norm.weight) {
                        *to += from;
                    }
                }
            }
        }
    }
    gradient
}
