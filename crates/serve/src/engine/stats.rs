//! Counters of the engine, for people and for Prometheus.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// Where the engine counts.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// Requests that wait or run.
    pub(super) present: AtomicUsize,
    pub(super) running: AtomicUsize,
    pub(super) prompt_tokens: AtomicU64,
    pub(super) cached_tokens: AtomicU64,
    pub(super) completion_tokens: AtomicU64,
    pub(super) finished: AtomicU64,
    pub(super) cancelled: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) stored_sequences: AtomicUsize,
    pub(super) stored_bytes: AtomicUsize,
    /// The thread has panicked.
    pub(super) broken: AtomicBool,
}

/// What the engine has done so far, and what it is at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Sequences of the model.
    pub slots: usize,
    /// Requests in the queue.
    pub waiting: usize,
    /// Requests being answered.
    pub running: usize,
    /// Tokens of prompts, of requests that have left the queue.
    pub prompt_tokens: u64,
    /// Of these, how many did not have to be read.
    pub cached_tokens: u64,
    /// Tokens given.
    pub completion_tokens: u64,
    /// Requests that came to their end.
    pub finished: u64,
    /// Requests whose asker went away.
    pub cancelled: u64,
    /// Requests at which the model failed.
    pub failed: u64,
    /// Sequences kept beside the model's own, in memory or on disk.
    pub stored_sequences: usize,
    /// Bytes of those in memory.
    pub stored_bytes: usize,
}

impl Counters {
    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    pub(super) fn read(&self, slots: usize) -> Stats {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let size = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
        let running = size(&self.running);
        Stats {
            slots,
            // Who comes in the moment in which the model breaks is counted and refused.
            waiting: if self.is_broken() { 0 } else { size(&self.present).saturating_sub(running) },
            running,
            prompt_tokens: of(&self.prompt_tokens),
            cached_tokens: of(&self.cached_tokens),
            completion_tokens: of(&self.completion_tokens),
            finished: of(&self.finished),
            cancelled: of(&self.cancelled),
            failed: of(&self.failed),
            stored_sequences: size(&self.stored_sequences),
            stored_bytes: size(&self.stored_bytes),
        }
    }
}

/// Adds to a counter.
pub(super) fn add(counter: &AtomicU64, n: usize) {
    counter.fetch_add(n as u64, Ordering::Relaxed);
}
