//! [`Stream`]: the decompressed bytes of a file, with its name for errors and the place that was reached.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;

use crate::error::Error;

const BUFFER_BYTES: usize = 1 << 18;

const ZSTD_MAGIC: &[u8] = &[0x28, 0xB5, 0x2F, 0xFD];
/// Begins a frame that holds no data, but for the lower half of its first byte. `pzstd` puts one before each that does.
const ZSTD_SKIPPED: &[u8] = &[0x50, 0x2A, 0x4D, 0x18];
/// The largest window of zstd: `--long=31`, as large collections are written with. The library would stop at 27.
const MAX_WINDOW_LOG: u32 = if cfg!(target_pointer_width = "64") { 31 } else { 30 };
const GZIP_MAGIC: &[u8] = &[0x1F, 0x8B];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compression {
    None,
    Zstd,
    Gzip,
}

impl Compression {
    fn by_name(path: &Path) -> Self {
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        match extension.to_ascii_lowercase().as_str() {
            "zst" | "zstd" => Compression::Zstd,
            "gz" | "gzip" => Compression::Gzip,
            _ => Compression::None,
        }
    }

    fn by_magic(start: &[u8]) -> Self {
        let skipped = start.len() >= 4 && start[0] & 0xF0 == ZSTD_SKIPPED[0] && start[1..4] == ZSTD_SKIPPED[1..];
        if start.starts_with(ZSTD_MAGIC) || skipped {
            Compression::Zstd
        } else if start.starts_with(GZIP_MAGIC) {
            Compression::Gzip
        } else {
            Compression::None
        }
    }

    fn format(self) -> &'static str {
        match self {
            Compression::None => "plain",
            Compression::Zstd => "zstd",
            Compression::Gzip => "gzip",
        }
    }
}

/// Bytes of one file or of embedded data.
pub(super) struct Stream {
    pub(super) path: PathBuf,
    reader: Box<dyn BufRead + Send>,
    compression: Compression,
    /// Bytes consumed so far.
    pub(super) offset: u64,
}

impl Stream {
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
        Self::new(path, BufReader::with_capacity(BUFFER_BYTES, file))
    }

    pub(super) fn embedded(name: &str, bytes: &'static [u8]) -> Result<Self, Error> {
        Self::new(Path::new(name), bytes)
    }

    fn new(path: &Path, mut raw: impl BufRead + Send + 'static) -> Result<Self, Error> {
        let start = raw.fill_buf().map_err(|e| Error::io("read", path, e))?;
        let (named, found) = (Compression::by_name(path), Compression::by_magic(start));
        // What the bytes say decides; a name that promises more than the bytes hold is an error.
        if named != Compression::None && named != found {
            return Err(Error::Compressed {
                path: path.to_path_buf(),
                format: named.format(),
                message: format!("the name says {}, the bytes are {}", named.format(), found.format()),
            });
        }
        let failed = |e| Error::io("read", path, e);
        let reader: Box<dyn BufRead + Send> = match found {
            Compression::None => Box::new(raw),
            Compression::Zstd => {
                let mut decoder = zstd::Decoder::with_buffer(raw).map_err(failed)?;
                decoder.window_log_max(MAX_WINDOW_LOG).map_err(failed)?;
                Box::new(BufReader::with_capacity(BUFFER_BYTES, decoder))
            }
            Compression::Gzip => Box::new(BufReader::with_capacity(BUFFER_BYTES, MultiGzDecoder::new(raw))),
        };
        Ok(Self { path: path.to_path_buf(), reader, compression: found, offset: 0 })
    }

    /// The bytes at hand; empty only at the end.
    pub(super) fn fill(&mut self) -> Result<&[u8], Error> {
        loop {
            match self.reader.fill_buf() {
                Ok(_) => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.fault(e)),
            }
        }
        // Asked twice because of the borrow checker; the second call finds the buffer full.
        self.reader.fill_buf().map_err(|e| Error::io("read", &self.path, e))
    }

    /// Takes bytes that [`Stream::fill`] showed.
    pub(super) fn consume(&mut self, bytes: usize) {
        self.reader.consume(bytes);
        self.offset += bytes as u64;
    }

    /// Appends up to and with the next line end, at most `limit` bytes; 0 at the end.
    pub(super) fn read_line(&mut self, limit: u64, line: &mut Vec<u8>) -> Result<usize, Error> {
        let read = (&mut self.reader).take(limit).read_until(b'\n', line);
        let read = read.map_err(|e| self.fault(e))?;
        self.offset += read as u64;
        Ok(read)
    }

    /// Appends at most `limit` bytes; fewer only at the end.
    pub(super) fn read(&mut self, limit: u64, bytes: &mut Vec<u8>) -> Result<usize, Error> {
        let read = (&mut self.reader).take(limit).read_to_end(bytes);
        let read = read.map_err(|e| self.fault(e))?;
        self.offset += read as u64;
        Ok(read)
    }

    fn fault(&self, error: io::Error) -> Error {
        // Only the system gives its number: all else comes from a decoder.
        if self.compression == Compression::None || error.raw_os_error().is_some() {
            return Error::io("read", &self.path, error);
        }
        Error::Compressed { path: self.path.clone(), format: self.compression.format(), message: error.to_string() }
    }
}

/// The text of `bytes`, which stand at `offset` of the file.
pub(super) fn utf8<'a>(bytes: &'a [u8], path: &Path, offset: u64, line: Option<u64>) -> Result<&'a str, Error> {
    std::str::from_utf8(bytes).map_err(|e| Error::InvalidUtf8 {
        path: path.to_path_buf(),
        offset: offset + e.valid_up_to() as u64,
        line: line.map(|line| line + newlines(&bytes[..e.valid_up_to()])),
    })
}

pub(super) fn newlines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|&&byte| byte == b'\n').count() as u64
}
