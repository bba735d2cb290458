//! Quantised weights on the CPU: their layout, and products with them.
//!
//! Layout, in 32-bit words: `[rows / 16][columns / 32][header 8 | codes 16 per group]`. As in the plain panels 16 rows stand
//! side by side. Of a block's header word `j` holds row `j`'s 16 bits below row `j + 8`'s. A word of codes holds a group of
//! one row's neighbours: four of q8, byte by byte; eight of q4, the first four in the lower halves of the bytes, the
//! others in the upper.
//!
//! Activations are rounded to 8 bits as well ([`activations`]): a block's sum of products is then an integer, exact in any
//! order, and four times as many products come from an instruction as in f32. Blocks are added up in order, in f32. So a
//! token's result depends neither on how many others there are nor on threads. FLOPs `2 tokens rows columns`, bytes 34/32 or
//! 18/32 of a weight: with few tokens (decoding) each thread streams its panels once. With AVX-512-BF16 that
//! is the faster way for a prompt, too: 88 cycles for 16 rows, a block and eight tokens, where `vdpbf16ps` alone would take
//! 128. AMX multiplies tiles of the same integers.

mod activations;
#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512vnni;
#[cfg(target_arch = "aarch64")]
mod neon;

use super::gemm::{Epilogue, PANEL};
use super::isa::{Isa, Kernel, Math};
use super::memory::Carver;
use super::pool::{Pool, Shared};
use crate::dtype::Storage;
use crate::matrix_format::MatrixFormat;
use crate::quantize::{self, BLOCK, Block};
use activations::Rounded;

/// Words of a block's headers.
const HEADER: usize = PANEL / 2;
/// Tokens multiplied at once from registers.
const ROWS: usize = 4;
/// The same with the 32 wide registers of AVX-512, where a block is loaded and taken apart for as many.
const WIDE_ROWS: usize = 8;
/// Tokens that a job's panels are multiplied by before the next: their codes share a cache with the panels.
const STRIP: usize = 128;
/// Panels of a job: a few hundred thousand weights.
const JOB: usize = 8;

/// How codes lie in a word, and what a header means.
trait Codes {
    /// Codes of a word.
    const GROUP: usize;
    const WORDS: usize = HEADER + PANEL * BLOCK / Self::GROUP;
    /// Steps of the zero point between two codes; a power of two.
    const STEPS: i32;
    /// Code `i` of a word.
    fn code(word: u32, i: usize) -> i32;
    /// The scale, and the zero point in steps.
    fn scale(header: u32) -> (f32, i32);
    /// The word of these codes.
    fn word(codes: &[u8]) -> u32;
}

struct Q8;
struct Q4;

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
use self::Codes as AnyCodes;
/// What has a tile for every processor.
#[cfg(target_arch = "x86_64")]
use amx::TileCodes as AnyCodes;
#[cfg(target_arch = "aarch64")]
use neon::NeonCodes as AnyCodes;

impl Codes for Q8 {
    const GROUP: usize = 4;
    const STEPS: i32 = 1;
    #[inline(always)]
    fn code(word: u32, i: usize) -> i32 {
        (word << (24 - 8 * i)) as i32 >> 24
    }
    #[inline(always)]
    fn scale(header: u32) -> (f32, i32) {
        (quantize::q8_scale(header), 0)
    }
    #[inline(always)]
    fn word(codes: &[u8]) -> u32 {
        codes.iter().rev().fold(0, |word, code| word << 8 | u32::from(*code))
    }
}

impl Codes for Q4 {
    const GROUP: usize = 8;
    const STEPS: i32 = quantize::ZERO_STEPS;
    #[inline(always)]
    fn code(word: u32, i: usize) -> i32 {
        (word >> (8 * (i % 4) + 4 * (i / 4)) & 15) as i32
    }
    #[inline(always)]
    fn scale(header: u32) -> (f32, i32) {
        (quantize::q4_scale(header), quantize::q4_zero_steps(header))
    }
    #[inline(always)]
    fn word(codes: &[u8]) -> u32 {
        Q8::word(&codes[..4]) | Q8::word(&codes[4..]) << 4
    }
}

/// Runs `$body` with `$C` bound to the codes of a format.
macro_rules! with_codes {
    ($format:expr, $C:ident => $body:expr) => {
        match $format {
            MatrixFormat::Q8 => {
                type $C = Q8;
                $body
            }
            MatrixFormat::Q4 => {
                type $C = Q4;
                $body
            }
            MatrixFormat::F32 | MatrixFormat::Bf16 | MatrixFormat::Fp8 => unreachable!("no blocks in this format"),
        }
    };
}

/// Bytes of a matrix.
pub(super) fn bytes(format: MatrixFormat, rows: usize, columns: usize) -> usize {
    let words = with_codes!(format, C => C::WORDS);
    4 * rows.div_ceil(PANEL) * columns.div_ceil(BLOCK) * words
}

/// A quantised matrix.
#[derive(Clone, Copy)]
pub(super) struct Quantized<'a> {
    pub(super) format: MatrixFormat,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) words: &'a [u32],
}

/// Quantises row-major values.
pub(super) fn pack(pool: &Pool, format: MatrixFormat, values: &[f32], columns: usize, words: &mut [u32]) {
    with_codes!(format, C => pack_as::<C>(pool, format, values, columns, words));
}

fn pack_as<C: Codes>(pool: &Pool, format: MatrixFormat, values: &[f32], columns: usize, words: &mut [u32]) {
    let panel_len = columns.div_ceil(BLOCK) * C::WORDS;
    let words = Shared::new(words);
    pool.for_each(values.len().div_ceil(PANEL * columns), |panel| {
        // SAFETY: panels are disjoint.
        let words = unsafe { words.slice_mut(panel * panel_len, panel_len) };
        words.fill(0);
        let first = panel * PANEL * columns;
        let values = &values[first..(first + PANEL * columns).min(values.len())];
        let put = |lane: usize, i: usize, block: Block| {
            let (headers, codes) = words[i * C::WORDS..][..C::WORDS].split_at_mut(HEADER);
            headers[lane % HEADER] |= u32::from(block.header) << (16 * (lane / HEADER));
            for (group, codes_of) in codes.chunks_exact_mut(PANEL).zip(block.codes.chunks_exact(C::GROUP)) {
                group[lane] = C::word(codes_of);
            }
        };
        pool.isa().run(quantize::Rows { format, values, columns, put });
    });
}

/// What a block's headers say of its 16 rows: scales, divided by [`Codes::STEPS`], and zero points in steps.
struct Scales {
    scales: [f32; PANEL],
    zeros: [i32; PANEL],
}

impl Scales {
    /// Of a block's words. (A loop: closures of `array::from_fn` are not inlined everywhere.)
    #[inline(always)]
    fn new<C: Codes>(block: &[u32]) -> Self {
        let mut of = Scales { scales: [0.0; PANEL], zeros: [0; PANEL] };
        for lane in 0..PANEL {
            let (scale, zero) = C::scale(block[lane % HEADER] >> (16 * (lane / HEADER)) & 0xffff);
            of.scales[lane] = scale / C::STEPS as f32;
            of.zeros[lane] = zero;
        }
        of
    }

    /// A weight, exactly: `scale (code - zero)`.
    #[inline(always)]
    fn weight<C: Codes>(&self, code: i32, lane: usize) -> f32 {
        (C::STEPS * code - self.zeros[lane]) as f32 * self.scales[lane]
    }
}

impl<'a> Quantized<'a> {
    /// Row `row` as f32.
    pub(super) fn row(&self, row: usize, out: &mut [f32]) {
        with_codes!(self.format, C => self.row_as::<C>(row, out));
    }

    fn row_as<C: Codes>(&self, row: usize, out: &mut [f32]) {
        let panel = self.panel::<C>(row / PANEL);
        let lane = row % PANEL;
        for (block, out) in panel.chunks_exact(C::WORDS).zip(out.chunks_mut(BLOCK)) {
            let scales = Scales::new::<C>(block);
            for (i, out) in out.iter_mut().enumerate() {
                *out = scales.weight::<C>(C::code(block[HEADER + i / C::GROUP * PANEL + lane], i % C::GROUP), lane);
            }
        }
    }

    fn panel<C: Codes>(&self, panel: usize) -> &'a [u32] {
        let len = self.columns.div_ceil(BLOCK) * C::WORDS;
        &self.words[panel * len..][..len]
    }
}

/// Tokens by some panels, in integers.
struct Products<'a, C, E> {
    isa: Isa,
    x: Rounded<'a>,
    tokens: usize,
    weight: Quantized<'a>,
    panels: std::ops::Range<usize>,
    epilogue: &'a E,
    codes: std::marker::PhantomData<C>,
}

impl<C: AnyCodes, E: Epilogue> Products<'_, C, E> {
    /// Whether tiles are those of AVX-512-VNNI.
    fn has_vnni(&self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return self.isa > Isa::Avx2 && avx512vnni::is_available();
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// One tile, of so many tokens as it returns.
    #[inline(always)]
    fn tile<M: Math, const R: usize>(&self, row: usize, panel: usize) -> usize {
        let words = self.weight.panel::<C>(panel);
        let sums = match self.isa {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: an Isa above Portable exists only where the processor has AVX2 and FMA, one above Avx2 where it has AVX-512;
            // the panel has the columns' blocks.
            Isa::Avx2 | Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx => unsafe {
                if self.has_vnni() {
                    avx512vnni::tile::<C, R>(&self.x, row, words)
                } else {
                    avx2::tile::<C, R>(&self.x, row, words)
                }
            },
            #[cfg(target_arch = "aarch64")]
            Isa::Neon | Isa::NeonBf16 => neon::tile::<C, R>(&self.x, row, words),
            _ => plain::<C, M, R>(&self.x, row, words),
        };
        let columns = PANEL.min(self.weight.rows - panel * PANEL);
        self.epilogue.store(self.isa, row, panel * PANEL, R, columns, sums.as_flattened(), PANEL);
        R
    }
}

/// The tile of any processor.
#[inline(always)]
fn plain<C: Codes, M: Math, const R: usize>(x: &Rounded<'_>, row: usize, panel: &[u32]) -> [[f32; PANEL]; R] {
    let mut totals = [[0.0_f32; PANEL]; R];
    for (r, totals) in totals.iter_mut().enumerate() {
        let (codes, x_scales, x_sums) = x.row(row + r);
        for (block, codes) in codes.iter().enumerate() {
            let words = &panel[block * C::WORDS..][..C::WORDS];
            let mut sums = [0_i32; PANEL];
            for (group, words) in words[HEADER..].as_chunks::<PANEL>().0.iter().enumerate() {
                for i in 0..C::GROUP {
                    let x = activations::code(codes, group * C::GROUP + i);
                    for (sum, word) in sums.iter_mut().zip(words) {
                        *sum += C::code(*word, i) * x;
                    }
                }
            }
            let of = Scales::new::<C>(words);
            for ((total, sum), (scale, zero)) in totals.iter_mut().zip(sums).zip(of.scales.iter().zip(of.zeros)) {
                let sum = C::STEPS * sum - zero * x_sums[block] as i32;
                *total = M::mul_add(sum as f32, scale * x_scales[block], *total);
            }
        }
    }
    totals
}

#[cfg(target_arch = "x86_64")]
impl<C: AnyCodes, E: Epilogue> Products<'_, C, E> {
    /// The tiles of AMX among tokens `rows`: how many tokens and panels from the first on they cover.
    fn by_tiles(&self, rows: &std::ops::Range<usize>) -> (usize, usize) {
        let covered = (rows.len() / amx::ROWS * amx::ROWS, self.panels.len() / amx::PANELS * amx::PANELS);
        if self.isa != Isa::Amx || covered.0 == 0 || covered.1 == 0 || !amx::is_available() {
            return (0, 0);
        }
        let mut totals = amx::Totals([[[0.0; PANEL]; amx::ROWS]; amx::PANELS]);
        // SAFETY: the level is AMX; between products no thread holds a configuration.
        let tiles = unsafe { amx::Tiles::new() };
        for first in self.panels.clone().step_by(amx::PANELS).take(covered.1 / amx::PANELS) {
            let panels = [self.weight.panel::<C>(first), self.weight.panel::<C>(first + 1)];
            for row in (rows.start..rows.start + covered.0).step_by(amx::ROWS) {
                // SAFETY: the processor has what it takes; the tokens and both panels are there, of as many blocks.
                unsafe { amx::tile::<C>(&tiles, &self.x, row, panels, &mut totals) };
                for (panel, totals) in (first..).zip(&totals.0) {
                    let columns = PANEL.min(self.weight.rows - panel * PANEL);
                    let tile = totals.as_flattened();
                    self.epilogue.store(self.isa, row, panel * PANEL, amx::ROWS, columns, tile, PANEL);
                }
            }
        }
        covered
    }
}

impl<C: AnyCodes, E: Epilogue> Kernel for Products<'_, C, E> {
    type Output = ();
    #[inline(always)]
    fn run<M: Math>(self) {
        let wide = self.has_vnni();
        for strip in (0..self.tokens).step_by(STRIP) {
            let end = self.tokens.min(strip + STRIP);
            #[cfg(target_arch = "x86_64")]
            let (tokens, panels) = self.by_tiles(&(strip..end));
            #[cfg(not(target_arch = "x86_64"))]
            let (tokens, panels) = (0, 0);
            for (i, panel) in self.panels.clone().enumerate() {
                let mut row = if i < panels { strip + tokens } else { strip };
                while row < end {
                    row += match end - row {
                        WIDE_ROWS.. if wide => self.tile::<M, WIDE_ROWS>(row, panel),
                        ROWS.. => self.tile::<M, ROWS>(row, panel),
                        3 => self.tile::<M, 3>(row, panel),
                        2 => self.tile::<M, 2>(row, panel),
                        _ => self.tile::<M, 1>(row, panel),
                    };
                }
            }
        }
    }
}

/// Bytes of scratch for [`product`] of this many tokens and fewer, of this many columns and fewer.
pub(super) fn scratch_bytes(tokens: usize, columns: usize) -> usize {
    activations::bytes(tokens, columns.div_ceil(BLOCK))
}

/// `x · weightᵀ` into an epilogue.
pub(super) fn product<S: Storage, E: Epilogue + Sync>(
    pool: &Pool,
    x: &[S],
    tokens: usize,
    weight: Quantized<'_>,
    epilogue: &E,
    scratch: &mut [u8],
) {
    with_codes!(weight.format, C => product_as::<C, S, E>(pool, x, tokens, weight, epilogue, scratch));
}

fn product_as<C: AnyCodes, S: Storage, E: Epilogue + Sync>(
    pool: &Pool,
    x: &[S],
    tokens: usize,
    weight: Quantized<'_>,
    epilogue: &E,
    scratch: &mut [u8],
) {
    let isa = pool.isa();
    let x = Rounded::new(pool, x, (tokens, weight.columns), &mut Carver::new(scratch));
    pool.for_ranges(weight.rows.div_ceil(PANEL), JOB, |panels| {
        isa.run(Products::<C, E> { isa, x, tokens, weight, panels, epilogue, codes: std::marker::PhantomData });
    });
}
