//! Memory of the CPU device: aligned, zeroed, typed at run time.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

use crate::dtype::{DType, Element};
use crate::error::ComputeError;

/// Cache-line and AVX-512 alignment.
pub(crate) const ALIGN: usize = 64;

/// A zero-initialised, 64-byte aligned block.
pub(crate) struct Memory {
    ptr: NonNull<u8>,
    bytes: usize,
}

// SAFETY: Memory owns its block exclusively.
unsafe impl Send for Memory {}
// SAFETY: shared access only reads.
unsafe impl Sync for Memory {}

impl Memory {
    pub(crate) fn new(name: &str, bytes: usize) -> Result<Self, ComputeError> {
        let refused = || ComputeError::OutOfMemory { name: name.into(), bytes };
        let bytes = bytes.max(1).checked_next_multiple_of(ALIGN).ok_or_else(refused)?;
        let ptr = allocate(bytes).ok_or_else(refused)?;
        Ok(Memory { ptr, bytes })
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
}

impl Drop for Memory {
    fn drop(&mut self) {
        free(self.ptr, self.bytes);
    }
}

/// Blocks of this size and more come straight from the kernel, so that huge pages can back them.
#[cfg(target_os = "linux")]
const MAPPED: usize = 1 << 20;

/// A huge page; the kernel backs only whole ones.
#[cfg(target_os = "linux")]
const HUGE: usize = 2 << 20;

fn allocate(bytes: usize) -> Option<NonNull<u8>> {
    #[cfg(target_os = "linux")]
    if bytes >= MAPPED {
        return map(bytes);
    }
    let layout = Layout::from_size_align(bytes, ALIGN).ok()?;
    // SAFETY: the layout's size is not zero: sizes are rounded up to ALIGN.
    NonNull::new(unsafe { alloc_zeroed(layout) })
}

/// An anonymous mapping, zeroed by the kernel. It begins at a huge page where it has one: keys and values are read a head here and a
/// head there, and with small pages each wants a walk through the page table.
#[cfg(target_os = "linux")]
fn map(bytes: usize) -> Option<NonNull<u8>> {
    let slack = if bytes >= HUGE { HUGE } else { 0 };
    let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping, of which only what lies before and behind the block is given back; advice on it cannot hurt.
    unsafe {
        let mapped = libc::mmap(std::ptr::null_mut(), bytes.checked_add(slack)?, access, kind, -1, 0);
        if mapped == libc::MAP_FAILED {
            return None;
        }
        let skipped = if slack > 0 { mapped.align_offset(HUGE) } else { 0 };
        let block = mapped.byte_add(skipped);
        if skipped > 0 {
            libc::munmap(mapped, skipped);
        }
        let used = bytes.next_multiple_of(libc::sysconf(libc::_SC_PAGESIZE) as usize);
        if skipped + used < bytes + slack {
            libc::munmap(block.byte_add(used), bytes + slack - skipped - used);
        }
        libc::madvise(block, bytes, libc::MADV_HUGEPAGE);
        NonNull::new(block.cast())
    }
}

fn free(ptr: NonNull<u8>, bytes: usize) {
    #[cfg(target_os = "linux")]
    if bytes >= MAPPED {
        // SAFETY: mapped in `allocate` with this size; nothing refers to it any more.
        unsafe { libc::munmap(ptr.as_ptr().cast(), bytes) };
        return;
    }
    // SAFETY: allocated in `allocate` with this size and alignment.
    unsafe { dealloc(ptr.as_ptr(), Layout::from_size_align_unchecked(bytes, ALIGN)) };
}

/// A device buffer of the CPU.
pub struct CpuBuffer {
    memory: Memory,
    dtype: DType,
    len: usize,
}

impl CpuBuffer {
    pub(crate) fn new(name: &str, dtype: DType, len: usize) -> Result<Self, ComputeError> {
        let bytes = len
            .checked_mul(dtype.size())
            .ok_or_else(|| ComputeError::OutOfMemory { name: name.into(), bytes: usize::MAX })?;
        Ok(CpuBuffer { memory: Memory::new(name, bytes)?, dtype, len })
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements. Panics if the buffer is of another type.
    pub fn slice<T: Element>(&self) -> &[T] {
        assert_eq!(self.dtype, T::DTYPE, "buffer viewed as another type");
        &self.memory.slice()[..self.len]
    }

    /// The elements as bytes. (Every processor that this device runs on is little-endian.)
    pub fn as_bytes(&self) -> &[u8] {
        // SAFETY: initialised memory of this buffer; bytes have no alignment.
        unsafe { std::slice::from_raw_parts(self.memory.ptr.as_ptr(), self.len * self.dtype.size()) }
    }

    /// The elements as bytes, mutable.
    pub fn as_bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_bytes`, borrowed for writing; every pattern of bits is a value of each element type.
        unsafe { std::slice::from_raw_parts_mut(self.memory.ptr.as_ptr(), self.len * self.dtype.size()) }
    }

    /// The elements, mutable. Panics if the buffer is of another type.
    pub fn slice_mut<T: Element>(&mut self) -> &mut [T] {
        assert_eq!(self.dtype, T::DTYPE, "buffer viewed as another type");
        &mut self.memory.slice_mut()[..self.len]
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

/// `u8` pieces are how scratch memory is split between workers.
pub(crate) fn split_bytes(memory: &mut Memory) -> &mut [u8] {
    let bytes = memory.bytes;
    // SAFETY: the whole block, exclusive.
    unsafe { std::slice::from_raw_parts_mut(memory.ptr.as_ptr(), bytes) }
}
