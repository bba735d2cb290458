//! From a `qkv` row to rotated queries, keys and values, and back. Bytes: one read and one write of `qkv`.

use super::attention::Cached;
use super::isa::{Isa, Kernel, Math};
use super::math::{self, Widen};
use super::pool::{Pool, Shared};
use crate::device::AttentionShape;
use crate::dtype::Storage;

/// Tokens of a job: also the unit in which the norm weights' gradients are summed.
pub(super) const TOKENS: usize = 64;
/// The same forward, where nothing is summed up over them: few of a few sequences that are decoded together.
fn forward_tokens(tokens: usize) -> usize {
    (tokens / TOKENS).clamp(4, TOKENS)
}

/// Everything about a split but the activations.
#[derive(Clone, Copy)]
pub(super) struct Split<'a> {
    pub(super) shape: AttentionShape,
    /// eps, query weight, key weight.
    pub(super) norm: Option<(f32, &'a [f32], &'a [f32])>,
    pub(super) cos: &'a [f32],
    pub(super) sin: &'a [f32],
    pub(super) positions: &'a [u32],
    pub(super) slots: &'a [u32],
}

impl<'a> Split<'a> {
    fn row(&self) -> usize {
        (self.shape.n_head + 2 * self.shape.n_kv_head) * self.shape.head_dim
    }

    #[inline(always)]
    fn angles(&self, token: usize) -> (&'a [f32], &'a [f32]) {
        let half = self.shape.head_dim / 2;
        let at = self.positions[token] as usize * half;
        (&self.cos[at..at + half], &self.sin[at..at + half])
    }
}

/// Widest head that the kernels keep on the stack.
pub(super) const MAX_HEAD_DIM: usize = 512;

#[inline(always)]
fn rotate<M: Math>(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (first, second) = x.split_at_mut(cos.len());
    for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
        (*a, *b) = (M::mul_add(*a, *cos, -(*b * sin)), M::mul_add(*b, *cos, *a * sin));
    }
}

#[inline(always)]
fn inverse_scale<M: Math, X: Widen>(x: &[X], eps: f32) -> f32 {
    1.0 / (math::dot::<M, _, _>(x, x) / x.len() as f32 + eps).sqrt()
}

/// The heads of a token's queries, or of its keys.
struct Heads<'a, S, E> {
    head_dim: usize,
    from: &'a [S],
    norm: Option<(f32, &'a [f32])>,
    angles: (&'a [f32], &'a [f32]),
    to: &'a mut [E],
}

/// Heads whose scales are computed before the first is written: each waits for a sum, a root and a division, which the
/// processor does for several at a time if nothing lies between.
const TOGETHER: usize = 8;

impl<S: Storage, E: Cached> Kernel for Heads<'_, S, E> {
    type Output = ();
    #[inline(always)]
    fn run<M: Math>(self) {
        // Usual heads stay in registers.
        match self.head_dim {
            64 => self.run_within::<M, 64>(64),
            128 => self.run_within::<M, 128>(128),
            n => self.run_within::<M, MAX_HEAD_DIM>(n),
        }
    }
}

impl<S: Storage, E: Cached> Heads<'_, S, E> {
    /// Of heads of `n` elements, `N` at most.
    #[inline(always)]
    fn run_within<M: Math, const N: usize>(self, n: usize) {
        let (cos, sin) = (&self.angles.0[..n / 2], &self.angles.1[..n / 2]);
        let head = n + E::TAIL;
        for (from, to) in self.from.chunks(TOGETHER * n).zip(self.to.chunks_mut(TOGETHER * head)) {
            let mut scales = [1.0f32; TOGETHER];
            if let Some((eps, _)) = self.norm {
                for (scale, from) in scales.iter_mut().zip(from.chunks_exact(n)) {
                    *scale = inverse_scale::<M, S>(from, eps);
                }
            }
            for ((from, to), scale) in from.chunks_exact(n).zip(to.chunks_exact_mut(head)).zip(scales) {
                let mut x = [0.0f32; N];
                let x = &mut x[..n];
                for (x, from) in x.iter_mut().zip(from) {
                    *x = from.load();
                }
                if let Some((_, weight)) = self.norm {
                    for (x, w) in x.iter_mut().zip(weight) {
                        *x *= scale * w;
                    }
                }
                rotate::<M>(x, cos, sin);
                E::store_head(x, to);
            }
        }
    }
}

/// How a head of values, which nothing is done to, comes into the cache.
pub(super) trait Holds<S>: Cached {
    fn hold(isa: Isa, from: &[S], to: &mut [Self]);
}

impl<S: Storage> Holds<S> for S {
    fn hold(_: Isa, from: &[S], to: &mut [S]) {
        to.copy_from_slice(from);
    }
}

impl<S: Storage> Holds<S> for u8 {
    fn hold(isa: Isa, from: &[S], to: &mut [u8]) {
        isa.run(Quantize { from, to });
    }
}

struct Quantize<'a, S> {
    from: &'a [S],
    to: &'a mut [u8],
}

impl<S: Storage> Kernel for Quantize<'_, S> {
    type Output = ();
    #[inline(always)]
    fn run<M: Math>(self) {
        let mut x = [0.0f32; MAX_HEAD_DIM];
        let x = &mut x[..self.from.len()];
        for (x, from) in x.iter_mut().zip(self.from) {
            *x = from.load();
        }
        u8::store_head(x, self.to);
    }
}

/// Writes queries by token, keys and values by slot.
pub(super) fn forward<S: Storage, E: Holds<S>>(
    pool: &Pool,
    split: Split<'_>,
    qkv: &[S],
    q: &mut [S],
    k: &mut [E],
    v: &mut [E],
) {
    let AttentionShape { n_head, n_kv_head, head_dim } = split.shape;
    let (q_width, kv_width) = (n_head * head_dim, n_kv_head * head_dim);
    let (row, head) = (E::row_len(n_kv_head, head_dim), head_dim + E::TAIL);
    let (q, k, v) = (Shared::new(q), Shared::new(k), Shared::new(v));
    pool.for_ranges(split.positions.len(), forward_tokens(split.positions.len()), |tokens| {
        for token in tokens {
            let from = &qkv[token * split.row()..][..split.row()];
            let slot = split.slots[token] as usize;
            // SAFETY: tokens are disjoint, and so are their slots.
            let (q, k, v) = unsafe {
                (q.slice_mut(token * q_width, q_width), k.slice_mut(slot * row, row), v.slice_mut(slot * row, row))
            };
            let (from_q, rest) = from.split_at(q_width);
            let (from_k, from_v) = rest.split_at(kv_width);
            let angles = split.angles(token);
            let q_norm = split.norm.map(|(eps, w, _)| (eps, w));
            let k_norm = split.norm.map(|(eps, _, w)| (eps, w));
            pool.isa().run(Heads { head_dim, from: from_q, norm: q_norm, angles, to: q });
            pool.isa().run(Heads { head_dim, from: from_k, norm: k_norm, angles, to: k });
            for (from, to) in from_v.chunks_exact(head_dim).zip(v.chunks_exact_mut(head)) {
                E::hold(pool.isa(), from, to);
            }
        }
    });
}

struct HeadBackward<'a, S> {
    /// Read with a norm only; then the gradient.
    from: &'a mut [S],
    d_to: &'a [S],
    norm: Option<(f32, &'a [f32], &'a mut [f32])>,
    angles: (&'a [f32], &'a [f32]),
}

impl<S: Storage> Kernel for HeadBackward<'_, S> {
    type Output = ();
    #[inline(always)]
    fn run<M: Math>(self) {
        // Usual heads stay in registers.
        match self.from.len() {
            64 => self.run_within::<M, 64>(64),
            128 => self.run_within::<M, 128>(128),
            n => self.run_within::<M, MAX_HEAD_DIM>(n),
        }
    }
}

impl<S: Storage> HeadBackward<'_, S> {
    /// Of a head of `n` elements, `N` at most. With iterators: where elements are counted, each bound is checked and nothing is
    /// done in lanes.
    #[inline(always)]
    fn run_within<M: Math, const N: usize>(self, n: usize) {
        let (cos, sin) = (&self.angles.0[..n / 2], &self.angles.1[..n / 2]);
        let from = &mut self.from[..n];
        let mut g = [0.0f32; N];
        let g = &mut g[..n];
        let (first, second) = g.split_at_mut(n / 2);
        let (d_first, d_second) = self.d_to[..n].split_at(n / 2);
        let d_to = d_first.iter().zip(d_second);
        for ((g, (a, b)), (cos, sin)) in first.iter_mut().zip(second).zip(d_to).zip(cos.iter().zip(sin)) {
            // The transpose of a rotation is the rotation back.
            let (a, b) = (a.load(), b.load());
            *g.0 = M::mul_add(a, *cos, b * sin);
            *g.1 = M::mul_add(b, *cos, -(a * sin));
        }
        let Some((eps, weight, d_weight)) = self.norm else {
            for (d, g) in from.iter_mut().zip(g) {
                *d = S::store(*g);
            }
            return;
        };
        let mut x = [0.0f32; N];
        let x = &mut x[..n];
        for (x, from) in x.iter_mut().zip(&*from) {
            *x = from.load();
        }
        let scale = inverse_scale::<M, f32>(x, eps);
        for ((g, x), (w, d_w)) in g.iter_mut().zip(&mut *x).zip(weight[..n].iter().zip(&mut d_weight[..n])) {
            *x *= scale;
            *d_w = M::mul_add(*g, *x, *d_w);
            *g *= w;
        }
        let mean = math::dot::<M, _, _>(g, x) / n as f32;
        for (d, (g, x)) in from.iter_mut().zip(g.iter().zip(x)) {
            *d = S::store(scale * (g - *x * mean));
        }
    }
}

/// Gradients flowing into the split.
pub(super) struct Incoming<'a, S> {
    pub(super) q: &'a [S],
    pub(super) k: &'a [S],
    pub(super) v: &'a [S],
}

/// `qkv` becomes its gradient; adds the norm weights' gradients through `partial`, `[jobs][2][head_dim]` of scratch.
pub(super) fn backward<S: Storage>(
    pool: &Pool,
    split: Split<'_>,
    qkv: &mut [S],
    incoming: &Incoming<'_, S>,
    d_norm: Option<(&mut [f32], &mut [f32])>,
    partial: &mut [f32],
) {
    let AttentionShape { n_head, n_kv_head, head_dim } = split.shape;
    let (q_width, kv_width) = (n_head * head_dim, n_kv_head * head_dim);
    let tokens = split.positions.len();
    let jobs = tokens.div_ceil(TOKENS);
    let partial = &mut partial[..jobs * 2 * head_dim];
    partial.fill(0.0);
    let (qkv, shared) = (Shared::new(qkv), Shared::new(partial));
    pool.for_ranges(tokens, TOKENS, |range| {
        // SAFETY: one job, one part.
        let sums = unsafe { shared.slice_mut(range.start / TOKENS * 2 * head_dim, 2 * head_dim) };
        let (q_sum, k_sum) = sums.split_at_mut(head_dim);
        for token in range {
            let slot = split.slots[token] as usize;
            // SAFETY: tokens are disjoint.
            let row = unsafe { qkv.slice_mut(token * split.row(), split.row()) };
            let angles = split.angles(token);
            let (q, rest) = row.split_at_mut(q_width);
            let (k, v) = rest.split_at_mut(kv_width);
            let d_to = incoming.q[token * q_width..][..q_width].chunks_exact(head_dim);
            for (from, d_to) in q.chunks_exact_mut(head_dim).zip(d_to) {
                let norm = split.norm.map(|(eps, w, _)| (eps, w, &mut *q_sum));
                pool.isa().run(HeadBackward { from, d_to, norm, angles });
            }
            let d_to = incoming.k[slot * kv_width..][..kv_width].chunks_exact(head_dim);
            for (from, d_to) in k.chunks_exact_mut(head_dim).zip(d_to) {
                let norm = split.norm.map(|(eps, _, w)| (eps, w, &mut *k_sum));
                pool.isa().run(HeadBackward { from, d_to, norm, angles });
            }
            v.copy_from_slice(&incoming.v[slot * kv_width..][..kv_width]);
        }
    });
    if let Some((d_q, d_k)) = d_norm {
        for sums in partial.chunks_exact(2 * head_dim) {
            for (d, s) in d_q.iter_mut().zip(&sums[..head_dim]) {
                *d += s;
            }
            for (d, s) in d_k.iter_mut().zip(&sums[head_dim..]) {
                *d += s;
            }
        }
    }
}
