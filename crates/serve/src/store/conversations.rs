//! Conversations as a whole: create, read, change, delete.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::error::StoreError;
use super::types::{Conversation, Settings, Tree, limits};
use super::{Database, check_length, ids, messages, notes, now};

/// What a conversation begins with.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NewConversation {
    /// Empty to take it from the first message.
    pub title: String,
    /// Precedes the messages; may be empty.
    pub system_prompt: String,
    /// How answers are drawn.
    pub settings: Settings,
}

/// What of a conversation is to become different.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Change {
    /// A new title, not empty.
    pub title: Option<String>,
    /// A new system prompt, or an empty one.
    pub system_prompt: Option<String>,
    /// New settings in place of all the old ones.
    pub settings: Option<Settings>,
    /// The branch to show, by its last message.
    pub leaf_id: Option<String>,
}

pub(super) const COLUMNS: &str = "id, title, system_prompt, settings, leaf_id, created_at, updated_at";

/// Reads [`COLUMNS`].
pub(super) fn from_row(row: &Row<'_>) -> rusqlite::Result<Conversation> {
    Ok(Conversation {
        id: row.get(0)?,
        title: row.get(1)?,
        system_prompt: row.get(2)?,
        settings: messages::json(row, 3)?.unwrap_or_default(),
        leaf_id: row.get(4)?,
        created_at: row.get(5)?,
        updated_at: row.get(6)?,
    })
}

/// The conversation `id`.
pub(super) fn read(connection: &Connection, id: &str) -> Result<Conversation, StoreError> {
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM conversations WHERE id = ?1"))?
        .query_row([id], from_row)
        .optional()?
        .ok_or_else(|| StoreError::UnknownConversation(StoreError::shown(id)))
}

/// Writes a whole row.
pub(super) fn insert(connection: &Connection, conversation: &Conversation) -> Result<(), StoreError> {
    connection
        .prepare_cached(&format!("INSERT INTO conversations ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)"))?
        .execute(params![
        conversation.id,
        conversation.title,
        conversation.system_prompt,
        messages::to_json(&conversation.settings),
        conversation.leaf_id,
        conversation.created_at,
        conversation.updated_at,
    ])?;
    Ok(())
}

impl Database {
    /// Begins an empty conversation.
    ///
    /// # Errors
    /// [`StoreError::TooLong`], [`StoreError::Setting`].
    pub fn create(&mut self, new: NewConversation) -> Result<Conversation, StoreError> {
        check_length("the title", &new.title, limits::TITLE)?;
        check_length("the system prompt", &new.system_prompt, limits::SYSTEM_PROMPT)?;
        new.settings.check()?;
        let created_at = now();
        let conversation = Conversation {
            id: ids::fresh()?,
            title: new.title,
            system_prompt: new.system_prompt,
            settings: new.settings,
            leaf_id: None,
            created_at,
            updated_at: created_at,
        };
        insert(&self.connection, &conversation)?;
        Ok(conversation)
    }

    /// The conversation `id` without its messages.
    ///
    /// # Errors
    /// [`StoreError::UnknownConversation`].
    pub fn conversation(&self, id: &str) -> Result<Conversation, StoreError> {
        read(&self.connection, id)
    }

    /// The conversation `id` with all its messages and notes.
    ///
    /// # Errors
    /// [`StoreError::UnknownConversation`].
    pub fn tree(&self, id: &str) -> Result<Tree, StoreError> {
        Ok(Tree {
            conversation: read(&self.connection, id)?,
            messages: messages::of_conversation(&self.connection, id)?,
            notes: notes::of_conversation(&self.connection, id)?,
        })
    }

    /// Changes what `change` names. The place in the list stays: only messages move a conversation up.
    ///
    /// # Errors
    /// [`StoreError::UnknownConversation`], [`StoreError::UnknownMessage`] for a leaf that is not in it,
    /// [`StoreError::Empty`], [`StoreError::TooLong`], [`StoreError::Setting`].
    pub fn change(&mut self, id: &str, change: Change) -> Result<Conversation, StoreError> {
        let transaction = self.transaction()?;
        let mut conversation = read(&transaction, id)?;
        if let Some(title) = change.title {
            if title.trim().is_empty() {
                return Err(StoreError::Empty("the title"));
            }
            check_length("the title", &title, limits::TITLE)?;
            conversation.title = title;
        }
        if let Some(system_prompt) = change.system_prompt {
            check_length("the system prompt", &system_prompt, limits::SYSTEM_PROMPT)?;
            conversation.system_prompt = system_prompt;
        }
        if let Some(settings) = change.settings {
            settings.check()?;
            conversation.settings = settings;
        }
        if let Some(leaf) = change.leaf_id {
            if messages::read(&transaction, &leaf)?.conversation_id != id {
                return Err(StoreError::UnknownMessage(StoreError::shown(&leaf)));
            }
            conversation.leaf_id = Some(leaf);
        }
        transaction.execute(
            "UPDATE conversations SET title = ?2, system_prompt = ?3, settings = ?4, leaf_id = ?5 WHERE id = ?1",
            params![
                id,
                conversation.title,
                conversation.system_prompt,
                messages::to_json(&conversation.settings),
                conversation.leaf_id
            ],
        )?;
        transaction.commit()?;
        Ok(conversation)
    }

    /// Deletes the conversation `id` with all that belongs to it. Its text is overwritten in the file, in the index
    /// of the search and, by emptying it, in the log.
    ///
    /// # Errors
    /// [`StoreError::UnknownConversation`].
    pub fn delete(&mut self, id: &str) -> Result<(), StoreError> {
        if self.connection.execute("DELETE FROM conversations WHERE id = ?1", [id])? == 0 {
            return Err(StoreError::UnknownConversation(StoreError::shown(id)));
        }
        // Somebody reading the file at this moment delays this to the next time; the deletion itself has happened.
        self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        Ok(())
    }
}
