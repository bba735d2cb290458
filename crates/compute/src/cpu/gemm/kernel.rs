//! Micro-kernels: a few rows of `A` by a few panels of `B` over all of `k`, into an f32 tile.
//!
//! The plain-Rust kernel serves portable processors, and the few rows that are not worth the preparation of
//! [`super::floats`], which multiplies what bf16 on AVX-512-BF16, AMX and ARM's bf16 does not.

use super::pack::{PANEL, PackedB};
use super::{Left, MatElement};
use crate::cpu::isa::{Isa, Math};
use crate::dtype::DType;

/// Runs `$body` with constants for a tile's rows and panels: every shape has a micro-kernel of its own.
macro_rules! for_shape {
    ($rows:expr, $panels:expr, $R:ident $P:ident => $body:expr) => {
        for_shape!(@ $rows, $panels, $R $P, $body, 8 3, 8 2, 8 1, 7 3, 7 2, 7 1, 6 3, 6 2, 6 1, 5 3, 5 2, 5 1, 4 3, 4 2, 4 1,
            3 3, 3 2, 3 1, 2 3, 2 2, 2 1, 1 3, 1 2, 1 1)
    };
    (@ $rows:expr, $panels:expr, $R:ident $P:ident, $body:expr, $($r:literal $p:literal),*) => {
        match ($rows, $panels) {
            $(($r, $p) => {
                const $R: usize = $r;
                const $P: usize = $p;
                $body
            })*
            (rows, panels) => unreachable!("no micro-kernel of {rows} rows and {panels} panels"),
        }
    };
}
#[cfg(target_arch = "x86_64")]
pub(super) use for_shape;

/// What a thread keeps from one tile to the next: with AMX, its tile configuration. One at a time: what drops a second one
/// takes the first one's configuration.
#[derive(Default)]
pub(crate) struct State {
    #[cfg(target_arch = "x86_64")]
    pub(super) tiles: super::amx::Tiles,
}

/// Rows and panels of the largest tile.
pub(super) struct Shape {
    pub(super) rows: usize,
    pub(super) panels: usize,
}

/// Where a micro-kernel leaves its tile: rows of whole panels, `stride` floats apart, in place of what lies there or added to
/// it.
#[derive(Clone, Copy)]
pub(crate) struct Destination {
    pub(super) at: *mut f32,
    pub(super) stride: usize,
    pub(super) add: bool,
}

/// The tile that fills the registers of an instruction set. A left operand in panels of 16 rows takes a height that
/// divides 16: no tile may reach into the next panel.
#[inline(always)]
pub(super) fn shape<S: MatElement>(isa: Isa) -> Shape {
    match isa {
        Isa::Portable => Shape { rows: 2, panels: 1 },
        #[cfg(target_arch = "aarch64")]
        Isa::NeonBf16 => Shape { rows: super::neonbf16::ROWS, panels: 1 },
        Isa::Avx512Bf16 | Isa::Amx if S::DTYPE == DType::Bf16 => Shape { rows: 8, panels: 3 },
        _ => Shape { rows: 2, panels: 2 },
    }
}

/// Computes one tile.
///
/// # Safety
/// Rows `row..row + rows` of `left` and panels `panel..panel + panels` of `right` exist; `rows` and `panels` are at
/// most what [`shape`] says for this `isa`, whose features the processor has; so does `to`, which has room for them.
#[inline(always)]
#[allow(clippy::too_many_arguments)] // A micro-kernel's address arithmetic; a struct would only rename it.
pub(super) unsafe fn multiply<S: MatElement, M: Math>(
    isa: Isa,
    left: &Left<S>,
    row: usize,
    rows: usize,
    right: &PackedB<'_, S>,
    panel: usize,
    panels: usize,
    to: Destination,
) {
    let (a, row_stride, step) = left.at(row);
    let b = right.panel(panel);
    let groups = right.groups();
    #[cfg(target_arch = "x86_64")]
    if S::DTYPE == DType::Bf16 && isa >= Isa::Avx512Bf16 {
        let strides = (row_stride, step);
        // SAFETY: the caller's promises; S is Bf16, so the casts change nothing.
        unsafe {
            super::avx512bf16::multiply(a.cast(), strides, b.cast(), right.panel_len(), groups, rows, panels, to)
        };
        return;
    }
    #[cfg(target_arch = "aarch64")]
    if S::DTYPE == DType::Bf16 && isa == Isa::NeonBf16 {
        // SAFETY: the caller's promises; S is Bf16, so the casts change nothing. A panel has sixteen rows.
        unsafe { super::neonbf16::multiply(a.cast(), (row_stride, step), b.cast(), groups, rows, to) };
        return;
    }
    let _ = isa;
    let panel_len = right.panel_len();
    // SAFETY: the caller's promises.
    unsafe {
        match (rows, panels) {
            (1, 1) => plain::<S, M, 1, 1>(a, row_stride, step, b, panel_len, groups, to),
            (1, 2) => plain::<S, M, 1, 2>(a, row_stride, step, b, panel_len, groups, to),
            (2, 1) => plain::<S, M, 2, 1>(a, row_stride, step, b, panel_len, groups, to),
            (2, 2) => plain::<S, M, 2, 2>(a, row_stride, step, b, panel_len, groups, to),
            (rows, panels) => unreachable!("no plain kernel of {rows} rows and {panels} panels"),
        }
    }
}

/// # Safety
/// As [`multiply`].
#[inline(always)]
unsafe fn plain<S: MatElement, M: Math, const ROWS: usize, const PANELS: usize>(
    a: *const S,
    row_stride: usize,
    step: usize,
    b: *const S,
    panel_len: usize,
    groups: usize,
    to: Destination,
) {
    let mut sum = [[[0.0f32; PANEL]; PANELS]; ROWS];
    for group in 0..groups {
        let mut columns = [[[0.0f32; PANEL]; 2]; PANELS];
        for (p, [first, second]) in columns.iter_mut().enumerate() {
            for (lane, (x, y)) in first.iter_mut().zip(second).enumerate() {
                // SAFETY: inside panel `p`, group `group` of the packed operand.
                let pair = unsafe { S::group(b.add(p * panel_len + (group * PANEL + lane) * S::GROUP)) };
                *x = pair[0];
                *y = pair[1];
            }
        }
        for (r, sums) in sum.iter_mut().enumerate() {
            // SAFETY: inside row `r` of the left operand.
            let x = unsafe { S::group(a.add(r * row_stride + group * step)) };
            for p in 0..PANELS {
                for lane in 0..PANEL {
                    sums[p][lane] = M::mul_add(x[0], columns[p][0][lane], sums[p][lane]);
                }
                if S::GROUP == 2 {
                    for lane in 0..PANEL {
                        sums[p][lane] = M::mul_add(x[1], columns[p][1][lane], sums[p][lane]);
                    }
                }
            }
        }
    }
    for (r, sums) in sum.iter().enumerate() {
        for (p, lanes) in sums.iter().enumerate() {
            // SAFETY: the destination has room for this row and panel.
            let row = unsafe { std::slice::from_raw_parts_mut(to.at.add(r * to.stride + p * PANEL), PANEL) };
            if to.add {
                for (x, lane) in row.iter_mut().zip(lanes) {
                    *x += lane;
                }
            } else {
                row.copy_from_slice(lanes);
            }
        }
    }
}
