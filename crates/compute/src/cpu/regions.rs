//! Blocks in huge pages. With pages of 4 KiB a pass over the weights takes a walk through the page table for every 4 KiB, and
//! prefetchers stop where a page ends: decoding was 10 to 18 % slower.
//!
//! The kernel backs whole huge pages only, and most matrices are no multiple of one, so that blocks lie one behind another in
//! regions of address space. What is touched takes memory, whatever is reserved; what a dropped block held is given back at
//! once, and a region with its last block.

use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

/// Blocks of this size and more; what is smaller comes from the allocator.
pub(super) const SMALLEST: usize = 256 << 10;
/// A huge page.
const HUGE: usize = 2 << 20;
/// A region.
const REGION: usize = 64 << 20;
/// What has a mapping of its own instead of a place in a region: only its end is left to small pages, and weights do not lie
/// between what their loading takes and drops again, which would break up their pages.
const LARGE: usize = 4 << 20;

/// Mapped memory, which begins at a huge page.
struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: an address, and the right to unmap it once.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Anonymous memory, zeroed by the kernel when it is touched.
    fn new(bytes: usize) -> Option<Self> {
        let bytes = bytes.checked_next_multiple_of(page())?;
        let reserved = bytes.checked_add(HUGE)?;
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping, of which only what lies before and behind `bytes` is given back; advice on it cannot hurt.
        unsafe {
            let mapped = libc::mmap(std::ptr::null_mut(), reserved, access, kind, -1, 0);
            if mapped == libc::MAP_FAILED {
                return None;
            }
            let before = mapped.align_offset(HUGE);
            let start = mapped.byte_add(before);
            if before > 0 {
                libc::munmap(mapped, before);
            }
            if before < HUGE {
                libc::munmap(start.byte_add(bytes), HUGE - before);
            }
            libc::madvise(start, bytes, libc::MADV_HUGEPAGE);
            Some(Mapping { start: NonNull::new(start.cast())?, bytes })
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped in `new`; whoever owned a part of it is gone.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

/// Keeps a block's pages until it is dropped.
pub(super) struct Pages {
    start: NonNull<u8>,
    bytes: usize,
    /// Unmapped with its last block.
    _mapping: Arc<Mapping>,
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: whole pages of this block alone, to which nothing refers any more; the mapping is still there.
        unsafe { libc::madvise(self.start.as_ptr().cast(), self.bytes, libc::MADV_DONTNEED) };
    }
}

/// The region that has room.
struct Open {
    region: Arc<Mapping>,
    taken: usize,
}

static OPEN: Mutex<Option<Open>> = Mutex::new(None);

/// A block of zeros, which begins at a page.
pub(super) fn allocate(bytes: usize) -> Option<(NonNull<u8>, Pages)> {
    let bytes = bytes.checked_next_multiple_of(page())?;
    let place = |mapping: Arc<Mapping>, at: usize| {
        // SAFETY: inside the mapping.
        let start = unsafe { mapping.start.byte_add(at) };
        (start, Pages { start, bytes, _mapping: mapping })
    };
    if bytes >= LARGE {
        return Some(place(Arc::new(Mapping::new(bytes)?), 0));
    }
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    if open.as_ref().is_none_or(|open| REGION - open.taken < bytes) {
        match Mapping::new(REGION) {
            Some(region) => *open = Some(Open { region: Arc::new(region), taken: 0 }),
            // So much address space is refused where it is limited.
            None => return Some(place(Arc::new(Mapping::new(bytes)?), 0)),
        }
    }
    let open = open.as_mut()?;
    let at = open.taken;
    open.taken += bytes;
    Some(place(open.region.clone(), at))
}

fn page() -> usize {
    // SAFETY: a question without side effects.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as usize }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The block's memory.
    fn bytes(block: &mut (NonNull<u8>, Pages)) -> &mut [u8] {
        // SAFETY: the block is alive and lent exclusively.
        unsafe { std::slice::from_raw_parts_mut(block.0.as_ptr(), block.1.bytes) }
    }

    #[test]
    fn blocks_are_zeros_apart_from_each_other_and_given_back() {
        let sizes = [SMALLEST, SMALLEST + 64, 3 * HUGE + 64, LARGE, LARGE + 64];
        let mut blocks: Vec<_> = sizes.iter().map(|&size| allocate(size).unwrap()).collect();
        for (i, block) in blocks.iter_mut().enumerate() {
            assert!(bytes(block).len() >= sizes[i] && block.0.as_ptr().align_offset(page()) == 0);
            assert!(bytes(block).iter().all(|x| *x == 0), "block {i} is not zero");
            bytes(block).fill(i as u8 + 1);
        }
        blocks.remove(1);
        for _ in 0..2 {
            // More than a region, so that one is closed while blocks of it are alive.
            let mut more: Vec<_> = (0..2 * REGION / LARGE + 1).map(|_| allocate(LARGE / 2).unwrap()).collect();
            for block in &mut more {
                assert!(bytes(block)[..page()].iter().all(|x| *x == 0));
                bytes(block)[..page()].fill(99);
            }
        }
        for (block, i) in blocks.iter_mut().zip([0, 2, 3, 4]) {
            assert!(bytes(block).iter().all(|x| *x == i as u8 + 1), "block {i} was written by another");
        }
    }

    #[test]
    fn more_than_there_is_is_refused() {
        assert!(allocate(usize::MAX / 2).is_none());
        assert!(allocate(usize::MAX - 100).is_none());
    }
}
