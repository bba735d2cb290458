//! Whole operands prepared with all threads: right operands as panels, left operands of transposed matrices.

use super::pack::{self, PANEL};
use super::{GAP, Left, MatElement};
use crate::cpu::isa::{Isa, Kernel, Math};
use crate::cpu::pool::{Pool, Shared};
use crate::dtype::Storage;
#[cfg(target_arch = "x86_64")]
use crate::dtype::{Bf16, DType};

struct TransposedPanel<'a, T, S> {
    isa: Isa,
    source: &'a [T],
    stride: usize,
    k: usize,
    n: usize,
    panel: usize,
    out: &'a mut [S],
}

impl<T: Storage, S: MatElement> Kernel for TransposedPanel<'_, T, S> {
    type Output = ();
    #[inline(always)]
    fn run<M: Math>(self) {
        let Self { source, stride, k, n, panel, out, isa } = self;
        #[cfg(target_arch = "x86_64")]
        if S::DTYPE == DType::Bf16 && isa >= Isa::Avx512 {
            // SAFETY: S is Bf16, and the level has AVX-512.
            unsafe {
                let out = std::slice::from_raw_parts_mut(out.as_mut_ptr().cast::<Bf16>(), out.len());
                super::transpose::avx512::transposed_panel(source, stride, (k, n), panel, out);
            }
            return;
        }
        #[cfg(target_arch = "x86_64")]
        if isa >= Isa::Avx2 {
            // SAFETY: the level has AVX2.
            unsafe {
                use super::transpose::{avx2::Avx2, transposed_panel};
                transposed_panel::<Avx2, T, S>(source, stride, (k, n), panel, out);
            }
            return;
        }
        #[cfg(target_arch = "aarch64")]
        if isa >= Isa::Neon {
            // SAFETY: the level has NEON.
            unsafe {
                use super::transpose::{neon::Neon, transposed_panel};
                transposed_panel::<Neon, T, S>(source, stride, (k, n), panel, out);
            }
            return;
        }
        let _ = isa;
        pack::transposed_panel(source, stride, (k, n), panel, out);
    }
}

struct Panels<'a, T, S> {
    source: &'a [T],
    stride: usize,
    k: usize,
    n: usize,
    first: usize,
    out: &'a mut [S],
}

impl<T: Storage, S: MatElement> Kernel for Panels<'_, T, S> {
    type Output = ();
    #[inline(always)]
    fn run<M: Math>(self) {
        pack::panels(self.source, self.stride, (self.k, self.n), self.first, self.out);
    }
}

/// Elements of a job.
const PIECE: usize = 1 << 15;

/// Fills panels of 16 of `n` rows or columns, of `len` elements each: some from the first that is named on.
fn pack_panels<S: MatElement>(
    pool: &Pool,
    out: &mut [S],
    n: usize,
    len: usize,
    fill: impl Fn(usize, &mut [S]) + Sync + Send,
) {
    let out = Shared::new(out);
    // Two at least: side by side they share cache lines.
    let piece = PIECE.div_ceil(len.max(1)).next_multiple_of(2);
    pool.for_ranges(n.div_ceil(PANEL), piece, |panels| {
        // SAFETY: ranges of panels are disjoint.
        fill(panels.start, unsafe { out.slice_mut(panels.start * len, panels.len() * len) });
    });
}

/// Packs the right operand `sourceᵀ` of `[n][k]` rows `stride` apart.
pub(crate) fn pack_transposed<T: Storage, S: MatElement>(
    pool: &Pool,
    source: &[T],
    stride: usize,
    (k, n): (usize, usize),
    out: &mut [S],
) {
    let len = k.next_multiple_of(S::GROUP) * PANEL;
    pack_panels(pool, out, n, len, |first, out: &mut [S]| {
        let isa = pool.isa();
        for (panel, out) in (first..).zip(out.chunks_exact_mut(len.max(1))) {
            isa.run(TransposedPanel { isa, source, stride, k, n, panel, out });
        }
    });
}

/// [`pack_transposed`] on the calling thread, for tiles inside a parallel section.
pub(crate) fn pack_transposed_here<T: Storage, S: MatElement>(
    isa: Isa,
    source: &[T],
    stride: usize,
    (k, n): (usize, usize),
    out: &mut [S],
) {
    let len = k.next_multiple_of(S::GROUP) * PANEL;
    for (panel, out) in out.chunks_exact_mut(len).take(n.div_ceil(PANEL)).enumerate() {
        isa.run(TransposedPanel { isa, source, stride, k, n, panel, out });
    }
}

/// [`pack_columns`] on the calling thread.
pub(crate) fn pack_columns_here<T: Storage, S: MatElement>(
    isa: Isa,
    source: &[T],
    stride: usize,
    (k, n): (usize, usize),
    out: &mut [S],
) {
    let len = k.next_multiple_of(S::GROUP) * n.next_multiple_of(PANEL);
    isa.run(Panels { source, stride, k, n, first: 0, out: &mut out[..len] });
}

/// Packs the right operand `source[k, n]`, rows `stride` apart.
pub(crate) fn pack_columns<T: Storage, S: MatElement>(
    pool: &Pool,
    source: &[T],
    stride: usize,
    (k, n): (usize, usize),
    out: &mut [S],
) {
    pack_panels(pool, out, n, k.next_multiple_of(S::GROUP) * PANEL, |first, out: &mut [S]| {
        pool.isa().run(Panels { source, stride, k, n, first, out });
    });
}

/// Whether the left operand `sourceᵀ` is prepared as rows: AMX loads nothing else.
#[cfg(target_arch = "x86_64")]
fn takes_rows<S: MatElement>(isa: Isa) -> bool {
    S::DTYPE == DType::Bf16 && isa == Isa::Amx
}

/// Writes 16 of those rows, from `16 * panel` on, which fill `out`. Only where [`takes_rows`].
#[cfg(target_arch = "x86_64")]
fn transposed_rows<T: Storage, S: MatElement>(
    isa: Isa,
    source: &[T],
    stride: usize,
    (k, m): (usize, usize),
    panel: usize,
    out: &mut [S],
) {
    assert!(takes_rows::<S>(isa), "rows are for AMX");
    let row = out.len() / PANEL;
    // SAFETY: S is Bf16.
    let out = unsafe { std::slice::from_raw_parts_mut(out.as_mut_ptr().cast::<Bf16>(), out.len()) };
    isa.run(super::amx::TransposedRows { source, stride, k, m, panel, out, row });
}

/// [`left_transposed`] on the calling thread.
pub(crate) fn left_transposed_here<S: MatElement>(
    isa: Isa,
    source: &[S],
    stride: usize,
    (k, m): (usize, usize),
    out: &mut [S],
) -> Left<S> {
    #[cfg(target_arch = "x86_64")]
    if takes_rows::<S>(isa) {
        let row = k.next_multiple_of(S::GROUP);
        for (panel, out) in out.chunks_exact_mut(row * PANEL).take(m.div_ceil(PANEL)).enumerate() {
            transposed_rows(isa, source, stride, (k, m), panel, out);
        }
        return Left::rows(out, m, row, row);
    }
    pack_columns_here(isa, source, stride, (k, m), out);
    Left::panels(out, m, k)
}

/// Elements of a left operand as [`left_transposed`] prepares it.
pub(crate) fn left_len<S: MatElement>(k: usize, m: usize) -> usize {
    (k.next_multiple_of(S::GROUP) + GAP) * m.next_multiple_of(PANEL)
}

/// [`left_transposed`] of what [`pack_columns`] has made a right operand of, which may be read as both.
pub(crate) fn left_of_packed<S: MatElement>(
    pool: &Pool,
    source: &[S],
    stride: usize,
    (k, m): (usize, usize),
    packed: &[S],
    out: &mut [S],
) -> Left<S> {
    #[cfg(target_arch = "x86_64")]
    if takes_rows::<S>(pool.isa()) {
        return left_transposed(pool, source, stride, (k, m), out);
    }
    let _ = (pool, source, stride, out);
    Left::panels(packed, m, k)
}

/// Prepares the left operand `sourceᵀ[m, k]` of `source[k, m]`, rows `stride` apart, in the layout that the
/// instruction set multiplies best. `out` holds [`left_len`]`(k, m)` elements.
pub(crate) fn left_transposed<T: Storage, S: MatElement>(
    pool: &Pool,
    source: &[T],
    stride: usize,
    (k, m): (usize, usize),
    out: &mut [S],
) -> Left<S> {
    #[cfg(target_arch = "x86_64")]
    if takes_rows::<S>(pool.isa()) {
        let row = k.next_multiple_of(S::GROUP);
        let wide = row + GAP;
        pack_panels(pool, out, m, wide * PANEL, |first, out: &mut [S]| {
            for (panel, out) in (first..).zip(out.chunks_exact_mut(wide * PANEL)) {
                transposed_rows(pool.isa(), source, stride, (k, m), panel, out);
            }
        });
        return Left::rows(out, m, row, wide);
    }
    pack_columns(pool, source, stride, (k, m), out);
    Left::panels(out, m, k)
}
