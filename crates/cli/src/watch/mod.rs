//! `casallm watch`: a run as it goes, in a terminal. Reads what the dashboard reads, and writes nothing into the run.

mod plot;
mod screen;
mod state;
#[cfg(unix)]
mod terminal;

use std::io::{IsTerminal, stdin, stdout};
use std::path::PathBuf;

use anyhow::{Result, bail};
use casallm_serve::runs::Runs;
use clap::Args;

use crate::Ended;
use crate::streams::{dumb, print};
use state::State;

/// Flags of `watch`.
#[derive(Clone, Debug, Args)]
pub struct WatchRun {
    /// The folder of a run, such as runs/quickstart; of a folder of runs, the newest
    pub run: PathBuf,
    /// The stage to show [default: the newest]
    #[arg(long)]
    pub stage: Option<String>,
    /// Print the state once, as one JSON object, and end
    #[arg(long)]
    pub json: bool,
}

/// Shows it until it is told to end; without a terminal, or on one that obeys nothing, once.
pub(crate) fn run(flags: &WatchRun) -> Result<Ended> {
    let runs = Runs::new(&flags.run);
    let state = read(&runs, flags)?;
    if flags.json {
        print(&state.as_json().to_string())?;
        return Ok(Ended::Done);
    }
    #[cfg(unix)]
    if stdin().is_terminal() && stdout().is_terminal() && !dumb() {
        return terminal::show(|| read(&runs, flags));
    }
    // Nobody would see it change.
    let _ = (stdin().is_terminal(), stdout().is_terminal(), dumb());
    print(&screen::lines(&state, 80, 24).join("\n"))?;
    Ok(Ended::Done)
}

fn read(runs: &Runs, flags: &WatchRun) -> Result<State> {
    let Some(summary) = runs.list().runs.into_iter().next() else {
        bail!(
            "{}: there is no run in it; name the folder of one, such as runs/quickstart (a run has metrics.jsonl in its folder)",
            flags.run.display()
        );
    };
    let name = summary.name.clone();
    let stage = flags.stage.as_deref();
    let state = runs.with(&name, |run, folder| State::of(run, folder, summary, stage))?;
    if let Some(stage) = stage
        && !state.stages.iter().any(|known| known == stage)
    {
        bail!(
            "--stage {stage}: {name} has {}",
            match state.stages.as_slice() {
                [] => "no stage yet".to_owned(),
                stages => stages.join(", "),
            }
        );
    }
    Ok(state)
}
