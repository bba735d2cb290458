//! Lines on stdout and stderr. Either may lead to a full disk or a closed pipe, at which the macros of the standard
//! library panic: a training that has run for days would end because its log could not grow.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::path::Path;

use anyhow::{Context, Result};

/// A line on stdout, which is what a command was asked for.
///
/// # Errors
/// It cannot be written; [`ReaderLeft`] where nobody reads it any more.
pub(crate) fn print(text: &str) -> Result<()> {
    print_piece(&format!("{text}\n"))
}

/// A piece of a line on stdout, at once.
///
/// # Errors
/// As [`print`].
pub(crate) fn print_piece(text: &str) -> Result<()> {
    match write_piece(text) {
        Err(error) if reader_left(&error, io::stdout().is_terminal()) => Err(ReaderLeft.into()),
        written => written.context("cannot write to stdout; free some space, or send it elsewhere"),
    }
}

/// Nobody reads stdout any more, as when `head` has enough: nothing is left to do, and there is nothing to complain of.
#[derive(Clone, Copy, Debug)]
pub struct ReaderLeft;

impl fmt::Display for ReaderLeft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nobody reads stdout any more")
    }
}

impl std::error::Error for ReaderLeft {}

impl ReaderLeft {
    /// The exit code: that of a program which the system ends for it (128 and the number of SIGPIPE).
    pub const CODE: u8 = 141;
}

/// As [`print`], with the system's own error.
pub(crate) fn write_line(text: &str) -> io::Result<()> {
    write_piece(&format!("{text}\n"))
}

fn write_piece(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush())
}

/// Whether an error of [`write_line`] says that the reader has left: a pipe that was closed, or a terminal that was lost.
/// The same error of a file is a fault of its disk, so that one has to know what stdout was.
pub(crate) fn reader_left(error: &io::Error, terminal: bool) -> bool {
    #[cfg(unix)]
    let lost = error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error());
    #[cfg(not(unix))]
    let lost = false;
    error.kind() == io::ErrorKind::BrokenPipe || terminal && lost
}

/// What a model has written, on stdout at once: as it is, but for a terminal, which would obey some of it. A return is most often
/// part of a line's end.
///
/// # Errors
/// As [`print`].
pub(crate) fn print_said(text: &str) -> Result<()> {
    if io::stdout().is_terminal() { print_piece(&visible(&text.replace('\r', ""))) } else { print_piece(text) }
}

/// A line on stderr, with nothing in it that a terminal would obey: it may hold what a model has written, or a file. Where it
/// cannot be written there is no place left to say so.
pub fn tell(text: &str) {
    let _ = writeln!(io::stderr(), "{}", visible(text));
}

/// Whether the terminal obeys nothing: an editor's window, or a console that says so.
pub(crate) fn dumb() -> bool {
    std::env::var_os("TERM").is_some_and(|term| term == "dumb")
}

/// Text with nothing in it that a terminal would obey, each such character seen.
pub(crate) fn visible(text: &str) -> String {
    let one = |c: char| match c {
        '\n' | '\t' => c,
        '\0'..='\x1f' => char::from_u32(0x2400 + c as u32).unwrap_or('\u{fffd}'),
        '\x7f' => '\u{2421}',
        '\u{80}'..='\u{9f}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        c => c,
    };
    text.chars().map(one).collect()
}

/// A path as one word of a command that is told to be typed: a shell takes it apart at spaces otherwise, and what begins with a
/// dash would be a flag.
pub(crate) fn word(path: &Path) -> String {
    let text = path.display().to_string();
    let text = if text.starts_with('-') { format!("./{text}") } else { text };
    let plain = |c: char| c.is_alphanumeric() || "/._-+=:@%,".contains(c);
    if !text.is_empty() && text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_of_a_command_is_one_word() {
        let of = |path: &str| word(Path::new(path));
        assert_eq!((of("runs/läufe-1/model"), of("a b")), ("runs/läufe-1/model".to_owned(), "'a b'".to_owned()));
        assert_eq!((of("-m"), of("- m")), ("./-m".to_owned(), "'./- m'".to_owned()));
        assert_eq!((of("it's"), of("$HOME"), of("")), (r"'it'\''s'".to_owned(), "'$HOME'".to_owned(), "''".to_owned()));
    }

    #[test]
    fn nothing_is_left_that_a_terminal_would_obey() {
        assert_eq!(visible("a\u{1b}[2J\n\tb\u{9b}\u{202e}c\u{7}"), "a␛[2J\n\tb\u{fffd}\u{fffd}c␇");
    }
}
