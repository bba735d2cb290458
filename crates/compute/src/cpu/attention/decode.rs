//! Few queries over many keys: reads keys and values once where they lie. Bound by memory: `4 kv d` bytes in bf16.

use super::forward::Task;
use crate::cpu::buffer::Carver;
use crate::cpu::gemm::MatElement;
use crate::cpu::isa::{Kernel, Math};
use crate::cpu::math;
use crate::cpu::qkv::MAX_HEAD_DIM;
use crate::dtype::Storage;

struct Query<'a, S> {
    q: &'a [S],
    k: &'a [S],
    v: &'a [S],
    stride: usize,
    scores: &'a mut [f32],
    sum: &'a mut [f32],
}

impl<S: Storage> Kernel for Query<'_, S> {
    /// The largest score and the sum of exponentials.
    type Output = (f32, f32);
    #[inline(always)]
    fn run<M: Math>(self) -> (f32, f32) {
        let n = self.q.len();
        let scale = 1.0 / (n as f32).sqrt();
        for (key, score) in self.scores.iter_mut().enumerate() {
            *score = math::dot::<M, _, _>(self.q, &self.k[key * self.stride..][..n]) * scale;
        }
        let max = math::max(self.scores);
        let mut total = 0.0;
        self.sum.fill(0.0);
        for (key, score) in self.scores.iter().enumerate() {
            let p = math::exp::<M>(score - max);
            total += p;
            for (sum, v) in self.sum.iter_mut().zip(&self.v[key * self.stride..][..n]) {
                *sum = M::mul_add(p, v.load(), *sum);
            }
        }
        (max, total)
    }
}

/// Attends for every query of the span, one by one.
pub(super) fn run<S: MatElement>(task: &Task<'_, S>, mut scratch: Carver<'_>) {
    let head_dim = task.shape.head_dim;
    let scores = scratch.take::<f32>(task.span.kv_len);
    let mut sum = [0.0f32; MAX_HEAD_DIM];
    for i in 0..task.span.q_len {
        let (max, total) = task.isa.run(Query {
            q: &task.q(i)[..head_dim],
            k: task.k(),
            v: task.v(),
            stride: task.kv_stride(),
            scores: &mut scores[..task.visible(i)],
            sum: &mut sum[..head_dim],
        });
        task.finish(i, &sum[..head_dim], max, total);
    }
}
