//! What a matrix product is, to cuBLASLt: everything that its choice of algorithm may depend on, and its name in the file
//! of choices.

use std::fmt;

use crate::cuda::driver::{Address, Matmul, Operand};
use crate::dtype::DType;

/// An operand's part of a product's identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Side {
    pub(super) dtype: DType,
    pub(super) transposed: bool,
    pub(super) row_stride: usize,
    /// The largest of 256, 16, 8, 4, 2 and 1 that divides the address: algorithms differ in what they need.
    pub(super) alignment: u32,
}

impl Side {
    fn of(operand: &Operand) -> Self {
        let Operand { address, dtype, transposed, row_stride } = *operand;
        Side { dtype, transposed, row_stride, alignment: alignment(address) }
    }
}

fn alignment(address: Address) -> u32 {
    [256, 16, 8, 4, 2].into_iter().find(|bytes| address.0.is_multiple_of(u64::from(*bytes))).unwrap_or(1)
}

/// How the bias is added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Bias {
    /// There is none.
    None,
    /// By the product's epilogue, in f32.
    Epilogue,
    /// By the epilogue, which for bf16 results may take its bias in bf16 only.
    RoundedEpilogue,
    /// By a kernel afterwards.
    After,
}

/// What a plan is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Product {
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) a: Side,
    pub(super) b: Side,
    pub(super) c: Side,
    pub(super) accumulate: bool,
    pub(super) with_bias: bool,
}

impl Product {
    pub(super) fn of(matmul: &Matmul) -> Self {
        Product {
            m: matmul.m,
            n: matmul.n,
            k: matmul.k,
            a: Side::of(&matmul.a),
            b: Side::of(&matmul.b),
            c: Side::of(&matmul.c),
            accumulate: matmul.beta != 0.0,
            with_bias: matmul.bias.is_some(),
        }
    }

    /// The product whose algorithm this one takes: sizes rounded up to an eighth of their power of two.
    pub(super) fn representative(self) -> Self {
        let round = |size: usize| size.next_multiple_of((size.next_power_of_two() / 16).max(1));
        Product { m: round(self.m), n: round(self.n), k: round(self.k), ..self }
    }
}

impl fmt::Display for Product {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "m={} n={} k={}", self.m, self.n, self.k)?;
        for (name, side) in [("a", self.a), ("b", self.b), ("c", self.c)] {
            let order = if side.transposed { "transposed" } else { "plain" };
            write!(f, " {name}={},{order},{},{}", side.dtype.name(), side.row_stride, side.alignment)?;
        }
        write!(f, " beta={}", u8::from(self.accumulate))
    }
}
