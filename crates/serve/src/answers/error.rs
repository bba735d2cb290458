//! [`AnswersError`]: why a message is not answered.

use thiserror::Error;

use crate::chatbot::ChatError;
use crate::overflow::DoesNotFit;
use crate::store::StoreError;

/// Why an answer is not begun, stopped or listened to.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AnswersError {
    /// The conversation, the message or the database is not as it has to be.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The model does not take the request. Nothing was stored.
    #[error(transparent)]
    Chat(#[from] ChatError),
    /// The conversation has no place in the context. Nothing was stored.
    #[error(transparent)]
    DoesNotFit(#[from] DoesNotFit),
    /// As many answers are unfinished as may be.
    #[error("{0} answers are unfinished, which is the most; try again later, or stop one")]
    Busy(usize),
    /// The server is stopping.
    #[error("the server is shutting down; try again when it is back")]
    ShuttingDown,
    /// No randomness, or no thread, for the work.
    #[error("the system refuses what an answer needs: {0}")]
    System(String),
}
