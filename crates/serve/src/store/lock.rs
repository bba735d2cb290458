//! One server for a database: a lock on a file beside it, which the system lets go when the process ends, however it
//! ends. SQLite's own locks would let two servers take turns, and each would take the other's running answers for
//! left-overs of a crash.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

use super::error::StoreError;

/// Held until dropped. The file stays: removing it would let two processes lock two files of one name.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Lock {
    /// # Errors
    /// [`StoreError::Locked`] when another process, or another part of this one, has it; [`StoreError::Io`].
    pub(super) fn acquire(database: &Path) -> Result<Self, StoreError> {
        let mut name = database.as_os_str().to_owned();
        name.push(".lock");
        let io = |source| StoreError::Io { path: name.clone().into(), doing: "lock", source };
        // Not truncated on opening: it may hold the number of the process that has the lock.
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&name).map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let pid = (&file).take(20).read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
                return Err(StoreError::Locked { path: database.to_owned(), pid });
            }
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(io)?;
        Ok(Self(file))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing the file lets go of the lock in any case; an empty file says that nobody has it.
        let _ = self.0.set_len(0);
        let _ = self.0.unlock();
    }
}
