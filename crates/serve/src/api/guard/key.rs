//! The server's key, compared without telling by the time how much of a guess was right.

use axum::http::{HeaderMap, header};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::super::error::ApiError;

/// Bytes of the shortest key that is taken.
const MINIMUM: usize = 8;

/// A key. Only its hash is kept, so that it cannot show in a message or a dump, and so that lengths compare equal.
#[derive(Clone)]
pub struct Key([u8; 32]);

impl std::fmt::Debug for Key {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Key(hidden)")
    }
}

impl Key {
    /// A key from its text.
    ///
    /// # Errors
    /// It is shorter than 8 bytes, or holds what no header can carry.
    pub fn new(text: &str) -> Result<Self, String> {
        if text.len() < MINIMUM {
            return Err(format!("the key has {} bytes; use at least {MINIMUM}, better 32 random ones", text.len()));
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("the key holds characters that a header cannot carry; use letters, digits and signs".to_owned());
        }
        Ok(Key(Sha256::digest(text.as_bytes()).into()))
    }

    /// Whether the request carries it.
    pub(super) fn check(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let given = headers.get(header::AUTHORIZATION).and_then(|value| bearer(value.as_bytes()));
        let given: [u8; 32] = Sha256::digest(given.unwrap_or_default()).into();
        if bool::from(self.0.ct_eq(&given)) { Ok(()) } else { Err(ApiError::key()) }
    }
}

/// The token of `Bearer TOKEN`.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_key_opens() {
        let key = Key::new("correct-horse").unwrap();
        let check = |value: Option<&str>| {
            let mut headers = HeaderMap::new();
            if let Some(value) = value {
                headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            }
            key.check(&headers).is_ok()
        };
        assert!(check(Some("Bearer correct-horse")) && check(Some("bearer  correct-horse ")));
        for wrong in [None, Some(""), Some("Bearer "), Some("correct-horse"), Some("Basic correct-horse")] {
            assert!(!check(wrong), "{wrong:?}");
        }
        assert!(!check(Some("Bearer correct-hors")) && !check(Some("Bearer correct-horse2")));
        assert!(!format!("{key:?}").contains("horse"));
        assert!(Key::new("short").is_err() && Key::new("with a space").is_err());
    }
}
