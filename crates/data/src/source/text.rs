//! `.txt`: one document a file; a long file comes in pieces cut between paragraphs, so that memory stays bounded and
//! a single book still divides into train and validation.

use super::stream::{Stream, utf8};
use crate::error::Error;

/// Documents of one text file.
pub(super) struct TextPieces {
    stream: Stream,
    piece_bytes: usize,
    /// Read and not yet given; starts at byte `start` of the file.
    pending: Vec<u8>,
    start: u64,
}

impl TextPieces {
    pub(super) fn new(stream: Stream, piece_bytes: usize) -> Self {
        Self { stream, piece_bytes: piece_bytes.max(4), pending: Vec::new(), start: 0 }
    }

    /// The next piece; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<String>, Error> {
        let wanted = (self.piece_bytes + 1).saturating_sub(self.pending.len());
        self.stream.read(wanted as u64, &mut self.pending)?;
        if self.pending.is_empty() {
            return Ok(None);
        }
        let end = if self.pending.len() <= self.piece_bytes {
            self.pending.len()
        } else {
            cut(&self.pending[..self.piece_bytes])
        };
        let text = utf8(&self.pending[..end], &self.stream.path, self.start, None)?;
        let text = if self.start == 0 { text.trim_start_matches('\u{feff}') } else { text };
        let text = text.to_owned();
        self.pending.drain(..end);
        self.start += end as u64;
        Ok(Some(text))
    }
}

/// Where to end a piece: after the last blank line, else the last line end, else before the last character that may
/// not be whole.
fn cut(piece: &[u8]) -> usize {
    if let Some(blank) = piece.windows(2).rposition(|pair| pair == b"\n\n") {
        return blank + 2;
    }
    if let Some(line) = piece.iter().rposition(|&byte| byte == b'\n') {
        return line + 1;
    }
    let starts = piece.iter().rposition(|&byte| byte & 0xC0 != 0x80);
    starts.filter(|&start| start > 0 && piece.len() - start < 4).unwrap_or(piece.len())
}
