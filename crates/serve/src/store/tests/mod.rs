//! Tests of what several files do together, and what the tests beside the code share.

mod answers;
mod exchange;
mod trees;

use tempfile::TempDir;

use super::{Conversation, Database, Ending, NewConversation, Status};

/// The tokenizer that answers of tests are of.
pub(super) const TOKENIZER: &str = "tokenizer of a test";

/// A folder that goes with its handle.
pub(super) fn scratch() -> TempDir {
    tempfile::tempdir().expect("a folder for a test")
}

/// An empty database in a folder of its own.
pub(super) fn database() -> (TempDir, Database) {
    let dir = scratch();
    let database = Database::open(&dir.path().join("chat.db")).expect("a new database");
    (dir, database)
}

/// A conversation of these texts in turn, beginning with the person's; a last question has an empty answer.
pub(super) fn conversation_with(database: &mut Database, texts: &[&str]) -> Conversation {
    let id = database.create(NewConversation::default()).unwrap().id;
    let mut parent = None;
    for pair in texts.chunks(2) {
        let (_, answer) = database.ask(&id, parent.as_deref(), pair[0], TOKENIZER).unwrap();
        if let Some(text) = pair.get(1) {
            database.append(&answer.id, text, &[1, 2, 3]).unwrap();
        }
        database.finish(&answer.id, &Ending::bare(Status::Complete)).unwrap();
        parent = Some(answer.id);
    }
    database.conversation(&id).unwrap()
}
