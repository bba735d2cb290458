//! The terminal while a run is shown: another screen, no echo, the keys `q` and Ctrl-C; all as it was afterwards.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use console::Term;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::screen;
use super::state::State;
use crate::Ended;

/// Between two looks at the file.
const EVERY: Duration = Duration::from_secs(1);
/// Between two looks at keys, signals and the size of the window.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// Shows what `read` finds until `q`, Esc, Ctrl-C or another signal to end.
pub(super) fn show(mut read: impl FnMut() -> Result<State>) -> Result<Ended> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, stop.clone()).context("the system does not let signals be heard")?;
    }
    let term = Term::stdout();
    let _other = OtherScreen::enter()?;
    let mut state = read()?;
    let mut shown = Vec::new();
    let mut looked = Instant::now();
    while !stop.load(Ordering::Relaxed) && !asked_to_end()? {
        if looked.elapsed() >= EVERY {
            // A file that cannot be read for a moment is read again; what was seen stays.
            state = read().unwrap_or(state);
            looked = Instant::now();
        }
        let (rows, columns) = term.size();
        let mut lines = screen::lines(&state, columns.into(), usize::from(rows).saturating_sub(1));
        lines.resize(usize::from(rows).saturating_sub(1), String::new());
        lines.push(console::style("q ends this view; the run goes on").dim().to_string());
        if lines != shown {
            draw(&lines)?;
            shown = lines;
        }
    }
    Ok(Ended::Done)
}

/// Every line anew, without clearing first: nothing flickers.
fn draw(lines: &[String]) -> io::Result<()> {
    let body = lines.iter().map(|line| format!("{line}\x1b[K")).collect::<Vec<_>>().join("\r\n");
    let mut out = io::stdout().lock();
    write!(out, "\x1b[H{body}\x1b[J")?;
    out.flush()
}

/// Waits a tick for keys.
fn asked_to_end() -> Result<bool> {
    let stdin = io::stdin();
    let mut ready = [PollFd::new(&stdin, PollFlags::IN)];
    match poll(&mut ready, Some(&TICK)) {
        Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(false),
        Ok(_) => {}
        Err(error) => return Err(error).context("cannot listen to the keys"),
    }
    let mut keys = [0; 64];
    let read = rustix::io::read(&stdin, &mut keys).context("cannot read the keys")?;
    // A lone escape is the key; more is what arrows send. Nothing at all: the terminal is gone.
    Ok(read == 0 || keys[..read].contains(&b'q') || keys[..read] == [0x1b])
}

/// The terminal as it was, to be restored however this ends.
struct OtherScreen(Termios);

impl OtherScreen {
    fn enter() -> Result<Self> {
        let stdin = io::stdin();
        let before = tcgetattr(&stdin).context("the terminal does not tell its settings")?;
        let mut quiet = before.clone();
        // Keys come one by one and unseen; Ctrl-C stays a signal.
        quiet.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
        tcsetattr(&stdin, OptionalActions::Now, &quiet).context("the terminal does not take settings")?;
        let entered = OtherScreen(before);
        write!(io::stdout().lock(), "\x1b[?1049h\x1b[?25l")?;
        Ok(entered)
    }
}

impl Drop for OtherScreen {
    fn drop(&mut self) {
        let mut out = io::stdout().lock();
        let _ = write!(out, "\x1b[?25h\x1b[?1049l").and_then(|()| out.flush());
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}
