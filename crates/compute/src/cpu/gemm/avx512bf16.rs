//! The bf16 micro-kernel of AVX-512-BF16: `vdpbf16ps`, two `k` per lane and instruction; and what becomes of tiles there.
//!
//! 8 rows by 3 panels hold 24 of 32 registers; a step issues 24 dot products for 3 loads and 8 broadcasts.
//!
//! A tile's bias and rounding by `vcvtneps2bf16` are an instruction or two for sixteen numbers where the compiler's rounding takes
//! seven: beside AMX, whose products take a quarter of this unit's time, that is what counts. The instruction takes what is
//! below the normal numbers for 0.

use super::kernel::{Destination, for_shape};
use super::pack::PANEL;
use crate::dtype::Bf16;
use core::arch::x86_64::{
    __m256bh, __m256i, __m512, __m512bh, __m512i, __mmask16, _mm256_mask_storeu_epi16, _mm512_add_ps,
    _mm512_cvtneps_pbh, _mm512_dpbf16_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_mask_storeu_ps,
    _mm512_maskz_loadu_ps, _mm512_set1_epi32, _mm512_setzero_ps, _mm512_storeu_ps,
};

/// Computes one tile.
///
/// # Safety
/// The processor has AVX-512-BF16; `a` covers `rows` rows of `groups` pairs at `strides` (row, pair); `b` covers
/// `panels` panels of `groups` pairs, `panel_len` apart; `rows <= 8`, `panels <= 3`; `to` has room.
#[allow(clippy::too_many_arguments)] // A micro-kernel's address arithmetic; a struct would only rename it.
#[inline(always)]
pub(super) unsafe fn multiply(
    a: *const Bf16,
    strides: (usize, usize),
    b: *const Bf16,
    panel_len: usize,
    groups: usize,
    rows: usize,
    panels: usize,
    to: Destination,
) {
    // SAFETY: the caller's promises.
    for_shape!(rows, panels, ROWS PANELS => unsafe {
        kernel::<ROWS, PANELS>(a, strides.0, strides.1, b, panel_len, groups, to)
    });
}

/// # Safety
/// As [`multiply`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn kernel<const ROWS: usize, const PANELS: usize>(
    a: *const Bf16,
    row_stride: usize,
    step: usize,
    b: *const Bf16,
    panel_len: usize,
    groups: usize,
    to: Destination,
) {
    let mut sum: [[__m512; PANELS]; ROWS] = [[_mm512_setzero_ps(); PANELS]; ROWS];
    let (mut a, mut b) = (a, b);
    for _ in 0..groups {
        // SAFETY: the loop stays inside `groups` pairs of every row and panel.
        unsafe {
            let mut columns: [__m512bh; PANELS] = [bits(_mm512_set1_epi32(0)); PANELS];
            for (p, column) in columns.iter_mut().enumerate() {
                *column = bits(_mm512_loadu_si512(b.add(p * panel_len).cast()));
            }
            for (r, sums) in sum.iter_mut().enumerate() {
                let x = bits(_mm512_set1_epi32(a.add(r * row_stride).cast::<i32>().read_unaligned()));
                for p in 0..PANELS {
                    sums[p] = _mm512_dpbf16_ps(sums[p], x, columns[p]);
                }
            }
            a = a.wrapping_add(step);
            b = b.wrapping_add(2 * PANEL);
        }
    }
    for (r, sums) in sum.iter().enumerate() {
        for (p, lanes) in sums.iter().enumerate() {
            // SAFETY: the destination has room for this row and panel.
            unsafe {
                let to_row = to.at.add(r * to.stride + p * PANEL);
                let lanes = if to.add { _mm512_add_ps(_mm512_loadu_ps(to_row), *lanes) } else { *lanes };
                _mm512_storeu_ps(to_row, lanes);
            }
        }
    }
}

/// The columns of vector `panel` of a tile, as a mask.
#[inline(always)]
fn inside(columns: usize, panel: usize) -> __mmask16 {
    let left = columns - panel * PANEL;
    if left >= PANEL { !0 } else { (1 << left) - 1 }
}

/// `out = tile (+ bias)`, rounded to bf16: `rows x columns`, `ld` floats between a tile's rows, `stride` elements between those
/// of `out`.
///
/// # Safety
/// The processor has AVX-512-BF16; `out` has room.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn round(
    tile: &[f32],
    ld: usize,
    size: (usize, usize),
    bias: Option<&[f32]>,
    out: *mut Bf16,
    stride: usize,
) {
    // SAFETY: the caller's promises; lanes past the columns are not written.
    unsafe {
        each_vector(tile, ld, size, bias, |row, column, mask, x| {
            let rounded = core::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(x));
            _mm256_mask_storeu_epi16(out.add(row * stride + column).cast(), mask, rounded);
        });
    }
}

/// `out += tile (+ bias)`, as [`round`].
///
/// # Safety
/// The processor has AVX-512; `out` has room.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn add(
    tile: &[f32],
    ld: usize,
    size: (usize, usize),
    bias: Option<&[f32]>,
    out: *mut f32,
    stride: usize,
) {
    // SAFETY: as above; nor are they read.
    unsafe {
        each_vector(tile, ld, size, bias, |row, column, mask, x| {
            let to = out.add(row * stride + column);
            _mm512_mask_storeu_ps(to, mask, _mm512_add_ps(_mm512_maskz_loadu_ps(mask, to), x));
        });
    }
}

/// Hands on a tile's sixteens with their bias: row, first column, which lanes are columns, and the numbers.
///
/// # Safety
/// The processor has AVX-512.
#[inline(always)]
unsafe fn each_vector(
    tile: &[f32],
    ld: usize,
    (rows, columns): (usize, usize),
    bias: Option<&[f32]>,
    put: impl Fn(usize, usize, __mmask16, __m512),
) {
    assert!(tile.len() >= (rows - 1) * ld + columns && bias.is_none_or(|bias| bias.len() == columns), "a tile's size");
    for panel in 0..columns.div_ceil(PANEL) {
        let (column, mask) = (panel * PANEL, inside(columns, panel));
        // SAFETY: lanes past the columns are not read; rows are inside the tile.
        unsafe {
            let from = tile.as_ptr().add(column);
            let bias = bias.map(|bias| _mm512_maskz_loadu_ps(mask, bias.as_ptr().add(column)));
            for row in 0..rows {
                let x = _mm512_maskz_loadu_ps(mask, from.add(row * ld));
                put(row, column, mask, bias.map_or(x, |bias| _mm512_add_ps(x, bias)));
            }
        }
    }
}

#[inline(always)]
fn bits(x: __m512i) -> __m512bh {
    // SAFETY: both are 64 bytes of plain data.
    unsafe { core::mem::transmute(x) }
}
