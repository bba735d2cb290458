//! The crate's random numbers: a pure function of a key and a counter, so that any of them can be made again alone.

/// Output `counter` of the SplitMix64 generator started at `key` (Steele, Lea and Flood, OOPSLA 2014).
pub(crate) fn splitmix64(key: u64, counter: u64) -> u64 {
    let mut z = key.wrapping_add(counter.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Uniform in `[0, 1)` with 53 random bits.
pub(crate) fn uniform(key: u64, counter: u64) -> f64 {
    (splitmix64(key, counter) >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitmix64_gives_the_published_sequence() {
        // First outputs for seed 1234567, as listed at <https://rosettacode.org/wiki/Pseudo-random_numbers/Splitmix64>.
        let expected = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        for (counter, expected) in expected.into_iter().enumerate() {
            assert_eq!(splitmix64(1_234_567, counter as u64), expected);
        }
    }

    #[test]
    fn uniform_fills_the_unit_interval_evenly() {
        let mut bins = [0u32; 16];
        for counter in 0..16_000 {
            let u = uniform(5, counter);
            assert!((0.0..1.0).contains(&u));
            bins[(u * 16.0) as usize] += 1;
        }
        // Five standard deviations of a binomial count around 1000.
        assert!(bins.iter().all(|&n| n.abs_diff(1000) < 155), "{bins:?}");
    }
}
