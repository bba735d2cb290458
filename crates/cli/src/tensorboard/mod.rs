//! TensorBoard's event files of a run, on request: `RUN/tensorboard/STAGE/`, beside `metrics.jsonl`, which stays the one
//! truth. `--tensorboard` writes them as the run goes ([`Recorder`]); `casallm tensorboard RUN` makes them of a run that is
//! there. `tensorboard --logdir RUN/tensorboard` shows them.
//!
//! That TensorBoard reads in them what `metrics.jsonl` says is checked by `scripts/check_tensorboard.py RUN`
//! (`pip install tensorboard`), which also makes the records that the test in `wire.rs` compares with.

mod file;
pub(crate) mod flags;
mod recorder;
mod tags;
mod wire;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result, bail};
use casallm_train::TrainError;
use casallm_train::events::Event;
use casallm_train::metrics::{self, MetricsRow};
use casallm_train::recipe::Stage;
use casallm_train::run_lock::RunLock;
use casallm_train::stages::{RunDir, StageObserver};
use serde_json::json;

use crate::Ended;
use crate::args::Tensorboard;
use crate::console::Console;
use crate::streams::word;
use file::{EventFile, files_in, next_name, now};
pub(crate) use recorder::Recorder;

/// Where the event files of a stage are.
fn folder_of(run: &RunDir, stage: Stage) -> PathBuf {
    run.root().join("tensorboard").join(stage.name())
}

/// Makes the event files of `metrics.jsonl`, in place of those that are there.
pub(crate) fn run(flags: &Tensorboard) -> Result<Ended> {
    let run = RunDir::new(&flags.run);
    let path = run.metrics();
    if !path.is_file() {
        bail!("{}: there is no such file; name the folder of a run, like runs/quickstart", path.display());
    }
    let folders = || Stage::ALL.into_iter().map(|stage| folder_of(&run, stage));
    let files = || folders().map(|folder| files_in(&folder).with_context(|| folder.display().to_string()));
    let _lock = match RunLock::acquire(run.root()) {
        Ok(lock) => Some(lock),
        // Nobody writes event files there: these are of what is in metrics.jsonl by now.
        Err(TrainError::RunLocked { .. }) if files().collect::<Result<Vec<_>>>()?.concat().is_empty() => None,
        Err(error) => return Err(error.into()),
    };
    let (rows, mut events) = (metrics::read(&path)?, metrics::read_events(&path)?);
    if rows.is_empty() {
        bail!("{}: no step is in it yet", path.display());
    }
    events.sort_by_key(|event| event.step);
    let mut console = Console::new(&flags.output);
    // When the last row was written; the time of each row is counted back from there.
    let modified = fs::metadata(&path).and_then(|found| found.modified()).ok();
    let mut ended = modified.and_then(|at| at.duration_since(UNIX_EPOCH).ok()).map_or_else(now, |at| at.as_secs_f64());
    let mut made = Vec::new();
    for stage in Stage::ALL.into_iter().rev() {
        let rows: Vec<&MetricsRow> = rows.iter().filter(|row| row.stage == stage).collect();
        let events: Vec<&Event> = events.iter().filter(|event| event.stage == stage).collect();
        let Some(last) = rows.last() else { continue };
        let began = ended - last.timing.seconds.unwrap_or(0.0);
        let written = convert(&run, stage, &rows, &events, began, &mut console)?;
        console.say(&format!("{}: {} steps", written.display(), rows.len()));
        console.emit(&json!({ "stage": stage, "file": written.display().to_string(), "rows": rows.len(), "events": events.len() }));
        made.push(written);
        ended = began;
    }
    console.say(&format!("tensorboard --logdir {} shows them", word(&run.root().join("tensorboard"))));
    console.ended(Ended::Done)
}

/// Writes a stage's file where nobody reads it, moves it to its place, and removes what was there.
fn convert(
    run: &RunDir,
    stage: Stage,
    rows: &[&MetricsRow],
    events: &[&Event],
    began: f64,
    console: &mut Console,
) -> Result<PathBuf> {
    const TASK: &str = "tensorboard";
    let folder = folder_of(run, stage);
    let beside = run.root().join(format!(".tmp-{TASK}-{}", stage.name()));
    let doing = |path: &Path| format!("cannot write {}", path.display());
    fs::create_dir_all(&folder).with_context(|| doing(&folder))?;
    let earlier = files_in(&folder).with_context(|| doing(&folder))?;
    let path = folder.join(next_name(&earlier, began));
    let mut write = || -> std::io::Result<()> {
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = EventFile::create(&beside, began)?;
        let (mut done, total) = (0, Some(rows.len() as u64));
        let mut at = began;
        let mut events = events.iter().peekable();
        for some in rows.chunks(1024) {
            let mut records = Vec::new();
            for row in some {
                while let Some(event) = events.next_if(|event| event.step < row.step) {
                    records.extend(tags::event_record(event, at));
                }
                at = row.timing.seconds.map_or(at, |seconds| began + seconds);
                records.extend(tags::row_record(row, at));
            }
            file.append(&records)?;
            done += some.len() as u64;
            console.progress(TASK, "steps", done, total);
        }
        let rest: Vec<u8> = events.flat_map(|event| tags::event_record(event, at)).collect();
        file.append(&rest)?;
        file.sync()?;
        fs::rename(&beside, &path)
    };
    if let Err(error) = write() {
        let _ = fs::remove_file(&beside);
        return Err(error).with_context(|| doing(&path));
    }
    console.clear();
    for old in earlier {
        fs::remove_file(&old).with_context(|| format!("cannot remove {}", old.display()))?;
    }
    Ok(path)
}
