//! The report of a quickstart: what was trained, how it went, how good it is.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use casallm_compute::DeviceInfo;
use casallm_data::shards::Manifest;
use casallm_data::split::Split;
use casallm_train::metrics::{self, MetricsRow};
use casallm_train::recipe::{Recipe, Stage};
use casallm_train::stages::{self, RunDir};
use serde_json::json;

use super::exam::Judged;
use crate::console::duration;
use crate::report::{
    CleaningSummary, Compression, Fact, Point, ReportData, Scale, SourceSummary, StageReport, TrainingPoint,
    ValidationSeries, render,
};

/// The page, the same numbers for machines, and the few lines for the terminal.
pub(super) struct Page {
    pub(super) html: String,
    pub(super) summary: serde_json::Value,
    pub(super) lines: Vec<String>,
}

/// Gathers everything.
pub(super) fn make(recipe: &Recipe, dir: &RunDir, device: &DeviceInfo, judged: &Judged) -> Result<Page> {
    let rows = metrics::read(&dir.metrics())?;
    let model = stages::model_config(recipe)?;
    let compression = compression(recipe, &rows)?;
    let (own, other) = (Judged::right(&judged.identity), Judged::right(&judged.ordinary));
    let (all_own, all_other) = (judged.identity.answers.len(), judged.ordinary.answers.len());
    let seconds: f64 = [Stage::Pretrain, Stage::Sft].iter().filter_map(|s| last(&rows, *s)?.timing.seconds).sum();
    let name = recipe.identity.as_ref().map_or("A model", |i| i.name.as_str()).to_owned();

    let mut lines = Vec::new();
    for c in &compression {
        let xz = c.xz.map(|xz| format!(", xz -9e {xz:.3}")).unwrap_or_default();
        lines.push(format!("held-out {}: {:.3} bits per byte{xz}", c.source, c.model));
    }
    lines.push(format!("identity and greetings: {own} of {all_own} right, {} named another", judged.named_another));
    lines.push(format!("ordinary questions: {other} of {all_other} not answered with the identity"));

    let summary = json!({
        "name": name,
        "params": model.n_params(),
        "training_seconds": seconds,
        "compression": compression.iter().map(|c| json!({
            "source": c.source, "bytes": c.bytes, "bits_per_byte": c.model, "xz": c.xz, "gzip": c.gzip,
        })).collect::<Vec<_>>(),
        "identity": { "right": own, "asked": all_own },
        "ordinary": { "right": other, "asked": all_other },
        "named_another": judged.named_another,
        "recipe_hash": recipe.hash()?,
    });

    let mut headline = Vec::new();
    for c in &compression {
        let note = c.xz.map(|xz| format!("xz -9e needs {xz:.2} for the same text")).unwrap_or_default();
        headline.push(Fact::new(format!("Bits per byte, {}", c.source), format!("{:.3}", c.model)).with_note(note));
    }
    headline.push(Fact::new("Knows its name", format!("{own} of {all_own}")).with_note("wordings never trained on"));
    headline.push(
        Fact::new("Keeps it to itself", format!("{other} of {all_other}")).with_note("ordinary questions and remarks"),
    );
    headline.push(Fact::new("Trained in", duration(seconds)).with_note("both stages, validation left out"));

    let data = ReportData {
        description: recipe
            .identity
            .as_ref()
            .map(|i| format!("{}, made by {}.", i.description, i.maker))
            .unwrap_or_default(),
        name,
        made: made(),
        headline,
        stages: [(Stage::Pretrain, "Pre-training"), (Stage::Sft, "Fine-tuning")]
            .into_iter()
            .filter_map(|(stage, name)| stage_report(&rows, stage, name))
            .collect(),
        compression,
        samples: judged.samples.clone(),
        exams: vec![judged.identity.clone(), judged.ordinary.clone()],
        sources: sources(recipe, dir)?,
        cleaning: cleaning(dir),
        model: vec![
            Fact::new("Weights", format!("{:.2} M", model.n_params() as f64 / 1e6)),
            Fact::new("Layers", model.n_layer.to_string()),
            Fact::new("Width", model.n_embd.to_string()),
            Fact::new("Heads", format!("{} of {}", model.n_head, model.head_dim)),
            Fact::new("Vocabulary", model.vocab_size.to_string()),
            Fact::new("Context", format!("{} tokens", model.context)),
        ],
        hardware: vec![
            Fact::new("Device", device.name.clone()),
            Fact::new("Instruction set", device.isa.clone()),
            Fact::new("Threads", device.threads.to_string()),
        ],
        recipe: recipe.to_toml()?,
        recipe_hash: recipe.hash()?,
    };
    Ok(Page { html: render(&data), summary, lines })
}

fn last(rows: &[MetricsRow], stage: Stage) -> Option<&MetricsRow> {
    rows.iter().rev().find(|r| r.stage == stage)
}

/// The model's bits per byte beside those of general compressors on the very text that was validated on.
fn compression(recipe: &Recipe, rows: &[MetricsRow]) -> Result<Vec<Compression>> {
    let validated = rows.iter().rev().find(|r| r.stage == Stage::Pretrain && !r.val.is_empty());
    let mut all = Vec::new();
    for (source, text) in stages::validation_texts(recipe)? {
        let bits = validated.and_then(|row| row.val.get(&source)?.bits_per_byte);
        let per_byte = |bytes: usize| 8.0 * bytes as f64 / text.len().max(1) as f64;
        all.push(Compression {
            source,
            bytes: text.len() as u64,
            model: bits.unwrap_or(f64::NAN),
            xz: Some(per_byte(xz(&text)?)),
            gzip: Some(per_byte(gzip(&text)?)),
        });
    }
    Ok(all)
}

/// Length after `xz -9e`.
fn xz(text: &[u8]) -> Result<usize> {
    /// `LZMA_PRESET_EXTREME`, the `e` of `-9e`.
    const EXTREME: u32 = 1 << 31;
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 9 | EXTREME);
    encoder.write_all(text)?;
    Ok(encoder.finish()?.len())
}

/// Length after `gzip -9`.
fn gzip(text: &[u8]) -> Result<usize> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(text)?;
    Ok(encoder.finish()?.len())
}

fn stage_report(rows: &[MetricsRow], stage: Stage, name: &str) -> Option<StageReport> {
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
        for (source, value) in &row.val {
            let point = Point { x: row.tokens as f64, y: known(value.loss) };
            match validation.iter_mut().find(|s| s.name == *source) {
                Some(series) => series.points.push(point),
                None => validation.push(ValidationSeries { name: source.clone(), points: vec![point] }),
            }
        }
    }
    let mut speeds: Vec<f64> = rows.iter().filter_map(|r| r.timing.tokens_per_s).collect();
    speeds.sort_by(f64::total_cmp);
    let mut facts = vec![
        Fact::new("Steps", last.step.to_string()),
        Fact::new("Tokens", format!("{:.2} M", last.tokens as f64 / 1e6)),
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
    let tokens_scale = if stage == Stage::Pretrain { Scale::Log } else { Scale::Linear };
    Some(StageReport { name: name.to_owned(), training, validation, tokens_scale, loss_scale: Scale::Linear, facts })
}

fn sources(recipe: &Recipe, dir: &RunDir) -> Result<Vec<SourceSummary>> {
    let mut all = Vec::new();
    for source in &recipe.data.pretrain {
        let manifest = Manifest::load(&dir.shards(&source.name))?;
        all.push(SourceSummary {
            name: source.name.clone(),
            stage: "pre-training".to_owned(),
            documents: manifest.documents_of(Split::Train),
            bytes: manifest.bytes_of(Split::Train),
            tokens: manifest.tokens_of(Split::Train),
            validation_tokens: manifest.tokens_of(Split::Val),
        });
    }
    Ok(all)
}

/// What cleaning left in the run's folder; a report without it is still a report.
fn cleaning(dir: &RunDir) -> Vec<CleaningSummary> {
    let read = || serde_json::from_slice::<serde_json::Value>(&std::fs::read(dir.cleaning()).ok()?).ok();
    let Some(report) = read() else { return Vec::new() };
    let touched = report["touched"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut reasons: BTreeMap<String, u64> = BTreeMap::new();
    for message in touched {
        *reasons.entry(message["rule"].as_str().unwrap_or("?").to_owned()).or_default() += 1;
    }
    vec![CleaningSummary {
        source: "conversations".to_owned(),
        rows: report["conversations"].as_u64().unwrap_or(0),
        dropped: report["dropped_conversations"].as_u64().unwrap_or(0),
        rewritten: touched.iter().filter(|t| t["deed"] == "rewritten").count() as u64,
        reasons: reasons.into_iter().collect(),
    }]
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
    fn dates_are_right_around_leap_days() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(11_016), (2000, 2, 29));
        assert_eq!(civil(11_017), (2000, 3, 1));
        assert_eq!(civil(20_781), (2026, 11, 24));
    }

    #[test]
    fn compressors_compress() {
        let text = "to be or not to be, that is the question. ".repeat(50);
        assert!(xz(text.as_bytes()).unwrap() < text.len() / 10);
        assert!(gzip(text.as_bytes()).unwrap() < text.len() / 10);
    }
}
