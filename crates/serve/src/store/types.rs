//! What the store holds, as its callers see it. The serialised forms are those of the export file (`export`).

use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::error::StoreError;
use crate::overflow::Policy;

/// The longest limits of what the store takes. A server may allow less.
pub mod limits {
    /// Bytes of a message.
    pub const CONTENT: usize = 4 << 20;
    /// Bytes of a system prompt.
    pub const SYSTEM_PROMPT: usize = 1 << 20;
    /// Bytes of a title.
    pub const TITLE: usize = 1_000;
    /// Messages of a conversation.
    pub const MESSAGES: usize = 20_000;
    /// Conversations of an import.
    pub const CONVERSATIONS: usize = 100_000;
    /// Bytes of an import.
    pub const IMPORT: usize = 256 << 20;
    /// Conversations of a page of the list.
    pub const PAGE: usize = 200;
    /// The last moment that a time may name: the end of the year 9999, in unix milliseconds.
    pub const TIME: i64 = 253_402_300_799_999;
}

/// Who speaks. The system prompt belongs to the conversation and is no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The person.
    User,
    /// The model.
    Assistant,
}

/// How far an answer is. A person's message is always complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Being written.
    Running,
    /// Waiting for a listener.
    Paused,
    /// Ended by itself.
    Complete,
    /// Ended by the reader, a restart, or for want of a listener.
    Stopped,
    /// Ended by the limit of tokens that was asked for.
    Length,
    /// Ended by the model's context.
    Context,
    /// Ended by an error.
    Failed,
}

impl Status {
    const ALL: [Self; 7] =
        [Self::Running, Self::Paused, Self::Complete, Self::Stopped, Self::Length, Self::Context, Self::Failed];

    /// Whether no more text can follow.
    pub fn has_ended(self) -> bool {
        !matches!(self, Self::Running | Self::Paused)
    }

    /// The name in the database and in exports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Complete => "complete",
            Self::Stopped => "stopped",
            Self::Length => "length",
            Self::Context => "context",
            Self::Failed => "failed",
        }
    }
}

impl Role {
    /// The name in the database and in exports.
    pub fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

impl ToSql for Status {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.name().into())
    }
}

impl FromSql for Status {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let name = value.as_str()?;
        Self::ALL.into_iter().find(|status| status.name() == name).ok_or(FromSqlError::InvalidType)
    }
}

impl ToSql for Role {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.name().into())
    }
}

impl FromSql for Role {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let name = value.as_str()?;
        [Self::User, Self::Assistant].into_iter().find(|role| role.name() == name).ok_or(FromSqlError::InvalidType)
    }
}

/// How a conversation's answers are drawn; what is absent is the server's default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Settings {
    /// In `[0, 5]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f32>,
    /// Up to a million; 0 is no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
    /// In `(0, 1]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f32>,
    /// In `[0, 1]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_p: Option<f32>,
    /// In `[0.1, 10]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repetition_penalty: Option<f32>,
    /// From 1 to a million.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// Equal seeds give equal answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

impl Settings {
    /// # Errors
    /// [`StoreError::Setting`] for the first number that is out of range, or none at all (infinite, NaN).
    pub fn check(&self) -> Result<(), StoreError> {
        let ranged = [
            ("temperature", self.temperature, 0.0, 5.0, "it must be between 0 and 5"),
            ("top_p", self.top_p, f32::MIN_POSITIVE, 1.0, "it must be above 0 and at most 1"),
            ("min_p", self.min_p, 0.0, 1.0, "it must be between 0 and 1"),
            ("repetition_penalty", self.repetition_penalty, 0.1, 10.0, "it must be between 0.1 and 10"),
        ];
        for (name, value, lowest, highest, allowed) in ranged {
            if let Some(value) = value.filter(|value| !(lowest..=highest).contains(value)) {
                return Err(StoreError::Setting { name, value: value.to_string(), allowed });
            }
        }
        let counts = [
            ("top_k", self.top_k, 0, "it must be between 0 and 1000000"),
            ("max_tokens", self.max_tokens, 1, "it must be between 1 and 1000000"),
        ];
        for (name, value, lowest, allowed) in counts {
            if let Some(value) = value.filter(|value| !(lowest..=1_000_000).contains(value)) {
                return Err(StoreError::Setting { name, value: value.to_string(), allowed });
            }
        }
        Ok(())
    }
}

/// A conversation without its messages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Conversation {
    /// Opaque.
    pub id: String,
    /// Empty until something is said.
    pub title: String,
    /// Precedes the messages; may be empty.
    pub system_prompt: String,
    /// How answers are drawn.
    pub settings: Settings,
    /// The last message of the branch that is shown.
    pub leaf_id: Option<String>,
    /// Unix milliseconds.
    pub created_at: i64,
    /// When the last message was begun or ended, in unix milliseconds.
    pub updated_at: i64,
}

/// A message without its token ids.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Message {
    /// Opaque.
    pub id: String,
    /// Where it belongs.
    pub conversation_id: String,
    /// The message that it follows; none begins a conversation.
    pub parent_id: Option<String>,
    /// Who speaks.
    pub role: Role,
    /// What is said; of an unfinished answer, so far.
    pub content: String,
    /// How far it is.
    pub status: Status,
    /// Unix milliseconds.
    pub created_at: i64,
    /// What the answer took.
    pub usage: Option<Usage>,
    /// How fast it came.
    pub timing: Option<Timing>,
    /// How full the context was, and what was left out for it.
    pub context: Option<Context>,
}

/// Tokens of one answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Usage {
    /// Read, with those that the cache had.
    pub prompt_tokens: u32,
    /// Written.
    pub completion_tokens: u32,
    /// Of the prompt, those that the cache had.
    pub cached_tokens: u32,
}

/// Speed of one answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Timing {
    /// Milliseconds from the request to the first token.
    pub first_token_ms: Option<f64>,
    /// After the first; none of an answer of one token.
    pub tokens_per_second: Option<f64>,
}

/// The context of one answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Context {
    /// Tokens in the context when the answer had ended.
    pub used: u32,
    /// Tokens that the model can hold.
    pub limit: u32,
    /// What was done to make the conversation fit; none if all of it did.
    pub overflow: Option<Overflow>,
}

/// What the model was not given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Overflow {
    /// What was applied.
    pub policy: Policy,
    /// Messages of the branch that the model did not see as they were written.
    pub dropped_messages: u32,
    /// The note that stood for them, or for most of them.
    pub note_id: Option<String>,
}

/// A summary of a conversation's beginning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Note {
    /// Opaque.
    pub id: String,
    /// The last message that it condenses; it stands for the path from the beginning to there.
    pub through_id: String,
    /// The summary.
    pub text: String,
    /// Tokens of the text by the tokenizer that it was written with.
    pub tokens: u32,
    /// Unix milliseconds.
    pub created_at: i64,
}

/// A conversation with all its branches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Tree {
    /// Itself.
    pub conversation: Conversation,
    /// All messages, in order of creation.
    pub messages: Vec<Message>,
    /// All notes, oldest first.
    pub notes: Vec<Note>,
}

/// An answer's token ids as generated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// The tokenizer that they belong to.
    pub tokenizer: String,
    /// The ids.
    pub ids: Vec<u32>,
}

/// A message on the way from the root, with what a prompt needs of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// The message.
    pub message: Message,
    /// Of answers that were generated here.
    pub tokens: Option<Tokens>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_serialised_form() {
        for status in Status::ALL {
            assert_eq!(serde_json::to_value(status).unwrap(), status.name());
        }
        for role in [Role::User, Role::Assistant] {
            assert_eq!(serde_json::to_value(role).unwrap(), role.name());
        }
        assert_eq!(serde_json::to_value(Policy::DropOldest).unwrap(), "drop-oldest");
    }

    #[test]
    fn numbers_out_of_range_are_named() {
        for (settings, name) in [
            (Settings { temperature: Some(f32::NAN), ..Default::default() }, "temperature"),
            (Settings { temperature: Some(-0.1), ..Default::default() }, "temperature"),
            (Settings { top_p: Some(0.0), ..Default::default() }, "top_p"),
            (Settings { min_p: Some(f32::INFINITY), ..Default::default() }, "min_p"),
            (Settings { repetition_penalty: Some(0.0), ..Default::default() }, "repetition_penalty"),
            (Settings { top_k: Some(1_000_001), ..Default::default() }, "top_k"),
            (Settings { max_tokens: Some(0), ..Default::default() }, "max_tokens"),
        ] {
            let error = settings.check().unwrap_err();
            assert!(matches!(error, StoreError::Setting { name: found, .. } if found == name), "{error}");
        }
        let edge = Settings {
            temperature: Some(5.0),
            top_k: Some(0),
            top_p: Some(1.0),
            min_p: Some(0.0),
            repetition_penalty: Some(10.0),
            max_tokens: Some(1),
            seed: Some(u64::MAX),
        };
        edge.check().unwrap();
        assert_eq!(serde_json::from_str::<Settings>(&serde_json::to_string(&edge).unwrap()).unwrap(), edge);
    }
}
