//! Integer products on AMX: `tdpbssd`, 16 tokens by a panel's 16 rows by a block's 32 codes in one instruction.
//!
//! A block's eight words of activations are the 32 bytes of a tile's row as they lie, and eight words of a panel's sixteen rows are
//! the tile that they are multiplied by: q8's as they lie, q4's once their halves are taken apart. Sums of integers are exact,
//! and blocks are added in f32 as the other tiles do: the results have the same bits, so that a token's do not depend on its company.
//!
//! Floors for 32 tokens by two panels by a block: four products of 16 cycles; 128 sums that are scaled and added by four or five
//! instructions, and q4's zero points by three more, two in a cycle: 250 to 500, which bounds it; `vpdpbusd` takes 704. Checked on the
//! emulator (`gemm/amx/emulator.rs`); **not yet run on hardware**.

use core::arch::asm;
use core::arch::x86_64::{
    __m512i, _mm512_and_si512, _mm512_castsi512_ps, _mm512_cvtepi32_ps, _mm512_dpwssd_epi32, _mm512_fmadd_ps,
    _mm512_load_ps, _mm512_load_si512, _mm512_loadu_si512, _mm512_mul_ps, _mm512_set1_epi8, _mm512_set1_epi32,
    _mm512_set1_ps, _mm512_slli_epi32, _mm512_srli_epi16, _mm512_store_ps, _mm512_store_si512,
};
use std::marker::PhantomData;

use super::activations::{self, Rounded};
use super::avx512vnni::VnniCodes;
use super::{HEADER, PANEL, Q4, Q8};
use crate::cpu::gemm::amx::{self, Config};

/// Tokens of a tile.
pub(super) const ROWS: usize = 32;
/// Panels of a tile.
pub(super) const PANELS: usize = 2;
/// Tokens, or rows of a panel, of a tile register.
const HALF: usize = 16;
/// Words of a panel's block as bytes.
const WORDS: usize = activations::WORDS * PANEL;

/// Whether this processor has it. That the level is AMX is the caller's to know.
pub(super) fn is_available() -> bool {
    super::avx512vnni::is_available() && amx::multiplies_bytes()
}

/// A format's codes in these terms.
pub(super) trait TileCodes: VnniCodes {
    /// Whether a block's sum is to be multiplied by [`super::Codes::STEPS`] and corrected by what [`VnniCodes::header`] says.
    const CORRECTED: bool;
    /// A block's codes as bytes, four of a row one behind another, rows side by side: where they lie, or written to `bytes`.
    ///
    /// # Safety
    /// The processor has AVX-512; `words` are a block's.
    unsafe fn bytes(words: &[u32], bytes: &mut Bytes) -> *const u32;
}

/// Memory for a panel's block as bytes.
#[repr(align(64))]
pub(super) struct Bytes([u32; WORDS]);

impl TileCodes for Q8 {
    const CORRECTED: bool = false;
    #[inline(always)]
    unsafe fn bytes(words: &[u32], _: &mut Bytes) -> *const u32 {
        words[HEADER..][..WORDS].as_ptr()
    }
}

impl TileCodes for Q4 {
    const CORRECTED: bool = true;
    #[inline(always)]
    unsafe fn bytes(words: &[u32], bytes: &mut Bytes) -> *const u32 {
        let words = &words[HEADER..][..WORDS / 2];
        for (words, to) in words.chunks_exact(PANEL).zip(bytes.0.chunks_exact_mut(2 * PANEL)) {
            // SAFETY: the caller's promise; 16 words are read, 32 written to lines.
            unsafe {
                let words = _mm512_loadu_si512(words.as_ptr().cast());
                let half = _mm512_set1_epi8(15);
                _mm512_store_si512(to.as_mut_ptr().cast(), _mm512_and_si512(words, half));
                let upper = _mm512_and_si512(_mm512_srli_epi16::<4>(words), half);
                _mm512_store_si512(to[PANEL..].as_mut_ptr().cast(), upper);
            }
        }
        bytes.0.as_ptr()
    }
}

/// The thread's tile configuration: tiles 0 to 3 hold sums, 4 and 5 tokens, 6 and 7 a panel's block each.
pub(super) struct Tiles {
    /// It belongs to a thread.
    not_send: PhantomData<*const ()>,
}

impl Tiles {
    /// # Safety
    /// The processor has AMX and the process may use it; nobody else has a configuration in this thread.
    pub(super) unsafe fn new() -> Self {
        let (sums, tokens, block) = ((HALF as u8, 64), (HALF as u8, 32), (activations::WORDS as u8, 64));
        let config = Config::of([sums, sums, sums, sums, tokens, tokens, block, block]);
        // SAFETY: the caller's promise; the operand is 64 valid bytes.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &config, options(readonly, nostack, preserves_flags)) };
        Tiles { not_send: PhantomData }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: a configuration was loaded, so the processor has AMX.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
    }
}

/// Results of a tile, panel by panel.
#[repr(align(64))]
pub(super) struct Totals(pub(super) [[[f32; PANEL]; ROWS]; PANELS]);

/// Sums of a block: tokens 0 to 15 by the first panel, by the second, tokens 16 to 31 by these.
#[repr(align(64))]
struct Sums([[[i32; PANEL]; HALF]; 2 * PANELS]);

/// One tile: two panels' rows by the 32 tokens from `row` on.
///
/// # Safety
/// The processor has AVX-512 with VNNI and AMX for bytes; the configuration is the thread's. The tokens are there, and the panels
/// have as many blocks as they.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn tile<C: TileCodes>(
    _: &Tiles,
    x: &Rounded<'_>,
    row: usize,
    panels: [&[u32]; PANELS],
    totals: &mut Totals,
) {
    let tokens = x.rows::<ROWS>(row);
    let blocks = tokens[0].1.len();
    totals.0 = [[[0.0; PANEL]; ROWS]; PANELS];
    let mut bytes = [const { Bytes([0; WORDS]) }; PANELS];
    let mut sums = Sums([[[0; PANEL]; HALF]; 2 * PANELS]);
    for block in 0..blocks {
        let words = panels.map(|panel| &panel[block * C::WORDS..][..C::WORDS]);
        let [first, second] = &mut bytes;
        // SAFETY: the caller's promises; tokens follow each other, each of `blocks` blocks.
        unsafe {
            let (b0, b1) = (C::bytes(words[0], first), C::bytes(words[1], second));
            multiply(tokens[0].0[block].as_ptr(), blocks * size_of::<[u32; activations::WORDS]>(), [b0, b1], &mut sums);
            let headers = words.map(|words| C::header(words));
            for (token, row) in tokens.iter().enumerate() {
                let scale_of_token = _mm512_set1_ps(row.1[block]);
                for (panel, (scales, taken_off)) in headers.iter().enumerate() {
                    let of_block = &sums.0[token / HALF * PANELS + panel][token % HALF];
                    let mut sum: __m512i = _mm512_load_si512(of_block.as_ptr().cast());
                    if C::CORRECTED {
                        const { assert!(<Q4 as super::Codes>::STEPS == 1 << 2) };
                        let times_steps = _mm512_slli_epi32::<2>(sum);
                        sum = _mm512_dpwssd_epi32(times_steps, *taken_off, _mm512_set1_epi32(row.2[block] as i32));
                    }
                    let scale = _mm512_mul_ps(_mm512_castsi512_ps(*scales), scale_of_token);
                    let total = totals.0[panel][token].as_mut_ptr();
                    _mm512_store_ps(total, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, _mm512_load_ps(total)));
                }
            }
        }
    }
}

/// The sums of a block's products: 32 tokens' codes from `a` on, `stride` bytes apart, by two panels' bytes.
///
/// # Safety
/// The configuration is loaded; the tokens' blocks and the bytes are there.
#[inline(always)]
unsafe fn multiply(a: *const u32, stride: usize, b: [*const u32; PANELS], sums: &mut Sums) {
    let a = a.cast::<u8>();
    // SAFETY: the caller's promises; the sums have room for four tiles.
    unsafe {
        asm!(
            "tileloadd tmm4, [{a0} + {stride}*1]",
            "tileloadd tmm6, [{b0} + {line}*1]",
            "tileloadd tmm7, [{b1} + {line}*1]",
            "tileloadd tmm5, [{a1} + {stride}*1]",
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "tdpbssd tmm0, tmm4, tmm6",
            "tdpbssd tmm1, tmm4, tmm7",
            "tdpbssd tmm2, tmm5, tmm6",
            "tdpbssd tmm3, tmm5, tmm7",
            "tilestored [{sums} + {line}*1], tmm0",
            "tilestored [{sums} + {line}*1 + 1024], tmm1",
            "tilestored [{sums} + {line}*1 + 2048], tmm2",
            "tilestored [{sums} + {line}*1 + 3072], tmm3",
            a0 = in(reg) a,
            a1 = in(reg) a.wrapping_add(HALF * stride),
            stride = in(reg) stride,
            b0 = in(reg) b[0],
            b1 = in(reg) b[1],
            line = in(reg) 64_usize,
            sums = in(reg) sums,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, preserves_flags),
        );
    }
}

#[cfg(test)]
mod tests {
    use crate::cpu::gemm::amx::emulator;
    use crate::cpu::gemm::{PANEL, Store};
    use crate::cpu::isa::Isa;
    use crate::cpu::memory::Memory;
    use crate::cpu::pool::{Pool, Shared};
    use crate::cpu::quantized::{self, Quantized};
    use crate::dtype::{Bf16, Storage};
    use crate::matrix_format::MatrixFormat;

    fn values(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919 + seed * 31) % 1013) as f32 / 400.0 - 1.2).collect()
    }

    fn product<T: Storage>(isa: Isa, format: MatrixFormat, (tokens, columns, rows): (usize, usize, usize)) -> Vec<T> {
        let pool = Pool::new(2, isa).unwrap();
        let bytes = quantized::bytes(format, rows, columns);
        let mut words = vec![0_u32; bytes / 4];
        quantized::pack(&pool, format, &values(rows * columns, 1), columns, &mut words);
        let weight = Quantized { format, rows, columns, words: &words };
        let x: Vec<Bf16> = values(tokens * columns, 2).into_iter().map(Bf16::store).collect();
        let mut scratch = Memory::new("test", quantized::scratch_bytes(tokens, columns)).unwrap();
        let bias = values(rows, 3);
        let mut out = vec![T::store(f32::NAN); tokens * rows];
        let store = Store { out: Shared::new(&mut out), stride: rows, bias: Some(&bias) };
        quantized::product(&pool, &x, tokens, weight, &store, scratch.as_bytes_mut());
        out
    }

    /// Tiles of bytes, and what they leave to other tiles: too few tokens, a panel without a second, a part of one.
    #[test]
    fn results_have_the_bits_of_other_levels() {
        if !emulator::isas().contains(&Isa::Amx) || !super::is_available() {
            println!("skipped: no AMX for bytes and AVX-512-VNNI, nor emulated");
            return;
        }
        for format in [MatrixFormat::Q8, MatrixFormat::Q4] {
            for (tokens, columns, rows) in [
                (32, 32, 32),
                (31, 64, 48),
                (33, 100, 64),
                (64, 96, 9 * PANEL + 5),
                (165, 40, 21 * PANEL),
                (70, 320, 16),
            ] {
                let shape = (tokens, columns, rows);
                let got: Vec<f32> = product(Isa::Amx, format, shape);
                let want: Vec<f32> = product(Isa::Avx2, format, shape);
                let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&got), bits(&want), "{} {shape:?}", format.name());
                let rounded: Vec<Bf16> = product(Isa::Amx, format, shape);
                assert_eq!(rounded, want.iter().map(|x| Bf16::store(*x)).collect::<Vec<_>>(), "{}", format.name());
            }
        }
    }

    #[test]
    fn whole_tiles_are_computed_by_tiles() {
        if !emulator::isas().contains(&Isa::Amx) || !emulator::emulated() || !super::is_available() {
            println!("skipped: AMX is not emulated here");
            return;
        }
        let pool = Pool::new(1, Isa::Amx).unwrap();
        let (tokens, columns, rows) = (67, 96, 5 * PANEL);
        let mut words = vec![0_u32; quantized::bytes(MatrixFormat::Q4, rows, columns) / 4];
        quantized::pack(&pool, MatrixFormat::Q4, &values(rows * columns, 1), columns, &mut words);
        let weight = Quantized { format: MatrixFormat::Q4, rows, columns, words: &words };
        let mut scratch = Memory::new("test", quantized::scratch_bytes(tokens, columns)).unwrap();
        let mut out = vec![0.0_f32; tokens * rows];
        let store = Store { out: Shared::new(&mut out), stride: rows, bias: None };
        let before = emulator::products();
        quantized::product(&pool, &values(tokens * columns, 2), tokens, weight, &store, scratch.as_bytes_mut());
        // Two groups of 32 tokens, two pairs of panels, three blocks, four products each.
        assert_eq!(emulator::products() - before, 2 * 2 * 3 * 4);
        assert!(!emulator::in_use(), "the configuration outlives the product");
    }
}
