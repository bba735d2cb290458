//! Buffers of the CPU device: memory that is typed at run time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use super::memory::Memory;
use crate::dtype::{DType, Element};
use crate::error::ComputeError;

/// A device buffer of the CPU.
pub struct CpuBuffer {
    memory: Memory,
    dtype: DType,
    len: usize,
    /// Its elements are zeros that nobody has written yet. Whoever looks at them has them written, one thread at a time.
    zeros_due: AtomicBool,
    writing: Mutex<()>,
}

impl CpuBuffer {
    pub(crate) fn new(name: &str, dtype: DType, len: usize) -> Result<Self, ComputeError> {
        let bytes = len
            .checked_mul(dtype.size())
            .ok_or_else(|| ComputeError::OutOfMemory { name: name.into(), bytes: usize::MAX })?;
        let memory = Memory::new(name, bytes)?;
        Ok(CpuBuffer { memory, dtype, len, zeros_due: AtomicBool::new(false), writing: Mutex::new(()) })
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

    /// Makes the elements zeros, to be written by whoever looks at them first, unless that is [`CpuBuffer::take_zeros`].
    pub(super) fn put_zeros_off(&mut self) {
        *self.zeros_due.get_mut() = true;
    }

    /// Whether the elements are zeros that nobody has written. Who asks, and hears so, writes every element before anybody looks.
    pub(super) fn take_zeros(&mut self) -> bool {
        std::mem::take(self.zeros_due.get_mut())
    }

    /// Writes zeros that are due.
    #[inline]
    fn settle(&self) {
        if self.zeros_due.load(Ordering::Acquire) {
            self.write_zeros();
        }
    }

    #[cold]
    fn write_zeros(&self) {
        let _alone = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.zeros_due.load(Ordering::Acquire) {
            // SAFETY: zeros became due by an exclusive reference, and every view of the memory passes here first: there is none
            // yet, and none begins before the zeros are written.
            unsafe { self.memory.address().write_bytes(0, self.memory.bytes()) };
            self.zeros_due.store(false, Ordering::Release);
        }
    }

    /// The elements. Panics if the buffer is of another type.
    pub fn slice<T: Element>(&self) -> &[T] {
        assert_eq!(self.dtype, T::DTYPE, "buffer viewed as another type");
        self.settle();
        &self.memory.slice()[..self.len]
    }

    /// The elements as bytes. (Every processor that this device runs on is little-endian.)
    pub fn as_bytes(&self) -> &[u8] {
        self.settle();
        &self.memory.as_bytes()[..self.len * self.dtype.size()]
    }

    /// The elements as bytes, mutable.
    pub fn as_bytes_mut(&mut self) -> &mut [u8] {
        self.settle();
        &mut self.memory.as_bytes_mut()[..self.len * self.dtype.size()]
    }

    /// The elements, mutable. Panics if the buffer is of another type.
    pub fn slice_mut<T: Element>(&mut self) -> &mut [T] {
        assert_eq!(self.dtype, T::DTYPE, "buffer viewed as another type");
        self.settle();
        &mut self.memory.slice_mut()[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_that_are_due_are_seen_by_whoever_looks_and_by_nobody_who_takes_them() {
        let mut buffer = CpuBuffer::new("test", DType::F32, 1000).unwrap();
        let looks: [fn(&mut CpuBuffer) -> bool; 4] = [
            |b| b.slice::<f32>().iter().all(|x| *x == 0.0),
            |b| b.slice_mut::<f32>().iter().all(|x| *x == 0.0),
            |b| b.as_bytes().iter().all(|x| *x == 0),
            |b| b.as_bytes_mut().iter().all(|x| *x == 0),
        ];
        for look in looks {
            buffer.slice_mut::<f32>().fill(7.0);
            buffer.put_zeros_off();
            assert!(look(&mut buffer) && !buffer.take_zeros());
        }
        buffer.slice_mut::<f32>().fill(7.0);
        buffer.put_zeros_off();
        assert!(buffer.take_zeros() && !buffer.take_zeros());
        assert!(buffer.slice::<f32>().iter().all(|x| *x == 7.0), "written by whoever took them");
        buffer.put_zeros_off();
        let buffer = &buffer;
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(move || assert!(buffer.slice::<f32>().iter().all(|x| *x == 0.0)));
            }
        });
    }
}
