//! [`RetryPolicy`]: how often something is tried, and how long is waited in between.

use std::time::Duration;

use crate::seeded::{SplitMix64, text_hash};

/// A server's wish to wait is followed up to here.
const LONGEST_WISH: Duration = Duration::from_secs(15 * 60);
/// Whoever brings so many bytes has earned another try.
const BYTES_FOR_A_TRY: u64 = 64 << 10;

/// Exponential back-off with jitter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Failures of one file, or of one page of a listing, that are borne; each 64 kB that a file has got allow one more.
    pub tries: u32,
    /// Wait after the first failure; each further one doubles it.
    pub first_wait: Duration,
    /// Most that is waited unless the server wants more.
    pub longest_wait: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { tries: 8, first_wait: Duration::from_secs(1), longest_wait: Duration::from_secs(60) }
    }
}

impl RetryPolicy {
    /// Whether to go on after `failures` failures and `gained` bytes of progress.
    pub fn allows(&self, failures: u32, gained: u64) -> bool {
        u64::from(failures) < u64::from(self.tries).saturating_add(gained / BYTES_FOR_A_TRY)
    }

    /// How long to wait after the `failures`-th failure in a row, counted from 1, of what `name` names. Between half of the
    /// full wait and all of it, a function of the name and the number: clients that failed together do not come back
    /// together, and the same run waits alike. `wish` is what the server asked for.
    pub fn wait(&self, name: &str, failures: u32, wish: Option<Duration>) -> Duration {
        let doubled = self.first_wait.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
        let full = doubled.min(self.longest_wait);
        let drawn = SplitMix64::new(text_hash([name], 0), u64::from(failures)).below(1 << 16);
        let jittered = full.mul_f64(0.5 + 0.5 * drawn as f64 / f64::from(1 << 16));
        wish.map_or(jittered, |wish| jittered.max(wish.min(LONGEST_WISH)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_limit_and_are_spread() {
        let policy =
            RetryPolicy { tries: 8, first_wait: Duration::from_secs(1), longest_wait: Duration::from_secs(60) };
        for (failures, full) in [(1, 1.0), (2, 2.0), (3, 4.0), (6, 32.0), (7, 60.0), (40, 60.0)] {
            let waits: Vec<f64> =
                (0..50).map(|i| policy.wait(&format!("file {i}"), failures, None).as_secs_f64()).collect();
            assert!(waits.iter().all(|wait| (0.5 * full..=full).contains(wait)), "{failures}: {waits:?}");
            assert!(waits.iter().any(|wait| *wait < 0.65 * full) && waits.iter().any(|wait| *wait > 0.85 * full));
        }
        assert_eq!(policy.wait("a", 3, None), policy.wait("a", 3, None));
        assert_ne!(policy.wait("a", 3, None), policy.wait("b", 3, None));
    }

    #[test]
    fn a_server_may_ask_for_more_but_not_for_ever() {
        let policy = RetryPolicy::default();
        assert_eq!(policy.wait("a", 1, Some(Duration::from_secs(55))), Duration::from_secs(55));
        assert!(policy.wait("a", 1, Some(Duration::ZERO)) >= Duration::from_millis(500));
        assert_eq!(policy.wait("a", 1, Some(Duration::from_secs(1 << 40))), LONGEST_WISH);
    }

    #[test]
    fn tries_are_bounded_by_what_they_bring() {
        let policy = RetryPolicy { tries: 3, ..RetryPolicy::default() };
        assert!(policy.allows(2, 0) && !policy.allows(3, 0));
        assert!(policy.allows(4, 2 * BYTES_FOR_A_TRY) && !policy.allows(5, 2 * BYTES_FOR_A_TRY));
    }
}
