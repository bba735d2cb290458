//! Errors of the store and of answers, as a client should hear them. What is the owner's to mend goes to the log.

use super::super::error::ApiError;
use super::super::openai::refused;
use super::super::server::Server;
use crate::answers::AnswersError;
use crate::store::StoreError;

/// Of answers.
pub(super) fn answers(server: &Server, error: &AnswersError) -> ApiError {
    match error {
        AnswersError::Store(error) => store(server, error),
        AnswersError::Chat(error) => refused("content", error),
        AnswersError::DoesNotFit(error) => ApiError::context_length("content", error.to_string()),
        AnswersError::Busy(_) => ApiError::busy(5),
        AnswersError::ShuttingDown => ApiError::stopping(),
        other => internal(server, other),
    }
}

/// Of the store.
pub(in crate::api) fn store(server: &Server, error: &StoreError) -> ApiError {
    let told = error.to_string();
    match error {
        StoreError::UnknownConversation(_) | StoreError::UnknownMessage(_) => ApiError::not_found(told),
        StoreError::StillRunning(_) | StoreError::Ended(_) => ApiError::conflict(told),
        StoreError::Setting { name, .. } => ApiError::field(format!("settings.{name}"), told),
        StoreError::Parent { .. } => ApiError::field("parent_id", told),
        StoreError::Cursor(_) => ApiError::field("cursor", told),
        StoreError::TooLong { .. }
        | StoreError::TooManyMessages(_)
        | StoreError::Empty(_)
        | StoreError::Import { .. } => ApiError::invalid(told),
        StoreError::Closed => ApiError::stopping(),
        // Writing works again once the owner has made room.
        StoreError::DiskFull { .. } => {
            server.log(&told);
            ApiError::full_disk()
        }
        other => internal(server, other),
    }
}

fn internal(server: &Server, error: &dyn std::error::Error) -> ApiError {
    server.log(&format!("a request failed: {error}"));
    ApiError::internal()
}
