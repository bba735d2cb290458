//! Instructions of ARM that have no stable intrinsic: each adds the products of two registers to a third.

use core::arch::aarch64::{float32x4_t, int8x16_t, int32x4_t, uint16x8_t};

macro_rules! accumulates {
    ($(#[$about:meta])* $name:ident, $extension:literal, $instruction:literal, $sums:ty, $operand:ty) => {
        $(#[$about])*
        ///
        /// # Safety
        /// The processor has the extension.
        #[inline(always)]
        pub(super) unsafe fn $name(mut sums: $sums, a: $operand, b: $operand) -> $sums {
            // SAFETY: the caller's promise; registers only.
            unsafe {
                core::arch::asm!(
                    concat!(".arch_extension ", $extension),
                    $instruction,
                    sums = inout(vreg) sums,
                    a = in(vreg) a,
                    b = in(vreg) b,
                    options(pure, nomem, nostack, preserves_flags)
                );
            }
            sums
        }
    };
}

accumulates! {
    /// Two rows of `a` by two of `b` over four bf16.
    bfmmla, "bf16", "bfmmla {sums:v}.4s, {a:v}.8h, {b:v}.8h", float32x4_t, uint16x8_t
}
accumulates! {
    /// Four bytes of `a` by those of `b`, for each sum.
    sdot, "dotprod", "sdot {sums:v}.4s, {a:v}.16b, {b:v}.16b", int32x4_t, int8x16_t
}
accumulates! {
    /// Two rows of `a` by two of `b` over eight bytes.
    smmla, "i8mm", "smmla {sums:v}.4s, {a:v}.16b, {b:v}.16b", int32x4_t, int8x16_t
}
