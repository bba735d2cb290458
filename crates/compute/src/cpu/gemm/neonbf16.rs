//! The bf16 micro-kernel of ARM: `bfmmla` multiplies two rows by two columns over four `k`.
//!
//! A pair of groups, one row of a panel behind the other, becomes operands of two columns by interleaving their pairs; so does
//! a left operand in panels. 8 rows by 8 columns hold 16 of 32 registers: a step of four `k` issues 16 products for 4 loads and
//! 4 interleavings of the panel and 8 loads of rows. A panel takes two such passes.
//!
//! The instruction rounds each sum of two products to odd before it is added, and takes what is below the normal numbers for 0
//! (Arm's Architecture Reference Manual, BFMMLA). A row's results do not depend on the row beside it.

use super::kernel::Destination;
use super::pack::PANEL;
use crate::cpu::arm::bfmmla;
use crate::dtype::Bf16;
use core::arch::aarch64::{
    uint16x8_t, uint32x4_t, vaddq_f32, vcombine_u32, vdup_n_u32, vdupq_n_f32, vdupq_n_u32, vld1_lane_u32, vld1_u32,
    vld1q_f32, vld1q_u32, vreinterpretq_f32_f64, vreinterpretq_f64_f32, vreinterpretq_u16_u32, vst1q_f32, vzip1q_f64,
    vzip1q_u32, vzip2q_f64, vzip2q_u32,
};

/// Rows of a tile, which has one panel.
pub(super) const ROWS: usize = 8;
/// Columns of a pass.
const COLUMNS: usize = PANEL / 2;
/// Groups of `k`, pairs, of a product.
const STEP: usize = 2;

/// Computes one tile.
///
/// # Safety
/// The processor has the instruction (FEAT_BF16). `a` covers `rows` rows of `groups` pairs at `strides` (row, pair); where the pairs of a
/// row do not lie side by side the tile's rows do, and as many as [`ROWS`] are readable. `b` covers a panel of `groups` pairs;
/// `rows <= ROWS`; `to` has room.
#[inline(always)]
pub(super) unsafe fn multiply(
    a: *const Bf16,
    strides: (usize, usize),
    b: *const Bf16,
    groups: usize,
    rows: usize,
    to: Destination,
) {
    macro_rules! pick {
        ($($pairs:literal)*) => {
            match (rows.div_ceil(2), strides.1 == STEP) {
                $(
                    // SAFETY: the caller's promises.
                    ($pairs, true) => unsafe { kernel::<$pairs, false>(a, strides, b, groups, rows, to) },
                    // SAFETY: as above.
                    ($pairs, false) => unsafe { kernel::<$pairs, true>(a, strides, b, groups, rows, to) },
                )*
                _ => unreachable!("no micro-kernel of {rows} rows"),
            }
        };
    }
    pick!(1 2 3 4);
}

/// Of four lanes' pairs in two groups the operands of the first and of the last two lanes.
#[inline(always)]
fn interleaved(first: uint32x4_t, second: uint32x4_t) -> [uint16x8_t; 2] {
    // SAFETY: every processor of this architecture has NEON.
    unsafe { [vreinterpretq_u16_u32(vzip1q_u32(first, second)), vreinterpretq_u16_u32(vzip2q_u32(first, second))] }
}

/// # Safety
/// As [`multiply`], for `PAIRS` pairs of rows, which lie in a panel or not.
unsafe fn kernel<const PAIRS: usize, const PANELLED: bool>(
    a: *const Bf16,
    (row_stride, step): (usize, usize),
    b: *const Bf16,
    groups: usize,
    rows: usize,
    to: Destination,
) {
    // The second row of the last pair may be none: then it is the first once more.
    let row_of = |row: usize| a.wrapping_add(row.min(rows - 1) * row_stride);
    for half in 0..PANEL / COLUMNS {
        // SAFETY: the caller's promises; of an odd number of groups the one behind the last is zeros.
        unsafe {
            let b = b.add(half * COLUMNS * STEP);
            let mut sums = [[vdupq_n_f32(0.0); COLUMNS / 2]; PAIRS];
            let mut group = 0;
            while group < groups {
                let whole = group + STEP <= groups;
                let mut columns = [vreinterpretq_u16_u32(vdupq_n_u32(0)); COLUMNS / 2];
                for (i, two) in columns.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                    let at: *const u32 = b.add(group * 2 * PANEL + 8 * i).cast();
                    let second = if whole { vld1q_u32(at.add(PANEL)) } else { vdupq_n_u32(0) };
                    *two = interleaved(vld1q_u32(at), second);
                }
                let mut operands = [vreinterpretq_u16_u32(vdupq_n_u32(0)); PAIRS];
                if PANELLED {
                    for (i, two) in operands.chunks_mut(2).enumerate() {
                        let at: *const u32 = a.add(group * step + 4 * i * row_stride).cast();
                        let second = if whole { vld1q_u32(at.add(step / STEP)) } else { vdupq_n_u32(0) };
                        let four = interleaved(vld1q_u32(at), second);
                        for (operand, of) in two.iter_mut().zip(four) {
                            *operand = of;
                        }
                    }
                } else {
                    let four = |row: usize| {
                        let at: *const u32 = row_of(row).add(group * step).cast();
                        if whole { vld1_u32(at) } else { vld1_lane_u32::<0>(at, vdup_n_u32(0)) }
                    };
                    for (pair, operand) in operands.iter_mut().enumerate() {
                        *operand = vreinterpretq_u16_u32(vcombine_u32(four(2 * pair), four(2 * pair + 1)));
                    }
                }
                for (sums, a) in sums.iter_mut().zip(operands) {
                    for (sum, b) in sums.iter_mut().zip(columns) {
                        *sum = bfmmla(*sum, a, b);
                    }
                }
                group += STEP;
            }
            for (pair, sums) in sums.iter().enumerate() {
                for (i, two) in sums.as_chunks::<2>().0.iter().enumerate() {
                    let (left, right) = (vreinterpretq_f64_f32(two[0]), vreinterpretq_f64_f32(two[1]));
                    let of_rows = [vzip1q_f64(left, right), vzip2q_f64(left, right)].map(|x| vreinterpretq_f32_f64(x));
                    for (row, four) in (2 * pair..rows).zip(of_rows) {
                        let to_four = to.at.add(row * to.stride + half * COLUMNS + 4 * i);
                        let four = if to.add { vaddq_f32(vld1q_f32(to_four), four) } else { four };
                        vst1q_f32(to_four, four);
                    }
                }
            }
        }
    }
}
