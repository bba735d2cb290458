//! Compiled kernels on disk, so that only the first start on a machine compiles.
//!
//! `CACHE/cuda/HASH.bin`, the hash being of everything that the code is a function of: text, options, architecture,
//! versions of compiler and driver. A file holds a line that names the format, the SHA-256 of the code, and the code.
//! It is written beside its place and renamed; what does not match its checksum counts as absent. Where nothing can
//! be written the cache does nothing: a start then takes a few seconds longer.

use std::io::Write;
use std::path::PathBuf;

use sha2::{Digest, Sha256};

const MAGIC: &[u8] = b"casallm kernel 1\n";
const CHECKSUM: usize = 32;

/// The folder, where there is one.
pub(super) struct KernelCache {
    folder: Option<PathBuf>,
}

/// The name under which something with these inputs is kept.
pub(super) fn key(inputs: &[&str]) -> String {
    let mut hash = Sha256::new();
    for input in inputs {
        // With their lengths, so that no two lists run into the same text.
        hash.update((input.len() as u64).to_le_bytes());
        hash.update(input.as_bytes());
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl KernelCache {
    pub(super) fn new(folder: Option<PathBuf>) -> Self {
        KernelCache { folder }
    }

    fn path(&self, key: &str) -> Option<PathBuf> {
        Some(self.folder.as_ref()?.join(format!("{key}.bin")))
    }

    /// What was kept, if it is whole.
    pub(super) fn read(&self, key: &str) -> Option<Vec<u8>> {
        let bytes = std::fs::read(self.path(key)?).ok()?;
        let (checksum, code) = bytes.strip_prefix(MAGIC)?.split_at_checked(CHECKSUM)?;
        (Sha256::digest(code)[..] == *checksum).then(|| code.to_vec())
    }

    /// Keeps code. What hinders it is nobody's concern.
    pub(super) fn write(&self, key: &str, code: &[u8]) {
        let (Some(folder), Some(path)) = (&self.folder, self.path(key)) else { return };
        // A name of its own, for another process may be writing the same.
        let beside = folder.join(format!("{key}.{}.tmp", std::process::id()));
        let write = || -> std::io::Result<()> {
            std::fs::create_dir_all(folder)?;
            let mut file = std::fs::File::create(&beside)?;
            file.write_all(MAGIC)?;
            file.write_all(&Sha256::digest(code))?;
            file.write_all(code)?;
            drop(file);
            std::fs::rename(&beside, &path)
        };
        if write().is_err() {
            let _ = std::fs::remove_file(&beside);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_comes_back_and_what_is_damaged_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let cache = KernelCache::new(Some(dir.path().join("cuda")));
        let key = key(&["text", "options"]);
        assert_eq!(cache.read(&key), None);
        cache.write(&key, b"machine code");
        assert_eq!(cache.read(&key).as_deref(), Some(&b"machine code"[..]));

        let path = cache.path(&key).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(cache.read(&key), None, "cut at {length}");
        }
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(cache.read(&key), None, "flipped at {at}");
        }
        // And it heals.
        cache.write(&key, b"machine code");
        assert_eq!(cache.read(&key).as_deref(), Some(&b"machine code"[..]));
        let names: Vec<_> = std::fs::read_dir(dir.path().join("cuda")).unwrap().collect();
        assert_eq!(names.len(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_place_that_cannot_be_written_does_no_harm() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        for folder in [None, Some(dir.path().join("file/cuda"))] {
            let cache = KernelCache::new(folder);
            cache.write("key", b"code");
            assert_eq!(cache.read("key"), None);
        }
    }

    #[test]
    fn keys_differ_where_inputs_do() {
        assert_ne!(key(&["ab", "c"]), key(&["a", "bc"]));
        assert_ne!(key(&["a"]), key(&["b"]));
        assert_eq!(key(&["a"]).len(), 64);
    }
}
