//! The export file: conversations as JSON, with everything but token ids.
//!
//! Ids of tokens stay behind on purpose. An imported answer whose ids were not those of its text would put into the
//! prompt what nobody can read, control tokens included; a text that is encoded again cannot.

use serde::{Deserialize, Serialize};

use super::Database;
use super::error::StoreError;
use super::now;
use super::types::Tree;

/// Tells the file from other JSON.
pub const FORMAT: &str = "casallm-conversations";

/// [`ExportFile::version`] of what is written.
pub const VERSION: u32 = 1;

/// The whole file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ExportFile {
    /// `casallm-conversations`.
    pub format: String,
    /// 1; it counts the changes that an older program could not read.
    pub version: u32,
    /// Unix milliseconds.
    pub exported_at: i64,
    /// The conversations with all their branches.
    pub conversations: Vec<Tree>,
}

impl Database {
    /// The conversations of these ids as an export file.
    ///
    /// # Errors
    /// [`StoreError::UnknownConversation`].
    pub fn export(&self, ids: &[String]) -> Result<ExportFile, StoreError> {
        let conversations = ids.iter().map(|id| self.tree(id)).collect::<Result<_, _>>()?;
        Ok(ExportFile { format: FORMAT.to_owned(), version: VERSION, exported_at: now(), conversations })
    }
}
