//! Ids: opaque strings that nobody can guess or construct.

use super::error::StoreError;

/// 128 random bits as 32 hexadecimal digits.
///
/// # Errors
/// [`StoreError::Random`] when the system has no randomness to give.
pub(super) fn fresh() -> Result<String, StoreError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    Ok(format!("{:032x}", u128::from_le_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_one_length_and_differ() {
        let ids: std::collections::HashSet<String> = (0..1000).map(|_| fresh().unwrap()).collect();
        assert_eq!(ids.len(), 1000);
        assert!(ids.iter().all(|id| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())));
    }
}
