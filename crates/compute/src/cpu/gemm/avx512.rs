//! The floats' unit of AVX-512 ([`super::floats`]): tiles of 8 rows by 3 panels.
//!
//! 24 of the 32 registers hold sums; a step of `k` issues 24 multiplications for 3 loads and 8 broadcasts. The plain kernel
//! does the same sums in the same order, but in tiles of this size the compiler reads all broadcasts of a step ahead, has no
//! registers left for them, and moves sums to the stack and back in each step.

use super::avx2::widen_pairs;
use super::floats::{AHEAD, Panels, Strip, Unit};
use super::kernel::{Destination, for_shape};
use super::pack::PANEL;
use core::arch::x86_64::{
    __m512, __m512i, _MM_HINT_T0, _mm_prefetch, _mm256_loadu_si256, _mm512_add_ps, _mm512_and_si512,
    _mm512_castsi512_ps, _mm512_cvtepu16_epi32, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512,
    _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_slli_epi32, _mm512_storeu_ps,
};

pub(super) struct Avx512;

impl Unit for Avx512 {
    const ROWS: usize = 8;
    const PANELS: usize = 3;
    const PIECE: usize = 512;
    // The second cache is 512 KiB at the least, where the widened rows are too.
    const CACHED: usize = 384 << 10;
    const LEAST_ROWS: usize = 1;

    #[inline(always)]
    unsafe fn widen_row(from: *const u16, k: usize, to: *mut f32) {
        // SAFETY: the caller's promises.
        unsafe { widen_row(from, k, to) }
    }

    #[inline(always)]
    unsafe fn widen_panel(from: *const u16, groups: usize, to: *mut f32) {
        // SAFETY: the caller's promises.
        unsafe { widen_panel(from, groups, to) }
    }

    #[inline(always)]
    unsafe fn widen_eight(from: *const u16, stride: usize, groups: usize, to: *mut f32) {
        // SAFETY: the caller's promises.
        unsafe { widen_pairs::<1>(from, stride, groups, to) }
    }

    #[inline(always)]
    unsafe fn multiply((rows, panels, k): (usize, usize, usize), a: &Strip, b: Panels, goes_on: bool, to: Destination) {
        // SAFETY: the caller's promises.
        for_shape!(rows, panels, ROWS PANELS => unsafe {
            match b {
                Panels::Floats(b, panel_len) => kernel::<ROWS, PANELS>(k, a, b, panel_len, goes_on, to),
                Panels::Pairs(b, panel_len) => kernel_of_pairs::<ROWS, PANELS>(k, a, b, panel_len, goes_on, to),
            }
        });
    }
}

/// # Safety
/// As [`Unit::widen_row`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn widen_row(from: *const u16, k: usize, to: *mut f32) {
    let whole = k / PANEL * PANEL;
    for i in (0..whole).step_by(PANEL) {
        // SAFETY: sixteen values from `i < whole` on.
        unsafe {
            let sixteen = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.add(i).cast()));
            _mm512_storeu_ps(to.add(i), _mm512_castsi512_ps(_mm512_slli_epi32::<16>(sixteen)));
        }
    }
    for i in whole..k {
        // SAFETY: below `k`.
        unsafe { *to.add(i) = f32::from_bits(u32::from(*from.add(i)) << 16) };
    }
}

/// # Safety
/// As [`Unit::widen_panel`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn widen_panel(from: *const u16, groups: usize, to: *mut f32) {
    let high = _mm512_set1_epi32(0xffff_0000_u32 as i32);
    for group in 0..groups {
        // SAFETY: inside the group, and inside the two rows of floats it becomes.
        unsafe {
            let pairs: __m512i = _mm512_loadu_si512(from.add(2 * group * PANEL).cast());
            let to = to.add(2 * group * PANEL);
            _mm512_storeu_ps(to, _mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)));
            _mm512_storeu_ps(to.add(PANEL), _mm512_castsi512_ps(_mm512_and_si512(pairs, high)));
        }
    }
}

/// # Safety
/// As [`Unit::multiply`] for `ROWS` rows and `PANELS` panels of floats.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn kernel<const ROWS: usize, const PANELS: usize>(
    k: usize,
    strip: &Strip,
    b: *const f32,
    panel_len: usize,
    goes_on: bool,
    to: Destination,
) {
    // SAFETY: the caller's promises.
    unsafe {
        let mut sum = begun::<ROWS, PANELS>(goes_on, to);
        let (mut a, mut b) = (strip.at, b);
        for _ in 0..k {
            let mut columns = [_mm512_setzero_ps(); PANELS];
            for (p, column) in columns.iter_mut().enumerate() {
                *column = _mm512_loadu_ps(b.add(p * panel_len));
            }
            add_products(&mut sum, a, strip.row_stride, &columns);
            a = a.wrapping_add(strip.step);
            b = b.wrapping_add(PANEL);
        }
        leave(&sum, to);
    }
}

/// # Safety
/// As [`kernel`], of pairs.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn kernel_of_pairs<const ROWS: usize, const PANELS: usize>(
    k: usize,
    strip: &Strip,
    b: *const u16,
    panel_len: usize,
    goes_on: bool,
    to: Destination,
) {
    let high = _mm512_set1_epi32(0xffff_0000_u32 as i32);
    // SAFETY: the caller's promises.
    unsafe {
        let mut sum = begun::<ROWS, PANELS>(goes_on, to);
        let (mut a, mut b) = (strip.at, b);
        for _ in 0..k / 2 {
            let (mut first, mut second) = ([_mm512_setzero_ps(); PANELS], [_mm512_setzero_ps(); PANELS]);
            for (p, (first, second)) in first.iter_mut().zip(&mut second).enumerate() {
                let pairs: __m512i = _mm512_loadu_si512(b.add(p * panel_len).cast());
                _mm_prefetch::<_MM_HINT_T0>(b.wrapping_add(p * panel_len + AHEAD * 2 * PANEL).cast());
                *first = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs));
                *second = _mm512_castsi512_ps(_mm512_and_si512(pairs, high));
            }
            add_products(&mut sum, a, strip.row_stride, &first);
            add_products(&mut sum, a.wrapping_add(1), strip.row_stride, &second);
            a = a.wrapping_add(2);
            b = b.wrapping_add(2 * PANEL);
        }
        leave(&sum, to);
    }
}

/// Sums to begin with: what lies there, or nothing.
///
/// # Safety
/// The processor has AVX-512; the destination has room for the tile.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn begun<const ROWS: usize, const PANELS: usize>(goes_on: bool, to: Destination) -> [[__m512; PANELS]; ROWS] {
    let mut sum = [[_mm512_setzero_ps(); PANELS]; ROWS];
    if goes_on {
        for (r, sums) in sum.iter_mut().enumerate() {
            for (p, lanes) in sums.iter_mut().enumerate() {
                // SAFETY: the caller's promise.
                *lanes = unsafe { _mm512_loadu_ps(to.at.add(r * to.stride + p * PANEL)) };
            }
        }
    }
    sum
}

/// Adds a term's products.
///
/// # Safety
/// The processor has AVX-512; `a` is readable at `ROWS` places, `stride` apart.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn add_products<const ROWS: usize, const PANELS: usize>(
    sum: &mut [[__m512; PANELS]; ROWS],
    a: *const f32,
    stride: usize,
    columns: &[__m512; PANELS],
) {
    for (r, sums) in sum.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        let x = _mm512_set1_ps(unsafe { *a.add(r * stride) });
        for p in 0..PANELS {
            sums[p] = _mm512_fmadd_ps(x, columns[p], sums[p]);
        }
    }
}

/// Leaves the tile where it goes.
///
/// # Safety
/// As [`begun`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn leave<const ROWS: usize, const PANELS: usize>(sum: &[[__m512; PANELS]; ROWS], to: Destination) {
    for (r, sums) in sum.iter().enumerate() {
        for (p, lanes) in sums.iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe {
                let place = to.at.add(r * to.stride + p * PANEL);
                let lanes = if to.add { _mm512_add_ps(_mm512_loadu_ps(place), *lanes) } else { *lanes };
                _mm512_storeu_ps(place, lanes);
            }
        }
    }
}
