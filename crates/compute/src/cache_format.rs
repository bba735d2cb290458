//! How the keys and values of a KV cache lie in memory: as activations do, or in 8 bits with a scale a head and token.
//!
//! **q8.** A row (one token's keys, or its values) is head after head: `head_dim` signed codes from -127 to 127, then two
//! bytes, the head's scale as bf16; a value is `code * scale`. The scale is the head's largest magnitude divided by 127, so an
//! error is at most half a scale. A head's codes and scale are neighbours because attention reads heads, and reads them at
//! the speed of memory. Rows are filled up to whole words: the buffer is of u32, which tells the format, as it does for
//! [moments](crate::MomentFormat).
//!
//! Keys are rounded after RoPE, from f32, and every query reads the rounded ones, those of its own pass included: what a token
//! sees does not depend on where a prompt was cut.

use crate::dtype::{Bf16, DType};

/// Bytes of a head's scale.
pub(crate) const SCALE_BYTES: usize = 2;

/// How keys and values are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CacheFormat {
    /// Single precision, for activations in single precision.
    F32,
    /// bfloat16, for activations in bfloat16.
    Bf16,
    /// 8 bits a value and 16 for each head.
    Q8,
}

impl CacheFormat {
    /// The type of the buffers, which tells the format.
    pub const fn dtype(self) -> DType {
        match self {
            CacheFormat::F32 => DType::F32,
            CacheFormat::Bf16 => DType::Bf16,
            CacheFormat::Q8 => DType::U32,
        }
    }

    /// The format of a buffer of that type.
    pub const fn of(dtype: DType) -> CacheFormat {
        match dtype {
            DType::F32 => CacheFormat::F32,
            DType::Bf16 => CacheFormat::Bf16,
            DType::U32 => CacheFormat::Q8,
        }
    }

    /// Elements of the buffer that one token's keys, or its values, take.
    pub const fn row_len(self, n_kv_head: usize, head_dim: usize) -> usize {
        match self {
            CacheFormat::F32 | CacheFormat::Bf16 => n_kv_head * head_dim,
            CacheFormat::Q8 => (n_kv_head * (head_dim + SCALE_BYTES)).div_ceil(size_of::<u32>()),
        }
    }

    /// Bytes of that row.
    pub const fn row_bytes(self, n_kv_head: usize, head_dim: usize) -> usize {
        self.row_len(n_kv_head, head_dim) * self.dtype().size()
    }

    /// The lower-case name used in listings.
    pub const fn name(self) -> &'static str {
        match self {
            CacheFormat::F32 => "f32",
            CacheFormat::Bf16 => "bf16",
            CacheFormat::Q8 => "q8",
        }
    }
}

/// The plain form: as activations of that type. Panics for indices.
impl From<DType> for CacheFormat {
    fn from(dtype: DType) -> Self {
        match dtype {
            DType::F32 => CacheFormat::F32,
            DType::Bf16 => CacheFormat::Bf16,
            DType::U32 => panic!("activations of indices"),
        }
    }
}

/// The scale behind a head's codes.
#[inline(always)]
pub(crate) fn scale(tail: [u8; SCALE_BYTES]) -> f32 {
    Bf16(u16::from_le_bytes(tail)).to_f32()
}

/// Codes and scale of one head's values. What is not finite makes the scale so, and with it the head's values.
#[inline(always)]
pub(crate) fn quantize_head(values: &[f32], out: &mut [u8]) {
    const MAGNITUDE: u32 = 0x7fff_ffff;
    // To nearest, ties to even, in a form that every instruction set vectorises: beyond 1.5 * 2^23 an f32 has no fraction.
    const SHIFT: f32 = 12_582_912.0;
    // As whole numbers, which order magnitudes as they are, and NaN above all.
    let largest = values.iter().fold(0, |most: u32, x| most.max(x.to_bits() & MAGNITUDE));
    let header = Bf16::from_f32(f32::from_bits(largest) / 127.0);
    let scale = header.to_f32();
    // A head of zeros, or of numbers so small that their scale is none, has codes of 0.
    let inverse = if scale < f32::MIN_POSITIVE { 0.0 } else { 1.0 / scale };
    let (codes, tail) = out.split_at_mut(values.len());
    for (code, x) in codes.iter_mut().zip(values) {
        *code = ((x * inverse).clamp(-127.0, 127.0) + SHIFT).to_bits() as u8;
    }
    tail.copy_from_slice(&header.0.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::kv_cache;

    fn quantized(values: &[f32]) -> Vec<u8> {
        let mut out = vec![0; CacheFormat::Q8.row_bytes(1, values.len())];
        quantize_head(values, &mut out[..values.len() + SCALE_BYTES]);
        out
    }

    #[test]
    fn rows_are_whole_words_and_little_more_than_half_of_bf16() {
        assert_eq!(CacheFormat::Q8.row_bytes(1, 2), 4);
        assert_eq!(CacheFormat::Q8.row_bytes(1, 64), 68);
        assert_eq!(CacheFormat::Q8.row_bytes(16, 64), 1056);
        assert_eq!(CacheFormat::Bf16.row_bytes(16, 64), 2048);
        assert_eq!(CacheFormat::F32.row_bytes(3, 10), 120);
        for format in [CacheFormat::F32, CacheFormat::Bf16, CacheFormat::Q8] {
            assert_eq!(CacheFormat::of(format.dtype()), format);
        }
    }

    #[test]
    fn codes_are_those_of_the_reference_and_errors_below_half_a_step() {
        let tiny = f32::MIN_POSITIVE;
        for values in [
            vec![0.0, 0.0],
            vec![-0.0, 1.0],
            vec![1.0, -1.0, 0.5, 0.003_936, -0.003_937, 127.0],
            vec![-3.4e38, 3.4e38, 1e38, 0.0],
            vec![1e-30, -2e-30, 7e-31, 0.0],
            (0..130).map(|i| ((i * 37 % 101) as f32 - 50.0) / 7.0).collect(),
        ] {
            let row = quantized(&values);
            assert_eq!(row, kv_cache::quantize(&values, 1, values.len()), "{values:?}");
            let (restored, scales) = kv_cache::dequantize(&row, 1, values.len());
            for (x, restored) in values.iter().zip(restored) {
                assert!((f64::from(*x) - restored).abs() <= 0.5 * scales[0] * (1.0 + 1e-6), "{x} became {restored}");
            }
        }
        // So small that the scale is none, or has too few digits: nothing, and not something large.
        let (restored, _) = kv_cache::dequantize(&quantized(&[tiny, -100.0 * tiny]), 1, 2);
        assert!(restored.iter().all(|x| x.abs() <= f64::from(100.0 * tiny)), "{restored:?}");
    }

    #[test]
    fn what_is_not_finite_is_not_hidden() {
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 3, 16] {
                let mut values = vec![0.25; 17];
                values[at] = bad;
                let row = quantized(&values);
                let scale = scale([row[17], row[18]]);
                assert!(!scale.is_finite(), "{bad} at {at}");
            }
        }
    }
}
