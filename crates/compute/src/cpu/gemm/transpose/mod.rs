//! Transposes in registers: rows of a weight or of keys into panels. A word is what one lane of a panel holds for a group
//! of `k`: a pair of bf16 or one f32.

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
#[cfg(target_arch = "aarch64")]
pub(super) mod neon;

use super::MatElement;
use super::pack::{self, PANEL};
use crate::dtype::Storage;

/// Most rows of a block.
const WIDEST: usize = 8;

/// Square blocks of words that registers transpose.
pub(super) trait Words {
    /// Rows and words of a block, at most [`WIDEST`].
    const SIDE: usize;

    /// Writes a part of `SIDE` slots of a panel from as many rows of as many words; rows are `stride` elements apart, of which
    /// a word has `group`.
    ///
    /// # Safety
    /// `from` covers the rows, `to` the parts of slots of [`PANEL`] words; the processor has the instructions.
    unsafe fn transpose(from: *const u8, stride: usize, to: *mut u8, group: usize);
}

/// As [`pack::transposed_panel`], by blocks.
///
/// # Safety
/// The processor has the instructions of `W`.
#[inline(always)]
pub(super) unsafe fn transposed_panel<W: Words, T: Storage, S: MatElement>(
    source: &[T],
    stride: usize,
    (k, n): (usize, usize),
    panel: usize,
    out: &mut [S],
) {
    const { assert!(size_of::<S>() * S::GROUP == 4 && W::SIDE <= WIDEST) };
    let first = panel * PANEL;
    let rows = PANEL.min(n - first);
    let depth = W::SIDE * S::GROUP;
    let whole = k / depth * depth;
    // The slice that the blocks read, checked once.
    let source = &source[first * stride..][..(rows - 1) * stride + k];
    for (start, to) in (0..whole).step_by(depth).zip(out.chunks_exact_mut(depth * PANEL)) {
        for part in (0..PANEL).step_by(W::SIDE) {
            let to = to[part * S::GROUP..].as_mut_ptr();
            if T::DTYPE == S::DTYPE && rows >= part + W::SIDE {
                // SAFETY: as many rows from `part` on have `depth` elements from `start` on; of as many slots this part is
                // written.
                unsafe { W::transpose(source[part * stride + start..].as_ptr().cast(), stride, to.cast(), S::GROUP) };
                continue;
            }
            // Words are pairs at most.
            let mut block = [[S::store(0.0); 2 * WIDEST]; WIDEST];
            for (lane, row) in block[..W::SIDE].iter_mut().enumerate().take(rows.saturating_sub(part)) {
                let from = &source[(part + lane) * stride + start..][..depth];
                for (to, from) in row.iter_mut().zip(from) {
                    *to = pack::convert(*from);
                }
            }
            // SAFETY: as above, of the block.
            unsafe { W::transpose(block.as_ptr().cast(), 2 * WIDEST, to.cast(), S::GROUP) };
        }
    }
    if whole < k {
        pack::transposed_panel(&source[whole..], stride, (k - whole, rows), 0, &mut out[whole * PANEL..]);
    }
}
