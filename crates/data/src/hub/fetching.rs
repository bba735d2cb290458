//! [`fetch`]: the whole way from a request to a folder of verified files.

use std::collections::VecDeque;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::api::{Api, Info};
use super::cache::snapshot;
use super::download::{Job, Outcome, Shared, download};
use super::error::{FileFault, HubError};
use super::files::{BlobId, RepositoryFile};
use super::http::Client;
use super::manifest::{Manifest, ManifestFile};
use super::partial::PARTIALS;
use super::plan::{self, Plan, in_cache};
use super::selection::{Estimate, Request};
use super::settings::Settings;
use super::verify::hash_file;
use crate::error::Error;
use crate::file_lock::{FileLock, LockError};

/// Where the Hub keeps its own conversion of data sets that have only a program on their main branch.
const CONVERTED: &str = "refs/convert/parquet";
const LOOK_EVERY: Duration = Duration::from_millis(100);

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
    /// A file is tried once more.
    Retry {
        /// The file.
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

/// What the threads tell.
enum Note {
    Retry { path: String, reason: String, wait: Duration, failures: u32 },
    Ended { job: Job, outcome: Result<Outcome, Error> },
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
    let partials = folder.join(PARTIALS);
    fs::create_dir_all(&partials).map_err(|e| Error::io("create folder", &partials, e))?;
    let lock = FileLock::acquire(&partials.join("lock")).map_err(|error| match error {
        LockError::Held { pid } => HubError::Busy { folder: folder.clone(), pid },
        LockError::Io(source) => Error::io("lock", &partials, source).into(),
    })?;
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
fn watch(stop: &AtomicBool, interrupted: &(dyn Fn() -> bool + Sync), ended: std::sync::mpsc::Receiver<()>) {
    while ended.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
        if interrupted() {
            stop.store(true, Ordering::Relaxed);
        }
    }
}

/// A commit, and the files of it that were chosen.
struct Found {
    info: Info,
    revision: String,
    files: Vec<RepositoryFile>,
    estimate: Option<Estimate>,
}

/// Asks the Hub, or its cache where the network is forbidden, what there is, and chooses.
fn find(
    request: &Request,
    settings: &Settings,
    client: &Client,
    before: Option<&Manifest>,
    stop: &AtomicBool,
    observe: &mut dyn FnMut(Event<'_>),
) -> Result<Found, HubError> {
    // Without a wish of its own a fetch goes on with the commit that the folder has.
    let (revision, asked) = match (&request.revision, before) {
        (Some(revision), _) => (revision.clone(), revision.clone()),
        (None, Some(before)) => (before.revision.clone(), before.commit.clone()),
        (None, None) => ("main".to_owned(), "main".to_owned()),
    };
    let look = |asked: &str, observe: &mut dyn FnMut(Event<'_>)| -> Result<(Info, Vec<RepositoryFile>), HubError> {
        if settings.offline {
            let cache = &settings.cache;
            let of_folder = before.filter(|before| before.commit == asked || before.revision == asked).map(known_files);
            return match snapshot(cache, &request.repository, asked, stop)? {
                Some(found) => Ok(found),
                None => of_folder.ok_or_else(|| HubError::Offline {
                    repository: request.repository.clone(),
                    revision: asked.to_owned(),
                    folder: request.folder.clone(),
                    cache: cache.clone(),
                }),
            };
        }
        let api = Api { client, stop };
        let info = api.info(&request.repository, asked)?;
        let files = api.tree(&request.repository, &info.commit, &mut |files| observe(Event::Listing(files)))?;
        Ok((info, files))
    };
    let (mut info, mut listing) = look(&asked, observe)?;
    let mut revision = revision;
    let mut patterns = request.patterns(&info)?;
    let (mut files, mut estimate) = request.choose(&listing, &patterns)?;
    let may_be_converted = request.revision.is_none() && before.is_none() && request.include.is_empty();
    if files.is_empty() && may_be_converted && !settings.offline {
        if let Ok((other, converted)) = look(CONVERTED, observe) {
            patterns = request.patterns(&info)?;
            let (chosen, reckoned) = request.choose(&converted, &patterns)?;
            if !chosen.is_empty() {
                (files, estimate, revision) = (chosen, reckoned, CONVERTED.to_owned());
                info.commit = other.commit;
                listing = converted;
            }
        }
    }
    if files.is_empty() {
        let patterns = if patterns.is_empty() { "a format that is read".to_owned() } else { patterns.join(", ") };
        let shown: Vec<_> = listing.iter().map(|file| file.path.as_str()).take(12).collect();
        let more = if listing.len() > shown.len() {
            format!(" and {} more", listing.len() - shown.len())
        } else {
            String::new()
        };
        let found = if shown.is_empty() { "no file at all".to_owned() } else { format!("{}{more}", shown.join(", ")) };
        return Err(HubError::NoFiles { repository: request.repository.clone(), commit: info.commit, patterns, found });
    }
    if let Some(before) = before.filter(|before| before.commit != info.commit) {
        return Err(other(request, before, &info.commit));
    }
    Ok(Found { info, revision, files, estimate })
}

/// What a manifest lists, as a listing.
fn known_files(manifest: &Manifest) -> (Info, Vec<RepositoryFile>) {
    let file = |file: &ManifestFile| {
        Some(RepositoryFile { path: file.path.clone(), size: file.size, id: file.id()?, local: None })
    };
    let info = Info { commit: manifest.commit.clone(), licence: manifest.licence.clone(), ..Info::default() };
    (info, manifest.files.iter().filter_map(file).collect())
}

fn other(request: &Request, before: &Manifest, asked: &str) -> HubError {
    HubError::OtherContents {
        folder: request.folder.clone(),
        found: format!("{} at commit {}", before.repository, before.commit),
        asked: asked.to_owned(),
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
    let chosen: std::collections::HashSet<&str> = found.files.iter().map(|file| file.path.as_str()).collect();
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

/// What the main thread hears.
enum Told<'a> {
    Look,
    Placed(&'a Job, &'a str),
    Retry(&'a str, &'a str, Duration, u32),
}

/// Fetches several files at a time. The threads are not waited for when somebody wants to stop: a silent server would hold
/// them, and what they still write is beside the visible files. They hold the folder's lock until they end.
fn run(
    shared: &Arc<Shared>,
    lock: Arc<FileLock>,
    jobs: Vec<Job>,
    interrupted: &dyn Fn() -> bool,
    tell: &mut dyn FnMut(Told<'_>),
) -> Result<Vec<(String, FileFault)>, HubError> {
    let threads = shared.client.settings().parallel.clamp(1, 64).min(jobs.len());
    let queue = Arc::new(Mutex::new(VecDeque::from(jobs)));
    let (sender, notes) = channel();
    for _ in 0..threads {
        let (shared, lock, queue, sender) = (Arc::clone(shared), Arc::clone(&lock), Arc::clone(&queue), sender.clone());
        thread::spawn(move || {
            work(&shared, &queue, &sender);
            drop(lock);
        });
    }
    drop((sender, lock));
    let mut failed = Vec::new();
    loop {
        match notes.recv_timeout(LOOK_EVERY) {
            Ok(Note::Retry { path, reason, wait, failures }) => tell(Told::Retry(&path, &reason, wait, failures)),
            Ok(Note::Ended { job, outcome: Ok(Outcome::Done { sha256 }) }) => tell(Told::Placed(&job, &sha256)),
            Ok(Note::Ended { job, outcome: Ok(Outcome::Failed(fault)) }) => failed.push((job.file.path, fault)),
            Ok(Note::Ended { outcome: Ok(Outcome::Stopped), .. }) => {}
            Ok(Note::Ended { outcome: Err(error), .. }) => {
                // A disk that does not take one file takes no other.
                shared.stop.store(true, Ordering::Relaxed);
                return Err(error.into());
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        tell(Told::Look);
        if interrupted() {
            shared.stop.store(true, Ordering::Relaxed);
            settle(&notes);
            return Err(HubError::Interrupted);
        }
    }
    failed.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(failed)
}

/// Gives the threads a moment to sync what they have; those that a server holds lose only what was not synced yet.
fn settle(notes: &std::sync::mpsc::Receiver<Note>) {
    let until = std::time::Instant::now() + Duration::from_secs(1);
    loop {
        match notes.recv_timeout(until.saturating_duration_since(std::time::Instant::now())) {
            Ok(_) => {}
            Err(_) => return,
        }
    }
}

/// One thread: file after file.
fn work(shared: &Shared, queue: &Mutex<VecDeque<Job>>, notes: &Sender<Note>) {
    loop {
        let next = queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop_front();
        let Some(job) = next.filter(|_| !shared.stop.load(Ordering::Relaxed)) else { return };
        // Nobody hears any more when the fetch has ended; then `stop` is set too.
        let outcome = download(shared, &job, &mut |retry| {
            let path = job.file.path.clone();
            let _ = notes.send(Note::Retry { path, reason: retry.reason, wait: retry.wait, failures: retry.failures });
        });
        let _ = notes.send(Note::Ended { job, outcome });
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
