//! The runs of a folder: looked up each time, and those that somebody looks at held open.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use casallm_data::file_lock::{FileLock, RUN_LOCK};

use super::line::Latest;
use super::run::Run;
use super::settings::Settings;

/// Files by which a folder is known to be a run's. A lock alone is also a sweep's: see [`is_run`].
const METRICS: &str = "metrics.jsonl";
const SETTINGS: &str = "settings.toml";
/// Runs of a list; of more, the newest.
const MOST_RUNS: usize = 1_000;
/// Folders that are looked into.
const MOST_FOLDERS: usize = 20_000;
/// Bytes of a file's end in which the newest row is looked for: at first, and at most, where events or damage fill it.
const END: u64 = 64 << 10;
const MOST_END: u64 = 16 << 20;
/// Bytes of all runs held open. Whoever was asked for last stays, however large it is.
const MOST_BYTES: usize = 768 << 20;

/// Why a run is not shown.
#[derive(Debug, thiserror::Error)]
pub enum RunsError {
    /// There is none of that name.
    #[error("there is no run {0:?} here; GET /api/runs lists those that are")]
    Unknown(String),
    /// Its metrics cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A run of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Its folder's name, below the folder of all; the names of two levels are joined by `/`.
    pub name: String,
    /// Whether a process holds it.
    pub running: bool,
    /// Bytes of its metrics: another number means that there is more to read.
    pub bytes: u64,
    /// Seconds since its metrics were written to; of a run without any, since its folder was.
    pub quiet_seconds: f64,
    /// Its stages, by the folders of their checkpoints.
    pub stages: Vec<String>,
    /// Its newest row, if there is one.
    pub latest: Option<Latest>,
}

/// All runs of a folder.
#[derive(Debug, Clone, PartialEq)]
pub struct Listing {
    /// The newest first.
    pub runs: Vec<Summary>,
    /// Runs that the list has no room for.
    pub left_out: usize,
}

/// What stands at the end of a file, and of which file that was said.
#[derive(Debug, Clone)]
struct Peek {
    bytes: u64,
    modified: Option<SystemTime>,
    latest: Option<Latest>,
}

#[derive(Debug)]
struct Open {
    run: Arc<Mutex<Run>>,
    bytes: usize,
    asked: u64,
}

/// The runs of a folder, or the one run whose folder it is.
#[derive(Debug)]
pub struct Runs {
    root: PathBuf,
    open: Mutex<(u64, HashMap<PathBuf, Open>)>,
    peeks: Mutex<HashMap<PathBuf, Peek>>,
    most_bytes: usize,
}

impl Runs {
    /// Of this folder, which may be still to come.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Runs { root: root.into(), open: Mutex::default(), peeks: Mutex::default(), most_bytes: MOST_BYTES }
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether the folder is that of one run.
    pub fn is_one(&self) -> bool {
        is_run(&self.root)
    }

    /// Every run there is.
    pub fn list(&self) -> Listing {
        let folders = self.folders();
        locked(&self.peeks).retain(|path, _| folders.iter().any(|(_, folder)| folder == path));
        let mut runs: Vec<Summary> = folders.into_iter().map(|(name, folder)| self.summary(name, &folder)).collect();
        runs.sort_by(|a, b| a.quiet_seconds.total_cmp(&b.quiet_seconds).then_with(|| a.name.cmp(&b.name)));
        let left_out = runs.len().saturating_sub(MOST_RUNS);
        runs.truncate(MOST_RUNS);
        Listing { runs, left_out }
    }

    /// Does something with a run, once what is new of it is read.
    ///
    /// # Errors
    /// [`RunsError`].
    pub fn with<T>(&self, name: &str, work: impl FnOnce(&Run, &Path) -> T) -> Result<T, RunsError> {
        let folder = self.folder(name)?;
        let run = {
            let mut open = locked(&self.open);
            open.0 += 1;
            let asked = open.0;
            // No epoch of another process, or of a run that was let go, is taken for this one's: they lie far apart.
            let epoch = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |t| t.as_millis() as u64);
            let new = || Open { run: Arc::new(Mutex::new(Run::new(&folder, epoch()))), bytes: 0, asked };
            let open = open.1.entry(folder.clone()).or_insert_with(new);
            open.asked = asked;
            open.run.clone()
        };
        let mut run = locked(&run);
        run.refresh().map_err(|source| RunsError::Io { path: folder.join(METRICS), source })?;
        self.let_go(&folder, run.bytes());
        Ok(work(&run, &folder))
    }

    /// Reads the newest run, so that whoever looks at it first need not wait. What fails here is said to them.
    pub fn read_newest(&self) {
        if let Some(newest) = self.list().runs.first() {
            let _ = self.with(&newest.name, |_, _| ());
        }
    }

    /// The folder of a run.
    ///
    /// # Errors
    /// [`RunsError::Unknown`].
    pub fn folder(&self, name: &str) -> Result<PathBuf, RunsError> {
        let found = self.folders().into_iter().find(|(known, _)| known == name);
        found.map(|(_, folder)| folder).ok_or_else(|| RunsError::Unknown(name.chars().take(80).collect()))
    }

    /// Lets go of runs that nobody has asked for lately, where all together take too much.
    fn let_go(&self, current: &Path, bytes: usize) {
        let mut open = locked(&self.open);
        if let Some(open) = open.1.get_mut(current) {
            open.bytes = bytes;
        }
        while open.1.len() > 1 && open.1.values().map(|open| open.bytes).sum::<usize>() > self.most_bytes {
            let oldest = open.1.iter().filter(|(path, _)| *path != current).min_by_key(|(_, open)| open.asked);
            let Some(oldest) = oldest.map(|(path, _)| path.clone()) else { break };
            open.1.remove(&oldest);
        }
    }

    /// Name and folder of every run: the root's own, else those in it and in folders of it.
    fn folders(&self) -> Vec<(String, PathBuf)> {
        if self.is_one() {
            let whole = self.root.canonicalize().unwrap_or_else(|_| self.root.clone());
            let name = whole.file_name().map_or_else(|| "run".to_owned(), |name| name.to_string_lossy().into_owned());
            return vec![(name, self.root.clone())];
        }
        let mut found = Vec::new();
        let mut left = MOST_FOLDERS;
        for (name, folder) in folders_in(&self.root, &mut left) {
            if is_run(&folder) {
                found.push((name, folder));
                continue;
            }
            let within = folders_in(&folder, &mut left).into_iter().filter(|(_, folder)| is_run(folder));
            found.extend(within.map(|(inner, folder)| (format!("{name}/{inner}"), folder)));
        }
        found.sort();
        // Of names that read the same, the first.
        found.dedup_by(|a, b| a.0 == b.0);
        found
    }

    fn summary(&self, name: String, folder: &Path) -> Summary {
        let metadata = fs::metadata(folder.join(METRICS)).ok();
        let bytes = metadata.as_ref().map_or(0, fs::Metadata::len);
        let modified = metadata.or_else(|| fs::metadata(folder).ok()).and_then(|metadata| metadata.modified().ok());
        let age = modified.and_then(|modified| modified.elapsed().ok());
        Summary {
            name,
            running: FileLock::is_held(&folder.join(RUN_LOCK)),
            bytes,
            quiet_seconds: age.map_or(0.0, |age| age.as_secs_f64()),
            stages: stages(folder),
            latest: self.peek(folder, bytes, modified),
        }
    }

    fn peek(&self, folder: &Path, bytes: u64, modified: Option<SystemTime>) -> Option<Latest> {
        if let Some(peek) = locked(&self.peeks).get(folder)
            && (peek.bytes, peek.modified) == (bytes, modified)
        {
            return peek.latest.clone();
        }
        let mut latest = newest_row(&folder.join(METRICS), bytes).ok().flatten();
        if let Some(latest) = latest.as_mut().filter(|latest| latest.planned.is_none()) {
            latest.planned = Settings::of(folder).and_then(|settings| settings.planned(&latest.stage));
        }
        locked(&self.peeks).insert(folder.to_owned(), Peek { bytes, modified, latest: latest.clone() });
        latest
    }
}

/// A thread that broke off has left nothing half done in what these locks guard that the next reading does not mend.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a folder is a run's. One that has nothing but a lock is that of a run that has just begun, or of a sweep, whose
/// folders are the runs.
fn is_run(folder: &Path) -> bool {
    let has = |folder: &Path, marks: &[&str]| marks.iter().any(|mark| folder.join(mark).is_file());
    let holds_runs = |folder: &Path| {
        let mut left = MOST_FOLDERS;
        folders_in(folder, &mut left).iter().any(|(_, inner)| has(inner, &[METRICS, RUN_LOCK, SETTINGS]))
    };
    has(folder, &[METRICS, SETTINGS]) || has(folder, &[RUN_LOCK]) && !holds_runs(folder)
}

fn folders_in(folder: &Path, left: &mut usize) -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().filter(|_| {
        *left = left.saturating_sub(1);
        *left > 0
    });
    let named = entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()));
    named.filter(|(name, path)| !name.starts_with('.') && path.is_dir()).collect()
}

/// In the order of training.
fn stages(folder: &Path) -> Vec<String> {
    let known = ["pretrain", "sft", "dpo"];
    known.into_iter().filter(|stage| folder.join("checkpoints").join(stage).is_dir()).map(str::to_owned).collect()
}

/// The newest row of a file of so many bytes. Rows are near its end, unless samples by the hundred stand there, or what a cut
/// of power has left.
fn newest_row(path: &Path, bytes: u64) -> io::Result<Option<Latest>> {
    let mut file = File::open(path)?;
    let mut length = END;
    loop {
        file.seek(SeekFrom::Start(bytes.saturating_sub(length)))?;
        let mut end = Vec::new();
        file.by_ref().take(length + END).read_to_end(&mut end)?;
        let found = Latest::of(&end, bytes <= length);
        if found.is_some() || bytes <= length || length >= MOST_END {
            return Ok(found);
        }
        length *= 16;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(step: u64) -> String {
        format!(
            "{{\"step\":{step},\"stage\":\"pretrain\",\"loss\":{}.5,\"timing\":{{\"seconds\":1}}}}\n",
            10_000 - step
        )
    }

    fn scene(names: &[&str]) -> (tempfile::TempDir, Runs) {
        let root = tempfile::tempdir().unwrap();
        for (step, name) in names.iter().enumerate() {
            fs::create_dir_all(root.path().join(name)).unwrap();
            fs::write(root.path().join(name).join(METRICS), row(step as u64 + 1)).unwrap();
        }
        let runs = Runs::new(root.path());
        (root, runs)
    }

    #[test]
    fn runs_are_found_in_the_folder_and_one_below_and_nowhere_else() {
        let (root, runs) = scene(&["a", "sweep/b", "sweep/deep/c", ".hidden", "<b>\u{202e}"]);
        fs::create_dir_all(root.path().join("a/checkpoints/sft")).unwrap();
        fs::create_dir(root.path().join("no run")).unwrap();
        let mut names: Vec<String> = runs.list().runs.into_iter().map(|run| run.name).collect();
        names.sort();
        assert_eq!(names, ["<b>\u{202e}", "a", "sweep/b"]);
        assert_eq!(runs.with("a", |run, _| run.stages()[0].rows()).unwrap(), 1);
        for wrong in ["", ".", "..", "../a", "a/", "sweep", "sweep/../a", ".hidden", "a\0", "/etc"] {
            assert!(matches!(runs.with(wrong, |_, _| ()), Err(RunsError::Unknown(_))), "{wrong:?}");
        }
        let of_a = runs.list().runs.into_iter().find(|run| run.name == "a").unwrap();
        assert_eq!((of_a.running, of_a.stages, of_a.latest.unwrap().step), (false, vec!["sft".to_owned()], 1));
        let one = Runs::new(root.path().join("a"));
        assert!(one.is_one() && one.list().runs[0].name == "a");
        assert!(Runs::new(root.path().join("nothing")).list().runs.is_empty());
    }

    #[test]
    fn the_trials_of_a_sweep_are_runs_and_the_sweep_is_none() {
        let (root, runs) = scene(&["sweep/lr=1", "sweep/lr=2"]);
        // A sweep holds a lock, as a run does that has just begun.
        fs::create_dir_all(root.path().join("begun/data/text")).unwrap();
        for name in ["sweep", "begun"] {
            fs::write(root.path().join(name).join(RUN_LOCK), "").unwrap();
        }
        let names = |runs: &Runs| {
            let mut names: Vec<String> = runs.list().runs.into_iter().map(|run| run.name).collect();
            names.sort();
            names
        };
        assert_eq!(names(&runs), ["begun", "sweep/lr=1", "sweep/lr=2"]);
        let sweep = Runs::new(root.path().join("sweep"));
        assert!(!sweep.is_one() && names(&sweep) == ["lr=1", "lr=2"]);
        // A trial that has just begun has a lock alone.
        fs::create_dir(root.path().join("sweep/lr=3")).unwrap();
        fs::write(root.path().join("sweep/lr=3").join(RUN_LOCK), "").unwrap();
        assert_eq!(names(&sweep), ["lr=1", "lr=2", "lr=3"]);
    }

    #[test]
    fn a_run_runs_while_its_lock_is_held() {
        let (root, runs) = scene(&["a"]);
        let lock = root.path().join("a").join(RUN_LOCK);
        assert!(!runs.list().runs[0].running);
        let held = FileLock::acquire(&lock).unwrap();
        assert!(runs.list().runs[0].running);
        drop(held);
        assert!(!runs.list().runs[0].running);
        // Left by a process that was killed.
        fs::write(&lock, "1\n").unwrap();
        assert!(!runs.list().runs[0].running);
    }

    #[test]
    fn a_list_knows_the_newest_row_as_it_is_written() {
        let (root, runs) = scene(&["a"]);
        fs::write(root.path().join("a/recipe.toml"), "[pretrain]\nsteps = 70\n").unwrap();
        let latest = || runs.list().runs[0].latest.clone().unwrap();
        assert_eq!((latest().step, latest().loss), (1, Some(9_999.5)));
        let text: String = (1..2000).map(row).collect();
        fs::write(root.path().join("a").join(METRICS), text).unwrap();
        assert_eq!((latest().step, latest().planned), (1999, Some(70)));
    }

    #[test]
    fn a_newest_row_far_from_the_end_is_found() {
        let (root, runs) = scene(&["a"]);
        let latest = || runs.list().runs[0].latest.clone();
        let sample =
            format!("{{\"event\":\"sample\",\"step\":9,\"stage\":\"sft\",\"text\":\"{}\"}}\n", "x".repeat(900));
        let ends =
            [sample.repeat(2 * END as usize / 900), "\0".repeat(3 * END as usize), "\0".repeat(17 * END as usize)];
        for (steps, end) in (7..).zip(ends) {
            let text: String = (1..=steps).map(row).collect();
            fs::write(root.path().join("a").join(METRICS), text + &end).unwrap();
            assert_eq!(latest().map(|row| row.step), Some(steps));
        }
        fs::write(root.path().join("a").join(METRICS), "\0".repeat(3 * END as usize)).unwrap();
        assert_eq!(latest(), None);
    }

    #[test]
    fn runs_that_nobody_asks_for_are_let_go_and_read_again() {
        let (_root, runs) = scene(&["a", "b", "c"]);
        let runs = Runs { most_bytes: 1, ..runs };
        let epoch = |name| runs.with(name, |run, _| (run.epoch(), run.stages()[0].rows())).unwrap();
        let first = epoch("a");
        assert_eq!(epoch("a"), first);
        for name in ["b", "c", "a", "b"] {
            assert_eq!(epoch(name).1, 1);
            assert_eq!(locked(&runs.open).1.len(), 1);
        }
    }
}
