//! The one thread pool, and the views that parallel sections write through.
//!
//! Work is cut into jobs by shape, never by thread count, and each job owns its outputs: results are identical
//! whatever the pool's size.

use std::marker::PhantomData;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::isa::Isa;
use crate::error::ComputeError;

/// A fixed set of threads and the instruction set that they run.
pub(crate) struct Pool {
    /// None where whoever calls works alone.
    threads: Option<rayon::ThreadPool>,
    isa: Isa,
    /// Held while a worker runs what belongs together.
    together: Mutex<()>,
}

impl Pool {
    pub(crate) fn new(threads: usize, isa: Isa) -> Result<Self, ComputeError> {
        const LIMIT: usize = 1024;
        if !(1..=LIMIT).contains(&threads) {
            return Err(ComputeError::Threads { threads, limit: LIMIT });
        }
        let threads = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("compute-{i}"))
            .build()
            .map_err(|e| ComputeError::ThreadPool(e.to_string()))?;
        Ok(Pool { threads: Some(threads), isa, together: Mutex::new(()) })
    }

    /// Of the calling thread alone, for a job that is many sections: each of several such jobs is worked through by one thread,
    /// which waits for nobody.
    pub(crate) fn alone(&self) -> Pool {
        Pool { threads: None, isa: self.isa, together: Mutex::new(()) }
    }

    pub(crate) fn threads(&self) -> usize {
        self.threads.as_ref().map_or(1, rayon::ThreadPool::current_num_threads)
    }

    pub(crate) fn isa(&self) -> Isa {
        self.isa
    }

    /// Runs sections that follow each other closely, on a worker: begun elsewhere, each wakes a worker to begin and the caller to go
    /// on, which is an eighth of a decoded token. One caller at a time: a worker that waits for the end of a section might else
    /// take up another caller's in the middle of it.
    pub(crate) fn together<R: Send>(&self, sections: impl FnOnce() -> R + Send) -> R {
        match &self.threads {
            Some(threads) if self.threads() > 1 && threads.current_thread_index().is_none() => {
                let _alone = self.together.lock().unwrap_or_else(PoisonError::into_inner);
                threads.install(sections)
            }
            _ => sections(),
        }
    }

    /// Runs `job(0..jobs)`, each exactly once, in any order.
    pub(crate) fn for_each(&self, jobs: usize, job: impl Fn(usize) + Sync) {
        self.run(jobs, &job);
    }

    /// [`Pool::for_each`] behind a pointer: what rayon makes of a job is compiled once, not once for each of a hundred.
    fn run(&self, jobs: usize, job: &(dyn Fn(usize) + Sync)) {
        match &self.threads {
            Some(threads) if jobs > 1 && self.threads() > 1 => {
                threads.install(|| (0..jobs).into_par_iter().with_max_len(1).for_each(job));
            }
            _ => (0..jobs).for_each(job),
        }
    }

    /// Runs `job(range)` over `0..n` cut into pieces of `piece`.
    pub(crate) fn for_ranges(&self, n: usize, piece: usize, job: impl Fn(std::ops::Range<usize>) + Sync + Send) {
        let piece = piece.max(1);
        self.for_each(n.div_ceil(piece), |i| job(i * piece..((i + 1) * piece).min(n)));
    }

    /// Runs `job` once on each thread of the pool and once on the calling thread.
    pub(crate) fn on_every_thread(&self, job: impl Fn() + Sync + Send) {
        job();
        if let Some(threads) = &self.threads {
            threads.broadcast(|_| job());
        }
    }

    /// The index of the calling worker, for per-thread scratch.
    pub(crate) fn worker(&self) -> usize {
        self.threads.as_ref().and_then(rayon::ThreadPool::current_thread_index).unwrap_or(0)
    }
}

/// A mutable slice that jobs write disjoint parts of.
pub(crate) struct Shared<'a, T> {
    ptr: *mut T,
    len: usize,
    life: PhantomData<&'a mut [T]>,
}

impl<T> Clone for Shared<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Shared<'_, T> {}

// SAFETY: the only access is `slice_mut`, whose caller promises disjointness.
unsafe impl<T: Send> Send for Shared<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Shared { ptr: slice.as_mut_ptr(), len: slice.len(), life: PhantomData }
    }

    /// The address of a part of the slice.
    #[inline(always)]
    pub(crate) fn at(&self, start: usize, len: usize) -> *mut T {
        assert!(start <= self.len && len <= self.len - start, "a job wrote outside its buffer");
        self.ptr.wrapping_add(start)
    }

    /// A part of the slice.
    ///
    /// # Safety
    /// No two live parts overlap.
    #[allow(clippy::mut_from_ref)] // That is its purpose; see the promise above.
    #[inline(always)]
    pub(crate) unsafe fn slice_mut(&self, start: usize, len: usize) -> &'a mut [T] {
        // SAFETY: in bounds by the assertion of `at`; disjoint by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.at(start, len), len) }
    }
}
