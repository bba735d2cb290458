//! `.jsonl`: one JSON value a line, blank lines passed over.

use serde_json::Value;

use super::MAX_RECORD_BYTES;
use super::stream::{Stream, utf8};
use crate::error::Error;

/// Values of one file.
pub(super) struct JsonLines {
    pub(super) stream: Stream,
    line: Vec<u8>,
    /// Lines read so far.
    lines: u64,
}

impl JsonLines {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream, line: Vec::new(), lines: 0 }
    }

    /// The next value; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Value>, Error> {
        loop {
            self.line.clear();
            let start = self.stream.offset;
            if self.stream.read_line(MAX_RECORD_BYTES, &mut self.line)? == 0 {
                return Ok(None);
            }
            self.lines += 1;
            if self.line.len() as u64 == MAX_RECORD_BYTES && self.line.last() != Some(&b'\n') {
                return Err(Error::RecordTooLong {
                    path: self.stream.path.clone(),
                    line: self.lines,
                    limit: MAX_RECORD_BYTES,
                });
            }
            let text = utf8(&self.line, &self.stream.path, start, Some(self.lines))?;
            let text = if start == 0 { text.trim_start_matches('\u{feff}') } else { text };
            if text.trim().is_empty() {
                continue;
            }
            let value = serde_json::from_str(text).map_err(|e| Error::BrokenJson {
                path: self.stream.path.clone(),
                line: self.lines,
                message: e.to_string(),
            })?;
            return Ok(Some(value));
        }
    }
}
