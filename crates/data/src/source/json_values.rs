//! `.json`: the elements of one array, or objects one after the other, read one at a time.
//!
//! `serde_json` can only push elements to a visitor; here the caller pulls. The scanner finds where an element ends
//! (depth of brackets outside strings), `serde_json` judges what is in it.

use serde_json::Value;

use super::MAX_RECORD_BYTES;
use super::stream::{Stream, newlines, utf8};
use crate::error::Error;

/// Values of one file.
pub(super) struct JsonValues {
    pub(super) stream: Stream,
    place: Place,
    /// Lines passed so far.
    lines: u64,
    element: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Start,
    /// In an array, before an element (`first`: or before its end).
    Array {
        first: bool,
    },
    /// Between objects that no array holds.
    Sequence,
    /// After the array.
    End,
}

impl JsonValues {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream, place: Place::Start, lines: 0, element: Vec::new() }
    }

    /// The next value; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Value>, Error> {
        loop {
            let next = self.peek()?;
            match (self.place, next) {
                (Place::Start, Some(b'[')) => {
                    self.stream.consume(1);
                    self.place = Place::Array { first: true };
                }
                (Place::Start, Some(b'{')) => self.place = Place::Sequence,
                (Place::Array { first: true }, Some(b']')) => {
                    self.stream.consume(1);
                    self.place = Place::End;
                }
                (Place::Array { .. }, Some(_)) => {
                    let value = self.element()?;
                    self.close_element()?;
                    return Ok(Some(value));
                }
                (Place::Sequence, Some(b'{')) => return self.element().map(Some),
                (Place::Start | Place::Sequence | Place::End, None) => return Ok(None),
                (Place::Array { .. }, None) => return Err(self.broken("the array does not end")),
                (Place::Start, Some(_)) => {
                    return Err(self.broken("expected an array of records, or objects"));
                }
                (Place::Sequence, Some(_)) => return Err(self.broken("expected an object")),
                (Place::End, Some(_)) => return Err(self.broken("text after the end of the array")),
            }
        }
    }

    /// The comma or bracket after an element.
    fn close_element(&mut self) -> Result<(), Error> {
        self.place = match self.peek()? {
            Some(b',') => Place::Array { first: false },
            Some(b']') => Place::End,
            _ => return Err(self.broken("expected `,` or `]` after an element")),
        };
        self.stream.consume(1);
        Ok(())
    }

    /// The next byte that is not white space (nor a byte order mark at the start).
    fn peek(&mut self) -> Result<Option<u8>, Error> {
        loop {
            let at_start = self.stream.offset == 0;
            let bytes = self.stream.fill()?;
            if bytes.is_empty() {
                return Ok(None);
            }
            let mark = if at_start && bytes.starts_with(b"\xEF\xBB\xBF") { 3 } else { 0 };
            let rest = &bytes[mark..];
            let spaces = rest.iter().position(|b| !b.is_ascii_whitespace()).unwrap_or(rest.len());
            let found = rest.get(spaces).copied();
            self.lines += newlines(&rest[..spaces]);
            self.stream.consume(mark + spaces);
            if found.is_some() {
                return Ok(found);
            }
        }
    }

    fn element(&mut self) -> Result<Value, Error> {
        let (start, line) = (self.stream.offset, self.lines + 1);
        self.element.clear();
        let mut scanner = Scanner::default();
        loop {
            let bytes = self.stream.fill()?;
            let ended = bytes.is_empty();
            let (taken, whole) = scanner.scan(bytes);
            self.element.extend_from_slice(&bytes[..taken]);
            self.stream.consume(taken);
            if whole || ended {
                break;
            }
            if self.element.len() as u64 > MAX_RECORD_BYTES {
                return Err(Error::RecordTooLong { path: self.stream.path.clone(), line, limit: MAX_RECORD_BYTES });
            }
        }
        self.lines += newlines(&self.element);
        let text = utf8(&self.element, &self.stream.path, start, Some(line))?;
        serde_json::from_str(text).map_err(|e| Error::BrokenJson {
            path: self.stream.path.clone(),
            line: line + (e.line() as u64).saturating_sub(1),
            message: e.to_string(),
        })
    }

    fn broken(&self, message: &str) -> Error {
        Error::BrokenJson { path: self.stream.path.clone(), line: self.lines + 1, message: message.to_owned() }
    }
}

/// Finds the end of one value in bytes that come in pieces.
#[derive(Default)]
struct Scanner {
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Scanner {
    /// How many bytes belong to the value, and whether it ends there.
    fn scan(&mut self, bytes: &[u8]) -> (usize, bool) {
        for (at, &byte) in bytes.iter().enumerate() {
            if self.in_string {
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => {
                        self.in_string = false;
                        if self.depth == 0 {
                            return (at + 1, true);
                        }
                    }
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' => self.in_string = true,
                b'{' | b'[' => self.depth += 1,
                // Before any bracket these end a bare number or word.
                b'}' | b']' | b',' if self.depth == 0 => return (at, true),
                b'}' | b']' => {
                    self.depth -= 1;
                    if self.depth == 0 {
                        return (at + 1, true);
                    }
                }
                _ => {}
            }
        }
        (bytes.len(), false)
    }
}
