//! The bf16 micro-kernel of AMX: `tdpbf16ps`, 16 rows by 16 columns by 32 `k` in one instruction.
//!
//! 2 x 2 tiles (32 rows by 32 columns) accumulate over all of `k`; two tile registers hold `A`, two hold `B`. A tile
//! of `A` is 16 rows of 64 bytes as they lie (row-major, any stride); a tile of `B` is 1 KiB of a packed panel as it
//! lies. Fewer than 32 rows are fewer rows in the tile configuration; a `k` that is no multiple of 32 ends in one
//! step on copies padded with zeros. Every element is summed over `k` in the same order whatever tile it falls in.
//!
//! Floors, from Intel's optimisation manual (Sapphire Rapids): a `tdpbf16ps` each 16 cycles, a `tileloadd` each 8 from
//! L1. A step is four of each: 64 cycles of products hide 32 of loads. It reads 4 KiB, 2 of `A` and 2 of `B`: 64 bytes
//! a cycle, where L2 delivers 48, so that a step whose operands lie in L2 takes 85 cycles at best. Measured, one core of a
//! Xeon with 300 MB of L3 (docs/LOG.md, 2026-11-27): 64 from registers, 77 from L1, 102 from L2 with the loads of the next step between
//! the products of this one, 107 with each load before its product. Rows a power of two apart share few of L1's sets: 115; a
//! cache line between them ([`super::GAP`]) helps. A line of L3 takes 6.8 cycles, whoever asks: the next strip of `A` and the
//! next tile's place are asked for meanwhile ([`block`]). Cutting `k` so that `A` stays in L1 saves 20 cycles a step and costs as much for
//! the sums that come and go.
//! `ldtilecfg` takes about 200 cycles, so a block of work, or all the tiles of a job of attention's, load it once for each
//! height of tile and release it at their end: a thread that idles or is switched away has no 8 KiB of tile data to save.
//! Whole panels are stored where they belong, and what is added to begins the sums: gradients need no second pass.
//!
//! Checked instruction by instruction on an emulator of the tile unit (see the tests), and right on hardware. The shared machines that
//! it has run on loaded tiles four times as slowly most of the time, whatever the order and wherever they lay, while products
//! from registers kept their speed.

mod block;
#[cfg(test)]
pub(crate) mod emulator;
#[cfg(test)]
mod tests;

pub(super) use block::multiply;

use core::arch::asm;
use core::arch::x86_64::{_mm512_loadu_si512, _mm512_maskz_loadu_epi16, _mm512_storeu_si512};
use std::marker::PhantomData;

use super::kernel::Destination;
use super::pack::{self, PANEL};
use super::{Left, MatElement};
use crate::cpu::isa::{Isa, Kernel, Math};
use crate::dtype::{Bf16, DType, Storage};

/// Pairs of `k` in a tile.
const PAIRS: usize = 16;
/// Rows of a tile.
const ROWS: usize = 16;
/// Elements of an operand tile.
const OPERAND: usize = ROWS * 2 * PAIRS;

/// Whether processor and system let this process use AMX. Asks the system for permission the first time.
pub(crate) fn is_available() -> bool {
    static AVAILABLE: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *AVAILABLE.get_or_init(|| processor_has_amx() && permitted())
}

/// Whether tiles of bytes are multiplied as well. Where [`is_available`].
pub(crate) fn multiplies_bytes() -> bool {
    #[cfg(test)]
    if emulator::emulated() {
        return true;
    }
    static BYTES: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *BYTES.get_or_init(|| is_available() && has_instructions(1 << 25))
}

/// The instructions exist and the system saves the tile registers. AVX-512-BF16 is required as well because products whose left
/// operand is no rows run there.
fn processor_has_amx() -> bool {
    const AMX_BF16_AND_TILE: u32 = 1 << 22 | 1 << 24;
    is_x86_feature_detected!("avx512bf16") && has_instructions(AMX_BF16_AND_TILE)
}

/// CPUID and XCR0: whether leaf 7 has these bits in EDX, and the system saves the tile registers.
fn has_instructions(bits: u32) -> bool {
    use core::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
    const OSXSAVE: u32 = 1 << 27;
    const TILE_STATE: u64 = 1 << 17 | 1 << 18;
    #[target_feature(enable = "xsave")]
    fn enabled_state() -> u64 {
        // SAFETY: register 0 always exists.
        unsafe { _xgetbv(0) }
    }
    #[allow(unused_unsafe)] // Safe functions since Rust 1.94.
    // SAFETY: every x86-64 processor has CPUID; leaf 7 is read only where leaf 0 says that it exists.
    let (features, extended) = unsafe {
        if __cpuid(0).eax < 7 {
            return false;
        }
        (__cpuid(1).ecx, __cpuid_count(7, 0).edx)
    };
    features & OSXSAVE != 0
        && extended & bits == bits
        // SAFETY: OSXSAVE says that XGETBV may be executed.
        && unsafe { enabled_state() } & TILE_STATE == TILE_STATE
}

/// Linux gives a process tile registers only on request (it then sizes signal frames for them).
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: this request takes a number and touches no memory of ours.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// Whether products at this level are computed by tiles: those of bf16 whose left operand lies in rows.
pub(super) fn takes<S: MatElement>(isa: Isa, left: &Left<S>) -> bool {
    isa == Isa::Amx && S::DTYPE == DType::Bf16 && !left.is_panels()
}

/// Writes 16 rows of the transpose of `source`, `[k][m]` rows `stride` apart: row-major, `k` padded to pairs.
pub(super) struct TransposedRows<'a, T> {
    pub(super) source: &'a [T],
    pub(super) stride: usize,
    pub(super) k: usize,
    pub(super) m: usize,
    /// Rows `16 * panel` and up; those past `m` are zeros.
    pub(super) panel: usize,
    pub(super) out: &'a mut [Bf16],
    /// Elements between rows of `out`.
    pub(super) row: usize,
}

impl<T: Storage> Kernel for TransposedRows<'_, T> {
    type Output = ();
    /// A step's panel is packed while it fits registers and L1, then its pairs are transposed.
    #[inline(always)]
    fn run<M: Math>(self) {
        let row = self.row;
        assert!(row >= self.k.next_multiple_of(2) && self.out.len() == ROWS * row, "16 rows");
        let mut step = [Bf16(0); OPERAND];
        for k0 in (0..self.k).step_by(2 * PAIRS) {
            let k = (2 * PAIRS).min(self.k - k0);
            pack::panel(&self.source[k0 * self.stride..], self.stride, (k, self.m), self.panel, &mut step);
            // SAFETY: this runs only where AMX and so AVX-512 is; 16 rows of `k` from `k0` lie inside `out`.
            unsafe {
                let to = self.out.as_mut_ptr().add(k0);
                super::transpose::avx512::pairs_to_rows(step.as_ptr(), k.div_ceil(2), to, row);
            }
        }
    }
}

/// The operand of `ldtilecfg`.
#[repr(C, align(64))]
pub(crate) struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Config {
    /// Tiles 0 to 3 accumulate (upper left, upper right, lower left, lower right), 4 and 5 hold `A`, 6 and 7 `B`.
    /// Without lower rows the lower tiles do not exist.
    fn new(rows: usize) -> Self {
        let upper = rows.min(ROWS) as u8;
        let lower = rows as u8 - upper;
        let heights = [upper, upper, lower, lower, upper, lower, PAIRS as u8, PAIRS as u8];
        Self::of(heights.map(|height| (height, if height == 0 { 0 } else { 64 })))
    }

    /// Rows of the eight tiles and their bytes.
    pub(crate) fn of(tiles: [(u8, u16); 8]) -> Self {
        let mut config = Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        for (tile, (rows, bytes)) in tiles.into_iter().enumerate() {
            (config.rows[tile], config.row_bytes[tile]) = (rows, bytes);
        }
        config
    }
}

/// The tile configuration of the thread that runs a block: loaded when first needed, released at the end.
#[derive(Default)]
pub(super) struct Tiles {
    /// Rows that the loaded configuration covers; 0 without one.
    rows: usize,
    /// Tile registers belong to a thread.
    not_send: PhantomData<*const ()>,
}

impl Drop for Tiles {
    #[inline(always)]
    fn drop(&mut self) {
        if self.rows != 0 {
            // SAFETY: a configuration was loaded, so the processor has AMX.
            unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
        }
    }
}

/// The last step's operands where `k` is no multiple of 32: the tiles of `A`, then those of `B`.
#[repr(align(64))]
struct Tail([[Bf16; OPERAND]; 4]);

/// Addresses of a product, in bytes between rows.
struct Operands {
    a: *const u8,
    row_bytes: usize,
    b: [*const u8; 2],
    steps: usize,
    /// One more step on this, unless null.
    tail: *const Tail,
    /// What is asked for meanwhile, [`AHEAD`] bytes a step.
    ahead: *const u8,
}

/// Bytes asked for in a step.
const AHEAD: usize = 128;

impl Tiles {
    /// Computes one tile. What it is added to is what the sums begin with.
    ///
    /// # Safety
    /// The processor has AMX and AVX-512 and the process may use them; `a` covers `rows` rows of `groups` pairs,
    /// `row_stride` elements apart; `b` covers `panels` panels of `groups` pairs, `panel_len` apart;
    /// `1 <= rows <= 32`, `panels` is 1 or 2; `to` has room for them. `ahead` is asked for during whole tiles, [`AHEAD`] bytes a
    /// step, unless it is null; it may be anything.
    #[allow(clippy::too_many_arguments)] // A micro-kernel's address arithmetic; a struct would only rename it.
    unsafe fn multiply(
        &mut self,
        a: *const Bf16,
        row_stride: usize,
        b: *const Bf16,
        panel_len: usize,
        groups: usize,
        rows: usize,
        panels: usize,
        to: Destination,
        ahead: *const u8,
    ) {
        assert!((1..=2 * ROWS).contains(&rows) && (1..=2).contains(&panels), "no such AMX tile");
        self.configure(rows);
        let steps = groups / PAIRS;
        let second = b.wrapping_add((panels - 1) * panel_len);
        let row_bytes = row_stride * size_of::<Bf16>();
        let b_bytes = [b.cast(), second.cast()];
        let mut operands = Operands { a: a.cast(), row_bytes, b: b_bytes, steps, tail: core::ptr::null(), ahead };
        let tail;
        if !groups.is_multiple_of(PAIRS) {
            let k = steps * 2 * PAIRS;
            let b = [b.wrapping_add(k * PANEL), second.wrapping_add(k * PANEL)];
            // SAFETY: the caller's promises; what is left of `k` starts there.
            tail = unsafe { copy_tail(a.wrapping_add(k), row_stride, rows, b, groups % PAIRS) };
            operands.tail = &raw const tail;
        }
        // SAFETY: the configuration is loaded, the operands cover `steps` steps and the tail, and the destination has room.
        unsafe {
            match (rows > ROWS, panels == 2, to.add) {
                (true, true, false) if !ahead.is_null() => kernel::<1, 1, 0, 1>(&operands, to),
                (true, true, true) if !ahead.is_null() => kernel::<1, 1, 1, 1>(&operands, to),
                (true, true, false) => kernel::<1, 1, 0, 0>(&operands, to),
                (true, false, false) => kernel::<1, 0, 0, 0>(&operands, to),
                (false, true, false) => kernel::<0, 1, 0, 0>(&operands, to),
                (false, false, false) => kernel::<0, 0, 0, 0>(&operands, to),
                (true, true, true) => kernel::<1, 1, 1, 0>(&operands, to),
                (true, false, true) => kernel::<1, 0, 1, 0>(&operands, to),
                (false, true, true) => kernel::<0, 1, 1, 0>(&operands, to),
                (false, false, true) => kernel::<0, 0, 1, 0>(&operands, to),
            }
        }
    }

    /// Computes a strip of 17 to 32 rows by `panels` whole panels of a sum of two steps, 64 terms: attention's scores. The rows' four
    /// tiles stay in registers, so that four products load two tiles instead of four. The sums are those of [`Tiles::multiply`].
    ///
    /// # Safety
    /// As [`Tiles::multiply`], with 32 pairs; nothing is added to.
    #[allow(clippy::too_many_arguments)] // As above.
    unsafe fn multiply_short(
        &mut self,
        a: *const Bf16,
        row_stride: usize,
        b: *const Bf16,
        panel_len: usize,
        rows: usize,
        panels: usize,
        to: Destination,
    ) {
        assert!((ROWS + 1..=2 * ROWS).contains(&rows) && panels > 0 && !to.add, "no such strip");
        self.configure(rows);
        let a = a.cast::<u8>();
        let row_bytes = row_stride * size_of::<Bf16>();
        let ld = to.stride * size_of::<f32>();
        // SAFETY: the configuration is loaded: tiles 0, 1 and 4 are as high as the upper rows, 2, 3 and 5 as the lower. Loads stay
        // inside the operands, stores inside the destination.
        unsafe {
            asm!(
                "tileloadd tmm4, [{a0} + {a_stride}*1]",
                "tileloadd tmm1, [{a0} + {a_stride}*1 + 64]",
                "tileloadd tmm5, [{a1} + {a_stride}*1]",
                "tileloadd tmm3, [{a1} + {a_stride}*1 + 64]",
                "2:",
                "tileloadd tmm6, [{b} + {b_stride}*1]",
                "tileloadd tmm7, [{b} + {b_stride}*1 + 1024]",
                "tilezero tmm0",
                "tilezero tmm2",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm0, tmm1, tmm7",
                "tdpbf16ps tmm2, tmm3, tmm7",
                "add {b}, {panel}",
                "tilestored [{c} + {ld}*1], tmm0",
                "tilestored [{d} + {ld}*1], tmm2",
                "add {c}, 64",
                "add {d}, 64",
                "dec {panels}",
                "jnz 2b",
                a0 = in(reg) a,
                a1 = in(reg) a.wrapping_add(ROWS * row_bytes),
                a_stride = in(reg) row_bytes,
                b = inout(reg) b => _,
                b_stride = in(reg) 64_usize,
                panel = in(reg) panel_len * size_of::<Bf16>(),
                panels = inout(reg) panels => _,
                c = inout(reg) to.at => _,
                d = inout(reg) to.at.wrapping_add(ROWS * to.stride) => _,
                ld = in(reg) ld,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }

    /// Loads the configuration for so many rows, unless it is loaded.
    fn configure(&mut self, rows: usize) {
        if self.rows != rows {
            let config = Config::new(rows);
            // SAFETY: callers have AMX; the operand is 64 valid bytes. Only the kernels use tile registers, and they leave nothing in
            // them.
            unsafe { asm!("ldtilecfg [{}]", in(reg) &config, options(readonly, nostack, preserves_flags)) };
            self.rows = rows;
        }
    }
}

/// Copies the last `pairs < 16` pairs of `k` of both operands, padded with zeros to a whole step.
///
/// # Safety
/// `a` covers `rows <= 32` rows of `pairs` pairs, `b` two panels (perhaps the same one) of `pairs` pairs. AVX-512.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn copy_tail(a: *const Bf16, row_stride: usize, rows: usize, b: [*const Bf16; 2], pairs: usize) -> Tail {
    let mut tail = Tail([[Bf16(0); OPERAND]; 4]);
    let to = tail.0.as_mut_ptr().cast::<Bf16>();
    let inside = (1_u32 << (2 * pairs)) - 1;
    // SAFETY: reads stay inside the pairs of each row and panel; writes inside the 4 x 16 rows of 64 bytes.
    unsafe {
        for row in 0..rows {
            let values = _mm512_maskz_loadu_epi16(inside, a.add(row * row_stride).cast());
            _mm512_storeu_si512(to.add(row * 2 * PAIRS).cast(), values);
        }
        for (panel, b) in b.into_iter().enumerate() {
            for pair in 0..pairs {
                let values = _mm512_loadu_si512(b.add(pair * 2 * PANEL).cast());
                _mm512_storeu_si512(to.add((2 + panel) * OPERAND + pair * 2 * PANEL).cast(), values);
            }
        }
    }
    tail
}

/// Rows 16 and up if `LOWER`, the second panel if `RIGHT`; sums that begin with what lies there if `ADD`; what is `ahead` is asked
/// for if `ASK`. The operands of the next step are loaded as soon as the last product of this one has read the old ones.
///
/// # Safety
/// The configuration for these tiles is loaded; `operands` are readable, `to` is writable. With neither steps nor a tail the
/// sum is 0.
unsafe fn kernel<const LOWER: u8, const RIGHT: u8, const ADD: u8, const ASK: u8>(operands: &Operands, to: Destination) {
    let ld = to.stride * size_of::<f32>();
    // SAFETY: loads stay inside the operands by the caller's promise, stores inside the destination; asking is a hint.
    // The accumulators live in registers over the whole loop, so everything is one block.
    unsafe {
        asm!(
            ".if {add}",
            "tileloadd tmm0, [{c} + {ld}*1]",
            ".if {right}", "tileloadd tmm1, [{c} + {ld}*1 + 64]", ".endif",
            ".if {lower}", "tileloadd tmm2, [{d} + {ld}*1]", ".endif",
            ".if {lower} & {right}", "tileloadd tmm3, [{d} + {ld}*1 + 64]", ".endif",
            ".else",
            "tilezero tmm0",
            ".if {right}", "tilezero tmm1", ".endif",
            ".if {lower}", "tilezero tmm2", ".endif",
            ".if {lower} & {right}", "tilezero tmm3", ".endif",
            ".endif",
            "test {steps}, {steps}",
            "jz 3f",
            "2:",
            "tileloadd tmm4, [{a0} + {a_stride}*1]",
            "tileloadd tmm6, [{b0} + {b_stride}*1]",
            ".if {right}", "tileloadd tmm7, [{b1} + {b_stride}*1]", ".endif",
            ".if {lower}", "tileloadd tmm5, [{a1} + {a_stride}*1]", ".endif",
            "dec {steps}",
            "jz 6f",
            "5:",
            "add {a0}, 64",
            "add {a1}, 64",
            "add {b0}, 1024",
            "add {b1}, 1024",
            "tdpbf16ps tmm0, tmm4, tmm6",
            ".if {right}", "tdpbf16ps tmm1, tmm4, tmm7", ".endif",
            "tileloadd tmm4, [{a0} + {a_stride}*1]",
            ".if {lower}", "tdpbf16ps tmm2, tmm5, tmm6", ".endif",
            "tileloadd tmm6, [{b0} + {b_stride}*1]",
            ".if {lower} & {right}", "tdpbf16ps tmm3, tmm5, tmm7", ".endif",
            ".if {right}", "tileloadd tmm7, [{b1} + {b_stride}*1]", ".endif",
            ".if {lower}", "tileloadd tmm5, [{a1} + {a_stride}*1]", ".endif",
            ".if {ask}",
            "prefetcht1 [{ahead}]",
            "prefetcht1 [{ahead} + 64]",
            "add {ahead}, {bytes_ahead}",
            ".endif",
            "dec {steps}",
            "jnz 5b",
            "6:",
            "tdpbf16ps tmm0, tmm4, tmm6",
            ".if {right}", "tdpbf16ps tmm1, tmm4, tmm7", ".endif",
            ".if {lower}", "tdpbf16ps tmm2, tmm5, tmm6", ".endif",
            ".if {lower} & {right}", "tdpbf16ps tmm3, tmm5, tmm7", ".endif",
            "3:",
            // The tail, once: its four tiles lie one after another.
            "test {tail}, {tail}",
            "jz 4f",
            "mov {a0}, {tail}",
            "lea {a1}, [{tail} + 1024]",
            "lea {b0}, [{tail} + 2048]",
            "lea {b1}, [{tail} + 3072]",
            "mov {a_stride}, {b_stride}",
            "xor {tail:e}, {tail:e}",
            "mov {steps:e}, 1",
            "jmp 2b",
            "4:",
            "tilestored [{c} + {ld}*1], tmm0",
            ".if {right}", "tilestored [{c} + {ld}*1 + 64], tmm1", ".endif",
            ".if {lower}", "tilestored [{d} + {ld}*1], tmm2", ".endif",
            ".if {lower} & {right}", "tilestored [{d} + {ld}*1 + 64], tmm3", ".endif",
            lower = const LOWER,
            right = const RIGHT,
            add = const ADD,
            ask = const ASK,
            bytes_ahead = const AHEAD,
            a0 = inout(reg) operands.a => _,
            a1 = inout(reg) operands.a.wrapping_add(ROWS * operands.row_bytes) => _,
            a_stride = inout(reg) operands.row_bytes => _,
            b0 = inout(reg) operands.b[0] => _,
            b1 = inout(reg) operands.b[1] => _,
            b_stride = in(reg) 64_usize,
            steps = inout(reg) operands.steps => _,
            tail = inout(reg) operands.tail => _,
            ahead = inout(reg) operands.ahead => _,
            c = in(reg) to.at,
            d = in(reg) to.at.wrapping_add(ROWS * to.stride),
            ld = in(reg) ld,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}
