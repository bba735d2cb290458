//! One event file, and the folder of a stage's.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::wire;

/// By this in its name TensorBoard knows an event file.
const MARK: &str = "events.out.tfevents.";

/// Seconds since 1970.
pub(super) fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// The event files of a folder by their names, which is the order in which TensorBoard reads them; none where it is not
/// there.
///
/// # Errors
/// The folder cannot be read.
pub(super) fn files_in(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()?;
    found.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(MARK)));
    found.sort();
    Ok(found)
}

/// A name that comes after those of `earlier`, whatever the clock says.
pub(super) fn next_name(earlier: &[PathBuf], wall: f64) -> String {
    let number = |path: &PathBuf| {
        let name = path.file_name()?.to_str()?.strip_prefix(MARK)?;
        name.split('.').next()?.parse::<u64>().ok()
    };
    let last = earlier.iter().filter_map(number).max();
    let seconds = (wall as u64).max(last.map_or(0, |last| last.saturating_add(1)));
    format!("{MARK}{seconds:010}.casallm.{}", std::process::id())
}

/// An event file that grows. After each record it is whole to whoever reads it.
pub(super) struct EventFile {
    file: File,
    length: u64,
}

impl EventFile {
    /// Begins a new file.
    ///
    /// # Errors
    /// It is there already, or the disk refuses.
    pub(super) fn create(path: &Path, wall: f64) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create_new(true).open(path)?;
        let mut file = EventFile { file, length: 0 };
        file.append(&wire::version(wall))?;
        Ok(file)
    }

    /// Appends records.
    ///
    /// # Errors
    /// The disk refuses: then nothing of them is in the file.
    pub(super) fn append(&mut self, records: &[u8]) -> io::Result<()> {
        if let Err(error) = self.file.write_all(records) {
            // Behind a torn record TensorBoard reads nothing.
            let _ = self.file.set_len(self.length);
            return Err(error);
        }
        self.length += records.len() as u64;
        Ok(())
    }

    /// Waits until it is on the disk.
    ///
    /// # Errors
    /// The disk refuses.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_ascend_though_the_clock_was_set_back() {
        let folder = tempfile::tempdir().unwrap();
        assert!(files_in(&folder.path().join("none")).unwrap().is_empty());
        let mut names = Vec::new();
        for wall in [2e9, 1e9, 1e9, 3e9] {
            let earlier = files_in(folder.path()).unwrap();
            names.push(next_name(&earlier, wall));
            EventFile::create(&folder.path().join(names.last().unwrap()), wall).unwrap();
        }
        fs::write(folder.path().join("notes.txt"), "").unwrap();
        let found = files_in(folder.path()).unwrap();
        let found: Vec<_> = found.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(found, names);
    }
}
