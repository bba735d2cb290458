//! `checksums.txt`: the format, then for each file its XXH3-128, its length and its name, then the XXH3-128 of all
//! lines above, so that a flipped bit in the list is told from one in a file.
//!
//! XXH3 runs faster than any disk; it finds damage, and is not meant to find malice.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use super::FORMAT;
use crate::error::TrainError;

const TITLE: &str = "casallm-checkpoint ";

/// Length and checksum of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) bytes: u64,
    pub(super) checksum: String,
}

/// Passes bytes on and sums them.
pub(super) struct Summing<W> {
    out: W,
    hasher: Xxh3,
    bytes: u64,
}

impl<W: Write> Summing<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out, hasher: Xxh3::new(), bytes: 0 }
    }

    pub(super) fn finish(self, name: &str) -> (W, Entry) {
        let entry = Entry { name: name.to_owned(), bytes: self.bytes, checksum: hex(self.hasher.digest128()) };
        (self.out, entry)
    }
}

impl<W: Write> Write for Summing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// The text of the list.
pub(super) fn render(entries: &[Entry]) -> String {
    let mut text = format!("{TITLE}{FORMAT}\n");
    for entry in entries {
        text.push_str(&format!("{} {} {}\n", entry.checksum, entry.bytes, entry.name));
    }
    let sum = hex(xxh3_128(text.as_bytes()));
    text.push_str(&sum);
    text.push('\n');
    text
}

/// Reads the list at `path`.
///
/// # Errors
/// [`TrainError::CheckpointMissingFile`], [`TrainError::CheckpointChecksumList`], [`TrainError::CheckpointVersion`].
pub(super) fn read(path: &Path) -> Result<Vec<Entry>, TrainError> {
    let damaged =
        |reason: &str| TrainError::CheckpointChecksumList { path: path.to_owned(), reason: reason.to_owned() };
    let bytes = std::fs::read(path).map_err(|source| missing_or_io(path, source))?;
    let text = String::from_utf8(bytes).map_err(|_| damaged("not text"))?;
    let (body, sum) = text
        .strip_suffix('\n')
        .and_then(|rest| rest.rfind('\n'))
        .map(|end| text.split_at(end + 1))
        .ok_or_else(|| damaged("the last line is missing"))?;
    if sum != format!("{}\n", hex(xxh3_128(body.as_bytes()))) {
        return Err(damaged("its own checksum does not fit"));
    }
    let mut lines = body.lines();
    let title = lines.next().unwrap_or_default();
    if title != format!("{TITLE}{FORMAT}") {
        return Err(TrainError::CheckpointVersion {
            path: path.to_owned(),
            found: title.strip_prefix(TITLE).unwrap_or(title).chars().take(40).collect(),
            supported: FORMAT,
        });
    }
    lines.map(|line| parse_line(line).ok_or_else(|| damaged(&format!("line {line:?} is not understood")))).collect()
}

fn parse_line(line: &str) -> Option<Entry> {
    let mut fields = line.splitn(3, ' ');
    let checksum = fields.next()?.to_owned();
    let bytes = fields.next()?.parse().ok()?;
    let name = fields.next()?.to_owned();
    Some(Entry { name, bytes, checksum })
}

/// Reads the whole file at `path` and holds it to `entry`.
///
/// # Errors
/// [`TrainError::CheckpointMissingFile`], [`TrainError::CheckpointLength`], [`TrainError::CheckpointChecksum`].
pub(super) fn verify(path: &Path, entry: &Entry) -> Result<(), TrainError> {
    let mut file = File::open(path).map_err(|source| missing_or_io(path, source))?;
    let io = |source| TrainError::from_io(path, "read", 0, source);
    let found = file.metadata().map_err(io)?.len();
    if found != entry.bytes {
        return Err(TrainError::CheckpointLength { path: path.to_owned(), expected: entry.bytes, found });
    }
    let mut hasher = Xxh3::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => hasher.update(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(io(error)),
        }
    }
    let found = hex(hasher.digest128());
    if found != entry.checksum {
        return Err(TrainError::CheckpointChecksum { path: path.to_owned(), expected: entry.checksum.clone(), found });
    }
    Ok(())
}

fn missing_or_io(path: &Path, source: io::Error) -> TrainError {
    if source.kind() == io::ErrorKind::NotFound {
        return TrainError::CheckpointMissingFile { path: path.to_owned() };
    }
    TrainError::from_io(path, "read", 0, source)
}

fn hex(sum: u128) -> String {
    format!("{sum:032x}")
}
