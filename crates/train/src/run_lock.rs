//! One process per run: a lock on a file in the run's directory. Taken by the command line before anything in the directory
//! is written.

use std::path::{Path, PathBuf};

use casallm_data::file_lock::{FileLock, LockError, RUN_LOCK};

use crate::error::TrainError;

/// A lock on a run directory, held until dropped.
#[derive(Debug)]
pub struct RunLock {
    path: PathBuf,
    _lock: FileLock,
}

impl RunLock {
    /// Locks `directory`, creating it where needed.
    ///
    /// # Errors
    /// [`TrainError::RunLocked`] when another process, or another part of this one, holds it; [`TrainError::Io`],
    /// [`TrainError::NoRoomToBegin`].
    pub fn acquire(directory: &Path) -> Result<Self, TrainError> {
        let refused = |path: &Path, doing, source| match TrainError::from_io(path, doing, 0, source) {
            TrainError::DiskFull { .. } => TrainError::NoRoomToBegin { path: directory.to_owned() },
            error => error,
        };
        std::fs::create_dir_all(directory).map_err(|source| refused(directory, "create", source))?;
        let path = directory.join(RUN_LOCK);
        match FileLock::acquire(&path) {
            Ok(lock) => Ok(Self { path, _lock: lock }),
            Err(LockError::Held { pid }) => Err(TrainError::RunLocked { path, pid }),
            Err(LockError::Io(source)) => Err(refused(&path, "lock", source)),
        }
    }

    /// The lock file.
    pub fn path(&self) -> &Path {
        &self.path
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
        std::fs::write(dir.path().join(RUN_LOCK), "99999999\nand more").unwrap();
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
