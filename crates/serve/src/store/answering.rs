//! An answer on its way: appended piece by piece, folded into its message when it ends.
//!
//! Each piece is a row of its own in a transaction of its own, so what has been appended is what a killed process
//! leaves. A transaction costs a few pages written to the log and no sync: the log is the operating system's
//! from the moment of the commit, and only a crash of the whole machine can lose it. What a person wrote and finished
//! answers are synced.

use rusqlite::{OptionalExtension, params};

use super::error::StoreError;
use super::types::{Context, Message, Status, Timing, Usage, limits};
use super::{Database, messages, now};

/// How an answer ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Ending {
    /// An ended status.
    pub status: Status,
    /// What it took.
    pub usage: Option<Usage>,
    /// How fast it came.
    pub timing: Option<Timing>,
    /// How full the context was.
    pub context: Option<Context>,
}

impl Ending {
    /// An ending of which nothing but the status is known.
    pub fn bare(status: Status) -> Self {
        Self { status, usage: None, timing: None, context: None }
    }
}

impl Database {
    /// Appends text and the ids that it came from to the running answer `id`. Either may be empty: an id can be the
    /// beginning of a character whose text comes with the next.
    ///
    /// # Errors
    /// [`StoreError::UnknownMessage`], [`StoreError::Ended`], [`StoreError::TooLong`].
    pub fn append(&mut self, id: &str, text: &str, token_ids: &[u32]) -> Result<(), StoreError> {
        super::check_length("the answer's piece", text, limits::CONTENT)?;
        self.connection.pragma_update(None, "synchronous", "normal")?;
        let appended = self
            .connection
            .prepare_cached(
                "INSERT INTO pieces (message, ordinal, text, ids)
                 SELECT number, (SELECT coalesce(max(ordinal) + 1, 0) FROM pieces WHERE message = number), ?2, ?3
                 FROM messages WHERE id = ?1 AND status IN ('running', 'paused')",
            )
            .and_then(|mut statement| statement.execute(params![id, text, messages::pack(token_ids)]));
        self.connection.pragma_update(None, "synchronous", "full")?;
        if appended? == 0 {
            // Either it is not there, which `message` says, or it has ended.
            return Err(StoreError::Ended(self.message(id)?.id));
        }
        Ok(())
    }

    /// Says that the unfinished answer `id` is waiting for a listener, or running again.
    ///
    /// # Errors
    /// [`StoreError::UnknownMessage`], [`StoreError::Ended`].
    pub fn set_paused(&mut self, id: &str, paused: bool) -> Result<(), StoreError> {
        let status = if paused { Status::Paused } else { Status::Running };
        let sql = "UPDATE messages SET status = ?2 WHERE id = ?1 AND status IN ('running', 'paused')";
        if self.connection.execute(sql, params![id, status])? == 0 {
            return Err(StoreError::Ended(self.message(id)?.id));
        }
        Ok(())
    }

    /// Ends the answer `id`: its pieces become its content and its token ids.
    ///
    /// # Errors
    /// [`StoreError::UnknownMessage`], [`StoreError::Ended`].
    pub fn finish(&mut self, id: &str, ending: &Ending) -> Result<Message, StoreError> {
        assert!(ending.status.has_ended(), "an answer ends with a status that says so");
        let number = self.number(id)?;
        let transaction = self.transaction()?;
        let (content, ids) = messages::pieces(&transaction, number)?;
        let changed = transaction
            .prepare_cached(
                "UPDATE messages SET content = ?2, ids = ?3, status = ?4, usage = ?5, timing = ?6, context = ?7
                 WHERE number = ?1 AND status IN ('running', 'paused')",
            )?
            .execute(params![
                number,
                content,
                ids,
                ending.status,
                ending.usage.as_ref().map(messages::to_json),
                ending.timing.as_ref().map(messages::to_json),
                ending.context.as_ref().map(messages::to_json),
            ])?;
        if changed == 0 {
            return Err(StoreError::Ended(StoreError::shown(id)));
        }
        transaction.execute("DELETE FROM pieces WHERE message = ?1", [number])?;
        transaction.execute(
            "UPDATE conversations SET updated_at = max(updated_at, ?2)
             WHERE id = (SELECT conversation_id FROM messages WHERE number = ?1)",
            params![number, now()],
        )?;
        transaction.commit()?;
        self.message(id)
    }

    /// Stops the answers that an earlier process left unfinished.
    pub(super) fn end_left_overs(&mut self) -> Result<(), StoreError> {
        let left: Vec<String> = self
            .connection
            .prepare("SELECT id FROM messages WHERE status IN ('running', 'paused')")?
            .query_map([], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        for id in left {
            self.finish(&id, &Ending::bare(Status::Stopped))?;
        }
        Ok(())
    }

    fn number(&self, id: &str) -> Result<i64, StoreError> {
        self.connection
            .prepare_cached("SELECT number FROM messages WHERE id = ?1")?
            .query_row([id], |row| row.get(0))
            .optional()?
            .ok_or_else(|| StoreError::UnknownMessage(StoreError::shown(id)))
    }
}
