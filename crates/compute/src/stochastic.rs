//! Stochastic rounding: random bits as a function of a key and an element's index, the same on every device.
//!
//! A value between two representable ones becomes the upper with the probability of its place between them, so that its
//! mean is kept: what is smaller than half a step is not lost, it arrives now and then (Gupta et al. 2015, arXiv
//! 1502.02551).

use crate::dtype::Bf16;

/// The key of one tensor at one step.
pub(crate) fn key(seed: u64) -> u32 {
    // SplitMix64: neighbouring seeds give unrelated keys.
    let mut key = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    key = (key ^ (key >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    key = (key ^ (key >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (key >> 32) as u32 ^ key as u32
}

/// The key for rounding a tensor's weights, where [`key`] is that of its moments.
pub(crate) fn weights_key(key: u32) -> u32 {
    bits(key, 0x5bd1_e995)
}

/// 32 random bits of an element (Wellons, "lowbias32").
#[inline(always)]
pub(crate) fn bits(key: u32, index: usize) -> u32 {
    let mut h = (index as u32) ^ key;
    h = (h ^ (h >> 16)).wrapping_mul(0x7feb_352d);
    h = (h ^ (h >> 15)).wrapping_mul(0x846c_a68b);
    h ^ (h >> 16)
}

/// Rounds by the lower 16 of the random bits: up if they and the 16 bits that fall away come to more than 16 bits hold. A
/// NaN stays a NaN.
#[inline(always)]
pub(crate) fn round(x: f32, random: u32) -> Bf16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(random & 0xffff) >> 16;
    let quiet = (bits >> 16) | 0x40;
    let is_nan = (bits & 0x7fff_ffff) > 0x7f80_0000;
    Bf16(if is_nan { quiet } else { rounded } as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The mean over many elements is the value itself, at any magnitude and sign; what bf16 holds stays as it is.
    #[test]
    fn rounding_keeps_the_mean() {
        const N: usize = 1 << 16;
        let key = key(7);
        for x in [1.003_f32, -1.003, 3.0e-39, 1.0e-20, -7.77e30, 0.1] {
            let all: Vec<f64> = (0..N).map(|i| f64::from(round(x, bits(key, i)).to_f32())).collect();
            let mean = all.iter().sum::<f64>() / N as f64;
            let step = all.iter().map(|y| (y - f64::from(x)).abs()).fold(0.0, f64::max);
            // A step's standard deviation is at most half of it; five of those of the mean.
            assert!((mean - f64::from(x)).abs() < 2.5 * step / (N as f64).sqrt(), "{x}: {mean}");
            // A denormal has fewer bits.
            assert!(step > 0.0 && step < f64::from(x).abs() / 16.0, "{x}");
        }
        for x in [0.0, -0.0, 1.0, -2.5, f32::INFINITY, f32::NEG_INFINITY] {
            assert!((0..100).all(|i| round(x, bits(key, i)).to_f32().to_bits() == x.to_bits()), "{x}");
        }
        let nans = [f32::NAN, f32::from_bits(0x7f80_0001), f32::from_bits(0xffff_ffff)];
        assert!(nans.into_iter().all(|x| (0..100).all(|i| round(x, bits(key, i)).to_f32().is_nan())));
    }

    #[test]
    fn keys_of_neighbours_have_nothing_in_common() {
        let differing = |a: u32, b: u32| (0..1000).map(|i| (bits(a, i) ^ bits(b, i)).count_ones()).sum::<u32>();
        for other in [key(8), weights_key(key(7))] {
            // Of 32,000 fair bits half differ, within five standard deviations.
            assert!(differing(key(7), other).abs_diff(16_000) < 450);
        }
    }
}
