//! Conversations in SQLite: a tree of messages each, searchable, written so that a killed process loses at most the
//! token in flight. Knows nothing of models: token ids are numbers that it keeps for whoever asks.
//!
//! [`Database`] is the synchronous store on one connection; [`Store`] is the handle for async code, which runs work on
//! a thread that owns the database. Called by `answers` and by the HTTP interface.

mod answering;
mod conversations;
mod error;
mod export;
mod handle;
mod ids;
mod import;
mod listing;
mod markdown;
mod messages;
mod migrations;
mod notes;
mod open;
#[cfg(test)]
mod tests;
mod title;
mod types;

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use casallm_data::file_lock::FileLock;
use rusqlite::{Connection, Transaction, TransactionBehavior};

pub use self::answering::Ending;
pub use self::conversations::{Change, NewConversation};
pub use self::error::StoreError;
pub use self::export::ExportFile;
pub use self::handle::Store;
pub use self::import::{Import, parse as parse_import};
pub use self::listing::{Entry, ListQuery, Page};
pub use self::types::{
    Context, Conversation, Message, Note, Overflow, Role, Settings, Status, Step, Timing, Tokens, Tree, Usage, limits,
};

/// The conversations of one file, held by this process alone until dropped.
#[derive(Debug)]
pub struct Database {
    // Closed before the lock is let go: fields are dropped in this order.
    connection: Connection,
    path: PathBuf,
    _lock: FileLock,
}

impl Database {
    /// As if the disk were full, or no longer.
    #[cfg(test)]
    pub(crate) fn fill_disk(&self, full: bool) {
        let pages = if full { 1 } else { u32::MAX };
        // SQLite takes what there is already for the least.
        self.connection.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(())).unwrap();
    }

    /// A transaction whose commit waits until the disk has it.
    fn transaction(&mut self) -> Result<Transaction<'_>, StoreError> {
        Ok(self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?)
    }
}

/// Unix milliseconds. A clock before 1970 is taken for 1970.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(limits::TIME).min(limits::TIME)
}

/// Refuses text that is longer than `limit` bytes.
fn check_length(what: &'static str, text: &str, limit: usize) -> Result<(), StoreError> {
    if text.len() > limit { Err(StoreError::TooLong { what, bytes: text.len(), limit }) } else { Ok(()) }
}
