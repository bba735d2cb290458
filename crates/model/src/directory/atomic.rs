//! Files that become visible only whole, and together as nearly as a file system allows.

use crate::error::ModelError;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Files being written beside their places. Dropped before [`Staging::publish`], it removes them, and the folders that were
/// made for them.
pub(crate) struct Staging {
    dir: PathBuf,
    names: Vec<String>,
    /// Folders that were not there before, the innermost first.
    made: Vec<PathBuf>,
}

impl Staging {
    pub(crate) fn new(dir: &Path) -> Result<Self, ModelError> {
        let missing = dir.ancestors().take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists());
        let staging = Self { dir: dir.to_owned(), names: Vec::new(), made: missing.map(Path::to_owned).collect() };
        fs::create_dir_all(dir).map_err(|source| ModelError::Io { path: dir.to_owned(), doing: "make", source })?;
        Ok(staging)
    }

    /// Writes all of one file and brings it to the disk.
    pub(crate) fn write(&mut self, name: &str, contents: &[u8]) -> Result<(), ModelError> {
        let path = self.dir.join(name);
        self.write_with(name, |file| file.write_all(contents).map_err(|source| unwritable(&path, source)))
    }

    /// Writes one file through `fill` and brings it to the disk.
    pub(crate) fn write_with<T>(
        &mut self,
        name: &str,
        fill: impl FnOnce(&mut File) -> Result<T, ModelError>,
    ) -> Result<T, ModelError> {
        let (path, mut file) = self.create(name)?;
        let result = fill(&mut file)?;
        file.sync_all().map_err(|source| unwritable(&path, source))?;
        Ok(result)
    }

    /// A new file, and its temporary path. It must be on the disk, by `sync_all`, before [`Staging::publish`].
    pub(crate) fn create(&mut self, name: &str) -> Result<(PathBuf, File), ModelError> {
        let path = self.temporary(name);
        let file = File::create(&path).map_err(|source| unwritable(&path, source))?;
        self.names.push(name.to_owned());
        Ok((path, file))
    }

    /// Moves every file to its place, in the order written, and makes that last.
    pub(crate) fn publish(mut self) -> Result<(), ModelError> {
        for name in &self.names {
            let path = self.dir.join(name);
            fs::rename(self.temporary(name), &path).map_err(|source| unwritable(&path, source))?;
        }
        self.names.clear();
        self.made.clear();
        sync_directory(&self.dir)
    }

    /// A fixed name, so that what a killed save left is overwritten by the next.
    fn temporary(&self, name: &str) -> PathBuf {
        self.dir.join(format!(".{name}.tmp"))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        for name in &self.names {
            // Already renamed, or beyond help: the error that led here is the one worth reporting.
            let _ = fs::remove_file(self.temporary(name));
        }
        for folder in &self.made {
            // Stays where somebody else has put something into it meanwhile.
            let _ = fs::remove_dir(folder);
        }
    }
}

/// Without this a rename may be lost with the power; directories cannot be synced outside Unix, nor need they be.
fn sync_directory(dir: &Path) -> Result<(), ModelError> {
    if cfg!(unix) {
        File::open(dir).and_then(|file| file.sync_all()).map_err(|source| unwritable(dir, source))?;
    }
    Ok(())
}

pub(crate) fn unwritable(path: &Path, source: io::Error) -> ModelError {
    ModelError::Io { path: path.to_owned(), doing: "write", source }
}

pub(crate) fn unreadable(path: &Path, source: io::Error) -> ModelError {
    if source.kind() == io::ErrorKind::NotFound {
        ModelError::MissingFile { path: path.to_owned() }
    } else {
        ModelError::Io { path: path.to_owned(), doing: "read", source }
    }
}
