//! Products of floats, for instruction sets that multiply nothing shorter: f32 where it lies, bf16 widened once for a whole block.
//!
//! Widening inside the micro-kernel costs as much as the multiplications (each value of `A` is widened again for every
//! panel, each of `B` for every strip of rows), so a block widens its panels of `B` once and its rows of `A` once per
//! strip, into scratch that stays in the caches; of a long `k` a [`piece`] at a time. Where there are only a few strips `B` is
//! widened in registers after all. The order of every sum is that of the plain kernel.

use std::cell::RefCell;

#[cfg(target_arch = "x86_64")]
use super::avx2::Avx2;
#[cfg(target_arch = "x86_64")]
use super::avx512::Avx512;
use super::kernel::Destination;
#[cfg(target_arch = "aarch64")]
use super::neon::Neon;
use super::pack::{PANEL, PackedB};
use super::{Epilogue, LONG, Left, LeftLayout, MatElement, whole_tiles};
use crate::cpu::isa::Isa;
use crate::dtype::DType;

/// The unit of an instruction set that multiplies floats, and its micro-kernels.
pub(super) trait Unit {
    /// Rows and panels of a tile.
    const ROWS: usize;
    const PANELS: usize;
    /// Most terms of a piece: a strip of rows stays in the first cache meanwhile.
    const PIECE: usize;
    /// Bytes of panels that a block goes through again for each strip of rows.
    const CACHED: usize;
    /// Rows of bf16 from which on this is better than the plain kernel.
    const LEAST_ROWS: usize;

    /// Widens `k` bf16 values.
    ///
    /// # Safety
    /// The processor has the unit; `from` has `k` readable values and `to` room for them.
    unsafe fn widen_row(from: *const u16, k: usize, to: *mut f32);

    /// Widens `groups` groups of sixteen pairs, one behind another: the first values of a group's pairs become one row of
    /// floats, the second values the next.
    ///
    /// # Safety
    /// As [`Unit::widen_row`], for `groups * 32` values.
    unsafe fn widen_panel(from: *const u16, groups: usize, to: *mut f32);

    /// The same for [`WIDE_ROWS`] pairs of each group, groups `stride` elements apart.
    ///
    /// # Safety
    /// As [`Unit::widen_row`].
    unsafe fn widen_eight(from: *const u16, stride: usize, groups: usize, to: *mut f32);

    /// Multiplies `rows` rows by `panels` panels over `k` terms. Sums begin with what lies at `to` if they go on; they are
    /// added to it at the end if `to` says so.
    ///
    /// # Safety
    /// The processor has the unit; `a` covers the rows, in steps of 1 where panels are [`Panels::Pairs`], and `b` the panels;
    /// `rows <= ROWS`, `panels <= PANELS`; `to` has room.
    unsafe fn multiply(size: (usize, usize, usize), a: &Strip, b: Panels, goes_on: bool, to: Destination);
}

/// Where panels lie, and how many elements apart.
pub(super) enum Panels {
    Floats(*const f32, usize),
    /// As they were packed, pairs of bf16, for `k` in whole pairs: to be widened in registers.
    Pairs(*const u16, usize),
}

/// Where a strip's floats lie.
pub(super) struct Strip {
    pub(super) at: *const f32,
    pub(super) row_stride: usize,
    /// Between terms: 1 (rows), [`WIDE_ROWS`] (widened panels), [`PANEL`] (f32 panels).
    pub(super) step: usize,
}

/// Rows of a strip as widened from panels of sixteen.
pub(super) const WIDE_ROWS: usize = 8;
/// Strips of rows that panels are widened for in registers, once for each: more are worth the way through memory.
const FEW_STRIPS: usize = 2;
/// Groups of pairs asked for ahead where panels come from memory: each of several panels is a stream that begins anew before the
/// processor has seen that it is one.
pub(super) const AHEAD: usize = 32;
/// Rows whose sums wait for the next piece. Panels are widened again for the next rows.
const SUM_ROWS: usize = 384;
/// Kept between widened rows, so that rows of a power of two do not share a set of the cache.
const GAP: usize = 16;

/// A cache line of floats, for the alignment of the scratch.
#[repr(align(64))]
#[derive(Clone, Copy)]
struct Line {
    _floats: [f32; 16],
}

thread_local! {
    /// The thread's widened panels and strip, and the sums that wait.
    static WIDE: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

/// Runs `$body` with `$U` bound to the unit of a level above portable.
macro_rules! with_unit {
    ($isa:expr, $U:ident => $body:expr) => {
        match $isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                type $U = Avx2;
                $body
            }
            #[cfg(target_arch = "x86_64")]
            _ => {
                type $U = Avx512;
                $body
            }
            #[cfg(target_arch = "aarch64")]
            _ => {
                type $U = Neon;
                $body
            }
        }
    };
}

/// Whether products at this level go through here, if they have enough rows.
#[inline(always)]
pub(super) fn serves<S: MatElement>(isa: Isa) -> bool {
    match isa {
        Isa::Portable => false,
        Isa::Neon | Isa::Avx2 | Isa::Avx512 => true,
        Isa::NeonBf16 | Isa::Avx512Bf16 | Isa::Amx => S::DTYPE == DType::F32,
    }
}

/// Whether [`multiply`] is worth its preparation for this many rows.
#[inline(always)]
pub(super) fn takes<S: MatElement>(isa: Isa, rows: usize) -> bool {
    serves::<S>(isa) && rows >= with_unit!(isa, U => U::LEAST_ROWS)
}

/// Bytes of panels that a block goes through again for each strip of rows.
pub(super) fn cached_bytes(isa: Isa) -> usize {
    with_unit!(isa, U => U::CACHED)
}

/// Terms of a sum that are added up before those of other sums: all of `k`, or like pieces of a long one. Six or eight rows of
/// them stay in the first cache, the block's panels in the second. A sum goes on where it was, so that pieces change no bit.
pub(super) fn piece(isa: Isa, k: usize) -> usize {
    with_unit!(isa, U => piece_of::<U>(k))
}

fn piece_of<U: Unit>(k: usize) -> usize {
    k.div_ceil(k.div_ceil(U::PIECE).max(1)).next_multiple_of(2)
}

/// Bytes that a thread keeps for operands whose panels fill [`cached_bytes`] and whose `k` is at most `k`.
pub(super) fn scratch_bytes(isa: Isa, k: usize) -> usize {
    match isa {
        Isa::Portable => 0,
        _ => with_unit!(isa, U => scratch_of::<U>(k, whole_tiles(isa))),
    }
}

fn scratch_of<U: Unit>(k: usize, whole_tiles: usize) -> usize {
    let piece = piece_of::<U>(k).max(piece_of::<U>(U::PIECE));
    // Of any shorter sum: whole tiles may be more than the share of the cache.
    let panels_of = |piece: usize| (U::CACHED / (4 * piece * PANEL)).max(1).next_multiple_of(whole_tiles);
    let columns = (2..=piece).step_by(2).map(|piece| 4 * piece * PANEL * panels_of(piece)).max().unwrap_or(0);
    let panels = columns / (4 * U::PIECE.div_ceil(2) * PANEL);
    let widened = columns + 4 * strip_len(piece) + 4 * sums_len::<U>(panels.max(1));
    widened.max(4 * strip_len(k) + 4 * tile_len::<U>())
}

/// Floats of a tile.
fn tile_len<U: Unit>() -> usize {
    U::ROWS * U::PANELS * PANEL
}

/// Floats of the sums that wait for the next piece.
fn sums_len<U: Unit>(panels: usize) -> usize {
    SUM_ROWS / PANEL * PANEL.div_ceil(U::ROWS) * panels.div_ceil(U::PANELS) * tile_len::<U>()
}

fn strip_len(k: usize) -> usize {
    WIDE_ROWS * (k + GAP)
}

/// Bytes of the calling thread's scratch.
#[cfg(test)]
pub(super) fn held() -> usize {
    WIDE.with_borrow(|wide| wide.len() * size_of::<Line>())
}

/// Makes the calling thread's scratch that large.
pub(super) fn reserve(bytes: usize) {
    WIDE.with_borrow_mut(|wide| grow(wide, bytes.div_ceil(size_of::<Line>())));
}

fn grow(wide: &mut Vec<Line>, lines: usize) {
    if wide.len() < lines {
        wide.resize(lines, Line { _floats: [0.0; 16] });
    }
}

/// Rows `m.0..m.1` by panels `panels.0..panels.1`; with a left operand in panels `m.0` is a multiple of 16.
///
/// # Safety
/// The processor has the level, which [`serves`] `S`; the rows and panels exist.
#[inline(always)]
pub(super) unsafe fn multiply<S: MatElement, E: Epilogue>(
    isa: Isa,
    left: &Left<S>,
    m: (usize, usize),
    right: &PackedB<'_, S>,
    panels: (usize, usize),
    epilogue: &E,
) {
    // SAFETY: the caller's promises.
    unsafe { with_unit!(isa, U => multiply_by::<U, S, E>(isa, left, m, right, panels, epilogue)) }
}

/// # Safety
/// As [`multiply`].
#[inline(always)]
unsafe fn multiply_by<U: Unit, S: MatElement, E: Epilogue>(
    isa: Isa,
    left: &Left<S>,
    m: (usize, usize),
    right: &PackedB<'_, S>,
    panels: (usize, usize),
    epilogue: &E,
) {
    let k = right.groups() * S::GROUP;
    let widen = S::GROUP == 2;
    let in_registers = widen && matches!(left.layout, LeftLayout::Rows(_)) && m.1 - m.0 <= FEW_STRIPS * U::ROWS;
    // Panels that are read once come from memory, which is fastest in the order in which they lie.
    let piece = if in_registers { k.next_multiple_of(2) } else { piece_of::<U>(k) };
    // Of pairs, two columns come from each load: three panels' would be more than there are registers.
    let across = if in_registers { U::PANELS.min(2) } else { U::PANELS };
    // Strips alike: of two rows sums are too few to wait for each other.
    let height = if in_registers { (m.1 - m.0).div_ceil((m.1 - m.0).div_ceil(U::ROWS).max(1)) } else { U::ROWS };
    let count = panels.1 - panels.0;
    let pieces = k.div_ceil(piece.max(1)).max(1);
    WIDE.with_borrow_mut(|wide| {
        let panel_len = piece * PANEL;
        let strip_len = if widen { strip_len(piece) } else { 0 };
        let columns_len = if widen && !in_registers { count * panel_len } else { 0 };
        let sums_len = if pieces > 1 { sums_len::<U>(count) } else { tile_len::<U>() };
        let lines = (columns_len + strip_len + sums_len).div_ceil(16);
        grow(wide, lines);
        // SAFETY: a Line is sixteen floats, and there are enough of them.
        let all = unsafe { std::slice::from_raw_parts_mut(wide.as_mut_ptr().cast::<f32>(), lines * 16) };
        let (columns, rest) = all.split_at_mut(columns_len);
        let (sums, strip) = rest.split_at_mut(sums_len);
        let rows_at_once = if pieces > 1 { SUM_ROWS } else { (m.1 - m.0).max(1) };
        for first in (m.0..m.1).step_by(rows_at_once) {
            let end = m.1.min(first + rows_at_once);
            for k0 in (0..k.max(1)).step_by(piece.max(1)) {
                let terms = piece.min(k - k0);
                let last = k0 + terms == k;
                for (panel, to) in (panels.0..panels.1).zip(columns.chunks_exact_mut(panel_len.max(1))) {
                    // SAFETY: panel `panel` holds `k / 2` groups of sixteen pairs, and `to` sixteen floats for each term.
                    unsafe { U::widen_panel(right.panel(panel).add(k0 * PANEL).cast(), terms / 2, to.as_mut_ptr()) };
                }
                let mut row = first;
                let mut tiles = 0;
                while row < end {
                    let rows = strip_rows(left, row, height).min(end - row);
                    // SAFETY: rows `row..row + rows` exist and do not cross a panel; terms are inside `k`.
                    let a = unsafe { strip_of::<U, S>(left, row, rows, (k0, terms), strip) };
                    for panel in (panels.0..panels.1).step_by(across) {
                        let width = across.min(panels.1 - panel);
                        let ld = width * PANEL;
                        let filled = ld.min(right.n - panel * PANEL);
                        let packed = right.panel(panel).wrapping_add(k0 * PANEL);
                        let b = match (widen, in_registers) {
                            (false, _) => Panels::Floats(packed.cast(), right.panel_len()),
                            (true, true) => Panels::Pairs(packed.cast(), right.panel_len()),
                            (true, false) => {
                                Panels::Floats(columns[(panel - panels.0) * panel_len..].as_ptr(), panel_len)
                            }
                        };
                        let tile = &mut sums[tiles * tile_len::<U>()..][..tile_len::<U>()];
                        let direct = match pieces {
                            1 => epilogue.destination(row, panel * PANEL, rows, filled).filter(|_| filled == ld),
                            _ => None,
                        };
                        if direct.is_some_and(|place| place.add && k >= LONG) {
                            epilogue.ask_for(row, panel * PANEL, rows, filled);
                        }
                        let to = direct.unwrap_or(Destination { at: tile.as_mut_ptr(), stride: ld, add: false });
                        // SAFETY: `a` covers `rows` rows and `b` `width` panels of `terms`; a tile has room for the largest
                        // shape, and an epilogue's destination for what it was asked for.
                        unsafe { U::multiply((rows, width, terms), &a, b, k0 > 0, to) };
                        if last && direct.is_none() {
                            epilogue.store(isa, row, panel * PANEL, rows, filled, tile, ld);
                        }
                        if pieces > 1 {
                            tiles += 1;
                        }
                    }
                    row += rows;
                }
            }
        }
    });
}

/// How many rows the strip at `row` may have.
#[inline(always)]
fn strip_rows<S>(left: &Left<S>, row: usize, height: usize) -> usize {
    match left.layout {
        LeftLayout::Rows(_) => height,
        LeftLayout::Panels(_) => height.min(PANEL - row % PANEL),
    }
}

/// The strip of `A` as floats: where it is if it is f32, widened into `strip` otherwise.
///
/// # Safety
/// As [`multiply`]; rows `row..row + rows` lie in one panel; `strip` has [`strip_len`] floats where `S` is bf16; `k` terms
/// from the even `k0` on exist.
#[inline(always)]
unsafe fn strip_of<U: Unit, S: MatElement>(
    left: &Left<S>,
    row: usize,
    rows: usize,
    (k0, k): (usize, usize),
    strip: &mut [f32],
) -> Strip {
    if S::GROUP == 1 {
        let (at, row_stride, step) = left.at(row);
        return Strip { at: at.wrapping_add(k0 * step).cast(), row_stride, step };
    }
    let out = strip.as_mut_ptr();
    match left.layout {
        LeftLayout::Rows(stride) => {
            let (from, _, _) = left.at(row);
            let row_stride = k + GAP;
            for r in 0..rows {
                // SAFETY: row `row + r` has `k` elements, and the strip room for as many.
                unsafe { U::widen_row(from.add(r * stride + k0).cast(), k, out.add(r * row_stride)) };
            }
            Strip { at: out, row_stride, step: 1 }
        }
        LeftLayout::Panels(_) => {
            // Eight rows are read at a time and must lie inside the panel of sixteen.
            let first = (row % PANEL).min(PANEL - WIDE_ROWS);
            let (from, _, group) = left.at(row / PANEL * PANEL + first);
            // SAFETY: the panel has `k / 2` groups of sixteen pairs, eight of them from `first` on.
            unsafe { U::widen_eight(from.add(k0 / 2 * group).cast(), group, k / 2, out) };
            Strip { at: out.wrapping_add(row % PANEL - first), row_stride: 1, step: WIDE_ROWS }
        }
    }
}
