//! `casallm plan`: the memory of a recipe or of a preset, line by line, on this machine or on one of which only the memory
//! is known; and what a budget comes to ([`budget`]).

mod budget;
pub(crate) mod flags;

use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, bail};
use casallm_compute::Device;
use casallm_compute::cuda::CudaDevice;
use casallm_compute::cuda::planned::{OVERHEAD, PlannedGpu};
use casallm_model::memory::{MemoryItem, MemoryPlan};
use casallm_model::presets::{PRESETS, Preset};
use casallm_train::TrainError;
use casallm_train::forecast::Card;
use casallm_train::planning::{Level, MemoryChoice};
use casallm_train::recipe::{RawRecipe, Recipe, Stage};
use casallm_train::stages;
use serde_json::{Value, json};

use crate::Ended;
use crate::args::{DeviceChoice, Plan};
use crate::devices::{self, Opened, on_device};
use crate::report::format::short;
use crate::streams::print;

/// Whose memory a plan is for.
struct Place {
    opened: Opened,
    /// Bytes that may be taken.
    available: Option<u64>,
    /// In words.
    name: String,
}

/// Prints what fits.
pub(crate) fn run(flags: &Plan) -> Result<Ended> {
    let Some(target) = flags.target.as_deref().filter(|_| flags.hours.is_none() && flags.money.is_none()) else {
        if !flags.overrides.is_empty() {
            bail!(
                "--set changes a recipe, and a budget is for presets: leave it out, or write a recipe with --write and change that"
            );
        }
        return budget::run(flags);
    };
    refuse_budget_flags(flags, target)?;
    let recipe = recipe(flags, target)?;
    let card = flags.gpu.as_deref().map(budget::card).transpose()?;
    let place = place_of(flags, recipe.run.threads, card)?;
    let mut refused = None;
    for stage in Stage::ALL.into_iter().filter(|stage| recipe.stage_tokens(*stage).is_some()) {
        let (levels, choice) = on_device!(&place.opened, device => {
            stages::memory_levels(&recipe, stage, &**device, place.available)?
        });
        if flags.json {
            print(&as_json(&recipe, stage, &place, &levels, &choice)?.to_string())?;
        } else {
            show(&recipe, stage, &place, &levels, &choice)?;
        }
        refused = refused.or(choice.err());
    }
    match refused {
        Some(error) => Err(error.into()),
        None => Ok(Ended::Done),
    }
}

/// Refuses what only a budget heeds: passed over in silence, `--write` would leave no recipe.
fn refuse_budget_flags(flags: &Plan, target: &str) -> Result<()> {
    let given = [
        ("--write", flags.write.is_some()),
        ("--text", flags.text.is_some()),
        ("--tokens", flags.tokens.is_some()),
        ("--watts", flags.watts.is_some()),
        ("--price-per-hour", flags.price_per_hour.is_some()),
        ("--price-per-kwh", flags.price_per_kwh.is_some()),
    ];
    match given.iter().find(|(_, given)| *given) {
        Some((flag, _)) => {
            bail!("{flag} is for a budget, and {target} alone has none: add --hours or --money, or leave it out")
        }
        None => Ok(()),
    }
}

/// The recipe, or one that trains a preset with every default.
fn recipe(flags: &Plan, target: &str) -> Result<Recipe> {
    let mut raw = if Path::new(target).exists() {
        RawRecipe::load(target.as_ref())?
    } else if let Ok(preset) = Preset::by_name(target) {
        let text = format!(
            "[model]\npreset = \"{}\"\n[run]\ndir = \"runs/plan\"\n[[data.pretrain]]\nname = \"text\"\npath = \"text\"\n\
             [pretrain]\nsteps = 1\nmicro_batch = \"auto\"\n",
            preset.name
        );
        RawRecipe::parse(&text, preset.name, Path::new(""))?
    } else {
        let presets: Vec<&str> = PRESETS.iter().map(|preset| preset.name).collect();
        bail!("{}: neither a recipe's file nor a preset; the presets are {}", target, presets.join(", "));
    };
    if let Some(context) = flags.context {
        raw.apply_override(&format!("model.context={context}"))?;
        let recipe = raw.validate();
        // A stage that says nothing of its own takes the model's.
        for stage in Stage::ALL {
            if recipe.as_ref().is_ok_and(|recipe| recipe.stage_tokens(stage).is_some()) {
                raw.apply_override(&format!("{}.context={context}", stage.name()))?;
            }
        }
    }
    for text in &flags.overrides {
        raw.apply_override(text)?;
    }
    Ok(raw.validate()?)
}

fn place_of(flags: &Plan, threads: usize, card: Option<&Card>) -> Result<Place> {
    let Some(memory) = flags.memory.or(card.map(|card| card.memory)) else {
        let opened = devices::open(&flags.compute, threads)?;
        let (available, name) = on_device!(&opened, device => (device.available_bytes(), device.info().name));
        return Ok(Place { opened, available, name });
    };
    if flags.compute.device == DeviceChoice::Cpu {
        let opened = Opened::Cpu(devices::cpu(&flags.compute, threads)?);
        return Ok(Place { opened, available: Some(memory), name: "cpu".to_owned() });
    }
    let device = CudaDevice::new(Arc::new(PlannedGpu::new(memory)))?;
    let available = device.available_bytes();
    let whose = card.map_or("a GPU", |card| card.name);
    let name = format!("{whose} of {}, {} of it left to the driver and its libraries", size(memory), size(OVERHEAD));
    Ok(Place { opened: Opened::Cuda(Arc::new(device)), available, name })
}

/// How many blocks a model has.
pub(crate) fn layers(count: usize) -> String {
    if count == 1 { "1 layer".to_owned() } else { format!("{count} layers") }
}

/// Bytes in binary units, as memory is sold.
pub(crate) fn size(bytes: u64) -> String {
    let bytes = bytes as f64;
    if bytes >= 1e3 * f64::from(1 << 20) {
        return format!("{:.2} GiB", bytes / f64::from(1 << 30));
    }
    format!("{:.1} MiB", bytes / f64::from(1 << 20))
}

fn show(
    recipe: &Recipe,
    stage: Stage,
    place: &Place,
    levels: &[Level],
    choice: &Result<MemoryChoice, TrainError>,
) -> Result<()> {
    let (context, step) = recipe.stage_tokens(stage).unwrap_or_default();
    let model = stages::model_config(recipe)?;
    print(&format!(
        "{}: {}, width {}, {} weights; context {context}, {step} tokens a step",
        stage.name(),
        layers(model.n_layer),
        model.n_embd,
        short(model.n_params() as f64),
    ))?;
    let free = place.available.map_or_else(|| "unknown".to_owned(), size);
    print(&format!("memory: {free} on {}", place.name))?;
    print("\nrecompute   largest micro-batch           memory   activations")?;
    for level in levels {
        let rows = match level.micro_batch {
            Some(rows) => format!("{rows} rows, {} tokens", rows * context),
            None => "none fits".to_owned(),
        };
        let activations = level.plan.items.iter().filter(|item| item.name.starts_with("activations"));
        let activations = size(activations.map(|item| item.bytes).sum());
        let total = size(level.plan.total());
        print(&format!("{:<11} {rows:<24} {total:>11}   {activations:>11}", level.recompute.name()))?;
    }
    let Ok(choice) = choice else { return Ok(()) };
    print(&format!("\nchosen: micro_batch = {}, recompute = \"{}\"\n", choice.micro_batch, choice.recompute.name()))?;
    for line in lines(&choice.plan) {
        print(&line)?;
    }
    print(&format!("{:<28} {:>11}\n", "total", size(choice.plan.total())))
}

fn items(plan: &MemoryPlan) -> Value {
    plan.items.iter().map(|item| json!({ "name": item.name, "bytes": item.bytes, "host": item.host })).collect()
}

/// The choice as it stands in the output for machines.
pub(crate) fn choice_as_json(choice: &MemoryChoice) -> Value {
    json!({
        "micro_batch": choice.micro_batch,
        "recompute": choice.recompute,
        "memory": items(&choice.plan),
        "total_bytes": choice.plan.total(),
        "available_bytes": choice.available,
    })
}

fn as_json(
    recipe: &Recipe,
    stage: Stage,
    place: &Place,
    levels: &[Level],
    choice: &Result<MemoryChoice, TrainError>,
) -> Result<Value> {
    let (context, step) = recipe.stage_tokens(stage).unwrap_or_default();
    let level = |level: &Level| {
        json!({
            "recompute": level.recompute,
            "micro_batch": level.micro_batch,
            "memory": items(&level.plan),
            "total_bytes": level.plan.total(),
        })
    };
    Ok(json!({
        "stage": stage,
        "params": stages::model_config(recipe)?.n_params(),
        "context": context,
        "step_tokens": step,
        "place": place.name,
        "available_bytes": place.available,
        "levels": levels.iter().map(level).collect::<Vec<_>>(),
        "chosen": choice.as_ref().ok().map(choice_as_json),
    }))
}

/// A choice in a line, for the beginning of a run.
pub(crate) fn headline(stage: Stage, choice: &MemoryChoice) -> String {
    let free = choice.available.map(|bytes| format!(" of {}", size(bytes))).unwrap_or_default();
    let (rows, recompute, total) = (choice.micro_batch, choice.recompute.name(), size(choice.plan.total()));
    format!("{}: micro-batch {rows}, recompute \"{recompute}\", {total} of memory{free}", stage.name())
}

/// What takes the memory, a line each.
pub(crate) fn lines(plan: &MemoryPlan) -> Vec<String> {
    let line = |item: &MemoryItem| {
        let of_host = if item.host { "  (host)" } else { "" };
        format!("{:<28} {:>11}{of_host}", item.name, size(item.bytes))
    };
    plan.items.iter().map(line).collect()
}
