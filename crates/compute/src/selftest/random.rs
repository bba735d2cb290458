//! Inputs: normal variates from SplitMix64 (Steele et al. 2014), rounded to the storage type.

use crate::dtype::{Bf16, DType};

/// A stream of random numbers.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In `(0, 1)`.
    fn uniform(&mut self) -> f64 {
        ((self.next() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    /// In `0..bound`.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// Normal (Box and Muller), of this standard deviation, as the storage type holds it.
    pub(super) fn normal(&mut self, dtype: DType, len: usize, deviation: f64) -> Vec<f32> {
        let value = |_| {
            let radius = (-2.0 * self.uniform().ln()).sqrt();
            let x = radius * (std::f64::consts::TAU * self.uniform()).cos() * deviation;
            round(dtype, x as f32)
        };
        (0..len).map(value).collect()
    }

    /// Indices in `0..bound`.
    pub(super) fn indices(&mut self, len: usize, bound: usize) -> Vec<u32> {
        (0..len).map(|_| self.below(bound) as u32).collect()
    }

    /// `len` different indices in `0..bound`, in no order.
    pub(super) fn distinct(&mut self, len: usize, bound: usize) -> Vec<u32> {
        let mut all: Vec<u32> = (0..bound as u32).collect();
        for i in 0..len {
            all.swap(i, i + self.below(bound - i));
        }
        all.truncate(len);
        all
    }
}

/// What the storage type makes of a value.
pub(super) fn round(dtype: DType, x: f32) -> f32 {
    if dtype == DType::Bf16 { Bf16::from_f32(x).to_f32() } else { x }
}

/// Widens for the reference.
pub(super) fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|x| f64::from(*x)).collect()
}

/// What accumulating leaves: `before + added`.
pub(super) fn plus(before: &[f32], added: &[f64]) -> Vec<f64> {
    before.iter().zip(added).map(|(a, b)| f64::from(*a) + b).collect()
}
