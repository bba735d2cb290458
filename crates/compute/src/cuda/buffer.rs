//! Memory of a CUDA device: typed buffers and weight matrices.

use std::borrow::Cow;
use std::sync::Arc;

use super::driver::{Address, Driver};
use super::quantized;
use crate::dtype::DType;
use crate::error::ComputeError;
use crate::matrix_format::MatrixFormat;

/// A block of the device's memory, given back when dropped.
pub(crate) struct Memory {
    driver: Arc<dyn Driver>,
    address: Address,
    bytes: usize,
}

impl Memory {
    /// Zeroed memory. Any error of the driver's that is not about memory passes through.
    pub(crate) fn new(driver: &Arc<dyn Driver>, name: &str, bytes: usize) -> Result<Self, ComputeError> {
        let bytes = bytes.max(1);
        let address = driver.allocate(bytes).map_err(|error| match error {
            ComputeError::OutOfMemory { .. } => ComputeError::OutOfMemory { name: name.into(), bytes },
            other => other,
        })?;
        Ok(Memory { driver: driver.clone(), address, bytes })
    }

    pub(crate) fn address(&self) -> Address {
        self.address
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.driver.free(self.address, self.bytes);
    }
}

/// Most bytes of a buffer of which the host keeps a copy.
const KNOWN_LIMIT: usize = 1 << 22;

/// A device buffer.
pub struct CudaBuffer {
    memory: Memory,
    dtype: DType,
    len: usize,
    /// The first bytes as the host wrote them, for as long as no operation has changed them: the loss mask of a batch is
    /// read again without waiting for the device. Large writes are not kept.
    known: Vec<u8>,
}

impl CudaBuffer {
    pub(crate) fn new(driver: &Arc<dyn Driver>, name: &str, dtype: DType, len: usize) -> Result<Self, ComputeError> {
        let bytes = len
            .checked_mul(dtype.size())
            .ok_or_else(|| ComputeError::OutOfMemory { name: name.into(), bytes: usize::MAX })?;
        Ok(CudaBuffer { memory: Memory::new(driver, name, bytes)?, dtype, len, known: Vec::new() })
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

    pub(crate) fn bytes(&self) -> usize {
        self.memory.bytes()
    }

    /// Where the first `len` elements are, to be read. Panics if there are fewer, or of another type.
    pub(crate) fn input(&self, dtype: DType, len: usize) -> Address {
        assert_eq!(self.dtype, dtype, "buffer viewed as another type");
        assert!(len <= self.len, "{len} elements of a buffer of {}", self.len);
        self.memory.address()
    }

    /// Where the first `len` elements are, to be changed. Panics as [`CudaBuffer::input`] does.
    pub(crate) fn output(&mut self, dtype: DType, len: usize) -> Address {
        self.known.clear();
        self.input(dtype, len)
    }

    /// Copies elements from the host, as bytes; `offset` counts elements.
    pub(crate) fn write(&mut self, dtype: DType, offset: usize, bytes: &[u8]) {
        let len = bytes.len() / dtype.size();
        let at = self.input(dtype, offset + len).offset(offset * dtype.size());
        self.memory.driver.upload(at, bytes);
        let start = offset * dtype.size();
        if start + bytes.len() > KNOWN_LIMIT {
            self.known.truncate(start);
        } else if start <= self.known.len() {
            let overlap = bytes.len().min(self.known.len() - start);
            self.known[start..start + overlap].copy_from_slice(&bytes[..overlap]);
            self.known.extend_from_slice(&bytes[overlap..]);
        }
    }

    /// The first `len` elements as bytes: those that the host still knows, or else the device's, which is waited for.
    pub(crate) fn read(&self, len: usize) -> Cow<'_, [u8]> {
        let bytes = len * self.dtype.size();
        if bytes <= self.known.len() {
            return Cow::Borrowed(&self.known[..bytes]);
        }
        Cow::Owned(self.download(0, len))
    }

    /// Elements from `offset` on, from the device.
    pub(crate) fn download(&self, offset: usize, len: usize) -> Vec<u8> {
        let at = self.input(self.dtype, offset + len).offset(offset * self.dtype.size());
        let mut bytes = vec![0; len * self.dtype.size()];
        self.memory.driver.download(at, &mut bytes);
        bytes
    }
}

/// A weight matrix: `[rows, columns]`, row-major, in its storage type, as products take it, or quantised.
pub struct CudaMatrix {
    memory: Memory,
    pub(crate) format: MatrixFormat,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
}

impl CudaMatrix {
    pub(crate) fn new(
        driver: &Arc<dyn Driver>,
        name: &str,
        format: MatrixFormat,
        rows: usize,
        columns: usize,
    ) -> Result<Self, ComputeError> {
        let memory = Memory::new(driver, name, Self::bytes(format, rows, columns))?;
        Ok(CudaMatrix { memory, format, rows, columns })
    }

    pub(crate) fn bytes(format: MatrixFormat, rows: usize, columns: usize) -> usize {
        if format.is_quantized() {
            return quantized::bytes(format, rows, columns).into_iter().fold(0, usize::saturating_add);
        }
        rows.saturating_mul(columns).saturating_mul(format.activations().size())
    }

    /// The storage type of its activations.
    pub(crate) fn dtype(&self) -> DType {
        self.format.activations()
    }

    pub(crate) fn address(&self) -> Address {
        self.memory.address()
    }
}

/// f32 values of little-endian bytes.
pub(crate) fn f32_values(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b))
}

/// Little-endian bytes of 4-byte numbers.
pub(crate) fn little_endian<T: Copy>(values: &[T], bytes: impl Fn(T) -> [u8; 4]) -> Vec<u8> {
    values.iter().flat_map(|x| bytes(*x)).collect()
}
