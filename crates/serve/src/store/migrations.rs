//! The layout of the database and how older ones become it. `PRAGMA user_version` counts the files that have been
//! applied, each in a transaction with its number: a database is never between two layouts.

use rusqlite::{Connection, TransactionBehavior};

/// The files, oldest first. A file that has been released is never changed; a change is a new file.
const FILES: [&str; 1] = [include_str!("schema/001.sql")];

/// `casa` in ASCII: tells our files from other programs' databases.
pub(super) const APPLICATION: i64 = 0x6361_7361;

/// The newest layout known here.
pub(super) const NEWEST: i64 = FILES.len() as i64;

/// Applies the files that `connection` lacks, given that it has `version` of them.
///
/// # Errors
/// SQLite's.
pub(super) fn apply(connection: &mut Connection, version: i64) -> rusqlite::Result<()> {
    for (number, file) in (1..).zip(FILES).filter(|(number, _)| *number > version) {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(file)?;
        transaction.pragma_update(None, "application_id", APPLICATION)?;
        transaction.pragma_update(None, "user_version", number)?;
        transaction.commit()?;
    }
    Ok(())
}
