//! Which files a path means, and what is in them by their names.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use sha2::{Digest, Sha256};

use super::documents::SourceOptions;
use crate::durable::hexadecimal;
use crate::error::Error;
use crate::file_lock::{RUN_LOCK, SHARDS_LOCK};
use crate::hub::MANIFEST;

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Text,
    JsonLines,
    Json,
    Parquet,
}

impl Format {
    /// Told by the name, the endings of compression left aside.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?.to_ascii_lowercase();
        let plain = [".zst", ".zstd", ".gz", ".gzip"].iter().find_map(|end| name.strip_suffix(end));
        match plain.unwrap_or(&name).rsplit_once('.')?.1 {
            "txt" | "text" | "md" => Some(Format::Text),
            "jsonl" | "ndjson" => Some(Format::JsonLines),
            "json" => Some(Format::Json),
            "parquet" if plain.is_none() => Some(Format::Parquet),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Format::Text => "text",
            Format::JsonLines => "jsonl",
            Format::Json => "json",
            Format::Parquet => "parquet",
        }
    }

    /// As [`Format::of`], with the error for a name that tells nothing.
    pub(super) fn required(path: &Path) -> Result<Self, Error> {
        Format::of(path).ok_or_else(|| Error::UnknownFormat { path: path.to_path_buf() })
    }
}

/// What a file's name says is in it: `text`, `jsonl`, `json` or `parquet`. The same bytes are other documents under another.
pub fn format_name(path: &Path) -> Option<&'static str> {
    Format::of(path).map(Format::name)
}

/// Whether the name tells a format that is read.
pub(crate) fn is_data_file(path: &Path) -> bool {
    Format::of(path).is_some()
}

/// Whether it is text without fields.
pub(crate) fn is_text_file(path: &Path) -> bool {
    Format::of(path) == Some(Format::Text)
}

/// The data files that `path` means, sorted: itself, those of a folder as [`files_in`] finds them, or those that fit a pattern
/// with `*`, `?`, `**` or `[...]`, as [`files_like`] does. In folders and patterns files of unknown format are passed over, and so is
/// what [`files_in`] passes over.
///
/// # Errors
/// [`Error::NoSuchPath`] and [`Error::NoFiles`] when there is none, [`Error::UnknownFormat`] for a single file,
/// [`Error::BrokenLink`], [`Error::Io`].
pub fn find_files(path: &Path) -> Result<Vec<PathBuf>, Error> {
    if path.is_file() {
        Format::required(path)?;
        return Ok(vec![path.to_path_buf()]);
    }
    let none = || Error::NoFiles { path: path.display().to_string() };
    let files = if path.is_dir() {
        files_in(path, |file| Format::of(file).is_some())?
    } else {
        let pattern = path.to_str().ok_or_else(none)?;
        if !pattern.contains(['*', '?', '[']) {
            return Err(Error::NoSuchPath { path: path.to_path_buf() });
        }
        files_like(pattern, |file| Format::of(file).is_some() && !is_aside(file))?
    };
    if files.is_empty() { Err(none()) } else { Ok(files) }
}

/// The data files that several paths mean, each as for [`find_files`], in the given order.
///
/// # Errors
/// Those of [`find_files`]; [`Error::FileTwice`] where two of the paths mean one file, whose text would come twice.
pub fn find_files_in(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Error> {
    let mut files = Vec::new();
    let mut seen = HashSet::new();
    for path in paths {
        for file in find_files(path)? {
            // Its folder by the name that it has without links, as in a folder each other one comes once. The file itself by
            // its own: a link to a file is another name for it, which somebody has made on purpose.
            let folder = without_links(file.parent().unwrap_or(Path::new("")))?;
            let whole = folder.join(file.file_name().unwrap_or_default());
            if !seen.insert(whole) {
                return Err(Error::FileTwice { path: file });
            }
            files.push(file);
        }
    }
    Ok(files)
}

/// What the program itself writes beside the text that it reads: the manifest of what was fetched, and tokenizers by their usual name.
const OWN_FILES: [&str; 2] = [MANIFEST, "tokenizer.json"];

/// Whether a file or folder stands beside the data and is none.
fn is_aside(path: &Path) -> bool {
    is_own(path) || path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'))
}

fn is_own(path: &Path) -> bool {
    OWN_FILES.iter().any(|name| path.ends_with(name))
}

/// What is no JSON of the files that the program writes into the folder of a run, or one of shards, and below.
const WRITTEN: [&str; 5] = ["metrics.jsonl", "model-card.md", "README.md", "sweep.md", "checksums.txt"];

/// Whether a file of such a folder is the program's. Text that somebody keeps there is text.
fn is_written(file: &Path) -> bool {
    Format::of(file) == Some(Format::Json) || WRITTEN.iter().any(|name| file.ends_with(name))
}

/// Whether it is the folder of a run, or one of shards: they may stand where the text does.
fn is_made(folder: &Path) -> bool {
    [RUN_LOCK, SHARDS_LOCK].iter().any(|lock| folder.join(lock).exists())
}

/// The files that fit a pattern with `*`, `?`, `**` or `[...]` and that `is_data` knows, sorted; each once, whatever links lead to its
/// folder: of several names the one through the fewest folders, of these the first. Names that begin with a dot are meant only
/// where the dot is written. The manifest of what was fetched and `tokenizer.json` are passed over, and by `**` what the program
/// writes into folders of runs and of shards.
///
/// # Errors
/// [`Error::NoFiles`] for what is no pattern; [`Error::BrokenLink`]; [`Error::Io`].
pub fn files_like(pattern: &str, is_data: impl Fn(&Path) -> bool) -> Result<Vec<PathBuf>, Error> {
    let options = glob::MatchOptions { require_literal_leading_dot: true, ..glob::MatchOptions::new() };
    let is_data = |file: &Path| !is_own(file) && is_data(file);
    let listed = |pattern: &Path| -> Result<Vec<PathBuf>, Error> {
        let none = || Error::NoFiles { path: pattern.display().to_string() };
        let found = glob::glob_with(pattern.to_str().ok_or_else(none)?, options).map_err(|_| none())?;
        found.map(|found| found.map_err(unreadable)).collect()
    };
    // A file found below `./text` is called `text/...`.
    let parts = || Path::new(pattern).components().filter(|part| *part != Component::CurDir);
    let recursive = |part: &Component<'_>| part.as_os_str() == "**";
    if !parts().any(|part| recursive(&part)) {
        let files = listed(Path::new(pattern))?.into_iter().filter(|file| !file.is_dir() && is_data(file));
        return each_once(files.collect());
    }
    // The library follows links, one to a folder above forty times, and several to it without end.
    let whole = parts().collect::<PathBuf>();
    let whole = glob::Pattern::new(&whole.to_string_lossy());
    let whole = whole.map_err(|_| Error::NoFiles { path: pattern.to_owned() })?;
    let options = glob::MatchOptions { require_literal_separator: true, ..options };
    let above: PathBuf = parts().take_while(|part| !recursive(part)).collect();
    let folders = if above.as_os_str().is_empty() { vec![above] } else { listed(&above)? };
    let mut walk = Walk { hidden: pattern.contains("/."), above: Vec::new(), files: Vec::new() };
    folders.iter().filter(|folder| here(folder).is_dir()).try_for_each(|folder| walk.through(folder, false))?;
    walk.files.retain(|file| whole.matches_path_with(file, options) && is_data(file));
    each_once(walk.files)
}

/// A folder as the system has it: a name alone is in the current one.
fn here(folder: &Path) -> &Path {
    if folder.as_os_str().is_empty() { Path::new(".") } else { folder }
}

/// The one name of a folder that has no links in it.
fn without_links(folder: &Path) -> Result<PathBuf, Error> {
    here(folder).canonicalize().map_err(|e| Error::io("read folder", folder, e))
}

/// All that is in a folder and below, behind links too.
struct Walk {
    /// Whether folders whose names begin with a dot are entered.
    hidden: bool,
    /// The folders that lead to where it is. A link to one of them is not followed.
    above: Vec<PathBuf>,
    files: Vec<PathBuf>,
}

impl Walk {
    /// `made`: in the folder of a run or of shards.
    fn through(&mut self, folder: &Path, made: bool) -> Result<(), Error> {
        let failed = |e| Error::io("read folder", folder, e);
        let whole = without_links(folder)?;
        if self.above.contains(&whole) {
            return Ok(());
        }
        self.above.push(whole);
        for entry in fs::read_dir(here(folder)).map_err(failed)? {
            let path = folder.join(entry.map_err(failed)?.file_name());
            if path.is_dir() {
                if self.hidden || !is_aside(&path) {
                    self.through(&path, made || is_made(&path))?;
                }
            } else if !(made && is_written(&path)) {
                self.files.push(path);
            }
        }
        self.above.pop();
        Ok(())
    }
}

/// Whether it is a file, and no pipe or the like. A link that leads nowhere is an error: what it stood for would be missing in silence.
fn is_file(path: &Path) -> Result<bool, Error> {
    let failed = |e: io::Error| match path.is_symlink() && e.kind() != io::ErrorKind::PermissionDenied {
        true => Error::BrokenLink { path: path.to_owned() },
        false => Error::io("read", path, e),
    };
    fs::metadata(path).map(|found| found.is_file()).map_err(failed)
}

/// Of files that are one by the name of their folder without links, the one through the fewest folders; sorted.
fn each_once(mut files: Vec<PathBuf>) -> Result<Vec<PathBuf>, Error> {
    files.sort_by_cached_key(|file| (file.components().count(), file.clone()));
    let mut folders: HashMap<PathBuf, PathBuf> = HashMap::new();
    let (mut seen, mut kept) = (HashSet::new(), Vec::with_capacity(files.len()));
    for file in files {
        let folder = file.parent().unwrap_or(Path::new(""));
        if !folders.contains_key(folder) {
            folders.insert(folder.to_owned(), without_links(folder)?);
        }
        if seen.insert((folders[folder].clone(), file.file_name().map(ToOwned::to_owned))) && is_file(&file)? {
            kept.push(file);
        }
    }
    kept.sort();
    Ok(kept)
}

fn unreadable(error: glob::GlobError) -> Error {
    let path = error.path().to_path_buf();
    Error::io("read", &path, error.into())
}

/// A fingerprint of files and of how texts are taken from them: names, sizes, and all bytes where the files have at most 256 MiB
/// together; of more of them the first and last 64 kB of each and 64 pieces between, so that terabytes cost no hours. For
/// [`crate::shards::ShardOptions`], which makes shards anew when it changes. `like`: the one that it is compared with, if there is
/// one. One of an earlier version knows nothing of what stands between the ends, and is given back where all that it knows is the same.
///
/// # Errors
/// [`Error::Io`].
pub fn fingerprint_files(files: &[PathBuf], options: &SourceOptions, like: Option<&str>) -> Result<String, Error> {
    let size_of = |path: &PathBuf| fs::metadata(path).map(|found| found.len()).map_err(|e| Error::io("read", path, e));
    let sizes = files.iter().map(size_of).collect::<Result<Vec<_>, _>>()?;
    if let Some(like) = like.filter(|like| !like.is_empty() && !like.starts_with(BETWEEN)) {
        let ends = digest_of(files, &sizes, options, |size| sampled(size, 0))?;
        if ends == like {
            return Ok(ends);
        }
    }
    let all = sizes.iter().sum::<u64>() <= WHOLE_BYTES;
    // What would be read twice is read once.
    let whole = |size: u64| all || size <= 2 * END_BYTES + PIECES * PIECE_BYTES;
    let ranges = |size: u64| if whole(size) { vec![(0, size)] } else { sampled(size, PIECES) };
    Ok(format!("{BETWEEN}{}", digest_of(files, &sizes, options, ranges)?))
}

/// Of the bytes that `ranges` names for a file's size.
fn digest_of(
    files: &[PathBuf],
    sizes: &[u64],
    options: &SourceOptions,
    ranges: impl Fn(u64) -> Vec<(u64, u64)>,
) -> Result<String, Error> {
    let mut digest = Sha256::new();
    for (path, size) in files.iter().zip(sizes) {
        let failed = |e| Error::io("read", path, e);
        let mut file = fs::File::open(path).map_err(failed)?;
        let (mut bytes, mut buffer) = (Sha256::new(), Vec::new());
        for (from, length) in ranges(*size) {
            file.seek(SeekFrom::Start(from)).map_err(failed)?;
            let mut left = length;
            while left > 0 {
                buffer.clear();
                let read = (&mut file).take(left.min(1 << 20)).read_to_end(&mut buffer).map_err(failed)?;
                bytes.update(&buffer);
                left = if read == 0 { 0 } else { left - read as u64 };
            }
        }
        add(&mut digest, path, *size, bytes);
    }
    Ok(finish(digest, options))
}

/// Where a file of `size` bytes is looked at: at its ends, and at so many places between. From where, and how many bytes.
fn sampled(size: u64, between: u64) -> Vec<(u64, u64)> {
    let mut ranges = vec![(0, END_BYTES)];
    ranges.extend((1..=between).map(|place| (size / (between + 1) * place, PIECE_BYTES)));
    ranges.push((size.saturating_sub(END_BYTES), END_BYTES));
    ranges
}

/// As [`fingerprint_files`], of bytes that the program carries.
pub fn fingerprint_embedded(name: &str, bytes: &[u8], options: &SourceOptions) -> String {
    let mut digest = Sha256::new();
    add(&mut digest, Path::new(name), bytes.len() as u64, Sha256::new_with_prefix(bytes));
    finish(digest, options)
}

/// Begins fingerprints that know of what stands between the ends.
const BETWEEN: &str = "2:";
/// Files of so many bytes together are read whole.
const WHOLE_BYTES: u64 = 256 << 20;
/// Bytes taken from each end of a file.
const END_BYTES: u64 = 64 << 10;
/// Pieces taken between, and their bytes.
const PIECES: u64 = 64;
const PIECE_BYTES: u64 = 4 << 10;

fn add(digest: &mut Sha256, path: &Path, size: u64, bytes: Sha256) {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    digest.update(name.as_bytes());
    digest.update([0]);
    digest.update(size.to_le_bytes());
    digest.update(bytes.finalize());
}

fn finish(mut digest: Sha256, options: &SourceOptions) -> String {
    digest.update(options.text_field.as_bytes());
    digest.update(options.text_file_bytes.to_le_bytes());
    // Only where they are set: what was made before they were known stays what it is.
    for (role, field) in [("language", &options.language_field), ("score", &options.score_field)] {
        if let Some(field) = field {
            digest.update(role.as_bytes());
            digest.update(field.as_bytes());
        }
    }
    hexadecimal(&digest.finalize())
}

/// The data files in a folder and in the folders in it, those included to which a link leads, but each folder once. Files that
/// `is_data` does not know are passed over, and so is what stands beside the data and is none: the manifest of what was
/// fetched (`hub::MANIFEST`), `tokenizer.json`, what the program writes into folders of runs and of shards, and names that begin
/// with a dot.
///
/// # Errors
/// [`Error::BrokenLink`]; [`Error::Io`].
pub fn files_in(folder: &Path, is_data: impl Fn(&Path) -> bool) -> Result<Vec<PathBuf>, Error> {
    let failed = |folder: &Path, e| Error::io("read folder", folder, e);
    let (mut files, mut links) = (Vec::new(), BTreeSet::new());
    // Links come when there is nothing else left, and in order of name: which name a folder goes by that has several does not
    // depend on how the system lists them. With each goes whether it is in the folder of a run or of shards.
    let (mut folders, mut seen) = (vec![(folder.to_owned(), false)], HashSet::new());
    while let Some((folder, made)) = folders.pop().or_else(|| links.pop_first()) {
        // A link to a folder above would never end, one to a folder beside would bring its text twice.
        if !seen.insert(without_links(&folder)?) {
            continue;
        }
        for entry in fs::read_dir(&folder).map_err(|e| failed(&folder, e))? {
            let entry = entry.map_err(|e| failed(&folder, e))?;
            let path = entry.path();
            if is_aside(&path) {
                continue;
            }
            if entry.file_type().map_err(|e| failed(&folder, e))?.is_dir() {
                let made = made || is_made(&path);
                folders.push((path, made));
            } else if path.is_dir() {
                let made = made || is_made(&path);
                links.insert((path, made));
            } else if made && is_written(&path) {
                continue;
            } else if is_data(&path) && is_file(&path)? {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}
