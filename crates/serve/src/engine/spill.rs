//! Keys and values on disk: what has no room in memory, and what shall outlive the process. A folder with one file a
//! sequence, none of which is ever trusted: a file of another model, a torn or a damaged one is removed and forgotten.
//!
//! A file: magic, length and bytes of the model's fingerprint, token count, bytes a token, the ids, CRC-32 of ids and
//! rows, the rows block by block. Integers are little-endian. Written beside its place and renamed; not fsynced, because a
//! loss costs a prefill and the checksum notices.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use casallm_data::file_lock::{FileLock, LockError};

use super::stored::BLOCK;

const MAGIC: &[u8; 8] = b"CASAKV02";
/// Longest sequence and fingerprint that a file may claim.
const MOST_TOKENS: u32 = 1 << 24;
const LONGEST_FINGERPRINT: u32 = 1 << 10;

struct Entry {
    number: u64,
    bytes: u64,
    ids: Vec<u32>,
}

/// The folder.
pub struct Spill {
    dir: PathBuf,
    fingerprint: String,
    budget: u64,
    /// The longest unused first.
    files: Vec<Entry>,
    evicted: Vec<u64>,
    next: u64,
    /// Of two processes each would remove and overwrite what the other's books say is there.
    _lock: FileLock,
}

impl Spill {
    /// Opens or makes a folder, and removes from it what is not of this model or beyond the budget.
    ///
    /// # Errors
    /// [`LockError::Held`] when another process uses it; [`LockError::Io`] when it cannot be made or listed.
    pub fn open(dir: &Path, fingerprint: &str, budget: u64) -> Result<Self, LockError> {
        fs::create_dir_all(dir)?;
        let lock = FileLock::acquire(&dir.join("cache.lock"))?;
        let mut spill = Spill {
            dir: dir.to_owned(),
            fingerprint: fingerprint.to_owned(),
            budget,
            files: Vec::new(),
            evicted: Vec::new(),
            next: 0,
            _lock: lock,
        };
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            match path.extension().and_then(|e| e.to_str()) {
                Some("kv") => match (stem.parse(), spill.header(&path)) {
                    (Ok(number), Ok(Some((ids, bytes)))) => {
                        spill.next = spill.next.max(number + 1);
                        spill.files.push(Entry { number, bytes, ids });
                    }
                    _ => _ = fs::remove_file(&path),
                },
                // Left by a process that was killed while it wrote.
                Some("part") => _ = fs::remove_file(&path),
                // Somebody else's.
                _ => {}
            }
        }
        // They are numbered in the order in which they were written.
        spill.files.sort_by_key(|entry| entry.number);
        spill.shrink();
        spill.evicted.clear();
        Ok(spill)
    }

    /// The sequences on disk, the longest unused first.
    pub(super) fn contents(&self) -> impl Iterator<Item = (u64, Vec<u32>)> + '_ {
        self.files.iter().map(|entry| (entry.number, entry.ids.clone()))
    }

    /// Numbers of files that had to go since the last question.
    pub(super) fn take_evicted(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.evicted)
    }

    /// Writes a sequence and gives its number. None when it is larger than the budget or cannot be written.
    pub(super) fn write(&mut self, ids: &[u32], blocks: &[Arc<Vec<u8>>]) -> Option<u64> {
        let bytes = blocks.iter().map(|block| block.len() as u64).sum::<u64>() + 4 * ids.len() as u64;
        if bytes > self.budget {
            return None;
        }
        let number = self.next;
        self.next += 1;
        if self.write_file(number, ids, blocks).is_err() {
            let _ = fs::remove_file(self.dir.join(format!("{number}.part")));
            return None;
        }
        self.files.push(Entry { number, bytes, ids: ids.to_vec() });
        self.shrink();
        Some(number)
    }

    fn write_file(&self, number: u64, ids: &[u32], blocks: &[Arc<Vec<u8>>]) -> io::Result<()> {
        let (part, path) = (self.dir.join(format!("{number}.part")), self.path(number));
        let mut file = BufWriter::new(File::create(&part)?);
        let rows: usize = blocks.iter().map(|block| block.len()).sum();
        file.write_all(MAGIC)?;
        file.write_all(&(self.fingerprint.len() as u32).to_le_bytes())?;
        file.write_all(self.fingerprint.as_bytes())?;
        file.write_all(&(ids.len() as u32).to_le_bytes())?;
        file.write_all(&((rows / ids.len().max(1)) as u32).to_le_bytes())?;
        let mut checksum = crc32fast::Hasher::new();
        for id in ids {
            checksum.update(&id.to_le_bytes());
            file.write_all(&id.to_le_bytes())?;
        }
        blocks.iter().for_each(|block| checksum.update(block));
        file.write_all(&checksum.finalize().to_le_bytes())?;
        for block in blocks {
            file.write_all(block)?;
        }
        file.into_inner().map_err(io::IntoInnerError::into_error)?;
        fs::rename(part, path)
    }

    /// The rows of a sequence, in blocks; none when the file is not what it should be. The file goes either way: what was
    /// read is in memory, and what is damaged is of no use.
    pub(super) fn take(&mut self, number: u64, ids: &[u32], bytes_a_token: usize) -> Option<Vec<Vec<u8>>> {
        let blocks = self.read_file(&self.path(number), ids, bytes_a_token).ok().flatten();
        self.remove(number);
        blocks
    }

    fn read_file(&self, path: &Path, wanted_ids: &[u32], bytes_a_token: usize) -> io::Result<Option<Vec<Vec<u8>>>> {
        let mut file = BufReader::new(File::open(path)?);
        let Some((ids, found)) = self.read_header(&mut file)? else { return Ok(None) };
        // Another process may have written another sequence under this name.
        if (ids.as_slice(), found as usize) != (wanted_ids, bytes_a_token) {
            return Ok(None);
        }
        let tokens = ids.len();
        let wanted = read_u32(&mut file)?;
        let mut checksum = crc32fast::Hasher::new();
        ids.iter().for_each(|id| checksum.update(&id.to_le_bytes()));
        let mut blocks = Vec::new();
        for at in (0..tokens).step_by(BLOCK) {
            let mut block = vec![0; BLOCK.min(tokens - at) * bytes_a_token];
            file.read_exact(&mut block)?;
            checksum.update(&block);
            blocks.push(block);
        }
        Ok((checksum.finalize() == wanted).then_some(blocks))
    }

    /// Ids and size of a file, if it is this model's and has the length that it claims.
    fn header(&self, path: &Path) -> io::Result<Option<(Vec<u32>, u64)>> {
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        let Some((ids, bytes_a_token)) = self.read_header(&mut BufReader::new(file))? else { return Ok(None) };
        let header = (MAGIC.len() + 4 + self.fingerprint.len() + 4 + 4 + 4 * ids.len() + 4) as u64;
        let rows = ids.len() as u64 * u64::from(bytes_a_token);
        Ok((len == header + rows).then(|| (ids.clone(), rows + 4 * ids.len() as u64)))
    }

    fn read_header(&self, file: &mut impl Read) -> io::Result<Option<(Vec<u32>, u32)>> {
        let mut magic = [0; 8];
        file.read_exact(&mut magic)?;
        let length = read_u32(file)?;
        if &magic != MAGIC || length > LONGEST_FINGERPRINT {
            return Ok(None);
        }
        let mut fingerprint = vec![0; length as usize];
        file.read_exact(&mut fingerprint)?;
        let (tokens, bytes_a_token) = (read_u32(file)?, read_u32(file)?);
        if fingerprint != self.fingerprint.as_bytes() || tokens > MOST_TOKENS {
            return Ok(None);
        }
        // Grows with what is really there, whatever the file claims.
        let mut ids = Vec::new();
        for _ in 0..tokens {
            ids.push(read_u32(file)?);
        }
        Ok(Some((ids, bytes_a_token)))
    }

    /// Removes a file.
    pub(super) fn remove(&mut self, number: u64) {
        self.files.retain(|entry| entry.number != number);
        let _ = fs::remove_file(self.path(number));
    }

    fn shrink(&mut self) {
        while self.files.iter().map(|entry| entry.bytes).sum::<u64>() > self.budget {
            let number = self.files[0].number;
            self.remove(number);
            self.evicted.push(number);
        }
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{number}.kv"))
    }
}

fn read_u32(file: &mut impl Read) -> io::Result<u32> {
    let mut bytes = [0; 4];
    file.read_exact(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(tokens: usize, seed: u8) -> Vec<Arc<Vec<u8>>> {
        let bytes: Vec<u8> = (0..tokens * 3).map(|i| (i as u8).wrapping_mul(31) ^ seed).collect();
        bytes.chunks(BLOCK * 3).map(|block| Arc::new(block.to_vec())).collect()
    }

    fn ids(tokens: u32) -> Vec<u32> {
        (0..tokens).collect()
    }

    fn contents(spill: &Spill) -> Vec<(u64, usize)> {
        spill.contents().map(|(number, ids)| (number, ids.len())).collect()
    }

    #[test]
    fn a_sequence_outlives_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let mut spill = Spill::open(dir.path(), "model", 1 << 20).unwrap();
        let number = spill.write(&ids(150), &blocks(150, 1)).unwrap();
        drop(spill);
        let mut spill = Spill::open(dir.path(), "model", 1 << 20).unwrap();
        assert_eq!(contents(&spill), [(number, 150)]);
        let read: Vec<u8> = spill.take(number, &ids(150), 3).unwrap().concat();
        assert_eq!(read, blocks(150, 1).iter().flat_map(|b| b.to_vec()).collect::<Vec<u8>>());
        // Another sequence's rows are no use, nor another model's files.
        let number = spill.write(&ids(150), &blocks(150, 1)).unwrap();
        assert!(spill.take(number, &[&ids(149)[..], &[7]].concat(), 3).is_none());
        spill.write(&ids(150), &blocks(150, 1)).unwrap();
        assert!(matches!(Spill::open(dir.path(), "other", 1 << 20), Err(LockError::Held { pid: Some(_) })));
        drop(spill);
        assert!(contents(&Spill::open(dir.path(), "other", 1 << 20).unwrap()).is_empty());
    }

    #[test]
    fn damaged_files_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let mut spill = Spill::open(dir.path(), "model", 1 << 20).unwrap();
        let number = spill.write(&ids(150), &blocks(150, 1)).unwrap();
        let path = spill.path(number);
        let good = fs::read(&path).unwrap();
        let mut flipped = good.clone();
        *flipped.last_mut().unwrap() ^= 1;
        fs::write(&path, &flipped).unwrap();
        assert!(spill.take(number, &ids(150), 3).is_none());
        assert!(!path.exists() && contents(&spill).is_empty());
        // In the ids as well.
        let mut flipped = good.clone();
        flipped[8 + 4 + 5 + 8 + 1] ^= 1;
        fs::write(&path, &flipped).unwrap();
        drop(spill);
        let mut found = Spill::open(dir.path(), "model", 1 << 20).unwrap();
        let (number, of_file) = found.contents().next().unwrap();
        assert!(of_file != ids(150) && found.take(number, &of_file, 3).is_none());
        drop(found);
        // Cut anywhere, lengthened, or claiming more than there is.
        let mut claims = good.clone();
        claims[17..21].copy_from_slice(&u32::MAX.to_le_bytes());
        let longer = [good.clone(), vec![0]].concat();
        for bytes in [&good[..0], &good[..5], &good[..40], &good[..good.len() - 1], &longer, &claims] {
            fs::write(&path, bytes).unwrap();
            fs::write(dir.path().join("9.part"), b"torn").unwrap();
            assert!(contents(&Spill::open(dir.path(), "model", 1 << 20).unwrap()).is_empty());
            assert!(!path.exists() && !dir.path().join("9.part").exists());
        }
    }

    #[test]
    fn the_oldest_make_room() {
        let dir = tempfile::tempdir().unwrap();
        let mut spill = Spill::open(dir.path(), "model", 7 * 250).unwrap();
        let first = spill.write(&ids(100), &blocks(100, 1)).unwrap();
        let second = spill.write(&ids(100), &blocks(100, 2)).unwrap();
        assert!(spill.take_evicted().is_empty());
        let third = spill.write(&ids(100), &blocks(100, 3)).unwrap();
        assert_eq!(spill.take_evicted(), [first]);
        assert_eq!(contents(&spill), [(second, 100), (third, 100)]);
        assert!(spill.write(&ids(300), &blocks(300, 3)).is_none());
    }
}
