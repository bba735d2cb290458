//! [`FileLock`]: one process for a run, a database, a folder, by a lock which the system lets go when the process ends,
//! however it ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::Path;
use std::thread;
use std::time::Duration;

/// The lock of a run's folder.
pub const RUN_LOCK: &str = "run.lock";
/// The lock of a folder into which `casallm tokenize` writes.
pub const SHARDS_LOCK: &str = "tokenize.lock";

/// Whoever only asks for a lock ([`FileLock::is_held`]) has it for an instant: so often, and so long, it is waited for.
const TRIES: u32 = 20;
const BETWEEN: Duration = Duration::from_millis(5);

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
        let mut tries = 1;
        let locked = loop {
            match file.try_lock() {
                Err(TryLockError::WouldBlock) if tries < TRIES => thread::sleep(BETWEEN),
                locked => break locked,
            }
            tries += 1;
        };
        match locked {
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

    /// Whether somebody has the lock of the file at `path`. A file that is not there, is empty, or cannot be read is held
    /// by nobody that is known.
    pub fn is_held(path: &Path) -> bool {
        let Ok(file) = File::open(path) else { return false };
        // Who lets go empties the file: only after a process that was killed is the lock itself asked.
        if file.metadata().map_or(true, |metadata| metadata.len() == 0) {
            return false;
        }
        matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // Closing the file lets go of the lock in any case; an empty file says that nobody has it.
        let _ = self.0.set_len(0);
        let _ = self.0.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_sees_the_lock_and_does_not_have_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.lock");
        assert!(!FileLock::is_held(&path));
        let lock = FileLock::acquire(&path).unwrap();
        assert!(FileLock::is_held(&path));
        drop(lock);
        assert!(!FileLock::is_held(&path));
    }

    #[test]
    fn whoever_has_it_for_an_instant_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.lock");
        std::fs::write(&path, "7\n").unwrap();
        let asking = File::open(&path).unwrap();
        asking.lock_shared().unwrap();
        let other = thread::spawn({
            let path = path.clone();
            move || FileLock::acquire(&path).map(drop)
        });
        drop(asking);
        other.join().unwrap().unwrap();
        assert!(matches!(
            FileLock::acquire(&path).map(|_first| FileLock::acquire(&path).unwrap_err()),
            Ok(LockError::Held { pid: Some(pid) }) if pid == std::process::id()
        ));
    }
}
