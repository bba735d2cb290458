//! Instruction sets: what this processor has, what is forced, and how a kernel is compiled once per set.
//!
//! Element-wise kernels are plain Rust, written once as a [`Kernel`] and compiled once per instruction set by
//! inlining into a function with the right target features. Intrinsics are for the matrix kernels, for what the
//! compiler takes apart ([`row_sums`]), and for attention in bf16: its exponentials, and decoding's loops over keys and values.

use super::math::LANES;
use super::row_sums;
use crate::error::ComputeError;

/// An instruction-set level of the CPU device, lowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Whatever the compiler's baseline target offers.
    Portable,
    /// NEON, which every 64-bit ARM processor has.
    Neon,
    /// NEON with the bf16 matrix product.
    NeonBf16,
    /// AVX2 with FMA.
    Avx2,
    /// AVX-512 F, BW, VL, DQ.
    Avx512,
    /// AVX-512 with the bf16 dot product.
    Avx512Bf16,
    /// AMX tiles with bf16 (and AVX-512 for everything else).
    Amx,
}

impl Isa {
    /// Every level, lowest first: ARM's, then those of x86.
    pub const ALL: [Isa; 7] =
        [Isa::Portable, Isa::Neon, Isa::NeonBf16, Isa::Avx2, Isa::Avx512, Isa::Avx512Bf16, Isa::Amx];

    /// The name that `CASALLM_ISA` and `--isa` take.
    pub const fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Neon => "neon",
            Isa::NeonBf16 => "neonbf16",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Avx512Bf16 => "avx512bf16",
            Isa::Amx => "amx",
        }
    }

    /// The levels this machine can run, lowest first.
    pub fn available() -> Vec<Isa> {
        Self::ALL.into_iter().filter(|isa| isa.is_available()).collect()
    }

    /// Whether this machine can run the level.
    pub fn is_available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let avx512 = avx2
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq");
            match self {
                Isa::Portable => true,
                Isa::Neon | Isa::NeonBf16 => false,
                Isa::Avx2 => avx2,
                Isa::Avx512 => avx512,
                Isa::Avx512Bf16 => avx512 && is_x86_feature_detected!("avx512bf16"),
                Isa::Amx => avx512 && super::gemm::amx::is_available(),
            }
        }
        #[cfg(target_arch = "aarch64")]
        match self {
            Isa::Portable | Isa::Neon => true,
            Isa::NeonBf16 => std::arch::is_aarch64_feature_detected!("bf16"),
            Isa::Avx2 | Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx => false,
        }
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        {
            self == Isa::Portable
        }
    }

    /// The level named by `CASALLM_ISA`, or the best one.
    ///
    /// # Errors
    /// The variable names no level, or one that this machine lacks.
    pub fn detect() -> Result<Isa, ComputeError> {
        match std::env::var("CASALLM_ISA") {
            Ok(name) if !name.is_empty() => Self::parse(&name),
            _ => Ok(*Self::available().last().unwrap_or(&Isa::Portable)),
        }
    }

    /// The level of that name, if this machine can run it.
    ///
    /// # Errors
    /// No such level, or not on this machine.
    pub fn parse(name: &str) -> Result<Isa, ComputeError> {
        let available = || Self::available().iter().map(|i| i.name()).collect::<Vec<_>>().join(", ");
        let isa = Self::ALL
            .into_iter()
            .find(|isa| isa.name() == name)
            .ok_or_else(|| ComputeError::UnknownIsa { name: name.into(), available: available() })?;
        if isa.is_available() {
            Ok(isa)
        } else {
            Err(ComputeError::IsaNotHere { name: name.into(), available: available() })
        }
    }

    /// Runs a kernel compiled for this level.
    #[inline]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[cfg(target_arch = "x86_64")]
        match self {
            // ARM's are never here.
            Isa::Portable | Isa::Neon | Isa::NeonBf16 => kernel.run::<PortableMath>(),
            // SAFETY: an Isa value above Portable exists only where `is_available` found the features.
            Isa::Avx2 => unsafe { run_avx2(kernel) },
            // SAFETY: as above; every level from Avx512 up has these features.
            Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx => unsafe { run_avx512(kernel) },
        }
        #[cfg(target_arch = "aarch64")]
        match self {
            Isa::Portable => kernel.run::<PortableMath>(),
            _ => kernel.run::<FmaMath>(),
        }
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        kernel.run::<PortableMath>()
    }
}

/// Asks for a slice's memory, as far as the second cache: the first has places for two dozen lines on their way, and waits for one.
#[inline(always)]
pub(crate) fn prefetch<T>(slice: &[T]) {
    prefetch_at(slice.as_ptr(), slice.len());
}

/// The same for `len` elements from an address on, which need not be anybody's.
#[inline(always)]
pub(crate) fn prefetch_at<T>(at: *const T, len: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in (0..len * size_of::<T>()).step_by(64) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: the instruction is a hint, which no address makes fault.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast::<i8>().wrapping_add(line)) };
    }
    #[cfg(target_arch = "aarch64")]
    for line in (0..len * size_of::<T>()).step_by(64) {
        // SAFETY: the instruction is a hint, which no address makes fault.
        unsafe {
            let at = at.cast::<u8>().wrapping_add(line);
            std::arch::asm!("prfm pldl2keep, [{at}]", at = in(reg) at, options(nostack, preserves_flags, readonly));
        }
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = (at, len);
}

/// A kernel written once in plain Rust; `run` must be `#[inline(always)]` to be compiled for each level.
pub(crate) trait Kernel {
    type Output;
    fn run<M: Math>(self) -> Self::Output;
}

/// Arithmetic that differs between levels.
pub(crate) trait Math {
    /// `a * b + c`, fused where the level has the instruction.
    fn mul_add(a: f32, b: f32, c: f32) -> f32;

    /// The sum of each row, the same bits at every level.
    #[inline(always)]
    fn row_sums(rows: &row_sums::Rows) -> [f32; LANES] {
        row_sums::plain(rows)
    }
}

pub(crate) struct PortableMath;
impl Math for PortableMath {
    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        a * b + c
    }
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(crate) struct FmaMath;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
impl Math for FmaMath {
    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
}

/// What [`run_avx512`] computes with.
#[cfg(target_arch = "x86_64")]
struct Avx512Math;
#[cfg(target_arch = "x86_64")]
impl Math for Avx512Math {
    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }

    #[inline(always)]
    fn row_sums(rows: &row_sums::Rows) -> [f32; LANES] {
        // SAFETY: only `run_avx512` uses this type.
        unsafe { row_sums::avx512(rows) }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<FmaMath>()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
unsafe fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Avx512Math>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_names_what_is_available() {
        assert_eq!(Isa::parse("portable").unwrap(), Isa::Portable);
        let error = Isa::parse("sse9").unwrap_err().to_string();
        assert!(error.contains("sse9") && error.contains("portable"), "{error}");
    }
}
