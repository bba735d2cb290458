//! [`FileLock`]: one process for a run, a database, a folder, by a lock which the system lets go when the process ends,
//! however it ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::Path;

/// A lock on a file, held until dropped. The file stays: removing it would let two processes lock two files of one name.
#[derive(Debug)]
pub struct FileLock(File);

/// Why a lock is not had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process, or another part of this one, has it.
    #[error("in use by {}", pid.map_or("another process".to_owned(), |pid| format!("process {pid}")))]
    Held {
        /// The process, where known.
        pid: Option<u32>,
    },
    /// The file cannot be opened, locked or written.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl FileLock {
    /// Locks the file at `path`, making it where needed, and writes the number of this process into it.
    ///
    /// # Errors
    /// [`LockError`].
    pub fn acquire(path: &Path) -> Result<Self, LockError> {
        // Not truncated on opening: it may hold the number of the process that has the lock.
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                // What cannot be read is not named; that it is locked is what matters.
                let pid = (&file).take(20).read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
                return Err(LockError::Held { pid });
            }
            Err(TryLockError::Error(source)) => return Err(LockError::Io(source)),
        }
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())?;
        Ok(Self(file))
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // Closing the file lets go of the lock in any case; an empty file says that nobody has it.
        let _ = self.0.set_len(0);
        let _ = self.0.unlock();
    }
}
