//! How a weight matrix is held: what [`crate::Device::allocate_matrix`] is asked for.

use crate::dtype::DType;

/// The form of a weight matrix in memory. Its values are given as f32 in every case ([`crate::Device::pack`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MatrixFormat {
    /// Single precision, for activations in single precision.
    F32,
    /// bfloat16, for activations in bfloat16.
    Bf16,
    /// 8 bits a weight and 16 for each 32 (8.5 in all), for inference with activations in bfloat16; see
    /// [`crate::quantize`].
    Q8,
    /// 4 bits a weight and 16 for each 32 (4.5 in all), likewise.
    Q4,
    /// 8-bit floating point (E4M3), for activations in bfloat16, which are rounded to 8 bits to be multiplied, as gradients are
    /// (E5M2): one scale a tensor. A matrix whose sides are not multiples of 16 is held in bfloat16 instead.
    Fp8,
}

impl MatrixFormat {
    /// The storage type of the activations that a matrix of this form is multiplied by.
    pub const fn activations(self) -> DType {
        match self {
            MatrixFormat::F32 => DType::F32,
            MatrixFormat::Bf16 | MatrixFormat::Q8 | MatrixFormat::Q4 | MatrixFormat::Fp8 => DType::Bf16,
        }
    }

    /// Whether weights are codes and scales, which only the forward pass can use.
    pub const fn is_quantized(self) -> bool {
        matches!(self, MatrixFormat::Q8 | MatrixFormat::Q4)
    }

    /// Bytes of a matrix's weights and scales, without the padding that a device may add.
    pub const fn bytes(self, rows: usize, columns: usize) -> u64 {
        let (rows, columns) = (rows as u64, columns as u64);
        let blocks = rows * columns.div_ceil(crate::quantize::BLOCK as u64);
        match self {
            MatrixFormat::F32 => 4 * rows * columns,
            MatrixFormat::Bf16 => 2 * rows * columns,
            MatrixFormat::Q8 => 34 * blocks,
            MatrixFormat::Q4 => 18 * blocks,
            MatrixFormat::Fp8 => rows * columns + 4,
        }
    }

    /// The lower-case name used in listings.
    pub const fn name(self) -> &'static str {
        match self {
            MatrixFormat::F32 => "f32",
            MatrixFormat::Bf16 => "bf16",
            MatrixFormat::Q8 => "q8",
            MatrixFormat::Q4 => "q4",
            MatrixFormat::Fp8 => "fp8",
        }
    }
}

/// The plain form: weights of the activations' own type. Panics for indices.
impl From<DType> for MatrixFormat {
    fn from(dtype: DType) -> Self {
        match dtype {
            DType::F32 => MatrixFormat::F32,
            DType::Bf16 => MatrixFormat::Bf16,
            DType::U32 => panic!("a matrix of indices"),
        }
    }
}
