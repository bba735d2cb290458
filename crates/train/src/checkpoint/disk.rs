//! The disk as the store sees it: files to write, and the space left. Tests put a full one in its place.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// Where checkpoints are written.
pub(super) trait Disk: fmt::Debug + Send + Sync {
    /// Creates a file that does not exist.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Bytes that may still be written to the file system of `directory`.
    fn available(&self, directory: &Path) -> io::Result<u64>;
}

/// An open file of a [`Disk`].
pub(super) trait DiskFile: Write {
    /// Returns once everything is on the medium.
    fn sync(&mut self) -> io::Result<()>;
}

/// The disk of the operating system.
#[derive(Debug)]
pub(super) struct SystemDisk;

impl Disk for SystemDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(File::create_new(path)?))
    }

    fn available(&self, directory: &Path) -> io::Result<u64> {
        fs4::available_space(directory)
    }
}

impl DiskFile for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}
