//! What keys and values consist of as they lie in memory: activations, or 8-bit codes with a scale behind each head's
//! ([`crate::cache_format`]). Kernels are written once over both; a plain value's scale is 1, which compiles to nothing.

use crate::cache_format::{self, CacheFormat, SCALE_BYTES};
use crate::cpu::buffer::CpuBuffer;
use crate::cpu::gemm::{MatElement, pack_columns_here, pack_transposed_here};
use crate::cpu::isa::{Isa, Kernel, Math};
use crate::cpu::math::Widen;
use crate::dtype::Storage;

/// A head of some consecutive rows.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a, E> {
    pub(super) isa: Isa,
    /// From the first row's head on.
    pub(super) rows: &'a [E],
    pub(super) stride: usize,
    pub(super) count: usize,
    pub(super) head_dim: usize,
}

/// Where codes become operands, and what these are to be multiplied by: a row of `codes` and a scale for each row. Both are
/// empty where values are plain.
pub(crate) struct Unpacked<'a, C> {
    pub(super) codes: &'a mut [C],
    pub(super) scales: &'a mut [f32],
}

/// An element of the rows of keys and values.
pub(crate) trait Cached: Widen + Send + Sync + 'static {
    /// Elements behind those of a head.
    const TAIL: usize;

    /// All rows of a buffer.
    fn rows(buffer: &CpuBuffer) -> &[Self];
    /// The same to be written.
    fn rows_mut(buffer: &mut CpuBuffer) -> &mut [Self];
    /// Elements of a row.
    fn row_len(n_kv_head: usize, head_dim: usize) -> usize;
    /// What the head before this tail is to be multiplied by.
    fn scale(tail: &[Self]) -> f32;
    /// Writes a head and its tail.
    fn store_head(values: &[f32], out: &mut [Self]);
    /// Packs the right operand `rowsᵀ`, scales left out.
    fn pack_transposed<C: MatElement>(rows: &Rows<'_, Self>, unpacked: Unpacked<'_, C>, out: &mut [C]);
    /// Packs the right operand `rows`, scales left out.
    fn pack_columns<C: MatElement>(rows: &Rows<'_, Self>, unpacked: Unpacked<'_, C>, out: &mut [C]);
}

impl<S: Storage> Cached for S {
    const TAIL: usize = 0;

    fn rows(buffer: &CpuBuffer) -> &[S] {
        buffer.slice()
    }

    fn rows_mut(buffer: &mut CpuBuffer) -> &mut [S] {
        buffer.slice_mut()
    }

    fn row_len(n_kv_head: usize, head_dim: usize) -> usize {
        n_kv_head * head_dim
    }

    #[inline(always)]
    fn scale(_: &[S]) -> f32 {
        1.0
    }

    #[inline(always)]
    fn store_head(values: &[f32], out: &mut [S]) {
        for (to, from) in out.iter_mut().zip(values) {
            *to = S::store(*from);
        }
    }

    fn pack_transposed<C: MatElement>(from: &Rows<'_, S>, _: Unpacked<'_, C>, out: &mut [C]) {
        pack_transposed_here(from.isa, from.rows, from.stride, (from.head_dim, from.count), out);
    }

    fn pack_columns<C: MatElement>(from: &Rows<'_, S>, _: Unpacked<'_, C>, out: &mut [C]) {
        pack_columns_here(from.isa, from.rows, from.stride, (from.count, from.head_dim), out);
    }
}

/// A signed code, or a byte of a scale.
impl Cached for u8 {
    const TAIL: usize = SCALE_BYTES;

    fn rows(buffer: &CpuBuffer) -> &[u8] {
        buffer.as_bytes()
    }

    fn rows_mut(buffer: &mut CpuBuffer) -> &mut [u8] {
        buffer.as_bytes_mut()
    }

    fn row_len(n_kv_head: usize, head_dim: usize) -> usize {
        CacheFormat::Q8.row_bytes(n_kv_head, head_dim)
    }

    #[inline(always)]
    fn scale(tail: &[u8]) -> f32 {
        cache_format::scale([tail[0], tail[1]])
    }

    #[inline(always)]
    fn store_head(values: &[f32], out: &mut [u8]) {
        cache_format::quantize_head(values, out);
    }

    fn pack_transposed<C: MatElement>(from: &Rows<'_, u8>, unpacked: Unpacked<'_, C>, out: &mut [C]) {
        let Unpacked { codes, scales } = unpacked;
        from.isa.run(Unpack { from, codes, scales });
        pack_transposed_here(from.isa, codes, from.head_dim, (from.head_dim, from.count), out);
    }

    fn pack_columns<C: MatElement>(from: &Rows<'_, u8>, unpacked: Unpacked<'_, C>, out: &mut [C]) {
        let Unpacked { codes, scales } = unpacked;
        from.isa.run(Unpack { from, codes, scales });
        pack_columns_here(from.isa, codes, from.head_dim, (from.count, from.head_dim), out);
    }
}

/// Codes as operands, in rows without gaps.
struct Unpack<'a, 'r, C> {
    from: &'a Rows<'r, u8>,
    codes: &'a mut [C],
    scales: &'a mut [f32],
}

impl<C: MatElement> Kernel for Unpack<'_, '_, C> {
    type Output = ();
    #[inline(always)]
    fn run<M: Math>(self) {
        let Rows { rows, stride, count, head_dim, .. } = *self.from;
        let to = self.codes.chunks_exact_mut(head_dim).zip(self.scales).take(count);
        for (row, (codes, scale)) in to.enumerate() {
            let (head, tail) = rows[row * stride..][..head_dim + SCALE_BYTES].split_at(head_dim);
            for (to, code) in codes.iter_mut().zip(head) {
                *to = C::store(code.widen());
            }
            *scale = u8::scale(tail);
        }
    }
}

/// Runs `$body` with `$E` bound to the elements of a buffer of keys or values.
macro_rules! with_cached {
    ($buffer:expr, $S:ident, $E:ident => $body:expr) => {
        match $crate::cache_format::CacheFormat::of($buffer.dtype()) {
            $crate::cache_format::CacheFormat::Q8 => {
                type $E = u8;
                $body
            }
            _ => {
                type $E = $S;
                $body
            }
        }
    };
}
pub(crate) use with_cached;
