//! Ctrl-C, SIGTERM and a lost terminal (SIGHUP): the first asks the run to save and stop. A second Ctrl-C or SIGTERM stops
//! it at once; a second SIGHUP does not, for one lost terminal may send several.
//!
//! The command line installs it; the trainer asks [`Interrupt::requested`] after every step, and what prepares data before every
//! document.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{SigId, flag, low_level};

use crate::error::TrainError;

/// Whether somebody wants the run to stop. Clones share one answer.
#[derive(Debug, Clone, Default)]
pub struct Interrupt {
    requested: Arc<AtomicBool>,
    /// What hears signals for it, for as long as somebody asks: who comes next, like the server behind a quickstart, has a use
    /// of its own for a second Ctrl-C. Until then nobody hears one: the system's own answer does not come back.
    _heard: Arc<Heard>,
}

/// What is registered for signals, until dropped.
#[derive(Debug, Default)]
struct Heard(Vec<SigId>);

impl Drop for Heard {
    fn drop(&mut self) {
        for id in self.0.drain(..) {
            low_level::unregister(id);
        }
    }
}

impl Interrupt {
    /// An interrupt that only [`Interrupt::request`] raises.
    pub fn new() -> Self {
        Self::default()
    }

    /// An interrupt raised by SIGINT, SIGTERM and, unless [`hangup_is_ignored`], SIGHUP. A SIGINT or SIGTERM after any of
    /// them ends the process with 128 plus its number, the exit code that shells give to a process ended by it.
    ///
    /// # Errors
    /// [`TrainError::Signals`] when the system does not let them be heard.
    pub fn on_signals() -> Result<Self, TrainError> {
        let requested = Arc::<AtomicBool>::default();
        let mut heard = Heard::default();
        let mut keep = |registered: io::Result<SigId>| -> Result<(), TrainError> {
            heard.0.push(registered.map_err(|source| TrainError::Signals { source })?);
            Ok(())
        };
        for signal in [SIGINT, SIGTERM] {
            // In this order: the first signal finds the flag down, passes the shutdown, and raises it.
            keep(flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&requested)))?;
            keep(flag::register(signal, Arc::clone(&requested)))?;
        }
        #[cfg(unix)]
        if !hangup_is_ignored() {
            keep(flag::register(signal_hook::consts::SIGHUP, Arc::clone(&requested)))?;
        }
        Ok(Interrupt { requested, _heard: Arc::new(heard) })
    }

    /// Whether to save and stop.
    pub fn requested(&self) -> bool {
        self.requested.load(Ordering::Relaxed)
    }

    /// Asks to save and stop.
    pub fn request(&self) {
        self.requested.store(true, Ordering::Relaxed);
    }
}

/// Whether this process was started to outlive its terminal, as `nohup` does it: SIGHUP is ignored then and stays so.
/// Where the system does not tell, a process of which neither stdout nor stderr is a terminal is taken for one.
#[cfg(unix)]
pub fn hangup_is_ignored() -> bool {
    use std::io::{IsTerminal, stderr, stdout};

    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    ignored_in(&status).unwrap_or_else(|| !stdout().is_terminal() && !stderr().is_terminal())
}

/// What Linux's `/proc/self/status` tells of SIGHUP: bit n - 1 of `SigIgn` stands for signal n.
#[cfg(unix)]
fn ignored_in(status: &str) -> Option<bool> {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    let mask = u64::from_str_radix(mask.trim(), 16).ok()?;
    Some(mask & (1 << (signal_hook::consts::SIGHUP - 1)) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_reaches_every_clone() {
        let interrupt = Interrupt::new();
        let clone = interrupt.clone();
        assert!(!clone.requested());
        interrupt.request();
        assert!(clone.requested());
    }

    /// Names the signals that the child raises on itself.
    #[cfg(unix)]
    const CHILD: &str = "CASALLM_TEST_SIGNALS";

    #[cfg(unix)]
    #[test]
    fn the_first_signal_asks_and_the_second_ends_the_process() {
        use signal_hook::consts::SIGHUP;

        // Signals belong to the whole process, so each case is this same test in a process of its own.
        if let Ok(signals) = std::env::var(CHILD) {
            let mut interrupt = Interrupt::on_signals().unwrap();
            assert!(!interrupt.requested());
            for signal in signals.split(',') {
                if signal == "dropped" {
                    drop(std::mem::take(&mut interrupt));
                    interrupt.request();
                    continue;
                }
                signal_hook::low_level::raise(signal.parse().unwrap()).unwrap();
                if !interrupt.requested() {
                    std::process::exit(8);
                }
            }
            std::process::exit(7);
        }
        let of_child = |before: &str, signals: &str| {
            // Only a shell can start a process that ignores a signal.
            let output = std::process::Command::new("sh")
                .args(["-c", &format!("{before}; exec \"$@\""), "sh"])
                .arg(std::env::current_exe().unwrap())
                .args(["--exact", "interrupt::tests::the_first_signal_asks_and_the_second_ends_the_process"])
                .env(CHILD, signals)
                .output()
                .unwrap();
            output.status.code()
        };
        let mut cases = vec![
            (":", format!("{SIGINT}"), 7),
            (":", format!("{SIGTERM}"), 7),
            (":", format!("{SIGINT},{SIGINT}"), 130),
            (":", format!("{SIGINT},{SIGTERM}"), 143),
            // Nobody asks any more: it is for others to hear.
            (":", format!("{SIGINT},dropped,{SIGINT},{SIGTERM}"), 7),
            ("trap '' HUP", format!("{SIGHUP}"), 8),
            ("trap '' HUP", format!("{SIGINT}"), 7),
        ];
        // The child has no terminal, which only Linux does not take for `nohup`.
        if cfg!(target_os = "linux") && !hangup_is_ignored() {
            cases.extend([
                (":", format!("{SIGHUP}"), 7),
                (":", format!("{SIGHUP},{SIGHUP}"), 7),
                (":", format!("{SIGINT},{SIGHUP}"), 7),
                (":", format!("{SIGHUP},{SIGINT}"), 130),
                (":", format!("{SIGHUP},{SIGHUP},{SIGTERM}"), 143),
            ]);
        } else {
            println!("skipped: SIGHUP that is heard");
        }
        for (before, signals, code) in cases {
            assert_eq!(of_child(before, &signals), Some(code), "{before} {signals}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn what_linux_tells_of_sighup() {
        let status = |mask: &str| format!("Name:\tcasallm\nSigBlk:\t0000000000000001\nSigIgn:\t{mask}\nSigCgt:\t1\n");
        assert_eq!(ignored_in(&status("0000000000000001")), Some(true));
        assert_eq!(ignored_in(&status("0000000000001001")), Some(true));
        assert_eq!(ignored_in(&status("0000000000001000")), Some(false));
        assert_eq!(ignored_in(&status("nothing")), None);
        assert_eq!(ignored_in(""), None);
    }
}
