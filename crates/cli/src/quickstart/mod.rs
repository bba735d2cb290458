//! `casallm quickstart`: the whole story on the embedded corpus. It measures the machine, writes a recipe that fits the
//! time, and then runs that recipe as anyone could by hand; a run that was interrupted goes on where it was.

mod plan;

use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use casallm_compute::{CacheFormat, Device, MatrixFormat};
use casallm_data::Error;
use casallm_train::TrainError;
use casallm_train::interrupt::Interrupt;
use casallm_train::recipe::{Recipe, Stage};
use casallm_train::run_lock::RunLock;
use casallm_train::stages::{self, RunDir};
use casallm_train::trainer::Outcome;
use serde_json::json;

use crate::Ended;
use crate::args::{Quickstart, Serve};
use crate::chat;
use crate::console::Console;
use crate::devices::{self, on_device};
use crate::exam;
use crate::report::gather::{self, Beside};
use crate::report::{MODEL_CARD, REPORT};
use crate::serve;
use crate::serve::watching::watch;
use crate::streams::word;
use crate::tensorboard::Recorder;

/// The recipe of the run, in its folder.
const RECIPE: &str = "recipe.toml";
/// What was said to the model on its page, in the run's folder.
const CONVERSATIONS: &str = "conversations.db";
/// The report's numbers for machines.
const SUMMARY: &str = "summary.json";

/// Plans, trains, judges, reports, chats.
pub(crate) fn run(flags: &Quickstart) -> Result<Ended> {
    if let Some(minutes) = flags.minutes.filter(|minutes| !(0.5..=1440.0).contains(minutes)) {
        bail!("--minutes {minutes}: use a number from 0.5 to 1440");
    }
    let ended = on_device!(devices::open(&flags.compute, 0)?, device => run_on(flags, &device))?;
    // Without somebody at a terminal a server would wait for nobody.
    let watched = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    if ended != Ended::Done || flags.no_chat || !watched {
        return Ok(ended);
    }
    open_page(flags)
}

/// Serves the model to whoever has trained it, and opens the page.
fn open_page(flags: &Quickstart) -> Result<Ended> {
    let model = RunDir::new(&flags.dir).model(Stage::Sft);
    serve::run_anywhere(&Serve {
        db: Some(flags.dir.join(CONVERSATIONS)),
        open: true,
        compute: flags.compute.clone(),
        output: flags.output.clone(),
        ..Serve::of(model)
    })
}

fn run_on<D: Device + 'static>(flags: &Quickstart, device: &Arc<D>) -> Result<Ended> {
    let interrupt = Interrupt::on_signals()?;
    let _lock = RunLock::acquire(&flags.dir)?;
    let mut console = Console::new(&flags.output).brief();
    let _watching = watch(&flags.watch, &flags.dir, &mut console);
    let path = flags.dir.join(RECIPE);
    let recipe = if path.exists() {
        let recipe = load(&path, &flags.dir)?;
        check_asked(flags, &path, &recipe)?;
        console.say(&format!("{} is there: going on with it (another --dir begins anew)", path.display()));
        recipe
    } else {
        console.say("measuring this machine ...");
        let plan = plan::make(flags, device)?;
        console.say(&plan.text);
        plan::write(&path, &plan.recipe)?;
        // What was asked for and cannot be is not to be gone on with.
        load(&path, &flags.dir).inspect_err(|_| drop(std::fs::remove_file(&path)))?
    };
    let dir = RunDir::new(&flags.dir);

    let mut told = Recorder::new(&mut console, &recipe.run.dir, flags.tensorboard);
    if !dir.has_model(Stage::Pretrain) {
        match stages::pretrain(&recipe, device, true, &interrupt, &mut told) {
            Ok(Outcome::Interrupted(_)) => return stopped(&mut console, flags),
            Err(error) if error.is_stop() => return stopped(&mut console, flags),
            outcome => drop(outcome?),
        }
    }
    if !dir.has_model(Stage::Sft) {
        let (outcome, _) = stages::sft(&recipe, device, true, &interrupt, &mut told)?;
        if matches!(outcome, Outcome::Interrupted(_)) {
            return stopped(&mut console, flags);
        }
    }
    let report = flags.dir.join(REPORT);
    if !report.exists() {
        console.say("asking the model twenty questions about itself and twenty about anything else ...");
        let bot = chat::load(&dir.model(Stage::Sft), device, MatrixFormat::Bf16, CacheFormat::Bf16)?;
        let base = chat::load(&dir.model(Stage::Pretrain), device, MatrixFormat::Bf16, CacheFormat::Bf16)?;
        let mut asked = |_, _| if interrupt.requested() { bail!(TrainError::Data(Error::Stopped)) } else { Ok(()) };
        let judged = match exam::take(&recipe, &bot, &mut asked) {
            Err(error) if error.downcast_ref().is_some_and(TrainError::is_stop) => return stopped(&mut console, flags),
            judged => judged?,
        };
        let samples = exam::samples(&bot, &base)?;
        let page = gather::make(&recipe, &dir, &Beside { judged: Some(&judged), samples, ..Beside::default() })?;
        plan::write(&flags.dir.join(SUMMARY), &format!("{:#}\n", page.summary))?;
        plan::write(&flags.dir.join(MODEL_CARD), &page.card)?;
        plan::write(&report, &page.html)?;
        for line in &page.lines {
            console.say(line);
        }
    }
    console.say(&format!("report: {}", report.display()));
    console.say(&format!("chat:   casallm serve --open --model {}", word(&dir.model(Stage::Sft))));
    console.emit(&json!({ "report": report, "model": dir.model(Stage::Sft) }));
    // Whoever wanted it to stop while the report was made does not want a page.
    console.ended(if interrupt.requested() { Ended::Interrupted } else { Ended::Done })
}

/// Refuses what is asked for and is not so in the run that is there: it would be passed over in silence.
fn check_asked(flags: &Quickstart, path: &Path, recipe: &Recipe) -> Result<()> {
    let text = std::fs::read_to_string(path).with_context(|| format!("{}: cannot read", path.display()))?;
    let identity = recipe.identity.as_ref();
    let of = [
        ("--name", flags.name.clone(), identity.map(|identity| identity.name.clone())),
        ("--maker", flags.maker.clone(), identity.map(|identity| identity.maker.clone())),
        ("--seed", flags.seed.map(|seed| seed.to_string()), Some(recipe.run.seed.to_string())),
        ("--minutes", flags.minutes.map(|n| n.to_string()), plan::minutes_of(&text).map(|n| n.to_string())),
    ];
    for (flag, asked, found) in of {
        if let (Some(asked), Some(found)) = (asked, found)
            && asked != found
        {
            bail!(
                "{flag} {asked:?}: the run in {} has {found:?}; give another --dir for another chatbot, or leave {flag} away to \
                 go on with this one",
                flags.dir.display()
            );
        }
    }
    Ok(())
}

/// Reads the run's recipe; the folder may have been moved since it was written.
fn load(path: &Path, dir: &Path) -> Result<Recipe> {
    let dir = serde_json::to_string(&dir).context("the folder's name must be valid Unicode")?;
    Ok(Recipe::load(path, &[format!("run.dir={dir}")])?)
}

fn stopped(console: &mut Console, flags: &Quickstart) -> Result<Ended> {
    console.say(&format!("stopped and saved; `casallm quickstart --dir {}` goes on", word(&flags.dir)));
    console.ended(Ended::Interrupted)
}
