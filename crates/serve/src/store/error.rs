//! [`StoreError`]: each way a database can be unusable, a request wrong or an import invalid, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// What the store refuses or fails at.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A file or folder could not be used.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// Another server holds the database.
    #[error(
        "{} is in use by {}. Stop that server, or give this one another database",
        path.display(), pid.map_or("another process".to_owned(), |pid| format!("process {pid}"))
    )]
    Locked {
        /// The database.
        path: PathBuf,
        /// The process that holds it, where known.
        pid: Option<u32>,
    },
    /// The file is something else.
    #[error("{} is not a database of conversations: {found}. Give another path; nothing was changed", path.display())]
    NotOurs {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        found: String,
    },
    /// The database was written by a newer program.
    #[error(
        "{} has layout {found}; this program knows layouts up to {known}. Use the newer program that wrote it, export \
         the conversations there and import them here, or give another path",
        path.display()
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its layout.
        found: i64,
        /// The newest layout known here.
        known: i64,
    },
    /// The database does not hold what SQLite wrote.
    #[error(
        "{} is damaged: {finding}. Move it away and put a copy in its place, or save what can be read with \
         `sqlite3 FILE .recover`",
        path.display()
    )]
    Damaged {
        /// The database.
        path: PathBuf,
        /// SQLite's first finding.
        finding: String,
    },
    /// No space for what was to be written. Nothing of it was.
    #[error("the disk is full: no space is left for {}. Free some; what was saved before is safe", path.display())]
    DiskFull {
        /// The database.
        path: PathBuf,
    },
    /// SQLite failed in a way that has no variant of its own.
    #[error("the database failed: {0}")]
    Sqlite(rusqlite::Error),
    /// There is no such conversation, or it has been deleted.
    #[error("there is no conversation {0:?}: it may have been deleted")]
    UnknownConversation(String),
    /// There is no such message, or it has been deleted.
    #[error("there is no message {0:?}: it or its conversation may have been deleted")]
    UnknownMessage(String),
    /// A message cannot stand below that one.
    #[error("message {parent:?} cannot be the parent: {reason}")]
    Parent {
        /// The parent asked for.
        parent: String,
        /// Why not.
        reason: &'static str,
    },
    /// The answer is still being written.
    #[error("answer {0:?} is still being written: wait for it, or stop it first")]
    StillRunning(String),
    /// The answer has ended already.
    #[error("answer {0:?} has ended and takes no more")]
    Ended(String),
    /// Something is longer than it may be.
    #[error("{what} has {bytes} bytes; at most {limit} are allowed. Shorten it")]
    TooLong {
        /// What is too long.
        what: &'static str,
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// A conversation has as many messages as it may.
    #[error("the conversation has {0} messages, which is the limit. Begin another one")]
    TooManyMessages(usize),
    /// Something must not be empty.
    #[error("{0} is empty")]
    Empty(&'static str),
    /// A setting is out of range.
    #[error("setting {name} is {value}; {allowed}")]
    Setting {
        /// The setting.
        name: &'static str,
        /// What it was.
        value: String,
        /// What it may be.
        allowed: &'static str,
    },
    /// The cursor of a list is not one that the store gave out.
    #[error("the cursor {0:?} was not given out by this server: begin at the first page")]
    Cursor(String),
    /// An import was refused; nothing of it was taken.
    #[error("the import is refused, nothing was taken from it: {place}: {reason}")]
    Import {
        /// Where in the file.
        place: String,
        /// What is wrong there.
        reason: String,
    },
    /// The system gave no random bytes for an id.
    #[error("the system gives no random numbers: {0}")]
    Random(getrandom::Error),
    /// The store has been closed, because the server is stopping.
    #[error("the store of conversations is closed; the server is stopping")]
    Closed,
    /// What was to be done broke off. Nothing of it was.
    #[error(
        "the store of conversations broke off at this, and nothing of it was done; what the program printed says why"
    )]
    Panicked,
}

impl StoreError {
    /// An id as it may stand in a message: what a client sent can be of any length.
    pub(super) fn shown(id: &str) -> String {
        if id.chars().nth(64).is_none() { id.to_owned() } else { id.chars().take(64).chain(['…']).collect() }
    }

    /// The system refuses something at `path`.
    pub(super) fn io(path: &Path, doing: &'static str, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path },
            _ => Self::Io { path, doing, source },
        }
    }

    /// Why an import is refused, and where.
    pub(super) fn import(place: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Import { place: place.into(), reason: reason.into() }
    }
}

impl From<getrandom::Error> for StoreError {
    fn from(error: getrandom::Error) -> Self {
        Self::Random(error)
    }
}

impl From<rusqlite::Error> for StoreError {
    /// What concerns the file as a whole is named with it by whoever knows its path.
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}
