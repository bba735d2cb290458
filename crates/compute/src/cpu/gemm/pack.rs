//! Packing: the panel format that every micro-kernel reads.
//!
//! A packed `B[k, n]` is `[n / 16][k / GROUP][16][GROUP]`: panels of 16 columns; inside, for each group of `k` (one
//! value in f32, a pair in bf16) the 16 columns side by side. That is at once the operand of `vdpbf16ps`, a 16 x 32
//! AMX tile, two AVX2 loads and four of NEON. `k` and `n` are padded with zeros.

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
        debug_assert!(k0.is_multiple_of(S::GROUP) && column0.is_multiple_of(PANEL));
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

/// A value in the type of the operand; free where it has that type already.
#[inline(always)]
pub(crate) fn convert<T: Storage, S: MatElement>(x: T) -> S {
    if T::DTYPE == S::DTYPE {
        // SAFETY: a tag belongs to one type, so T is S.
        unsafe { core::mem::transmute_copy(&x) }
    } else {
        S::store(x.load())
    }
}

/// Two 16-bit values as they lie side by side in (little-endian) memory.
#[inline(always)]
pub(crate) fn pair<S: MatElement>(a: S, b: S) -> u32 {
    const { assert!(size_of::<S>() == 2 || S::GROUP == 1) };
    // SAFETY: reached with 2-byte elements only: those of a group of two.
    let (a, b): (u16, u16) = unsafe { (core::mem::transmute_copy(&a), core::mem::transmute_copy(&b)) };
    u32::from(b) << 16 | u32::from(a)
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
    if rows < PANEL || !k.is_multiple_of(S::GROUP) {
        out.fill(S::store(0.0));
    }
    let out = &mut out[..k.next_multiple_of(S::GROUP) * PANEL];
    for lane in 0..rows {
        let row = &source[(panel * PANEL + lane) * stride..][..k];
        let groups = row.chunks_exact(S::GROUP);
        let rest = groups.remainder();
        for (slot, values) in out.chunks_exact_mut(PANEL * S::GROUP).zip(groups) {
            for (i, value) in values.iter().enumerate() {
                slot[lane * S::GROUP + i] = convert(*value);
            }
        }
        if let [value] = rest {
            out[(k / S::GROUP * PANEL + lane) * S::GROUP] = convert(*value);
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
                *to = convert(*from);
            }
        } else if first + 1 < k {
            let b = &source[(first + 1) * stride + column..][..columns];
            if columns == PANEL {
                // The full panel on its own, with constant bounds and pairs as words, which vectorises.
                let mut words = [0_u32; PANEL];
                for lane in 0..PANEL {
                    words[lane] = pair(convert::<T, S>(a[lane]), convert::<T, S>(b[lane]));
                }
                // SAFETY: the slot is 16 pairs of 16 bits.
                unsafe { slot.as_mut_ptr().cast::<[u32; PANEL]>().write_unaligned(words) };
            } else {
                for (lane, (x, y)) in a.iter().zip(b).enumerate() {
                    slot[2 * lane] = convert(*x);
                    slot[2 * lane + 1] = convert(*y);
                }
            }
        } else {
            for (lane, x) in a.iter().enumerate() {
                slot[2 * lane] = convert(*x);
                slot[2 * lane + 1] = S::store(0.0);
            }
        }
    }
}

/// Packs panels `first` and up of `B = source`, as many as `out` holds. Two of bf16 side by side are a cache line, which is read
/// once: rows far apart share so few sets of the caches that it would be gone when the second is packed.
#[inline(always)]
pub(crate) fn panels<T: Storage, S: MatElement>(
    source: &[T],
    stride: usize,
    (k, n): (usize, usize),
    first: usize,
    out: &mut [S],
) {
    let len = k.next_multiple_of(S::GROUP) * PANEL;
    let mut at = first;
    for out in out.chunks_mut((2 * len).max(1)) {
        let (one, other) = out.split_at_mut(len.min(out.len()));
        if S::GROUP == 2 && other.len() == len && (at + 2) * PANEL <= n {
            two_panels(source, stride, k, at * PANEL, one, other);
        } else {
            panel(source, stride, (k, n), at, one);
            if !other.is_empty() {
                panel(source, stride, (k, n), at + 1, other);
            }
        }
        at += 2;
    }
}

/// The panels of the columns from `column` on, which are all there.
#[inline(always)]
fn two_panels<T: Storage, S: MatElement>(
    source: &[T],
    stride: usize,
    k: usize,
    column: usize,
    one: &mut [S],
    other: &mut [S],
) {
    let groups = one.chunks_exact_mut(2 * PANEL).zip(other.chunks_exact_mut(2 * PANEL));
    for (group, (one, other)) in groups.enumerate() {
        let first = 2 * group * stride + column;
        let a = &source[first..][..2 * PANEL];
        let mut words = [[0_u32; PANEL]; 2];
        if 2 * group + 1 < k {
            let b = &source[first + stride..][..2 * PANEL];
            let halves = a.as_chunks::<PANEL>().0.iter().zip(b.as_chunks::<PANEL>().0);
            for (words, (a, b)) in words.iter_mut().zip(halves) {
                for (word, (x, y)) in words.iter_mut().zip(a.iter().zip(b)) {
                    *word = pair(convert::<T, S>(*x), convert::<T, S>(*y));
                }
            }
        } else {
            for (word, x) in words.as_flattened_mut().iter_mut().zip(a) {
                *word = pair(convert::<T, S>(*x), S::store(0.0));
            }
        }
        // SAFETY: each is sixteen pairs of 16 bits.
        unsafe {
            one.as_mut_ptr().cast::<[u32; PANEL]>().write_unaligned(words[0]);
            other.as_mut_ptr().cast::<[u32; PANEL]>().write_unaligned(words[1]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::gemm::{pack_columns_here, pack_transposed_here};
    use crate::dtype::Bf16;

    /// Where `B[l, j]` lies, from the format's definition.
    fn index<S: MatElement>(k: usize, l: usize, j: usize) -> usize {
        let groups = k.div_ceil(S::GROUP);
        ((j / PANEL * groups + l / S::GROUP) * PANEL + j % PANEL) * S::GROUP + l % S::GROUP
    }

    fn panels_hold_every_element<T: Storage, S: MatElement>() {
        for isa in crate::cpu::isa::Isa::available() {
            for (k, n) in [(1, 1), (2, 16), (3, 17), (7, 15), (16, 32), (31, 33), (32, 25), (64, 48)] {
                let value = |l: usize, j: usize| (l * n + j + 1) as f32 / 16.0;
                let nan = T::store(f32::NAN);
                let mut rows = vec![nan; k * (n + 3)];
                let mut columns = vec![nan; n * (k + 3)];
                for l in 0..k {
                    for j in 0..n {
                        rows[l * (n + 3) + j] = T::store(value(l, j));
                        columns[j * (k + 3) + l] = T::store(value(l, j));
                    }
                }
                let len = packed_len::<S>(k, n);
                let (mut a, mut b) = (vec![S::store(f32::NAN); len], vec![S::store(f32::NAN); len]);
                pack_columns_here(isa, &rows, n + 3, (k, n), &mut a);
                pack_transposed_here(isa, &columns, k + 3, (k, n), &mut b);
                let mut want = vec![0.0; len];
                for l in 0..k {
                    for j in 0..n {
                        want[index::<S>(k, l, j)] = S::store(T::store(value(l, j)).load()).load();
                    }
                }
                let got = |x: &[S]| x.iter().map(|x| x.load()).collect::<Vec<_>>();
                assert_eq!(got(&a), want, "{} columns of {k} x {n}", isa.name());
                assert_eq!(got(&b), want, "{} transpose of {k} x {n}", isa.name());
            }
        }
    }

    #[test]
    fn every_element_has_its_place_and_padding_is_zero() {
        panels_hold_every_element::<f32, f32>();
        panels_hold_every_element::<f32, Bf16>();
        panels_hold_every_element::<Bf16, Bf16>();
    }

    #[test]
    fn a_slice_starts_at_its_group_of_its_panel() {
        let (k, n) = (10, 40);
        let data: Vec<Bf16> = (0..packed_len::<Bf16>(k, n)).map(|i| Bf16(i as u16)).collect();
        let part = PackedB::new(&data, k, n).slice(4, 6, 16, 24).slice(2, 4, 16, 8);
        assert_eq!((part.groups(), part.k, part.n), (2, 4, 8));
        // SAFETY: the panel has elements.
        assert_eq!(usize::from(unsafe { (*part.panel(0)).0 }), index::<Bf16>(k, 6, 32));
    }
}
