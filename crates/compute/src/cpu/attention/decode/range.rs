//! Attention of a few queries over one range of keys, written once for every instruction set.

#[cfg(target_arch = "x86_64")]
use super::avx512bf16;
use super::{AHEAD, Cached, KEYS};
use crate::cpu::isa::{Kernel, Math, prefetch};
use crate::cpu::math::{self, LANES};
use crate::cpu::row_sums::Rows;
use crate::dtype::Bf16;

/// Values that are added to a sum while it is in registers.
const BLOCK: usize = 4;

/// A query's place in a range.
#[derive(Clone, Copy)]
pub(super) struct State {
    /// Keys that it sees.
    pub(super) visible: usize,
    pub(super) max: f32,
    pub(super) total: f32,
}

/// One range of keys.
pub(super) struct Attend<'a, E> {
    pub(super) heads: usize,
    /// Queries of each key head.
    pub(super) queries: usize,
    pub(super) head_dim: usize,
    /// Keys of the range.
    pub(super) keys: usize,
    /// Keys of the range behind it.
    pub(super) more: usize,
    /// From the range's first key and the job's first head on.
    pub(super) k: &'a [E],
    pub(super) v: &'a [E],
    pub(super) stride: usize,
    /// `[heads, queries, head_dim]`, as operands of [`avx512bf16`] where that takes them and as f32 otherwise; the other is empty.
    pub(super) q: &'a [f32],
    pub(super) q_pairs: &'a [Bf16],
    /// `[heads, queries]`: of a block of keys.
    pub(super) lanes: &'a mut [Rows],
    /// `[heads, queries, KEYS]`.
    pub(super) scores: &'a mut [f32],
    /// `[heads, queries, head_dim]`.
    pub(super) sums: &'a mut [f32],
    /// `[heads, queries]`.
    pub(super) states: &'a mut [State],
    /// Rows that memory has been asked for, or need not be.
    pub(super) asked: usize,
}

impl<E: Cached> Attend<'_, E> {
    /// Elements of a row of keys or of values.
    #[inline(always)]
    fn width(&self) -> usize {
        self.heads * (self.head_dim + E::TAIL)
    }

    /// Asks for the next rows: of the keys, then of the values, then of the keys of the range behind. Called all the time, and
    /// not only where rows are read: memory that is not asked gives nothing, and makes up for it never.
    #[inline(always)]
    pub(super) fn ask(&mut self, rows: usize) {
        let first = self.asked;
        self.asked = (first + rows).min(2 * self.keys + AHEAD.min(self.more)).max(first);
        for row in first..self.asked {
            let (from, row) = match row.checked_sub(self.keys) {
                Some(row) if row < self.keys => (self.v, row),
                Some(row) => (self.k, row),
                None => (self.k, row),
            };
            prefetch(&from[row * self.stride..][..self.width()]);
        }
    }

    /// `scores = q k / sqrt(head_dim)`.
    #[inline(always)]
    fn score<M: Math>(&mut self) {
        let n = self.head_dim;
        let scale = 1.0 / (n as f32).sqrt();
        let (k, stride, width) = (self.k, self.stride, self.width());
        for first in (0..self.keys).step_by(LANES) {
            let block = LANES.min(self.keys - first);
            let rows = |key: usize| &k[(first + key) * stride..][..width];
            // In the order of memory; what is multiplied waits for its block to be added up.
            for key in 0..block {
                let row = rows(key);
                // A fifth of them while the products are added up.
                self.ask(usize::from(key % 5 < 4));
                #[cfg(target_arch = "x86_64")]
                if !self.q_pairs.is_empty() {
                    let lanes = &mut self.lanes[..self.heads * self.queries];
                    // SAFETY: whoever filled `q_pairs` has asked `takes`; the row has a head's elements for each head.
                    unsafe { avx512bf16::dots(row.as_ptr().cast(), n, self.q_pairs, self.queries, key, lanes) };
                    continue;
                }
                for (head, k) in row.chunks_exact(n + E::TAIL).enumerate() {
                    for j in head * self.queries..(head + 1) * self.queries {
                        self.lanes[j][key] = math::dot_lanes::<M, _, _>(&self.q[j * n..][..n], &k[..n]);
                    }
                }
            }
            for j in 0..self.heads * self.queries {
                self.ask(usize::from(j % 5 == 4));
                // Of keys that are not there, whatever was in the lanes before: nobody sees them.
                let sums = M::row_sums(&self.lanes[j]);
                let scores = &mut self.scores[j * KEYS + first..][..block];
                let tail = if E::TAIL > 0 { j / self.queries * (n + E::TAIL) + n } else { 0 };
                for (key, score) in scores.iter_mut().enumerate() {
                    *score = sums[key] * (scale * E::scale(&rows(key)[tail..][..E::TAIL]));
                }
            }
            self.ask((first + block + AHEAD).saturating_sub(self.asked));
        }
    }

    /// Scores become exponentials.
    #[inline(always)]
    fn soften<M: Math>(&mut self) {
        for j in 0..self.states.len() {
            self.ask(usize::from(j % 4 == 3));
            let (scores, state) = (&mut self.scores[j * KEYS..][..KEYS], &mut self.states[j]);
            let visible = state.visible.min(self.keys);
            if visible == 0 {
                continue;
            }
            let max = math::max(&scores[..visible]);
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
            state.total = math::sum_lanes(lanes);
        }
    }

    /// `sums = scores v`.
    #[inline(always)]
    fn add<M: Math>(&mut self) {
        let n = self.head_dim;
        self.sums.fill(0.0);
        #[cfg(target_arch = "x86_64")]
        if !self.q_pairs.is_empty() {
            // SAFETY: whoever filled `q_pairs` has asked `takes`; there are `keys` rows of values.
            unsafe { avx512bf16::add(self) };
            return;
        }
        for first in (0..self.keys).step_by(BLOCK) {
            let block = BLOCK.min(self.keys - first);
            // Loops: the closures of `array::from_fn` and `array::map` are not inlined everywhere.
            let mut rows = [self.v; BLOCK];
            self.ask(block);
            for (key, row) in rows.iter_mut().enumerate() {
                *row = &self.v[(first + key.min(block - 1)) * self.stride..][..self.heads * (n + E::TAIL)];
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
                    let add = |i: usize, x: f32| {
                        let mut y = M::mul_add(a, va[i].widen(), x);
                        y = M::mul_add(b, vb[i].widen(), y);
                        y = M::mul_add(c, vc[i].widen(), y);
                        M::mul_add(d, vd[i].widen(), y)
                    };
                    // Lanes in a register: the compiler would else ask each time whether sums and values overlap.
                    let (chunks, rest) = sum.as_chunks_mut::<LANES>();
                    let whole = chunks.len() * LANES;
                    for (c, chunk) in chunks.iter_mut().enumerate() {
                        let mut lanes = *chunk;
                        for (i, x) in lanes.iter_mut().enumerate() {
                            *x = add(c * LANES + i, *x);
                        }
                        *chunk = lanes;
                    }
                    for (i, x) in rest.iter_mut().enumerate() {
                        *x = add(whole + i, *x);
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

impl<E: Cached> Kernel for Attend<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<M: Math>(mut self) {
        self.score::<M>();
        self.soften::<M>();
        self.add::<M>();
    }
}
