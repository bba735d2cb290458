//! Memory of a CUDA device: typed buffers and weight matrices.

use std::borrow::Cow;
use std::sync::Arc;

use super::driver::{Address, Driver, Fp8Operand};
use super::fp8::Weight;
use super::quantized;
use crate::device::MatrixUse;
use crate::dtype::DType;
use crate::error::ComputeError;
use crate::fp8::Fp8;
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

/// A weight matrix: `[rows, columns]`, row-major, in its storage type, as products take it, or quantised. Of fp8: 8-bit codes,
/// their scale, and in training the codes of the transposed matrix.
pub struct CudaMatrix {
    memory: Memory,
    pub(crate) format: MatrixFormat,
    usage: MatrixUse,
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
        usage: MatrixUse,
    ) -> Result<Self, ComputeError> {
        let memory = Memory::new(driver, name, Self::bytes(format, rows, columns, usage))?;
        Ok(CudaMatrix { memory, format: fitting(format, rows, columns), usage, rows, columns })
    }

    pub(crate) fn bytes(format: MatrixFormat, rows: usize, columns: usize, usage: MatrixUse) -> usize {
        let len = rows.saturating_mul(columns);
        match fitting(format, rows, columns) {
            MatrixFormat::F32 | MatrixFormat::Bf16 => len.saturating_mul(format.activations().size()),
            MatrixFormat::Q8 | MatrixFormat::Q4 => {
                quantized::bytes(format, rows, columns).into_iter().fold(0, usize::saturating_add)
            }
            MatrixFormat::Fp8 => len.saturating_mul(if usage == MatrixUse::Training { 2 } else { 1 }) + SCALE_BYTES,
        }
    }

    /// The storage type of its activations.
    pub(crate) fn dtype(&self) -> DType {
        self.format.activations()
    }

    /// Where the values are. Panics where they are codes.
    pub(crate) fn address(&self) -> Address {
        assert_ne!(self.format, MatrixFormat::Fp8, "8-bit codes read as values");
        self.memory.address()
    }

    /// The parts of a matrix of 8-bit codes: as many bytes as a multiple of 256, as its sides are multiples of 16.
    pub(super) fn fp8(&self) -> Option<Weight> {
        if self.format != MatrixFormat::Fp8 {
            return None;
        }
        let scale = self.memory.address();
        let at = |address| Fp8Operand { address, format: Fp8::E4m3, scale };
        let codes = scale.offset(SCALE_BYTES);
        let transposed = match self.usage {
            MatrixUse::Training => codes.offset(self.rows * self.columns),
            MatrixUse::Inference => Address::NULL,
        };
        Some(Weight { codes: at(codes), transposed: at(transposed) })
    }
}

/// A scale and what aligns the codes behind it.
const SCALE_BYTES: usize = 256;

/// How a matrix of this size is held.
fn fitting(format: MatrixFormat, rows: usize, columns: usize) -> MatrixFormat {
    let fits = rows.is_multiple_of(16) && columns.is_multiple_of(16);
    if format == MatrixFormat::Fp8 && !fits { MatrixFormat::Bf16 } else { format }
}

/// f32 values of little-endian bytes.
pub(crate) fn f32_values(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b))
}

/// Little-endian bytes of 4-byte numbers.
pub(crate) fn little_endian<T: Copy>(values: &[T], bytes: impl Fn(T) -> [u8; 4]) -> Vec<u8> {
    values.iter().flat_map(|x| bytes(*x)).collect()
}
