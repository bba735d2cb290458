//! Integer products on NEON: `sdot` adds four products of bytes to each of four sums, where the processor has it; elsewhere
//! products are widened to 16 bits and added in pairs. Of two and of four tokens `smmla` multiplies two rows by two tokens over eight
//! codes, twice what `sdot` does. Sums of integers are exact: the results have the same bits.

use super::activations::{self, Rounded};
use super::{Codes, HEADER, PANEL, Q4, Q8};
use crate::cpu::arm::{sdot, smmla};
use core::arch::aarch64::{
    float32x4_t, int8x16_t, int32x4_t, uint32x4_t, vaddq_u32, vandq_u8, vandq_u32, vcombine_u64, vcvtq_f32_s32,
    vdupq_n_f32, vdupq_n_s32, vdupq_n_u8, vdupq_n_u32, vdupq_n_u64, vfmaq_f32, vget_low_s8, vld1_u64, vld1q_u32,
    vmlsq_s32, vmull_high_s8, vmull_s8, vmulq_f32, vmulq_n_s32, vpadalq_s16, vpaddq_s32, vreinterpretq_f32_u32,
    vreinterpretq_s8_u8, vreinterpretq_s8_u32, vreinterpretq_s8_u64, vreinterpretq_s32_u32, vreinterpretq_u8_u32,
    vreinterpretq_u32_s8, vshlq_n_u32, vshrq_n_u8, vshrq_n_u32, vst1q_f32, vuzp1q_s32, vuzp2q_s32, vzip1q_u32,
    vzip2q_u32,
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

/// The dot product of bytes (FEAT_DotProd).
struct DotProd;
impl Dot for DotProd {
    type Sums = int32x4_t;
    #[inline(always)]
    fn zero() -> Self::Sums {
        // SAFETY: as above.
        unsafe { vdupq_n_s32(0) }
    }
    #[inline(always)]
    unsafe fn add(sums: Self::Sums, weights: int8x16_t, x: int8x16_t) -> Self::Sums {
        // SAFETY: the caller's promise.
        unsafe { sdot(sums, weights, x) }
    }
    #[inline(always)]
    fn total(sums: Self::Sums) -> int32x4_t {
        sums
    }
}

/// A format's codes in NEON's terms.
pub(super) trait NeonCodes: Codes {
    /// The codes of a quarter of a panel that meet words `2 pair` and `2 pair + 1` of a token, four of each row.
    ///
    /// # Safety
    /// `words` are a block's.
    unsafe fn codes(words: &[u32], pair: usize, quarter: usize) -> [int8x16_t; 2];
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
    unsafe fn codes(words: &[u32], pair: usize, quarter: usize) -> [int8x16_t; 2] {
        let at = HEADER + 2 * pair * PANEL + 4 * quarter;
        // SAFETY: a block has a word a row for each of the activations' words.
        unsafe { [vreinterpretq_s8_u32(load(words, at)), vreinterpretq_s8_u32(load(words, at + PANEL))] }
    }

    #[inline(always)]
    fn parts(headers: uint32x4_t) -> (float32x4_t, int32x4_t) {
        // SAFETY: every processor of this architecture has NEON.
        unsafe { (vreinterpretq_f32_u32(vshlq_n_u32::<16>(headers)), vdupq_n_s32(0)) }
    }
}

impl NeonCodes for Q4 {
    #[inline(always)]
    unsafe fn codes(words: &[u32], pair: usize, quarter: usize) -> [int8x16_t; 2] {
        // SAFETY: a block has a word a row for every two of the activations' words.
        unsafe {
            let codes = vreinterpretq_u8_u32(load(words, HEADER + pair * PANEL + 4 * quarter));
            [vreinterpretq_s8_u8(vandq_u8(codes, vdupq_n_u8(15))), vreinterpretq_s8_u8(vshrq_n_u8::<4>(codes))]
        }
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

/// Sums over a block of `code * x`, of `R` tokens by the quarters of a panel.
type Totals<const R: usize> = [[int32x4_t; QUARTERS]; R];

/// By a row of tokens after the other.
///
/// # Safety
/// The processor has what `D` needs; `words` are a block's.
#[inline(always)]
unsafe fn sums<C: NeonCodes, D: Dot, const R: usize>(words: &[u32], x: [&[u32; activations::WORDS]; R]) -> Totals<R> {
    let mut sums = [[D::zero(); QUARTERS]; R];
    for pair in 0..activations::WORDS / 2 {
        for quarter in 0..QUARTERS {
            // SAFETY: the caller's promises.
            unsafe {
                let [first, second] = C::codes(words, pair, quarter);
                for (sums, x) in sums.iter_mut().zip(x) {
                    let sum = D::add(sums[quarter], first, for_each_row(x[2 * pair]));
                    sums[quarter] = D::add(sum, second, for_each_row(x[2 * pair + 1]));
                }
            }
        }
    }
    sums.map(|sums| sums.map(D::total))
}

/// The same of an even number of tokens, by two rows and two tokens.
///
/// # Safety
/// The processor has FEAT_I8MM; `words` are a block's.
#[inline(always)]
unsafe fn sums_by_pairs<C: NeonCodes, const R: usize>(words: &[u32], x: [&[u32; activations::WORDS]; R]) -> Totals<R> {
    // SAFETY: the caller's promises; every processor of this architecture has NEON.
    unsafe {
        // Rows 0 and 1 of a quarter, then 2 and 3, by two tokens; of `R` tokens half of these are used.
        let mut sums = [[[vdupq_n_s32(0); 2]; QUARTERS]; R];
        for pair in 0..activations::WORDS / 2 {
            let mut tokens = [vdupq_n_u64(0); R];
            for (tokens, x) in tokens.iter_mut().zip(x.as_chunks::<2>().0) {
                let eight = |x: &[u32; activations::WORDS]| vld1_u64(x.as_ptr().add(2 * pair).cast());
                *tokens = vcombine_u64(eight(x[0]), eight(x[1]));
            }
            for quarter in 0..QUARTERS {
                let [first, second] = C::codes(words, pair, quarter).map(|codes| vreinterpretq_u32_s8(codes));
                let rows = [vzip1q_u32(first, second), vzip2q_u32(first, second)];
                for (sums, x) in sums.iter_mut().zip(tokens).take(R / 2) {
                    for (sum, rows) in sums[quarter].iter_mut().zip(rows) {
                        *sum = smmla(*sum, vreinterpretq_s8_u32(rows), vreinterpretq_s8_u64(x));
                    }
                }
            }
        }
        let mut totals = [[vdupq_n_s32(0); QUARTERS]; R];
        for (totals, sums) in totals.as_chunks_mut::<2>().0.iter_mut().zip(&sums) {
            for (quarter, [upper, lower]) in sums.iter().enumerate() {
                totals[0][quarter] = vuzp1q_s32(*upper, *lower);
                totals[1][quarter] = vuzp2q_s32(*upper, *lower);
            }
        }
        totals
    }
}

/// One tile: a panel's rows by the `R` tokens from `row` on, which are there. The panel has as many blocks as they.
#[inline(always)]
pub(super) fn tile<C: NeonCodes, const R: usize>(x: &Rounded<'_>, row: usize, panel: &[u32]) -> [[f32; PANEL]; R] {
    // SAFETY: what the first two need has just been asked for.
    unsafe {
        if R.is_multiple_of(2) && std::arch::is_aarch64_feature_detected!("i8mm") {
            body::<C, R>(x, row, panel, |words, x| sums_by_pairs::<C, R>(words, x))
        } else if std::arch::is_aarch64_feature_detected!("dotprod") {
            body::<C, R>(x, row, panel, |words, x| sums::<C, DotProd, R>(words, x))
        } else {
            body::<C, R>(x, row, panel, |words, x| sums::<C, Pairs, R>(words, x))
        }
    }
}

/// The tile with whatever adds up a block. A function of its own: a call for a tile is nothing, and registers are given out for one
/// loop at a time.
#[inline(never)]
fn body<C: NeonCodes, const R: usize>(
    x: &Rounded<'_>,
    row: usize,
    panel: &[u32],
    sums_of: impl Fn(&[u32], [&[u32; activations::WORDS]; R]) -> Totals<R>,
) -> [[f32; PANEL]; R] {
    let rows = x.rows::<R>(row);
    let blocks = rows[0].1.len();
    // SAFETY: every processor of this architecture has NEON; a block's words, and as many results as are written.
    unsafe {
        let mut totals = [[vdupq_n_f32(0.0); QUARTERS]; R];
        for block in 0..blocks {
            let words = &panel[block * C::WORDS..][..C::WORDS];
            let sums = sums_of(words, activations::codes_of(&rows, block));
            let (first, second) = (load(words, 0), load(words, 4));
            let low = vdupq_n_u32(0xffff);
            let headers =
                [vandq_u32(first, low), vandq_u32(second, low), vshrq_n_u32::<16>(first), vshrq_n_u32::<16>(second)];
            for (quarter, headers) in headers.into_iter().enumerate() {
                let (scales, zeros) = C::parts(headers);
                for r in 0..R {
                    let sum = match C::STEPS {
                        1 => sums[r][quarter],
                        steps => {
                            let of_codes = vdupq_n_s32(rows[r].2[block] as i32);
                            vmlsq_s32(vmulq_n_s32(sums[r][quarter], steps), zeros, of_codes)
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

    fn numbers<const R: usize>(sums: Totals<R>) -> [[[i32; 4]; QUARTERS]; R] {
        // SAFETY: a register is four numbers.
        sums.map(|sums| sums.map(|four| unsafe { core::mem::transmute(four) }))
    }

    fn agree<C: NeonCodes>() {
        let (dot, matrix) =
            (std::arch::is_aarch64_feature_detected!("dotprod"), std::arch::is_aarch64_feature_detected!("i8mm"));
        if !dot || !matrix {
            eprintln!("not all checked, for this processor does not have every way of multiplying bytes");
        }
        for seed in 0..64_u32 {
            let random = |i: usize| (seed + 977).wrapping_mul(i as u32 + 1).wrapping_mul(2_654_435_761);
            let words: Vec<u32> = (0..C::WORDS).map(random).collect();
            // No code of activations is -128.
            let bytes = |i: usize| random(i + 1000).to_le_bytes().map(|byte| if byte == 128 { 129 } else { byte });
            let token = |t: usize| -> [u32; activations::WORDS] {
                std::array::from_fn(|i| if seed < 2 { 0x8181_8181 } else { u32::from_le_bytes(bytes(8 * t + i)) })
            };
            let x: [_; 4] = std::array::from_fn(token);
            let x = [&x[0], &x[1], &x[2], &x[3]];
            // SAFETY: what is not everywhere has been asked for; a block's words.
            unsafe {
                let want = numbers(sums::<C, Pairs, 4>(&words, x));
                for (t, x) in x.into_iter().enumerate() {
                    let naive = |row: usize| -> i32 {
                        let code = |i: usize| C::code(words[HEADER + i / C::GROUP * PANEL + row], i % C::GROUP);
                        (0..super::super::BLOCK).map(|i| code(i) * activations::code(x, i)).sum()
                    };
                    assert_eq!(want[t].as_flattened(), (0..PANEL).map(naive).collect::<Vec<_>>());
                }
                if dot {
                    assert_eq!(numbers(sums::<C, DotProd, 4>(&words, x)), want);
                }
                if matrix {
                    assert_eq!(numbers(sums_by_pairs::<C, 4>(&words, x)), want);
                }
            }
        }
    }

    #[test]
    fn every_way_of_multiplying_bytes_makes_the_same_sums() {
        agree::<Q8>();
        agree::<Q4>();
    }
}
