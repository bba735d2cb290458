//! Few queries over many keys: keys and values are read once, in the order in which they lie, for several heads at a
//! time. Bound by memory: `4 kv d` bytes a key head in bf16, `2 kv (d + 2)` in 8 bits, whose codes are widened in registers.
//!
//! Softmax is online over chunks of keys. Chunks are counted from a sequence's first key and a query's sums have one
//! order, so that a query's bits depend neither on how many there are nor on other sequences.

use super::Cached;
use super::forward::Task;
use crate::cpu::buffer::Carver;
use crate::cpu::gemm::MatElement;
use crate::cpu::isa::{Kernel, Math, prefetch};
use crate::cpu::math::{self, LANES};
use crate::cpu::row_sums::Rows;

/// Key heads of a job: neighbours in memory, and few, so that there are jobs for all threads.
pub(super) const HEADS: usize = 4;
/// Keys of a chunk.
const KEYS: usize = 128;
/// Queries of a pass over keys and values, over all of a job's heads.
const ROWS: usize = 16;
/// Values that are added to a sum while it is in registers.
const BLOCK: usize = 4;
/// How many keys ahead memory is asked for.
const AHEAD: usize = 32;

pub(super) fn scratch_bytes(head_dim: usize) -> usize {
    2 * Carver::bytes::<f32>(ROWS * head_dim)
        + Carver::bytes::<f32>(ROWS * KEYS)
        + Carver::bytes::<f32>(ROWS * LANES * LANES)
}

/// A query's place in its online softmax.
#[derive(Clone, Copy)]
struct State {
    /// Keys that it sees, from the chunk's first on.
    visible: usize,
    max: f32,
    total: f32,
}

/// One chunk of keys.
struct Chunk<'a, E> {
    heads: usize,
    /// Queries of each key head.
    queries: usize,
    head_dim: usize,
    /// Keys of the chunk.
    keys: usize,
    /// From the chunk's first key and the job's first head on.
    k: &'a [E],
    v: &'a [E],
    stride: usize,
    /// `[heads, queries, head_dim]`.
    q: &'a [f32],
    /// `[heads, queries]`: of a block of keys.
    lanes: &'a mut [Rows],
    /// `[heads, queries, KEYS]`.
    scores: &'a mut [f32],
    /// `[heads, queries, head_dim]`.
    sums: &'a mut [f32],
    /// `[heads, queries]`.
    states: &'a mut [State],
}

impl<E: Cached> Chunk<'_, E> {
    /// `scores = q k / sqrt(head_dim)`.
    #[inline(always)]
    fn score<M: Math>(&mut self) {
        let n = self.head_dim;
        let scale = 1.0 / (n as f32).sqrt();
        for first in (0..self.keys).step_by(LANES) {
            let block = LANES.min(self.keys - first);
            let rows = |key: usize| &self.k[(first + key) * self.stride..][..self.heads * (n + E::TAIL)];
            // In the order of memory; what is multiplied waits for its block to be added up.
            for key in 0..block {
                let row = rows(key);
                prefetch(row, AHEAD * self.stride);
                for (head, k) in row.chunks_exact(n + E::TAIL).enumerate() {
                    for j in head * self.queries..(head + 1) * self.queries {
                        self.lanes[j][key] = math::dot_lanes::<M, _, _>(&self.q[j * n..][..n], &k[..n]);
                    }
                }
            }
            for (j, lanes) in self.lanes.iter().take(self.heads * self.queries).enumerate() {
                // Of keys that are not there, whatever was in the lanes before: nobody sees them.
                let sums = M::row_sums(lanes);
                let scores = &mut self.scores[j * KEYS + first..][..block];
                let tail = j / self.queries * (n + E::TAIL) + n;
                for (key, score) in scores.iter_mut().enumerate() {
                    *score = sums[key] * (scale * E::scale(&rows(key)[tail..][..E::TAIL]));
                }
            }
        }
    }

    /// Scores become exponentials, and the sums so far are brought to the new maximum.
    #[inline(always)]
    fn soften<M: Math>(&mut self) {
        let rows = self.scores.chunks_exact_mut(KEYS).zip(self.sums.chunks_exact_mut(self.head_dim));
        for ((scores, sum), state) in rows.zip(self.states.iter_mut()) {
            let visible = state.visible.min(self.keys);
            if visible == 0 {
                continue;
            }
            let max = math::max(&scores[..visible]).max(state.max);
            let correction = math::exp::<M>(state.max - max);
            state.max = max;
            let mut lanes = [0.0f32; LANES];
            // What fills the last lanes adds `e^-inf`, 0.
            let whole = visible.next_multiple_of(LANES);
            scores[visible..whole].fill(f32::NEG_INFINITY);
            for chunk in scores[..whole].as_chunks_mut::<LANES>().0 {
                for (score, lane) in chunk.iter_mut().zip(&mut lanes) {
                    *score = math::exp::<M>(*score - max);
                    *lane += *score;
                }
            }
            state.total = M::mul_add(state.total, correction, math::sum_lanes(lanes));
            for x in sum {
                *x *= correction;
            }
        }
    }

    /// `sums += scores v`.
    #[inline(always)]
    fn add<M: Math>(&mut self) {
        let n = self.head_dim;
        for first in (0..self.keys).step_by(BLOCK) {
            let block = BLOCK.min(self.keys - first);
            // Loops: the closures of `array::from_fn` and `array::map` are not inlined everywhere.
            let mut rows = [self.v; BLOCK];
            for (key, row) in rows.iter_mut().enumerate() {
                *row = &self.v[(first + key.min(block - 1)) * self.stride..][..self.heads * (n + E::TAIL)];
                prefetch(row, AHEAD * self.stride);
            }
            for (j, (sum, state)) in self.sums.chunks_exact_mut(n).zip(self.states.iter()).enumerate() {
                let scores = &self.scores[j * KEYS + first..][..block];
                let seen = block.min(state.visible.saturating_sub(first));
                let mut values = [rows[0].split_at(0); BLOCK];
                for (values, row) in values.iter_mut().zip(rows) {
                    *values = row[j / self.queries * (n + E::TAIL)..][..n + E::TAIL].split_at(n);
                }
                if let (BLOCK, [a, b, c, d]) = (seen, scores) {
                    let [(va, ta), (vb, tb), (vc, tc), (vd, td)] = values;
                    let (a, b, c, d) = (a * E::scale(ta), b * E::scale(tb), c * E::scale(tc), d * E::scale(td));
                    // One element at a time through a register: nothing between may fail and so have to be seen in memory.
                    let (va, vb, vc, vd) = (&va[..n], &vb[..n], &vc[..n], &vd[..n]);
                    for (i, x) in sum[..n].iter_mut().enumerate() {
                        let mut y = M::mul_add(a, va[i].widen(), *x);
                        y = M::mul_add(b, vb[i].widen(), y);
                        y = M::mul_add(c, vc[i].widen(), y);
                        *x = M::mul_add(d, vd[i].widen(), y);
                    }
                } else {
                    for (score, (values, tail)) in scores[..seen].iter().zip(values) {
                        let score = score * E::scale(tail);
                        for (x, v) in sum.iter_mut().zip(values) {
                            *x = M::mul_add(score, v.widen(), *x);
                        }
                    }
                }
            }
        }
    }
}

impl<E: Cached> Kernel for Chunk<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<M: Math>(mut self) {
        self.score::<M>();
        self.soften::<M>();
        self.add::<M>();
    }
}

/// Attends for every query of the span whose key head is one of up to [`HEADS`], from that of `task` on.
pub(super) fn run<S: MatElement, E: Cached>(task: &Task<'_, S, E>, mut scratch: Carver<'_>) {
    let n = task.shape.head_dim;
    let group = task.shape.n_head / task.shape.n_kv_head;
    let heads = HEADS.min(task.shape.n_kv_head - task.head / group);
    let q = scratch.take::<f32>(ROWS * n);
    let sums = scratch.take::<f32>(ROWS * n);
    let scores = scratch.take::<f32>(ROWS * KEYS);
    let lanes = scratch.take::<f32>(ROWS * LANES * LANES);
    let lanes = lanes.as_chunks_mut().0.as_chunks_mut().0;
    // Query `j` of a key head: of its heads `j % group`, of the span's queries `j / group`.
    let all = group * task.span.q_len;
    for first in (0..all).step_by(ROWS / heads) {
        let queries = (ROWS / heads).min(all - first);
        let rows = heads * queries;
        let place = |row: usize| {
            let j = first + row % queries;
            (task.of_head(task.head + row / queries * group + j % group), j / group)
        };
        let mut states = [State { visible: 0, max: f32::NEG_INFINITY, total: 0.0 }; ROWS];
        for (row, state) in states[..rows].iter_mut().enumerate() {
            let (task, i) = place(row);
            state.visible = task.visible(i);
            for (to, from) in q[row * n..][..n].iter_mut().zip(task.q(i)) {
                *to = from.load();
            }
        }
        sums[..rows * n].fill(0.0);
        for key in (0..task.span.kv_len).step_by(KEYS) {
            let at = key * task.kv_stride();
            task.isa.run(Chunk {
                heads,
                queries,
                head_dim: n,
                keys: KEYS.min(task.span.kv_len - key),
                k: &task.k()[at..],
                v: &task.v()[at..],
                stride: task.kv_stride(),
                q: &q[..rows * n],
                lanes: &mut *lanes,
                scores: &mut scores[..rows * KEYS],
                sums: &mut sums[..rows * n],
                states: &mut states[..rows],
            });
            for state in &mut states[..rows] {
                state.visible = state.visible.saturating_sub(KEYS);
            }
        }
        for (row, state) in states[..rows].iter().enumerate() {
            let (task, i) = place(row);
            task.finish(i, &sums[row * n..][..n], state.max, state.total);
        }
    }
}
