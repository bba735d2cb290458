//! What the Hub holds, and what goes wrong with it.

use std::sync::Arc;

use serde_json::Value;
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// What is in a file.
#[derive(Clone)]
pub enum Contents {
    /// These bytes.
    Bytes(Arc<Vec<u8>>),
    /// Bytes that a seed makes, so many.
    Made { seed: u64, size: u64 },
}

impl Contents {
    pub fn text(text: &str) -> Self {
        Contents::Bytes(Arc::new(text.as_bytes().to_vec()))
    }

    pub fn size(&self) -> u64 {
        match self {
            Contents::Bytes(bytes) => bytes.len() as u64,
            Contents::Made { size, .. } => *size,
        }
    }

    /// Bytes from `from` on.
    pub fn fill(&self, from: u64, out: &mut [u8]) {
        match self {
            Contents::Bytes(bytes) => out.copy_from_slice(&bytes[from as usize..from as usize + out.len()]),
            Contents::Made { seed, .. } => {
                let mut word = [0; 8];
                for (i, byte) in out.iter_mut().enumerate() {
                    let at = from + i as u64;
                    if i == 0 || at.is_multiple_of(8) {
                        word = mix(seed ^ mix(at / 8)).to_le_bytes();
                    }
                    *byte = word[(at % 8) as usize];
                }
            }
        }
    }

    pub fn all(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.size() as usize];
        self.fill(0, &mut bytes);
        bytes
    }

    /// SHA-256 and git's hash of a blob.
    pub fn hashes(&self) -> (String, String) {
        let (mut sha256, mut git) = (Sha256::new(), Sha1::new_with_prefix(format!("blob {}\0", self.size())));
        let mut buffer = vec![0; 1 << 16];
        let mut from = 0;
        while from < self.size() {
            let piece = &mut buffer[..(self.size() - from).min(1 << 16) as usize];
            self.fill(from, piece);
            sha256.update(&*piece);
            git.update(&*piece);
            from += piece.len() as u64;
        }
        let digits = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        (digits(&sha256.finalize()), digits(&git.finalize()))
    }
}

/// What goes wrong with one file, always.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// So many bodies are cut in the middle; then it has other contents, and the Hub says so.
    Changes(usize),
    /// So many bodies are cut in the middle; then it has other contents, and only the CDN's ETag differs.
    ChangesQuietly(usize),
    /// The first so many bodies have a wrong byte.
    Corrupt(usize),
    /// This status, from the Hub itself.
    Status(u16),
    /// This status for the first so many requests, with these seconds of Retry-After.
    StatusFirst(u16, usize, u64),
    /// The first so many signed addresses have expired when they are used.
    Expired(usize),
    EndlessRedirect,
    /// Nothing comes.
    Silent,
    /// The listing says another size.
    ListedSize(u64),
    /// Each body is cut after so many bytes.
    CutAfter(u64),
    /// Ranges are not known, and the first so many bodies are cut in the middle.
    NoRanges(usize),
    /// Content-Length says so much.
    Length(u64),
    /// No Content-Length, and bytes that are too many.
    TooLong,
    /// No Content-Length.
    NoLength,
    /// The answer to a range begins elsewhere.
    WrongRange,
}

/// A file of the repository.
#[derive(Clone)]
pub struct File {
    pub path: String,
    pub contents: Contents,
    pub lfs: bool,
    pub fault: Option<Fault>,
    /// Of `refs/convert/parquet` instead of `main`.
    pub converted: bool,
}

impl File {
    pub fn lfs(path: &str, contents: Contents) -> Self {
        File { path: path.into(), contents, lfs: true, fault: None, converted: false }
    }

    pub fn git(path: &str, contents: Contents) -> Self {
        File { lfs: false, ..File::lfs(path, contents) }
    }

    pub fn made(path: &str, seed: u64, size: u64) -> Self {
        File::lfs(path, Contents::Made { seed, size })
    }

    pub fn with(self, fault: Fault) -> Self {
        File { fault: Some(fault), ..self }
    }
}

/// What goes wrong at random, each out of a thousand requests for a body.
#[derive(Clone, Copy, Default)]
pub struct Weather {
    pub cut: u64,
    pub busy: u64,
    pub broken: u64,
    pub wrong_length: u64,
    pub no_range: u64,
    pub corrupt: u64,
}

/// How the whole behaves.
#[derive(Clone)]
pub struct Setup {
    pub files: Vec<File>,
    pub weather: Weather,
    pub seed: u64,
    pub page: usize,
    /// What the card says of configurations.
    pub configs: Value,
}

impl Setup {
    pub fn of(files: Vec<File>) -> Self {
        Setup { files, weather: Weather::default(), seed: 1, page: 3, configs: Value::Null }
    }
}

/// SplitMix64's mixer.
pub fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
