//! A seeded permutation of `0..n` without a table, so that a billion windows cost no memory.
//!
//! A Feistel network of four rounds permutes `0..4^k`; a result past `n` is permuted again until it falls inside
//! (cycle walking, Black and Rogaway 2002), less than four times on average.

use crate::seeded::SplitMix64;

const ROUNDS: u64 = 4;

/// Where `index` in `0..n` goes. For one key this is a bijection of `0..n`; 0 when `n` is 0.
pub(super) fn permute(index: u64, n: u64, key: u64) -> u64 {
    if n <= 1 {
        return 0;
    }
    let bits = u64::BITS - (n - 1).leading_zeros();
    let half = bits.div_ceil(2);
    let mask = (1 << half) - 1;
    let mut value = index;
    loop {
        let (mut left, mut right) = (value >> half, value & mask);
        for round in 0..ROUNDS {
            let mixed = SplitMix64::new(key.wrapping_add(round), right).next_u64();
            (left, right) = (right, left ^ (mixed & mask));
        }
        value = (left << half) | right;
        if value < n {
            return value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_index_comes_once(n in 1u64..3000, key: u64) {
            let mut seen: Vec<u64> = (0..n).map(|index| permute(index, n, key)).collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..n).collect::<Vec<_>>());
        }
    }

    #[test]
    fn keys_give_different_orders_without_pattern() {
        let order = |key| -> Vec<u64> { (0..1000).map(|index| permute(index, 1000, key)).collect() };
        assert_ne!(order(1), order(2));
        // Neighbours land anywhere: the mean distance of a random order is n / 3.
        let distance: u64 = order(1).windows(2).map(|pair| pair[0].abs_diff(pair[1])).sum();
        assert!((280..390).contains(&(distance / 999)), "{}", distance / 999);
        assert_eq!(permute(0, 0, 1), 0);
        assert!(permute(u64::from(u32::MAX), 1 << 40, 3) < 1 << 40);
    }
}
