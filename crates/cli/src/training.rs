//! `casallm pretrain`, `casallm sft` and `casallm dpo`.

use std::sync::Arc;

use anyhow::{Context, Result};
use casallm_compute::Device;
use casallm_model::formats::export::refusal;
use casallm_train::TrainError;
use casallm_train::interrupt::Interrupt;
use casallm_train::recipe::{self, Recipe};
use casallm_train::run_lock::RunLock;
use casallm_train::stages::{self, RunDir};
use casallm_train::trainer::Outcome;

use crate::Ended;
use crate::args::{Sft, Stage};
use crate::console::Console;
use crate::devices::{self, on_device};
use crate::report;
use crate::serve::watching::watch;
use crate::tensorboard::Recorder;

/// The first stage.
pub(crate) fn pretrain(flags: &Stage) -> Result<Ended> {
    let recipe = Recipe::load(&flags.recipe, &flags.overrides)?;
    recipe.pretrain()?;
    let device = devices::open(&flags.compute, recipe.run.threads)?;
    let interrupt = Interrupt::on_signals()?;
    let _lock = RunLock::acquire(recipe.run.dir.as_ref())?;
    let mut console = Console::new(&flags.output);
    let _watching = watch(&flags.watch, recipe.run.dir.as_ref(), &mut console);
    say_what_begins(&recipe, recipe::Stage::Pretrain, flags.resume, &mut console);
    // A night later it would be too late.
    if let Some(refused) = refusal(&stages::model_config(&recipe)?).filter(|_| !flags.resume) {
        console.say(&format!("note: `casallm export` will refuse this model: {refused}"));
    }
    let outcome = on_device!(device, device => {
        let mut told = Recorder::new(&mut console, &recipe.run.dir, flags.tensorboard);
        let done = stages::pretrain(&recipe, &device, flags.resume, &interrupt, &mut told);
        let Some(outcome) = unless_stopped(done, &mut console)? else { return console.ended(Ended::Interrupted) };
        report(&outcome, &recipe, recipe::Stage::Pretrain, &device, &mut console);
        outcome
    });
    ended(&outcome, &mut console)
}

/// The second stage.
pub(crate) fn sft(flags: &Sft) -> Result<Ended> {
    let Sft { model, stage: flags } = flags;
    let mut overrides = flags.overrides.clone();
    if let Some(model) = model {
        // A path in a recipe begins at its folder, a flag's where the command is run.
        let whole = std::path::absolute(model)?;
        let name = whole.to_str().context("the names of folders must be valid Unicode")?;
        overrides.push(format!("sft.from={}", serde_json::Value::from(name)));
    }
    let recipe = Recipe::load(&flags.recipe, &overrides)?;
    recipe.sft()?;
    let device = devices::open(&flags.compute, recipe.run.threads)?;
    let interrupt = Interrupt::on_signals()?;
    let _lock = RunLock::acquire(recipe.run.dir.as_ref())?;
    let mut console = Console::new(&flags.output);
    let _watching = watch(&flags.watch, recipe.run.dir.as_ref(), &mut console);
    say_what_begins(&recipe, recipe::Stage::Sft, flags.resume, &mut console);
    let (outcome, setup) = on_device!(device, device => {
        let mut told = Recorder::new(&mut console, &recipe.run.dir, flags.tensorboard);
        let done = stages::sft(&recipe, &device, flags.resume, &interrupt, &mut told);
        let Some((outcome, setup)) = unless_stopped(done, &mut console)? else { return console.ended(Ended::Interrupted) };
        report(&outcome, &recipe, recipe::Stage::Sft, &device, &mut console);
        (outcome, setup)
    });
    if setup.fit.cut + setup.fit.too_long > 0 {
        console.say(&format!(
            "{} conversations were cut at a message to fit the context, {} left out",
            setup.fit.cut, setup.fit.too_long
        ));
    }
    if let Some(refusal) = &setup.fit.refusal {
        console.say(&format!(
            "{} conversations were left out, refused by the model's chat template: {refusal}",
            setup.fit.refused
        ));
    }
    ended(&outcome, &mut console)
}

/// The third stage.
pub(crate) fn dpo(flags: &Stage) -> Result<Ended> {
    let recipe = Recipe::load(&flags.recipe, &flags.overrides)?;
    recipe.dpo()?;
    let device = devices::open(&flags.compute, recipe.run.threads)?;
    let interrupt = Interrupt::on_signals()?;
    let _lock = RunLock::acquire(recipe.run.dir.as_ref())?;
    let mut console = Console::new(&flags.output);
    let _watching = watch(&flags.watch, recipe.run.dir.as_ref(), &mut console);
    say_what_begins(&recipe, recipe::Stage::Dpo, flags.resume, &mut console);
    let (outcome, setup) = on_device!(device, device => {
        let mut told = Recorder::new(&mut console, &recipe.run.dir, flags.tensorboard);
        let done = stages::dpo(&recipe, &device, flags.resume, &interrupt, &mut told);
        let Some((outcome, setup)) = unless_stopped(done, &mut console)? else { return console.ended(Ended::Interrupted) };
        report(&outcome, &recipe, recipe::Stage::Dpo, &device, &mut console);
        (outcome, setup)
    });
    let report = &setup.report;
    console.say(&format!("{} pairs trained on, {} held out, of {} rows", setup.train, setup.held_out, report.rows));
    for (reason, count) in &report.counts {
        console.say(&format!("{count} pairs left out: {}", reason.name()));
    }
    if report.shortened > 0 {
        console.say(&format!("{} pairs lost their oldest exchanges to fit the context", report.shortened));
    }
    ended(&outcome, &mut console)
}

/// To resume where there is nothing is to begin, for whoever starts a run by one command after every end, the first one too. It is
/// said, for somebody may have meant a run that is elsewhere.
fn say_what_begins(recipe: &Recipe, stage: recipe::Stage, resume: bool, console: &mut Console) {
    let path = RunDir::new(&recipe.run.dir).checkpoints(stage);
    let any = std::fs::read_dir(&path).is_ok_and(|mut found| found.next().is_some());
    if resume && !any {
        let whole = std::path::absolute(&path).unwrap_or(path);
        console.say(&format!(
            "{}: there is no checkpoint to go on from, so {} begins at its first step (run.dir is relative to where the command \
             is run)",
            whole.display(),
            stage.name()
        ));
    }
}

/// What a stage came to; `None` where it was told to stop while its data was being prepared, which is said.
fn unless_stopped<T>(done: Result<T, TrainError>, console: &mut Console) -> Result<Option<T>> {
    match done {
        Err(error) if error.is_stop() => {
            console.clear();
            console.say("stopped while the data was being prepared; the same command goes on");
            Ok(None)
        }
        done => Ok(Some(done?)),
    }
}

/// Writes the report where the stage has come to its end.
fn report<D: Device + 'static>(
    outcome: &Outcome,
    recipe: &Recipe,
    stage: recipe::Stage,
    device: &Arc<D>,
    console: &mut Console,
) {
    if matches!(outcome, Outcome::Finished(_)) {
        report::after_stage(recipe, stage, device, console);
    }
}

/// Says how a stage ended.
pub(crate) fn ended(outcome: &Outcome, console: &mut Console) -> Result<Ended> {
    let ended = match outcome {
        Outcome::Finished(_) => Ended::Done,
        Outcome::Interrupted(step) => {
            console.say(&format!("stopped and saved after step {step}; run again with --resume to go on"));
            Ended::Interrupted
        }
    };
    console.ended(ended)
}
