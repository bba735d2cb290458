//! [`Store`]: the database for async code.
//!
//! One thread owns the database and does one piece of work after another; callers await their result. SQLite writes
//! from one connection at a time in any case, reads here take microseconds, and no thread of the runtime ever waits
//! for a disk.

use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use tokio::sync::{mpsc, oneshot};

use super::Database;
use super::error::StoreError;

/// Pieces of work that may wait; whoever brings more waits until there is room.
const QUEUE: usize = 64;

type Work = Box<dyn FnOnce(&mut Database) + Send>;

/// A handle to the thread that owns the database. Clones share it; the database is closed with the last of them, or by
/// [`Store::close`].
#[derive(Debug, Clone)]
pub struct Store {
    sender: mpsc::Sender<Option<Work>>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl Store {
    /// Starts the thread.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the system gives no thread.
    pub fn new(mut database: Database) -> Result<Self, StoreError> {
        let (sender, mut receiver) = mpsc::channel::<Option<Work>>(QUEUE);
        let path = database.path.clone();
        let thread = std::thread::Builder::new()
            .name("store".into())
            .spawn(move || {
                // None is the order to close; what is behind it in the queue is dropped and its callers are told.
                while let Some(Some(work)) = receiver.blocking_recv() {
                    // A piece of work that panics ends alone: its transaction was rolled back when it was dropped, and the
                    // database remembers nothing else from one piece to the next. Its caller hears that there is no result.
                    let _ = panic::catch_unwind(AssertUnwindSafe(|| work(&mut database)));
                }
            })
            .map_err(|source| StoreError::Io { path, doing: "start a thread for", source })?;
        Ok(Self { sender, thread: Arc::new(Mutex::new(Some(thread))) })
    }

    /// Runs `work` on the database. It is done also if the caller stops waiting for it.
    ///
    /// # Errors
    /// What `work` returns; [`StoreError::Panicked`] where it panics; [`StoreError::Closed`] after [`Store::close`].
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Database) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (done, result) = oneshot::channel();
        let work: Work = Box::new(move |database| {
            // Nobody may be waiting any more.
            let _ = done.send(database.named(work));
        });
        self.sender.send(Some(work)).await.map_err(|_| StoreError::Closed)?;
        // What was queued behind the order to close was never begun, and the channel is closed then.
        result.await.map_err(|_| if self.sender.is_closed() { StoreError::Closed } else { StoreError::Panicked })?
    }

    /// Finishes the work that is queued, closes the database and lets its lock go. Later work is refused.
    pub async fn close(&self) {
        // Fails only if the thread has ended already.
        let _ = self.sender.send(None).await;
        let thread = self.thread.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        if let Some(thread) = thread {
            // A thread that panicked has nothing left to close.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::NewConversation;
    use crate::store::tests::scratch;

    #[tokio::test]
    async fn work_of_many_tasks_is_all_done_and_closing_frees_the_file() {
        let dir = scratch();
        let path = dir.path().join("chat.db");
        let store = Store::new(Database::open(&path).unwrap()).unwrap();
        let tasks: Vec<_> = (0..200)
            .map(|n| {
                let store = store.clone();
                let new = NewConversation { title: format!("Talk {n}"), ..Default::default() };
                tokio::spawn(async move { store.run(move |database| database.create(new)).await.unwrap() })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        store.close().await;
        assert!(matches!(store.run(|database| database.all()).await, Err(StoreError::Closed)));
        store.close().await;
        assert_eq!(Database::open(&path).unwrap().all().unwrap().len(), 200);
    }

    #[tokio::test]
    async fn errors_of_the_file_name_it() {
        let dir = scratch();
        let store = Store::new(Database::open(&dir.path().join("chat.db")).unwrap()).unwrap();
        let full = rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL), None);
        let error = store.run::<()>(|_| Err(full.into())).await.unwrap_err();
        assert!(matches!(&error, StoreError::DiskFull { path } if path.ends_with("chat.db")), "{error}");
    }

    #[tokio::test]
    async fn work_that_panics_fails_alone_and_leaves_nothing() {
        let dir = scratch();
        let store = Store::new(Database::open(&dir.path().join("chat.db")).unwrap()).unwrap();
        let panicking = store.run(|database| -> Result<(), StoreError> {
            let transaction = database.transaction()?;
            transaction.execute("DELETE FROM conversations", [])?;
            panic!("as a mistake in the program would")
        });
        store.run(|database| database.create(NewConversation::default())).await.unwrap();
        assert!(matches!(panicking.await, Err(StoreError::Panicked)));
        assert_eq!(store.run(|database| database.all()).await.unwrap().len(), 1);
        store.close().await;
        assert!(matches!(store.run(|database| database.all()).await, Err(StoreError::Closed)));
    }

    #[tokio::test]
    async fn work_is_done_when_nobody_waits_for_it() {
        let dir = scratch();
        let store = Store::new(Database::open(&dir.path().join("chat.db")).unwrap()).unwrap();
        let work = store.run(|database| database.create(NewConversation::default()));
        // Polled once, so that it is sent, and dropped.
        let _ = tokio::time::timeout(std::time::Duration::ZERO, work).await;
        assert_eq!(store.run(|database| database.all()).await.unwrap().len(), 1);
    }
}
