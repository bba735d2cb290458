//! [`ElementType`]: how foreign files store numbers, and what the stored bytes mean in f32.
//!
//! Quantised types are blocks of 32 or 256 values that share scales. Their layouts are those of ggml's
//! `ggml-common.h` and the arithmetic that of `dequantize_row_*` in its `ggml-quants.c`: in f32, in the same order, so
//! that the values are those that llama.cpp computes with, to the bit.

mod encode;
mod search;

use half::{bf16, f16};

/// A type of stored numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ElementType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of a single.
    Bf16,
    /// 4 bits and a scale.
    Q4_0,
    /// 4 bits, a scale and a minimum.
    Q4_1,
    /// 5 bits and a scale.
    Q5_0,
    /// 5 bits, a scale and a minimum.
    Q5_1,
    /// 8 bits and a scale.
    Q8_0,
    /// 4 bits, a 6-bit scale and minimum for each 32.
    Q4K,
    /// 5 bits, a 6-bit scale and minimum for each 32.
    Q5K,
    /// 6 bits, an 8-bit scale for each 16.
    Q6K,
}

/// For the message about any other.
pub(super) const KNOWN: &str = "F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K or Q6_K";

impl ElementType {
    /// The type that ggml gives this number.
    pub(super) fn of_ggml(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            6 => Self::Q5_0,
            7 => Self::Q5_1,
            8 => Self::Q8_0,
            12 => Self::Q4K,
            13 => Self::Q5K,
            14 => Self::Q6K,
            30 => Self::Bf16,
            _ => return None,
        })
    }

    /// The name that files and people use.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
        }
    }

    /// Whether writing it is a search for the best scales.
    pub(super) fn searched(self) -> bool {
        matches!(self, Self::Q4K | Self::Q6K)
    }

    /// Values of a block.
    pub(super) fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Q4K | Self::Q5K | Self::Q6K => 256,
        }
    }

    /// Bytes of a block.
    pub(super) fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Q4_0 => 2 + 16,
            Self::Q4_1 => 2 + 2 + 16,
            Self::Q5_0 => 2 + 4 + 16,
            Self::Q5_1 => 2 + 2 + 4 + 16,
            Self::Q8_0 => 2 + 32,
            Self::Q4K => 2 + 2 + 12 + 128,
            Self::Q5K => 2 + 2 + 12 + 32 + 128,
            Self::Q6K => 128 + 64 + 16 + 2,
        }
    }

    /// Appends the values of whole blocks.
    pub(super) fn decode(self, bytes: &[u8], out: &mut Vec<f32>) {
        for block in bytes.chunks_exact(self.block_bytes()) {
            match self {
                Self::F32 => out.push(f32::from_bits(u32_at(block, 0))),
                Self::F16 => out.push(half_at(block, 0)),
                Self::Bf16 => out.push(bf16::from_le_bytes([block[0], block[1]]).to_f32()),
                Self::Q4_0 => {
                    let d = half_at(block, 0);
                    nibbles(&block[2..], |q, _| (f32::from(q) - 8.0) * d, out);
                }
                Self::Q4_1 => {
                    let (d, m) = (half_at(block, 0), half_at(block, 2));
                    nibbles(&block[4..], |q, _| f32::from(q) * d + m, out);
                }
                Self::Q5_0 => {
                    let (d, high) = (half_at(block, 0), u32_at(block, 2));
                    nibbles(&block[6..], |q, i| (f32::from(fifth(q, high, i)) - 16.0) * d, out);
                }
                Self::Q5_1 => {
                    let (d, m, high) = (half_at(block, 0), half_at(block, 2), u32_at(block, 4));
                    nibbles(&block[8..], |q, i| f32::from(fifth(q, high, i)) * d + m, out);
                }
                Self::Q8_0 => {
                    let d = half_at(block, 0);
                    out.extend(block[2..].iter().map(|&q| f32::from(q as i8) * d));
                }
                Self::Q4K => q4_k(block, out),
                Self::Q5K => q5_k(block, out),
                Self::Q6K => q6_k(block, out),
            }
        }
    }
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

fn u32_at(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

/// 32 values from 16 bytes: the low halves first, then the high ones. `value` gets 4 bits and the value's place.
fn nibbles(bytes: &[u8], value: impl Fn(u8, usize) -> f32, out: &mut Vec<f32>) {
    out.extend(bytes.iter().enumerate().map(|(i, byte)| value(byte & 15, i)));
    out.extend(bytes.iter().enumerate().map(|(i, byte)| value(byte >> 4, i + 16)));
}

/// Four bits and, from bit `i` of `high`, the fifth.
fn fifth(low: u8, high: u32, i: usize) -> u8 {
    low | (((high >> i) & 1) as u8) << 4
}

/// Scale and minimum of group `j` of 8, of 6 bits each, from their 12 bytes.
fn scale_min(scales: &[u8], j: usize) -> (f32, f32) {
    let (scale, min) = if j < 4 {
        (scales[j] & 63, scales[j + 4] & 63)
    } else {
        ((scales[j + 4] & 15) | (scales[j - 4] >> 6) << 4, (scales[j + 4] >> 4) | (scales[j] >> 6) << 4)
    };
    (f32::from(scale), f32::from(min))
}

/// f16 scale, f16 scale of the minima, 12 bytes of both for 8 groups, 128 bytes: 32 bytes hold two groups.
fn q4_k(block: &[u8], out: &mut Vec<f32>) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    let (scales, quants) = (&block[4..16], &block[16..]);
    for j in 0..8 {
        let (scale, min) = scale_min(scales, j);
        let (scale, min) = (d * scale, dmin * min);
        let group = &quants[j / 2 * 32..][..32];
        out.extend(group.iter().map(|byte| scale * f32::from((byte >> (j % 2 * 4)) & 15) - min));
    }
}

/// As Q4_K, with 32 bytes of fifth bits between: bit `j` of byte `i` is of value `i` of group `j`.
fn q5_k(block: &[u8], out: &mut Vec<f32>) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    let (scales, high, quants) = (&block[4..16], &block[16..48], &block[48..]);
    for j in 0..8 {
        let (scale, min) = scale_min(scales, j);
        let (scale, min) = (d * scale, dmin * min);
        let group = &quants[j / 2 * 32..][..32];
        out.extend(group.iter().zip(high).map(|(byte, high)| {
            let q = ((byte >> (j % 2 * 4)) & 15) | ((high >> j) & 1) << 4;
            scale * f32::from(q) - min
        }));
    }
}

/// 128 bytes of low 4 bits, 64 of high 2 bits, 16 signed scales, f16 scale. Halves of 128 values, each four groups of 32
/// whose high bits share bytes.
fn q6_k(block: &[u8], out: &mut Vec<f32>) {
    let (low, high, scales, d) = (&block[..128], &block[128..192], &block[192..208], half_at(block, 208));
    for i in 0..256 {
        let (half, group, at) = (i / 128, i / 32 % 4, i % 32);
        let four = low[half * 64 + group % 2 * 32 + at] >> (group / 2 * 4) & 15;
        let two = high[half * 32 + at] >> (group * 2) & 3;
        let q = i16::from(four | two << 4) - 32;
        out.push(d * f32::from(scales[i / 16] as i8) * f32::from(q));
    }
}

#[cfg(test)]
mod tests;
