//! Element types of device memory: what a [`crate::Device`] buffer can hold.

/// The element type of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE single precision: master weights, gradients, moments, the residual stream.
    F32,
    /// bfloat16: activations and packed weights of the default precision.
    Bf16,
    /// Unsigned 32-bit: token ids, positions, cache slots.
    U32,
}

impl DType {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            DType::F32 | DType::U32 => 4,
            DType::Bf16 => 2,
        }
    }

    /// The lower-case name used in listings.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::Bf16 => "bf16",
            DType::U32 => "u32",
        }
    }
}

/// A bfloat16: the upper half of an f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Bf16(pub u16);

impl Bf16 {
    /// Rounds to nearest, ties to even; a NaN stays a NaN. Branch-free, so that loops vectorise.
    #[inline(always)]
    pub fn from_f32(x: f32) -> Self {
        let bits = x.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
        let quiet = (bits >> 16) | 0x40;
        let is_nan = (bits & 0x7fff_ffff) > 0x7f80_0000;
        Bf16(if is_nan { quiet } else { rounded } as u16)
    }

    /// Exact.
    #[inline(always)]
    pub fn to_f32(self) -> f32 {
        f32::from_bits((self.0 as u32) << 16)
    }
}

/// A type that a buffer can be viewed as.
///
/// # Safety
/// Implementors are plain data, valid for every bit pattern, and exactly `DTYPE.size()` bytes.
pub unsafe trait Element: Copy + Send + Sync + Default + 'static {
    /// The tag that a buffer of this element carries.
    const DTYPE: DType;
}

// SAFETY: plain 4- and 2-byte values, every bit pattern valid.
unsafe impl Element for f32 {
    const DTYPE: DType = DType::F32;
}
// SAFETY: as above; Bf16 is a transparent u16.
unsafe impl Element for Bf16 {
    const DTYPE: DType = DType::Bf16;
}
// SAFETY: as above.
unsafe impl Element for u32 {
    const DTYPE: DType = DType::U32;
}

/// A floating type that activations are stored in; arithmetic is always f32.
pub trait Storage: Element {
    /// Rounds an f32 into storage.
    fn store(x: f32) -> Self;
    /// Widens to f32.
    fn load(self) -> f32;
}

impl Storage for f32 {
    #[inline(always)]
    fn store(x: f32) -> Self {
        x
    }
    #[inline(always)]
    fn load(self) -> f32 {
        self
    }
}

impl Storage for Bf16 {
    #[inline(always)]
    fn store(x: f32) -> Self {
        Bf16::from_f32(x)
    }
    #[inline(always)]
    fn load(self) -> f32 {
        self.to_f32()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_to_nearest_even_and_keeps_nan() {
        assert_eq!(Bf16::from_f32(1.0).0, 0x3f80);
        // Exactly between two neighbours: the even one wins, upwards and downwards.
        assert_eq!(Bf16::from_f32(f32::from_bits(0x3f80_8000)).0, 0x3f80);
        assert_eq!(Bf16::from_f32(f32::from_bits(0x3f81_8000)).0, 0x3f82);
        assert_eq!(Bf16::from_f32(f32::from_bits(0x3f80_8001)).0, 0x3f81);
        assert!(Bf16::from_f32(f32::NAN).to_f32().is_nan());
        assert!(Bf16::from_f32(f32::from_bits(0x7f80_0001)).to_f32().is_nan());
        assert_eq!(Bf16::from_f32(f32::INFINITY).to_f32(), f32::INFINITY);
        assert_eq!(Bf16::from_f32(-0.0).0, 0x8000);
    }
}
