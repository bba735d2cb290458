//! Products on AVX2: a micro-kernel of 6 rows by 16 columns in f32, and bf16 operands widened once for a whole block.
//!
//! AVX2 has no bf16 arithmetic. Widening inside the micro-kernel costs as much as the multiplications (each value of
//! `A` is widened again for every panel, each of `B` for every strip of rows), so a block widens its panels of `B` once
//! and its rows of `A` once per strip, into scratch that stays in the caches; of a long `k` a [`piece`] at a time. 12 of the 16 registers hold sums; a step
//! of `k` issues 12 multiplications for 2 loads and 6 broadcasts. The order of every sum is that of the plain kernel.

use std::cell::RefCell;

use super::pack::{PANEL, PackedB};
use super::{Epilogue, Left, LeftLayout, MatElement};
use core::arch::x86_64::{
    __m256i, _mm_loadu_si128, _mm256_and_si256, _mm256_broadcast_ss, _mm256_castsi256_ps, _mm256_cvtepu16_epi32,
    _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_set1_epi32, _mm256_setzero_ps, _mm256_slli_epi32,
    _mm256_storeu_ps,
};

/// Rows of a strip.
const ROWS: usize = 6;
/// Rows of a strip as widened from panels: two strips and a rest of four lie in a panel of sixteen.
const WIDE_ROWS: usize = 8;
/// With fewer rows the panels are used too seldom to be worth widening.
const FEW_ROWS: usize = 4;
/// Most terms of a piece.
const PIECE: usize = 1024;
/// Rows whose sums wait for the next piece. Panels are widened again for the next rows.
const SUM_ROWS: usize = 384;
/// Their strips: three of a panel of sixteen.
const SUM_STRIPS: usize = SUM_ROWS / PANEL * 3;
/// Kept between widened rows, so that rows of a power of two do not share a set of the cache.
const GAP: usize = 16;

/// A cache line of floats, for the alignment of the scratch.
#[repr(align(64))]
#[derive(Clone, Copy)]
struct Line {
    _floats: [f32; 16],
}

thread_local! {
    /// The thread's widened panels and strip.
    static WIDE: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

/// Bytes that a thread keeps for operands whose panels fill `cached_bytes` and whose `k` is at most `k`.
pub(super) fn scratch_bytes(cached_bytes: usize, k: usize) -> usize {
    let piece = piece(k).max(piece(PIECE));
    let panels = cached_bytes.max(4 * piece * PANEL) / (4 * PIECE.div_ceil(2) * PANEL);
    cached_bytes.max(4 * piece * PANEL) + 4 * strip_len(piece) + 4 * sums_len(panels.max(1))
}

/// Terms of a sum that are added up before those of other sums: all of `k`, or like pieces of a long one. Six rows of them
/// stay in the first cache, four panels in the second. A sum goes on where it was, so that pieces change no bit.
pub(super) fn piece(k: usize) -> usize {
    k.div_ceil(k.div_ceil(PIECE).max(1)).next_multiple_of(2)
}

/// Floats of the sums that wait for the next piece.
fn sums_len(panels: usize) -> usize {
    SUM_STRIPS * panels * ROWS * PANEL
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

fn strip_len(k: usize) -> usize {
    WIDE_ROWS * (k + GAP)
}

/// Whether [`multiply`] is worth its preparation for this many rows.
pub(super) fn takes(rows: usize) -> bool {
    rows >= FEW_ROWS
}

/// Rows `m.0..m.1` by panels `panels.0..panels.1`; with a left operand in panels `m.0` is a multiple of 16.
///
/// # Safety
/// The processor has AVX2 and FMA; the rows and panels exist.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn multiply<S: MatElement, E: Epilogue>(
    left: &Left<S>,
    m: (usize, usize),
    right: &PackedB<'_, S>,
    panels: (usize, usize),
    epilogue: &E,
) {
    let k = right.groups() * S::GROUP;
    let widen = S::GROUP == 2;
    let (count, piece) = (panels.1 - panels.0, piece(k));
    let pieces = k.div_ceil(piece.max(1)).max(1);
    WIDE.with_borrow_mut(|wide| {
        let panel_len = piece * PANEL;
        let (columns_len, strip_len) = if widen { (count * panel_len, strip_len(piece)) } else { (0, 0) };
        let sums_len = if pieces > 1 { sums_len(count) } else { ROWS * PANEL };
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
                    unsafe {
                        let from = right.panel(panel).add(k0 * PANEL);
                        widen_pairs::<2>(from.cast(), 2 * PANEL, terms / 2, to.as_mut_ptr());
                    }
                }
                let mut row = first;
                let mut tiles = sums.chunks_exact_mut(ROWS * PANEL);
                while row < end {
                    let rows = strip_rows(left, row).min(end - row);
                    // SAFETY: rows `row..row + rows` exist and do not cross a panel; terms are inside `k`.
                    let a = unsafe { strip_of(left, row, rows, (k0, terms), strip) };
                    for panel in panels.0..panels.1 {
                        let b = match widen {
                            true => columns[(panel - panels.0) * panel_len..].as_ptr(),
                            false => right.panel(panel).wrapping_add(k0 * PANEL).cast::<f32>(),
                        };
                        if pieces == 1 {
                            tiles = sums.chunks_exact_mut(ROWS * PANEL);
                        }
                        let Some(tile) = tiles.next() else { unreachable!("a tile for each strip and panel") };
                        if k0 == 0 {
                            tile.fill(0.0);
                        }
                        // SAFETY: `a` covers `rows` rows and `b` sixteen columns of `terms`.
                        unsafe { strip_by_panel(rows, terms, &a, b, tile) };
                        if last {
                            let width = PANEL.min(right.n - panel * PANEL);
                            epilogue.store(row, panel * PANEL, rows, width, tile, PANEL);
                        }
                    }
                    row += rows;
                }
            }
        }
    });
}

/// How many rows the strip at `row` may have.
fn strip_rows<S>(left: &Left<S>, row: usize) -> usize {
    match left.layout {
        LeftLayout::Rows(_) => ROWS,
        LeftLayout::Panels(_) => ROWS.min(PANEL - row % PANEL),
    }
}

/// Where a strip's floats lie.
struct Strip {
    at: *const f32,
    row_stride: usize,
    step: usize,
}

/// The strip of `A` as floats: where it is if it is f32, widened into `strip` otherwise.
///
/// # Safety
/// As [`multiply`]; rows `row..row + rows` lie in one panel; `strip` has [`strip_len`] floats where `S` is bf16; `k` terms
/// from the even `k0` on exist.
#[target_feature(enable = "avx2,fma")]
unsafe fn strip_of<S: MatElement>(
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
                unsafe { widen_row(from.add(r * stride + k0).cast(), k, out.add(r * row_stride)) };
            }
            Strip { at: out, row_stride, step: 1 }
        }
        LeftLayout::Panels(_) => {
            // Eight rows are read at a time and must lie inside the panel of sixteen.
            let first = (row % PANEL).min(PANEL - WIDE_ROWS);
            let (from, _, group) = left.at(row / PANEL * PANEL + first);
            // SAFETY: the panel has `k / 2` groups of sixteen pairs, eight of them from `first` on.
            unsafe { widen_pairs::<1>(from.add(k0 / 2 * group).cast(), group, k / 2, out) };
            Strip { at: out.wrapping_add(row % PANEL - first), row_stride: 1, step: WIDE_ROWS }
        }
    }
}

/// Widens `k` bf16 values.
///
/// # Safety
/// AVX2; `from` has `k` readable values and `to` room for them.
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

/// Widens `groups` groups of `8 VECTORS` bf16 pairs, `stride` elements apart: the first values of all pairs of a group
/// become one row of floats, the second values the next.
///
/// # Safety
/// AVX2; the pairs are readable, and `to` has room for `groups * 16 VECTORS` floats.
#[target_feature(enable = "avx2,fma")]
unsafe fn widen_pairs<const VECTORS: usize>(from: *const u16, stride: usize, groups: usize, to: *mut f32) {
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

/// Goes on with the sums of a tile, 16 floats a row.
///
/// # Safety
/// As [`kernel`], whose step is one of those here: 1 (rows), 8 (widened panels), 16 (f32 panels).
#[target_feature(enable = "avx2,fma")]
unsafe fn strip_by_panel(rows: usize, k: usize, a: &Strip, b: *const f32, tile: &mut [f32]) {
    macro_rules! pick {
        ($($rows:literal)*) => {
            match (rows, a.step) {
                $(
                    // SAFETY: the caller's promises.
                    ($rows, 1) => unsafe { kernel::<$rows, 1>(k, a.at, a.row_stride, b, tile) },
                    // SAFETY: as above.
                    ($rows, WIDE_ROWS) => unsafe { kernel::<$rows, WIDE_ROWS>(k, a.at, a.row_stride, b, tile) },
                    // SAFETY: as above.
                    ($rows, PANEL) => unsafe { kernel::<$rows, PANEL>(k, a.at, a.row_stride, b, tile) },
                )*
                _ => unreachable!("no micro-kernel of {rows} rows, {} apart in k", a.step),
            }
        };
    }
    pick!(1 2 3 4 5 6);
}

/// # Safety
/// AVX2 and FMA; `a` covers `HEIGHT` rows of `k` values, `row_stride` and `STEP` apart; `b` covers `k` rows of sixteen.
#[target_feature(enable = "avx2,fma")]
unsafe fn kernel<const HEIGHT: usize, const STEP: usize>(
    k: usize,
    a: *const f32,
    row_stride: usize,
    b: *const f32,
    tile: &mut [f32],
) {
    assert!(tile.len() >= HEIGHT * PANEL, "a tile shorter than its rows");
    let mut sums = [[_mm256_setzero_ps(); 2]; HEIGHT];
    for (row, sums) in tile.chunks_exact(PANEL).zip(&mut sums) {
        // SAFETY: a row of the tile has sixteen floats.
        unsafe { *sums = [_mm256_loadu_ps(row.as_ptr()), _mm256_loadu_ps(row.as_ptr().add(8))] };
    }
    let rows: [*const f32; HEIGHT] = std::array::from_fn(|r| a.wrapping_add(r * row_stride));
    for i in 0..k {
        // SAFETY: the caller's promise for `i < k`.
        unsafe {
            let columns = [_mm256_loadu_ps(b.add(i * PANEL)), _mm256_loadu_ps(b.add(i * PANEL + 8))];
            for (row, sums) in rows.iter().zip(&mut sums) {
                let x = _mm256_broadcast_ss(&*row.add(i * STEP));
                sums[0] = _mm256_fmadd_ps(x, columns[0], sums[0]);
                sums[1] = _mm256_fmadd_ps(x, columns[1], sums[1]);
            }
        }
    }
    for (row, sums) in tile.chunks_exact_mut(PANEL).zip(&sums) {
        // SAFETY: a row of the tile has sixteen floats.
        unsafe {
            _mm256_storeu_ps(row.as_mut_ptr(), sums[0]);
            _mm256_storeu_ps(row.as_mut_ptr().add(8), sums[1]);
        }
    }
}
