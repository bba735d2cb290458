//! Memory of the CPU device: aligned and zeroed blocks, and pieces of them.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

#[cfg(target_os = "linux")]
use super::regions;
use crate::dtype::Element;
use crate::error::ComputeError;

/// Cache-line and AVX-512 alignment.
pub(crate) const ALIGN: usize = 64;

/// A zero-initialised, 64-byte aligned block.
pub(crate) struct Memory {
    ptr: NonNull<u8>,
    bytes: usize,
    home: Home,
}

/// Where a block comes from and goes back to.
enum Home {
    Allocator,
    /// Held for its drop.
    #[cfg(target_os = "linux")]
    Pages(#[allow(dead_code)] regions::Pages),
}

// SAFETY: Memory owns its block exclusively.
unsafe impl Send for Memory {}
// SAFETY: shared access only reads.
unsafe impl Sync for Memory {}

impl Memory {
    pub(crate) fn new(name: &str, bytes: usize) -> Result<Self, ComputeError> {
        let refused = || ComputeError::OutOfMemory { name: name.into(), bytes };
        let bytes = bytes.max(1).checked_next_multiple_of(ALIGN).ok_or_else(refused)?;
        #[cfg(target_os = "linux")]
        if bytes >= regions::SMALLEST {
            let (ptr, pages) = regions::allocate(bytes).ok_or_else(refused)?;
            return Ok(Memory { ptr, bytes, home: Home::Pages(pages) });
        }
        let layout = Layout::from_size_align(bytes, ALIGN).map_err(|_| refused())?;
        // SAFETY: the layout's size is not zero: sizes are rounded up to ALIGN.
        let ptr = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or_else(refused)?;
        Ok(Memory { ptr, bytes, home: Home::Allocator })
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn slice<T: Element>(&self) -> &[T] {
        // SAFETY: aligned to 64, initialised, and Element is valid for every bit pattern.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr().cast(), self.bytes / size_of::<T>()) }
    }

    pub(crate) fn slice_mut<T: Element>(&mut self) -> &mut [T] {
        // SAFETY: as above, and exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr().cast(), self.bytes / size_of::<T>()) }
    }

    /// Where the block begins.
    pub(crate) fn address(&self) -> *mut u8 {
        self.ptr.as_ptr()
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        // SAFETY: the whole block, initialised; bytes have no alignment.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.bytes) }
    }

    pub(crate) fn as_bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.bytes) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        match self.home {
            // SAFETY: allocated in `new` with this size and alignment.
            Home::Allocator => unsafe {
                dealloc(self.ptr.as_ptr(), Layout::from_size_align_unchecked(self.bytes, ALIGN));
            },
            #[cfg(target_os = "linux")]
            Home::Pages(_) => {}
        }
    }
}

/// Cuts typed, aligned pieces from the front of a block.
pub(crate) struct Carver<'a> {
    rest: &'a mut [u8],
}

impl<'a> Carver<'a> {
    pub(crate) fn new(bytes: &'a mut [u8]) -> Self {
        Carver { rest: bytes }
    }

    /// Bytes that a piece takes.
    pub(crate) const fn bytes<T>(len: usize) -> usize {
        (len * size_of::<T>()).next_multiple_of(ALIGN)
    }

    /// Bytes of one of `pieces` equal parts of a block, each aligned as the block is.
    pub(crate) const fn share(bytes: usize, pieces: usize) -> usize {
        bytes / pieces / ALIGN * ALIGN
    }

    /// What is left.
    pub(crate) fn rest(self) -> &'a mut [u8] {
        self.rest
    }

    /// The next piece; its contents are whatever was there.
    pub(crate) fn take<T: Element>(&mut self, len: usize) -> &'a mut [T] {
        let (piece, rest) = std::mem::take(&mut self.rest).split_at_mut(Self::bytes::<T>(len));
        self.rest = rest;
        assert_eq!(piece.as_ptr() as usize % align_of::<T>(), 0);
        // SAFETY: aligned (asserted), long enough, initialised memory, and Element takes every bit pattern.
        unsafe { std::slice::from_raw_parts_mut(piece.as_mut_ptr().cast(), len) }
    }
}
