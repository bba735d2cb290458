//! Small files that are either there whole or not at all: written beside, fsynced, renamed, the directory fsynced.
//!
//! Called by `checkpoint` for its best mark and by `metrics` when it drops rows.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::error::TrainError;

/// Replaces `path` by `bytes`.
///
/// # Errors
/// [`TrainError::DiskFull`] or [`TrainError::Io`]; what was at `path` is then unchanged.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    let beside = beside(path);
    let written = write_synced(&beside, bytes).and_then(|()| fs::rename(&beside, path));
    if let Err(source) = written {
        // The error that matters is the one above; a leftover is overwritten next time.
        let _ = fs::remove_file(&beside);
        return Err(TrainError::from_io(path, "write", bytes.len() as u64, source));
    }
    sync_directory(path.parent().unwrap_or(Path::new(".")))
}

/// Makes the names in a directory survive a power cut.
///
/// # Errors
/// [`TrainError::Io`].
pub(crate) fn sync_directory(directory: &Path) -> Result<(), TrainError> {
    // "" is the parent of a bare file name.
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    // Windows opens no directories; there the rename itself is journalled.
    if cfg!(unix) {
        File::open(directory)
            .and_then(|open| open.sync_all())
            .map_err(|source| TrainError::from_io(directory, "sync", 0, source))?;
    }
    Ok(())
}

fn beside(path: &Path) -> PathBuf {
    let mut name = OsString::from(".tmp-");
    name.push(path.file_name().unwrap_or_default());
    path.with_file_name(name)
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_the_whole_file_and_leaves_nothing_beside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mark.json");
        replace(&path, b"a long first version").unwrap();
        replace(&path, b"short").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"short");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mark.json");
        replace(&path, b"old").unwrap();
        // A directory where the temporary file should go makes the write fail, for root too.
        fs::create_dir(beside(&path)).unwrap();
        assert!(matches!(replace(&path, b"new"), Err(TrainError::Io { .. })));
        assert_eq!(fs::read(&path).unwrap(), b"old");
    }
}
