//! The real binary, run to its end.

use std::path::Path;
use std::process::{Child, Command, Output};

/// The binary, to be run in `folder` with `arguments`.
pub fn casallm<S: AsRef<str>>(folder: &Path, arguments: &[S]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_casallm"));
    command.current_dir(folder).args(arguments.iter().map(AsRef::as_ref));
    command
}

/// Runs the binary to its end.
pub fn run<S: AsRef<str>>(folder: &Path, arguments: &[S]) -> Finished {
    let what = arguments.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(" ");
    Finished::of(&what, &casallm(folder, arguments).output().unwrap())
}

/// Sends a process that has not been waited for a signal, by the name that POSIX's `kill` takes: `TERM`.
pub fn signal(process: &Child, name: &str) {
    let status = Command::new("sh").arg("-c").arg(format!("kill -{name} {}", process.id())).status().unwrap();
    assert!(status.success(), "kill -{name}");
}

/// Whether a program that is started here hears SIGHUP: not where the tests themselves were told to outlive their terminal,
/// and elsewhere than on Linux only with a terminal.
pub fn hears_hangup() -> bool {
    #[cfg(target_os = "linux")]
    return !casallm_train::interrupt::hangup_is_ignored();
    #[cfg(not(target_os = "linux"))]
    false
}

/// How a command ended and what it said.
#[derive(Debug)]
pub struct Finished {
    /// The command, for messages.
    pub what: String,
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// All of stdout.
    pub stdout: String,
    /// All of stderr.
    pub stderr: String,
}

impl Finished {
    /// From what the system tells.
    pub fn of(what: &str, output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        let finished = Finished { what: what.to_owned(), code: output.status.code(), stdout, stderr };
        assert!(!finished.stderr.contains("panicked"), "{finished:#?}");
        finished
    }

    /// Expects success.
    pub fn succeeded(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self
    }

    /// Expects exit code 2 and an error that names each of `named`: the file, the field, the value, the remedy.
    pub fn refused(self, named: &[&str]) -> Self {
        assert_eq!(self.code, Some(2), "{self:#?}");
        let error =
            self.stderr.lines().skip_while(|line| !line.starts_with("casallm: ")).collect::<Vec<_>>().join("\n");
        assert!(!error.is_empty(), "no error in {self:#?}");
        for name in named {
            assert!(error.contains(name), "{name:?} is not named in the error of {self:#?}");
        }
        self
    }
}
