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
}

impl MatrixFormat {
    /// The storage type of the activations that a matrix of this form is multiplied by.
    pub const fn activations(self) -> DType {
        match self {
            MatrixFormat::F32 => DType::F32,
            MatrixFormat::Bf16 | MatrixFormat::Q8 | MatrixFormat::Q4 => DType::Bf16,
        }
    }

    /// Whether weights are codes and scales, which only the forward pass can use.
    pub const fn is_quantized(self) -> bool {
        matches!(self, MatrixFormat::Q8 | MatrixFormat::Q4)
    }

    /// The lower-case name used in listings.
    pub const fn name(self) -> &'static str {
        match self {
            MatrixFormat::F32 => "f32",
            MatrixFormat::Bf16 => "bf16",
            MatrixFormat::Q8 => "q8",
            MatrixFormat::Q4 => "q4",
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
