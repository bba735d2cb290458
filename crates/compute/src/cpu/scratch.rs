//! Scratch memory: one block for whichever operation runs, as large as the largest needs, and what each thread keeps
//! beside it for its own tiles. Sized from a [`ScratchShape`], so that no operation allocates.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::gemm::{self, MatElement};
use super::memory::{ALIGN, Carver, Memory};
use super::pool::Pool;
use super::{attention, elementwise, head, linear, muon, qkv, quantized};
use crate::device::ScratchShape;
use crate::dtype::{Bf16, DType};
use crate::error::ComputeError;

/// A device's scratch.
#[derive(Default)]
pub(super) struct Scratch {
    memory: Mutex<Option<Memory>>,
    /// Bytes that each thread keeps beside it.
    each_thread: AtomicUsize,
}

/// Bytes that [`Scratch::reserve`] would take.
pub(super) fn bytes(pool: &Pool, shape: &ScratchShape) -> usize {
    shared(pool, shape) + of_threads(pool, each_thread(pool, shape))
}

impl Scratch {
    /// Makes it large enough for every operation of that shape.
    pub(super) fn reserve(&self, pool: &Pool, shape: &ScratchShape, allocated: &AtomicU64) -> Result<(), ComputeError> {
        {
            // Held no longer: a worker that waits for it would keep the threads below from meeting.
            let mut memory = self.memory.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            grow(&mut memory, shared(pool, shape), allocated)?;
        }
        let each = each_thread(pool, shape);
        let more = each.saturating_sub(self.each_thread.fetch_max(each, Ordering::Relaxed));
        if more > 0 {
            pool.on_every_thread(|| gemm::reserve_thread(pool.isa(), each));
            allocated.fetch_add(of_threads(pool, more) as u64, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Runs `body` with the block, grown to `bytes` where nobody has reserved it.
    pub(super) fn with<R>(&self, bytes: usize, allocated: &AtomicU64, body: impl FnOnce(&mut [u8]) -> R) -> R {
        let mut memory = self.memory.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        grow(&mut memory, bytes, allocated).expect("scratch memory");
        body(memory.as_mut().expect("grown above").as_bytes_mut())
    }

    /// Bytes held.
    pub(super) fn held(&self, pool: &Pool) -> usize {
        let memory = self.memory.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        memory.as_ref().map_or(0, Memory::bytes) + of_threads(pool, self.each_thread.load(Ordering::Relaxed))
    }
}

fn grow(memory: &mut Option<Memory>, bytes: usize, allocated: &AtomicU64) -> Result<(), ComputeError> {
    let have = memory.as_ref().map_or(0, Memory::bytes);
    if have < bytes || have == 0 {
        *memory = None;
        let grown = Memory::new("scratch", bytes)?;
        allocated.fetch_add(grown.bytes() as u64, Ordering::Relaxed);
        allocated.fetch_sub(have as u64, Ordering::Relaxed);
        *memory = Some(grown);
    }
    Ok(())
}

/// Bytes of the block.
fn shared(pool: &Pool, shape: &ScratchShape) -> usize {
    match shape.dtype {
        DType::F32 => shared_of::<f32>(pool, shape),
        DType::Bf16 => shared_of::<Bf16>(pool, shape),
        DType::U32 => panic!("indices used as activations"),
    }
}

fn shared_of<S: MatElement>(pool: &Pool, shape: &ScratchShape) -> usize {
    let ScratchShape { tokens, width, vocab_size, n_embd, head_dim, training, .. } = *shape;
    let attention = attention::scratch_bytes::<S>(pool.threads(), shape);
    let head = head::scratch_bytes::<S>(tokens, vocab_size, n_embd, training);
    let padding = Carver::bytes::<S>(tokens * (width.max(n_embd) + 1));
    let norm = tokens.div_ceil(qkv::TOKENS) * 2 * head_dim;
    let squares = 2 * elementwise::square_pieces(width.max(vocab_size) * width.max(n_embd));
    let sums = Carver::bytes::<f32>(norm.max(squares));
    let training = if training {
        linear::backward_weight_scratch::<S>(tokens, width, width).max(muon::scratch_bytes(
            pool.threads(),
            width,
            n_embd,
        ))
    } else {
        // Weights may be quantised.
        quantized::scratch_bytes(tokens, width.max(n_embd))
    };
    [head, padding, sums, training].into_iter().fold(attention, usize::max).next_multiple_of(ALIGN)
}

/// What each thread needs for the longest `k` of any product.
fn each_thread(pool: &Pool, shape: &ScratchShape) -> usize {
    let head = shape.vocab_size.min(linear::LONG_K);
    gemm::thread_bytes(pool.isa(), shape.width.max(shape.n_embd).max(linear::TOKENS).max(head))
}

/// That of all threads: the pool's, and the caller's, which does the small jobs itself.
fn of_threads(pool: &Pool, each: usize) -> usize {
    each * (pool.threads() + 1)
}
