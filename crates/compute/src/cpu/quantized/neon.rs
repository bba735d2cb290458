//! Integer products on NEON: `sdot` adds four products of bytes to each of four sums, where the processor has it; elsewhere
//! products are widened to 16 bits and added in pairs. Sums of integers are exact: the results have the same bits.

use super::activations::{self, Rounded};
use super::{Codes, HEADER, PANEL, Q4, Q8};
use core::arch::aarch64::{
    float32x4_t, int8x16_t, int32x4_t, uint32x4_t, vaddq_u32, vandq_u8, vandq_u32, vcvtq_f32_s32, vdupq_n_f32,
    vdupq_n_s32, vdupq_n_u8, vdupq_n_u32, vfmaq_f32, vget_low_s8, vld1q_u32, vmlsq_s32, vmull_high_s8, vmull_s8,
    vmulq_f32, vmulq_n_s32, vpadalq_s16, vpaddq_s32, vreinterpretq_f32_u32, vreinterpretq_s8_u8, vreinterpretq_s8_u32,
    vreinterpretq_s32_u32, vreinterpretq_u8_u32, vshlq_n_u32, vshrq_n_u8, vshrq_n_u32, vst1q_f32,
};

/// Four rows of a panel are a register.
const QUARTERS: usize = PANEL / 4;

/// How bytes are multiplied and added.
pub(super) trait Dot {
    /// Sums of four rows on their way.
    type Sums: Copy;
    fn zero() -> Self::Sums;
    /// In each row's sum four products more.
    ///
    /// # Safety
    /// The processor has what the type's name says.
    unsafe fn add(sums: Self::Sums, weights: int8x16_t, x: int8x16_t) -> Self::Sums;
    fn total(sums: Self::Sums) -> int32x4_t;
}

/// NEON alone: rows 0 and 1, then 2 and 3, each in two halves.
struct Pairs;
impl Dot for Pairs {
    type Sums = [int32x4_t; 2];
    #[inline(always)]
    fn zero() -> Self::Sums {
        // SAFETY: every processor of this architecture has NEON; so below.
        [unsafe { vdupq_n_s32(0) }; 2]
    }
    #[inline(always)]
    unsafe fn add(sums: Self::Sums, weights: int8x16_t, x: int8x16_t) -> Self::Sums {
        // SAFETY: as above.
        unsafe {
            let low = vmull_s8(vget_low_s8(weights), vget_low_s8(x));
            [vpadalq_s16(sums[0], low), vpadalq_s16(sums[1], vmull_high_s8(weights, x))]
        }
    }
    #[inline(always)]
    fn total(sums: Self::Sums) -> int32x4_t {
        // SAFETY: as above.
        unsafe { vpaddq_s32(sums[0], sums[1]) }
    }
}

/// The dot product of bytes (FEAT_DotProd), whose intrinsic is not stable.
struct DotProd;
impl Dot for DotProd {
    type Sums = int32x4_t;
    #[inline(always)]
    fn zero() -> Self::Sums {
        // SAFETY: as above.
        unsafe { vdupq_n_s32(0) }
    }
    #[inline(always)]
    unsafe fn add(mut sums: Self::Sums, weights: int8x16_t, x: int8x16_t) -> Self::Sums {
        // SAFETY: the caller's promise; registers only.
        unsafe {
            core::arch::asm!(
                ".arch_extension dotprod",
                "sdot {sums:v}.4s, {weights:v}.16b, {x:v}.16b",
                sums = inout(vreg) sums,
                weights = in(vreg) weights,
                x = in(vreg) x,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        sums
    }
    #[inline(always)]
    fn total(sums: Self::Sums) -> int32x4_t {
        sums
    }
}

/// A format's codes in NEON's terms.
pub(super) trait NeonCodes: Codes {
    /// For each quarter of a panel the sums over a block of `code * x` of `R` tokens.
    ///
    /// # Safety
    /// The processor has what `D` needs; `words` are a block's.
    unsafe fn sums<D: Dot, const R: usize>(
        words: &[u32],
        x: [&[u32; activations::WORDS]; R],
    ) -> [[D::Sums; QUARTERS]; R];
    /// Scales, divided by the steps, and zero points in steps, of headers in the lower 16 bits.
    fn parts(headers: uint32x4_t) -> (float32x4_t, int32x4_t);
}

/// The four words from `at` on.
///
/// # Safety
/// They are there.
#[inline(always)]
unsafe fn load(words: &[u32], at: usize) -> uint32x4_t {
    debug_assert!(at + 4 <= words.len());
    // SAFETY: the caller's promise.
    unsafe { vld1q_u32(words.as_ptr().add(at)) }
}

/// Four codes of a token, for each row.
#[inline(always)]
fn for_each_row(x: u32) -> int8x16_t {
    // SAFETY: every processor of this architecture has NEON.
    unsafe { vreinterpretq_s8_u32(vdupq_n_u32(x)) }
}

impl NeonCodes for Q8 {
    #[inline(always)]
    unsafe fn sums<D: Dot, const R: usize>(
        words: &[u32],
        x: [&[u32; activations::WORDS]; R],
    ) -> [[D::Sums; QUARTERS]; R] {
        let mut sums = [[D::zero(); QUARTERS]; R];
        for group in 0..activations::WORDS {
            for quarter in 0..QUARTERS {
                // SAFETY: a block has a word a row for each of the activations' words; the caller's promise.
                unsafe {
                    let weights = vreinterpretq_s8_u32(load(words, HEADER + group * PANEL + 4 * quarter));
                    for (sums, x) in sums.iter_mut().zip(x) {
                        sums[quarter] = D::add(sums[quarter], weights, for_each_row(x[group]));
                    }
                }
            }
        }
        sums
    }

    #[inline(always)]
    fn parts(headers: uint32x4_t) -> (float32x4_t, int32x4_t) {
        // SAFETY: every processor of this architecture has NEON.
        unsafe { (vreinterpretq_f32_u32(vshlq_n_u32::<16>(headers)), vdupq_n_s32(0)) }
    }
}

impl NeonCodes for Q4 {
    #[inline(always)]
    unsafe fn sums<D: Dot, const R: usize>(
        words: &[u32],
        x: [&[u32; activations::WORDS]; R],
    ) -> [[D::Sums; QUARTERS]; R] {
        let mut sums = [[D::zero(); QUARTERS]; R];
        for group in 0..activations::WORDS / 2 {
            for quarter in 0..QUARTERS {
                // SAFETY: a block has a word a row for every two of the activations' words; the caller's promise.
                unsafe {
                    let codes = vreinterpretq_u8_u32(load(words, HEADER + group * PANEL + 4 * quarter));
                    let first = vreinterpretq_s8_u8(vandq_u8(codes, vdupq_n_u8(15)));
                    let second = vreinterpretq_s8_u8(vshrq_n_u8::<4>(codes));
                    for (sums, x) in sums.iter_mut().zip(x) {
                        let sum = D::add(sums[quarter], first, for_each_row(x[2 * group]));
                        sums[quarter] = D::add(sum, second, for_each_row(x[2 * group + 1]));
                    }
                }
            }
        }
        sums
    }

    #[inline(always)]
    fn parts(headers: uint32x4_t) -> (float32x4_t, int32x4_t) {
        // SAFETY: every processor of this architecture has NEON.
        unsafe {
            // As `quantize::q4_scale`, and its exponent lower by that of the steps.
            let lowest = vdupq_n_u32((Q4::scale(0).0 / Q4::STEPS as f32).to_bits());
            let scales = vaddq_u32(vshlq_n_u32::<19>(vshrq_n_u32::<6>(headers)), lowest);
            let zeros = vandq_u32(headers, vdupq_n_u32(63));
            (vreinterpretq_f32_u32(scales), vreinterpretq_s32_u32(zeros))
        }
    }
}

/// One tile: a panel's rows by the `R` tokens from `row` on, which are there. The panel has as many blocks as they.
#[inline(always)]
pub(super) fn tile<C: NeonCodes, const R: usize>(x: &Rounded<'_>, row: usize, panel: &[u32]) -> [[f32; PANEL]; R] {
    // SAFETY: what the first needs has just been asked for.
    unsafe {
        if std::arch::is_aarch64_feature_detected!("dotprod") {
            body::<C, DotProd, R>(x, row, panel)
        } else {
            body::<C, Pairs, R>(x, row, panel)
        }
    }
}

/// The tile with whatever multiplies bytes.
///
/// # Safety
/// The processor has what `D` needs.
#[inline(always)]
unsafe fn body<C: NeonCodes, D: Dot, const R: usize>(x: &Rounded<'_>, row: usize, panel: &[u32]) -> [[f32; PANEL]; R] {
    let rows = x.rows::<R>(row);
    let blocks = rows[0].1.len();
    // SAFETY: the caller's promise; a block's words, and as many results as are written.
    unsafe {
        let mut totals = [[vdupq_n_f32(0.0); QUARTERS]; R];
        for block in 0..blocks {
            let words = &panel[block * C::WORDS..][..C::WORDS];
            let sums = C::sums::<D, R>(words, activations::codes_of(&rows, block));
            let (first, second) = (load(words, 0), load(words, 4));
            let low = vdupq_n_u32(0xffff);
            let headers =
                [vandq_u32(first, low), vandq_u32(second, low), vshrq_n_u32::<16>(first), vshrq_n_u32::<16>(second)];
            for (quarter, headers) in headers.into_iter().enumerate() {
                let (scales, zeros) = C::parts(headers);
                for r in 0..R {
                    let sum = match C::STEPS {
                        1 => D::total(sums[r][quarter]),
                        steps => {
                            let of_codes = vdupq_n_s32(rows[r].2[block] as i32);
                            vmlsq_s32(vmulq_n_s32(D::total(sums[r][quarter]), steps), zeros, of_codes)
                        }
                    };
                    let scale = vmulq_f32(scales, vdupq_n_f32(rows[r].1[block]));
                    totals[r][quarter] = vfmaq_f32(totals[r][quarter], vcvtq_f32_s32(sum), scale);
                }
            }
        }
        let mut out = [[0.0_f32; PANEL]; R];
        for (out, totals) in out.iter_mut().zip(&totals) {
            for (to, total) in out.chunks_exact_mut(4).zip(totals) {
                vst1q_f32(to.as_mut_ptr(), *total);
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums_of<C: NeonCodes, D: Dot>(words: &[u32], x: &[u32; activations::WORDS]) -> [[i32; 4]; QUARTERS] {
        // SAFETY: the caller has asked for what `D` needs; a block's words. A register is four numbers.
        unsafe { C::sums::<D, 1>(words, [x])[0].map(|sums| core::mem::transmute(D::total(sums))) }
    }

    fn agree<C: NeonCodes>() {
        if !std::arch::is_aarch64_feature_detected!("dotprod") {
            eprintln!("not checked, for this processor has one way of multiplying bytes");
            return;
        }
        for seed in 0..64_u32 {
            let random = |i: usize| (seed + 977).wrapping_mul(i as u32 + 1).wrapping_mul(2_654_435_761);
            let words: Vec<u32> = (0..C::WORDS).map(random).collect();
            // No code of activations is -128.
            let bytes = |i: usize| random(i + 1000).to_le_bytes().map(|byte| if byte == 128 { 129 } else { byte });
            let x = std::array::from_fn(|i| if seed < 2 { 0x8181_8181 } else { u32::from_le_bytes(bytes(i)) });
            assert_eq!(sums_of::<C, Pairs>(&words, &x), sums_of::<C, DotProd>(&words, &x));
        }
    }

    #[test]
    fn both_ways_of_multiplying_bytes_make_the_same_sums() {
        agree::<Q8>();
        agree::<Q4>();
    }
}
