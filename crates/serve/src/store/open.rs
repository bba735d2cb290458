//! Opening a database: lock, checks, layout, and the answers that a crash left unfinished.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::time::Duration;

use casallm_data::file_lock::{FileLock, LockError};
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::Database;
use super::error::StoreError;
use super::migrations;

/// The server is alone, but a person may read the file with `sqlite3` or copy it meanwhile.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The write-ahead log is cut back to this when it has been emptied.
const JOURNAL_BYTES: i64 = 16 << 20;

impl Database {
    /// Opens the database at `path`, creating it and its folder where they are missing. Answers that were being
    /// written when the last process ended become stopped, with what they have.
    ///
    /// # Errors
    /// [`StoreError::Locked`], [`StoreError::NotOurs`], [`StoreError::Newer`], [`StoreError::Damaged`],
    /// [`StoreError::DiskFull`], [`StoreError::Io`].
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        // Absolute, because SQLite takes a name that begins with `file:` for more than a name.
        let absolute = std::path::absolute(path).map_err(|source| StoreError::io(path, "find", source))?;
        if let Some(folder) = absolute.parent() {
            std::fs::create_dir_all(folder).map_err(|source| StoreError::io(folder, "create", source))?;
        }
        let mut lock_file = absolute.as_os_str().to_owned();
        lock_file.push(".lock");
        let lock_file = PathBuf::from(lock_file);
        let new = !lock_file.exists();
        let lock = lock(&absolute, &lock_file)?;
        let opened = Self::open_locked(path, &absolute, lock);
        // Nothing is left beside what is none of ours.
        if new && (absolute.is_dir() || matches!(opened, Err(StoreError::NotOurs { .. }))) {
            let _ = std::fs::remove_file(&lock_file);
        }
        opened
    }

    fn open_locked(path: &Path, absolute: &Path, lock: FileLock) -> Result<Self, StoreError> {
        create_private(absolute).map_err(|source| StoreError::io(path, "open", source))?;
        // A closed database has no log beside it; what a log holds is applied by SQLite as soon as it reads.
        let mut log = absolute.as_os_str().to_owned();
        log.push("-wal");
        let unclean = std::fs::metadata(&log).is_ok_and(|log| log.len() > 0);

        let mut connection =
            Connection::open_with_flags(absolute, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)
                .map_err(|error| named(path, error))?;
        prepare(&mut connection, path, unclean)?;
        let mut database = Self { connection, path: path.to_owned(), _lock: lock };
        database.named(Self::end_left_overs)?;
        Ok(database)
    }

    /// Runs `work` and puts the database's path into errors that concern the file.
    pub(super) fn named<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, StoreError>) -> Result<T, StoreError> {
        work(self).map_err(|error| match error {
            StoreError::Sqlite(error) => named(&self.path, error),
            other => other,
        })
    }
}

/// One server for a database. SQLite's own locks would let two servers take turns, and each would take the other's running
/// answers for left-overs of a crash.
fn lock(database: &Path, file: &Path) -> Result<FileLock, StoreError> {
    FileLock::acquire(file).map_err(|error| match error {
        LockError::Held { pid } => StoreError::Locked { path: database.to_owned(), pid },
        LockError::Io(source) => StoreError::io(file, "lock", source),
    })
}

/// Checks that the file is a database of ours, that it is whole, and brings it to the newest layout.
fn prepare(connection: &mut Connection, path: &Path, unclean: bool) -> Result<(), StoreError> {
    let sqlite = |error| named(path, error);
    connection.busy_timeout(BUSY_TIMEOUT).map_err(sqlite)?;
    // The first read: a file that is no database is found out here, before anything is written.
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(sqlite)?;
    let application: i64 = connection.pragma_query_value(None, "application_id", |row| row.get(0)).map_err(sqlite)?;
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(sqlite)?;
    if application != migrations::APPLICATION && (application != 0 || version != 0 || tables != 0) {
        return Err(StoreError::NotOurs { path: path.to_owned(), found: "another program's SQLite database".into() });
    }
    if version > migrations::NEWEST {
        return Err(StoreError::Newer { path: path.to_owned(), found: version, known: migrations::NEWEST });
    }
    if unclean {
        let finding: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(sqlite)?;
        if finding != "ok" {
            return Err(StoreError::Damaged { path: path.to_owned(), finding });
        }
    }
    let pragmas = || {
        connection.pragma_update(None, "journal_mode", "wal")?;
        // What a person wrote and each finished answer are on the disk before they are confirmed, which takes a sync.
        // `append` lowers this for the pieces of a running answer; see there.
        connection.pragma_update(None, "synchronous", "full")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        connection.pragma_update(None, "trusted_schema", false)?;
        connection.pragma_update(None, "cell_size_check", true)?;
        // What is deleted is overwritten.
        connection.pragma_update(None, "secure_delete", true)?;
        connection.pragma_update(None, "journal_size_limit", JOURNAL_BYTES)
    };
    pragmas().map_err(sqlite)?;
    migrations::apply(connection, version).map_err(sqlite)
}

/// Makes sure that the file exists. A new one is for its owner's eyes alone, and so are SQLite's files beside it.
fn create_private(path: &Path) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop)
}

/// An error of SQLite as what it means for the file at `path`.
fn named(path: &Path, error: rusqlite::Error) -> StoreError {
    let path = path.to_owned();
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::DiskFull { path },
        Some(ErrorCode::NotADatabase) => StoreError::NotOurs { path, found: "it is no SQLite database".into() },
        Some(ErrorCode::DatabaseCorrupt) => StoreError::Damaged { path, finding: error.to_string() },
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::Locked { path, pid: None },
        _ => StoreError::Sqlite(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, PermissionsExt};

    use super::*;
    use crate::store::tests::{conversation_with, scratch};

    #[test]
    fn a_new_database_is_private_and_opens_again() {
        let dir = scratch();
        let path = dir.path().join("a/b/chat.db");
        let mut database = Database::open(&path).unwrap();
        let id = conversation_with(&mut database, &["Hello"]).id;
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(database);
        assert_eq!(Database::open(&path).unwrap().conversation(&id).unwrap().title, "Hello");
    }

    #[test]
    fn a_name_that_looks_like_a_uri_is_a_name() {
        let dir = scratch();
        let path = dir.path().join("file:x?mode=memory");
        drop(Database::open(&path).unwrap());
        assert!(path.exists());
    }

    #[test]
    fn a_second_server_is_refused_by_the_firsts_number() {
        let dir = scratch();
        let path = dir.path().join("chat.db");
        let first = Database::open(&path).unwrap();
        let error = Database::open(&path).unwrap_err();
        assert!(matches!(error, StoreError::Locked { pid: Some(pid), .. } if pid == std::process::id()), "{error}");
        assert!(error.to_string().contains("Stop that server"), "{error}");
        drop(first);
        Database::open(&path).unwrap();
    }

    #[test]
    fn a_newer_layout_is_refused_and_left_as_it_is() {
        let dir = scratch();
        let path = dir.path().join("chat.db");
        let database = Database::open(&path).unwrap();
        database.connection.pragma_update(None, "user_version", migrations::NEWEST + 1).unwrap();
        drop(database);
        let before = std::fs::read(&path).unwrap();
        let error = Database::open(&path).unwrap_err();
        assert!(matches!(error, StoreError::Newer { found, known, .. } if found == known + 1), "{error}");
        assert!(error.to_string().contains("Use the newer program"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }

    #[test]
    fn files_of_others_are_refused_and_left_as_they_are() {
        let dir = scratch();
        let text = dir.path().join("notes.txt");
        std::fs::write(&text, "Dear diary, this is no database at all.\n".repeat(40)).unwrap();
        let other = dir.path().join("other.db");
        Connection::open(&other).unwrap().execute_batch("CREATE TABLE cats (name)").unwrap();
        for path in [text, other] {
            let before = std::fs::read(&path).unwrap();
            let error = Database::open(&path).unwrap_err();
            assert!(matches!(error, StoreError::NotOurs { .. }), "{error}");
            assert_eq!(std::fs::read(&path).unwrap(), before);
        }
        let folder = dir.path().join("folder");
        std::fs::create_dir(&folder).unwrap();
        assert!(matches!(Database::open(&folder), Err(StoreError::Io { doing: "open", .. })));
        // And nothing is left beside them.
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3);
    }

    #[test]
    fn damage_is_found_when_the_last_close_was_unclean() {
        let dir = scratch();
        let path = dir.path().join("chat.db");
        let mut database = Database::open(&path).unwrap();
        for _ in 0..50 {
            conversation_with(&mut database, &[&"Something to fill pages with. ".repeat(100)]);
        }
        drop(database);
        // As after a crash: a log is there, and pages of the file have been overwritten by something else.
        std::fs::write(dir.path().join("chat.db-wal"), [0; 32]).unwrap();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        let pages = file.metadata().unwrap().len() / 4096;
        for page in pages / 2..pages {
            file.write_all_at(&[0x5a; 4096], page * 4096).unwrap();
        }
        let error = Database::open(&path).unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
        assert!(error.to_string().contains(".recover"), "{error}");
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let dir = scratch();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let error = Database::open(&dir.path().join("file/chat.db")).unwrap_err();
        assert!(matches!(error, StoreError::Io { doing: "create", .. }), "{error}");
    }
}
