//! `casallm report`, and the report that each training stage ends with.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, bail};
use casallm_compute::{CacheFormat, Device, MatrixFormat};
use casallm_data::durable;
use casallm_train::metrics;
use casallm_train::recipe::{Recipe, Stage};
use casallm_train::stages::{RunDir, StageObserver};
use serde_json::json;

use super::flags::Report;
use super::gather::{self, Beside, Prices};
use crate::Ended;
use crate::chat;
use crate::console::Console;
use crate::devices::{self, on_device};
use crate::exam::{self, Judged};
use crate::streams::word;

/// The report, in the run's folder.
pub(crate) const REPORT: &str = "report.html";
/// The model card, in the run's folder.
pub(crate) const MODEL_CARD: &str = "model-card.md";

/// Writes the report of a run that is there.
pub(crate) fn run(flags: &Report) -> Result<Ended> {
    let prices = Prices { watts: flags.watts, per_kwh: flags.price_per_kwh, per_hour: flags.price_per_hour };
    for (name, value) in
        [("--watts", prices.watts), ("--price-per-kwh", prices.per_kwh), ("--price-per-hour", prices.per_hour)]
    {
        if let Some(value) = value.filter(|value| !(value.is_finite() && *value >= 0.0)) {
            bail!("{name} {value}: use a number from 0 up");
        }
    }
    let recipe = gather::recipe_of(&flags.run)?;
    let dir = RunDir::new(&flags.run);
    if !dir.metrics().exists() {
        bail!("{}: not there, so nothing has been trained yet; run `casallm pretrain` first", dir.metrics().display());
    }
    if let Some(price) = prices.per_kwh.filter(|_| prices.watts.is_none())
        && gather::mean_watts(&metrics::read(&dir.metrics())?).is_none()
    {
        bail!("--price-per-kwh {price}: nothing measured what this run drew; --watts says it");
    }
    let mut console = Console::new(&flags.output);
    let judged = match bot_of(&recipe, &dir).filter(|_| !flags.no_exam) {
        Some(stage) => on_device!(devices::open(&flags.compute, recipe.run.threads)?, device => {
            Some(examine(&recipe, &dir, stage, &device, &mut console)?)
        }),
        None => None,
    };
    write(&recipe, &dir, &Beside { judged: judged.as_ref(), samples: Vec::new(), prices }, &mut console)?;
    console.ended(Ended::Done)
}

/// Writes the report of a run in which a stage has come to its end. The training is saved by then: a report that cannot be
/// made is said, and no more.
pub(crate) fn after_stage<D: Device + 'static>(recipe: &Recipe, stage: Stage, device: &Arc<D>, console: &mut Console) {
    let dir = RunDir::new(&recipe.run.dir);
    let chatbot = stage != Stage::Pretrain && recipe.identity.is_some();
    let judged = chatbot.then(|| examine(recipe, &dir, stage, device, console)).transpose();
    let written = judged
        .and_then(|judged| write(recipe, &dir, &Beside { judged: judged.as_ref(), ..Beside::default() }, console));
    if let Err(error) = written {
        console.clear();
        console.say(&format!(
            "the model is trained and saved, but its report could not be made: {error:#}; `casallm report {}` tries again",
            word(dir.root())
        ));
    }
}

/// The stage whose model is the run's chatbot, where it has one that should know its name.
fn bot_of(recipe: &Recipe, dir: &RunDir) -> Option<Stage> {
    recipe.identity.as_ref()?;
    [Stage::Dpo, Stage::Sft].into_iter().find(|stage| dir.has_model(*stage))
}

fn examine<D: Device + 'static>(
    recipe: &Recipe,
    dir: &RunDir,
    stage: Stage,
    device: &Arc<D>,
    console: &mut Console,
) -> Result<Judged> {
    const TASK: &str = "who are you?";
    let bot = chat::load(&dir.model(stage), device, MatrixFormat::Bf16, CacheFormat::Bf16)?;
    let judged = exam::take(recipe, &bot, &mut |done, all| {
        console.progress(TASK, "questions", done as u64, Some(all as u64));
        Ok(())
    });
    console.clear();
    judged
}

/// Both files, and the few lines for the terminal.
fn write(recipe: &Recipe, dir: &RunDir, beside: &Beside<'_>, console: &mut Console) -> Result<()> {
    let page = gather::make(recipe, dir, beside)?;
    let path = |name: &str| Path::new(dir.root()).join(name);
    durable::write_file(&path(MODEL_CARD), page.card.as_bytes())?;
    durable::write_file(&path(REPORT), page.html.as_bytes())?;
    page.lines.iter().for_each(|line| console.say(line));
    console.say(&format!("report: {}", path(REPORT).display()));
    console.emit(&json!({ "report": path(REPORT), "model_card": path(MODEL_CARD), "summary": page.summary }));
    Ok(())
}
