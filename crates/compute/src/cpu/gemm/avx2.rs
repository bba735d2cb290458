//! The floats' unit of AVX2 ([`super::floats`]): tiles of 6 rows by one panel.
//!
//! 12 of the 16 registers hold sums; a step of `k` issues 12 multiplications for 2 loads and 6 broadcasts.

use super::floats::{AHEAD, Panels, Strip, Unit, WIDE_ROWS};
use super::kernel::Destination;
use super::pack::PANEL;
use core::arch::x86_64::{
    __m256i, _MM_HINT_T0, _mm_loadu_si128, _mm_prefetch, _mm256_add_ps, _mm256_and_si256, _mm256_broadcast_ss,
    _mm256_castsi256_ps, _mm256_cvtepu16_epi32, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_loadu_si256,
    _mm256_set1_epi32, _mm256_setzero_ps, _mm256_slli_epi32, _mm256_storeu_ps,
};

pub(super) struct Avx2;

impl Unit for Avx2 {
    // Of a panel of sixteen: two strips of six and a rest of four.
    const ROWS: usize = 6;
    const PANELS: usize = 1;
    const PIECE: usize = 1024;
    // The second cache is as small as 512 KiB, and widened rows share it.
    const CACHED: usize = 256 << 10;
    const LEAST_ROWS: usize = 4;

    #[inline(always)]
    unsafe fn widen_row(from: *const u16, k: usize, to: *mut f32) {
        // SAFETY: the caller's promises.
        unsafe { widen_row(from, k, to) }
    }

    #[inline(always)]
    unsafe fn widen_panel(from: *const u16, groups: usize, to: *mut f32) {
        // SAFETY: the caller's promises.
        unsafe { widen_pairs::<2>(from, 2 * PANEL, groups, to) }
    }

    #[inline(always)]
    unsafe fn widen_eight(from: *const u16, stride: usize, groups: usize, to: *mut f32) {
        // SAFETY: the caller's promises.
        unsafe { widen_pairs::<1>(from, stride, groups, to) }
    }

    #[inline(always)]
    unsafe fn multiply((rows, _, k): (usize, usize, usize), a: &Strip, b: Panels, goes_on: bool, to: Destination) {
        macro_rules! pick {
            ($($rows:literal)*) => {
                match (rows, a.step, b) {
                    $(
                        // SAFETY: the caller's promises.
                        ($rows, 1, Panels::Floats(b, _)) => unsafe { kernel::<$rows, 1, false>(k, a, b, goes_on, to) },
                        // SAFETY: as above.
                        ($rows, 1, Panels::Pairs(b, _)) => unsafe {
                            kernel::<$rows, 1, true>(k, a, b.cast(), goes_on, to)
                        },
                        // SAFETY: as above.
                        ($rows, WIDE_ROWS, Panels::Floats(b, _)) => unsafe {
                            kernel::<$rows, WIDE_ROWS, false>(k, a, b, goes_on, to)
                        },
                        // SAFETY: as above.
                        ($rows, PANEL, Panels::Floats(b, _)) => unsafe {
                            kernel::<$rows, PANEL, false>(k, a, b, goes_on, to)
                        },
                    )*
                    _ => unreachable!("no micro-kernel of {rows} rows, {} apart in k", a.step),
                }
            };
        }
        pick!(1 2 3 4 5 6);
    }
}

/// # Safety
/// As [`Unit::widen_row`].
#[target_feature(enable = "avx2,fma")]
unsafe fn widen_row(from: *const u16, k: usize, to: *mut f32) {
    let whole = k / 8 * 8;
    for i in (0..whole).step_by(8) {
        // SAFETY: eight values from `i < whole` on.
        unsafe {
            let eight = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.add(i).cast()));
            _mm256_storeu_ps(to.add(i), _mm256_castsi256_ps(_mm256_slli_epi32::<16>(eight)));
        }
    }
    for i in whole..k {
        // SAFETY: below `k`.
        unsafe { *to.add(i) = f32::from_bits(u32::from(*from.add(i)) << 16) };
    }
}

/// Widens `groups` groups of `8 VECTORS` bf16 pairs, `stride` elements apart.
///
/// # Safety
/// AVX2; the pairs are readable, and `to` has room for `groups * 16 VECTORS` floats.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn widen_pairs<const VECTORS: usize>(from: *const u16, stride: usize, groups: usize, to: *mut f32) {
    let high = _mm256_set1_epi32(0xffff_0000_u32 as i32);
    for group in 0..groups {
        for vector in 0..VECTORS {
            // SAFETY: inside the group, and inside the two rows of floats it becomes.
            unsafe {
                let pairs: __m256i = _mm256_loadu_si256(from.add(group * stride + 16 * vector).cast());
                let to = to.add((2 * group * VECTORS + vector) * 8);
                _mm256_storeu_ps(to, _mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs)));
                _mm256_storeu_ps(to.add(8 * VECTORS), _mm256_castsi256_ps(_mm256_and_si256(pairs, high)));
            }
        }
    }
}

/// # Safety
/// As [`Unit::multiply`] for one panel, of `PAIRS` or of floats, and `HEIGHT` rows, whose terms lie `STEP` apart.
#[target_feature(enable = "avx2,fma")]
unsafe fn kernel<const HEIGHT: usize, const STEP: usize, const PAIRS: bool>(
    k: usize,
    a: &Strip,
    b: *const f32,
    goes_on: bool,
    to: Destination,
) {
    let place = |row: usize| to.at.wrapping_add(row * to.stride);
    let mut sums = [[_mm256_setzero_ps(); 2]; HEIGHT];
    if goes_on {
        for (row, sums) in sums.iter_mut().enumerate() {
            // SAFETY: a row of the destination has sixteen floats.
            *sums = unsafe { [_mm256_loadu_ps(place(row)), _mm256_loadu_ps(place(row).add(8))] };
        }
    }
    let rows: [*const f32; HEIGHT] = std::array::from_fn(|r| a.at.wrapping_add(r * a.row_stride));
    let high = _mm256_set1_epi32(0xffff_0000_u32 as i32);
    macro_rules! add_products {
        ($i:expr, $first:expr, $second:expr) => {
            for (row, sums) in rows.iter().zip(&mut sums) {
                let x = _mm256_broadcast_ss(&*row.add($i * STEP));
                sums[0] = _mm256_fmadd_ps(x, $first, sums[0]);
                sums[1] = _mm256_fmadd_ps(x, $second, sums[1]);
            }
        };
    }
    // SAFETY: the caller's promise for what lies below `k`; sixteen pairs, like sixteen floats, are 64 bytes.
    unsafe {
        if PAIRS {
            for i in 0..k / 2 {
                let pairs = b.add(i * PANEL).cast::<__m256i>();
                _mm_prefetch::<_MM_HINT_T0>(b.wrapping_add((i + AHEAD) * PANEL).cast());
                let (first, second) = (_mm256_loadu_si256(pairs), _mm256_loadu_si256(pairs.add(1)));
                let even = (_mm256_slli_epi32::<16>(first), _mm256_slli_epi32::<16>(second));
                add_products!(2 * i, _mm256_castsi256_ps(even.0), _mm256_castsi256_ps(even.1));
                let odd = (_mm256_and_si256(first, high), _mm256_and_si256(second, high));
                add_products!(2 * i + 1, _mm256_castsi256_ps(odd.0), _mm256_castsi256_ps(odd.1));
            }
        } else {
            for i in 0..k {
                let (first, second) = (_mm256_loadu_ps(b.add(i * PANEL)), _mm256_loadu_ps(b.add(i * PANEL + 8)));
                add_products!(i, first, second);
            }
        }
    }
    for (row, sums) in sums.iter().enumerate() {
        for (half, sum) in sums.iter().enumerate() {
            // SAFETY: a row of the destination has sixteen floats.
            unsafe {
                let to_half = place(row).add(8 * half);
                let sum = if to.add { _mm256_add_ps(_mm256_loadu_ps(to_half), *sum) } else { *sum };
                _mm256_storeu_ps(to_half, sum);
            }
        }
    }
}
