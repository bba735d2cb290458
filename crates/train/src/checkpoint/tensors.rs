//! Tensors as a file: the safetensors layout, written as a stream.
//!
//! The crate's own writer opens the file itself, and so leaves no way to checksum what passes.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};

use safetensors::tensor::{Metadata, TensorInfo};

/// Type of a tensor's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// 32-bit float.
    F32,
    /// bfloat16.
    Bf16,
    /// 64-bit float.
    F64,
    /// Byte.
    U8,
    /// 32-bit unsigned integer.
    U32,
    /// 64-bit unsigned integer.
    U64,
}

impl Dtype {
    /// Bytes of an element.
    pub fn size(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::Bf16 => 2,
            Self::F32 | Self::U32 => 4,
            Self::F64 | Self::U64 => 8,
        }
    }

    pub(super) fn stored(self) -> safetensors::Dtype {
        match self {
            Self::F32 => safetensors::Dtype::F32,
            Self::Bf16 => safetensors::Dtype::BF16,
            Self::F64 => safetensors::Dtype::F64,
            Self::U8 => safetensors::Dtype::U8,
            Self::U32 => safetensors::Dtype::U32,
            Self::U64 => safetensors::Dtype::U64,
        }
    }
}

/// The bytes of a tensor.
#[derive(Clone, Copy)]
pub enum Bytes<'a> {
    /// They are in the host's memory.
    Held(&'a [u8]),
    /// So many, that are brought when they are written and then forgotten: what a device holds need not fit the host's memory.
    Brought(usize, &'a dyn Fn() -> io::Result<Vec<u8>>),
}

impl Bytes<'_> {
    fn len(&self) -> usize {
        match self {
            Bytes::Held(bytes) => bytes.len(),
            Bytes::Brought(len, _) => *len,
        }
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        match self {
            Bytes::Held(bytes) => out.write_all(bytes),
            Bytes::Brought(len, bring) => {
                let bytes = bring()?;
                if bytes.len() != *len {
                    return Err(io::Error::other(format!("{} bytes were brought, and {len} promised", bytes.len())));
                }
                out.write_all(&bytes)
            }
        }
    }
}

impl<'a, T: AsRef<[u8]> + ?Sized> From<&'a T> for Bytes<'a> {
    fn from(bytes: &'a T) -> Self {
        Bytes::Held(bytes.as_ref())
    }
}

impl fmt::Debug for Bytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}

/// A tensor to be saved; the bytes stay where they are.
#[derive(Debug, Clone, Copy)]
pub struct TensorRef<'a> {
    /// Its name, once in a checkpoint.
    pub name: &'a str,
    /// Type of the elements.
    pub dtype: Dtype,
    /// Dimensions, slowest first.
    pub shape: &'a [usize],
    /// Elements, row-major, little-endian.
    pub bytes: Bytes<'a>,
}

/// The bytes before the data, and the length of the whole file; or which tensor cannot be written and why.
pub(super) fn header(tensors: &[TensorRef<'_>]) -> Result<(Vec<u8>, u64), (String, String)> {
    let mut entries = BTreeMap::new();
    let mut infos = Vec::with_capacity(tensors.len());
    let mut end = 0usize;
    for tensor in tensors {
        let wrong = |reason: String| (tensor.name.to_owned(), reason);
        let elements = tensor.shape.iter().try_fold(1usize, |product, n| product.checked_mul(*n));
        let expected = elements.and_then(|elements| elements.checked_mul(tensor.dtype.size()));
        if expected != Some(tensor.bytes.len()) {
            return Err(wrong(format!(
                "{} bytes given for shape {:?} of {:?}",
                tensor.bytes.len(),
                tensor.shape,
                tensor.dtype
            )));
        }
        if tensor.name == "__metadata__" || entries.insert(tensor.name, ()).is_some() {
            return Err(wrong("the name is taken".to_owned()));
        }
        let begin = end;
        end = begin.checked_add(tensor.bytes.len()).ok_or_else(|| wrong("too large".to_owned()))?;
        let info =
            TensorInfo { dtype: tensor.dtype.stored(), shape: tensor.shape.to_vec(), data_offsets: (begin, end) };
        infos.push((tensor.name.to_owned(), info));
    }
    let invalid = |reason: String| ("header".to_owned(), reason);
    let metadata = Metadata::new(None, infos).map_err(|error| invalid(error.to_string()))?;
    let mut json = serde_json::to_vec(&metadata).map_err(|error| invalid(error.to_string()))?;
    // The data begins at a multiple of eight bytes, as the format asks.
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.extend_from_slice(&json);
    let length = header.len() as u64 + end as u64;
    Ok((header, length))
}

/// Writes the file whose header is `header`.
pub(super) fn write(out: &mut impl Write, header: &[u8], tensors: &[TensorRef<'_>]) -> io::Result<()> {
    out.write_all(header)?;
    tensors.iter().try_for_each(|tensor| tensor.bytes.write(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_what_the_safetensors_crate_reads() {
        let a: Vec<u8> = (0..24).collect();
        let brought = std::cell::Cell::new(0);
        let bring = || {
            brought.set(brought.get() + 1);
            Ok(a[3..9].to_vec())
        };
        let tensors = [
            TensorRef { name: "z", dtype: Dtype::F32, shape: &[2, 3], bytes: (&a).into() },
            TensorRef { name: "a", dtype: Dtype::Bf16, shape: &[3], bytes: Bytes::Brought(6, &bring) },
            TensorRef { name: "none", dtype: Dtype::U64, shape: &[0, 4], bytes: (&[0_u8; 0]).into() },
            TensorRef { name: "scalar", dtype: Dtype::U8, shape: &[], bytes: (&[7_u8]).into() },
        ];
        let (head, length) = header(&tensors).unwrap();
        assert_eq!(brought.get(), 0, "what is written last is brought last");
        let mut file = Vec::new();
        write(&mut file, &head, &tensors).unwrap();
        assert_eq!((file.len() as u64, brought.get()), (length, 1));
        let read = safetensors::SafeTensors::deserialize(&file).unwrap();
        assert_eq!(read.len(), 4);
        for (tensor, bytes) in tensors.iter().zip([&a[..], &a[3..9], &[], &[7]]) {
            let view = read.tensor(tensor.name).unwrap();
            assert_eq!((view.dtype(), view.shape(), view.data()), (tensor.dtype.stored(), tensor.shape, bytes));
        }
        // Fewer than the header says, or none: nothing that could be read.
        for bring in [&(|| Ok(vec![0_u8; 5])) as &dyn Fn() -> io::Result<Vec<u8>>, &|| Err(io::Error::other("gone"))] {
            let tensors = [TensorRef { bytes: Bytes::Brought(6, bring), ..tensors[1] }];
            write(&mut Vec::new(), &head, &tensors).unwrap_err();
        }
    }

    #[test]
    fn what_cannot_be_written_is_named() {
        let t = |name, shape, bytes: &'static [u8]| TensorRef { name, dtype: Dtype::F32, shape, bytes: bytes.into() };
        let refused = |tensors: &[TensorRef<'_>]| header(tensors).unwrap_err();
        assert_eq!(refused(&[t("w", &[2], &[0; 4])]).0, "w");
        assert_eq!(refused(&[t("w", &[usize::MAX, 2], &[])]).0, "w");
        assert_eq!(refused(&[t("w", &[1], &[0; 4]), t("w", &[1], &[0; 4])]), ("w".into(), "the name is taken".into()));
        assert_eq!(refused(&[t("__metadata__", &[1], &[0; 4])]).0, "__metadata__");
    }
}
