//! Small results on their way to the host: a copy into pinned memory of its own and an event behind it, so that whoever
//! asks waits for that copy alone and not for the work that has been queued since.

use std::ffi::c_void;
use std::sync::{Mutex, PoisonError};

use super::error::CudaError;
use super::session::{Event, Session};
use crate::cuda::driver::{Address, MOST_POSTED, Post};

/// Pinned memory for one post.
struct Slot {
    memory: *mut u8,
    /// Recorded behind the copy.
    event: Event,
    /// Bytes under way, or arrived and not collected.
    taken: Option<usize>,
}

// SAFETY: the memory is the slot's own; the event may be used from any thread.
unsafe impl Send for Slot {}

/// Every slot; there are as many as there have been posts at one time.
#[derive(Default)]
pub(super) struct Posts {
    slots: Mutex<Vec<Slot>>,
}

/// What stands for a post that an error has prevented.
pub(super) const FAILED: Post = Post(u64::MAX);

impl Posts {
    /// Starts a copy behind everything that is on the stream.
    ///
    /// # Errors
    /// The driver refuses.
    pub(super) fn post(&self, session: &Session, from: Address, bytes: usize) -> Result<Post, CudaError> {
        assert!(bytes <= MOST_POSTED, "a post of {bytes} bytes");
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let free = match slots.iter().position(|slot| slot.taken.is_none()) {
            Some(free) => free,
            None => {
                slots.push(Slot::new(session)?);
                slots.len() - 1
            }
        };
        let slot = &mut slots[free];
        // SAFETY: nobody uses the slot; the range on the device is the caller's.
        let status =
            unsafe { (session.library.cuda.cuMemcpyDtoHAsync_v2)(slot.memory.cast(), from.0, bytes, session.stream) };
        session.result("cuMemcpyDtoHAsync", status)?;
        slot.event.record(session)?;
        slot.taken = Some(bytes);
        Ok(Post(free as u64))
    }

    /// Waits for a post and empties its slot.
    ///
    /// # Errors
    /// The copy, or something before it, failed.
    ///
    /// # Panics
    /// There is no such post, or it had another length.
    pub(super) fn collect(&self, session: &Session, post: &Post, bytes: &mut [u8]) -> Result<(), CudaError> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = &mut slots[post.0 as usize];
        assert_eq!(slot.taken.take(), Some(bytes.len()), "bytes of a post");
        slot.event.wait(session)?;
        // SAFETY: the copy is over and wrote this many bytes.
        bytes.copy_from_slice(unsafe { std::slice::from_raw_parts(slot.memory, bytes.len()) });
        Ok(())
    }

    /// Gives the pinned memory back; the stream is idle.
    pub(super) fn destroy(&self, session: &Session) {
        for slot in self.slots.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            slot.event.destroy(session);
            // SAFETY: allocated in `new`; no copy writes it any more.
            unsafe { (session.library.cuda.cuMemFreeHost)(slot.memory.cast()) };
        }
    }
}

impl Slot {
    fn new(session: &Session) -> Result<Self, CudaError> {
        let event = Event::new(session, false)?;
        let mut memory: *mut c_void = std::ptr::null_mut();
        // SAFETY: writes the address; given back in `destroy`.
        let status = unsafe { (session.library.cuda.cuMemAllocHost_v2)(&raw mut memory, MOST_POSTED) };
        match session.result("cuMemAllocHost", status) {
            Ok(()) => Ok(Slot { memory: memory.cast(), event, taken: None }),
            Err(error) => {
                event.destroy(session);
                Err(error)
            }
        }
    }
}
