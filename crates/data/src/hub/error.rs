//! [`HubError`]: what keeps a data set from arriving, and [`FileFault`]: what keeps one of its files.

use std::fmt;
use std::path::PathBuf;

/// Why a fetch did not end with all files in place.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The disk.
    #[error(transparent)]
    Data(#[from] crate::Error),
    /// A name that is neither known nor a repository's.
    #[error("no data set is known as `{name}`; known are {known}; anything else is written owner/name, as on the Hub")]
    UnknownName {
        /// As given.
        name: String,
        /// Names there are.
        known: String,
    },
    /// A pattern that cannot be read.
    #[error("pattern `{pattern}`: {message}; write it like `data/*.parquet` or `**/train-*`")]
    Pattern {
        /// As given.
        pattern: String,
        /// What is wrong.
        message: String,
    },
    /// A configuration that the data set does not have.
    #[error("{repository} has no configuration `{config}`; it has {known}")]
    Config {
        /// The repository.
        repository: String,
        /// As given.
        config: String,
        /// Those that there are.
        known: String,
    },
    /// A setting of the environment that cannot be used.
    #[error("{name} is {found}: {expected}")]
    Setting {
        /// The variable.
        name: &'static str,
        /// Its value.
        found: String,
        /// What it must be.
        expected: &'static str,
    },
    /// The network is switched off, and what is asked for is not here.
    #[error(
        "{repository} at {revision} is neither in {} nor in the Hub's cache ({}), and HF_HUB_OFFLINE forbids the network; unset it and run the same command again",
        folder.display(), cache.display()
    )]
    Offline {
        /// The repository.
        repository: String,
        /// As asked.
        revision: String,
        /// Where the files were to go.
        folder: PathBuf,
        /// The Hub's cache.
        cache: PathBuf,
    },
    /// The network is switched off, and some files are not here.
    #[error(
        "{missing} of {files} files are not here, {first} among them, and HF_HUB_OFFLINE forbids the network; unset it and run the same command again"
    )]
    OfflineFiles {
        /// Files that are missing.
        missing: usize,
        /// Files in all.
        files: usize,
        /// One of them.
        first: String,
    },
    /// The server does not have it, or does not show it.
    #[error("{what}: {message}; {remedy}")]
    Refused {
        /// The repository, the revision or the address.
        what: String,
        /// What the server said.
        message: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The server could not be asked.
    #[error("{url}: given up after {tries} tries; the last: {reason}; run the same command again")]
    Unreachable {
        /// The address.
        url: String,
        /// Requests made.
        tries: u32,
        /// Why the last one failed.
        reason: String,
    },
    /// An answer of the API that makes no sense.
    #[error("{url}: {message}; is HF_ENDPOINT the address of a Hub?")]
    Listing {
        /// The address.
        url: String,
        /// What is wrong.
        message: String,
    },
    /// Nothing fits.
    #[error(
        "{repository} at {commit} has no file that fits {patterns}; it has {found}; choose with --include or --config"
    )]
    NoFiles {
        /// The repository.
        repository: String,
        /// Its commit.
        commit: String,
        /// What was looked for.
        patterns: String,
        /// Some of the files that are there.
        found: String,
    },
    /// A file name that must not be written.
    #[error("the listing names {path:?}, which {reason}; it is not fetched: leave it out with --include")]
    UnsafePath {
        /// The name.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The folder holds something else.
    #[error("{} holds {found}, but {asked} was asked for; choose another --out, or remove the folder", folder.display())]
    OtherContents {
        /// The folder.
        folder: PathBuf,
        /// Repository and commit in it.
        found: String,
        /// Repository and commit asked for.
        asked: String,
    },
    /// A file that is not ours stands where one is to go.
    #[error("{} is there already and is another file than that of the data set; move it away or choose another --out", path.display())]
    InTheWay {
        /// The file.
        path: PathBuf,
    },
    /// A manifest that cannot be used.
    #[error("{}: {message}; remove it and run the same command again: files that are whole are kept", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// Not enough room.
    #[error(
        "{} has {available} bytes free, but {needed} are needed; free some space, choose another --out, or take less with --tokens",
        folder.display()
    )]
    NoRoom {
        /// The folder.
        folder: PathBuf,
        /// Bytes that are still to come, and a margin.
        needed: u64,
        /// Bytes free.
        available: u64,
    },
    /// Another process fetches into the folder.
    #[error("{} is being filled by {}; wait for it, or stop it", folder.display(), pid.map_or("another process".to_owned(), |pid| format!("process {pid}")))]
    Busy {
        /// The folder.
        folder: PathBuf,
        /// The process, where known.
        pid: Option<u32>,
    },
    /// Somebody wanted to stop. What has arrived stays.
    #[error("stopped; what has arrived is kept: run the same command again to go on")]
    Interrupted,
    /// Some files did not arrive; the others are in place.
    #[error("{} of {files} files did not arrive, the others are in place:{}\nrun the same command again to try these once more", failed.len(), listed(failed))]
    Files {
        /// Files in all.
        files: usize,
        /// Those that did not, and why.
        failed: Vec<(String, FileFault)>,
    },
}

/// Why a file did not arrive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileFault {
    /// It was tried often enough.
    GaveUp {
        /// Requests that failed.
        tries: u32,
        /// Why the last one did.
        reason: String,
    },
    /// It is no longer what the listing says.
    Changed {
        /// What differs.
        what: &'static str,
        /// By the listing.
        listed: String,
        /// By the server now.
        found: String,
    },
    /// All bytes came, and they are not those of the listing.
    Corrupt {
        /// The hash by the listing, hexadecimal.
        expected: String,
        /// The hash of what came.
        found: String,
        /// How often it was fetched whole.
        times: u32,
    },
    /// The server does not give it.
    Refused {
        /// What it said.
        message: String,
    },
}

impl fmt::Display for FileFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FileFault::GaveUp { tries, reason } => write!(f, "given up after {tries} tries; the last: {reason}"),
            FileFault::Changed { what, listed, found } => {
                write!(f, "it has changed on the server: {what} was {listed} and is {found}")
            }
            FileFault::Corrupt { expected, found, times } => {
                write!(f, "damaged each of {times} times: its hash is {found}, expected {expected}")
            }
            FileFault::Refused { message } => write!(f, "{message}"),
        }
    }
}

fn listed(failed: &[(String, FileFault)]) -> String {
    const SHOWN: usize = 20;
    let mut text: String = failed.iter().take(SHOWN).map(|(path, fault)| format!("\n  {path}: {fault}")).collect();
    if failed.len() > SHOWN {
        text += &format!("\n  and {} more", failed.len() - SHOWN);
    }
    text
}
