//! What lies between attention's products, on AVX-512-BF16: on this unit and on AMX the exponentials of a tile take as long as
//! its products if they are computed as precisely as f32 wants them and rounded by shifts and comparisons.
//!
//! `e^x` is `2^(x log2 e)`: `vrndscaleps` splits whole powers off, `vscalefps` puts them back. Rounding to bf16 is
//! `vcvtneps2bf16`, which takes what is below the normal numbers for 0.

use core::arch::x86_64::{
    __m256bh, __m512, __mmask16, _mm512_add_ps, _mm512_cvtneps_pbh, _mm512_cvtss_f32, _mm512_fmadd_ps, _mm512_fmsub_ps,
    _mm512_loadu_ps, _mm512_mask_loadu_ps, _mm512_maskz_mov_ps, _mm512_max_ps, _mm512_mul_ps, _mm512_reduce_add_ps,
    _mm512_reduce_max_ps, _mm512_roundscale_ps, _mm512_scalef_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
    _mm512_sub_ps,
};
use std::f32::consts::{LN_2, LOG2_E};

use crate::dtype::Bf16;

/// Values of a vector.
const LANES: usize = 16;

/// `2^x`, relative error below 3e-7; 0 below -150. NaN stays NaN.
#[inline]
#[target_feature(enable = "avx512f")]
fn exp2(x: __m512) -> __m512 {
    // Of which the second operand is returned if one is NaN: the bound keeps minus infinity from becoming one.
    let x = _mm512_max_ps(_mm512_set1_ps(-200.0), x);
    // To the nearest, whatever the rounding mode, and without exceptions.
    let whole = _mm512_roundscale_ps::<0x08>(x);
    let r = _mm512_sub_ps(x, whole);
    // Minimax for the relative error on [-1/2, 1/2], with ln 2 as it is.
    let p = _mm512_set1_ps(1.330_060_5e-3);
    let p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(9.669_691e-3));
    let p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.550_558_5e-2));
    let p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(2.402_228_3e-1));
    let p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(LN_2));
    let p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0));
    _mm512_scalef_ps(p, whole)
}

/// The lanes of vector `vector` that are among the first `len` values.
#[inline(always)]
fn lanes_before(len: usize, vector: usize) -> __mmask16 {
    let left = len.saturating_sub(vector * LANES);
    if left >= LANES { !0 } else { (1 << left) - 1 }
}

/// Online softmax of one row of plain scores: probabilities, the new maximum (of `scale` times the scores) and total, and by
/// what the sums of earlier tiles are to be multiplied. What follows the scores, up to whole vectors, becomes 0.
///
/// # Safety
/// The processor has AVX-512-BF16. `scores` and `probabilities` have whole vectors, at least one for `visible >= 1` values.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn softmax_row(
    scores: &[f32],
    visible: usize,
    scale: f32,
    (max, total): (&mut f32, &mut f32),
    probabilities: &mut [Bf16],
) -> f32 {
    let vectors = visible.div_ceil(LANES);
    assert!(visible > 0 && scores.len().min(probabilities.len()) >= vectors * LANES, "fewer scores than visible keys");
    let none = _mm512_set1_ps(f32::NEG_INFINITY);
    let (scores, probabilities) = (scores.as_ptr(), probabilities.as_mut_ptr());
    // SAFETY: every access is inside the first `vectors` vectors.
    unsafe {
        let mut top = none;
        for v in 0..vectors {
            // The second operand where a score is NaN, which reaches the total below.
            top = _mm512_max_ps(_mm512_mask_loadu_ps(none, lanes_before(visible, v), scores.add(v * LANES)), top);
        }
        let new_max = (_mm512_reduce_max_ps(top) * scale).max(*max);
        let (scale, below) = (_mm512_set1_ps(scale * LOG2_E), _mm512_set1_ps(new_max * LOG2_E));
        let mut sums = _mm512_setzero_ps();
        for v in 0..vectors {
            let score = _mm512_mask_loadu_ps(none, lanes_before(visible, v), scores.add(v * LANES));
            let e = exp2(_mm512_fmsub_ps(score, scale, below));
            sums = _mm512_add_ps(sums, e);
            store(probabilities.add(v * LANES), e);
        }
        let correction =
            if new_max == *max { 1.0 } else { _mm512_cvtss_f32(exp2(_mm512_set1_ps((*max - new_max) * LOG2_E))) };
        *max = new_max;
        *total = total.mul_add(correction, _mm512_reduce_add_ps(sums));
        correction
    }
}

/// Multiplies a row of sums.
///
/// # Safety
/// The processor has AVX-512.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn rescale(sums: &mut [f32], factor: f32) {
    let (vectors, rest) = sums.as_chunks_mut::<LANES>();
    for sums in vectors {
        // SAFETY: 16 floats.
        unsafe {
            let scaled = _mm512_mul_ps(_mm512_loadu_ps(sums.as_ptr()), _mm512_set1_ps(factor));
            _mm512_storeu_ps(sums.as_mut_ptr(), scaled);
        }
    }
    for x in rest {
        *x *= factor;
    }
}

/// What the gradients of a row of scores are computed from: one key, all queries of a tile.
#[derive(Clone, Copy)]
pub(super) struct GradientRow<'a> {
    /// `k · q`.
    pub(super) scores: &'a [f32],
    /// `v · dO`.
    pub(super) gradients: &'a [f32],
    /// Log-sum-exp by query.
    pub(super) lse: &'a [f32],
    /// `sum dO O` by query.
    pub(super) delta: &'a [f32],
    pub(super) scale: f32,
    /// Queries that do not see the key, at the beginning.
    pub(super) hidden: usize,
}

/// A row of `P = exp(scale S - lse)` and of `dS = scale P (dP - D)`, both rounded; 0 for the hidden queries.
///
/// # Safety
/// The processor has AVX-512-BF16; `probabilities` and `score_gradients` have whole vectors for all of `lse`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn gradient_row(row: &GradientRow<'_>, probabilities: &mut [Bf16], score_gradients: &mut [Bf16]) {
    let n = row.lse.len();
    let vectors = n.div_ceil(LANES);
    let floats = row.scores.len().min(row.gradients.len()).min(row.delta.len());
    assert!(floats >= n && row.hidden <= n, "a row shorter than its queries");
    assert!(probabilities.len().min(score_gradients.len()) >= vectors * LANES, "no whole vectors");
    let first = row.hidden / LANES;
    probabilities[..first * LANES].fill(Bf16(0));
    score_gradients[..first * LANES].fill(Bf16(0));
    let (probabilities, score_gradients) = (probabilities.as_mut_ptr(), score_gradients.as_mut_ptr());
    let (log2e, scale2, scale) =
        (_mm512_set1_ps(LOG2_E), _mm512_set1_ps(row.scale * LOG2_E), _mm512_set1_ps(row.scale));
    for v in first..vectors {
        let inside = lanes_before(n, v);
        let seen = inside & !lanes_before(row.hidden, v);
        // SAFETY: loads are masked by the rows' length; stores stay inside whole vectors.
        unsafe {
            let load = |from: &[f32]| _mm512_mask_loadu_ps(_mm512_setzero_ps(), inside, from.as_ptr().add(v * LANES));
            let below = _mm512_mul_ps(load(row.lse), log2e);
            let p = exp2(_mm512_fmsub_ps(load(row.scores), scale2, below));
            let d = _mm512_mul_ps(_mm512_sub_ps(load(row.gradients), load(row.delta)), scale);
            store(probabilities.add(v * LANES), _mm512_maskz_mov_ps(seen, p));
            store(score_gradients.add(v * LANES), _mm512_maskz_mov_ps(seen, _mm512_mul_ps(p, d)));
        }
    }
}

/// Rounds 16 values.
///
/// # Safety
/// `to` has room for 16 values.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn store(to: *mut Bf16, x: __m512) {
    // SAFETY: the caller's promise; the write is unaligned.
    unsafe { to.cast::<__m256bh>().write_unaligned(_mm512_cvtneps_pbh(x)) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp2_is_within_its_bound() {
        if !is_x86_feature_detected!("avx512f") {
            println!("skipped: no AVX-512");
            return;
        }
        // SAFETY: AVX-512 is there.
        let of = |x: f32| unsafe {
            let mut out = [0.0; LANES];
            _mm512_storeu_ps(out.as_mut_ptr(), exp2(_mm512_set1_ps(x)));
            out[3]
        };
        let mut x = -125.9f64;
        while x < 30.0 {
            let (got, want) = (f64::from(of(x as f32)), f64::from(x as f32).exp2());
            assert!(((got - want) / want).abs() < 3e-7, "2^{x} = {got}, not {want}");
            x += 0.0037;
        }
        assert_eq!([of(0.0), of(-151.0), of(f32::NEG_INFINITY)], [1.0, 0.0, 0.0]);
        assert!(of(f32::NAN).is_nan());
    }
}
