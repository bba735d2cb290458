//! Quantised weights: what 32 neighbours of a row become, and how they are chosen.
//!
//! A row of a matrix is cut into blocks of 32 along its columns, the last filled up with zeros. A block is 32 codes and a
//! header of 16 bits, which holds a scale and, in q4, a zero point: `weight = (code - zero) * scale`.
//!
//! | format | codes | header | bytes for 32 | error |
//! | --- | --- | --- | --- | --- |
//! | q8 | -127 to 127 | the scale as bf16 | 34 | at most `scale / 2`, `scale <= 1.004 max / 127` |
//! | q4 | 0 to 15 | 10 bits scale, 6 bits zero | 18 | root mean square at most `range / 28` |
//!
//! `max` is the block's largest magnitude, `range` its largest less its smallest value, 0 counted among them. On normally
//! distributed weights q4 errs by 0.071 of their deviation, where llama.cpp's Q4_0, of the same size, errs by 0.086.
//!
//! q4's header is bits 6 to 15: the scale as six bits of exponent and four of mantissa, from 2^-50 to 2^14; bits 0 to 5:
//! the zero point in quarters. Halving the header between the two beats a scale alone: the zero point takes what a
//! scale of 16 bits spends on digits that nobody needs, because the codes are chosen for the scale as it is rounded. Every
//! weight is a product of 7 by 5 significant bits (in q8 of 7 by 8), which f32 holds exactly: however a device arranges
//! the formula, it gives the same number. The codes are chosen on the host, so that every device has the same.

mod q4;

use crate::cpu::isa::{Kernel, Math};
use crate::matrix_format::MatrixFormat;

/// Weights of a block.
pub const BLOCK: usize = 32;

/// Codes and header of one block. q8's codes are signed and kept as their two's complement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Scale, and in q4 the zero point.
    pub header: u16,
    /// One a weight.
    pub codes: [u8; BLOCK],
}

/// Lowest exponent of q4's scales, as an f32 has it.
const LOWEST: u32 = 127 - 50;
/// Largest index of a scale.
const LAST_SCALE: u32 = 1023;
/// Steps of the zero point between two codes.
pub(crate) const ZERO_STEPS: i32 = 4;

/// The scale in a header of q8.
#[inline(always)]
pub(crate) fn q8_scale(header: u32) -> f32 {
    f32::from_bits(header << 16)
}

/// The scale in a header of q4.
#[inline(always)]
pub(crate) fn q4_scale(header: u32) -> f32 {
    f32::from_bits(((header >> 6) << 19) + (LOWEST << 23))
}

/// The zero point in a header of q4, in steps.
#[inline(always)]
pub(crate) fn q4_zero_steps(header: u32) -> i32 {
    (header & 63) as i32
}

/// The zero point in a header of q4.
#[inline(always)]
fn q4_zero(header: u32) -> f32 {
    q4_zero_steps(header) as f32 / ZERO_STEPS as f32
}

/// To the nearest integer, ties to even, for magnitudes below 2^22; in a form that every instruction set vectorises.
#[inline(always)]
fn round(x: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0; // 1.5 * 2^23: beyond it an f32 has no fraction.
    (x + SHIFT) - SHIFT
}

#[inline(always)]
fn q8(x: &[f32; BLOCK]) -> Block {
    let largest = x.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
    let header = crate::dtype::Bf16::from_f32(largest / 127.0).0;
    let scale = q8_scale(header.into());
    // A block of zeros, or of numbers so small that their scale is none.
    let inverse = if scale >= f32::MIN_POSITIVE { 1.0 / scale } else { 0.0 };
    let mut codes = [0_u8; BLOCK];
    for (code, x) in codes.iter_mut().zip(x) {
        *code = round((x * inverse).clamp(-127.0, 127.0)) as i32 as i8 as u8;
    }
    Block { header, codes }
}

/// (A loop, as in [`q8`]: closures of `array::map` are not inlined everywhere.)
#[inline(always)]
fn q4_codes(x: &[f32; BLOCK], inverse: f32, zero: f32) -> [f32; BLOCK] {
    let mut codes = [0.0_f32; BLOCK];
    for (code, x) in codes.iter_mut().zip(x) {
        *code = round((x * inverse + zero).clamp(0.0, 15.0));
    }
    codes
}

/// The codes for a header, which [`q4`] chooses.
#[inline(always)]
fn q4_block(x: &[f32; BLOCK], header: u32) -> Block {
    let mut codes = [0_u8; BLOCK];
    for (to, code) in codes.iter_mut().zip(q4_codes(x, 1.0 / q4_scale(header), q4_zero(header))) {
        *to = code as i32 as u8;
    }
    Block { header: header as u16, codes }
}

/// Quantises the blocks of rows of `columns` values, row by row, and hands each to `put(row, block, ..)`.
pub(crate) struct Rows<'a, F> {
    pub(crate) format: MatrixFormat,
    pub(crate) values: &'a [f32],
    pub(crate) columns: usize,
    pub(crate) put: F,
}

impl<F: FnMut(usize, usize, Block)> Kernel for Rows<'_, F> {
    type Output = ();
    #[inline(always)]
    fn run<M: Math>(mut self) {
        let blocks_of_row = self.columns.div_ceil(BLOCK);
        let blocks = self.values.len() / self.columns * blocks_of_row;
        for first in (0..blocks).step_by(q4::LANES) {
            let count = q4::LANES.min(blocks - first);
            let mut x = [[0.0; BLOCK]; q4::LANES];
            let place = |lane: usize| ((first + lane) / blocks_of_row, (first + lane) % blocks_of_row);
            for (lane, x) in x[..count].iter_mut().enumerate() {
                let (row, i) = place(lane);
                let values = &self.values[row * self.columns..][..self.columns];
                let values = &values[i * BLOCK..self.columns.min((i + 1) * BLOCK)];
                x[..values.len()].copy_from_slice(values);
            }
            let headers = match self.format {
                MatrixFormat::Q8 => [0; q4::LANES],
                MatrixFormat::Q4 => q4::headers(&x),
                MatrixFormat::F32 | MatrixFormat::Bf16 | MatrixFormat::Fp8 => unreachable!("no blocks in this format"),
            };
            for (lane, (x, header)) in x[..count].iter().zip(headers).enumerate() {
                let (row, i) = place(lane);
                let block = if self.format == MatrixFormat::Q8 { q8(x) } else { q4_block(x, header) };
                (self.put)(row, i, block);
            }
        }
    }
}

/// The blocks of a matrix `[rows, columns]`, row by row.
pub fn blocks(format: MatrixFormat, values: &[f32], columns: usize) -> Vec<Block> {
    let mut all = Vec::with_capacity(values.len().div_ceil(BLOCK));
    let best = crate::cpu::isa::Isa::available().last().copied().unwrap_or(crate::cpu::isa::Isa::Portable);
    best.run(Rows { format, values, columns, put: |_, _, block| all.push(block) });
    all
}

#[cfg(test)]
mod tests;
