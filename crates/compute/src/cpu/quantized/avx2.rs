//! Integer products on AVX2: `vpmaddubsw` multiplies bytes of which the first are unsigned, and adds neighbours in 16 bits.
//!
//! q4's codes are unsigned and at most 15: a block's eight products in each lane, `8 * 2 * 15 * 127`, fit into 16 bits, and
//! are widened once. q8's are signed: the sign goes over to the activations' codes, and each product is widened, as two
//! of `127 * 127` are all that fits.
//!
//! Where there is `vpdpbusd` (AVX-VNNI), it is all of that in one instruction. Sums of integers are exact: the results have the same
//! bits. ([`super::avx512vnni`] has AVX-512's.)
//!
//! Loops, not `array::map` and closures: what a closure that is not inlined calls is an intrinsic as a function, and the
//! tile a third as fast. `.ci/run` looks for such functions in the program.

use super::activations::{self, Rounded};
use super::{Codes, HEADER, PANEL, Q4, Q8};
use core::arch::x86_64::{
    __m256i, _mm256_abs_epi8, _mm256_add_epi16, _mm256_add_epi32, _mm256_and_si256, _mm256_castsi256_ps,
    _mm256_cvtepi32_ps, _mm256_dpbusd_avx_epi32, _mm256_fmadd_ps, _mm256_loadu_si256, _mm256_madd_epi16,
    _mm256_maddubs_epi16, _mm256_mul_ps, _mm256_mullo_epi32, _mm256_set1_epi8, _mm256_set1_epi16, _mm256_set1_epi32,
    _mm256_set1_ps, _mm256_setzero_ps, _mm256_setzero_si256, _mm256_sign_epi8, _mm256_slli_epi32, _mm256_srli_epi16,
    _mm256_srli_epi32, _mm256_storeu_ps, _mm256_sub_epi32,
};

/// Eight rows of a panel.
const HALVES: usize = PANEL / 8;

/// How bytes are multiplied and added.
pub(super) trait Dot {
    /// Whether [`Dot::add`] is one instruction, so that nothing is gained by adding in 16 bits first.
    const DIRECT: bool;
    /// In each of eight sums, four products more of an unsigned with a signed byte, each pair of which fits into 16 bits.
    ///
    /// # Safety
    /// The processor has AVX2, and what the type's name says.
    unsafe fn add(sums: __m256i, unsigned: __m256i, signed: __m256i) -> __m256i;
}

/// AVX2 alone.
pub(super) struct Pairs;
impl Dot for Pairs {
    const DIRECT: bool = false;
    #[inline(always)]
    unsafe fn add(sums: __m256i, unsigned: __m256i, signed: __m256i) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe {
            let pairs = _mm256_maddubs_epi16(unsigned, signed);
            _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        }
    }
}

/// AVX-VNNI.
struct AvxVnni;
impl Dot for AvxVnni {
    const DIRECT: bool = true;
    #[inline(always)]
    unsafe fn add(sums: __m256i, unsigned: __m256i, signed: __m256i) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { _mm256_dpbusd_avx_epi32(sums, unsigned, signed) }
    }
}

/// A format's codes in AVX2's terms.
pub(super) trait Avx2Codes: Codes {
    /// For both halves of a panel the sums over a block of `code * x`, times [`Codes::STEPS`], of `R` tokens.
    ///
    /// # Safety
    /// The processor has AVX2 and what `D` needs; `words` are a block's.
    unsafe fn sums<D: Dot, const R: usize>(words: &[u32], x: [&[u32; activations::WORDS]; R])
    -> [[__m256i; HALVES]; R];
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
    unsafe fn sums<D: Dot, const R: usize>(
        words: &[u32],
        x: [&[u32; activations::WORDS]; R],
    ) -> [[__m256i; HALVES]; R] {
        // SAFETY: the caller's promises: a block has a word a row for each of the activations' words.
        unsafe {
            let mut sums = [[_mm256_setzero_si256(); HALVES]; R];
            for group in 0..activations::WORDS {
                let weights = halves(words, HEADER + group * PANEL);
                for (sums, x) in sums.iter_mut().zip(x) {
                    let x = _mm256_set1_epi32(x[group] as i32);
                    for (sum, weights) in sums.iter_mut().zip(weights) {
                        *sum = D::add(*sum, _mm256_abs_epi8(x), _mm256_sign_epi8(weights, x));
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
    unsafe fn sums<D: Dot, const R: usize>(
        words: &[u32],
        x: [&[u32; activations::WORDS]; R],
    ) -> [[__m256i; HALVES]; R] {
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
                        if D::DIRECT {
                            *sum = D::add(D::add(*sum, first, a), second, b);
                        } else {
                            let pairs =
                                _mm256_add_epi16(_mm256_maddubs_epi16(first, a), _mm256_maddubs_epi16(second, b));
                            *sum = _mm256_add_epi16(*sum, pairs);
                        }
                    }
                }
            }
            for sum in sums.as_flattened_mut() {
                *sum = if D::DIRECT {
                    _mm256_mullo_epi32(*sum, _mm256_set1_epi32(Q4::STEPS))
                } else {
                    _mm256_madd_epi16(*sum, _mm256_set1_epi16(Q4::STEPS as i16))
                };
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

/// One tile: a panel's rows by the `R` tokens from `row` on.
///
/// # Safety
/// The processor has AVX2 and FMA. The tokens are there, and the panel has as many blocks as they.
#[inline(always)]
pub(super) unsafe fn tile<C: Avx2Codes, const R: usize>(
    x: &Rounded<'_>,
    row: usize,
    panel: &[u32],
) -> [[f32; PANEL]; R] {
    // SAFETY: the caller's promises; each level's own is what was just asked.
    unsafe {
        if is_x86_feature_detected!("avxvnni") { avx_vnni::<C, R>(x, row, panel) } else { avx2::<C, R>(x, row, panel) }
    }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn avx2<C: Avx2Codes, const R: usize>(x: &Rounded<'_>, row: usize, panel: &[u32]) -> [[f32; PANEL]; R] {
    // SAFETY: the caller's promises.
    unsafe { body::<C, Pairs, R>(x, row, panel) }
}

#[target_feature(enable = "avx2,fma,avxvnni")]
unsafe fn avx_vnni<C: Avx2Codes, const R: usize>(x: &Rounded<'_>, row: usize, panel: &[u32]) -> [[f32; PANEL]; R] {
    // SAFETY: the caller's promises.
    unsafe { body::<C, AvxVnni, R>(x, row, panel) }
}

/// The tile with whatever multiplies bytes.
///
/// # Safety
/// As [`tile`]'s; the processor has what `D` needs.
#[inline(always)]
unsafe fn body<C: Avx2Codes, D: Dot, const R: usize>(x: &Rounded<'_>, row: usize, panel: &[u32]) -> [[f32; PANEL]; R] {
    let rows = x.rows::<R>(row);
    let blocks = rows[0].1.len();
    // SAFETY: the caller's promises.
    unsafe {
        let mut totals = [[_mm256_setzero_ps(); HALVES]; R];
        for block in 0..blocks {
            let words = &panel[block * C::WORDS..][..C::WORDS];
            let sums = C::sums::<D, R>(words, activations::codes_of(&rows, block));
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
                    totals[r][half] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), scale, totals[r][half]);
                }
            }
        }
        let mut out = [[0.0_f32; PANEL]; R];
        for (out, total) in out.iter_mut().zip(&totals) {
            _mm256_storeu_ps(out.as_mut_ptr(), total[0]);
            _mm256_storeu_ps(out.as_mut_ptr().add(8), total[1]);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// [`Dot::add`] as VNNI has it, where there is none: the path that VNNI takes, on any processor with AVX2.
    struct Direct;
    impl Dot for Direct {
        const DIRECT: bool = true;
        #[inline(always)]
        unsafe fn add(sums: __m256i, unsigned: __m256i, signed: __m256i) -> __m256i {
            // SAFETY: the caller's promise.
            unsafe { Pairs::add(sums, unsigned, signed) }
        }
    }

    #[target_feature(enable = "avx2,fma")]
    unsafe fn sums_of<C: Avx2Codes, D: Dot>(words: &[u32], x: &[u32; activations::WORDS]) -> [i32; PANEL] {
        let mut out = [0; PANEL];
        // SAFETY: the caller has found AVX2; a block's words.
        unsafe {
            for (half, sum) in C::sums::<D, 1>(words, [x])[0].into_iter().enumerate() {
                core::arch::x86_64::_mm256_storeu_si256(out[8 * half..].as_mut_ptr().cast(), sum);
            }
        }
        out
    }

    /// Sums of every way of multiplying that this processor has, for codes of all sizes.
    fn agree<C: Avx2Codes>() {
        if !is_x86_feature_detected!("avx2") || !is_x86_feature_detected!("fma") {
            eprintln!("not checked, for this processor has no AVX2");
            return;
        }
        for seed in 0..64_u32 {
            let byte =
                |i: usize| (seed.wrapping_mul(977).wrapping_add(i as u32).wrapping_mul(2_654_435_761) >> 11) as u8;
            // No code of weights or activations is -128.
            let word =
                |i: usize| u32::from_le_bytes([4 * i, 4 * i + 1, 4 * i + 2, 4 * i + 3].map(|i| byte(i).max(129)));
            let small = |i: usize| word(i) & if i.is_multiple_of(3) { 0x7f01_7f7f } else { u32::MAX };
            let words: Vec<u32> = (0..C::WORDS).map(|i| if seed == 0 { 0x7f7f_7f7f } else { small(i) }).collect();
            let x = std::array::from_fn(|i| if seed < 2 { 0x8181_8181 } else { small(i + 1000) });
            // SAFETY: found above, and below.
            unsafe {
                let want = sums_of::<C, Pairs>(&words, &x);
                assert_eq!(sums_of::<C, Direct>(&words, &x), want);
            }
        }
    }

    #[test]
    fn sums_in_one_step_are_those_in_two() {
        agree::<Q8>();
        agree::<Q4>();
    }
}
