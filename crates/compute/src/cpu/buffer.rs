//! Buffers of the CPU device: memory that is typed at run time.

use super::memory::Memory;
use crate::dtype::{DType, Element};
use crate::error::ComputeError;

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
        &self.memory.as_bytes()[..self.len * self.dtype.size()]
    }

    /// The elements as bytes, mutable.
    pub fn as_bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory.as_bytes_mut()[..self.len * self.dtype.size()]
    }

    /// The elements, mutable. Panics if the buffer is of another type.
    pub fn slice_mut<T: Element>(&mut self) -> &mut [T] {
        assert_eq!(self.dtype, T::DTYPE, "buffer viewed as another type");
        &mut self.memory.slice_mut()[..self.len]
    }
}
