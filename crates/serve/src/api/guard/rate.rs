//! A token bucket for each client. Memory is bounded whatever the number of addresses.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Clients remembered at once. A bucket that is full again is as good as none and makes room first.
const CLIENTS: usize = 10_000;

/// Requests a minute that one client may make, in bursts of up to as many.
#[derive(Debug)]
pub struct RateLimit {
    per_minute: f64,
    buckets: Mutex<HashMap<IpAddr, Bucket>>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl RateLimit {
    /// A limit; `per_minute` is at least 1.
    pub fn new(per_minute: u32) -> Self {
        RateLimit { per_minute: f64::from(per_minute.max(1)), buckets: Mutex::default() }
    }

    /// Takes a token of the client's bucket.
    ///
    /// # Errors
    /// There is none: the seconds until there is one.
    pub fn take(&self, client: IpAddr, now: Instant) -> Result<(), u64> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= CLIENTS && !buckets.contains_key(&client) {
            buckets.retain(|_, bucket| self.tokens(*bucket, now) < self.per_minute);
            if buckets.len() >= CLIENTS {
                return Err(60);
            }
        }
        let bucket = buckets.entry(client).or_insert(Bucket { tokens: self.per_minute, at: now });
        let tokens = self.tokens(*bucket, now);
        if tokens >= 1.0 {
            *bucket = Bucket { tokens: tokens - 1.0, at: now };
            return Ok(());
        }
        *bucket = Bucket { tokens, at: now };
        Err(((1.0 - tokens) * 60.0 / self.per_minute).ceil().max(1.0) as u64)
    }

    fn tokens(&self, bucket: Bucket, now: Instant) -> f64 {
        let seconds = now.saturating_duration_since(bucket.at).as_secs_f64();
        (bucket.tokens + seconds * self.per_minute / 60.0).min(self.per_minute)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use std::time::Duration;

    #[test]
    fn a_burst_then_the_rate() {
        let (limit, start) = (RateLimit::new(30), Instant::now());
        let (one, other) = (IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V4(Ipv4Addr::BROADCAST));
        assert!((0..30).all(|_| limit.take(one, start).is_ok()));
        assert_eq!(limit.take(one, start), Err(2));
        assert_eq!(limit.take(other, start), Ok(()));
        assert_eq!(limit.take(one, start + Duration::from_millis(1900)), Err(1));
        assert_eq!(limit.take(one, start + Duration::from_millis(2100)), Ok(()));
        assert!(limit.take(one, start + Duration::from_millis(2200)).is_err());
        let later = start + Duration::from_secs(3600);
        assert_eq!((0..100).filter(|_| limit.take(one, later).is_ok()).count(), 30);
    }

    #[test]
    fn memory_is_bounded_and_comes_back() {
        let (limit, start) = (RateLimit::new(60), Instant::now());
        let address = |n: usize| IpAddr::V4(Ipv4Addr::from_bits(n as u32));
        assert!((0..CLIENTS).all(|n| limit.take(address(n), start).is_ok()));
        assert_eq!(limit.take(address(CLIENTS), start), Err(60));
        assert_eq!(limit.take(address(CLIENTS), start + Duration::from_secs(2)), Ok(()));
        assert_eq!(limit.buckets.lock().unwrap().len(), 1);
    }
}
