//! One file over HTTP, from the byte that was reached, until its size and hash are right or enough was tried.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::api::resolve_url;
use super::cache::link_or_copy;
use super::error::FileFault;
use super::files::{BlobId, RepositoryFile};
use super::http::{Answer, Client, Rest, Trouble, sleep};
use super::partial::Partial;
use crate::error::Error;

/// A file may come damaged so often.
const WHOLE_TIMES: u32 = 3;
const BUFFER: usize = 128 << 10;

/// Bytes to fetch, and where they belong: several places where a data set holds the same file twice.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub file: RepositoryFile,
    /// Below the folder.
    pub targets: Vec<PathBuf>,
}

/// What all downloads of a fetch share.
pub(super) struct Shared {
    pub client: Client,
    pub repository: String,
    pub commit: String,
    pub folder: PathBuf,
    /// Somebody wants to stop, or the disk is full.
    pub stop: AtomicBool,
    /// Bytes that are there of all files.
    pub there: AtomicU64,
    /// Bytes that came over the network.
    pub received: AtomicU64,
}

/// How a download ended that did not fail at the disk.
#[derive(Debug)]
pub(super) enum Outcome {
    /// In place; the SHA-256 of its bytes.
    Done { sha256: String },
    /// Not in place.
    Failed(FileFault),
    /// Somebody wanted to stop.
    Stopped,
}

/// Something to tell while a file is under way.
pub(super) struct Retry {
    pub reason: String,
    pub wait: Duration,
    pub failures: u32,
}

/// Fetches a file.
///
/// # Errors
/// The disk.
pub(super) fn download(shared: &Shared, job: &Job, tell: &mut dyn FnMut(Retry)) -> Result<Outcome, Error> {
    let (file, policy) = (&job.file, shared.client.settings().retry);
    let mut partial = Partial::open(&shared.folder, &file.id, file.size)?;
    shared.there.fetch_add(partial.length(), Ordering::Relaxed);
    let (mut failures, mut in_a_row, mut damaged, mut gained) = (0, 0, 0, 0_u64);
    loop {
        if shared.stop.load(Ordering::Relaxed) {
            partial.sync()?;
            return Ok(Outcome::Stopped);
        }
        let before = partial.length();
        let trouble = attempt(shared, file, &mut partial)?;
        let progress = partial.length().saturating_sub(before);
        gained += progress;
        match trouble {
            None => {
                let hashes = partial.hashes();
                if hashes.id == file.id {
                    return place(shared, job, partial).map(|()| Outcome::Done { sha256: hashes.sha256 });
                }
                damaged += 1;
                begin_again(shared, &mut partial)?;
                if damaged == WHOLE_TIMES {
                    let (expected, found) = (file.id.to_string(), hashes.id.to_string());
                    return Ok(Outcome::Failed(FileFault::Corrupt { expected, found, times: damaged }));
                }
                let reason = format!("its hash is {}, expected {}: fetched anew", hashes.id, file.id);
                tell(Retry { reason, wait: Duration::ZERO, failures });
            }
            Some(Stop::ForGood(fault)) => {
                partial.sync()?;
                return Ok(Outcome::Failed(fault));
            }
            Some(Stop::Trouble(Trouble::Never { message, .. })) => {
                partial.sync()?;
                return Ok(Outcome::Failed(FileFault::Refused { message }));
            }
            Some(Stop::Trouble(Trouble::Again { reason, wish })) => {
                partial.sync()?;
                if shared.stop.load(Ordering::Relaxed) {
                    return Ok(Outcome::Stopped);
                }
                failures += 1;
                in_a_row = if progress > 0 { 1 } else { in_a_row + 1 };
                if !policy.allows(failures, gained) {
                    return Ok(Outcome::Failed(FileFault::GaveUp { tries: failures, reason }));
                }
                let wait = policy.wait(&file.path, in_a_row, wish);
                tell(Retry { reason, wait, failures });
                sleep(wait, &shared.stop);
            }
        }
    }
}

enum Stop {
    Trouble(Trouble),
    ForGood(FileFault),
}

impl From<Trouble> for Stop {
    fn from(trouble: Trouble) -> Self {
        Stop::Trouble(trouble)
    }
}

/// One request and what it brings; `None` when all bytes are there.
fn attempt(shared: &Shared, file: &RepositoryFile, partial: &mut Partial) -> Result<Option<Stop>, Error> {
    if partial.length() == file.size {
        return Ok(None);
    }
    let endpoint = &shared.client.settings().endpoint;
    let url = resolve_url(endpoint, &shared.repository, &shared.commit, &file.path);
    let etag = partial.etag().map(str::to_owned);
    let rest = Rest { byte: partial.length(), etag: etag.as_deref() };
    let answer = match shared.client.get(&url, Some(rest), &shared.stop) {
        Ok(answer) => answer,
        Err(trouble) => return Ok(Some(trouble.into())),
    };
    if let Some(fault) = changed(shared, file, &answer) {
        return Ok(Some(Stop::ForGood(fault)));
    }
    if answer.status == 206 && etag.is_some() && answer.etag.is_some() && answer.etag != etag {
        begin_again(shared, partial)?;
        return Ok(Some(Trouble::again("it goes on with another version than before; begun again").into()));
    }
    let skip = match place_of(file, partial, &answer) {
        Ok(Place::Continues) => 0,
        // The bytes that are there came under the same name: they are passed over, not written again.
        Ok(Place::FromTheStart) if etag.is_some() && answer.etag == etag => partial.length(),
        Ok(Place::FromTheStart) => {
            begin_again(shared, partial)?;
            0
        }
        Err(trouble) => return Ok(Some(trouble.into())),
    };
    partial.set_etag(answer.etag.clone());
    receive(shared, file, partial, answer, skip)
}

/// Whether the server says that the file is no longer that of the listing.
fn changed(shared: &Shared, file: &RepositoryFile, answer: &Answer) -> Option<FileFault> {
    let fault = |what, listed: &str, found: &str| {
        (!listed.eq_ignore_ascii_case(found)).then(|| FileFault::Changed {
            what,
            listed: listed.into(),
            found: found.into(),
        })
    };
    let hash = answer.linked_etag.as_deref().and_then(|found| match (&file.id, BlobId::parse(found)) {
        (BlobId::Sha256(listed), Some(BlobId::Sha256(found))) => fault("its SHA-256", listed, &found),
        // Mirrors name files of git as they like.
        _ => None,
    });
    let size = answer.linked_size.and_then(|found| fault("its size", &file.size.to_string(), &found.to_string()));
    let commit = answer.commit.as_deref().and_then(|found| fault("the commit", &shared.commit, found));
    hash.or(size).or(commit)
}

enum Place {
    Continues,
    FromTheStart,
}

/// Which bytes of the file an answer brings.
fn place_of(file: &RepositoryFile, partial: &Partial, answer: &Answer) -> Result<Place, Trouble> {
    let (there, size) = (partial.length(), file.size);
    let wrong = |found: String| Err(Trouble::again(found));
    if answer.status == 206 {
        return match answer.range {
            Some((first, whole)) if first == there && whole.is_none_or(|whole| whole == size) => Ok(Place::Continues),
            Some((first, whole)) => {
                let whole = whole.map_or("?".to_owned(), |whole| whole.to_string());
                wrong(format!("asked for byte {there} of {size}, it sends from byte {first} of {whole}"))
            }
            None => wrong("it sends a part and does not say which".to_owned()),
        };
    }
    match answer.length {
        Some(found) if found != size => wrong(format!("it sends {found} bytes, the listing says {size}")),
        _ => Ok(Place::FromTheStart),
    }
}

/// Writes a body, without its first `skip` bytes, until the file is whole.
fn receive(
    shared: &Shared,
    file: &RepositoryFile,
    partial: &mut Partial,
    mut answer: Answer,
    mut skip: u64,
) -> Result<Option<Stop>, Error> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let whole = partial.length() == file.size;
        // One byte more than the file has shows that there is more.
        let want = if whole { 1 } else { buffer.len() };
        let read = match answer.body.read(&mut buffer[..want]) {
            Ok(read) => read,
            Err(_) if whole => return Ok(None),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Ok(Some(cut(file, partial, &error.to_string()))),
        };
        shared.received.fetch_add(read as u64, Ordering::Relaxed);
        match (read, whole) {
            (0, true) => return Ok(None),
            (0, false) => return Ok(Some(cut(file, partial, "the connection ended"))),
            (_, true) => {
                begin_again(shared, partial)?;
                return Ok(Some(
                    Trouble::again(format!("it sends more than the {} bytes of the listing", file.size)).into(),
                ));
            }
            _ => {}
        }
        let passed = skip.min(read as u64);
        skip -= passed;
        let bytes = &buffer[passed as usize..read];
        let room = usize::try_from(file.size - partial.length()).unwrap_or(usize::MAX);
        if bytes.len() > room {
            begin_again(shared, partial)?;
            return Ok(Some(
                Trouble::again(format!("it sends more than the {} bytes of the listing", file.size)).into(),
            ));
        }
        partial.write(bytes)?;
        shared.there.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if shared.stop.load(Ordering::Relaxed) {
            return Ok(Some(Trouble::again("stopped").into()));
        }
    }
}

fn cut(file: &RepositoryFile, partial: &Partial, why: &str) -> Stop {
    Trouble::again(format!("cut after {} of {} bytes: {why}", partial.length(), file.size)).into()
}

fn begin_again(shared: &Shared, partial: &mut Partial) -> Result<(), Error> {
    shared.there.fetch_sub(partial.length(), Ordering::Relaxed);
    partial.reset()
}

/// Makes a file visible wherever it belongs.
fn place(shared: &Shared, job: &Job, partial: Partial) -> Result<(), Error> {
    let at = |below: &Path| shared.folder.join(below);
    let Some((first, others)) = job.targets.split_first() else { return Ok(()) };
    partial.place(&at(first))?;
    others.iter().try_for_each(|other| link_or_copy(&at(first), &shared.folder, &job.file.id, &at(other)))
}
