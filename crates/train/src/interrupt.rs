//! Ctrl-C and SIGTERM: the first asks the run to save and stop, the second stops it at once.
//!
//! The command line installs it; the trainer asks [`Interrupt::requested`] after every step.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::error::TrainError;

/// Whether somebody wants the run to stop. Clones share one answer.
#[derive(Debug, Clone, Default)]
pub struct Interrupt {
    requested: Arc<AtomicBool>,
}

impl Interrupt {
    /// An interrupt that only [`Interrupt::request`] raises.
    pub fn new() -> Self {
        Self::default()
    }

    /// An interrupt raised by SIGINT and SIGTERM. A second signal ends the process with 128 plus its number, the exit
    /// code that shells give to a process ended by it.
    ///
    /// # Errors
    /// [`TrainError::Signals`] when the system does not let them be heard.
    pub fn on_signals() -> Result<Self, TrainError> {
        let interrupt = Self::new();
        for signal in [SIGINT, SIGTERM] {
            // In this order: the first signal finds the flag down, passes the shutdown, and raises it.
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&interrupt.requested))
                .and_then(|_| flag::register(signal, Arc::clone(&interrupt.requested)))
                .map_err(|source| TrainError::Signals { source })?;
        }
        Ok(interrupt)
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
        use std::process::Command;

        // Signals belong to the whole process, so each case is this same test in a process of its own.
        if let Ok(signals) = std::env::var(CHILD) {
            let interrupt = Interrupt::on_signals().unwrap();
            assert!(!interrupt.requested());
            for signal in signals.split(',') {
                signal_hook::low_level::raise(signal.parse().unwrap()).unwrap();
                assert!(interrupt.requested());
            }
            std::process::exit(7);
        }
        for (signals, code) in [
            (format!("{SIGINT}"), 7),
            (format!("{SIGTERM}"), 7),
            (format!("{SIGINT},{SIGINT}"), 130),
            (format!("{SIGINT},{SIGTERM}"), 143),
        ] {
            let status = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "interrupt::tests::the_first_signal_asks_and_the_second_ends_the_process"])
                .env(CHILD, &signals)
                .output()
                .unwrap()
                .status;
            assert_eq!(status.code(), Some(code), "{signals}");
        }
    }
}
