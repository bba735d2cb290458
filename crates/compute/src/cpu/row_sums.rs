//! Sums of 16 rows of 16 lanes at once. Added up one by one, a row takes eight instructions that wait for each other; together
//! rows are folded two into one, three instructions a row. The order is that of [`sum_lanes`]: lanes `i` and `i + 8`, then `i + 4`,
//! `i + 2`, `i + 1`, and so the bits are the same.

use super::math::{LANES, sum_lanes};

/// The lanes of as many rows.
pub(crate) type Rows = [[f32; LANES]; LANES];

/// The sum of each row, one by one.
#[inline(always)]
pub(crate) fn plain(rows: &Rows) -> [f32; LANES] {
    let mut sums = [0.0; LANES];
    for (sum, row) in sums.iter_mut().zip(rows) {
        *sum = sum_lanes(*row);
    }
    sums
}

/// The same with AVX-512.
///
/// # Safety
/// The processor has AVX-512F.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) unsafe fn avx512(rows: &Rows) -> [f32; LANES] {
    use std::arch::x86_64::{
        __m512, _mm512_add_ps, _mm512_loadu_ps, _mm512_permutexvar_ps, _mm512_setr_epi32, _mm512_shuffle_f32x4,
        _mm512_shuffle_ps, _mm512_storeu_ps,
    };
    /// Two registers become one: what `low` and `high` pick of both, added.
    macro_rules! fold {
        ($shuffle:ident, $low:literal, $high:literal, $from:ident, $to:literal) => {{
            let mut folded = [$from[0]; $to];
            for (i, sum) in folded.iter_mut().enumerate() {
                let (a, b) = ($from[2 * i], $from[2 * i + 1]);
                *sum = _mm512_add_ps($shuffle::<$low>(a, b), $shuffle::<$high>(a, b));
            }
            folded
        }};
    }
    // SAFETY: a row is 16 lanes, and so are the sums.
    unsafe {
        let mut lanes: [__m512; LANES] = [_mm512_loadu_ps(rows[0].as_ptr()); LANES];
        for (lanes, row) in lanes.iter_mut().zip(rows) {
            *lanes = _mm512_loadu_ps(row.as_ptr());
        }
        // Quarters of registers: the lower two against the upper two, then the even ones against the odd ones.
        let lanes = fold!(_mm512_shuffle_f32x4, 0x44, 0xee, lanes, 8);
        let lanes = fold!(_mm512_shuffle_f32x4, 0x88, 0xdd, lanes, 4);
        // The same with the four lanes of a quarter.
        let lanes = fold!(_mm512_shuffle_ps, 0x44, 0xee, lanes, 2);
        let lanes = fold!(_mm512_shuffle_ps, 0x88, 0xdd, lanes, 1);
        // Lane `4 j + t` is row `4 t + j`.
        let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        let mut sums = [0.0; LANES];
        _mm512_storeu_ps(sums.as_mut_ptr(), _mm512_permutexvar_ps(order, lanes[0]));
        sums
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;
    use crate::cpu::isa::Isa;

    #[test]
    fn rows_are_added_in_the_order_of_one() {
        if !Isa::Avx512.is_available() {
            eprintln!("not checked, for this processor has no AVX-512");
            return;
        }
        let mut state = 1_u32;
        let rows: Rows = std::array::from_fn(|_| {
            std::array::from_fn(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state as i32 as f32) * 2.0_f32.powi((state >> 27) as i32 - 40)
            })
        });
        // SAFETY: the processor has AVX-512, as was asked above.
        assert_eq!(unsafe { avx512(&rows) }.map(f32::to_bits), plain(&rows).map(f32::to_bits));
    }
}
