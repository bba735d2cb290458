//! Blocks of 4 x 4 words with NEON.

use core::arch::aarch64::{
    vld1q_u32, vreinterpretq_u32_u64, vreinterpretq_u64_u32, vst1q_u32, vtrn1q_u32, vtrn1q_u64, vtrn2q_u32, vtrn2q_u64,
};

use super::Words;
use crate::cpu::gemm::pack::PANEL;

pub(in crate::cpu::gemm) struct Neon;

impl Words for Neon {
    const SIDE: usize = 4;

    #[inline(always)]
    unsafe fn transpose(from: *const u8, stride: usize, to: *mut u8, group: usize) {
        // SAFETY: the caller's promises; an element has `4 / group` bytes.
        unsafe {
            let row = |row: usize| vld1q_u32(from.add(row * stride * (4 / group)).cast());
            let (a, b, c, d) = (row(0), row(1), row(2), row(3));
            // Words of even columns, of two rows each, and of odd ones.
            let (even, odd) = ((vtrn1q_u32(a, b), vtrn1q_u32(c, d)), (vtrn2q_u32(a, b), vtrn2q_u32(c, d)));
            let halves = |(upper, lower)| {
                let (upper, lower) = (vreinterpretq_u64_u32(upper), vreinterpretq_u64_u32(lower));
                [vtrn1q_u64(upper, lower), vtrn2q_u64(upper, lower)].map(|words| vreinterpretq_u32_u64(words))
            };
            let ([first, third], [second, fourth]) = (halves(even), halves(odd));
            for (column, words) in [first, second, third, fourth].into_iter().enumerate() {
                vst1q_u32(to.add(column * 4 * PANEL).cast(), words);
            }
        }
    }
}
