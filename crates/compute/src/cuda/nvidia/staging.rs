//! Copies between host and device through pinned memory.
//!
//! The driver copies ordinary memory by way of pinned memory of its own, and waits. Ours is a ring: an upload is copied
//! into the ring and returns while the GPU is still busy with what came before; the ring waits only where it would
//! overwrite what has not been read yet. Downloads take two buffers in turn, so that one is filled while the other is
//! emptied.

use std::ffi::c_void;
use std::sync::{Mutex, PoisonError};

use super::error::CudaError;
use super::session::{Event, Session};
use crate::cuda::driver::Address;

/// Bytes of a slot: large enough for the bus' full speed, and hundreds of the small uploads that a step makes.
const SLOT: usize = 4 << 20;
/// Slots for uploads.
const UPLOAD_SLOTS: usize = 4;
/// Slots for downloads.
const DOWNLOAD_SLOTS: usize = 2;
/// Small uploads start at multiples of this: a cache line.
const LINE: usize = 64;

/// A piece of pinned memory.
struct Slot {
    memory: *mut u8,
    /// Recorded behind the last copy that reads or writes it.
    event: Event,
    /// Whether the event has been recorded and not waited for.
    busy: bool,
    /// Bytes in use.
    used: usize,
}

// SAFETY: the memory is the slot's own; the event may be used from any thread.
unsafe impl Send for Slot {}

impl Slot {
    fn new(session: &Session) -> Result<Self, CudaError> {
        let event = Event::new(session, false)?;
        let mut memory: *mut c_void = std::ptr::null_mut();
        // SAFETY: writes the address; given back in `destroy`.
        let status = unsafe { (session.library.cuda.cuMemAllocHost_v2)(&raw mut memory, SLOT) };
        match session.result("cuMemAllocHost", status) {
            Ok(()) => Ok(Slot { memory: memory.cast(), event, busy: false, used: 0 }),
            Err(error) => {
                event.destroy(session);
                Err(error)
            }
        }
    }

    /// Waits for the copies that use the slot, and empties it.
    fn reuse(&mut self, session: &Session) -> Result<(), CudaError> {
        if self.busy {
            self.event.wait(session)?;
        }
        (self.busy, self.used) = (false, 0);
        Ok(())
    }

    /// Marks the copies that use the slot.
    fn mark(&mut self, session: &Session) -> Result<(), CudaError> {
        self.event.record(session)?;
        self.busy = true;
        Ok(())
    }

    fn destroy(self, session: &Session) {
        self.event.destroy(session);
        // SAFETY: allocated in `new`; the session's stream is idle, or in an error that ended its work.
        unsafe { (session.library.cuda.cuMemFreeHost)(self.memory.cast()) };
    }
}

/// The slots of one direction and the one in use.
struct Ring {
    slots: Vec<Slot>,
    current: usize,
}

impl Ring {
    fn new(session: &Session, count: usize) -> Result<Self, CudaError> {
        let mut ring = Ring { slots: Vec::new(), current: 0 };
        for _ in 0..count {
            match Slot::new(session) {
                Ok(slot) => ring.slots.push(slot),
                Err(error) => {
                    ring.destroy(session);
                    return Err(error);
                }
            }
        }
        Ok(ring)
    }

    fn destroy(&mut self, session: &Session) {
        for slot in self.slots.drain(..) {
            slot.destroy(session);
        }
    }
}

/// Both directions.
pub(super) struct Staging {
    up: Mutex<Ring>,
    down: Mutex<Ring>,
}

impl Staging {
    /// Pinned memory of the session.
    ///
    /// # Errors
    /// The driver refuses.
    pub(super) fn new(session: &Session) -> Result<Self, CudaError> {
        let mut up = Ring::new(session, UPLOAD_SLOTS)?;
        match Ring::new(session, DOWNLOAD_SLOTS) {
            Ok(down) => Ok(Staging { up: Mutex::new(up), down: Mutex::new(down) }),
            Err(error) => {
                up.destroy(session);
                Err(error)
            }
        }
    }

    /// Copies to the device, in the order of the stream.
    ///
    /// # Errors
    /// A copy, or something before it, failed.
    pub(super) fn upload(&self, session: &Session, to: Address, bytes: &[u8]) -> Result<(), CudaError> {
        let mut ring = self.up.lock().unwrap_or_else(PoisonError::into_inner);
        let mut done = 0;
        for piece in bytes.chunks(SLOT) {
            let current = ring.current;
            if ring.slots[current].used + piece.len() > SLOT {
                ring.slots[current].mark(session)?;
                ring.current = (current + 1) % UPLOAD_SLOTS;
                let next = ring.current;
                ring.slots[next].reuse(session)?;
            }
            let current = ring.current;
            let slot = &mut ring.slots[current];
            // SAFETY: `used + piece.len() <= SLOT`; no copy that is under way reads behind `used`.
            let staged = unsafe {
                let staged = slot.memory.add(slot.used);
                std::ptr::copy_nonoverlapping(piece.as_ptr(), staged, piece.len());
                staged
            };
            slot.used = (slot.used + piece.len()).next_multiple_of(LINE);
            // SAFETY: the staged bytes stay as they are until `reuse` has waited for this copy; the range on the device
            // is the caller's.
            let status = unsafe {
                (session.library.cuda.cuMemcpyHtoDAsync_v2)(
                    to.0 + done as u64,
                    staged.cast(),
                    piece.len(),
                    session.stream,
                )
            };
            session.result("cuMemcpyHtoDAsync", status)?;
            done += piece.len();
        }
        Ok(())
    }

    /// Copies to the host and waits.
    ///
    /// # Errors
    /// The copy, or something before it, failed; the bytes are then partly written.
    pub(super) fn download(&self, session: &Session, from: Address, bytes: &mut [u8]) -> Result<(), CudaError> {
        let mut ring = self.down.lock().unwrap_or_else(PoisonError::into_inner);
        let total = bytes.len();
        let pieces = total.div_ceil(SLOT);
        let range = |piece: usize| piece * SLOT..total.min((piece + 1) * SLOT);
        // One piece ahead: while it comes in, the one before is copied out.
        for piece in 0..=pieces {
            if piece < pieces {
                let slot = &mut ring.slots[piece % DOWNLOAD_SLOTS];
                let range = range(piece);
                // SAFETY: the slot has been emptied (below, two pieces ago); the range on the device is the caller's.
                let status = unsafe {
                    (session.library.cuda.cuMemcpyDtoHAsync_v2)(
                        slot.memory.cast(),
                        from.0 + range.start as u64,
                        range.len(),
                        session.stream,
                    )
                };
                session.result("cuMemcpyDtoHAsync", status)?;
                slot.mark(session)?;
            }
            if let Some(arrived) = piece.checked_sub(1) {
                let slot = &mut ring.slots[arrived % DOWNLOAD_SLOTS];
                slot.reuse(session)?;
                let range = range(arrived);
                // SAFETY: the copy into the slot is over, and it wrote this many bytes.
                let staged = unsafe { std::slice::from_raw_parts(slot.memory, range.len()) };
                bytes[range].copy_from_slice(staged);
            }
        }
        Ok(())
    }

    /// Gives the pinned memory back; the stream is idle.
    pub(super) fn destroy(&self, session: &Session) {
        for ring in [&self.up, &self.down] {
            ring.lock().unwrap_or_else(PoisonError::into_inner).destroy(session);
        }
    }
}
