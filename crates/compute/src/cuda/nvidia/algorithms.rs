//! Which algorithm of cuBLASLt each product takes, remembered on disk.
//!
//! The library proposes several algorithms for a product, and the fastest is found by timing them at first use. Timing is
//! chance, and another algorithm may round differently. So a choice, once made, stays: a run that is resumed, or repeated
//! on the same machine with the same library, multiplies with the same algorithms and gets the same bits. The file is
//! `CACHE/cuda/algorithms-GPU-LIBRARY.tsv`, one line a choice: the product, the algorithm (64 bytes that only this version
//! of the library understands), and a checksum. Lines are only ever appended, whole and synced, by one process at a time,
//! which looks first whether another has been faster; of two for one product the first counts; what is torn or damaged counts
//! as absent. Whoever deletes the file, or takes it to another machine, has the products timed again.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// An algorithm as the library serialises it.
pub(super) type Algorithm = [u64; 8];

/// What has been chosen so far.
pub(super) struct Choices {
    path: Option<PathBuf>,
    known: HashMap<String, Algorithm>,
}

impl Choices {
    /// Reads a file of choices, if there is one.
    pub(super) fn open(path: Option<PathBuf>) -> Self {
        let mut known = HashMap::new();
        let bytes = path.as_ref().and_then(|path| std::fs::read(path).ok()).unwrap_or_default();
        for line in String::from_utf8_lossy(&bytes).lines() {
            if let Some((product, algorithm)) = parse(line) {
                known.entry(product).or_insert(algorithm);
            }
        }
        Choices { path, known }
    }

    /// The algorithm chosen for a product.
    pub(super) fn get(&self, product: &str) -> Option<Algorithm> {
        self.known.get(product).copied()
    }

    /// Remembers a choice for this process, and for the next where the file can be written. What was chosen before stays, by
    /// another process too since the file was read: two that begin at once on one machine must not each go on with a choice
    /// of its own, of which a later one would find only the first. The result is the choice that holds.
    pub(super) fn settle(&mut self, product: &str, algorithm: Algorithm) -> Algorithm {
        if let Some(known) = self.get(product) {
            return known;
        }
        // Without the file the choice holds for this process only.
        let settled = self.path.as_deref().and_then(|path| append(path, product, algorithm).ok()).unwrap_or(algorithm);
        self.known.insert(product.to_owned(), settled);
        settled
    }
}

/// Adds a choice to a file, unless that has one of this product: then the result is that one.
fn append(path: &Path, product: &str, algorithm: Algorithm) -> std::io::Result<Algorithm> {
    std::fs::create_dir_all(path.parent().unwrap_or(path))?;
    let mut file = std::fs::OpenOptions::new().create(true).read(true).append(true).open(path)?;
    // Where a file system has no locks, two may still write at once; then the first line counts from the next start on.
    let _ = file.lock();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let of_product = |(name, algorithm): (String, Algorithm)| (name == product).then_some(algorithm);
    if let Some(earlier) = text.lines().filter_map(parse).find_map(of_product) {
        return Ok(earlier);
    }
    // In one write, and on a line of its own whatever was torn before.
    file.write_all(format!("\n{}\n", line(product, &algorithm)).as_bytes())?;
    file.sync_data()?;
    Ok(algorithm)
}

fn hex(algorithm: &Algorithm) -> String {
    algorithm.iter().fold(String::new(), |mut text, word| {
        let _ = write!(text, "{word:016x}");
        text
    })
}

fn checksum(product: &str, hex: &str) -> String {
    let digest = Sha256::digest(format!("{product}\t{hex}"));
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn line(product: &str, algorithm: &Algorithm) -> String {
    let hex = hex(algorithm);
    format!("{product}\t{hex}\t{}", checksum(product, &hex))
}

fn parse(line: &str) -> Option<(String, Algorithm)> {
    let mut fields = line.split('\t');
    let (product, hex, sum) = (fields.next()?, fields.next()?, fields.next()?);
    if fields.next().is_some() || checksum(product, hex) != sum || hex.len() != 128 || !hex.is_ascii() {
        return None;
    }
    let mut algorithm = [0; 8];
    for (i, word) in algorithm.iter_mut().enumerate() {
        *word = u64::from_str_radix(&hex[16 * i..16 * (i + 1)], 16).ok()?;
    }
    Some((product.to_owned(), algorithm))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Algorithm = [1, 2, 3, 4, 5, 6, 7, u64::MAX];
    const OTHER: Algorithm = [9; 8];

    #[test]
    fn a_choice_outlives_the_process_and_the_first_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cuda/algorithms.tsv");
        let mut choices = Choices::open(Some(path.clone()));
        assert_eq!(choices.get("a"), None);
        // Another process that has read the file already.
        let mut late = Choices::open(Some(path.clone()));
        assert_eq!(choices.settle("a", ONE), ONE);
        assert_eq!(choices.settle("b", OTHER), OTHER);
        assert_eq!((late.settle("a", OTHER), late.get("a")), (ONE, Some(ONE)), "it goes on with what is written");
        assert_eq!(choices.settle("a", OTHER), ONE);
        let again = Choices::open(Some(path));
        assert_eq!((again.get("a"), again.get("b")), (Some(ONE), Some(OTHER)));
    }

    #[test]
    fn a_torn_or_damaged_line_is_no_choice_and_spoils_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("algorithms.tsv");
        let whole = line("a", &ONE);
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            let mut choices = Choices::open(Some(path.clone()));
            assert_eq!(choices.get("a"), None, "cut at {length}");
            choices.settle("b", OTHER);
            let again = Choices::open(Some(path.clone()));
            assert_eq!((again.get("a"), again.get("b")), (None, Some(OTHER)), "cut at {length}");
        }
        for at in 0..whole.len() {
            let mut bytes = whole.clone().into_bytes();
            bytes[at] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(Choices::open(Some(path.clone())).get("a"), None, "flipped at {at}");
        }
    }
}
