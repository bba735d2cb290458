//! One process per run: a lock on a file in the run's directory, which the system lets go when the process ends,
//! however it ends. Taken by the command line before anything in the directory is written.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use crate::error::TrainError;

const NAME: &str = "run.lock";

/// A lock on a run directory, held until dropped. The file stays: removing it would let two processes lock two files
/// of one name.
#[derive(Debug)]
pub struct RunLock {
    file: File,
    path: PathBuf,
}

impl RunLock {
    /// Locks `directory`, creating it where needed.
    ///
    /// # Errors
    /// [`TrainError::RunLocked`] when another process, or another part of this one, holds it; [`TrainError::Io`],
    /// [`TrainError::DiskFull`].
    pub fn acquire(directory: &Path) -> Result<Self, TrainError> {
        std::fs::create_dir_all(directory).map_err(|source| TrainError::from_io(directory, "create", 0, source))?;
        let path = directory.join(NAME);
        let io = |source| TrainError::from_io(&path, "lock", 0, source);
        // Not truncated on opening: it may hold the number of the process that has the lock.
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                // What cannot be read is not named; that it is locked is what matters.
                let pid = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
                return Err(TrainError::RunLocked { path, pid });
            }
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(io)?;
        Ok(Self { file, path })
    }

    /// The lock file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for RunLock {
    fn drop(&mut self) {
        // Closing the file lets go of the lock in any case; an empty file says that nobody has it.
        let _ = self.file.set_len(0);
        let _ = self.file.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_lock_is_refused_by_the_firsts_process_number_until_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("runs/a");
        let first = RunLock::acquire(&run).unwrap();
        let error = RunLock::acquire(&run).unwrap_err();
        assert!(matches!(error, TrainError::RunLocked { pid: Some(pid), .. } if pid == std::process::id()));
        assert!(error.to_string().contains(&format!("process {} is training", std::process::id())), "{error}");
        assert!(first.path().ends_with("runs/a/run.lock"));
        drop(first);
        RunLock::acquire(&run).unwrap();
    }

    #[test]
    fn a_number_that_cannot_be_read_is_not_named() {
        let dir = tempfile::tempdir().unwrap();
        let first = RunLock::acquire(dir.path()).unwrap();
        std::fs::write(first.path(), "junk").unwrap();
        let error = RunLock::acquire(dir.path()).unwrap_err();
        assert!(matches!(error, TrainError::RunLocked { pid: None, .. }));
        assert!(error.to_string().contains("another process"), "{error}");
    }

    #[test]
    fn a_file_left_by_a_killed_process_locks_nobody_out() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(NAME), "99999999\nand more").unwrap();
        let lock = RunLock::acquire(dir.path()).unwrap();
        assert_eq!(std::fs::read_to_string(lock.path()).unwrap(), format!("{}\n", std::process::id()));
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let error = RunLock::acquire(&dir.path().join("file/run")).unwrap_err();
        assert!(matches!(error, TrainError::Io { doing: "create", .. }), "{error}");
    }
}
