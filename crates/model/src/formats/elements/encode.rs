//! Values to stored bytes: ggml's own arithmetic, so that a file has the bytes that llama.cpp's quantiser would give it.
//!
//! From `quantize_row_*_ref` of `ggml-quants.c`, which llama.cpp uses where it is given no importance matrix: all in f32
//! and in the same order. The searches of the types with superblocks are in [`search`](super::search).

use half::{bf16, f16};

use super::ElementType;
use super::search::{BLOCK, q4_k, q6_k};

impl ElementType {
    /// The number that ggml gives this type.
    pub(in crate::formats) fn ggml(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q5_0 => 6,
            Self::Q5_1 => 7,
            Self::Q8_0 => 8,
            Self::Q4K => 12,
            Self::Q5K => 13,
            Self::Q6K => 14,
            Self::Bf16 => 30,
        }
    }

    /// The largest magnitude that is stored as a finite number: scales are halves.
    pub(in crate::formats) fn largest(self) -> f32 {
        match self {
            Self::F32 => f32::MAX,
            Self::Bf16 => bf16::MAX.to_f32(),
            _ => f16::MAX.to_f32(),
        }
    }

    /// Appends the bytes of whole blocks of finite values that are at most [`ElementType::largest`]. Q4_1, Q5_1 and
    /// Q5_K are only read.
    pub(in crate::formats) fn encode(self, values: &[f32], out: &mut Vec<u8>) {
        match self {
            Self::F32 => out.extend(values.iter().flat_map(|value| value.to_le_bytes())),
            Self::F16 => out.extend(values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes())),
            Self::Bf16 => out.extend(values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes())),
            Self::Q8_0 => values.as_chunks().0.iter().for_each(|block| q8_0(block, out)),
            Self::Q4_0 => values.as_chunks().0.iter().for_each(|block| q4_0(block, out)),
            Self::Q5_0 => values.as_chunks().0.iter().for_each(|block| q5_0(block, out)),
            Self::Q4K => values.as_chunks::<BLOCK>().0.iter().for_each(|block| q4_k(block, out)),
            Self::Q6K => values.as_chunks::<BLOCK>().0.iter().for_each(|block| q6_k(block, out)),
            Self::Q4_1 | Self::Q5_1 | Self::Q5K => unreachable!("{} is read only", self.name()),
        }
    }
}

/// The reciprocal of a scale, or 0 of none.
fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

fn q8_0(block: &[f32; 32], out: &mut Vec<u8>) {
    let largest = block.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    let scale = largest / 127.0;
    let inverse = inverse(scale);
    out.extend(f16::from_f32(scale).to_le_bytes());
    out.extend(block.iter().map(|value| (value * inverse).round() as i8 as u8));
}

/// The first value of the largest magnitude, with its sign.
fn extreme(block: &[f32; 32]) -> f32 {
    block.iter().fold(0.0f32, |extreme, &value| if extreme.abs() < value.abs() { value } else { extreme })
}

/// The extreme value is exactly -8 scales, so that the other sign has one step less.
fn q4_0(block: &[f32; 32], out: &mut Vec<u8>) {
    let scale = extreme(block) / -8.0;
    let inverse = inverse(scale);
    out.extend(f16::from_f32(scale).to_le_bytes());
    let four = |value: f32| ((value * inverse + 8.5) as i8 as u8).min(15);
    out.extend((0..16).map(|i| four(block[i]) | four(block[i + 16]) << 4));
}

fn q5_0(block: &[f32; 32], out: &mut Vec<u8>) {
    let scale = extreme(block) / -16.0;
    let inverse = inverse(scale);
    out.extend(f16::from_f32(scale).to_le_bytes());
    let five = |value: f32| ((value * inverse + 16.5) as i8 as u8).min(31);
    let high = (0..32).fold(0u32, |high, i| high | u32::from(five(block[i]) >> 4) << i);
    out.extend(high.to_le_bytes());
    out.extend((0..16).map(|i| (five(block[i]) & 15) | (five(block[i + 16]) & 15) << 4));
}
