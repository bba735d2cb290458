//! The floats' unit of NEON ([`super::floats`]): tiles of 6 rows by one panel.
//!
//! 24 of the 32 registers hold sums, and one at a time a quarter of the panel. A multiplication takes its left operand from
//! a lane of a register: of rows one load serves four terms, of panels one load four rows.

use super::floats::{Panels, Strip, Unit};
use super::kernel::Destination;
use super::pack::PANEL;
use core::arch::aarch64::{
    float32x4_t, vaddq_f32, vandq_u32, vdup_n_f32, vdupq_n_f32, vdupq_n_u32, vfmaq_f32, vfmaq_lane_f32,
    vfmaq_laneq_f32, vld1_f32, vld1_u16, vld1q_dup_f32, vld1q_f32, vld1q_u32, vreinterpretq_f32_u32, vshll_n_u16,
    vshlq_n_u32, vst1q_f32,
};

pub(super) struct Neon;

/// Lanes of a register.
const LANES: usize = 4;
/// Registers of a panel's row.
const QUARTERS: usize = PANEL / LANES;

impl Unit for Neon {
    // Of a panel of sixteen: two strips of six and a rest of four.
    const ROWS: usize = 6;
    const PANELS: usize = 1;
    const PIECE: usize = 1024;
    // The second cache is as small as 512 KiB, and widened rows share it.
    const CACHED: usize = 256 << 10;
    const LEAST_ROWS: usize = 1;

    #[inline(always)]
    unsafe fn widen_row(from: *const u16, k: usize, to: *mut f32) {
        let whole = k / LANES * LANES;
        for i in (0..whole).step_by(LANES) {
            // SAFETY: four values from `i < whole` on.
            unsafe {
                let four = vshll_n_u16::<16>(vld1_u16(from.add(i)));
                vst1q_f32(to.add(i), vreinterpretq_f32_u32(four));
            }
        }
        for i in whole..k {
            // SAFETY: below `k`.
            unsafe { *to.add(i) = f32::from_bits(u32::from(*from.add(i)) << 16) };
        }
    }

    #[inline(always)]
    unsafe fn widen_panel(from: *const u16, groups: usize, to: *mut f32) {
        // SAFETY: the caller's promises.
        unsafe { widen_pairs::<PANEL>(from, 2 * PANEL, groups, to) }
    }

    #[inline(always)]
    unsafe fn widen_eight(from: *const u16, stride: usize, groups: usize, to: *mut f32) {
        // SAFETY: the caller's promises.
        unsafe { widen_pairs::<8>(from, stride, groups, to) }
    }

    #[inline(always)]
    unsafe fn multiply((rows, _, k): (usize, usize, usize), a: &Strip, b: Panels, goes_on: bool, to: Destination) {
        macro_rules! pick {
            ($($rows:literal)*) => {
                match (rows, a.step) {
                    $(
                        // SAFETY: the caller's promises.
                        ($rows, 1) => unsafe { kernel::<$rows, false>(k, a, b, goes_on, to) },
                        // SAFETY: as above.
                        ($rows, _) => unsafe { kernel::<$rows, true>(k, a, b, goes_on, to) },
                    )*
                    _ => unreachable!("no micro-kernel of {rows} rows"),
                }
            };
        }
        pick!(1 2 3 4 5 6);
    }
}

/// Widens `groups` groups of `PAIRS` bf16 pairs, `stride` elements apart.
///
/// # Safety
/// The pairs are readable, and `to` has room for `groups * 2 * PAIRS` floats.
#[inline(always)]
unsafe fn widen_pairs<const PAIRS: usize>(from: *const u16, stride: usize, groups: usize, to: *mut f32) {
    for group in 0..groups {
        for i in (0..PAIRS).step_by(LANES) {
            // SAFETY: inside the group, and inside the two rows of floats it becomes.
            unsafe {
                let [even, odd] = widened(from.add(group * stride + 2 * i));
                let to = to.add(2 * group * PAIRS + i);
                vst1q_f32(to, even);
                vst1q_f32(to.add(PAIRS), odd);
            }
        }
    }
}

/// The first and the second values of four bf16 pairs.
///
/// # Safety
/// They are readable.
#[inline(always)]
unsafe fn widened(pairs: *const u16) -> [float32x4_t; 2] {
    // SAFETY: the caller's promise; every processor of this architecture has NEON.
    unsafe {
        let pairs = vld1q_u32(pairs.cast());
        let high = vandq_u32(pairs, vdupq_n_u32(0xffff_0000));
        [vreinterpretq_f32_u32(vshlq_n_u32::<16>(pairs)), vreinterpretq_f32_u32(high)]
    }
}

/// Sums of `HEIGHT` rows by a panel.
type Sums<const HEIGHT: usize> = [[float32x4_t; QUARTERS]; HEIGHT];

/// Adds the products of a row of a panel with a column of the left operand, whose terms lie `row_stride` apart, or side by side.
///
/// # Safety
/// Both are readable.
#[inline(always)]
unsafe fn add_column<const HEIGHT: usize, const NEIGHBOURS: bool>(
    sums: &mut Sums<HEIGHT>,
    column: *const f32,
    row_stride: usize,
    b: *const f32,
) {
    // Whole registers of the column, and single terms.
    let together = if NEIGHBOURS { HEIGHT / LANES * LANES } else { 0 };
    let (four, rest) = sums.split_at_mut(together);
    // SAFETY: the caller's promise; every processor of this architecture has NEON.
    unsafe {
        let mut each = [vdupq_n_f32(0.0); HEIGHT];
        for (row, a) in each[together..].iter_mut().enumerate() {
            *a = vld1q_dup_f32(column.add(if NEIGHBOURS { together + row } else { row * row_stride }));
        }
        for quarter in 0..QUARTERS {
            let b = vld1q_f32(b.add(quarter * LANES));
            if let [s0, s1, s2, s3] = four {
                let a = vld1q_f32(column);
                s0[quarter] = vfmaq_laneq_f32::<0>(s0[quarter], b, a);
                s1[quarter] = vfmaq_laneq_f32::<1>(s1[quarter], b, a);
                s2[quarter] = vfmaq_laneq_f32::<2>(s2[quarter], b, a);
                s3[quarter] = vfmaq_laneq_f32::<3>(s3[quarter], b, a);
            }
            for (sums, a) in rest.iter_mut().zip(&each[together..]) {
                sums[quarter] = vfmaq_f32(sums[quarter], b, *a);
            }
        }
    }
}

/// Adds the products of a row of a panel with lane `LANE` of each row's register.
///
/// # Safety
/// The row is readable.
#[inline(always)]
unsafe fn add_lane<const LANE: i32, const HEIGHT: usize>(
    sums: &mut Sums<HEIGHT>,
    rows: &[float32x4_t; HEIGHT],
    b: *const f32,
) {
    for quarter in 0..QUARTERS {
        // SAFETY: the caller's promise.
        let b = unsafe { vld1q_f32(b.add(quarter * LANES)) };
        for (sums, a) in sums.iter_mut().zip(rows) {
            // SAFETY: every processor of this architecture has NEON.
            sums[quarter] = unsafe { vfmaq_laneq_f32::<LANE>(sums[quarter], b, *a) };
        }
    }
}

/// # Safety
/// As [`Unit::multiply`] for one panel and `HEIGHT` rows, which lie side by side (`NEIGHBOURS`) or have a stride and their terms
/// side by side.
unsafe fn kernel<const HEIGHT: usize, const NEIGHBOURS: bool>(
    k: usize,
    a: &Strip,
    b: Panels,
    goes_on: bool,
    to: Destination,
) {
    let place = |row: usize| to.at.wrapping_add(row * to.stride);
    let Strip { at, row_stride, step } = *a;
    // SAFETY: the caller's promises: rows of the destination have sixteen floats, operands `k` terms.
    unsafe {
        let mut sums: Sums<HEIGHT> = [[vdupq_n_f32(0.0); QUARTERS]; HEIGHT];
        if goes_on {
            for (row, sums) in sums.iter_mut().enumerate() {
                *sums = quarters(place(row));
            }
        }
        match b {
            Panels::Floats(b, _) => {
                let whole = if NEIGHBOURS { 0 } else { k / LANES * LANES };
                for i in (0..whole).step_by(LANES) {
                    let mut rows = [vdupq_n_f32(0.0); HEIGHT];
                    for (row, four) in rows.iter_mut().enumerate() {
                        *four = vld1q_f32(at.add(row * row_stride + i));
                    }
                    let b = b.add(i * PANEL);
                    add_lane::<0, HEIGHT>(&mut sums, &rows, b);
                    add_lane::<1, HEIGHT>(&mut sums, &rows, b.add(PANEL));
                    add_lane::<2, HEIGHT>(&mut sums, &rows, b.add(2 * PANEL));
                    add_lane::<3, HEIGHT>(&mut sums, &rows, b.add(3 * PANEL));
                }
                for i in whole..k {
                    add_column::<HEIGHT, NEIGHBOURS>(&mut sums, at.add(i * step), row_stride, b.add(i * PANEL));
                }
            }
            Panels::Pairs(b, _) => {
                for group in 0..k / 2 {
                    let mut rows = [vdup_n_f32(0.0); HEIGHT];
                    for (row, two) in rows.iter_mut().enumerate() {
                        *two = vld1_f32(at.add(row * row_stride + 2 * group));
                    }
                    for quarter in 0..QUARTERS {
                        let [even, odd] = widened(b.add(2 * (group * PANEL + quarter * LANES)));
                        for (sums, a) in sums.iter_mut().zip(rows) {
                            sums[quarter] = vfmaq_lane_f32::<0>(sums[quarter], even, a);
                        }
                        for (sums, a) in sums.iter_mut().zip(rows) {
                            sums[quarter] = vfmaq_lane_f32::<1>(sums[quarter], odd, a);
                        }
                    }
                }
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            for (quarter, sum) in sums.iter().enumerate() {
                let to_quarter = place(row).add(LANES * quarter);
                let sum = if to.add { vaddq_f32(vld1q_f32(to_quarter), *sum) } else { *sum };
                vst1q_f32(to_quarter, sum);
            }
        }
    }
}

/// Sixteen floats.
///
/// # Safety
/// They are readable.
#[inline(always)]
unsafe fn quarters(from: *const f32) -> [float32x4_t; QUARTERS] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut quarters = [vdupq_n_f32(0.0); QUARTERS];
        for (i, quarter) in quarters.iter_mut().enumerate() {
            *quarter = vld1q_f32(from.add(i * LANES));
        }
        quarters
    }
}
