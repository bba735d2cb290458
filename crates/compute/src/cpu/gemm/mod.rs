//! Matrix products of the CPU device: `C[m, n] = A[m, k] · B[k, n]` with f32 accumulation.
//!
//! All instruction sets share one structure. `B` is packed into panels of 16 columns ([`pack`]); a micro-kernel
//! multiplies a few rows of `A` by a few panels over the whole of `k` and leaves an f32 tile; an [`Epilogue`] puts
//! the tile where it belongs (bias, residual, accumulation, rounding), or says where that is if nothing is to be done to it. Every output is one sum over `k` in one fixed
//! order, so a product never depends on how its blocks are spread over threads.
//!
//! Floors: `2 m n k` FLOPs; `B` is read once per block of rows from L2, `A` once per block of columns.

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512bf16;
mod epilogue;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod floats;
mod kernel;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "aarch64")]
mod neonbf16;
mod operand;
pub(crate) mod pack;
mod symmetric;
#[cfg(test)]
mod tests;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod transpose;

pub(crate) use epilogue::{Add, Epilogue, Store};
pub(crate) use operand::{
    left_len, left_of_packed, left_transposed, left_transposed_here, pack_columns, pack_columns_here, pack_transposed,
    pack_transposed_here,
};
pub(crate) use pack::{PANEL, PackedB, convert};
pub(crate) use symmetric::{Terms, mirror, multiply_upper};
#[cfg(target_arch = "x86_64")]
pub(crate) use transpose::avx512::both_forms;

use kernel::Destination;
pub(crate) use kernel::State;

use super::isa::{Isa, Kernel, Math};
use super::pool::Pool;
use crate::dtype::{Bf16, Storage};

/// An element that the matrix kernels multiply.
pub(crate) trait MatElement: Storage {
    /// How many consecutive `k` are kept together in a panel: what one instruction consumes per lane.
    const GROUP: usize;
    /// Widens the `GROUP` values at `ptr` (a broadcast operand).
    ///
    /// # Safety
    /// `ptr` points at `GROUP` readable elements.
    unsafe fn group(ptr: *const Self) -> [f32; 2];
}

impl MatElement for f32 {
    const GROUP: usize = 1;
    #[inline(always)]
    unsafe fn group(ptr: *const Self) -> [f32; 2] {
        // SAFETY: the caller's promise.
        [unsafe { *ptr }, 0.0]
    }
}

impl MatElement for Bf16 {
    const GROUP: usize = 2;
    #[inline(always)]
    unsafe fn group(ptr: *const Self) -> [f32; 2] {
        // SAFETY: the caller's promise; the read is unaligned because rows may start at odd elements.
        let pair = unsafe { ptr.cast::<u32>().read_unaligned() };
        [f32::from_bits(pair << 16), f32::from_bits(pair & 0xffff_0000)]
    }
}

/// The left operand: rows whose `GROUP`s of `k` lie `step` elements apart.
#[derive(Clone, Copy)]
pub(crate) struct Left<S> {
    ptr: *const S,
    layout: LeftLayout,
}

#[derive(Clone, Copy)]
enum LeftLayout {
    /// Row-major, this many elements between rows.
    Rows(usize),
    /// Panels of 16 rows, this many elements between panels.
    Panels(usize),
}

// SAFETY: a Left is a read-only view whose owner outlives the parallel section that uses it.
unsafe impl<S: Sync> Sync for Left<S> {}
// SAFETY: as above.
unsafe impl<S: Sync> Send for Left<S> {}

impl<S: MatElement> Left<S> {
    /// Rows of `k` consecutive elements, `stride` apart. `k` must be a multiple of `GROUP`.
    pub(crate) fn rows(data: &[S], m: usize, k: usize, stride: usize) -> Self {
        assert!(m == 0 || data.len() >= (m - 1) * stride + k, "left operand too short");
        assert_eq!(k % S::GROUP, 0, "the left operand's k must be padded to a group");
        Left { ptr: data.as_ptr(), layout: LeftLayout::Rows(stride) }
    }

    /// The transpose of a matrix packed by columns ([`pack::columns`]): its panels hold 16 of our rows each.
    fn panels(data: &[S], m: usize, k: usize) -> Self {
        let panel = k.next_multiple_of(S::GROUP) * PANEL;
        assert!(data.len() >= m.div_ceil(PANEL) * panel, "left operand too short");
        Left { ptr: data.as_ptr(), layout: LeftLayout::Panels(panel) }
    }

    fn is_panels(&self) -> bool {
        matches!(self.layout, LeftLayout::Panels(_))
    }

    /// Address of row `row`, elements between rows (within 16), elements between groups of `k`.
    #[inline(always)]
    fn at(&self, row: usize) -> (*const S, usize, usize) {
        match self.layout {
            // SAFETY: the constructors checked that the rows lie inside the slice.
            LeftLayout::Rows(stride) => (unsafe { self.ptr.add(row * stride) }, stride, S::GROUP),
            LeftLayout::Panels(panel) => {
                // SAFETY: as above.
                let at = unsafe { self.ptr.add(row / PANEL * panel + row % PANEL * S::GROUP) };
                (at, S::GROUP, PANEL * S::GROUP)
            }
        }
    }
}

/// The largest tile a micro-kernel leaves, in floats (AMX: 32 x 32).
const TILE: usize = 1024;

/// Terms of a sum that takes longer than memory's answer: meanwhile comes what it is added to.
const LONG: usize = 256;

/// Elements kept between the rows of a prepared left operand, a cache line of bf16: rows a power of two apart share few sets of the caches.
const GAP: usize = 32;

#[repr(align(64))]
struct Tile([f32; TILE]);

/// One block of a product: rows `m0..m1` by panels `p0..p1`.
struct Block<'a, S, E> {
    isa: Isa,
    left: Left<S>,
    m: (usize, usize),
    right: PackedB<'a, S>,
    panels: (usize, usize),
    epilogue: &'a E,
    state: &'a mut State,
}

impl<S: MatElement, E: Epilogue> Kernel for Block<'_, S, E> {
    type Output = ();
    #[inline(always)]
    fn run<M: Math>(self) {
        #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
        if floats::takes::<S>(self.isa, self.m.1 - self.m.0) {
            // SAFETY: the level has the features; rows and panels are those of the operands.
            unsafe { floats::multiply(self.isa, &self.left, self.m, &self.right, self.panels, self.epilogue) };
            return;
        }
        #[cfg(target_arch = "x86_64")]
        if amx::takes(self.isa, &self.left) {
            // SAFETY: the processor has AMX, and S is Bf16; rows and panels are those of the operands.
            unsafe { amx::multiply(self.state, &self.left, self.m, &self.right, self.panels, self.epilogue) };
            return;
        }
        let mut tile = Tile([0.0; TILE]);
        let shape = kernel::shape::<S>(self.isa);
        let mut row = self.m.0;
        while row < self.m.1 {
            let rows = shape.rows.min(self.m.1 - row);
            let mut panel = self.panels.0;
            while panel < self.panels.1 {
                let panels = shape.panels.min(self.panels.1 - panel);
                let ld = panels * PANEL;
                let columns = ld.min(self.right.n - panel * PANEL);
                let (left, right) = (&self.left, &self.right);
                let place = self.epilogue.destination(row, panel * PANEL, rows, columns);
                if place.is_some_and(|place| place.add && self.right.k >= LONG) {
                    self.epilogue.ask_for(row, panel * PANEL, rows, columns);
                }
                let direct = place.filter(|_| columns == ld);
                let to = direct.unwrap_or(Destination { at: tile.0.as_mut_ptr(), stride: ld, add: false });
                // SAFETY: row < m and panel < the panel count, so both operands cover the kernel's reads. The tile has room
                // for the largest shape, an epilogue's destination for what it was asked for, and blocks of one product
                // never overlap.
                unsafe { kernel::multiply::<S, M>(self.isa, left, row, rows, right, panel, panels, to) };
                if direct.is_none() {
                    self.epilogue.store(self.isa, row, panel * PANEL, rows, columns, &tile.0, ld);
                }
                panel += panels;
            }
            row += rows;
        }
    }
}

/// Multiplies on the calling thread. For tiles inside a parallel section (attention), which keeps its state from one to the
/// next.
pub(crate) fn multiply_here<S: MatElement, E: Epilogue>(
    isa: Isa,
    state: &mut State,
    left: Left<S>,
    m: usize,
    right: PackedB<'_, S>,
    epilogue: &E,
) {
    let panels = (0, right.n.div_ceil(PANEL));
    isa.run(Block { isa, left, m: (0, m), right, panels, epilogue, state });
}

/// Blocks are of like size, and so many panels or a multiple of it: tiles are two or three panels wide, or one.
fn whole_tiles(isa: Isa) -> usize {
    if matches!(isa, Isa::Neon | Isa::NeonBf16 | Isa::Avx2) { 1 } else { 6 }
}

/// Bytes of `B` that a block goes through again for each strip of rows: they share L2 with `A` and the output.
fn cached_bytes<S: MatElement>(isa: Isa) -> usize {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    if floats::serves::<S>(isa) {
        return floats::cached_bytes(isa);
    }
    match isa {
        // L2 is 2 MiB where AMX is. While one strip of `A` (64 k bytes) comes from L3 at about 10 bytes a cycle, the
        // strip before is multiplied at 32 cycles for each panel and 32 of `k`: it takes seven panels to hide it,
        // and 1 MiB is eight at k = 4096.
        Isa::Amx => 1 << 20,
        // 1 MiB and less elsewhere.
        _ => 384 << 10,
    }
}

/// Bytes that a panel of `B` occupies in the caches while it is multiplied.
fn panel_bytes<S: MatElement>(isa: Isa, k: usize) -> usize {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    if floats::serves::<S>(isa) {
        // Widened to f32, a piece at a time.
        return floats::piece(isa, k).max(1) * PANEL * size_of::<f32>();
    }
    let _ = isa;
    k.max(1) * PANEL * S::DTYPE.size()
}

/// Bytes that each thread keeps beside the device's scratch for products of `k` up to this.
pub(crate) fn thread_bytes(isa: Isa, k: usize) -> usize {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    let bytes = floats::scratch_bytes(isa, k);
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let (bytes, _) = (0, (isa, k));
    bytes
}

/// Makes the calling thread's memory as large as [`thread_bytes`] said.
pub(crate) fn reserve_thread(isa: Isa, bytes: usize) {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    if isa > Isa::Portable {
        floats::reserve(bytes);
    }
    let _ = (isa, bytes);
}

/// How many of `panels` panels of `k` terms a block has: those that stay in the cache, in blocks of like size.
fn panels_of_a_block<S: MatElement>(isa: Isa, k: usize, panels: usize) -> usize {
    let column_blocks = panels.div_ceil((cached_bytes::<S>(isa) / panel_bytes::<S>(isa, k)).max(1));
    panels.div_ceil(column_blocks).next_multiple_of(whole_tiles(isa)).min(panels)
}

/// Rows and panels of the blocks that a product of `m` rows by `panels` panels is cut into, at most `widest` panels and whole tiles.
///
/// Rows are cut until every thread has a few blocks, in case one is slower than another; where there are too few of them, panels
/// are cut as well if the last round then has fewer threads that wait.
fn blocks(threads: usize, (m, panels): (usize, usize), widest: usize, whole_tiles: usize) -> (usize, usize) {
    const LEAST_ROWS: usize = 64;
    let wanted = 4 * threads;
    let cut = |width: usize| {
        let column_blocks = panels.div_ceil(width);
        let (least, most) = (wanted.div_ceil(column_blocks), m.div_ceil(LEAST_ROWS));
        // In the last round each thread should have a block: nine blocks take two threads as long as ten.
        let even = |rows: &usize| (rows * column_blocks).is_multiple_of(threads);
        let row_blocks = (least..=most.min(2 * least)).find(even).unwrap_or(least.min(most));
        (m.div_ceil(row_blocks).next_multiple_of(32), width)
    };
    let jobs = |(rows, width): (usize, usize)| m.div_ceil(rows) * panels.div_ceil(width);
    let whole = cut(widest);
    // Few rows are as quick as their panels come from memory: nothing is gained by cutting these.
    if jobs(whole) >= wanted || m < LEAST_ROWS {
        return whole;
    }
    let narrower = (2..=4).map(|parts| cut(widest.div_ceil(parts).next_multiple_of(whole_tiles).min(widest)));
    let rounds = |(rows, width): &(usize, usize)| jobs((*rows, *width)).div_ceil(threads) * rows * width;
    std::iter::once(whole).chain(narrower).min_by_key(rounds).unwrap_or(whole)
}

/// Multiplies with all threads of the pool.
pub(crate) fn multiply<S: MatElement, E: Epilogue + Sync>(
    pool: &Pool,
    left: Left<S>,
    m: usize,
    right: PackedB<'_, S>,
    epilogue: &E,
) {
    if m == 0 || right.n == 0 {
        return;
    }
    let panels = right.n.div_ceil(PANEL);
    let widest = panels_of_a_block::<S>(pool.isa(), right.k, panels);
    let (rows_per_block, panels_per_block) = blocks(pool.threads(), (m, panels), widest, whole_tiles(pool.isa()));
    let (row_blocks, column_blocks) = (m.div_ceil(rows_per_block), panels.div_ceil(panels_per_block));
    pool.for_each(row_blocks * column_blocks, |job| {
        let (row_block, column_block) = (job % row_blocks, job / row_blocks);
        let m0 = row_block * rows_per_block;
        let p0 = column_block * panels_per_block;
        pool.isa().run(Block {
            isa: pool.isa(),
            left,
            m: (m0, (m0 + rows_per_block).min(m)),
            right,
            panels: (p0, (p0 + panels_per_block).min(panels)),
            epilogue,
            state: &mut State::default(),
        });
    });
}
