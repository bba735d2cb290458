//! The bytes of a shard, as llm.c lays them out: 256 little-endian 32-bit integers (magic number, version, number of
//! tokens, zeros), then the tokens, little-endian.
//!
//! Version 1 has tokens of 16 bits (llm.c's own); version 2, for vocabularies past 65,536, of 32 bits.

/// First integer of a shard.
pub const MAGIC: i32 = 20_240_520;

/// Bytes before the first token.
pub const HEADER_BYTES: usize = 256 * 4;

/// Bits of a token in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenWidth {
    /// Version 1.
    U16,
    /// Version 2.
    U32,
}

impl TokenWidth {
    /// The narrowest that holds every id of a vocabulary.
    pub fn of(vocab_size: usize) -> Self {
        if vocab_size <= 1 << 16 { TokenWidth::U16 } else { TokenWidth::U32 }
    }

    /// Bytes of a token.
    pub fn bytes(self) -> usize {
        match self {
            TokenWidth::U16 => 2,
            TokenWidth::U32 => 4,
        }
    }

    /// Second integer of the header.
    pub fn version(self) -> i32 {
        match self {
            TokenWidth::U16 => 1,
            TokenWidth::U32 => 2,
        }
    }
}

/// The header of a shard with `tokens` tokens.
pub(super) fn header(width: TokenWidth, tokens: i32) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    for (place, value) in [MAGIC, width.version(), tokens].into_iter().enumerate() {
        header[place * 4..place * 4 + 4].copy_from_slice(&value.to_le_bytes());
    }
    header
}

/// One integer of a header; `bytes` holds at least a header.
pub(super) fn header_field(bytes: &[u8], place: usize) -> i32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[place * 4..place * 4 + 4]);
    i32::from_le_bytes(field)
}
