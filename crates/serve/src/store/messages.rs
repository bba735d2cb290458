//! Messages: asking, answering again, reading a branch.

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::StoreError;
use super::types::{Message, Role, Status, Step, Tokens, limits};
use super::{Database, check_length, ids, now, title};

const COLUMNS: &str = "m.id, m.conversation_id, m.parent_id, m.role, m.content, m.status, m.created_at, m.usage, \
                       m.timing, m.context, m.number";

/// A message from [`COLUMNS`], an unfinished answer with the pieces that it has.
fn from_row(connection: &Connection, row: &Row<'_>) -> Result<Message, StoreError> {
    let mut message = Message {
        id: row.get(0)?,
        conversation_id: row.get(1)?,
        parent_id: row.get(2)?,
        role: row.get(3)?,
        content: row.get(4)?,
        status: row.get(5)?,
        created_at: row.get(6)?,
        usage: json(row, 7)?,
        timing: json(row, 8)?,
        context: json(row, 9)?,
    };
    if !message.status.has_ended() {
        message.content = pieces(connection, row.get(10)?)?.0;
    }
    Ok(message)
}

/// Text and ids of the pieces of the message of this number, joined.
pub(super) fn pieces(connection: &Connection, number: i64) -> Result<(String, Vec<u8>), StoreError> {
    let mut joined = (String::new(), Vec::new());
    let mut statement =
        connection.prepare_cached("SELECT text, ids FROM pieces WHERE message = ?1 ORDER BY ordinal")?;
    let mut rows = statement.query([number])?;
    while let Some(row) = rows.next()? {
        let text = row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?;
        let ids = row.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?;
        joined.0.push_str(text);
        joined.1.extend_from_slice(ids);
    }
    Ok(joined)
}

/// The message `id`.
pub(super) fn read(connection: &Connection, id: &str) -> Result<Message, StoreError> {
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM messages m WHERE m.id = ?1"))?
        .query_row([id], |row| Ok(from_row(connection, row)))
        .optional()?
        .unwrap_or_else(|| Err(StoreError::UnknownMessage(StoreError::shown(id))))
}

/// All messages of a conversation in order of creation.
pub(super) fn of_conversation(connection: &Connection, id: &str) -> Result<Vec<Message>, StoreError> {
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM messages m WHERE m.conversation_id = ?1 ORDER BY m.number"))?
        .query_and_then([id], |row| from_row(connection, row))?
        .collect()
}

/// Writes a row, without token ids.
pub(super) fn insert(connection: &Connection, message: &Message) -> Result<(), StoreError> {
    connection
        .prepare_cached(
            "INSERT INTO messages (id, conversation_id, parent_id, role, content, status, created_at, usage, timing, \
             context) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        )?
        .execute(params![
            message.id,
            message.conversation_id,
            message.parent_id,
            message.role,
            message.content,
            message.status,
            message.created_at,
            message.usage.as_ref().map(to_json),
            message.timing.as_ref().map(to_json),
            message.context.as_ref().map(to_json),
        ])?;
    Ok(())
}

/// Puts a new message at the end of a branch and shows that branch.
fn grow(
    connection: &Connection,
    conversation: &str,
    parent: Option<&str>,
    role: Role,
    content: &str,
    status: Status,
) -> Result<Message, StoreError> {
    let message = Message {
        id: ids::fresh()?,
        conversation_id: conversation.to_owned(),
        parent_id: parent.map(str::to_owned),
        role,
        content: content.to_owned(),
        status,
        created_at: now(),
        usage: None,
        timing: None,
        context: None,
    };
    insert(connection, &message)?;
    connection
        .prepare_cached("UPDATE conversations SET leaf_id = ?2, updated_at = max(updated_at, ?3) WHERE id = ?1")?
        .execute(params![conversation, message.id, message.created_at])?;
    Ok(message)
}

/// Puts an answer that is still empty at the end of a branch.
fn begin(
    connection: &Connection,
    conversation: &str,
    parent: Option<&str>,
    tokenizer: &str,
) -> Result<Message, StoreError> {
    let message = grow(connection, conversation, parent, Role::Assistant, "", Status::Running)?;
    // Known from the beginning, so that what a crash leaves is of use too.
    connection
        .prepare_cached("UPDATE messages SET tokenizer = ?2 WHERE id = ?1")?
        .execute(params![message.id, tokenizer])?;
    Ok(message)
}

/// Refuses a conversation that has no room for `more` messages.
fn check_room(connection: &Connection, conversation: &str, more: usize) -> Result<(), StoreError> {
    let count: u32 = connection
        .prepare_cached("SELECT count(*) FROM messages WHERE conversation_id = ?1")?
        .query_row([conversation], |row| row.get(0))?;
    let count = count as usize;
    if count + more > limits::MESSAGES { Err(StoreError::TooManyMessages(count)) } else { Ok(()) }
}

impl Database {
    /// The message `id`; of an unfinished answer what it has so far.
    ///
    /// # Errors
    /// [`StoreError::UnknownMessage`].
    pub fn message(&self, id: &str) -> Result<Message, StoreError> {
        read(&self.connection, id)
    }

    /// A person's message below `parent` (an ended answer, or none to begin) with its answer, which is running, empty,
    /// and to be of ids of `tokenizer`. The conversation takes its title from the first message, unless it has one.
    ///
    /// # Errors
    /// [`StoreError::UnknownConversation`], [`StoreError::UnknownMessage`] and [`StoreError::Parent`] for the parent,
    /// [`StoreError::StillRunning`], [`StoreError::Empty`], [`StoreError::TooLong`], [`StoreError::TooManyMessages`].
    pub fn ask(
        &mut self,
        conversation: &str,
        parent: Option<&str>,
        content: &str,
        tokenizer: &str,
    ) -> Result<(Message, Message), StoreError> {
        if content.trim().is_empty() {
            return Err(StoreError::Empty("the message"));
        }
        check_length("the message", content, limits::CONTENT)?;
        let transaction = self.transaction()?;
        let found = super::conversations::read(&transaction, conversation)?;
        check_room(&transaction, conversation, 2)?;
        if let Some(parent) = parent {
            let parent = read(&transaction, parent)?;
            if parent.conversation_id != conversation {
                return Err(StoreError::Parent { parent: parent.id, reason: "it is in another conversation" });
            }
            if parent.role != Role::Assistant {
                return Err(StoreError::Parent { parent: parent.id, reason: "a person's message follows an answer" });
            }
            if !parent.status.has_ended() {
                return Err(StoreError::StillRunning(parent.id));
            }
        }
        if found.title.is_empty() {
            transaction.execute(
                "UPDATE conversations SET title = ?2 WHERE id = ?1",
                params![conversation, title::from_text(content)],
            )?;
        }
        let user = grow(&transaction, conversation, parent, Role::User, content, Status::Complete)?;
        let answer = begin(&transaction, conversation, Some(&user.id), tokenizer)?;
        transaction.commit()?;
        Ok((user, answer))
    }

    /// Another answer to the message that `answer` answers, running, empty, and to be of ids of `tokenizer`.
    ///
    /// # Errors
    /// [`StoreError::UnknownMessage`]; [`StoreError::Parent`] if `answer` is a person's message;
    /// [`StoreError::TooManyMessages`].
    pub fn answer_again(&mut self, answer: &str, tokenizer: &str) -> Result<Message, StoreError> {
        let transaction = self.transaction()?;
        let old = read(&transaction, answer)?;
        if old.role != Role::Assistant {
            return Err(StoreError::Parent { parent: old.id, reason: "only an answer can be generated again" });
        }
        check_room(&transaction, &old.conversation_id, 1)?;
        let parent = old.parent_id.as_deref();
        let message = begin(&transaction, &old.conversation_id, parent, tokenizer)?;
        transaction.commit()?;
        Ok(message)
    }

    /// The messages from the beginning of the conversation to the message `id`, with the token ids of answers.
    ///
    /// # Errors
    /// [`StoreError::UnknownMessage`].
    pub fn path(&self, id: &str) -> Result<Vec<Step>, StoreError> {
        let sql = format!(
            "WITH RECURSIVE up (id, parent_id, depth) AS (
                 SELECT id, parent_id, 0 FROM messages WHERE id = ?1
                 UNION ALL
                 SELECT p.id, p.parent_id, up.depth + 1 FROM messages p JOIN up ON p.id = up.parent_id
             )
             SELECT {COLUMNS}, m.ids, m.tokenizer FROM up JOIN messages m ON m.id = up.id ORDER BY up.depth DESC"
        );
        let steps: Vec<Step> = self
            .connection
            .prepare_cached(&sql)?
            .query_and_then([id], |row| {
                let message = from_row(&self.connection, row)?;
                let ids: Option<Vec<u8>> = row.get(11)?;
                let tokenizer: Option<String> = row.get(12)?;
                let tokens = ids.zip(tokenizer).map(|(ids, tokenizer)| Tokens { tokenizer, ids: unpack(&ids) });
                Ok(Step { message, tokens })
            })?
            .collect::<Result<_, StoreError>>()?;
        if steps.is_empty() { Err(StoreError::UnknownMessage(StoreError::shown(id))) } else { Ok(steps) }
    }
}

/// Token ids as bytes, little-endian.
pub(super) fn pack(ids: &[u32]) -> Vec<u8> {
    ids.iter().flat_map(|id| id.to_le_bytes()).collect()
}

/// Token ids from bytes.
pub(super) fn unpack(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect()
}

/// A value as the JSON of a column.
pub(super) fn to_json<T: Serialize>(value: &T) -> String {
    // Structs of numbers and strings: there is nothing in them that could fail.
    serde_json::to_string(value).expect("plain data is always JSON")
}

/// The value of a JSON column that may be null.
pub(super) fn json<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<T>> {
    let text: Option<String> = row.get(column)?;
    text.map(|text| {
        serde_json::from_str(&text)
            .map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, error.into()))
    })
    .transpose()
}
