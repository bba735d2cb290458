//! Several downloads at a time, and one thread that hears of them.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::download::{Job, Outcome, Shared, download};
use super::error::{FileFault, HubError};
use super::fetching::LOOK_EVERY;
use crate::error::Error;
use crate::file_lock::FileLock;

/// What the threads tell.
enum Note {
    Retry { path: String, reason: String, wait: Duration, failures: u32 },
    Ended { job: Job, outcome: Result<Outcome, Error> },
}

/// What the main thread hears.
pub(super) enum Told<'a> {
    Look,
    Placed(&'a Job, &'a str),
    Retry(&'a str, &'a str, Duration, u32),
}

/// Fetches several files at a time. The threads are not waited for when somebody wants to stop: a silent server would hold
/// them, and what they still write is beside the visible files. They hold the folder's lock until they end.
pub(super) fn run(
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
fn settle(notes: &Receiver<Note>) {
    let until = Instant::now() + Duration::from_secs(1);
    loop {
        match notes.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(_) => {}
            Err(_) => return,
        }
    }
}

/// One thread: file after file.
fn work(shared: &Shared, queue: &Mutex<VecDeque<Job>>, notes: &Sender<Note>) {
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let Some(job) = next.filter(|_| !shared.stop.load(Ordering::Relaxed)) else { return };
        // Nobody hears any more when the fetch has ended; then `stop` is set too.
        let outcome = download(shared, &job, &mut |retry| {
            let path = job.file.path.clone();
            let _ = notes.send(Note::Retry { path, reason: retry.reason, wait: retry.wait, failures: retry.failures });
        });
        let _ = notes.send(Note::Ended { job, outcome });
    }
}
