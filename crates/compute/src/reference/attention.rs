//! Causal softmax attention (Vaswani et al. 2017, arXiv 1706.03762) with grouped queries (Ainslie et al. 2023,
//! arXiv 2305.13245), the whole `T x T` matrix at once, as the fast kernels never do it.
//!
//! For one head, with `S = Q Kᵀ / sqrt(d)` where query `i` may look and `P = softmax(S)` by rows: `O = P V`, and
//! `lse[i] = log sum_j exp S[i, j]`. Backward: `dV = Pᵀ dO`, `dP = dO Vᵀ`, `dS = P (dP - D)` with `D = rowsum(P dP)`,
//! which is `rowsum(dO O)` (Dao et al. 2022, arXiv 2205.14135), `dQ = dS K / sqrt(d)`, `dK = dSᵀ Q / sqrt(d)`; a key
//! head sums over the query heads of its group.

use super::dot;
use crate::device::{AttentionShape, Span};

/// `[tokens, heads, head_dim]`, addressed by row and head.
#[derive(Clone, Copy)]
struct Heads<'a> {
    values: &'a [f64],
    heads: usize,
    head_dim: usize,
}

impl<'a> Heads<'a> {
    fn at(&self, row: usize, head: usize) -> &'a [f64] {
        &self.values[(row * self.heads + head) * self.head_dim..][..self.head_dim]
    }
}

/// Queries, keys and values.
struct Operands<'a> {
    shape: AttentionShape,
    q: Heads<'a>,
    k: Heads<'a>,
    v: Heads<'a>,
}

impl<'a> Operands<'a> {
    fn new(shape: AttentionShape, [q, k, v]: [&'a [f64]; 3]) -> Self {
        let heads = |values, heads| Heads { values, heads, head_dim: shape.head_dim };
        Operands { shape, q: heads(q, shape.n_head), k: heads(k, shape.n_kv_head), v: heads(v, shape.n_kv_head) }
    }

    /// The key head that a query head reads.
    fn kv_head(&self, head: usize) -> usize {
        head / (self.shape.n_head / self.shape.n_kv_head)
    }

    /// `P [q_len][kv_len]` of one span and head (0 where the mask is), and the log-sum-exp of each row.
    fn probabilities(&self, span: &Span, head: usize) -> (Vec<Vec<f64>>, Vec<f64>) {
        let scale = 1.0 / (self.shape.head_dim as f64).sqrt();
        let mut lse = Vec::new();
        let rows = (0..span.q_len).map(|i| {
            let q = self.q.at(span.q_start + i, head);
            let visible = span.kv_len - span.q_len + i + 1;
            let key = |j| self.k.at(span.kv_start + j, self.kv_head(head));
            let scores: Vec<f64> = (0..visible).map(|j| dot(q, key(j)) * scale).collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum();
            lse.push(max + sum.ln());
            let mut row: Vec<f64> = scores.iter().map(|s| (s - max).exp() / sum).collect();
            row.resize(span.kv_len, 0.0);
            row
        });
        (rows.collect(), lse)
    }
}

/// What attention returns: NaN in rows that no span covers.
pub struct Attention {
    /// `[tokens, n_head * head_dim]`.
    pub out: Vec<f64>,
    /// `[tokens, n_head]`.
    pub lse: Vec<f64>,
}

/// Attention within each span.
pub fn forward(shape: AttentionShape, spans: &[Span], qkv: [&[f64]; 3]) -> Attention {
    let operands = Operands::new(shape, qkv);
    let AttentionShape { n_head, head_dim, .. } = shape;
    let mut out = vec![f64::NAN; qkv[0].len()];
    let mut all_lse = vec![f64::NAN; qkv[0].len() / head_dim];
    for span in spans {
        for head in 0..n_head {
            let (p, lse) = operands.probabilities(span, head);
            for i in 0..span.q_len {
                let at = (span.q_start + i) * n_head + head;
                all_lse[at] = lse[i];
                for d in 0..head_dim {
                    let value = |j| operands.v.at(span.kv_start + j, operands.kv_head(head))[d];
                    out[at * head_dim + d] = (0..span.kv_len).map(|j| p[i][j] * value(j)).sum();
                }
            }
        }
    }
    Attention { out, lse: all_lse }
}

/// `[dq, dk, dv]`, NaN in rows that no span covers. `out` is what the forward pass returned, rounded as it was kept.
pub fn backward(shape: AttentionShape, spans: &[Span], qkv: [&[f64]; 3], out: &[f64], d_out: &[f64]) -> [Vec<f64>; 3] {
    let operands = Operands::new(shape, qkv);
    let AttentionShape { n_head, n_kv_head, head_dim } = shape;
    let scale = 1.0 / (head_dim as f64).sqrt();
    let [out, d_out] = [out, d_out].map(|values| Heads { values, heads: n_head, head_dim });
    let [mut dq, mut dk, mut dv] = qkv.map(|x| vec![f64::NAN; x.len()]);
    for span in spans {
        dq[span.q_start * n_head * head_dim..][..span.q_len * n_head * head_dim].fill(0.0);
        let keys = span.kv_start * n_kv_head * head_dim;
        dk[keys..][..span.kv_len * n_kv_head * head_dim].fill(0.0);
        dv[keys..][..span.kv_len * n_kv_head * head_dim].fill(0.0);
        for head in 0..n_head {
            let kv_head = operands.kv_head(head);
            let (p, _) = operands.probabilities(span, head);
            for (i, p) in p.iter().enumerate() {
                let row = span.q_start + i;
                let (q, d_o) = (operands.q.at(row, head), d_out.at(row, head));
                let dp: Vec<f64> =
                    (0..span.kv_len).map(|j| dot(d_o, operands.v.at(span.kv_start + j, kv_head))).collect();
                let delta = dot(d_o, out.at(row, head));
                for j in 0..span.kv_len {
                    let ds = p[j] * (dp[j] - delta);
                    let key = operands.k.at(span.kv_start + j, kv_head);
                    let (q_at, kv_at) =
                        ((row * n_head + head) * head_dim, ((span.kv_start + j) * n_kv_head + kv_head) * head_dim);
                    for d in 0..head_dim {
                        dq[q_at + d] += ds * key[d] * scale;
                        dk[kv_at + d] += ds * q[d] * scale;
                        dv[kv_at + d] += p[j] * d_o[d];
                    }
                }
            }
        }
    }
    [dq, dk, dv]
}
