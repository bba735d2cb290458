//! Blocks of 8 x 8 words with AVX2.

use core::arch::x86_64::{
    __m256i, _mm256_loadu_si256, _mm256_permute2x128_si256, _mm256_setzero_si256, _mm256_storeu_si256,
    _mm256_unpackhi_epi32, _mm256_unpackhi_epi64, _mm256_unpacklo_epi32, _mm256_unpacklo_epi64,
};

use super::Words;
use crate::cpu::gemm::pack::PANEL;

/// Rows and words of a block.
const SIDE: usize = 8;

pub(in crate::cpu::gemm) struct Avx2;

impl Words for Avx2 {
    const SIDE: usize = SIDE;

    #[inline(always)]
    unsafe fn transpose(from: *const u8, stride: usize, to: *mut u8, group: usize) {
        // SAFETY: the caller's promises.
        unsafe { words(from, stride, to, group) }
    }
}

/// Writes eight slots' halves from eight rows of eight words; rows are `stride` elements apart, of which a word has `group`.
///
/// # Safety
/// `from` covers the rows, `to` eight halves of slots of [`PANEL`] words; the processor has AVX2.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn words(from: *const u8, stride: usize, to: *mut u8, group: usize) {
    let mut x = [_mm256_setzero_si256(); SIDE];
    for (row, x) in x.iter_mut().enumerate() {
        // SAFETY: the caller's promise; an element has `4 / group` bytes.
        *x = unsafe { _mm256_loadu_si256(from.add(row * stride * (4 / group)).cast()) };
    }
    // In each 128-bit lane: four rows' words of one column, of columns 0 to 3 (low lane) and 4 to 7.
    let columns = |a: __m256i, b: __m256i, c: __m256i, d: __m256i| {
        let low = [_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d)];
        let high = [_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d)];
        [
            _mm256_unpacklo_epi64(low[0], low[1]),
            _mm256_unpackhi_epi64(low[0], low[1]),
            _mm256_unpacklo_epi64(high[0], high[1]),
            _mm256_unpackhi_epi64(high[0], high[1]),
        ]
    };
    let upper = columns(x[0], x[1], x[2], x[3]);
    let lower = columns(x[4], x[5], x[6], x[7]);
    for (column, (upper, lower)) in upper.into_iter().zip(lower).enumerate() {
        // SAFETY: the caller's promise.
        unsafe {
            let slot = |column: usize| to.add(column * 4 * PANEL).cast();
            _mm256_storeu_si256(slot(column), _mm256_permute2x128_si256::<0x20>(upper, lower));
            _mm256_storeu_si256(slot(column + 4), _mm256_permute2x128_si256::<0x31>(upper, lower));
        }
    }
}
