//! What of a listing is there, what the cache has, and what has to come.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use super::cache::{blob, link_or_copy};
use super::download::Job;
use super::error::HubError;
use super::files::{BlobId, RepositoryFile};
use super::manifest::Manifest;
use super::partial::durable_bytes;
use super::paths::below;
use super::verify::hash_file;

/// Free bytes that a disk must keep.
const MARGIN: u64 = 64 << 20;

/// What to do, file by file.
pub(super) struct Plan {
    /// Bytes of all files.
    pub bytes: u64,
    /// Bytes of those that are in place.
    pub in_place: u64,
    /// Files that are in place, and what is known of their SHA-256.
    pub there: HashMap<String, Option<String>>,
    /// What the cache has, by name: still to be verified.
    pub cached: Vec<Job>,
    /// What has to come.
    pub jobs: Vec<Job>,
}

/// Compares a choice of files with the folder.
///
/// # Errors
/// [`HubError::UnsafePath`], [`HubError::InTheWay`], the disk, [`HubError::Interrupted`].
pub(super) fn make(
    folder: &Path,
    files: &[RepositoryFile],
    before: Option<&Manifest>,
    locate: impl Fn(&RepositoryFile) -> Option<PathBuf>,
    stop: &AtomicBool,
    hashed: &mut dyn FnMut(u64),
) -> Result<Plan, HubError> {
    let own: HashMap<&str, _> = before.iter().flat_map(|m| &m.files).map(|file| (file.path.as_str(), file)).collect();
    let mut plan = Plan { bytes: 0, in_place: 0, there: HashMap::new(), cached: Vec::new(), jobs: Vec::new() };
    let mut missing: BTreeMap<&BlobId, (&RepositoryFile, Vec<PathBuf>)> = BTreeMap::new();
    let mut order = Vec::new();
    let mut lower = HashSet::new();
    for file in files {
        let target = below(&file.path)?;
        if !lower.insert(file.path.to_lowercase()) {
            let reason = "differs from another name in upper and lower case only";
            return Err(HubError::UnsafePath { path: file.path.clone(), reason });
        }
        plan.bytes = plan.bytes.saturating_add(file.size);
        let path = folder.join(&target);
        let mine = own.get(file.path.as_str()).filter(|mine| mine.id().as_ref() == Some(&file.id));
        match (fs::symlink_metadata(&path).ok(), mine) {
            // Of those that this program put there, each was verified before it could be seen.
            (Some(found), Some(mine)) if found.is_file() && found.len() == file.size => {
                plan.there.insert(file.path.clone(), mine.sha256.clone());
                plan.in_place += file.size;
                continue;
            }
            // What of them has another size was damaged since, and is replaced.
            (Some(found), Some(_)) if found.is_file() => {}
            (Some(_), _) => {
                let same = fs::metadata(&path).is_ok_and(|found| found.is_file() && found.len() == file.size);
                let hashes = if same { Some(hash_file(&path, &file.id, file.size, stop, hashed)?) } else { None };
                let Some(hashes) = hashes.filter(|hashes| hashes.id == file.id) else {
                    return Err(HubError::InTheWay { path });
                };
                plan.there.insert(file.path.clone(), Some(hashes.sha256));
                plan.in_place += file.size;
                continue;
            }
            (None, _) => {}
        }
        let (_, targets) = missing.entry(&file.id).or_insert_with(|| {
            order.push(&file.id);
            (file, Vec::new())
        });
        targets.push(target);
    }
    for id in order {
        let Some((file, targets)) = missing.remove(id) else { continue };
        let mut job = Job { file: file.clone(), targets };
        job.file.local = locate(file);
        let list = if job.file.local.is_some() { &mut plan.cached } else { &mut plan.jobs };
        list.push(job);
    }
    Ok(plan)
}

impl Plan {
    /// Takes what the cache has and what turns out to be whole; the rest has to come.
    ///
    /// # Errors
    /// The disk; [`HubError::Interrupted`].
    pub(super) fn take_cached(
        &mut self,
        folder: &Path,
        stop: &AtomicBool,
        hashed: &mut dyn FnMut(u64),
    ) -> Result<u64, HubError> {
        let mut bytes = 0;
        for job in std::mem::take(&mut self.cached) {
            let file = &job.file;
            let Some(local) = &file.local else { continue };
            let hashes = hash_file(local, &file.id, file.size, stop, hashed)?;
            if hashes.id != file.id {
                self.jobs.push(job);
                continue;
            }
            for target in &job.targets {
                link_or_copy(local, folder, &file.id, &folder.join(target))?;
                let name = target.iter().filter_map(|part| part.to_str()).collect::<Vec<_>>().join("/");
                self.there.insert(name, Some(hashes.sha256.clone()));
                self.in_place += file.size;
                bytes += file.size;
            }
        }
        Ok(bytes)
    }

    /// Refuses what does not fit the disk. Where the system does not say how much is free the writes themselves will.
    ///
    /// # Errors
    /// [`HubError::NoRoom`].
    pub(super) fn check_room(&self, folder: &Path, available: Option<u64>) -> Result<(), HubError> {
        let Some(available) = available else { return Ok(()) };
        // A second place of the same bytes is a link where the system has links, and a copy elsewhere.
        let each = |job: &Job| {
            let copies = (job.targets.len() as u64).saturating_mul(job.file.size);
            copies.saturating_sub(durable_bytes(folder, &job.file.id, job.file.size))
        };
        let coming = self.jobs.iter().map(each).fold(0_u64, u64::saturating_add);
        let needed = coming.saturating_add(MARGIN);
        if coming == 0 || needed <= available {
            return Ok(());
        }
        Err(HubError::NoRoom { folder: folder.to_path_buf(), needed, available })
    }
}

/// The place of a file in the Hub's cache, which a snapshot may have named already.
pub(super) fn in_cache(cache: &Path, repository: &str, file: &RepositoryFile) -> Option<PathBuf> {
    file.local.clone().or_else(|| blob(cache, repository, &file.id, file.size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_asked_for_what_still_has_to_come() {
        let dir = tempfile::tempdir().unwrap();
        let file = |size| RepositoryFile { path: "a".into(), size, id: BlobId::Sha256("0".repeat(64)), local: None };
        let job = |size, places| Job { file: file(size), targets: vec!["a".into(); places] };
        let plan = |jobs| Plan { bytes: 0, in_place: 0, there: HashMap::new(), cached: Vec::new(), jobs };
        let check = |jobs, available| plan(jobs).check_room(dir.path(), available);
        assert!(check(vec![job(1000, 1)], Some(MARGIN + 1000)).is_ok());
        let short = check(vec![job(1000, 1)], Some(MARGIN + 999)).unwrap_err().to_string();
        assert!(short.contains(&(MARGIN + 1000).to_string()) && short.contains(&(MARGIN + 999).to_string()), "{short}");
        assert!(check(vec![job(1000, 2)], Some(MARGIN + 1999)).is_err(), "two places may be two copies");
        assert!(check(vec![job(u64::MAX, 3), job(u64::MAX, 1)], Some(u64::MAX - 1)).is_err());
        assert!(check(vec![job(1000, 1)], None).is_ok(), "the system does not say");
        assert!(check(Vec::new(), Some(0)).is_ok(), "nothing has to come");
    }
}
