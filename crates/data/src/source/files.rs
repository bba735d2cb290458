//! Which files a path means, and what is in them by their names.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::documents::SourceOptions;
use crate::durable::hexadecimal;
use crate::error::Error;
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
/// with `*`, `?`, `**` or `[...]`. In folders and patterns files of unknown format are passed over, and so are the manifest
/// of what was fetched (`hub::MANIFEST`) and whatever has a name that begins with a dot.
///
/// # Errors
/// [`Error::NoSuchPath`] and [`Error::NoFiles`] when there is none, [`Error::UnknownFormat`] for a single file, [`Error::Io`].
pub fn find_files(path: &Path) -> Result<Vec<PathBuf>, Error> {
    if path.is_file() {
        Format::required(path)?;
        return Ok(vec![path.to_path_buf()]);
    }
    let none = || Error::NoFiles { path: path.display().to_string() };
    let mut files = Vec::new();
    if path.is_dir() {
        files = files_in(path, |file| Format::of(file).is_some())?;
    } else {
        let pattern = path.to_str().ok_or_else(none)?;
        if !pattern.contains(['*', '?', '[']) {
            return Err(Error::NoSuchPath { path: path.to_path_buf() });
        }
        for found in glob::glob(pattern).map_err(|_| none())? {
            let found = found.map_err(unreadable)?;
            if found.is_file() && Format::of(&found).is_some() && !is_aside(&found) {
                files.push(found);
            }
        }
    }
    files.sort();
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
            let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let folder = folder.canonicalize().map_err(|e| Error::io("read folder", folder, e))?;
            let whole = folder.join(file.file_name().unwrap_or_default());
            if !seen.insert(whole) {
                return Err(Error::FileTwice { path: file });
            }
            files.push(file);
        }
    }
    Ok(files)
}

/// Whether a file or folder stands beside the data and is none.
fn is_aside(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name == MANIFEST || name.starts_with('.')
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
/// fetched (`hub::MANIFEST`), and names that begin with a dot.
///
/// # Errors
/// [`Error::Io`].
pub fn files_in(folder: &Path, is_data: impl Fn(&Path) -> bool) -> Result<Vec<PathBuf>, Error> {
    let failed = |folder: &Path, e| Error::io("read folder", folder, e);
    let (mut files, mut links) = (Vec::new(), BTreeSet::new());
    // Links come when there is nothing else left, and in order of name: which name a folder goes by that has several does not
    // depend on how the system lists them.
    let (mut folders, mut seen) = (vec![folder.to_owned()], HashSet::new());
    while let Some(folder) = folders.pop().or_else(|| links.pop_first()) {
        // A link to a folder above would never end, one to a folder beside would bring its text twice.
        if !seen.insert(folder.canonicalize().map_err(|e| failed(&folder, e))?) {
            continue;
        }
        for entry in fs::read_dir(&folder).map_err(|e| failed(&folder, e))? {
            let entry = entry.map_err(|e| failed(&folder, e))?;
            let path = entry.path();
            if is_aside(&path) {
                continue;
            }
            if entry.file_type().map_err(|e| failed(&folder, e))?.is_dir() {
                folders.push(path);
            } else if path.is_dir() {
                links.insert(path);
            } else if path.is_file() && is_data(&path) {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}
