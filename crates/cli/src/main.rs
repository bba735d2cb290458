//! The `casallm` binary: flags to a recipe, a recipe to a validated config, one call.

use std::process::ExitCode;

use casallm_cli::args::Arguments;
use casallm_cli::streams::{ReaderLeft, tell};
use clap::Parser;

/// Ended by a problem that the user can mend: bad input, bad file, full disk.
const FAILURE: u8 = 2;

/// An error with its causes; those that a message has named already are not said again.
fn told(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |text, cause| match text.contains(&cause) {
        true => text,
        false if text.is_empty() => cause,
        false => format!("{text}: {cause}"),
    })
}

fn main() -> ExitCode {
    match casallm_cli::run(Arguments::parse()) {
        Ok(ended) => ExitCode::from(ended.code()),
        Err(error) if error.is::<ReaderLeft>() => ExitCode::from(ReaderLeft::CODE),
        Err(error) => {
            tell(&format!("casallm: {}", told(&error)));
            ExitCode::from(FAILURE)
        }
    }
}
