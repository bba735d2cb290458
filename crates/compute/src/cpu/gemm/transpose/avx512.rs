//! Transposes blocks of 16 x 16 pairs with AVX-512: rows of a weight or of keys into panels, and packed panels into the
//! rows that AMX loads as its left operand.

use core::arch::x86_64::{
    __m512bh, __m512i, __mmask16, _mm_sfence, _mm512_cvtne2ps_pbh, _mm512_loadu_ps, _mm512_loadu_si512,
    _mm512_mask_storeu_epi32, _mm512_permutex2var_epi16, _mm512_setzero_si512, _mm512_shuffle_i32x4,
    _mm512_stream_si512, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
};

use crate::cpu::gemm::pack::{self, PANEL};
use crate::dtype::{Bf16, Storage};

/// `k` of a block.
const DEPTH: usize = 32;

/// As [`pack::transposed_panel`], by blocks.
///
/// # Safety
/// The processor has AVX-512 F.
#[inline(always)]
pub(in crate::cpu::gemm) unsafe fn transposed_panel<T: Storage>(
    source: &[T],
    stride: usize,
    (k, n): (usize, usize),
    panel: usize,
    out: &mut [Bf16],
) {
    let first = panel * PANEL;
    let whole = k / DEPTH * DEPTH;
    let mut block = [[Bf16(0); DEPTH]; PANEL];
    for (start, to) in (0..whole).step_by(DEPTH).zip(out.chunks_exact_mut(DEPTH * PANEL)) {
        for (lane, row) in block.iter_mut().enumerate().take(n - first) {
            let from = &source[(first + lane) * stride + start..][..DEPTH];
            for (to, from) in row.iter_mut().zip(from) {
                *to = pack::convert(*from);
            }
        }
        // SAFETY: `to` holds 16 slots of 16 pairs; a transpose is its own inverse, so slots are its rows.
        unsafe { pairs_to_rows(block.as_ptr().cast(), PANEL, to.as_mut_ptr(), 2 * PANEL) };
    }
    if whole < k {
        pack::transposed_panel(&source[whole..], stride, (k - whole, n), panel, &mut out[whole * PANEL..]);
    }
}

/// Writes 16 rows of `pairs` pairs, `stride` elements apart, from `[pair][row]`.
///
/// # Safety
/// `from` covers 16 x 16 pairs, `to` the 16 rows; `pairs <= 16`; the processor has AVX-512 F.
#[inline]
#[target_feature(enable = "avx512f")]
pub(in crate::cpu::gemm) unsafe fn pairs_to_rows(from: *const Bf16, pairs: usize, to: *mut Bf16, stride: usize) {
    let inside = ((1_u32 << pairs) - 1) as __mmask16;
    let mut x = [_mm512_setzero_si512(); 16];
    for (pair, x) in x.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        *x = unsafe { _mm512_loadu_si512(from.add(pair * 32).cast()) };
    }
    // Four pairs become, in each 128-bit lane, one row's four pairs; then the lanes are exchanged.
    let mut quads = [[_mm512_setzero_si512(); 4]; 4];
    for (i, x) in x.chunks_exact(4).enumerate() {
        let low = [_mm512_unpacklo_epi32(x[0], x[1]), _mm512_unpacklo_epi32(x[2], x[3])];
        let high = [_mm512_unpackhi_epi32(x[0], x[1]), _mm512_unpackhi_epi32(x[2], x[3])];
        quads[0][i] = _mm512_unpacklo_epi64(low[0], low[1]);
        quads[1][i] = _mm512_unpackhi_epi64(low[0], low[1]);
        quads[2][i] = _mm512_unpacklo_epi64(high[0], high[1]);
        quads[3][i] = _mm512_unpackhi_epi64(high[0], high[1]);
    }
    for (i, quad) in quads.into_iter().enumerate() {
        for (lane, row) in exchange_lanes(quad).into_iter().enumerate() {
            // SAFETY: the caller's promise; the mask keeps the store inside the row.
            unsafe { _mm512_mask_storeu_epi32(to.add((4 * lane + i) * stride).cast(), inside, row) };
        }
    }
}

/// The 4 x 4 transpose of 128-bit lanes.
#[inline]
#[target_feature(enable = "avx512f")]
fn exchange_lanes(x: [__m512i; 4]) -> [__m512i; 4] {
    let even = [_mm512_shuffle_i32x4::<0x88>(x[0], x[1]), _mm512_shuffle_i32x4::<0x88>(x[2], x[3])];
    let odd = [_mm512_shuffle_i32x4::<0xdd>(x[0], x[1]), _mm512_shuffle_i32x4::<0xdd>(x[2], x[3])];
    [
        _mm512_shuffle_i32x4::<0x88>(even[0], even[1]),
        _mm512_shuffle_i32x4::<0x88>(odd[0], odd[1]),
        _mm512_shuffle_i32x4::<0xdd>(even[0], even[1]),
        _mm512_shuffle_i32x4::<0xdd>(odd[0], odd[1]),
    ]
}

/// Rows of a block of [`both_forms`].
const BOTH_ROWS: usize = PANEL;

/// Rounds 16 rows of a matrix and writes them as both forms of packed operands: `forward` is the panel whose lanes are these rows,
/// of `columns` columns; `backward` has a panel of `panel_len` elements for each 16 columns, in which the rows are the pairs from
/// the first pointed at on. Whole cache lines past the caches: nobody reads them before the next step.
///
/// # Safety
/// The processor has AVX-512-BF16; `columns` is a multiple of 32; `rows` holds 16 rows of them, `forward` is as large and aligned to 64
/// bytes, and so are the 512 bytes of each of `columns / 16` panels that begin at `backward`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(crate) unsafe fn both_forms(
    rows: &[f32],
    columns: usize,
    forward: &mut [Bf16],
    backward: *mut Bf16,
    panel_len: usize,
) {
    assert!(columns.is_multiple_of(DEPTH) && rows.len() == BOTH_ROWS * columns && forward.len() == rows.len());
    let mut block = [[Bf16(0); DEPTH]; BOTH_ROWS];
    let mut slots = [[Bf16(0); DEPTH]; BOTH_ROWS];
    // The pairs of two rows' first sixteen columns, and of the others.
    let lane = |i: usize| [i as u16, (i + DEPTH) as u16];
    let (mut first, mut second) = ([0_u16; DEPTH], [0_u16; DEPTH]);
    for i in 0..PANEL {
        first[2 * i..2 * i + 2].copy_from_slice(&lane(i));
        second[2 * i..2 * i + 2].copy_from_slice(&lane(i + PANEL));
    }
    // SAFETY: 64 bytes each. Reads are inside the rows; writes inside the slots, the panel and the panels, by the caller's promise.
    unsafe {
        let halves = [_mm512_loadu_si512(first.as_ptr().cast()), _mm512_loadu_si512(second.as_ptr().cast())];
        for start in (0..columns).step_by(DEPTH) {
            for (row, block) in block.iter_mut().enumerate() {
                let from = rows.as_ptr().add(row * columns + start);
                let rounded = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(from.add(PANEL)), _mm512_loadu_ps(from));
                block.as_mut_ptr().cast::<__m512bh>().write_unaligned(rounded);
            }
            pairs_to_rows(block.as_ptr().cast(), PANEL, slots.as_mut_ptr().cast(), DEPTH);
            for (slot, pairs) in slots.iter().enumerate() {
                let to = forward.as_mut_ptr().add((start / 2 + slot) * DEPTH);
                _mm512_stream_si512(to.cast(), _mm512_loadu_si512(pairs.as_ptr().cast()));
            }
            for (half, order) in halves.into_iter().enumerate() {
                let panel = backward.add((start / PANEL + half) * panel_len);
                for (pair, rows) in block.chunks_exact(2).enumerate() {
                    let [a, b] = [0, 1].map(|i| _mm512_loadu_si512(rows[i].as_ptr().cast()));
                    _mm512_stream_si512(panel.add(pair * DEPTH).cast(), _mm512_permutex2var_epi16(a, order, b));
                }
            }
        }
        // Streamed lines are seen by other threads once this is.
        _mm_sfence();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_the_transpose_and_nothing_else_is_written() {
        if !is_x86_feature_detected!("avx512f") {
            println!("skipped: no AVX-512");
            return;
        }
        let from: Vec<Bf16> = (0..512).map(|i| Bf16(i as u16 + 1)).collect();
        for (pairs, stride) in [(1, 2), (7, 14), (15, 33), (16, 32), (16, 50)] {
            let mut to = vec![Bf16(0); 15 * stride + 2 * pairs + 1];
            // SAFETY: 16 rows of `pairs` pairs fit.
            unsafe { pairs_to_rows(from.as_ptr(), pairs, to.as_mut_ptr(), stride) };
            for (i, x) in to.iter().enumerate() {
                let (row, k) = (i / stride, i % stride);
                let inside = row < 16 && k < 2 * pairs;
                let want = if inside { from[k / 2 * 32 + row * 2 + k % 2] } else { Bf16(0) };
                assert_eq!(*x, want, "pairs {pairs}, stride {stride}, row {row}, k {k}");
            }
        }
    }
}
