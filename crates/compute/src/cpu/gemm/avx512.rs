//! The f32 micro-kernel of AVX-512.
//!
//! 8 rows by 3 panels hold 24 of 32 registers; a step of `k` issues 24 multiplications for 3 loads and 8 broadcasts. The
//! plain kernel does the same sums in the same order, but there the compiler reads all broadcasts of a step ahead, has
//! no registers left for them, and moves sums to the stack and back in each step.

use super::kernel::{Destination, for_shape};
use super::pack::PANEL;
use core::arch::x86_64::{
    __m512, _mm512_add_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
};

/// Computes one tile.
///
/// # Safety
/// The processor has AVX-512; `a` covers `rows` rows of `k` values at `strides` (row, value); `b` covers `panels` panels of
/// `k` rows of sixteen, `panel_len` apart; `rows <= 8`, `panels <= 3`; `to` has room.
#[allow(clippy::too_many_arguments)] // A micro-kernel's address arithmetic; a struct would only rename it.
#[inline(always)]
pub(super) unsafe fn multiply(
    a: *const f32,
    strides: (usize, usize),
    b: *const f32,
    panel_len: usize,
    k: usize,
    rows: usize,
    panels: usize,
    to: Destination,
) {
    // SAFETY: the caller's promises.
    for_shape!(rows, panels, ROWS PANELS => unsafe {
        kernel::<ROWS, PANELS>(a, strides.0, strides.1, b, panel_len, k, to)
    });
}

/// # Safety
/// As [`multiply`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn kernel<const ROWS: usize, const PANELS: usize>(
    a: *const f32,
    row_stride: usize,
    step: usize,
    b: *const f32,
    panel_len: usize,
    k: usize,
    to: Destination,
) {
    let mut sum: [[__m512; PANELS]; ROWS] = [[_mm512_setzero_ps(); PANELS]; ROWS];
    let (mut a, mut b) = (a, b);
    for _ in 0..k {
        // SAFETY: the loop stays inside the `k` values of every row and panel.
        unsafe {
            let mut columns = [_mm512_setzero_ps(); PANELS];
            for (p, column) in columns.iter_mut().enumerate() {
                *column = _mm512_loadu_ps(b.add(p * panel_len));
            }
            for (r, sums) in sum.iter_mut().enumerate() {
                let x = _mm512_set1_ps(*a.add(r * row_stride));
                for p in 0..PANELS {
                    sums[p] = _mm512_fmadd_ps(x, columns[p], sums[p]);
                }
            }
            a = a.wrapping_add(step);
            b = b.wrapping_add(PANEL);
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
