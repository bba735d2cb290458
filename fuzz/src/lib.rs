//! What several targets need.

use std::path::PathBuf;
use std::sync::OnceLock;

/// One folder for a whole run, in memory where the system has such a place.
pub fn folder() -> &'static PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let memory = PathBuf::from("/dev/shm");
        let place = if memory.is_dir() { memory } else { std::env::temp_dir() };
        tempfile::tempdir_in(place).expect("a folder").keep()
    })
}
