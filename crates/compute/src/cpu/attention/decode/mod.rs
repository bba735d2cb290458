//! Few queries over many keys. Bound by memory: `4 kv d` bytes a key head in bf16, `2 kv (d + 2)` in 8 bits, whose codes are
//! widened in registers.
//!
//! A job is a range of a sequence's keys, for all heads as long as there are jobs enough: its keys and then its values are read
//! once, in the order in which they lie. It leaves each query's largest score, the total of its exponentials and the sum that
//! they weight; a second section merges these in the order of ranges (flash-decoding; Dao, Haziza, Massa, Sizov 2023).
//!
//! Ranges are counted from a sequence's first key and sums have one order, so that a query's bits depend neither on how many
//! queries there are, nor on other sequences, nor on threads.

#[cfg(target_arch = "x86_64")]
mod avx512bf16;
mod range;

use std::ops::Range;

use super::forward::Task;
use super::{Cached, DIRECT};
use crate::cpu::gemm::{MatElement, convert};
use crate::cpu::isa::{Isa, Kernel, Math};
use crate::cpu::math::{self, LANES};
use crate::cpu::memory::Carver;
use crate::cpu::pool::{Pool, Shared};
use crate::device::Span;
use crate::dtype::Bf16;
use range::{Attend, State};

/// Most key heads of a job: with 64 elements of bf16 each they are 2 KiB of a key's row.
const HEADS: usize = 16;
/// Key heads that a job has at least, where heads are shared out because there are few ranges.
const FEWEST_HEADS: usize = 4;
/// Keys of a range.
const KEYS: usize = 64;
/// Queries of a pass over keys and values, over all of a job's heads.
const ROWS: usize = 16;
/// How many rows ahead memory is asked for.
const AHEAD: usize = 24;
/// Elements that a job merges: a few microseconds.
const MERGED: usize = 32 << 10;

/// Bytes that a worker needs.
pub(super) fn scratch_bytes(head_dim: usize) -> usize {
    2 * Carver::bytes::<f32>(ROWS * head_dim)
        + Carver::bytes::<f32>(ROWS * KEYS)
        + Carver::bytes::<f32>(ROWS * LANES * LANES)
}

/// Whether keys and values are operands of [`avx512bf16`].
fn takes_pairs<E: Cached>(isa: Isa, head_dim: usize) -> bool {
    #[cfg(target_arch = "x86_64")]
    return avx512bf16::takes::<E>(isa, head_dim);
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = (isa, head_dim);
        false
    }
}

/// What ranges leave of a sequence this long with [`DIRECT`] queries: there is room for as much, of one sequence or of several.
fn room(sequence: usize, n_head: usize) -> usize {
    DIRECT * n_head * sequence.div_ceil(KEYS)
}

/// Bytes for that.
pub(super) fn parts_bytes(sequence: usize, n_head: usize, head_dim: usize) -> usize {
    let parts = room(sequence, n_head);
    Carver::bytes::<f32>(parts * head_dim) + Carver::bytes::<f32>(parts * 2)
}

/// What ranges leave: `[ranges, q_len, n_head]` of each sequence, one after another.
#[derive(Clone, Copy)]
struct Parts<'a> {
    head_dim: usize,
    /// Weighted sums of values, `head_dim` of each part.
    sums: Shared<'a, f32>,
    /// Largest scores and totals.
    states: Shared<'a, [f32; 2]>,
}

/// The sequences that have few queries.
struct Group<'a> {
    spans: &'a [Span],
    n_head: usize,
}

impl Group<'_> {
    /// Ranges of a sequence; none of one that has many queries.
    fn ranges(span: &Span) -> usize {
        if span.q_len <= DIRECT { span.kv_len.div_ceil(KEYS) } else { 0 }
    }

    fn parts(&self, span: &Span) -> usize {
        Self::ranges(span) * span.q_len * self.n_head
    }

    /// How many sequences' parts there is room for; one always has room.
    fn fitting(&self, room: usize) -> usize {
        let mut parts = 0;
        let fits = |span: &&Span| {
            parts += self.parts(span);
            parts <= room
        };
        self.spans.iter().take_while(fits).count().max(1)
    }

    /// The first part of a sequence.
    fn first_part(&self, span: usize) -> usize {
        self.spans[..span].iter().map(|span| self.parts(span)).sum()
    }

    /// Sequence and range of a job.
    fn locate(&self, mut job: usize) -> (usize, usize) {
        for (i, span) in self.spans.iter().enumerate() {
            match job.checked_sub(Self::ranges(span)) {
                None => return (i, job),
                Some(left) => job = left,
            }
        }
        unreachable!("a job of no sequence")
    }
}

/// Attends for every query of the spans that have few. Of `task` anything but span and head is used; `parts` holds
/// [`parts_bytes`] of the longest span, `worker` gives each worker its [`scratch_bytes`].
pub(super) fn run<'a, S: MatElement, E: Cached>(
    pool: &Pool,
    task: &Task<'a, S, E>,
    mut spans: &[Span],
    parts: &mut [u8],
    worker: impl Fn() -> Carver<'a> + Sync,
) {
    let shape = task.shape;
    let room = room(spans.iter().map(|span| span.kv_len).max().unwrap_or(0), shape.n_head);
    let mut parts = Carver::new(parts);
    let states = parts.take::<f32>(2 * room).as_chunks_mut().0;
    let parts = Parts {
        head_dim: shape.head_dim,
        sums: Shared::new(parts.take(room * shape.head_dim)),
        states: Shared::new(states),
    };
    while !spans.is_empty() {
        let fitting = Group { spans, n_head: shape.n_head }.fitting(room);
        let group = Group { spans: &spans[..fitting], n_head: shape.n_head };
        spans = &spans[fitting..];
        let ranges: usize = group.spans.iter().map(Group::ranges).sum();
        let longest = group.spans.iter().map(Group::ranges).max().unwrap_or(0);
        // Two jobs a thread, if need be by sharing out the heads.
        let mut heads = HEADS.min(shape.n_kv_head);
        while heads >= 2 * FEWEST_HEADS && ranges * shape.n_kv_head.div_ceil(heads) < 2 * pool.threads() {
            heads /= 2;
        }
        let blocks = shape.n_kv_head.div_ceil(heads);
        pool.for_each(ranges * blocks, |job| {
            let (span, range) = group.locate(job / blocks);
            let first = job % blocks * heads;
            let heads = first..shape.n_kv_head.min(first + heads);
            attend(&task.of_span(group.spans[span]), range, heads, parts, group.first_part(span), worker());
        });
        let heads = (MERGED / (longest * shape.head_dim).max(1)).clamp(1, shape.n_head);
        let blocks = shape.n_head.div_ceil(heads);
        pool.for_each(group.spans.len() * blocks, |job| {
            let (i, first) = (job / blocks, job % blocks * heads);
            if Group::ranges(&group.spans[i]) > 0 {
                let heads = first..shape.n_head.min(first + heads);
                let sum = worker().take(shape.head_dim);
                let (task, first_part) = (task.of_span(group.spans[i]), group.first_part(i));
                pool.isa().run(Merge { task: &task, heads, parts, first_part, sum });
            }
        });
    }
}

/// A range's part of every query of the span whose key head is one of these.
fn attend<S: MatElement, E: Cached>(
    task: &Task<'_, S, E>,
    range: usize,
    heads: Range<usize>,
    parts: Parts<'_>,
    first_part: usize,
    mut scratch: Carver<'_>,
) {
    let n = task.shape.head_dim;
    let n_head = task.shape.n_head;
    let group = n_head / task.shape.n_kv_head;
    // Of one type or of the other.
    let pairs = takes_pairs::<E>(task.isa, n);
    let (q, q_pairs) = if pairs { (0, ROWS * n) } else { (ROWS * n, 0) };
    let (q, q_pairs) = (scratch.take::<f32>(q), scratch.take::<Bf16>(q_pairs));
    let sums = scratch.take::<f32>(ROWS * n);
    let scores = scratch.take::<f32>(ROWS * KEYS);
    let lanes = scratch.take::<f32>(ROWS * LANES * LANES);
    let lanes = lanes.as_chunks_mut().0.as_chunks_mut().0;
    let first_key = range * KEYS;
    let first_head = task.of_head(heads.start * group);
    let keys = KEYS.min(task.span.kv_len - first_key);
    let at = first_key * task.kv_stride();
    // Query `j` of a key head: of its heads `j % group`, of the span's queries `j / group`.
    let all = group * task.span.q_len;
    for first in (0..all).step_by(ROWS / heads.len()) {
        let queries = (ROWS / heads.len()).min(all - first);
        let rows = heads.len() * queries;
        let place = |row: usize| {
            let j = first + row % queries;
            ((heads.start + row / queries) * group + j % group, j / group)
        };
        let mut states = [State { visible: 0, max: f32::NEG_INFINITY, total: 0.0 }; ROWS];
        for (row, state) in states[..rows].iter_mut().enumerate() {
            let (head, i) = place(row);
            state.visible = task.visible(i).saturating_sub(first_key);
            let from = &task.of_head(head).q(i)[..n];
            for (to, from) in q.iter_mut().skip(row * n).zip(from) {
                *to = from.load();
            }
            for (to, from) in q_pairs.iter_mut().skip(row * n).zip(from) {
                *to = convert(*from);
            }
        }
        task.isa.run(Attend {
            heads: heads.len(),
            queries,
            head_dim: n,
            keys,
            more: KEYS.min(task.span.kv_len - first_key - keys),
            k: &first_head.k()[at..],
            v: &first_head.v()[at..],
            stride: task.kv_stride(),
            q: &q[..if pairs { 0 } else { rows * n }],
            q_pairs: &q_pairs[..if pairs { rows * n } else { 0 }],
            lanes: &mut *lanes,
            scores: &mut scores[..rows * KEYS],
            sums: &mut sums[..rows * n],
            states: &mut states[..rows],
            asked: AHEAD,
        });
        for (row, (state, sum)) in states[..rows].iter().zip(sums.chunks_exact(n)).enumerate() {
            let (head, i) = place(row);
            let part = first_part + (range * task.span.q_len + i) * n_head + head;
            // SAFETY: this job alone owns these heads of this range.
            let (sums, states) = unsafe { (parts.sums.slice_mut(part * n, n), parts.states.slice_mut(part, 1)) };
            sums.copy_from_slice(sum);
            states[0] = [state.max, state.total];
        }
    }
}

/// Brings the parts of some heads' queries together.
struct Merge<'t, 'a, S, E> {
    task: &'t Task<'a, S, E>,
    heads: Range<usize>,
    parts: Parts<'t>,
    first_part: usize,
    /// A row.
    sum: &'t mut [f32],
}

impl<S: MatElement, E: Cached> Kernel for Merge<'_, '_, S, E> {
    type Output = ();
    #[inline(always)]
    fn run<M: Math>(self) {
        let Merge { task, heads, parts, first_part, sum } = self;
        let n = parts.head_dim;
        let step = task.span.q_len * task.shape.n_head;
        for i in 0..task.span.q_len {
            // The query sees something of each of these ranges, and all of the first.
            let ranges = task.visible(i).div_ceil(KEYS);
            for head in heads.clone() {
                let first = first_part + i * task.shape.n_head + head;
                // SAFETY: nobody writes parts any more.
                let state = |range: usize| unsafe { parts.states.slice_mut(first + range * step, 1)[0] };
                let mut max = f32::NEG_INFINITY;
                for range in 0..ranges {
                    max = state(range)[0].max(max);
                }
                let mut total = 0.0;
                sum.fill(0.0);
                for range in 0..ranges {
                    let [of_range, total_of_range] = state(range);
                    let weight = math::exp::<M>(of_range - max);
                    total = M::mul_add(total_of_range, weight, total);
                    // SAFETY: as above.
                    let part = unsafe { parts.sums.slice_mut((first + range * step) * n, n) };
                    for (sum, x) in sum.iter_mut().zip(part) {
                        *sum = M::mul_add(*x, weight, *sum);
                    }
                }
                task.of_head(head).finish(i, sum, max, total);
            }
        }
    }
}
