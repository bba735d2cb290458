//! What a matrix product is, to cuBLASLt: everything that its choice of algorithm may depend on, and its name in the file
//! of choices.

use std::fmt;

use crate::cuda::driver::{Address, Fp8Matmul, Fp8Operand, Matmul, Operand};
use crate::dtype::DType;
use crate::fp8::Fp8;

/// What an operand's elements are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Element {
    F32,
    Bf16,
    Fp8(Fp8),
}

impl Element {
    fn name(self) -> &'static str {
        match self {
            Element::F32 => DType::F32.name(),
            Element::Bf16 => DType::Bf16.name(),
            Element::Fp8(format) => format.name(),
        }
    }

    /// Bytes.
    pub(super) fn size(self) -> usize {
        match self {
            Element::F32 => 4,
            Element::Bf16 => 2,
            Element::Fp8(_) => 1,
        }
    }
}

impl From<DType> for Element {
    fn from(dtype: DType) -> Self {
        match dtype {
            DType::F32 => Element::F32,
            DType::Bf16 => Element::Bf16,
            DType::U32 => panic!("a product of indices"),
        }
    }
}

/// An operand's part of a product's identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Side {
    pub(super) element: Element,
    pub(super) transposed: bool,
    pub(super) row_stride: usize,
    /// The largest of 256, 16, 8, 4, 2 and 1 that divides the address: algorithms differ in what they need.
    pub(super) alignment: u32,
}

impl Side {
    fn of(operand: &Operand) -> Self {
        let Operand { address, dtype, transposed, row_stride } = *operand;
        Side { element: dtype.into(), transposed, row_stride, alignment: alignment(address) }
    }

    /// Rows of `k` codes without gaps.
    fn of_codes(operand: &Fp8Operand, k: usize, transposed: bool) -> Self {
        let Fp8Operand { address, format, .. } = *operand;
        Side { element: Element::Fp8(format), transposed, row_stride: k, alignment: alignment(address) }
    }
}

fn alignment(address: Address) -> u32 {
    [256, 16, 8, 4, 2].into_iter().find(|bytes| address.0.is_multiple_of(u64::from(*bytes))).unwrap_or(1)
}

/// What a product does besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Extra {
    /// Nothing.
    None,
    /// Adds a bias to every row.
    Bias,
    /// Writes the sums of the left operand's rows.
    RowSums,
}

/// How a product is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Way {
    /// Without epilogue.
    Plain,
    /// The epilogue adds the bias in f32.
    Bias,
    /// The epilogue adds the bias, which it takes in bf16 only.
    RoundedBias,
    /// A kernel puts the bias into the result beforehand, and the product is added to it.
    BiasBefore,
    /// The epilogue sums the left operand's rows.
    RowSums,
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
    pub(super) extra: Extra,
}

impl Product {
    /// The product that the library is asked for where a kernel has put the bias into the result.
    pub(super) fn behind_bias(self) -> Self {
        Product { accumulate: true, extra: Extra::None, ..self }
    }

    /// Factor of what the result held.
    pub(super) fn beta(&self) -> f32 {
        f32::from(u8::from(self.accumulate))
    }

    /// Whether the operands are codes of 8 bits.
    pub(super) fn is_fp8(&self) -> bool {
        matches!(self.a.element, Element::Fp8(_))
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
            write!(f, " {name}={},{order},{},{}", side.element.name(), side.row_stride, side.alignment)?;
        }
        write!(f, " beta={}", u8::from(self.accumulate))
    }
}

/// A product with its addresses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Job {
    pub(super) product: Product,
    pub(super) a: Address,
    pub(super) b: Address,
    pub(super) c: Address,
    /// Of `a` and `b`, where they are codes of 8 bits.
    pub(super) scales: [Address; 2],
    /// The bias, or where the sums go.
    pub(super) extra: Address,
}

impl Job {
    pub(super) fn of(matmul: &Matmul) -> Self {
        let extra = if matmul.bias.is_some() { Extra::Bias } else { Extra::None };
        Self::with(matmul, extra, matmul.bias.unwrap_or(Address::NULL))
    }

    pub(super) fn with_row_sums(matmul: &Matmul, sums: Address) -> Self {
        Self::with(matmul, Extra::RowSums, sums)
    }

    fn with(matmul: &Matmul, extra: Extra, address: Address) -> Self {
        let Matmul { m, n, k, ref a, ref b, ref c, beta, .. } = *matmul;
        let product =
            Product { m, n, k, a: Side::of(a), b: Side::of(b), c: Side::of(c), accumulate: beta != 0.0, extra };
        let scales = [Address::NULL; 2];
        Job { product, a: a.address, b: b.address, c: c.address, scales, extra: address }
    }

    pub(super) fn of_fp8(matmul: &Fp8Matmul) -> Self {
        let Fp8Matmul { m, n, k, ref a, ref b, ref c, beta, bias } = *matmul;
        let product = Product {
            m,
            n,
            k,
            a: Side::of_codes(a, k, false),
            b: Side::of_codes(b, k, true),
            c: Side::of(c),
            accumulate: beta != 0.0,
            extra: if bias.is_some() { Extra::Bias } else { Extra::None },
        };
        let extra = bias.unwrap_or(Address::NULL);
        Job { product, a: a.address, b: b.address, c: c.address, scales: [a.scale, b.scale], extra }
    }
}
