//! Integer products on AVX2: `vpmaddubsw` multiplies bytes of which the first are unsigned, and adds neighbours in 16 bits.
//!
//! q4's codes are unsigned and at most 15: a block's eight products in each lane, `8 * 2 * 15 * 127`, fit into 16 bits, and
//! are widened once. q8's are signed: the sign goes over to the activations' codes, and each product is widened, as two
//! of `127 * 127` are all that fits.
//!
//! Loops, not `array::map` and closures: what a closure that is not inlined calls is an intrinsic as a function, and the
//! tile a third as fast. `.ci/run` looks for such functions in the program.

use super::activations::{self, Rounded};
use super::{Codes, HEADER, PANEL, Q4, Q8};
use core::arch::x86_64::{
    __m256i, _mm256_abs_epi8, _mm256_add_epi16, _mm256_add_epi32, _mm256_and_si256, _mm256_castsi256_ps,
    _mm256_cvtepi32_ps, _mm256_fmadd_ps, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_mul_ps,
    _mm256_mullo_epi32, _mm256_set1_epi8, _mm256_set1_epi16, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_ps,
    _mm256_setzero_si256, _mm256_sign_epi8, _mm256_slli_epi32, _mm256_srli_epi16, _mm256_srli_epi32, _mm256_storeu_ps,
    _mm256_sub_epi32,
};

/// Eight rows of a panel.
const HALVES: usize = PANEL / 8;

/// A format's codes in AVX2's terms.
pub(super) trait Avx2Codes: Codes {
    /// For both halves of a panel the sums over a block of `code * x`, times [`Codes::STEPS`], of `R` tokens.
    ///
    /// # Safety
    /// The processor has AVX2; `words` are a block's.
    unsafe fn sums<const R: usize>(words: &[u32], x: [&[u32; activations::WORDS]; R]) -> [[__m256i; HALVES]; R];
    /// Scales, divided by the steps, and zero points in steps, of headers in the lower 16 bits.
    ///
    /// # Safety
    /// The processor has AVX2.
    unsafe fn parts(headers: __m256i) -> (__m256i, __m256i);
}

/// The eight words from `at` on.
///
/// # Safety
/// They are there; the processor has AVX2.
#[inline(always)]
unsafe fn load(words: &[u32], at: usize) -> __m256i {
    debug_assert!(at + 8 <= words.len());
    // SAFETY: the caller's promise.
    unsafe { _mm256_loadu_si256(words.as_ptr().add(at).cast()) }
}

/// The words of a panel's two halves from `at` on.
///
/// # Safety
/// As [`load`]'s.
#[inline(always)]
unsafe fn halves(words: &[u32], at: usize) -> [__m256i; HALVES] {
    // SAFETY: the caller's promise.
    unsafe { [load(words, at), load(words, at + 8)] }
}

impl Avx2Codes for Q8 {
    #[inline(always)]
    unsafe fn sums<const R: usize>(words: &[u32], x: [&[u32; activations::WORDS]; R]) -> [[__m256i; HALVES]; R] {
        // SAFETY: the caller's promises: a block has a word a row for each of the activations' words.
        unsafe {
            let mut sums = [[_mm256_setzero_si256(); HALVES]; R];
            let ones = _mm256_set1_epi16(1);
            for group in 0..activations::WORDS {
                let weights = halves(words, HEADER + group * PANEL);
                for (sums, x) in sums.iter_mut().zip(x) {
                    let x = _mm256_set1_epi32(x[group] as i32);
                    for (sum, weights) in sums.iter_mut().zip(weights) {
                        let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(x), _mm256_sign_epi8(weights, x));
                        *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, ones));
                    }
                }
            }
            sums
        }
    }

    #[inline(always)]
    unsafe fn parts(headers: __m256i) -> (__m256i, __m256i) {
        // SAFETY: the caller's promise.
        unsafe { (_mm256_slli_epi32::<16>(headers), _mm256_setzero_si256()) }
    }
}

impl Avx2Codes for Q4 {
    #[inline(always)]
    unsafe fn sums<const R: usize>(words: &[u32], x: [&[u32; activations::WORDS]; R]) -> [[__m256i; HALVES]; R] {
        // SAFETY: the caller's promises: a block has a word a row for every two of the activations' words.
        unsafe {
            let mut sums = [[_mm256_setzero_si256(); HALVES]; R];
            let low = _mm256_set1_epi8(15);
            for group in 0..activations::WORDS / 2 {
                let weights = halves(words, HEADER + group * PANEL);
                let mut codes = [[_mm256_setzero_si256(); 2]; HALVES];
                for (codes, weights) in codes.iter_mut().zip(weights) {
                    *codes = [_mm256_and_si256(weights, low), _mm256_and_si256(_mm256_srli_epi16::<4>(weights), low)];
                }
                for (sums, x) in sums.iter_mut().zip(x) {
                    let a = _mm256_set1_epi32(x[2 * group] as i32);
                    let b = _mm256_set1_epi32(x[2 * group + 1] as i32);
                    for (sum, [first, second]) in sums.iter_mut().zip(codes) {
                        let pairs = _mm256_add_epi16(_mm256_maddubs_epi16(first, a), _mm256_maddubs_epi16(second, b));
                        *sum = _mm256_add_epi16(*sum, pairs);
                    }
                }
            }
            let steps = _mm256_set1_epi16(Q4::STEPS as i16);
            for sum in sums.as_flattened_mut() {
                *sum = _mm256_madd_epi16(*sum, steps);
            }
            sums
        }
    }

    #[inline(always)]
    unsafe fn parts(headers: __m256i) -> (__m256i, __m256i) {
        // SAFETY: the caller's promise.
        unsafe {
            // As `quantize::q4_scale`, and its exponent lower by that of the steps.
            let lowest = _mm256_set1_epi32((Q4::scale(0).0 / Q4::STEPS as f32).to_bits() as i32);
            let scales = _mm256_add_epi32(_mm256_slli_epi32::<19>(_mm256_srli_epi32::<6>(headers)), lowest);
            (scales, _mm256_and_si256(headers, _mm256_set1_epi32(63)))
        }
    }
}

/// One tile, `[R][P]` panels wide, of the tokens from `row` on.
///
/// # Safety
/// The processor has AVX2 and FMA. The tokens are there, and each panel has as many blocks as they.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn tile<C: Avx2Codes, const R: usize, const P: usize>(
    x: &Rounded<'_>,
    row: usize,
    panels: [&[u32]; P],
) -> [[[f32; PANEL]; P]; R] {
    let mut rows = [x.row(row); R];
    for (r, of) in rows.iter_mut().enumerate() {
        *of = x.row(row + r);
    }
    let blocks = rows[0].1.len();
    // SAFETY: the caller's promises.
    unsafe {
        let mut totals = [[[_mm256_setzero_ps(); HALVES]; P]; R];
        for block in 0..blocks {
            for (p, panel) in panels.iter().enumerate() {
                let words = &panel[block * C::WORDS..][..C::WORDS];
                let mut codes = [&rows[0].0[block]; R];
                for (codes, row) in codes.iter_mut().zip(&rows) {
                    *codes = &row.0[block];
                }
                let sums = C::sums::<R>(words, codes);
                let headers = load(words, 0);
                let halves = [_mm256_and_si256(headers, _mm256_set1_epi32(0xffff)), _mm256_srli_epi32::<16>(headers)];
                for (half, headers) in halves.into_iter().enumerate() {
                    let (scales, zeros) = C::parts(headers);
                    for r in 0..R {
                        let sum = match C::STEPS {
                            1 => sums[r][half],
                            _ => {
                                let of_codes = _mm256_set1_epi32(rows[r].2[block] as i32);
                                _mm256_sub_epi32(sums[r][half], _mm256_mullo_epi32(zeros, of_codes))
                            }
                        };
                        let scale = _mm256_mul_ps(_mm256_castsi256_ps(scales), _mm256_set1_ps(rows[r].1[block]));
                        totals[r][p][half] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), scale, totals[r][p][half]);
                    }
                }
            }
        }
        let mut out = [[[0.0_f32; PANEL]; P]; R];
        for (out, total) in out.as_flattened_mut().iter_mut().zip(totals.as_flattened()) {
            _mm256_storeu_ps(out.as_mut_ptr(), total[0]);
            _mm256_storeu_ps(out.as_mut_ptr().add(8), total[1]);
        }
        out
    }
}
