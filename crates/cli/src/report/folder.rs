//! What stands in a run's folder beside its metrics: validation text, shards, what cleaning left, judgements. What is not there is
//! left out.

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::{Context, Result};
use casallm_data::shards::Manifest;
use casallm_data::split::Split;
use casallm_model::directory::{ModelDirectory, WEIGHTS};
use casallm_train::metrics::MetricsRow;
use casallm_train::recipe::{Recipe, Stage};
use casallm_train::stages::{self, RunDir};
use serde_json::Value;

use super::{CleaningSummary, Compression, Evaluation, Judgement, SourceSummary};

/// Longest text that other compressors are given, in bytes: `xz -9e` takes a second for each megabyte.
const MOST_COMPRESSED: usize = 32 << 20;

/// The model's bits per byte beside those of general compressors on the very text that was validated on, where that is there.
pub(super) fn compression(recipe: &Recipe, dir: &RunDir, rows: &[MetricsRow]) -> Result<Vec<Compression>> {
    let tokenised = |name: &str| Manifest::load(&dir.shards(name)).is_ok();
    if recipe.pretrain.is_none() || !recipe.data.pretrain.iter().all(|source| tokenised(&source.name)) {
        return Ok(Vec::new());
    }
    let validated = rows.iter().rev().find(|r| r.stage == Stage::Pretrain && !r.val.is_empty());
    let mut all = Vec::new();
    for (source, text) in stages::validation_texts(recipe)? {
        let bits = validated.and_then(|row| row.val.get(&source)?.bits_per_byte);
        let short = text.len() <= MOST_COMPRESSED;
        let per_byte = |bytes: usize| 8.0 * bytes as f64 / text.len().max(1) as f64;
        all.push(Compression {
            source,
            bytes: text.len() as u64,
            model: bits.unwrap_or(f64::NAN),
            xz: short.then(|| xz(&text)).transpose()?.map(per_byte),
            gzip: short.then(|| gzip(&text)).transpose()?.map(per_byte),
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

/// What was learned from, as far as its shards are there.
pub(super) fn sources(recipe: &Recipe, dir: &RunDir) -> Vec<SourceSummary> {
    let one = |name: &String| {
        let manifest = Manifest::load(&dir.shards(name)).ok()?;
        Some(SourceSummary {
            name: name.clone(),
            stage: "pre-training".to_owned(),
            documents: manifest.documents_of(Split::Train),
            bytes: manifest.bytes_of(Split::Train),
            tokens: manifest.tokens_of(Split::Train),
            validation_tokens: manifest.tokens_of(Split::Val),
        })
    };
    recipe.data.pretrain.iter().filter_map(|source| one(&source.name)).collect()
}

/// What cleaning left in the run's folder; a report without it is still a report.
pub(super) fn cleaning(dir: &RunDir) -> Vec<CleaningSummary> {
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

/// What became of the preference pairs.
pub(super) fn pairs(dir: &RunDir) -> Option<CleaningSummary> {
    let report: Value = serde_json::from_slice(&std::fs::read(dir.pairs()).ok()?).ok()?;
    let counts = report["counts"].as_object()?;
    let reasons: Vec<(String, u64)> =
        counts.iter().map(|(reason, count)| (reason.replace('_', " "), count.as_u64().unwrap_or(0))).collect();
    Some(CleaningSummary {
        source: "preference pairs".to_owned(),
        rows: report["rows"].as_u64().unwrap_or(0),
        dropped: reasons.iter().map(|(_, count)| count).sum(),
        rewritten: report["shortened"].as_u64().unwrap_or(0),
        reasons,
    })
}

/// What `casallm eval` has left beside the run's models, of those that are there now: a stage that was trained anew has another.
pub(super) fn evaluations(dir: &RunDir) -> Result<Vec<Evaluation>> {
    let mut all = Vec::new();
    for stage in Stage::ALL {
        let path = dir.model(stage).join("eval").join("result.json");
        let text = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            read => read.with_context(|| format!("cannot read {}", path.display()))?,
        };
        let result: Value = serde_json::from_slice(&text)
            .with_context(|| format!("{}: not a result of `casallm eval`; remove it", path.display()))?;
        let model = dir.model(stage);
        let weights = ModelDirectory::open(&model).ok().and_then(|found| found.checksum(WEIGHTS).map(str::to_owned));
        if weights.as_deref() != result["model"]["sha256"].as_str() {
            continue;
        }
        let evaluation = Evaluation {
            model: model.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            judgements: judgements(&result),
        };
        all.extend((!evaluation.judgements.is_empty()).then_some(evaluation));
    }
    Ok(all)
}

/// The numbers of one result that count.
fn judgements(result: &Value) -> Vec<Judgement> {
    let mut all = Vec::new();
    for (name, task) in result["tasks"].as_object().into_iter().flatten() {
        let metric = task["metric"].as_str().unwrap_or_default();
        let found = &task["metrics"][metric];
        all.push(Judgement {
            task: name.clone(),
            metric: metric.to_owned(),
            value: found["value"].as_f64().unwrap_or(f64::NAN),
            stderr: found["stderr"].as_f64(),
            chance: task["chance"].as_f64(),
            items: task["items"].as_u64().unwrap_or(0),
            fewshot: task["fewshot"].as_u64().unwrap_or(0),
        });
    }
    if let Some(value) = result["core"]["value"].as_f64() {
        let items = result["core"]["tasks"].as_array().map_or(0, Vec::len) as u64;
        all.push(Judgement {
            task: "CORE over these tasks".into(),
            metric: "centred".into(),
            value,
            items,
            ..Default::default()
        });
    }
    for (key, task) in [
        ("identity", "gives its name"),
        ("greetings", "greets with its name"),
        ("refusals", "refuses another name"),
        ("ordinary", "keeps its name out of ordinary answers"),
    ] {
        let found = &result["identity"][key];
        if let (Some(right), Some(of)) = (found["right"].as_u64(), found["of"].as_u64()) {
            let value = right as f64 / of.max(1) as f64;
            all.push(Judgement { task: task.into(), metric: "share".into(), value, items: of, ..Default::default() });
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compressors_compress() {
        let text = "to be or not to be, that is the question. ".repeat(50);
        assert!(xz(text.as_bytes()).unwrap() < text.len() / 10);
        assert!(gzip(text.as_bytes()).unwrap() < text.len() / 10);
    }
}
