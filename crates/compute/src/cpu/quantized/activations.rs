//! Activations in 8 bits: what quantised weights are multiplied by.
//!
//! A token's row is cut into the weights' blocks. A block is 32 codes of -127 to 127 and a scale, the largest magnitude
//! divided by 127: `x = code * scale`, to the nearest code, ties to even. Formula: ggml's Q8_0, with the scale in f32.

use crate::cpu::isa::{Kernel, Math};
use crate::cpu::memory::Carver;
use crate::cpu::pool::{Pool, Shared};
use crate::dtype::Storage;
use crate::quantize::BLOCK;

/// Codes of a word.
pub(super) const GROUP: usize = 4;
/// Words of a block.
pub(super) const WORDS: usize = BLOCK / GROUP;
/// Adding it leaves an integer in the lowest bits: 1.5 * 2^23.
const SHIFT: f32 = 12_582_912.0;
/// Blocks that are all smaller than this are zeros.
const SMALLEST: f32 = 1e-30;

/// Tokens of a job: few, for a few sequences that are decoded together.
const TOKENS: usize = 4;

/// Bytes of scratch for so many tokens of so many blocks.
pub(super) fn bytes(tokens: usize, blocks: usize) -> usize {
    Carver::bytes::<u32>(tokens * blocks * WORDS) + 2 * Carver::bytes::<u32>(tokens * blocks)
}

/// Codes of a row by block, its scales, its sums.
pub(super) type Row<'a> = (&'a [[u32; WORDS]], &'a [f32], &'a [u32]);

/// Rows of blocks.
#[derive(Clone, Copy)]
pub(super) struct Rounded<'a> {
    blocks: usize,
    /// `[tokens, blocks, WORDS]`.
    codes: &'a [u32],
    /// `[tokens, blocks]`.
    scales: &'a [f32],
    /// `[tokens, blocks]`: the sum of a block's codes, in two's complement.
    sums: &'a [u32],
}

impl<'a> Rounded<'a> {
    /// Rounds `[tokens, columns]`. Where a number is not finite its block's scale is NaN.
    pub(super) fn new<S: Storage>(
        pool: &Pool,
        x: &[S],
        (tokens, columns): (usize, usize),
        scratch: &mut Carver<'a>,
    ) -> Self {
        let blocks = columns.div_ceil(BLOCK);
        let codes = scratch.take::<u32>(tokens * blocks * WORDS);
        let scales = scratch.take::<f32>(tokens * blocks);
        let sums = scratch.take::<u32>(tokens * blocks);
        let out = (Shared::new(&mut *codes), Shared::new(&mut *scales), Shared::new(&mut *sums));
        pool.for_ranges(tokens, TOKENS, |rows| {
            for row in rows {
                let at = row * blocks;
                // SAFETY: rows are disjoint.
                let (codes, scales, sums) = unsafe {
                    let codes = out.0.slice_mut(at * WORDS, blocks * WORDS);
                    (codes, out.1.slice_mut(at, blocks), out.2.slice_mut(at, blocks))
                };
                pool.isa().run(Round { x: &x[row * columns..][..columns], codes, scales, sums });
            }
        });
        Rounded { blocks, codes, scales, sums }
    }

    /// `R` rows from `token` on. (A loop: closures of `array::from_fn` are not inlined everywhere.)
    #[inline(always)]
    pub(super) fn rows<const R: usize>(&self, token: usize) -> [Row<'a>; R] {
        let mut rows = [self.row(token); R];
        for (r, row) in rows.iter_mut().enumerate() {
            *row = self.row(token + r);
        }
        rows
    }

    /// Codes of a row, its scales, its sums.
    #[inline(always)]
    pub(super) fn row(&self, token: usize) -> Row<'a> {
        let at = token * self.blocks;
        let codes = self.codes[at * WORDS..][..self.blocks * WORDS].as_chunks().0;
        (codes, &self.scales[at..][..self.blocks], &self.sums[at..][..self.blocks])
    }
}

/// A block's codes in each of these rows.
#[inline(always)]
pub(super) fn codes_of<'a, const R: usize>(rows: &[Row<'a>; R], block: usize) -> [&'a [u32; WORDS]; R] {
    let mut codes = [&rows[0].0[block]; R];
    for (codes, row) in codes.iter_mut().zip(rows) {
        *codes = &row.0[block];
    }
    codes
}

/// Code `i` of a block.
#[inline(always)]
pub(super) fn code(codes: &[u32; WORDS], i: usize) -> i32 {
    (codes[i / GROUP] << (24 - 8 * (i % GROUP))) as i32 >> 24
}

struct Round<'a, S> {
    x: &'a [S],
    codes: &'a mut [u32],
    scales: &'a mut [f32],
    sums: &'a mut [u32],
}

impl<S: Storage> Kernel for Round<'_, S> {
    type Output = ();
    #[inline(always)]
    fn run<M: Math>(self) {
        let out = self.codes.as_chunks_mut::<WORDS>().0.iter_mut().zip(self.scales).zip(self.sums);
        let (whole, rest) = self.x.as_chunks::<BLOCK>();
        let mut padded = [S::store(0.0); BLOCK];
        padded[..rest.len()].copy_from_slice(rest);
        // Blocks of a fixed length stay in registers.
        for (x, ((codes, scale), sum)) in whole.iter().chain([&padded]).zip(out) {
            (*codes, *scale, *sum) = round(x);
        }
    }
}

/// A block's codes, its scale, the sum of the codes.
#[inline(always)]
fn round<S: Storage>(block: &[S; BLOCK]) -> ([u32; WORDS], f32, u32) {
    let mut x = [0.0_f32; BLOCK];
    for (to, from) in x.iter_mut().zip(block) {
        *to = from.load();
    }
    // As integers magnitudes have the same order, with infinities and what is no number above them, and it is all vectors.
    let largest = x.iter().fold(0, |largest, x| largest.max(x.abs().to_bits()));
    let largest = if largest < f32::INFINITY.to_bits() { f32::from_bits(largest) } else { f32::NAN };
    let inverse = if largest >= SMALLEST { 127.0 / largest } else { 0.0 };
    let (mut bytes, mut sum) = ([0_u8; BLOCK], 0_u32);
    for (byte, x) in bytes.iter_mut().zip(x) {
        let rounded = (x * inverse + SHIFT).to_bits();
        *byte = rounded as u8;
        sum = sum.wrapping_add(rounded.wrapping_sub(SHIFT.to_bits()));
    }
    let mut codes = [0; WORDS];
    for (word, bytes) in codes.iter_mut().zip(bytes.as_chunks::<GROUP>().0) {
        *word = u32::from_le_bytes(*bytes);
    }
    (codes, largest / 127.0, sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::isa::Isa;
    use crate::reference::quantized::rounded_activations;

    #[test]
    fn blocks_are_those_of_the_reference() {
        let columns = 100;
        let x: Vec<f32> =
            (0..2 * columns).map(|i| ((i * 7919 % 1013) as f32 - 500.0) * 1.7_f32.powi(i as i32 / 9 - 9)).collect();
        for isa in Isa::available() {
            let pool = Pool::new(2, isa).unwrap();
            let mut memory = vec![0_u8; bytes(2, 4) + 64];
            let skipped = memory.as_ptr().align_offset(64);
            let mut scratch = Carver::new(&mut memory[skipped..]);
            let rounded = Rounded::new(&pool, &x, (2, columns), &mut scratch);
            for (token, x) in x.chunks(columns).enumerate() {
                let (codes, scales, sums) = rounded.row(token);
                let got: Vec<f64> = (0..columns)
                    .map(|i| f64::from(code(&codes[i / BLOCK], i % BLOCK)) * f64::from(scales[i / BLOCK]))
                    .collect();
                assert_eq!(got, rounded_activations(x, columns), "{}", isa.name());
                for (codes, sum) in codes.iter().zip(sums) {
                    assert_eq!((0..BLOCK).map(|i| code(codes, i)).sum::<i32>(), *sum as i32);
                }
            }
        }
    }

    #[test]
    fn what_is_not_finite_is_not_lost_and_what_is_nothing_is_zero() {
        let pool = Pool::new(1, Isa::Portable).unwrap();
        let mut memory = vec![0_u8; bytes(5, 1) + 64];
        let skipped = memory.as_ptr().align_offset(64);
        let mut scratch = Carver::new(&mut memory[skipped..]);
        let mut x = [0.5_f32; 5 * BLOCK];
        (x[3], x[BLOCK + 4], x[2 * BLOCK + 31]) = (f32::NAN, f32::INFINITY, f32::NEG_INFINITY);
        x[3 * BLOCK..4 * BLOCK].fill(0.0);
        x[4 * BLOCK..].fill(f32::MIN_POSITIVE / 8.0);
        let rounded = Rounded::new(&pool, &x, (5, BLOCK), &mut scratch);
        for token in 0..3 {
            assert!(rounded.row(token).1[0].is_nan());
        }
        for token in 3..5 {
            let (codes, scales, _) = rounded.row(token);
            assert!(codes[0] == [0; WORDS] && scales[0].is_finite());
        }
    }
}
