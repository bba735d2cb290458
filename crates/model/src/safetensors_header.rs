//! The header of a safetensors file, from wherever it comes: u64 little-endian length, then JSON, then the data.
//!
//! The format is <https://github.com/huggingface/safetensors>. The crate of that name parses the JSON and checks that the
//! tensors lie one after the other; that they fill the file is checked here.

use std::collections::HashMap;
use std::io::{self, Read};

use safetensors::tensor::{Metadata, TensorInfo};

/// The same limit as the safetensors crate's, in bytes.
const MAX_LENGTH: u64 = 100_000_000;

/// A header that agrees with its file's length.
pub(crate) struct Header {
    pub(crate) metadata: Metadata,
    /// Where the data begins, in bytes from the file's start.
    pub(crate) data_start: u64,
}

/// Why there is none.
pub(crate) enum HeaderError {
    Unreadable(io::Error),
    /// What is wrong with it.
    Damaged(String),
    /// The length that it describes, itself included, is not the file's.
    Length {
        expected: u64,
    },
}

/// Reads the header from the start of a file of `length` bytes.
pub(crate) fn read(reader: &mut impl Read, length: u64) -> Result<Header, HeaderError> {
    let damaged = |reason: String| Err(HeaderError::Damaged(reason));
    if length < 8 {
        return damaged(format!("the file has {length} bytes, fewer than the 8 of the header's length"));
    }
    let mut prefix = [0; 8];
    reader.read_exact(&mut prefix).map_err(HeaderError::Unreadable)?;
    let header_length = u64::from_le_bytes(prefix);
    if header_length > MAX_LENGTH || header_length > length - 8 {
        return damaged(format!("it claims {header_length} bytes in a file of {length}"));
    }
    let mut json = vec![0; header_length as usize];
    reader.read_exact(&mut json).map_err(HeaderError::Unreadable)?;
    let metadata: Metadata = serde_json::from_slice(&json).map_err(|e| HeaderError::Damaged(e.to_string()))?;
    let data_start = 8 + header_length;
    // Nothing but the file's length bounds what the last tensor claims to end at.
    let expected = data_start.saturating_add(metadata.data_len() as u64);
    if expected != length {
        return Err(HeaderError::Length { expected });
    }
    Ok(Header { metadata, data_start })
}

/// The bytes before the data of a file of these tensors, which lie one after the other.
pub(crate) fn bytes(tensors: Vec<(String, TensorInfo)>) -> Result<Vec<u8>, String> {
    // What the Hugging Face libraries ask for before they read a file. One key only: a map has no order to rely on.
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let metadata = Metadata::new(Some(format), tensors).map_err(|e| e.to_string())?;
    let mut json = serde_json::to_vec(&metadata).map_err(|e| e.to_string())?;
    // Data aligned to 8 bytes, so that a mapped file can be read in place.
    json.resize(json.len().next_multiple_of(8), b' ');
    Ok([&(json.len() as u64).to_le_bytes()[..], &json].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tensors of bytes, one after the other.
    fn file(lengths: &[u64]) -> Vec<u8> {
        let mut end = 0u64;
        let tensors: Vec<String> = lengths
            .iter()
            .enumerate()
            .map(|(index, length)| {
                let start = end;
                end += length;
                format!("\"{index}\":{{\"dtype\":\"F64\",\"shape\":[{}],\"data_offsets\":[{start},{end}]}}", length / 8)
            })
            .collect();
        let json = format!("{{{}}}", tensors.join(","));
        [&(json.len() as u64).to_le_bytes()[..], json.as_bytes()].concat()
    }

    fn described(bytes: &[u8], length: u64) -> Result<Header, u64> {
        match read(&mut &bytes[..], length) {
            Ok(header) => Ok(header),
            Err(HeaderError::Length { expected }) => Err(expected),
            Err(HeaderError::Damaged(reason)) => panic!("{reason}"),
            Err(HeaderError::Unreadable(error)) => panic!("{error}"),
        }
    }

    #[test]
    fn a_header_describes_the_whole_file() {
        let bytes = file(&[8, 16]);
        let length = bytes.len() as u64 + 24;
        assert_eq!(described(&bytes, length).unwrap_or_else(|_| panic!()).data_start, bytes.len() as u64);
        assert_eq!(described(&bytes, length + 1).err(), Some(length));
    }

    #[test]
    fn lengths_do_not_wrap_around() {
        // A tensor has at most 2^61 bytes, for its bits are counted; eight of them pass the last address.
        let tensors = [&[(1u64 << 61) - 8; 8][..], &[56]].concat();
        let bytes = file(&tensors);
        assert_eq!(tensors.iter().sum::<u64>(), u64::MAX - 7);
        assert_eq!(described(&bytes, bytes.len() as u64).err(), Some(u64::MAX));
    }
}
