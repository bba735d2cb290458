//! [`Partial`]: the bytes of a file that is on its way, and how many of them are durable.
//!
//! They stand in `.fetching/HASH.part`. Beside it `HASH.json` says how many bytes had been synced to the medium when it was
//! written, and which version the server called them. Whoever goes on cuts the file to that number: a killed process has
//! lost nothing before it, and what a power cut left behind it is not believed.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::files::{BlobId, Digests, Hashes};
use crate::durable::{sync_folder, write_file};
use crate::error::Error;

/// Folder of the unfinished, below that of the data set.
pub const PARTIALS: &str = ".fetching";

/// Bytes of a file of `size` bytes that may be lost when the process is killed.
pub fn sync_bytes(size: u64) -> u64 {
    (size / 16).clamp(64 << 10, 16 << 20)
}

#[derive(Default, Serialize, Deserialize)]
struct State {
    synced: u64,
    etag: Option<String>,
}

/// A file on its way.
pub(super) struct Partial {
    path: PathBuf,
    state: PathBuf,
    file: File,
    id: BlobId,
    size: u64,
    length: u64,
    synced: u64,
    etag: Option<String>,
    digests: Digests,
}

impl Partial {
    /// Opens what there is of a file, or begins it.
    ///
    /// # Errors
    /// The disk.
    pub(super) fn open(folder: &Path, id: &BlobId, size: u64) -> Result<Self, Error> {
        let partials = folder.join(PARTIALS);
        fs::create_dir_all(&partials).map_err(|e| Error::io("create folder", &partials, e))?;
        let (path, state) = (partials.join(format!("{id}.part")), partials.join(format!("{id}.json")));
        let failed = |e| Error::io("open", &path, e);
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        // A state that cannot be read says nothing, and nothing is believed then.
        let known: State =
            fs::read(&state).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        let there = file.metadata().map_err(failed)?.len();
        let synced = if known.synced <= there.min(size) { known.synced } else { 0 };
        let etag = known.etag.filter(|_| synced > 0);
        let mut partial = Self {
            digests: Digests::new(id, size),
            id: id.clone(),
            size,
            length: 0,
            synced: 0,
            path,
            state,
            file,
            etag,
        };
        partial.cut(synced)?;
        partial.rehash(synced)?;
        partial.synced = synced;
        Ok(partial)
    }

    /// Bytes that are there.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// What the server calls the version of which they are.
    pub(super) fn etag(&self) -> Option<&str> {
        self.etag.as_deref()
    }

    pub(super) fn set_etag(&mut self, etag: Option<String>) {
        self.etag = etag;
    }

    /// Appends. More than the file's size is a mistake of the caller.
    ///
    /// # Errors
    /// The disk; what was there before is still.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if let Err(error) = self.file.write_all(bytes) {
            // A torn tail would be taken for what comes next.
            let _ = self.cut(self.length);
            return Err(Error::io("write", &self.path, error));
        }
        self.digests.update(bytes);
        self.length += bytes.len() as u64;
        if self.length - self.synced >= sync_bytes(self.size) { self.sync() } else { Ok(()) }
    }

    /// Makes durable what is there.
    ///
    /// # Errors
    /// The disk.
    pub(super) fn sync(&mut self) -> Result<(), Error> {
        if self.synced == self.length {
            return Ok(());
        }
        self.file.sync_data().map_err(|e| Error::io("write", &self.path, e))?;
        self.remember(self.length)
    }

    /// Begins again.
    ///
    /// # Errors
    /// The disk.
    pub(super) fn reset(&mut self) -> Result<(), Error> {
        // In this order: the state must never promise more than there is.
        if self.synced > 0 {
            self.remember(0)?;
        }
        self.cut(0)?;
        self.digests = Digests::new(&self.id, self.size);
        self.length = 0;
        self.etag = None;
        Ok(())
    }

    /// The hashes of the whole.
    pub(super) fn hashes(&self) -> Hashes {
        self.digests.clone().finish()
    }

    /// Makes the file visible at `target`, durably.
    ///
    /// # Errors
    /// The disk.
    pub(super) fn place(self, target: &Path) -> Result<(), Error> {
        let failed = |e| Error::io("write", target, e);
        self.file.sync_all().map_err(failed)?;
        drop(self.file);
        move_into_place(&self.path, target)?;
        // Without its bytes it says nothing; the next run would ignore it.
        let _ = fs::remove_file(&self.state);
        Ok(())
    }

    fn remember(&mut self, synced: u64) -> Result<(), Error> {
        let state = State { synced, etag: self.etag.clone() };
        let text = serde_json::to_vec(&state).map_err(|e| Error::io("write", &self.state, e.into()))?;
        write_file(&self.state, &text)?;
        self.synced = synced;
        Ok(())
    }

    fn cut(&mut self, length: u64) -> Result<(), Error> {
        let mut cut = || {
            self.file.set_len(length)?;
            self.file.seek(SeekFrom::Start(length))
        };
        cut().map(drop).map_err(|e| Error::io("write", &self.path, e))
    }

    fn rehash(&mut self, length: u64) -> Result<(), Error> {
        let failed = |e| Error::io("read", &self.path, e);
        self.file.seek(SeekFrom::Start(0)).map_err(failed)?;
        let mut buffer = vec![0; 1 << 20];
        let mut left = length;
        while left > 0 {
            let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            self.file.read_exact(&mut buffer[..want]).map_err(failed)?;
            self.digests.update(&buffer[..want]);
            left -= want as u64;
        }
        self.length = length;
        Ok(())
    }
}

/// Bytes that are durable of a file that is on its way; for the plan.
pub(super) fn durable_bytes(folder: &Path, id: &BlobId, size: u64) -> u64 {
    let partials = folder.join(PARTIALS);
    let state = fs::read(partials.join(format!("{id}.json"))).ok();
    let known: State = state.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
    let there = fs::metadata(partials.join(format!("{id}.part"))).map_or(0, |metadata| metadata.len());
    if known.synced <= there.min(size) { known.synced } else { 0 }
}

/// Renames a file that is on the medium to where it is to be seen, and makes that durable.
pub(super) fn move_into_place(from: &Path, target: &Path) -> Result<(), Error> {
    let parent = target.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(|e| Error::io("create folder", parent, e))?;
    fs::rename(from, target).map_err(|e| Error::io("write", target, e))?;
    sync_folder(parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id_of(bytes: &[u8]) -> BlobId {
        let mut digests = Digests::new(&BlobId::Sha256(String::new()), 0);
        digests.update(bytes);
        digests.finish().id
    }

    #[test]
    fn goes_on_at_the_last_sync_and_ends_with_the_hash() {
        let dir = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..300_000_u32).map(|i| (i * 7 % 251) as u8).collect();
        let (id, size) = (id_of(&bytes), bytes.len() as u64);
        let mut partial = Partial::open(dir.path(), &id, size).unwrap();
        partial.set_etag(Some("\"v1\"".into()));
        for chunk in bytes[..150_000].chunks(1000) {
            partial.write(chunk).unwrap();
        }
        // As if killed: nothing is said to the file.
        std::mem::forget(partial);
        let mut partial = Partial::open(dir.path(), &id, size).unwrap();
        // 64 kB is the least that is synced, in steps of the chunks.
        assert_eq!((partial.length(), partial.etag()), (132_000, Some("\"v1\"")));
        assert_eq!(durable_bytes(dir.path(), &id, size), 132_000);
        partial.write(&bytes[132_000..200_000]).unwrap();
        partial.sync().unwrap();
        drop(partial);
        let mut partial = Partial::open(dir.path(), &id, size).unwrap();
        assert_eq!(partial.length(), 200_000);
        partial.write(&bytes[200_000..]).unwrap();
        assert_eq!(partial.hashes().id, id);
        let target = dir.path().join("sub/a.bin");
        partial.place(&target).unwrap();
        assert_eq!(fs::read(target).unwrap(), bytes);
        assert_eq!(fs::read_dir(dir.path().join(PARTIALS)).unwrap().count(), 0);
    }

    #[test]
    fn a_state_that_promises_too_much_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let id = id_of(b"abcdef");
        let mut partial = Partial::open(dir.path(), &id, 6).unwrap();
        partial.write(b"abc").unwrap();
        partial.sync().unwrap();
        drop(partial);
        let state = dir.path().join(PARTIALS).join(format!("{id}.json"));
        for text in ["{\"synced\":4}", "{\"synced\":99999999999}", "{\"synced\":-1}", "not JSON", ""] {
            fs::write(&state, text).unwrap();
            assert_eq!(durable_bytes(dir.path(), &id, 6), 0, "{text}");
        }
        assert_eq!(Partial::open(dir.path(), &id, 6).unwrap().length(), 0);
    }

    #[test]
    fn begins_again_from_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let id = id_of(b"abcdef");
        let mut partial = Partial::open(dir.path(), &id, 6).unwrap();
        partial.write(b"xyz").unwrap();
        partial.sync().unwrap();
        partial.reset().unwrap();
        assert_eq!(durable_bytes(dir.path(), &id, 6), 0);
        partial.write(b"abcdef").unwrap();
        assert_eq!(partial.hashes().id, id);
    }
}
