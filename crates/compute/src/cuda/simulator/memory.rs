//! The simulated GPU's memory: host memory in which writing or reading past the end of an allocation shows.
//!
//! An allocation lies at the end of its pages and a page that may not be touched follows; what is left of the last 256
//! bytes, and the bytes before, hold a pattern (NaN to whoever reads it) that must survive.

use std::collections::BTreeMap;

use crate::cuda::driver::Address;

/// Bytes of a page; larger pages of other systems are multiples of what is rounded to here.
pub(super) const PAGE: usize = 1 << 16;
/// What an address is aligned to, as `cudaMalloc` does.
const ALIGN: usize = 256;
/// NaN as f32 and as bf16.
const PATTERN: u8 = 0xff;

/// Pages of the process, the first and the last of which may not be touched.
pub(super) struct Pages {
    base: *mut u8,
    bytes: usize,
}

// SAFETY: a plain mapping; whoever uses its addresses answers for the order.
unsafe impl Send for Pages {}

impl Pages {
    /// At least that many usable bytes, zeroed, with a forbidden page on either side.
    pub(super) fn new(usable: usize) -> Option<Pages> {
        let bytes = usable.checked_next_multiple_of(PAGE)?.checked_add(2 * PAGE)?;
        // SAFETY: a new anonymous mapping, of which the outer pages are given away again.
        unsafe {
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
            let base = libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0);
            if base == libc::MAP_FAILED {
                return None;
            }
            let base = base.cast::<u8>();
            libc::mprotect(base.cast(), PAGE, libc::PROT_NONE);
            libc::mprotect(base.add(bytes - PAGE).cast(), PAGE, libc::PROT_NONE);
            Some(Pages { base, bytes })
        }
    }

    /// The lowest usable byte.
    pub(super) fn start(&self) -> *mut u8 {
        // SAFETY: inside the mapping.
        unsafe { self.base.add(PAGE) }
    }

    /// Behind the highest usable byte.
    pub(super) fn end(&self) -> *mut u8 {
        // SAFETY: inside the mapping.
        unsafe { self.base.add(self.bytes - PAGE) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this size.
        unsafe { libc::munmap(self.base.cast(), self.bytes) };
    }
}

/// Whose memory it is; kernels reach both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Device,
    Host,
}

struct Allocation {
    pages: Pages,
    bytes: usize,
    place: Place,
}

impl Allocation {
    /// Where the patterns before and behind the memory that was asked for begin, and their lengths: usable pages,
    /// outside of what kernels may touch.
    fn guards(&self, at: Address) -> [(*mut u8, usize); 2] {
        let start = at.0 as *mut u8;
        let rest = self.bytes.next_multiple_of(ALIGN) - self.bytes;
        let before = (start as usize - self.pages.start() as usize).min(ALIGN);
        [(start.wrapping_sub(before), before), (start.wrapping_add(self.bytes), rest)]
    }
}

/// Every live allocation by its address.
#[derive(Default)]
pub(super) struct Memory {
    live: BTreeMap<Address, Allocation>,
}

impl Memory {
    /// Zeroed, aligned memory; `None` where the system refuses.
    pub(super) fn allocate(&mut self, bytes: usize, place: Place) -> Option<Address> {
        let room = bytes.max(1).checked_next_multiple_of(ALIGN)?;
        let pages = Pages::new(room)?;
        let at = Address(pages.end() as u64 - room as u64);
        let allocation = Allocation { pages, bytes, place };
        for (guard, len) in allocation.guards(at) {
            // SAFETY: usable pages of a new mapping.
            unsafe { guard.write_bytes(PATTERN, len) };
        }
        self.live.insert(at, allocation);
        Some(at)
    }

    /// Gives an allocation back.
    pub(super) fn free(&mut self, at: Address, bytes: usize, place: Place) -> Result<(), String> {
        self.check(at)?;
        match self.live.remove(&at) {
            Some(allocation) if allocation.place != place => {
                Err(format!("memory of the {:?} was freed as the {place:?}'s", allocation.place))
            }
            Some(allocation) if allocation.bytes == bytes => Ok(()),
            Some(allocation) => Err(format!("{} bytes were freed as {bytes}", allocation.bytes)),
            None => Err(format!("0x{:x} was freed and is no allocation", at.0)),
        }
    }

    /// The allocation that an address lies in, and how many bytes of it follow.
    fn find(&self, at: Address) -> Option<(Address, usize)> {
        let (start, allocation) = self.live.range(..=at).next_back()?;
        let offset = (at.0 - start.0) as usize;
        (offset <= allocation.bytes).then(|| (*start, allocation.bytes - offset))
    }

    /// Whether `bytes` bytes from there belong to one allocation.
    pub(super) fn contains(&self, at: Address, bytes: usize) -> Result<(), String> {
        match self.find(at) {
            Some((_, rest)) if bytes <= rest => Ok(()),
            Some((_, rest)) => Err(format!("{bytes} bytes at 0x{:x}, where the allocation has {rest} left", at.0)),
            None => Err(format!("0x{:x} lies in no allocation", at.0)),
        }
    }

    /// Whether the patterns around the allocation at (or around) an address are whole.
    pub(super) fn check(&self, at: Address) -> Result<(), String> {
        let Some((start, _)) = self.find(at) else {
            return Err(format!("0x{:x} lies in no allocation", at.0));
        };
        let allocation = &self.live[&start];
        for ((guard, len), place) in allocation.guards(start).into_iter().zip(["before the start", "past the end"]) {
            // SAFETY: usable pages of a live mapping, initialised above.
            let guard = unsafe { std::slice::from_raw_parts(guard, len) };
            if guard.iter().any(|byte| *byte != PATTERN) {
                return Err(format!("an allocation of {} bytes was written {place}", allocation.bytes));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes one byte at an offset from an address.
    fn poke(at: Address, offset: isize) {
        // SAFETY: the offsets below stay within the usable pages of a live allocation.
        unsafe { (at.0 as *mut u8).offset(offset).write(7) };
    }

    #[test]
    fn writes_around_an_allocation_are_noticed() {
        for bytes in [1, 4, 255, 257, 70_000] {
            let mut memory = Memory::default();
            let at = memory.allocate(bytes, Place::Device).unwrap();
            assert_eq!(at.0 % 256, 0);
            assert!(memory.check(at).is_ok());
            poke(at, 0);
            poke(at, bytes as isize - 1);
            assert!(memory.check(at).is_ok());
            poke(at, bytes as isize);
            assert!(memory.check(at).unwrap_err().contains("past the end"));
            poke(at, -1);
            assert!(memory.check(at).unwrap_err().contains("before the start"));
        }
    }

    #[test]
    fn ranges_belong_to_one_allocation() {
        let mut memory = Memory::default();
        let at = memory.allocate(1000, Place::Device).unwrap();
        assert!(memory.contains(at, 1000).is_ok());
        assert!(memory.contains(at.offset(1000), 0).is_ok());
        assert!(memory.contains(at.offset(1), 1000).is_err());
        assert!(memory.contains(Address(16), 1).is_err());
        assert!(memory.free(at, 999, Place::Device).is_err());
        assert!(memory.free(at, 1000, Place::Device).is_err(), "it is gone");
    }
}
