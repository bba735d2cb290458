//! Quantised weights on the CPU: their layout, and products with them.
//!
//! Layout, in 32-bit words: `[rows / 16][columns / 32][header 8 | codes 16 per group]`. As in the plain panels 16 rows stand
//! side by side. Of a block's header word `j` holds row `j`'s 16 bits below row `j + 8`'s. A word of codes holds a group of
//! one row's neighbours: four of q8, byte by byte; eight of q4, the first four in the lower halves of the bytes, the
//! others in the upper.
//!
//! Few tokens (decoding): each thread streams its panels once and multiplies from registers, FLOPs `2 tokens rows columns`,
//! bytes 34/32 or 18/32 of a weight. Many tokens: panels are restored into scratch, [`CHUNK`] bytes at a time, and
//! multiplied by the plain kernels. Activations stay as they are; nothing but the weights is quantised.
//!
//! Every weight is exact in f32 and every sum runs over `k` in order, so both ways give the same bits, and a token's
//! result does not depend on how many others there are. With AVX-512-BF16 and AMX the second way rounds weights
//! to bf16, for the sake of their matrix instructions, and differs by that.

use super::buffer::Carver;
use super::gemm::{Epilogue, Left, MatElement, PANEL, PackedB, multiply};
use super::isa::{Isa, Kernel, Math};
use super::linear;
use super::pool::{Pool, Shared};
use crate::dtype::{DType, Storage};
use crate::matrix_format::MatrixFormat;
use crate::quantize::{self, BLOCK, Block};

/// Words of a block's headers.
const HEADER: usize = PANEL / 2;
/// Most tokens that are multiplied from registers: beyond it restoring the weights once costs less.
const FEW_TOKENS: usize = 12;
/// Rows of activations multiplied at once from registers.
const ROWS: usize = 4;
/// Bytes of restored panels: they share a cache with the activations.
const CHUNK: usize = 2 << 20;
/// Panels of a job: a few hundred thousand weights.
const JOB: usize = 8;

/// How codes lie in a word, and what a header means.
trait Codes {
    /// Codes of a word.
    const GROUP: usize;
    const WORDS: usize = HEADER + PANEL * BLOCK / Self::GROUP;
    /// Code `i` of a word.
    fn code(word: u32, i: usize) -> f32;
    /// `(a, b)` such that a weight is `a code + b`, exactly.
    fn scale(header: u32) -> (f32, f32);
    /// The word of these codes.
    fn word(codes: &[u8]) -> u32;
}

struct Q8;
struct Q4;

impl Codes for Q8 {
    const GROUP: usize = 4;
    #[inline(always)]
    fn code(word: u32, i: usize) -> f32 {
        ((word << (24 - 8 * i)) as i32 >> 24) as f32
    }
    #[inline(always)]
    fn scale(header: u32) -> (f32, f32) {
        (quantize::q8_scale(header), 0.0)
    }
    #[inline(always)]
    fn word(codes: &[u8]) -> u32 {
        codes.iter().rev().fold(0, |word, code| word << 8 | u32::from(*code))
    }
}

impl Codes for Q4 {
    const GROUP: usize = 8;
    #[inline(always)]
    fn code(word: u32, i: usize) -> f32 {
        (word >> (8 * (i % 4) + 4 * (i / 4)) & 15) as i32 as f32
    }
    #[inline(always)]
    fn scale(header: u32) -> (f32, f32) {
        let scale = quantize::q4_scale(header);
        (scale, -quantize::q4_zero(header) * scale)
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
            MatrixFormat::F32 | MatrixFormat::Bf16 => unreachable!("plain weights have no codes"),
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

/// The scales of a block's 16 rows.
#[inline(always)]
fn scales<C: Codes>(block: &[u32]) -> ([f32; PANEL], [f32; PANEL]) {
    let (mut a, mut b) = ([0.0; PANEL], [0.0; PANEL]);
    for lane in 0..HEADER {
        (a[lane], b[lane]) = C::scale(block[lane] & 0xffff);
        (a[lane + HEADER], b[lane + HEADER]) = C::scale(block[lane] >> 16);
    }
    (a, b)
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
            let (a, b) = C::scale(block[lane % HEADER] >> (16 * (lane / HEADER)) & 0xffff);
            for (i, out) in out.iter_mut().enumerate() {
                *out = a * C::code(block[HEADER + i / C::GROUP * PANEL + lane], i % C::GROUP) + b;
            }
        }
    }

    fn panel<C: Codes>(&self, panel: usize) -> &'a [u32] {
        let len = self.columns.div_ceil(BLOCK) * C::WORDS;
        &self.words[panel * len..][..len]
    }
}

/// Restores a panel into the plain layout.
struct Restore<'a, C, S> {
    panel: &'a [u32],
    out: &'a mut [S],
    codes: std::marker::PhantomData<C>,
}

impl<C: Codes, S: MatElement> Kernel for Restore<'_, C, S> {
    type Output = ();
    #[inline(always)]
    fn run<M: Math>(self) {
        let mut rows = self.out.chunks_exact_mut(PANEL * S::GROUP);
        for block in self.panel.chunks_exact(C::WORDS) {
            let (a, b) = scales::<C>(block);
            for words in block[HEADER..].as_chunks::<PANEL>().0 {
                for i in (0..C::GROUP).step_by(S::GROUP) {
                    // The last block may be longer than the matrix.
                    let Some(row) = rows.next() else { return };
                    for part in 0..S::GROUP {
                        for lane in 0..PANEL {
                            let weight = M::mul_add(a[lane], C::code(words[lane], i + part), b[lane]);
                            row[lane * S::GROUP + part] = S::store(weight);
                        }
                    }
                }
            }
        }
    }
}

/// A few rows of activations by some panels.
struct FewRows<'a, C, E> {
    /// `[rows][columns up to a block]`.
    x: &'a [f32],
    tokens: usize,
    weight: Quantized<'a>,
    panels: std::ops::Range<usize>,
    /// Whether there are registers for four panels at once rather than for two.
    wide: bool,
    epilogue: &'a E,
    codes: std::marker::PhantomData<C>,
}

impl<C: Codes, E: Epilogue> FewRows<'_, C, E> {
    /// One tile. Several panels at once, or several rows, hide the latency of the sums.
    #[inline(always)]
    fn tile<M: Math, const R: usize, const P: usize>(&self, row: usize, panel: usize) {
        let blocks = self.weight.columns.div_ceil(BLOCK);
        let rows: [&[f32]; R] = std::array::from_fn(|r| &self.x[(row + r) * blocks * BLOCK..][..blocks * BLOCK]);
        let panels: [&[u32]; P] = std::array::from_fn(|p| self.weight.panel::<C>(panel + p));
        let mut sums = [[[0.0_f32; PANEL]; P]; R];
        for block in 0..blocks {
            let words: [&[u32]; P] = std::array::from_fn(|p| &panels[p][block * C::WORDS..][..C::WORDS]);
            let x: [&[f32; BLOCK]; R] = std::array::from_fn(|r| &rows[r].as_chunks::<BLOCK>().0[block]);
            let scales: [_; P] = std::array::from_fn(|p| scales::<C>(words[p]));
            let groups: [&[[u32; PANEL]]; P] = std::array::from_fn(|p| words[p][HEADER..].as_chunks().0);
            for group in 0..BLOCK / C::GROUP {
                for i in 0..C::GROUP {
                    for p in 0..P {
                        let (a, b) = &scales[p];
                        let mut weights = [0.0_f32; PANEL];
                        for lane in 0..PANEL {
                            weights[lane] = M::mul_add(a[lane], C::code(groups[p][group][lane], i), b[lane]);
                        }
                        for r in 0..R {
                            for lane in 0..PANEL {
                                let x = x[r][group * C::GROUP + i];
                                sums[r][p][lane] = M::mul_add(x, weights[lane], sums[r][p][lane]);
                            }
                        }
                    }
                }
            }
        }
        let columns = (P * PANEL).min(self.weight.rows - panel * PANEL);
        let sums = sums.as_flattened().as_flattened();
        self.epilogue.store(row, panel * PANEL, R, columns, sums, P * PANEL);
    }
}

impl<C: Codes, E: Epilogue> Kernel for FewRows<'_, C, E> {
    type Output = ();
    #[inline(always)]
    fn run<M: Math>(self) {
        let mut panel = self.panels.start;
        while panel < self.panels.end {
            let left = self.panels.end - panel;
            let mut done = 1;
            let mut row = 0;
            while row < self.tokens {
                let rows = (self.tokens - row).min(ROWS);
                match (rows, left) {
                    (1, 4..) if self.wide && self.tokens == 1 => {
                        self.tile::<M, 1, 4>(row, panel);
                        done = 4;
                    }
                    (1, 2..) if self.tokens == 1 => {
                        self.tile::<M, 1, 2>(row, panel);
                        done = 2;
                    }
                    (1, _) => self.tile::<M, 1, 1>(row, panel),
                    (2, _) => self.tile::<M, 2, 1>(row, panel),
                    (3, _) => self.tile::<M, 3, 1>(row, panel),
                    _ => self.tile::<M, ROWS, 1>(row, panel),
                }
                row += rows;
            }
            panel += done;
        }
    }
}

/// Whether many tokens are multiplied by weights rounded to bf16.
fn rounds(isa: Isa, activations: DType) -> bool {
    isa >= Isa::Avx512Bf16 && activations == DType::Bf16
}

/// Panels restored at a time.
fn chunk_panels(columns: usize) -> usize {
    (CHUNK / (4 * PANEL * columns.max(1))).max(1)
}

/// Bytes of scratch for [`product`] of this many tokens and fewer, of this many columns and fewer.
pub(super) fn scratch_bytes<S: MatElement>(pool: &Pool, tokens: usize, columns: usize) -> usize {
    let wide = |tokens: usize| Carver::bytes::<f32>(tokens * columns.next_multiple_of(BLOCK));
    if tokens <= FEW_TOKENS {
        return wide(tokens);
    }
    let panels = CHUNK.max(4 * PANEL * columns.next_multiple_of(2));
    if rounds(pool.isa(), S::DTYPE) {
        wide(FEW_TOKENS).max(panels + Carver::bytes::<S>(tokens * columns.next_multiple_of(2)))
    } else {
        panels + wide(tokens)
    }
}

/// `x · weightᵀ` into an epilogue.
pub(super) fn product<S: MatElement, E: Epilogue + Sync>(
    pool: &Pool,
    x: &[S],
    tokens: usize,
    weight: Quantized<'_>,
    epilogue: &E,
    scratch: &mut [u8],
) {
    with_codes!(weight.format, C => product_as::<C, S, E>(pool, x, tokens, weight, epilogue, scratch));
}

fn product_as<C: Codes, S: MatElement, E: Epilogue + Sync>(
    pool: &Pool,
    x: &[S],
    tokens: usize,
    weight: Quantized<'_>,
    epilogue: &E,
    scratch: &mut [u8],
) {
    let k = weight.columns;
    let mut scratch = Carver::new(scratch);
    if tokens > FEW_TOKENS && rounds(pool.isa(), S::DTYPE) {
        let panels = scratch.take::<S>(chunk_panels(k) * PANEL * k.next_multiple_of(S::GROUP));
        let padding = scratch.take::<S>(linear::padding_len::<S>(tokens, k));
        return by_chunks::<C, S>(pool, weight, panels, |right, columns| {
            linear::product(pool, x, tokens, right, &epilogue.skip(columns), padding);
        });
    }
    let stride = k.next_multiple_of(BLOCK);
    let wide = scratch.take::<f32>(tokens * stride);
    widen(pool, x, (tokens, k, stride), wide);
    if tokens <= FEW_TOKENS {
        let (x, wide) = (&*wide, pool.isa() >= Isa::Avx512);
        return pool.for_ranges(weight.rows.div_ceil(PANEL), JOB, |panels| {
            let codes = std::marker::PhantomData::<C>;
            pool.isa().run(FewRows { x, tokens, weight, panels, wide, epilogue, codes });
        });
    }
    let panels = scratch.take::<f32>(chunk_panels(k) * PANEL * k);
    by_chunks::<C, f32>(pool, weight, panels, |right, columns| {
        let left = Left::rows(wide, tokens, k, stride);
        multiply(pool, left, tokens, right, &epilogue.skip(columns));
    });
}

/// Restores the panels chunk by chunk and hands each to `consume` with its first column.
fn by_chunks<C: Codes, S: MatElement>(
    pool: &Pool,
    weight: Quantized<'_>,
    restored: &mut [S],
    mut consume: impl FnMut(PackedB<'_, S>, usize),
) {
    let panel_len = PANEL * weight.columns.next_multiple_of(S::GROUP);
    let chunk = chunk_panels(weight.columns);
    for first in (0..weight.rows.div_ceil(PANEL)).step_by(chunk) {
        let columns = (weight.rows - first * PANEL).min(chunk * PANEL);
        let shared = Shared::new(&mut *restored);
        pool.for_each(columns.div_ceil(PANEL), |panel| {
            // SAFETY: panels are disjoint.
            let out = unsafe { shared.slice_mut(panel * panel_len, panel_len) };
            let codes = std::marker::PhantomData::<C>;
            pool.isa().run(Restore { panel: weight.panel::<C>(first + panel), out, codes });
        });
        consume(PackedB::new(restored, weight.columns, columns), first * PANEL);
    }
}

struct Widen<'a, S> {
    x: &'a [S],
    out: &'a mut [f32],
}

impl<S: Storage> Kernel for Widen<'_, S> {
    type Output = ();
    #[inline(always)]
    fn run<M: Math>(self) {
        let (out, rest) = self.out.split_at_mut(self.x.len());
        for (to, from) in out.iter_mut().zip(self.x) {
            *to = from.load();
        }
        rest.fill(0.0);
    }
}

/// Rows as f32, filled up with zeros.
fn widen<S: Storage>(pool: &Pool, x: &[S], (tokens, k, stride): (usize, usize, usize), out: &mut [f32]) {
    let out = Shared::new(out);
    pool.for_ranges(tokens, 16, |rows| {
        for row in rows {
            // SAFETY: rows are disjoint.
            let out = unsafe { out.slice_mut(row * stride, stride) };
            pool.isa().run(Widen { x: &x[row * k..][..k], out });
        }
    });
}
