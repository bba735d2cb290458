//! Causal grouped-query attention over spans, tiled with online softmax (Dao 2023): no `T x T` matrix exists.
//!
//! FLOPs a head: forward `2 q kv d` (half of the square is masked), backward `5 q kv d`. A job is one span and head
//! (forward; a range of keys where a span has few queries) or one span and key head (backward), so that every sum has one
//! owner and one order.

#[cfg(target_arch = "x86_64")]
mod avx512bf16;
mod backward;
mod cached;
mod decode;
mod forward;

use super::gemm::MatElement;
use super::isa::Isa;
use super::memory::Carver;
use super::pool::{Pool, Shared};
use crate::device::{AttentionShape, ScratchShape, Span};

pub(super) use backward::{Gradients, Incoming};
pub(super) use cached::{Cached, with_cached};

/// Query rows and key columns of a forward tile.
const TILE_Q: usize = 64;
const TILE_K: usize = 128;
/// Up to this many queries of a span, keys are read where they lie instead of being packed.
const DIRECT: usize = 4;

/// Rows that are asked for before they are read: a head's rows lie far apart, where no prefetcher follows.
const AHEAD: usize = 16;

/// Rows of a tile on the diagonal that are multiplied together: each strip meets the columns that it sees. As low as a
/// micro-kernel's tile lets it pay.
fn strip_rows(isa: Isa) -> usize {
    if isa == Isa::Amx { 32 } else { 16 }
}

/// Queries by token, keys and values by slot.
pub(super) struct Inputs<'a, S, E = S> {
    pub(super) q: &'a [S],
    pub(super) k: &'a [E],
    pub(super) v: &'a [E],
}

impl<S, E> Clone for Inputs<'_, S, E> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<S, E> Copy for Inputs<'_, S, E> {}

/// Bytes of scratch to attend to up to `sequence` keys.
pub(super) fn forward_bytes<S: MatElement, E: Cached>(
    threads: usize,
    sequence: usize,
    n_head: usize,
    head_dim: usize,
) -> usize {
    let each = forward::scratch_bytes::<S, E>(sequence, head_dim).max(decode::scratch_bytes(head_dim));
    decode::parts_bytes(sequence, n_head, head_dim) + threads * each
}

/// The same for the backward pass.
pub(super) fn backward_bytes<S: MatElement>(threads: usize, sequence: usize, head_dim: usize) -> usize {
    threads * backward::scratch_bytes::<S>(sequence, head_dim)
}

/// The same for whatever a model does: it trains, or it infers with a cache of any format.
pub(super) fn scratch_bytes<S: MatElement>(threads: usize, shape: &ScratchShape) -> usize {
    let ScratchShape { sequence, n_head, head_dim, training, .. } = *shape;
    match training {
        true => forward_bytes::<S, S>(threads, sequence, n_head, head_dim)
            .max(backward_bytes::<S>(threads, sequence, head_dim)),
        false => forward_bytes::<S, u8>(threads, sequence, n_head, head_dim),
    }
}

/// Panics where a span has more queries than keys or leaves its buffers.
pub(super) fn check_spans(spans: &[Span], tokens: usize, slots: usize) {
    for span in spans {
        assert!(span.q_len <= span.kv_len, "a span has more queries than keys");
        assert!(
            span.q_start + span.q_len <= tokens && span.kv_start + span.kv_len <= slots,
            "a span leaves its buffers"
        );
    }
}

/// Keys of the longest span.
pub(super) fn longest(spans: &[Span]) -> usize {
    spans.iter().map(|s| s.kv_len).max().unwrap_or(0)
}

/// Attention of every span, with [`forward_bytes`] of the longest.
pub(super) fn forward<S: MatElement, E: Cached>(
    pool: &Pool,
    shape: AttentionShape,
    spans: &[Span],
    inputs: Inputs<'_, S, E>,
    out: &mut [S],
    lse: Option<&mut [f32]>,
    scratch: &mut [u8],
) {
    let out = Shared::new(out);
    let lse = lse.map(Shared::new);
    let (parts, scratch) = scratch.split_at_mut(decode::parts_bytes(longest(spans), shape.n_head, shape.head_dim));
    let share = Carver::share(scratch.len(), pool.threads());
    let scratch = Shared::new(scratch);
    // SAFETY: each worker has its own piece, and runs one job at a time.
    let worker = || Carver::new(unsafe { scratch.slice_mut(pool.worker() * share, share) });
    let Some(&span) = spans.first() else { return };
    let task = forward::Task { isa: pool.isa(), shape, span, head: 0, inputs, out, lse };
    if spans.iter().any(|span| span.q_len > DIRECT) {
        pool.for_each(spans.len() * shape.n_head, |job| {
            let (span, head) = (spans[job / shape.n_head], job % shape.n_head);
            if span.q_len > DIRECT {
                forward::run(&task.of_span(span).of_head(head), worker());
            }
        });
    }
    if spans.iter().any(|span| span.q_len <= DIRECT) {
        decode::run(pool, &task, spans, parts, worker);
    }
}

/// Gradients of every span.
pub(super) fn backward<S: MatElement>(
    pool: &Pool,
    shape: AttentionShape,
    spans: &[Span],
    incoming: Incoming<'_, S>,
    gradients: Gradients<'_, S>,
    scratch: &mut [u8],
) {
    let share = Carver::share(scratch.len(), pool.threads());
    let scratch = Shared::new(scratch);
    pool.for_each(spans.len() * shape.n_kv_head, |job| {
        let (span, kv_head) = (spans[job / shape.n_kv_head], job % shape.n_kv_head);
        // SAFETY: each worker has its own piece, and runs one job at a time.
        let scratch = unsafe { scratch.slice_mut(pool.worker() * share, share) };
        let task = backward::Task { isa: pool.isa(), shape, span, kv_head, incoming, gradients };
        backward::run(&task, Carver::new(scratch));
    });
}
