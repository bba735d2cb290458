//! Lines on stdout and stderr. Either may lead to a full disk or a closed pipe, at which the macros of the standard
//! library panic: a training that has run for days would end because its log could not grow.

use std::io::{self, Write};

use anyhow::{Context, Result};

const UNWRITABLE: &str = "cannot write to stdout; free some space, or send it elsewhere";

/// A line on stdout, which is what a command was asked for.
///
/// # Errors
/// It cannot be written.
pub(crate) fn print(text: &str) -> Result<()> {
    write_line(text).context(UNWRITABLE)
}

/// A piece of a line on stdout, at once. `false` when whoever read it has closed the pipe, as `head` does: there is
/// nothing more to do, and nothing to complain of.
///
/// # Errors
/// It cannot be written for another reason.
pub(crate) fn print_piece(text: &str) -> Result<bool> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        written => written.map(|()| true).context(UNWRITABLE),
    }
}

/// As [`print`], with the system's own error.
pub(crate) fn write_line(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush())
}

/// A line on stderr. Where it cannot be written there is no place left to say so.
pub fn tell(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}
