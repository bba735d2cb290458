//! [`RepositoryFile`]: a file by the listing, and [`BlobId`]: the hash that says whether it has arrived.

use std::fmt;
use std::path::PathBuf;

use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::durable::hexadecimal;

/// The hash by which the Hub names a file's contents; lower-case hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BlobId {
    /// Of a file in LFS (or Xet): the SHA-256 of its bytes.
    Sha256(String),
    /// Of a file in git itself: the SHA-1 of `blob SIZE\0` and its bytes.
    GitSha1(String),
}

impl BlobId {
    /// By its digits: 64 of SHA-256, 40 of SHA-1.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        let digits = text.bytes().all(|byte| byte.is_ascii_hexdigit());
        match text.len() {
            64 if digits => Some(BlobId::Sha256(text)),
            40 if digits => Some(BlobId::GitSha1(text)),
            _ => None,
        }
    }

    /// Its digits.
    pub fn as_str(&self) -> &str {
        match self {
            BlobId::Sha256(digits) | BlobId::GitSha1(digits) => digits,
        }
    }
}

impl fmt::Display for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A file of a data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositoryFile {
    /// Path in the repository, with `/`.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Its hash.
    pub id: BlobId,
    /// Where this machine has it already, in the Hub's cache; not yet verified.
    pub local: Option<PathBuf>,
}

/// The hashes of a file while its bytes pass by.
#[derive(Clone)]
pub(super) struct Digests {
    sha256: Sha256,
    git: Option<Sha1>,
}

/// What came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hashes {
    /// Of the kind that the listing names.
    pub id: BlobId,
    /// For the manifest.
    pub sha256: String,
}

impl Digests {
    /// Of a file of `size` bytes that is to have `id`.
    pub(super) fn new(id: &BlobId, size: u64) -> Self {
        let git = matches!(id, BlobId::GitSha1(_)).then(|| Sha1::new_with_prefix(format!("blob {size}\0")));
        Self { sha256: Sha256::new(), git }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        if let Some(git) = &mut self.git {
            git.update(bytes);
        }
    }

    pub(super) fn finish(self) -> Hashes {
        let sha256 = hexadecimal(&self.sha256.finalize());
        let id = match self.git {
            Some(git) => BlobId::GitSha1(hexadecimal(&git.finalize())),
            None => BlobId::Sha256(sha256.clone()),
        };
        Hashes { id, sha256 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_has_the_hash_that_git_gives_it() {
        // `printf 'hello\n' | git hash-object --stdin`, and `sha256sum` of the same.
        let git = BlobId::parse("ce013625030ba8dba906f756967f9e9ca394464a").unwrap();
        let mut digests = Digests::new(&git, 6);
        digests.update(b"hel");
        digests.update(b"lo\n");
        let hashes = digests.finish();
        assert_eq!(hashes.id, git);
        assert_eq!(hashes.sha256, "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03");
        let lfs = BlobId::parse(&hashes.sha256.to_uppercase()).unwrap();
        assert_eq!(lfs, BlobId::Sha256(hashes.sha256));
    }

    #[test]
    fn other_texts_are_no_hash() {
        for text in ["", "main", &"g".repeat(40), &"a".repeat(41), "../../../../../../../../../../../etc/passwd1"] {
            assert_eq!(BlobId::parse(text), None, "{text}");
        }
    }
}
