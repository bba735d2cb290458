//! Notes: summaries of a conversation's beginning. The messages that they condense stay as they are.

use rusqlite::{Connection, Row, params};

use super::error::StoreError;
use super::types::{Note, limits};
use super::{Database, check_length, ids, messages, now};

fn from_row(row: &Row<'_>) -> rusqlite::Result<Note> {
    Ok(Note {
        id: row.get(0)?,
        through_id: row.get(1)?,
        text: row.get(2)?,
        tokens: row.get(3)?,
        created_at: row.get(4)?,
    })
}

/// All notes of a conversation, oldest first.
pub(super) fn of_conversation(connection: &Connection, id: &str) -> Result<Vec<Note>, StoreError> {
    let sql = "SELECT id, through_id, text, tokens, created_at FROM notes WHERE conversation_id = ?1 ORDER BY number";
    Ok(connection.prepare_cached(sql)?.query_map([id], from_row)?.collect::<Result<_, _>>()?)
}

/// Writes a row.
pub(super) fn insert(connection: &Connection, conversation: &str, note: &Note) -> Result<(), StoreError> {
    connection
        .prepare_cached(
            "INSERT INTO notes (id, conversation_id, through_id, text, tokens, created_at) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![note.id, conversation, note.through_id, note.text, note.tokens, note.created_at])?;
    Ok(())
}

impl Database {
    /// Keeps `text`, of `tokens` tokens, as the summary of all from the beginning of the branch to the message
    /// `through`. Where there is one already, which was made meanwhile, that one stays.
    ///
    /// # Errors
    /// [`StoreError::UnknownMessage`], [`StoreError::Empty`], [`StoreError::TooLong`].
    pub fn add_note(&mut self, through: &str, text: &str, tokens: u32) -> Result<Note, StoreError> {
        if text.trim().is_empty() {
            return Err(StoreError::Empty("the note"));
        }
        check_length("the note", text, limits::CONTENT)?;
        let transaction = self.transaction()?;
        let message = messages::read(&transaction, through)?;
        let notes = of_conversation(&transaction, &message.conversation_id)?;
        if let Some(note) = notes.into_iter().find(|note| note.through_id == message.id) {
            return Ok(note);
        }
        let note = Note { id: ids::fresh()?, through_id: message.id, text: text.to_owned(), tokens, created_at: now() };
        insert(&transaction, &message.conversation_id, &note)?;
        transaction.commit()?;
        Ok(note)
    }

    /// The notes of the conversation `id`, oldest first.
    ///
    /// # Errors
    /// SQLite's.
    pub fn notes(&self, id: &str) -> Result<Vec<Note>, StoreError> {
        of_conversation(&self.connection, id)
    }
}
