//! Inner loops over keys and values of bf16, for AVX-512-BF16: a score takes an instruction for 32 elements, with queries in bf16
//! as they were stored. Values are widened where they lie, even elements and odd ones apart; weights stay in f32.

use std::any::TypeId;

use core::arch::x86_64::{
    __m512, __m512bh, __m512i, _mm512_and_si512, _mm512_castsi512_ps, _mm512_dpbf16_ps, _mm512_fmadd_ps,
    _mm512_loadu_ps, _mm512_loadu_si512, _mm512_permutex2var_ps, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setr_epi32,
    _mm512_setzero_ps, _mm512_slli_epi32, _mm512_storeu_ps,
};

use super::range::Attend;
use super::{Cached, KEYS};
use crate::cpu::isa::Isa;
use crate::cpu::math::LANES;
use crate::cpu::row_sums::Rows;
use crate::dtype::Bf16;

/// Elements of a register.
const WIDE: usize = 2 * LANES;
/// Values that are added to a sum while it is in registers.
const BLOCK: usize = 8;

/// Whether it has loops for such rows on such a processor.
pub(super) fn takes<E: Cached>(isa: Isa, head_dim: usize) -> bool {
    isa >= Isa::Avx512Bf16 && TypeId::of::<E>() == TypeId::of::<Bf16>() && head_dim.is_multiple_of(WIDE)
}

/// A row's products: `lanes[j][key]` becomes 16 partial sums of `q[j] k`, where `queries` of each head follow each other.
///
/// # Safety
/// The processor has AVX-512-BF16; the row has `n` elements for each head of `lanes`, `n` a multiple of 32.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn dots(row: *const Bf16, n: usize, q: &[Bf16], queries: usize, key: usize, lanes: &mut [Rows]) {
    assert_eq!(q.len(), lanes.len() * n, "queries of other heads");
    // SAFETY: the caller's promise.
    unsafe {
        match n {
            64 => dots_of::<64>(row, n, q, queries, key, lanes),
            128 => dots_of::<128>(row, n, q, queries, key, lanes),
            _ => dots_of::<0>(row, n, q, queries, key, lanes),
        }
    }
}

/// [`dots`] with a loop of known length, unless `N` is 0.
///
/// # Safety
/// As [`dots`]; there are `n` elements of `q` for each of `lanes`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn dots_of<const N: usize>(
    row: *const Bf16,
    n: usize,
    q: &[Bf16],
    queries: usize,
    key: usize,
    lanes: &mut [Rows],
) {
    let n = if N > 0 { N } else { n };
    let (mut k, mut q) = (row, q.as_ptr());
    for of_head in lanes.chunks_exact_mut(queries) {
        for lanes in of_head {
            // SAFETY: the caller's promise.
            unsafe {
                let mut sum = _mm512_setzero_ps();
                for i in (0..n).step_by(WIDE) {
                    sum = _mm512_dpbf16_ps(sum, pairs(q.add(i)), pairs(k.add(i)));
                }
                _mm512_storeu_ps(lanes[key].as_mut_ptr(), sum);
            }
            q = q.wrapping_add(n);
        }
        k = k.wrapping_add(n);
    }
}

/// `sums += scores v` over a range. Sums are kept apart as values are, and put in order at the end.
///
/// # Safety
/// The processor has AVX-512-BF16; `E` is bf16; `head_dim` is a multiple of 32; `sums` are zeros.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn add<E: Cached>(range: &mut Attend<'_, E>) {
    let (n, keys, stride) = (range.head_dim, range.keys, range.stride);
    let width = range.heads * n;
    assert!(range.v.len() >= (keys - 1) * stride + width, "fewer values than keys");
    let v = range.v.as_ptr().cast::<Bf16>();
    for first in (0..keys).step_by(BLOCK) {
        let block = BLOCK.min(keys - first);
        range.ask(block);
        let rows = range.sums.chunks_exact_mut(n).zip(&*range.states).zip(range.scores.chunks_exact(KEYS));
        let (mut head, mut query) = (0, 0);
        for ((sum, state), scores) in rows {
            let scores = &scores[first..first + block.min(state.visible.saturating_sub(first))];
            // SAFETY: rows `first` to `first + block` have this head's elements, as was asserted; a sum is `n` long.
            unsafe {
                let v = v.add(first * stride + head * n);
                match <&[f32; BLOCK]>::try_from(scores) {
                    Ok(scores) => weigh(scores, v, stride, sum),
                    Err(_) => weigh(scores, v, stride, sum),
                }
            }
            query += 1;
            if query == range.queries {
                (head, query) = (head + 1, 0);
            }
        }
    }
    for sum in range.sums.as_chunks_mut::<WIDE>().0 {
        // SAFETY: a chunk is two registers.
        unsafe { interleave(sum) };
    }
}

/// `sum += scores v` of one head, even elements and odd ones apart in each 32.
///
/// # Safety
/// As [`add`]'s; there is a row of values for each score, `stride` apart and as long as the sum.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn weigh(scores: &[f32], v: *const Bf16, stride: usize, sum: &mut [f32]) {
    for (i, sum) in sum.as_chunks_mut::<WIDE>().0.iter_mut().enumerate() {
        let high = _mm512_set1_epi32(0xffff_0000_u32 as i32);
        // SAFETY: the caller's promise.
        unsafe {
            let mut even = _mm512_loadu_ps(sum.as_ptr());
            let mut odd = _mm512_loadu_ps(sum.as_ptr().add(LANES));
            for (key, score) in scores.iter().enumerate() {
                let values = _mm512_loadu_si512(v.add(key * stride + i * WIDE).cast());
                let score = _mm512_set1_ps(*score);
                even = _mm512_fmadd_ps(score, _mm512_castsi512_ps(_mm512_slli_epi32::<16>(values)), even);
                odd = _mm512_fmadd_ps(score, _mm512_castsi512_ps(_mm512_and_si512(values, high)), odd);
            }
            _mm512_storeu_ps(sum.as_mut_ptr(), even);
            _mm512_storeu_ps(sum.as_mut_ptr().add(LANES), odd);
        }
    }
}

/// Even elements, then odd ones, become elements in order.
///
/// # Safety
/// The processor has AVX-512F.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn interleave(elements: &mut [f32; WIDE]) {
    let low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    let high = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    // SAFETY: two registers.
    unsafe {
        let even: __m512 = _mm512_loadu_ps(elements.as_ptr());
        let odd = _mm512_loadu_ps(elements.as_ptr().add(LANES));
        _mm512_storeu_ps(elements.as_mut_ptr(), _mm512_permutex2var_ps(even, low, odd));
        _mm512_storeu_ps(elements.as_mut_ptr().add(LANES), _mm512_permutex2var_ps(even, high, odd));
    }
}

/// 32 elements.
///
/// # Safety
/// They are there; the processor has AVX-512F.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn pairs(at: *const Bf16) -> __m512bh {
    // SAFETY: the caller's promise; both types are 64 bytes of plain data.
    unsafe { core::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(at.cast())) }
}
