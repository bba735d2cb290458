//! Files that become visible only whole. Called by `tokenizer`, `shards` and `eval`.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::Error;

/// Bytes on their way to `path`: written beside it as `<name>.tmp`, renamed by [`NewFile::commit`], removed otherwise.
pub(crate) struct NewFile {
    path: PathBuf,
    temporary: PathBuf,
    writer: Option<BufWriter<File>>,
}

impl NewFile {
    /// Starts a file; its folder is made if missing.
    pub(crate) fn create(path: &Path) -> Result<Self, Error> {
        let parent = folder(path);
        fs::create_dir_all(parent).map_err(|e| Error::io("create folder", parent, e))?;
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".tmp");
        let temporary = PathBuf::from(temporary);
        let file = File::create(&temporary).map_err(|e| Error::io("create", &temporary, e))?;
        Ok(Self { path: path.to_path_buf(), temporary, writer: Some(BufWriter::with_capacity(1 << 20, file)) })
    }

    /// Appends bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        match &mut self.writer {
            Some(writer) => writer.write_all(bytes).map_err(|e| Error::io("write", &self.path, e)),
            None => Ok(()),
        }
    }

    /// Writes over the first bytes: a header that is known only at the end.
    pub(crate) fn write_at_start(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let Some(writer) = &mut self.writer else {
            return Ok(());
        };
        let mut rewrite = || {
            writer.seek(SeekFrom::Start(0))?;
            writer.write_all(bytes)?;
            writer.seek(SeekFrom::End(0))
        };
        rewrite().map(drop).map_err(|e| Error::io("write", &self.path, e))
    }

    /// SHA-256 of what was written so far, hexadecimal.
    pub(crate) fn sha256(&mut self) -> Result<String, Error> {
        if let Some(writer) = &mut self.writer {
            writer.flush().map_err(|e| Error::io("write", &self.path, e))?;
        }
        sha256_of_file(&self.temporary)
    }

    /// Makes the file visible and durable: fsync, rename, fsync of the folder.
    pub(crate) fn commit(mut self) -> Result<(), Error> {
        let failed = |e: io::Error| Error::io("write", &self.path, e);
        if let Some(writer) = self.writer.take() {
            let file = writer.into_inner().map_err(|e| failed(e.into_error()))?;
            file.sync_all().map_err(failed)?;
        }
        fs::rename(&self.temporary, &self.path).map_err(failed)?;
        sync_folder(folder(&self.path))
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        // After a commit the temporary name is gone, and a failure here leaves only a `.tmp` that the next run replaces.
        self.writer = None;
        let _ = fs::remove_file(&self.temporary);
    }
}

/// Writes a whole file at once: it becomes visible whole, or not at all.
///
/// # Errors
/// [`Error::Io`] and [`Error::DiskFull`].
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let mut file = NewFile::create(path)?;
    file.write(bytes)?;
    file.commit()
}

/// SHA-256 of a file, hexadecimal.
///
/// # Errors
/// [`Error::Io`].
pub fn sha256_of_file(path: &Path) -> Result<String, Error> {
    let failed = |e| Error::io("read", path, e);
    let mut file = File::open(path).map_err(failed)?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(failed)? {
            0 => return Ok(hexadecimal(&digest.finalize())),
            read => digest.update(&buffer[..read]),
        }
    }
}

/// Lower-case hexadecimal digits of a digest.
pub(crate) fn hexadecimal(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(path: &Path) -> Result<(), Error> {
    // Only Unix lets a folder be opened and synced; elsewhere the rename itself is all there is.
    if cfg!(unix) {
        let opened = File::open(path).and_then(|folder| folder.sync_all());
        opened.map_err(|e| Error::io("sync folder", path, e))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_appears_only_when_committed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/a.bin");
        let mut file = NewFile::create(&path).unwrap();
        file.write(b"abc").unwrap();
        assert!(!path.exists());
        drop(file);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 0);
        write_file(&path, b"first").unwrap();
        write_file(&path, b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn header_is_written_last_and_hashed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.bin");
        let mut file = NewFile::create(&path).unwrap();
        file.write(b"????def").unwrap();
        file.write_at_start(b"_abc").unwrap();
        file.write(b"g").unwrap();
        let sha256 = file.sha256().unwrap();
        file.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"_abcdefg");
        assert_eq!(sha256, hexadecimal(&Sha256::digest(b"_abcdefg")));
        assert_eq!(sha256, sha256_of_file(&path).unwrap());
    }

    #[test]
    fn folder_that_is_a_file_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), b"").unwrap();
        let refused = write_file(&dir.path().join("a/b"), b"x");
        assert!(matches!(refused, Err(Error::Io { action: "create folder", .. })));
    }
}
