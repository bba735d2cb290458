//! What a budget of time or money comes to: for each model size what fits, how fast it trains, how many tokens that is, what it costs and
//! the loss that a published law expects; and the recipe of the best.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use casallm_compute::roofline::Ceilings;
use casallm_compute::{DType, Device, MatrixFormat};
use casallm_model::config::ModelConfig;
use casallm_model::network::Network;
use casallm_model::parameters::Parameters;
use casallm_model::presets::{PRESETS, Preset};
use casallm_model::workspace::Recompute;
use casallm_train::forecast::{self, Card, LAW, PASSES, Rates, Work};
use casallm_train::recipe::{RawRecipe, Stage};
use casallm_train::stages;
use casallm_train::trainer::Trainer;
use serde_json::json;

use super::{Place, place_of, size};
use crate::Ended;
use crate::args::Plan;
use crate::bench::{RandomFeed, fitted, matrix_update, timed_config};
use crate::console::duration;
use crate::devices::on_device;
use crate::streams::{print, tell};

/// Vocabulary of planned models.
const VOCABULARY: usize = 40_960;
/// Fewer optimizer steps than this teach little, whatever their size.
const LEAST_STEPS: f64 = 2000.0;

/// What may be spent.
struct Budget {
    /// Seconds of training.
    seconds: f64,
    /// Tokens of text that there are.
    text: Option<f64>,
    watts: Option<f64>,
}

/// One size within the budget.
struct Candidate {
    preset: &'static Preset,
    params: usize,
    micro_batch: usize,
    recompute: Recompute,
    memory: u64,
    tokens_per_s: f64,
    tokens: f64,
    batch_tokens: usize,
    seconds: f64,
    loss: f64,
}

/// Prints the table, and writes the best one's recipe where that was asked for.
pub(super) fn run(flags: &Plan) -> Result<Ended> {
    let card = flags.gpu.as_deref().map(card).transpose()?;
    // Before anything is measured.
    if flags.write.is_some() && flags.text.is_none() {
        bail!("--write needs --text: the file, or files, that are to be trained on");
    }
    if flags.text.is_some() && flags.write.is_none() {
        bail!("--text is what a recipe trains on: add --write my.toml, or leave it out");
    }
    if let Some(path) = flags.write.as_ref().filter(|path| path.symlink_metadata().is_ok()) {
        bail!("{}: is there already; name a new file", path.display());
    }
    let (budget, presets) = (budget(flags, card)?, presets(flags)?);
    let place = place_of(flags, 0, card)?;
    let rates = match card {
        Some(card) => card.rates,
        None if flags.memory.is_some() => {
            bail!(
                "--memory names no speed: for a budget name the card with --gpu, or plan for this machine without --memory"
            )
        }
        None => on_device!(&place.opened, device => calibrated(device)?),
    };
    let context = flags.context.unwrap_or(2048);
    let (mut fit, mut refused) = (Vec::new(), Vec::new());
    for preset in presets {
        match candidate(preset, context, &place, &rates, &budget)? {
            Ok(candidate) => fit.push(candidate),
            Err(reason) => refused.push((preset, reason)),
        }
    }
    let best = fit.iter().enumerate().min_by(|(_, a), (_, b)| a.loss.total_cmp(&b.loss)).map(|(i, _)| i);
    if flags.json {
        let rows = fit.iter().map(|candidate| as_json(candidate, flags, &budget)).collect::<Vec<_>>();
        let refused = refused.iter().map(|(preset, reason)| json!({ "preset": preset.name, "reason": reason }));
        print(&json!({
            "place": place.name, "available_bytes": place.available, "context": context, "law": LAW,
            "rates": { "flops_per_s": rates.flops, "bytes_per_s": rates.bandwidth, "linear": rates.linear, "attention": rates.attention },
            "candidates": rows, "refused": refused.collect::<Vec<_>>(), "best": best.map(|i| fit[i].preset.name),
        }).to_string())?;
    } else {
        show(flags, &place, card, &rates, context, &budget, &fit, best)?;
        for (preset, reason) in &refused {
            print(&format!("  {:<12} does not fit: {reason}", preset.name))?;
        }
    }
    let Some(best) = best.map(|i| &fit[i]) else {
        bail!("no model size fits; a smaller context (--context), or a machine with more memory would do")
    };
    if let Some(path) = &flags.write {
        write(path, flags, &place, context, best)?;
        tell(&format!("{}: recipe of {}", path.display(), best.preset.name));
    } else if !flags.json {
        print(&format!(
            "\nBest by that law: {}. Its recipe: the same command with --write my.toml --text FILE",
            best.preset.name
        ))?;
    }
    Ok(Ended::Done)
}

pub(super) fn card(name: &str) -> Result<&'static Card> {
    Card::by_name(name).with_context(|| {
        let known: Vec<&str> = forecast::CARDS.iter().map(|card| card.name).collect();
        format!(
            "--gpu {name}: not in the table, which has {}; of another one plan the memory with --memory",
            known.join(", ")
        )
    })
}

fn presets(flags: &Plan) -> Result<Vec<&'static Preset>> {
    Ok(match &flags.target {
        None => PRESETS.iter().collect(),
        Some(name) => vec![Preset::by_name(name).context("a budget is for a preset, or without one for all of them")?],
    })
}

/// Hours, or what the money buys of them; of both the less.
fn budget(flags: &Plan, card: Option<&Card>) -> Result<Budget> {
    let given = [("--hours", flags.hours), ("--money", flags.money), ("--watts", flags.watts)];
    for (flag, value) in given.into_iter().filter_map(|(flag, value)| Some((flag, value?))) {
        if !(value > 0.0 && value < 1e15) {
            bail!("{flag} {value:?}: use a number above 0 and below 1e15");
        }
    }
    let watts = flags.watts.or(card.map(|card| card.watts));
    if flags.price_per_kwh.is_some() && watts.is_none() {
        bail!("--price-per-kwh: --watts says how much that is for this machine, or --gpu for a card");
    }
    let mut hours = flags.hours;
    if let Some(money) = flags.money {
        let an_hour = an_hour(flags, watts).context(
            "--money needs a price: --price-per-hour of a rented machine, or --price-per-kwh of your own (and --watts where no --gpu says them)",
        )?;
        hours = Some(hours.unwrap_or(f64::INFINITY).min(money / an_hour));
    }
    let Some(hours) = hours else { bail!("--hours or --money says how much may be spent: for example --hours 55") };
    if !(hours > 0.0 && hours < 1e15) {
        bail!("the money buys {hours:?} hours at that price: use more than 0 and below 1e15");
    }
    Ok(Budget { seconds: 3600.0 * hours, text: flags.tokens.map(|tokens| tokens as f64), watts })
}

/// What an hour costs: the machine, its electricity, or both, as the report of a run has it.
fn an_hour(flags: &Plan, watts: Option<f64>) -> Option<f64> {
    let rented = flags.price_per_hour;
    let own = flags.price_per_kwh.zip(watts).map(|(price, watts)| price * watts / 1000.0);
    [rented, own].into_iter().flatten().reduce(|a, b| a + b).filter(|price| *price > 0.0)
}

/// Its row, or why it does not fit.
fn candidate(
    preset: &'static Preset,
    context: usize,
    place: &Place,
    rates: &Rates,
    budget: &Budget,
) -> Result<Result<Candidate, String>> {
    let mut batch_tokens = 1 << 19;
    // The batch depends on the tokens, and the speed a little on the batch.
    let mut found = None;
    for _ in 0..2 {
        let recipe =
            RawRecipe::parse(&toml(preset, context, batch_tokens, 10 * batch_tokens, "text"), "plan", Path::new(""))?;
        let recipe = recipe.validate()?;
        let (_, choice) = on_device!(&place.opened, device => {
            stages::memory_levels(&recipe, Stage::Pretrain, &**device, place.available)?
        });
        let choice = match choice {
            Ok(choice) => choice,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let model = stages::model_config(&recipe)?;
        let second = 1.0 / Work::of(&model, context, batch_tokens, choice.recompute).seconds(rates);
        let most = budget.text.map_or(f64::INFINITY, |text| PASSES * text);
        let tokens = (second * budget.seconds).min(most);
        let params = model.n_params();
        found = Some(Candidate {
            preset,
            params,
            micro_batch: choice.micro_batch,
            recompute: choice.recompute,
            memory: choice.plan.total(),
            tokens_per_s: second,
            tokens,
            batch_tokens,
            seconds: tokens / second,
            loss: forecast::loss(params as f64, tokens),
        });
        batch_tokens = batch(tokens, context);
    }
    found.context("two rounds leave a candidate").map(Ok)
}

/// Tokens of an optimizer step: a power of two that leaves enough steps, at most the 2^19 of GPT-3's medium sizes.
fn batch(tokens: f64, context: usize) -> usize {
    let most = (tokens / LEAST_STEPS).clamp(8192.0, f64::from(1 << 19)) as usize;
    let power = if most.is_power_of_two() { most } else { most.next_power_of_two() / 2 };
    power.max(context).div_ceil(context) * context
}

/// Peak learning rate: GPT-3's table 2.1 by size, and what small models took here.
fn learning_rate(preset: &Preset) -> &'static str {
    match preset.n_embd {
        0..=512 => "1e-3",
        513..=768 => "6e-4",
        769..=1024 => "3e-4",
        1025..=1536 => "2.5e-4",
        _ => "2e-4",
    }
}

fn toml(preset: &Preset, context: usize, batch_tokens: usize, tokens: usize, text: &str) -> String {
    // As TOML has it: a JSON string is one.
    let text = serde_json::Value::from(text);
    format!(
        "[tokenizer]\nvocab_size = {VOCABULARY}\n\n[[data.pretrain]]\nname = \"text\"\npath = {text}\n\n\
         [model]\npreset = \"{}\"\ncontext = {context}\n\n[run]\ndir = \"runs/{}\"\n\n\
         [pretrain]\ntokens = {tokens}\nbatch_tokens = {batch_tokens}\nmicro_batch = \"auto\"\nrecompute = \"auto\"\n\
         lr = {}\nwarmup = 0.03\nschedule = \"cosine\"\n",
        preset.name,
        preset.name,
        learning_rate(preset),
    )
}

/// Writes a recipe beside what there is, never over it.
fn write(path: &PathBuf, flags: &Plan, place: &Place, context: usize, best: &Candidate) -> Result<()> {
    let text = flags.text.as_deref().context("--write needs --text: the file, or files, that are to be trained on")?;
    let tokens = best.tokens as usize / best.batch_tokens * best.batch_tokens;
    let body = toml(best.preset, context, best.batch_tokens, tokens.max(best.batch_tokens), text);
    RawRecipe::parse(&body, "plan", Path::new(""))?.validate()?;
    let mut head = String::new();
    writeln!(head, "# Planned by `casallm plan` for {}.", place.name)?;
    writeln!(head, "#")?;
    writeln!(head, "# Model     {}, {:.1} M weights, context {context}", best.preset.name, best.params as f64 / 1e6)?;
    writeln!(head, "# Tokens    {}; {} of memory", count(best.tokens), size(best.memory))?;
    writeln!(head, "# Hours     {:.1}, at {:.0} tokens/s", best.seconds / 3600.0, best.tokens_per_s)?;
    writeln!(head, "# Loss      {:.2}, by {LAW}\n", best.loss)?;
    let shown = path.display();
    let mut file = std::fs::File::create_new(path)
        .with_context(|| format!("{shown}: cannot be made; name a new file in a folder that is there"))?;
    file.write_all((head + &body).as_bytes())
        .and_then(|()| file.sync_all())
        .with_context(|| format!("{shown}: writing"))?;
    Ok(())
}

/// Tokens as people say them.
fn count(tokens: f64) -> String {
    match tokens {
        t if t >= 1e12 => format!("{:.2} T", t / 1e12),
        t if t >= 1e9 => format!("{:.2} G", t / 1e9),
        t => format!("{:.1} M", t / 1e6),
    }
}

fn as_json(candidate: &Candidate, flags: &Plan, budget: &Budget) -> serde_json::Value {
    let hours = candidate.seconds / 3600.0;
    json!({
        "preset": candidate.preset.name, "params": candidate.params, "micro_batch": candidate.micro_batch,
        "recompute": candidate.recompute, "memory_bytes": candidate.memory, "tokens_per_s": candidate.tokens_per_s,
        "tokens": candidate.tokens, "batch_tokens": candidate.batch_tokens, "hours": hours,
        "kwh": budget.watts.map(|watts| watts * hours / 1000.0), "cost": an_hour(flags, budget.watts).map(|price| price * hours),
        "loss": candidate.loss,
    })
}

#[allow(clippy::too_many_arguments)] // All that a table shows.
fn show(
    flags: &Plan,
    place: &Place,
    card: Option<&Card>,
    rates: &Rates,
    context: usize,
    budget: &Budget,
    fit: &[Candidate],
    best: Option<usize>,
) -> Result<()> {
    let memory =
        place.available.map_or_else(|| "memory unknown".to_owned(), |bytes| format!("{} of memory", size(bytes)));
    print(&format!(
        "{}: {memory}; {:.0} GFLOP/s in bf16, {:.0} GB/s",
        place.name,
        rates.flops / 1e9,
        rates.bandwidth / 1e9
    ))?;
    print(match card {
        None => "  (measured just now, with two short runs)",
        Some(card) if card.measured => "  (the vendor's; what training reaches of it is from runs on such a GPU)",
        Some(_) => "  (the vendor's; what training reaches of it is a guess: nothing was measured on this card yet)",
    })?;
    let text = budget
        .text
        .map_or(String::new(), |text| format!(", at most {PASSES} passes over {} tokens of text", count(text)));
    print(&format!("budget: {}{text}; context {context}, vocabulary {VOCABULARY}\n", duration(budget.seconds)))?;
    print(&format!(
        "  {:<12} {:>9} {:>10} {:>11} {:>10} {:>9} {:>9} {:>8} {:>8} {:>6}",
        "", "weights", "memory", "micro-batch", "tokens/s", "tokens", "time", "kWh", "cost", "loss"
    ))?;
    for (i, c) in fit.iter().enumerate() {
        let hours = c.seconds / 3600.0;
        let energy = budget.watts.map_or("-".to_owned(), |watts| format!("{:.1}", watts * hours / 1000.0));
        let cost = an_hour(flags, budget.watts).map_or("-".to_owned(), |price| format!("{:.2}", price * hours));
        let again = if c.recompute == Recompute::None { "" } else { c.recompute.name() };
        print(&format!(
            "{} {:<12} {:>7.1} M {:>10} {:>4} {again:>6} {:>10.0} {:>9} {:>9} {energy:>8} {cost:>8} {:>6.2}",
            if Some(i) == best { "*" } else { " " },
            c.preset.name,
            c.params as f64 / 1e6,
            size(c.memory),
            c.micro_batch,
            c.tokens_per_s,
            count(c.tokens),
            duration(c.seconds),
            c.loss,
        ))?;
    }
    print(&format!("\nloss: {LAW}"))
}

/// The rates of the machine at hand: two rates measured, and the shares from a step at each of two contexts, in about twenty
/// seconds.
fn calibrated<D: Device>(device: &Arc<D>) -> Result<Rates> {
    tell("measuring this machine ...");
    let ceilings = Ceilings::measure(&**device)?;
    let flops = ceilings.flops_per_s(DType::Bf16);
    // A step of about a second.
    let large = flops > 1e13;
    let (n_layer, n_embd, n_head, vocabulary, tokens) =
        if large { (6, 1024, 16, VOCABULARY, 16_384) } else { (3, 512, 8, 4096, 1024) };
    let mut runs = Vec::new();
    for context in [tokens / 8, tokens] {
        let context = if large { context.min(4096) } else { context };
        let model = ModelConfig::classic(n_layer, n_embd, n_head, vocabulary, context)?;
        runs.push(ShortRun::new(device, &model, tokens / context)?);
    }
    // In turns, so that what disturbs one disturbs the other.
    let begun = Instant::now();
    for step in 0..MOST_STEPS {
        for run in &mut runs {
            run.step(step)?;
        }
        if step >= 2 && begun.elapsed() > ENOUGH {
            break;
        }
    }
    let [short, long] = &runs[..] else { bail!("two runs are measured") };
    // Work is a token.s, a step.s seconds are all its tokens.
    let measured = [short, long].map(|run| (run.work, run.least / run.tokens));
    let bandwidth = ceilings.bandwidth.best();
    // A share beyond 1 is noise, and so is one of a hundredth.
    let sound = |rates: &Rates| [rates.linear, rates.attention].iter().all(|share| (0.02..1.5).contains(share));
    let rates = forecast::fit(flops, bandwidth, measured).filter(sound);
    rates.or(Some(forecast::fit_together(flops, bandwidth, measured)).filter(sound)).context(
        "two short runs contradict each other, so nothing can be said of a long one: something else keeps this machine busy; \
         try again when it is quiet",
    )
}

/// How long the short runs take, at least three steps each.
const ENOUGH: std::time::Duration = std::time::Duration::from_secs(15);
const MOST_STEPS: u64 = 40;

/// Training steps on random tokens, of which the fastest counts: what disturbs only slows down.
struct ShortRun<D: Device> {
    trainer: Trainer<D>,
    feed: RandomFeed,
    work: Work,
    tokens: f64,
    least: f64,
}

impl<D: Device> ShortRun<D> {
    fn new(device: &Arc<D>, model: &ModelConfig, rows: usize) -> Result<Self> {
        let context = model.context;
        let settings = timed_config(context, rows, matrix_update(crate::args::OptimizerKind::Adamw));
        let format = MatrixFormat::from(DType::Bf16);
        let (settings, _) = fitted(&**device, model, format, settings, None)?;
        let work = Work::of(model, context, context * rows, settings.recompute);
        let feed = RandomFeed::new(model.vocab_size, context, rows)?;
        let parameters = Parameters::random(device.clone(), model, format, 1)?;
        let trainer = Trainer::new(Network::new(model.clone(), DType::Bf16, parameters)?, settings)?;
        Ok(ShortRun { trainer, feed, work, tokens: (context * rows) as f64, least: f64::INFINITY })
    }

    fn step(&mut self, step: u64) -> Result<()> {
        let begun = Instant::now();
        self.trainer.step(&self.feed, step)?;
        // The first one makes what the others find.
        if step > 0 {
            self.least = self.least.min(begun.elapsed().as_secs_f64());
        }
        Ok(())
    }
}
