//! [`fetch`]: the whole way from a request to a folder of verified files.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use super::download::Shared;
use super::error::HubError;
use super::files::{BlobId, RepositoryFile};
use super::finding::{Found, find, other};
use super::http::Client;
use super::manifest::{Manifest, ManifestFile};
use super::partial::PARTIALS;
use super::plan::{self, Plan, in_cache};
use super::selection::{Estimate, Request};
use super::settings::Settings;
use super::verify::hash_file;
use super::workers::{Told, run};
use crate::error::Error;
use crate::file_lock::{FileLock, LockError};

pub(super) const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Something to show.
#[derive(Debug)]
pub enum Event<'a> {
    /// Files that were listed so far.
    Listing(usize),
    /// What is going to happen.
    Planned {
        /// The commit that all files are of.
        commit: &'a str,
        /// As the card names it.
        licence: Option<&'a str>,
        /// Files that were chosen.
        files: usize,
        /// Their bytes.
        bytes: u64,
        /// Bytes of those that are in place.
        in_place: u64,
        /// What a number of tokens was reckoned to need.
        estimate: Option<Estimate>,
    },
    /// Files that are there are being hashed: bytes so far.
    Hashing(u64),
    /// Bytes of the files that are there, of all.
    Progress {
        /// There, visible or not.
        there: u64,
        /// In all.
        bytes: u64,
        /// Files in place.
        files: usize,
    },
    /// A file, or the listing, is asked for once more.
    Retry {
        /// The file, or the data set.
        path: &'a str,
        /// Why.
        reason: &'a str,
        /// After how long.
        wait: Duration,
        /// Failures so far.
        failures: u32,
    },
    /// A file is in place.
    Placed {
        /// The file.
        path: &'a str,
    },
}

/// A folder with all its files.
#[derive(Debug, Clone, PartialEq)]
pub struct Fetched {
    /// What the folder holds.
    pub manifest: Manifest,
    /// Bytes that came over the network, those that had to come twice included.
    pub received: u64,
    /// Bytes taken from the Hub's cache.
    pub cached: u64,
    /// What a number of tokens was reckoned to need.
    pub estimate: Option<Estimate>,
}

/// Brings the files of a request into its folder. Run again after whatever stopped it, it goes on.
///
/// `interrupted` is asked ten times a second; `observe` hears of everything.
///
/// # Errors
/// [`HubError`]. What has arrived by then stays.
pub fn fetch(
    request: &Request,
    settings: &Settings,
    interrupted: &(dyn Fn() -> bool + Sync),
    observe: &mut dyn FnMut(Event<'_>),
) -> Result<Fetched, HubError> {
    let folder = &request.folder;
    let (partials, was_there) = (folder.join(PARTIALS), folder.exists());
    fs::create_dir_all(&partials).map_err(|e| Error::io("create folder", &partials, e))?;
    let lock = FileLock::acquire(&partials.join("lock")).map_err(|error| match error {
        LockError::Held { pid } => HubError::Busy { folder: folder.clone(), pid },
        LockError::Io(source) => Error::io("lock", &partials, source).into(),
    })?;
    let outcome = under_lock(request, settings, lock, interrupted, observe);
    if outcome.is_err() && matches!(Manifest::read(folder), Ok(None)) {
        // Nothing has begun. A folder that is not empty stays.
        let _ = fs::remove_file(partials.join("lock"));
        let _ = fs::remove_dir(&partials);
        if !was_there {
            let _ = fs::remove_dir(folder);
        }
    }
    outcome
}

/// As [`fetch`], while no other process may.
fn under_lock(
    request: &Request,
    settings: &Settings,
    lock: FileLock,
    interrupted: &(dyn Fn() -> bool + Sync),
    observe: &mut dyn FnMut(Event<'_>),
) -> Result<Fetched, HubError> {
    let folder = &request.folder;
    let before = Manifest::read(folder)?;
    if let Some(before) = before.as_ref().filter(|before| before.repository != request.repository) {
        return Err(other(request, before, &request.repository));
    }

    let stop = AtomicBool::new(false);
    let client = Client::new(settings);
    // The listing and the hashing are long too, and are stopped by the same signal.
    let (found, plan, cached) = thread::scope(|scope| {
        let (over, ended) = channel::<()>();
        scope.spawn(|| watch(&stop, interrupted, ended));
        let found = find(request, settings, &client, before.as_ref(), &stop, observe);
        let planned = found.and_then(|found| {
            let (plan, cached) = prepare(request, settings, &found, before.as_ref(), &stop, observe)?;
            Ok((found, plan, cached))
        });
        drop(over);
        planned
    })?;

    let mut manifest = manifest_of(request, &found, before.as_ref(), &plan);
    let (bytes, files) = (plan.bytes, found.files.len());
    observe(Event::Planned {
        commit: &manifest.commit,
        licence: manifest.licence.as_deref(),
        files,
        bytes,
        in_place: plan.in_place - cached,
        estimate: found.estimate,
    });
    if settings.offline && !plan.jobs.is_empty() {
        let first = plan.jobs[0].file.path.clone();
        return Err(HubError::OfflineFiles { missing: plan.jobs.len(), files, first });
    }
    plan.check_room(folder, fs4::available_space(folder).ok())?;
    manifest.write(folder)?;

    let shared = Arc::new(Shared {
        client,
        repository: request.repository.clone(),
        commit: manifest.commit.clone(),
        folder: folder.clone(),
        stop,
        there: AtomicU64::new(plan.in_place),
        received: AtomicU64::new(0),
    });
    let mut placed = plan.there.len();
    let failed = run(&shared, Arc::new(lock), plan.jobs, interrupted, &mut |told| match told {
        Told::Look => {
            let there = shared.there.load(Ordering::Relaxed).min(bytes);
            observe(Event::Progress { there, bytes, files: placed });
        }
        Told::Placed(job, sha256) => {
            for target in &job.targets {
                let path = target.iter().filter_map(|part| part.to_str()).collect::<Vec<_>>().join("/");
                if let Ok(at) = manifest.files.binary_search_by(|file| file.path.as_str().cmp(&path)) {
                    manifest.files[at].sha256 = Some(sha256.to_owned());
                }
                placed += 1;
                observe(Event::Placed { path: &path });
            }
        }
        Told::Retry(path, reason, wait, failures) => observe(Event::Retry { path, reason, wait, failures }),
    })?;
    if !failed.is_empty() {
        return Err(HubError::Files { files, failed });
    }
    complete(&mut manifest, request, &shared.stop)?;
    Ok(Fetched { manifest, received: shared.received.load(Ordering::Relaxed), cached, estimate: found.estimate })
}

/// Raises `stop` when somebody wants to stop, until the other end of `ended` is dropped.
fn watch(stop: &AtomicBool, interrupted: &(dyn Fn() -> bool + Sync), ended: Receiver<()>) {
    while ended.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
        if interrupted() {
            stop.store(true, Ordering::Relaxed);
        }
    }
}

/// Sees what is there, and takes what the cache has.
fn prepare(
    request: &Request,
    settings: &Settings,
    found: &Found,
    before: Option<&Manifest>,
    stop: &AtomicBool,
    observe: &mut dyn FnMut(Event<'_>),
) -> Result<(Plan, u64), HubError> {
    let mut hashed = 0;
    let mut note = |bytes: u64| {
        hashed += bytes;
        observe(Event::Hashing(hashed));
    };
    let locate = |file: &RepositoryFile| in_cache(&settings.cache, &request.repository, file);
    let mut plan = plan::make(&request.folder, &found.files, before, locate, stop, &mut note)?;
    let cached = plan.take_cached(&request.folder, stop, &mut note)?;
    Ok((plan, cached))
}

/// The manifest of a folder that holds what was chosen, and what it held before.
fn manifest_of(request: &Request, found: &Found, before: Option<&Manifest>, plan: &Plan) -> Manifest {
    let entry = |file: &RepositoryFile| ManifestFile {
        path: file.path.clone(),
        size: file.size,
        sha256: match &file.id {
            BlobId::Sha256(digits) => Some(digits.clone()),
            BlobId::GitSha1(_) => plan.there.get(&file.path).cloned().flatten(),
        },
        git_sha1: matches!(file.id, BlobId::GitSha1(_)).then(|| file.id.to_string()),
    };
    let mut files: Vec<ManifestFile> = found.files.iter().map(entry).collect();
    let chosen: HashSet<&str> = found.files.iter().map(|file| file.path.as_str()).collect();
    // Only whole files of an earlier choice are still files of this folder.
    let kept = before.iter().flat_map(|before| &before.files).filter(|file| {
        let there = || fs::metadata(request.folder.join(&file.path)).is_ok_and(|found| found.len() == file.size);
        !chosen.contains(file.path.as_str()) && there()
    });
    files.extend(kept.cloned());
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Manifest {
        repository: request.repository.clone(),
        revision: before.map_or(&found.revision, |before| &before.revision).clone(),
        commit: found.info.commit.clone(),
        licence: found.info.licence.clone().or_else(|| before.and_then(|before| before.licence.clone())),
        complete: false,
        files,
    }
}

/// Says that all is there, and takes away what was on the way.
fn complete(manifest: &mut Manifest, request: &Request, stop: &AtomicBool) -> Result<(), HubError> {
    for file in manifest.files.iter_mut().filter(|file| file.sha256.is_none()) {
        let path: PathBuf = request.folder.join(&file.path);
        if let Some(id) = file.id() {
            file.sha256 = Some(hash_file(&path, &id, file.size, stop, &mut |_| {})?.sha256);
        }
    }
    manifest.complete = true;
    manifest.write(&request.folder)?;
    // Parts of files that nobody wants any more. What cannot be removed does no harm.
    for entry in fs::read_dir(request.folder.join(PARTIALS)).into_iter().flatten().flatten() {
        if entry.file_name() != "lock" {
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}
