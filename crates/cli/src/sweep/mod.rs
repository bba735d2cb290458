//! `casallm sweep`: trials over keys of a recipe. Each is a run like any other in a folder of its own ([`grid`]); what they
//! share is made once ([`prepare`]); the results are a table and a page ([`results`], [`pages`]). Run again with the same
//! folder it goes on where it was: a trial that is done is not done again.

mod board;
pub(crate) mod flags;
mod grid;
mod pages;
mod prepare;
mod results;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, anyhow, bail};
use casallm_compute::Device;
use casallm_train::TrainError;
use casallm_train::interrupt::Interrupt;
use casallm_train::metrics::{self, MetricsRow};
use casallm_train::recipe::{RawRecipe, Recipe, Stage};
use casallm_train::run_lock::RunLock;
use casallm_train::stages::{self, RunDir, Sized};
use casallm_train::trainer::Outcome;

use crate::Ended;
use crate::args::{Sweep, SweptStage};
use crate::console::Console;
use crate::devices::{self, on_device};
use crate::tensorboard::Recorder;
use board::{Board, Listener};
use grid::{Grid, Trial};
use pages::Conditions;
use results::{Results, State};

/// The sweep under way.
struct Work<'a> {
    grid: &'a Grid,
    stage: Stage,
    out: &'a Path,
    own_run: &'a RunDir,
    tensorboard: bool,
    board: &'a Board,
    interrupt: &'a Interrupt,
    conditions: &'a Conditions,
    /// Bytes of memory that a trial may take, where known.
    share: Option<u64>,
    /// The next trial.
    next: AtomicUsize,
    known: Mutex<Known>,
    /// One trial at a time is put into its folder, for others may need the same tokenizer.
    placing: Mutex<()>,
}

/// What is known of the trials, in their order.
struct Known {
    states: Vec<State>,
    /// The stage's rows.
    rows: Vec<Vec<MetricsRow>>,
}

/// Tries every combination, and ranks them.
pub(crate) fn run(flags: &Sweep) -> Result<Ended> {
    let stage = match flags.stage {
        SweptStage::Pretrain => Stage::Pretrain,
        SweptStage::Sft => Stage::Sft,
        SweptStage::Dpo => Stage::Dpo,
    };
    let raw = RawRecipe::load(&flags.recipe)?;
    let grid = Grid::new(&raw, (&flags.grid, &flags.overrides, flags.seeds), stage, flags.out.as_deref())?;
    let (own_run, out) = (RunDir::new(&grid.own_dir), &grid.out);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if !(1..=cores).contains(&flags.jobs) {
        bail!("--jobs {}: use from 1 to {cores}, one for each core", flags.jobs);
    }
    let jobs = flags.jobs.min(grid.trials.len());
    prepare::check_base(stage, &grid.trials[0].recipe, &own_run)?;
    grid.trials.iter().try_for_each(|trial| prepare::check_same(trial, stage))?;
    let threads = match (jobs, grid.trials[0].recipe.run.threads) {
        (1, threads) => threads,
        (_, 0) => (cores / jobs).max(1),
        (_, threads) => threads,
    };
    let mut opened = Vec::new();
    for _ in 0..jobs {
        opened.push(devices::open(&flags.compute, threads)?);
    }
    let share = on_device!(&opened[0], device => check_memory(&grid, stage, device, jobs)?);
    let info = on_device!(&opened[0], device => device.info());
    let conditions = Conditions {
        stage,
        recipe: flags.recipe.display().to_string(),
        command: pages::typed(),
        device: match info.threads {
            1 => format!("{} ({})", info.name, info.isa),
            threads => format!("{} ({}), {threads} threads", info.name, info.isa),
        },
        jobs,
    };
    let interrupt = Interrupt::on_signals()?;
    let _lock = RunLock::acquire(out)?;

    let done = |trial: &Trial| RunDir::new(&trial.recipe.run.dir).has_model(stage);
    let steps = |trial: &Trial| match &trial.recipe.pretrain {
        _ if done(trial) => Some(0),
        Some(pretrain) if stage == Stage::Pretrain => Some(pretrain.steps),
        _ => None,
    };
    let board = Board::new(Console::new(&flags.output), grid.trials.iter().map(steps).collect());
    let state = |trial: &Trial| if done(trial) { State::Finished } else { State::Waiting };
    let known = Known {
        states: grid.trials.iter().map(state).collect(),
        rows: grid.trials.iter().map(|trial| rows_of(trial, stage)).collect::<Result<_>>()?,
    };
    let work = Work {
        grid: &grid,
        stage,
        out,
        own_run: &own_run,
        tensorboard: flags.tensorboard,
        board: &board,
        interrupt: &interrupt,
        conditions: &conditions,
        share,
        next: AtomicUsize::new(0),
        known: Mutex::new(known),
        placing: Mutex::new(()),
    };
    std::thread::scope(|scope| {
        let work = &work;
        let workers: Vec<_> = opened
            .into_iter()
            .map(|opened| scope.spawn(move || on_device!(opened, device => work.go(&device))))
            .collect();
        let joined =
            workers.into_iter().map(|worker| worker.join().unwrap_or_else(|_| Err(anyhow!("a trial's thread ended"))));
        joined.collect::<Result<Vec<()>>>()
    })?;

    let Known { states, rows } = work.known.into_inner().unwrap_or_else(PoisonError::into_inner);
    let results = Results::new(&grid, stage, &states, &rows);
    pages::write(out, &conditions, &results, &rows)?;
    let mut console = board.into_console();
    if !flags.output.json && !flags.output.quiet {
        console.write(&results.table().text());
    }
    for (name, why) in results.unfinished() {
        console.say(&format!("{name}: {why}"));
    }
    console.say(&format!("table and curves: {}", out.join("sweep.html").display()));
    console.emit(&pages::as_json(&conditions, &results));
    let any = |wanted: fn(&State) -> bool| states.iter().any(wanted);
    if any(|state| matches!(state, State::Interrupted(_) | State::Waiting)) {
        console.say("stopped and saved; the same command goes on");
        return console.ended(Ended::Interrupted);
    }
    console.ended(if any(|state| matches!(state, State::Failed(_))) { Ended::Failed } else { Ended::Done })
}

/// Refuses what does not fit, before any time is spent. Gives a trial's share of the memory, where that is known.
fn check_memory<D: Device>(grid: &Grid, stage: Stage, device: &Arc<D>, jobs: usize) -> Result<Option<u64>> {
    let share = device.available_bytes().map(|bytes| bytes / jobs as u64);
    for trial in &grid.trials {
        stages::sized(&trial.recipe, stage, &**device, share).with_context(|| trial.name.clone())?;
    }
    Ok(share)
}

/// The recipe with what it leaves open settled for a share of the memory. Trials that run side by side would else each take
/// what the others have not taken yet: as much as there is, or as little as is left.
fn settled<D: Device>(recipe: &Recipe, stage: Stage, device: &D, share: Option<u64>) -> Result<Recipe, TrainError> {
    device.release_scratch();
    let available = device.available_bytes().map(|bytes| share.map_or(bytes, |share| bytes.min(share)));
    let Sized { recipe, choice } = stages::sized(recipe, stage, device, available)?;
    Ok(recipe.with_recompute(stage, choice.recompute))
}

/// The stage's rows in a trial's metrics.
fn rows_of(trial: &Trial, stage: Stage) -> Result<Vec<MetricsRow>> {
    let mut rows = metrics::read(&RunDir::new(&trial.recipe.run.dir).metrics())?;
    rows.retain(|row| row.stage == stage);
    Ok(rows)
}

impl Work<'_> {
    /// Does trials until there are none left, or somebody wants it to stop.
    fn go<D: Device>(&self, device: &Arc<D>) -> Result<()> {
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(trial) = self.grid.trials.get(index) else { return Ok(()) };
            let done = self.known().states[index] == State::Finished;
            if !done {
                if self.interrupt.requested() {
                    return Ok(());
                }
                // A panic is an error of this program; what the other trials have to say is not lost by it.
                let tried = catch_unwind(AssertUnwindSafe(|| self.attempt(index, trial, device)));
                let state = match tried {
                    Ok(Ok(Outcome::Finished(_))) => State::Finished,
                    Ok(Ok(Outcome::Interrupted(step))) => State::Interrupted(step),
                    Ok(Err(error)) if error.downcast_ref().is_some_and(TrainError::is_stop) => State::Waiting,
                    Ok(Err(error)) => State::Failed(format!("{error:#}")),
                    Err(_) => State::Failed("the program is at fault: it panicked; the message is above".to_owned()),
                };
                let rows = rows_of(trial, self.stage)?;
                let mut known = self.known();
                (known.states[index], known.rows[index]) = (state, rows);
            }
            self.tell(index, done)?;
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attempt<D: Device>(&self, index: usize, trial: &Trial, device: &Arc<D>) -> Result<Outcome> {
        let mut listener = Listener::new(self.board, index, &trial.name);
        let _lock = RunLock::acquire(trial.recipe.run.dir.as_ref())?;
        {
            let _placing = self.placing.lock().unwrap_or_else(PoisonError::into_inner);
            let (folders, interrupt) = ((self.out, self.own_run), self.interrupt);
            prepare::place(trial, self.stage, folders, interrupt, &mut listener.preparing())?;
        }
        let recipe = &settled(&trial.recipe, self.stage, &**device, self.share)?;
        let mut told = Recorder::new(&mut listener, &recipe.run.dir, self.tensorboard);
        Ok(match self.stage {
            Stage::Pretrain => stages::pretrain(recipe, device, true, self.interrupt, &mut told)?,
            Stage::Sft => stages::sft(recipe, device, true, self.interrupt, &mut told)?.0,
            Stage::Dpo => stages::dpo(recipe, device, true, self.interrupt, &mut told)?.0,
        })
    }

    /// Says how a trial ended, and brings the files up to date.
    fn tell(&self, index: usize, before: bool) -> Result<()> {
        let known = self.known();
        let results = Results::new(self.grid, self.stage, &known.states, &known.rows);
        let line = results.line(index);
        self.board.ended(index, &if before { format!("{line} (it was done before)") } else { line });
        self.board.with(|console| console.emit(&results.trial_json(index)));
        pages::write(self.out, self.conditions, &results, &known.rows)
    }
}

#[cfg(test)]
mod tests {
    use casallm_compute::cuda::CudaDevice;
    use casallm_compute::cuda::planned::PlannedGpu;

    use super::*;

    /// Two trials at once on one GPU: each is sized as if it had half of it, whichever begins first.
    #[test]
    fn a_trial_takes_its_share_of_the_memory_though_more_is_free() {
        let text = "[model]\npreset = \"gpt3-medium\"\n[run]\ndir = \"runs/no-such-run\"\n\
                    [[data.pretrain]]\nname = \"text\"\npath = \"text\"\n[pretrain]\nsteps = 1\nmicro_batch = \"auto\"\n";
        let recipe = RawRecipe::parse(text, "test.toml", Path::new("")).unwrap().validate().unwrap();
        let device = CudaDevice::new(Arc::new(PlannedGpu::new(24 << 30))).unwrap();
        let whole = device.available_bytes().unwrap();
        let of = |recipe: &Recipe, share| {
            let sized = stages::sized(recipe, Stage::Pretrain, &device, Some(share)).unwrap();
            (sized.choice.micro_batch, sized.choice.recompute, sized.choice.plan.total())
        };
        let trial = settled(&recipe, Stage::Pretrain, &device, Some(whole / 2)).unwrap();
        assert_ne!(of(&recipe, whole), of(&recipe, whole / 2));
        assert_eq!(of(&trial, whole), of(&recipe, whole / 2), "although the other has not taken its half yet");
        assert!(of(&trial, whole).2 <= whole / 2);
        // What somebody else has taken meanwhile is nobody's share.
        let trial = settled(&recipe, Stage::Pretrain, &device, Some(2 * whole)).unwrap();
        assert_eq!(of(&trial, whole), of(&recipe, whole));
    }
}
