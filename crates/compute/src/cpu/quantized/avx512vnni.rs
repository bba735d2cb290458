//! Integer products on AVX-512 with VNNI: a panel's 16 rows are one register, and `vpdpbusd` adds four products to each of its
//! sums.
//!
//! Its first operand is unsigned: q4's codes are; q8's become so by adding 128, which adds `128 sum(x)` to a block's sum and is
//! taken off again. Sums of integers are exact, and blocks are added in f32 as AVX2's tile does: the results have the same bits.
//!
//! Floors: a block of q4 is 288 bytes of a panel, which memory delivers to one of two threads in about 60 cycles; it takes about 40
//! instructions. One token takes a panel after another, which memory's prefetchers follow: two at once, for more sums to be on
//! their way, were read at 20 to 25 GB/s instead of 32. With `R` tokens a block's words are loaded and taken apart once: `R` times
//! eight `vpdpbusd` and four more.

use super::activations::{self, Rounded};
use super::avx2::Avx2Codes;
use super::{HEADER, PANEL, Q4, Q8};
use core::arch::x86_64::{
    __m512i, _MM_HINT_T0, _mm_prefetch, _mm256_loadu_si256, _mm512_add_epi32, _mm512_and_si512, _mm512_broadcast_i64x4,
    _mm512_castsi512_ps, _mm512_cvtepi32_ps, _mm512_dpbusd_epi32, _mm512_dpwssd_epi32, _mm512_fmadd_ps,
    _mm512_loadu_si512, _mm512_mul_ps, _mm512_set_epi32, _mm512_set1_epi8, _mm512_set1_epi32, _mm512_set1_ps,
    _mm512_setzero_ps, _mm512_setzero_si512, _mm512_slli_epi16, _mm512_slli_epi32, _mm512_sllv_epi32,
    _mm512_srli_epi16, _mm512_srli_epi32, _mm512_srlv_epi32, _mm512_storeu_ps, _mm512_sub_epi32, _mm512_xor_si512,
};

/// Words of a cache line.
const LINE: usize = 16;
/// How many blocks ahead several tokens ask for: one block takes them as many instructions as the processor looks ahead.
const AHEAD: usize = 4;

/// Whether this processor has it. AVX-512 itself is the caller's to know.
pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx512vnni")
}

/// A format's codes in these terms.
pub(super) trait VnniCodes: Avx2Codes {
    /// Adds to the sums of `R` tokens those over a block of `code * x`, times [`super::Codes::STEPS`].
    ///
    /// # Safety
    /// The processor has AVX-512 and VNNI; `words` are a block's.
    unsafe fn add_block<const R: usize>(words: &[u32], x: [&[u32; activations::WORDS]; R], sums: &mut [__m512i; R]);
    /// Scales, divided by [`super::Codes::STEPS`], and how often a token's sum of codes is to be added to its sum: a negative
    /// number of 16 bits, below zeros.
    ///
    /// # Safety
    /// The processor has AVX-512; `words` are a block's.
    unsafe fn header(words: &[u32]) -> (__m512i, __m512i);
}

/// The 16 words from `at` on.
///
/// # Safety
/// They are there; the processor has AVX-512.
#[inline(always)]
unsafe fn load(words: &[u32], at: usize) -> __m512i {
    debug_assert!(at + PANEL <= words.len());
    // SAFETY: the caller's promise.
    unsafe { _mm512_loadu_si512(words.as_ptr().add(at).cast()) }
}

/// A block's header words twice: of rows 0 to 7, and of rows 8 to 15, which are in their upper halves.
///
/// # Safety
/// As [`load`]'s.
#[inline(always)]
unsafe fn headers(words: &[u32]) -> __m512i {
    debug_assert!(words.len() >= HEADER);
    // SAFETY: the caller's promise.
    unsafe { _mm512_broadcast_i64x4(_mm256_loadu_si256(words.as_ptr().cast())) }
}

impl VnniCodes for Q8 {
    #[inline(always)]
    unsafe fn add_block<const R: usize>(words: &[u32], x: [&[u32; activations::WORDS]; R], sums: &mut [__m512i; R]) {
        // SAFETY: the caller's promises: a block has a word a row for each of the activations' words.
        unsafe {
            for group in 0..activations::WORDS {
                let weights = load(words, HEADER + group * PANEL);
                let unsigned = _mm512_xor_si512(weights, _mm512_set1_epi8(-128));
                for (sum, x) in sums.iter_mut().zip(x) {
                    *sum = _mm512_dpbusd_epi32(*sum, unsigned, _mm512_set1_epi32(x[group] as i32));
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn header(words: &[u32]) -> (__m512i, __m512i) {
        // SAFETY: the caller's promise.
        unsafe {
            let to_the_top = _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 16, 16, 16, 16, 16, 16, 16, 16);
            let scales = _mm512_sllv_epi32(headers(words), to_the_top);
            (_mm512_and_si512(scales, _mm512_set1_epi32(0xffff_0000_u32 as i32)), _mm512_set1_epi32(0xffff & -128))
        }
    }
}

impl VnniCodes for Q4 {
    #[inline(always)]
    unsafe fn add_block<const R: usize>(words: &[u32], x: [&[u32; activations::WORDS]; R], sums: &mut [__m512i; R]) {
        // A code's four bits, where they are four times the code.
        const { assert!(<Q4 as super::Codes>::STEPS == 4) };
        // SAFETY: the caller's promises: a block has a word a row for every two of the activations' words.
        unsafe {
            let bits = _mm512_set1_epi8(15 << 2);
            for group in 0..activations::WORDS / 2 {
                let weights = load(words, HEADER + group * PANEL);
                let first = _mm512_and_si512(_mm512_slli_epi16::<2>(weights), bits);
                let second = _mm512_and_si512(_mm512_srli_epi16::<2>(weights), bits);
                for (sum, x) in sums.iter_mut().zip(x) {
                    *sum = _mm512_dpbusd_epi32(*sum, first, _mm512_set1_epi32(x[2 * group] as i32));
                    *sum = _mm512_dpbusd_epi32(*sum, second, _mm512_set1_epi32(x[2 * group + 1] as i32));
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn header(words: &[u32]) -> (__m512i, __m512i) {
        // SAFETY: the caller's promise.
        unsafe {
            let to_the_bottom = _mm512_set_epi32(16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0);
            let headers = _mm512_and_si512(_mm512_srlv_epi32(headers(words), to_the_bottom), _mm512_set1_epi32(0xffff));
            // As `quantize::q4_scale`, and its exponent lower by that of the steps.
            let lowest = <Q4 as super::Codes>::scale(0).0 / <Q4 as super::Codes>::STEPS as f32;
            let lowest = _mm512_set1_epi32(lowest.to_bits() as i32);
            let scales = _mm512_add_epi32(_mm512_slli_epi32::<19>(_mm512_srli_epi32::<6>(headers)), lowest);
            let zeros = _mm512_and_si512(headers, _mm512_set1_epi32(63));
            let taken_off = _mm512_sub_epi32(_mm512_setzero_si512(), zeros);
            (scales, _mm512_and_si512(taken_off, _mm512_set1_epi32(0xffff)))
        }
    }
}

/// One tile: a panel's rows by the `R` tokens from `row` on.
///
/// # Safety
/// The processor has AVX-512 (F, BW) and VNNI. The tokens are there, and the panel has as many blocks as they.
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn tile<C: VnniCodes, const R: usize>(
    x: &Rounded<'_>,
    row: usize,
    panel: &[u32],
) -> [[f32; PANEL]; R] {
    let rows = x.rows::<R>(row);
    let blocks = rows[0].1.len();
    // SAFETY: the caller's promises.
    unsafe {
        let mut totals = [_mm512_setzero_ps(); R];
        for block in 0..blocks {
            let codes = activations::codes_of(&rows, block);
            let words = &panel[block * C::WORDS..][..C::WORDS];
            if R > 1 {
                for line in (0..C::WORDS).step_by(LINE) {
                    // The next panel begins where this one ends; where nothing does, nothing is read.
                    _mm_prefetch::<_MM_HINT_T0>(words.as_ptr().wrapping_add(AHEAD * C::WORDS + line).cast());
                }
            }
            let (scales, taken_off) = C::header(words);
            let mut sums = [_mm512_setzero_si512(); R];
            for (sum, row) in sums.iter_mut().zip(rows) {
                // Both fit into 16 bits: a sum of 32 codes is at most 4,064.
                *sum = _mm512_dpwssd_epi32(*sum, taken_off, _mm512_set1_epi32(row.2[block] as i32));
            }
            C::add_block::<R>(words, codes, &mut sums);
            for r in 0..R {
                let scale = _mm512_mul_ps(_mm512_castsi512_ps(scales), _mm512_set1_ps(rows[r].1[block]));
                totals[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[r]), scale, totals[r]);
            }
        }
        let mut out = [[0.0_f32; PANEL]; R];
        for (out, total) in out.iter_mut().zip(totals) {
            _mm512_storeu_ps(out.as_mut_ptr(), total);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::isa::Isa;
    use crate::cpu::memory::{Carver, Memory};
    use crate::cpu::pool::Pool;
    use crate::quantize::BLOCK;

    /// Tokens of the widest tile.
    const ROWS: usize = super::super::WIDE_ROWS;

    /// Words of any bits whose scales are numbers, rows of any codes: every tile's bits beside those of AVX2's.
    fn has_the_bits_of_avx2<C: VnniCodes>(header_mask: u32) {
        const BLOCKS: usize = 5;
        const COLUMNS: usize = BLOCKS * BLOCK;
        let word = |i: usize| (i as u32).wrapping_mul(2_654_435_761) ^ (i as u32).wrapping_mul(40_503) << 7;
        // No code of q8 is -128.
        let bits_of = |i: usize| if i % C::WORDS < HEADER { word(i) & header_mask } else { word(i) | 0x0101_0101 };
        let panel: Vec<u32> = (0..BLOCKS * C::WORDS).map(bits_of).collect();
        let x: Vec<f32> = (0..ROWS * COLUMNS).map(|i| (i * 7919 % 1013) as f32 / 100.0 - 5.0).collect();
        let pool = Pool::new(1, Isa::Avx512).unwrap();
        let mut memory = Memory::new("test", activations::bytes(ROWS, BLOCKS)).unwrap();
        let mut scratch = Carver::new(memory.as_bytes_mut());
        let x = Rounded::new(&pool, &x, (ROWS, COLUMNS), &mut scratch);
        let bits = |out: &[[f32; PANEL]]| -> Vec<u32> { out.as_flattened().iter().map(|x| x.to_bits()).collect() };
        // SAFETY: the caller has found AVX-512 and VNNI; the rows and blocks are there.
        unsafe {
            let eight = tile::<C, ROWS>(&x, 0, &panel);
            for row in 0..ROWS {
                let want = super::super::avx2::tile::<C, 1>(&x, row, &panel);
                assert_eq!(bits(&tile::<C, 1>(&x, row, &panel)), bits(&want), "one token, {row}");
                assert_eq!(bits(&eight[row..=row]), bits(&want), "eight tokens, {row}");
            }
        }
    }

    #[test]
    fn tiles_have_the_bits_of_avx2() {
        if !Isa::Avx512.is_available() || !is_available() {
            eprintln!("not checked, for this processor has no AVX-512-VNNI");
            return;
        }
        // Scales of q8 are bf16: without the highest exponents, and so without infinities.
        has_the_bits_of_avx2::<Q8>(0xbfff_bfff);
        has_the_bits_of_avx2::<Q4>(u32::MAX);
    }
}
