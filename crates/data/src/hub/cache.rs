//! The Hub's own cache, as `huggingface_hub` lays it out: `datasets--OWNER--NAME/blobs/HASH`, and
//! `snapshots/COMMIT/PATH` as links to them, and `refs/REVISION` with a commit in it. It is read, never written.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use super::api::Info;
use super::error::HubError;
use super::files::{BlobId, RepositoryFile};
use super::partial::{PARTIALS, move_into_place};
use super::verify::hash_file;
use crate::durable::sync_folder;
use crate::error::Error;

fn folder(cache: &Path, repository: &str) -> PathBuf {
    cache.join(format!("datasets--{}", repository.replace('/', "--")))
}

/// Where the cache has bytes of this hash and size, by their name only.
pub(super) fn blob(cache: &Path, repository: &str, id: &BlobId, size: u64) -> Option<PathBuf> {
    // The link itself must not be taken for the file.
    let path = fs::canonicalize(folder(cache, repository).join("blobs").join(id.as_str())).ok()?;
    fs::metadata(&path).is_ok_and(|found| found.is_file() && found.len() == size).then_some(path)
}

/// What the cache knows of a revision: its commit, and the files of it that are there.
///
/// # Errors
/// The disk; [`HubError::Interrupted`].
pub(super) fn snapshot(
    cache: &Path,
    repository: &str,
    revision: &str,
    stop: &AtomicBool,
) -> Result<Option<(Info, Vec<RepositoryFile>)>, HubError> {
    let own = folder(cache, repository);
    let is_commit = |text: &str| matches!(BlobId::parse(text), Some(BlobId::GitSha1(_)));
    let commit = match is_commit(revision) {
        true => revision.to_owned(),
        // A revision that names another place than a file below `refs` is none.
        false if revision.split('/').any(|part| matches!(part, "" | "." | "..")) => return Ok(None),
        false => match fs::read_to_string(own.join("refs").join(revision)) {
            Ok(text) if is_commit(text.trim()) => text.trim().to_owned(),
            _ => return Ok(None),
        },
    };
    let root = own.join("snapshots").join(&commit);
    let mut files = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(inner) = folders.pop() {
        let Ok(entries) = fs::read_dir(&inner) else { continue };
        for entry in entries {
            let path = entry.map_err(|e| Error::io("read folder", &inner, e))?.path();
            if path.is_dir() && !path.is_symlink() {
                folders.push(path);
                continue;
            }
            let (Ok(local), Ok(below)) = (fs::canonicalize(&path), path.strip_prefix(&root)) else { continue };
            let Some(name) = below.iter().map(|part| part.to_str()).collect::<Option<Vec<_>>>() else { continue };
            let size = fs::metadata(&local).map_err(|e| Error::io("read", &local, e))?.len();
            let linked = fs::read_link(&path).ok();
            let id = match linked.as_ref().and_then(|to| BlobId::parse(to.file_name()?.to_str()?)) {
                Some(id) => id,
                // Where the system has no links the file itself stands here.
                None => hash_file(&local, &BlobId::Sha256(String::new()), size, stop, &mut |_| {})?.id,
            };
            files.push(RepositoryFile { path: name.join("/"), size, id, local: Some(local) });
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let info = Info { commit, ..Info::default() };
    Ok((!files.is_empty()).then_some((info, files)))
}

/// Makes a file that has been verified visible at `target` too: as a link to the same bytes, or as a copy where the system
/// has no such links or the file is on another disk.
///
/// # Errors
/// The disk.
pub(super) fn link_or_copy(from: &Path, folder: &Path, id: &BlobId, target: &Path) -> Result<(), Error> {
    let parent = target.parent().unwrap_or(folder);
    fs::create_dir_all(parent).map_err(|e| Error::io("create folder", parent, e))?;
    let between = folder.join(PARTIALS).join(format!("{id}.copy"));
    match fs::remove_file(&between) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("remove", &between, error)),
        _ => {}
    }
    if fs::hard_link(from, &between).is_err() {
        fs::copy(from, &between).map_err(|e| Error::io("write", &between, e))?;
    }
    // Also a link's bytes may never have been synced by whoever wrote them.
    fs::File::open(&between).and_then(|file| file.sync_all()).map_err(|e| Error::io("write", &between, e))?;
    sync_folder(&folder.join(PARTIALS))?;
    move_into_place(&between, target)?;
    // Renaming one link of a file onto another of the same file does nothing, and leaves the first.
    let _ = fs::remove_file(&between);
    Ok(())
}
