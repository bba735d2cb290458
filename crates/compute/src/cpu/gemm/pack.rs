//! Packing: the panel format that every micro-kernel reads.
//!
//! A packed `B[k, n]` is `[n / 16][k / GROUP][16][GROUP]`: panels of 16 columns; inside, for each group of `k` (one
//! value in f32, a pair in bf16) the 16 columns side by side. That is at once the operand of `vdpbf16ps`, a 16 x 32
//! AMX tile, and two AVX2 loads. `k` and `n` are padded with zeros.

use super::MatElement;
use crate::dtype::Storage;

/// Columns of a panel.
pub(crate) const PANEL: usize = 16;

/// A packed right operand.
pub(crate) struct PackedB<'a, S> {
    data: &'a [S],
    /// Rows of `B` before padding.
    pub(crate) k: usize,
    /// Columns of `B` before padding.
    pub(crate) n: usize,
    panel_len: usize,
    first_group: usize,
}

impl<S> Clone for PackedB<'_, S> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<S> Copy for PackedB<'_, S> {}

/// Elements of a packed `B[k, n]`.
pub(crate) fn packed_len<S: MatElement>(k: usize, n: usize) -> usize {
    k.next_multiple_of(S::GROUP) * n.next_multiple_of(PANEL)
}

impl<'a, S: MatElement> PackedB<'a, S> {
    /// A view of packed data of the given shape.
    pub(crate) fn new(data: &'a [S], k: usize, n: usize) -> Self {
        assert!(data.len() >= packed_len::<S>(k, n), "packed operand too short");
        PackedB { data, k, n, panel_len: k.next_multiple_of(S::GROUP) * PANEL, first_group: 0 }
    }

    /// The sub-matrix of rows `k0..k0 + k` (both multiples of `GROUP`, or ending at the end) and the columns of
    /// `panels` panels from `panel0`.
    pub(crate) fn slice(&self, k0: usize, k: usize, column0: usize, n: usize) -> Self {
        debug_assert!(k0 % S::GROUP == 0 && column0 % PANEL == 0);
        let first = column0 / PANEL * self.panel_len;
        let end = (column0 + n).div_ceil(PANEL) * self.panel_len;
        PackedB {
            data: &self.data[first..end],
            k,
            n,
            panel_len: self.panel_len,
            first_group: self.first_group + k0 / S::GROUP,
        }
    }

    pub(super) fn groups(&self) -> usize {
        self.k.div_ceil(S::GROUP)
    }

    pub(super) fn panel_len(&self) -> usize {
        self.panel_len
    }

    #[inline(always)]
    pub(super) fn panel(&self, panel: usize) -> *const S {
        self.data[panel * self.panel_len + self.first_group * PANEL * S::GROUP..].as_ptr()
    }
}

/// Packs panel `panel` of `B = sourceᵀ`: `source` is `[n][k]`, rows `stride` apart (a weight `[out, in]`, the keys).
#[inline(always)]
pub(crate) fn transposed_panel<T: Storage, S: MatElement>(
    source: &[T],
    stride: usize,
    (k, n): (usize, usize),
    panel: usize,
    out: &mut [S],
) {
    let rows = PANEL.min(n - panel * PANEL);
    if rows < PANEL || k % S::GROUP != 0 {
        out.fill(S::store(0.0));
    }
    let out = &mut out[..k.next_multiple_of(S::GROUP) * PANEL];
    for lane in 0..rows {
        let row = &source[(panel * PANEL + lane) * stride..][..k];
        let groups = row.chunks_exact(S::GROUP);
        let rest = groups.remainder();
        for (slot, values) in out.chunks_exact_mut(PANEL * S::GROUP).zip(groups) {
            for (i, value) in values.iter().enumerate() {
                slot[lane * S::GROUP + i] = S::store(value.load());
            }
        }
        if let [value] = rest {
            out[(k / S::GROUP * PANEL + lane) * S::GROUP] = S::store(value.load());
        }
    }
}

/// Packs panel `panel` of `B = source`: `source` is `[k][n]`, rows `stride` apart (activations, the values).
#[inline(always)]
pub(crate) fn panel<T: Storage, S: MatElement>(
    source: &[T],
    stride: usize,
    (k, n): (usize, usize),
    panel: usize,
    out: &mut [S],
) {
    let column = panel * PANEL;
    let columns = PANEL.min(n - column);
    let out = &mut out[..k.next_multiple_of(S::GROUP) * PANEL];
    if columns < PANEL {
        out.fill(S::store(0.0));
    }
    for (group, slot) in out.chunks_exact_mut(PANEL * S::GROUP).enumerate() {
        let first = group * S::GROUP;
        let a = &source[first * stride + column..][..columns];
        if S::GROUP == 1 {
            for (to, from) in slot.iter_mut().zip(a) {
                *to = S::store(from.load());
            }
        } else if first + 1 < k {
            let b = &source[(first + 1) * stride + column..][..columns];
            if columns == PANEL {
                // The full panel on its own, with constant bounds: it becomes two loads, an interleave, a store.
                for lane in 0..PANEL {
                    slot[2 * lane] = S::store(a[lane].load());
                    slot[2 * lane + 1] = S::store(b[lane].load());
                }
            } else {
                for (lane, (x, y)) in a.iter().zip(b).enumerate() {
                    slot[2 * lane] = S::store(x.load());
                    slot[2 * lane + 1] = S::store(y.load());
                }
            }
        } else {
            for (lane, x) in a.iter().enumerate() {
                slot[2 * lane] = S::store(x.load());
                slot[2 * lane + 1] = S::store(0.0);
            }
        }
    }
}
