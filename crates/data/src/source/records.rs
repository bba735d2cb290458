//! [`Records`]: the rows of one file as JSON, whatever its format.

use std::path::Path;

use serde_json::Value;

use super::files::Format;
use super::json_lines::JsonLines;
use super::json_values::JsonValues;
use super::parquet_rows::ParquetRows;
use super::stream::Stream;
use crate::error::Error;

/// Rows of one file, in order. Ends after the first error.
pub struct Records {
    rows: Option<Rows>,
}

pub(super) enum Rows {
    Lines(JsonLines),
    Values(JsonValues),
    Parquet(Box<ParquetRows>),
}

impl Rows {
    pub(super) fn path(&self) -> &Path {
        match self {
            Rows::Lines(lines) => &lines.stream.path,
            Rows::Values(values) => &values.stream.path,
            Rows::Parquet(rows) => rows.path(),
        }
    }

    pub(super) fn next(&mut self) -> Result<Option<Value>, Error> {
        match self {
            Rows::Lines(lines) => lines.next(),
            Rows::Values(values) => values.next(),
            Rows::Parquet(rows) => rows.next_value(),
        }
    }
}

/// The rows of a jsonl file, a JSON array or a parquet file (nested lists and structures included).
///
/// # Errors
/// [`Error::UnknownFormat`], [`Error::NoRecords`], [`Error::Io`], [`Error::Compressed`], [`Error::Parquet`]; each row may give
/// [`Error::BrokenJson`], [`Error::InvalidUtf8`] or [`Error::RecordTooLong`] as well.
pub fn open_records(path: &Path) -> Result<Records, Error> {
    let rows = match Format::required(path)? {
        Format::Parquet => Rows::Parquet(Box::new(ParquetRows::open(path)?)),
        format => json_rows(format, Stream::open(path)?)?,
    };
    Ok(Records { rows: Some(rows) })
}

/// As [`open_records`], from bytes that the program carries. `name` tells the format, as in `chat.jsonl.zst`.
///
/// # Errors
/// As [`open_records`]; parquet is not read from bytes.
pub fn open_embedded_records(name: &str, bytes: &'static [u8]) -> Result<Records, Error> {
    let format = Format::required(Path::new(name))?;
    let rows = json_rows(format, Stream::embedded(name, bytes)?)?;
    Ok(Records { rows: Some(rows) })
}

pub(super) fn json_rows(format: Format, stream: Stream) -> Result<Rows, Error> {
    match format {
        Format::JsonLines => Ok(Rows::Lines(JsonLines::new(stream))),
        Format::Json => Ok(Rows::Values(JsonValues::new(stream))),
        Format::Text => Err(Error::NoRecords { path: stream.path }),
        Format::Parquet => Err(Error::UnknownFormat { path: stream.path }),
    }
}

impl Iterator for Records {
    type Item = Result<Value, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.rows.as_mut()?.next().transpose();
        if !matches!(next, Some(Ok(_))) {
            self.rows = None;
        }
        next
    }
}
