//! What a run's folder holds, as a report shows it: metrics and events, data, cleaning, judgements; and the same as a model card
//! and as numbers for machines. What is not there is left out.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use casallm_train::events::{Event, What};
use casallm_train::metrics::{self, MetricsRow};
use casallm_train::recipe::{Recipe, Stage};
use casallm_train::stages::{self, RunDir};
use serde_json::{Value, json};

use super::card;
use super::folder::{cleaning, compression, evaluations, pairs, sources};
use super::format::short;
use super::{Fact, Point, ReportData, Sample, Scale, StageReport, TrainingPoint, ValidationSeries, render};
use crate::console::duration;
use crate::exam::Judged;

/// Events that are shown, the latest.
const MOST_EVENTS: usize = 200;

/// The page, the model card, the same numbers for machines, and the few lines for the terminal.
pub(crate) struct Page {
    pub(crate) html: String,
    pub(crate) card: String,
    pub(crate) summary: Value,
    pub(crate) lines: Vec<String>,
}

/// What the run's folder does not say.
#[derive(Default)]
pub(crate) struct Beside<'a> {
    /// The examination of the chatbot.
    pub(crate) judged: Option<&'a Judged>,
    /// What the models wrote; without any, what the run wrote at its last validations is shown.
    pub(crate) samples: Vec<Sample>,
    /// Prices.
    pub(crate) prices: Prices,
}

/// What time and energy cost, where somebody says so.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Prices {
    /// What the machine draws, in watts.
    pub(crate) watts: Option<f64>,
    /// Of a kilowatt-hour.
    pub(crate) per_kwh: Option<f64>,
    /// Of an hour of the machine.
    pub(crate) per_hour: Option<f64>,
}

/// Gathers everything.
pub(crate) fn make(recipe: &Recipe, dir: &RunDir, beside: &Beside<'_>) -> Result<Page> {
    let rows = metrics::read(&dir.metrics())?;
    let events = metrics::read_events(&dir.metrics())?;
    let model = stages::model_config(recipe)?;
    let compression = compression(recipe, dir, &rows)?;
    let seconds: f64 = Stage::ALL.iter().filter_map(|s| last(&rows, *s)?.timing.seconds).sum();
    let name = match &recipe.identity {
        Some(identity) => identity.name.clone(),
        None => dir.root().file_name().map_or_else(|| "A model".to_owned(), |name| name.to_string_lossy().into_owned()),
    };

    let mut lines = Vec::new();
    let mut headline = Vec::new();
    // Before the first validation there is nothing to tell.
    for c in compression.iter().filter(|c| c.model.is_finite()) {
        let xz = c.xz.map(|xz| format!(", xz -9e {xz:.3}")).unwrap_or_default();
        lines.push(format!("held-out {}: {:.3} bits per byte{xz}", c.source, c.model));
        let note = c.xz.map(|xz| format!("xz -9e needs {xz:.2} for the same text")).unwrap_or_default();
        headline.push(Fact::new(format!("Bits per byte, {}", c.source), format!("{:.3}", c.model)).with_note(note));
    }
    let mut summary = json!({
        "name": name,
        "params": model.n_params(),
        "training_seconds": seconds,
        "compression": compression.iter().map(|c| json!({
            "source": c.source, "bytes": c.bytes, "bits_per_byte": c.model, "xz": c.xz, "gzip": c.gzip,
        })).collect::<Vec<_>>(),
        "recipe_hash": recipe.hash()?,
    });
    if let Some(judged) = beside.judged {
        let (own, other) = (Judged::right(&judged.identity), Judged::right(&judged.ordinary));
        let (all_own, all_other) = (judged.identity.answers.len(), judged.ordinary.answers.len());
        lines.push(format!("identity and greetings: {own} of {all_own} right, {} named another", judged.named_another));
        lines.push(format!("ordinary questions: {other} of {all_other} not answered with the identity"));
        summary["identity"] = json!({ "right": own, "asked": all_own });
        summary["ordinary"] = json!({ "right": other, "asked": all_other });
        summary["named_another"] = json!(judged.named_another);
        headline
            .push(Fact::new("Knows its name", format!("{own} of {all_own}")).with_note("wordings never trained on"));
        headline.push(
            Fact::new("Keeps it to itself", format!("{other} of {all_other}"))
                .with_note("ordinary questions and remarks"),
        );
    }
    headline.push(Fact::new("Trained in", duration(seconds)).with_note("all stages, validation left out"));
    let costs = costs(&rows, seconds, beside.prices);
    headline.extend(costs.iter().cloned());

    let data = ReportData {
        description: recipe
            .identity
            .as_ref()
            .map(|i| format!("{}, made by {}.", i.description, i.maker))
            .unwrap_or_default(),
        name,
        made: made(),
        headline,
        stages: Stage::ALL.into_iter().filter_map(|stage| stage_report(&rows, stage)).collect(),
        compression,
        evaluations: evaluations(dir)?,
        samples: if beside.samples.is_empty() { written(&events) } else { beside.samples.clone() },
        exams: beside.judged.map(|judged| vec![judged.identity.clone(), judged.ordinary.clone()]).unwrap_or_default(),
        sources: sources(recipe, dir),
        cleaning: cleaning(dir).into_iter().chain(pairs(dir)).collect(),
        model: vec![
            Fact::new("Weights", short(model.n_params() as f64)),
            Fact::new("Layers", model.n_layer.to_string()),
            Fact::new("Width", model.n_embd.to_string()),
            Fact::new("Heads", format!("{} of {}", model.n_head, model.head_dim)),
            Fact::new("Vocabulary", model.vocab_size.to_string()),
            Fact::new("Context", format!("{} tokens", model.context)),
        ],
        hardware: hardware(&events),
        events: told(&events),
        recipe: recipe.to_toml()?,
        recipe_hash: recipe.hash()?,
    };
    Ok(Page { html: render(&data), card: card::render(&data), summary, lines })
}

fn last(rows: &[MetricsRow], stage: Stage) -> Option<&MetricsRow> {
    rows.iter().rev().find(|r| r.stage == stage)
}

fn stage_report(rows: &[MetricsRow], stage: Stage) -> Option<StageReport> {
    let name = match stage {
        Stage::Pretrain => "Pre-training",
        Stage::Sft => "Fine-tuning",
        Stage::Dpo => "Preference tuning",
    };
    let rows: Vec<&MetricsRow> = rows.iter().filter(|r| r.stage == stage).collect();
    let last = rows.last()?;
    let known = |x: Option<f64>| x.unwrap_or(f64::NAN);
    let training = rows
        .iter()
        .map(|r| TrainingPoint {
            tokens: r.tokens as f64,
            loss: known(r.loss),
            lr: r.lr,
            grad_norm: known(r.grad_norm),
            tokens_per_s: known(r.timing.tokens_per_s),
        })
        .collect();
    let mut validation: Vec<ValidationSeries> = Vec::new();
    for row in &rows {
        let pairs = row.val_preference.map(|pairs| ("held-out pairs".to_owned(), pairs.loss));
        let texts = row.val.iter().map(|(source, value)| (source.clone(), value.loss));
        for (name, loss) in texts.chain(pairs) {
            let point = Point { x: row.tokens as f64, y: known(loss) };
            match validation.iter_mut().find(|s| s.name == name) {
                Some(series) => series.points.push(point),
                None => validation.push(ValidationSeries { name, points: vec![point] }),
            }
        }
    }
    let mut speeds: Vec<f64> = rows.iter().filter_map(|r| r.timing.tokens_per_s).collect();
    speeds.sort_by(f64::total_cmp);
    let mut facts = vec![
        Fact::new("Steps", last.step.to_string()),
        Fact::new("Tokens", short(last.tokens as f64)),
        Fact::new("Time", duration(known(last.timing.seconds))),
    ];
    if let Some(median) = speeds.get(speeds.len() / 2) {
        facts.push(Fact::new("Speed", format!("{median:.0} tokens/s")).with_note("median step"));
    }
    if let Some(share) = last.timing.flop_utilisation {
        facts.push(Fact::new("Of the matrix peak", format!("{:.0} %", 100.0 * share)).with_note("last step"));
    }
    if let Some(accuracy) = rows.iter().rev().find_map(|r| r.accuracy) {
        facts.push(Fact::new("Next token right", format!("{:.1} %", 100.0 * accuracy)).with_note("validation"));
    }
    let judged = || rows.iter().filter_map(|r| r.val_preference);
    if let (Some(first), Some(last)) = (judged().next(), judged().next_back()) {
        let percent = |share: f64| format!("{:.1} %", 100.0 * share);
        facts.push(
            Fact::new("Held-out pairs preferred", percent(last.accuracy))
                .with_note(format!("{} before", percent(first.accuracy))),
        );
        facts.push(
            Fact::new("Held-out pairs ranked", percent(last.ranking))
                .with_note(format!("by likelihood alone; {} before", percent(first.ranking))),
        );
    }
    let tokens_scale = if stage == Stage::Pretrain { Scale::Log } else { Scale::Linear };
    let pairs = stage == Stage::Dpo;
    Some(StageReport {
        name: name.to_owned(),
        training,
        validation,
        tokens_scale,
        loss_scale: Scale::Linear,
        pairs,
        facts,
    })
}

/// What the run wrote at the last validation of each stage.
fn written(events: &[Event]) -> Vec<Sample> {
    let mut samples = Vec::new();
    for stage in Stage::ALL {
        let of_stage = || {
            events.iter().filter(move |event| event.stage == stage).filter_map(|event| match &event.what {
                What::Sample { prompt, text } => Some((event.step, prompt, text)),
                _ => None,
            })
        };
        let Some(last) = of_stage().map(|(step, _, _)| step).max() else { continue };
        let chat = stage != Stage::Pretrain;
        samples.extend(of_stage().filter(|(step, _, _)| *step == last).map(|(step, prompt, text)| Sample {
            prompt: prompt.clone(),
            // An answer begins a line.
            text: if chat { format!("\n{text}") } else { text.clone() },
            settings: format!("{}, step {step}, temperature 0.7, top-p 0.9", stage.name()),
        }));
    }
    samples
}

/// What happened to the run, the latest last.
fn told(events: &[Event]) -> Vec<String> {
    let worth = |event: &&Event| !matches!(event.what, What::Sample { .. } | What::Began { .. });
    let all: Vec<String> = events.iter().filter(worth).map(ToString::to_string).collect();
    let skipped = all.len().saturating_sub(MOST_EVENTS);
    let before = (skipped > 0).then(|| format!("{skipped} earlier ones stand in metrics.jsonl"));
    before.into_iter().chain(all.into_iter().skip(skipped)).collect()
}

/// What the stages were trained on.
fn hardware(events: &[Event]) -> Vec<Fact> {
    let mut facts: Vec<Fact> = Vec::new();
    for stage in Stage::ALL {
        let mut devices: Vec<&str> = Vec::new();
        for event in events.iter().filter(|event| event.stage == stage) {
            match &event.what {
                What::Began { device, .. } if !devices.contains(&device.as_str()) => devices.push(device),
                _ => {}
            }
        }
        if !devices.is_empty() {
            facts.push(Fact::new(stage.name(), devices.join(", then ")));
        }
    }
    facts
}

/// What a GPU drew, as it measured itself; none of a processor.
pub(super) fn mean_watts(rows: &[MetricsRow]) -> Option<f64> {
    let measured: Vec<f64> = rows.iter().filter_map(|row| row.timing.gpu?.power_w).collect();
    (!measured.is_empty()).then(|| measured.iter().sum::<f64>() / measured.len() as f64)
}

/// What the training took beside time: energy, and money where prices are known.
fn costs(rows: &[MetricsRow], seconds: f64, prices: Prices) -> Vec<Fact> {
    let hours = seconds / 3600.0;
    let kwh = prices.watts.or(mean_watts(rows)).map(|watts| watts * hours / 1e3);
    let mut facts = Vec::new();
    if let Some(kwh) = kwh {
        let note = match prices.watts {
            Some(watts) => format!("at {watts:.0} W"),
            None => "of the GPU alone, as it measured itself".to_owned(),
        };
        facts.push(Fact::new("Energy", format!("{kwh:.2} kWh")).with_note(note));
    }
    let electricity = prices.per_kwh.zip(kwh).map(|(price, kwh)| price * kwh);
    if let Some(cost) =
        [electricity, prices.per_hour.map(|price| price * hours)].into_iter().flatten().reduce(|a, b| a + b)
    {
        facts.push(Fact::new("Cost", format!("{cost:.2}")).with_note("in the currency of the prices given"));
    }
    facts
}

/// The recipe of a run's folder, as it was used last, wherever the folder is now.
///
/// # Errors
/// There is none, or it is damaged.
pub(crate) fn recipe_of(dir: &Path) -> Result<Recipe> {
    let run = RunDir::new(dir);
    let kept = [run.settings(), dir.join("recipe.toml")].into_iter().find(|path| path.exists());
    let path = kept.with_context(|| {
        format!(
            "{}: no settings.toml or recipe.toml, so no run's folder; give one such as runs/quickstart",
            dir.display()
        )
    })?;
    let here = serde_json::to_string(dir).context("the folder's name must be valid Unicode")?;
    Ok(Recipe::load(&path, &[format!("run.dir={here}")])?)
}

/// The day (UTC) and the version.
pub(crate) fn made() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (year, month, day) = civil(seconds / 86_400);
    format!("{year}-{month:02}-{day:02}, casallm {}", env!("CARGO_PKG_VERSION"))
}

/// Days since 1970 to a date of the Gregorian calendar (Hinnant, "chrono-compatible low-level date algorithms").
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_tokens_are_not_none() {
        let row = r#"{"step":1,"stage":"pretrain","tokens":4096,"lr":0.1,"timing":{}}"#;
        let report = stage_report(&[serde_json::from_str(row).unwrap()], Stage::Pretrain).unwrap();
        assert_eq!(report.facts[1], Fact::new("Tokens", "4096"));
    }

    #[test]
    fn losses_of_dpo_are_per_pair() {
        let rows = |stage: &str| -> Vec<MetricsRow> {
            let found =
                r#"{"loss":0.5,"margin":1.0,"accuracy":0.5,"ranking":0.5,"chosen_reward":0.5,"rejected_reward":-0.5}"#;
            let row = format!(
                r#"{{"step":1,"stage":"{stage}","tokens":9,"loss":0.6,"val_preference":{found},"lr":0.1,"timing":{{}}}}"#
            );
            vec![serde_json::from_str(&row).unwrap()]
        };
        let page = |stage: Stage| {
            let stages = stage_report(&rows(stage.name()), stage).into_iter().collect();
            render(&ReportData { stages, ..ReportData::default() })
        };
        let [sft, dpo] = [Stage::Sft, Stage::Dpo].map(page);
        assert!(sft.contains("loss, nats per token") && !sft.contains("per pair"));
        assert!(dpo.contains(">loss, nats per pair<") && !dpo.contains("per token"));
        assert!(dpo.contains("<caption>Validation loss, nats per pair</caption>"));
    }

    #[test]
    fn dates_are_right_around_leap_days() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(11_016), (2000, 2, 29));
        assert_eq!(civil(11_017), (2000, 3, 1));
        assert_eq!(civil(20_781), (2026, 11, 24));
    }
}
