//! `casallm tokenizer train` and `casallm tokenize`.

pub(crate) mod flags;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use casallm_data::curation::{Curation, EvalSets, Report};
use casallm_data::file_lock::{FileLock, LockError, SHARDS_LOCK};
use casallm_data::shards::{Manifest, ShardOptions, tokenize as write_shards};
use casallm_data::source::{find_files_in, fingerprint_files, open_documents_in, sample};
use casallm_data::split::{Split, SplitRule};
use casallm_data::tokenizer::{Digits, Tokenizer, TrainOptions};
use casallm_train::stages::StageObserver;
use serde_json::json;

use crate::Ended;
use crate::args::{Tokenize, TokenizerTrain};
use crate::console::Console;

/// Learns a vocabulary.
pub(crate) fn train(flags: &TokenizerTrain) -> Result<Ended> {
    let mut console = Console::new(&flags.console);
    let options = TrainOptions {
        vocab_size: flags.vocab_size,
        max_bytes: flags.sample_bytes,
        digits: match flags.digits {
            1 => Digits::One,
            2 => Digits::Two,
            _ => Digits::Three,
        },
        ..TrainOptions::default()
    };
    options.check()?;
    // Behind all of the text it would be too late.
    if flags.output.is_dir() {
        bail!(
            "--output {}: a folder; name a file, such as {}",
            flags.output.display(),
            flags.output.join("tokenizer.json").display()
        );
    }
    let filter = flags.filter.filter();
    filter.check()?;
    let documents = open_documents_in(&flags.input, &flags.filter.reading(&flags.text_field))?;
    let documents = documents.filter(|d| d.as_ref().map_or(true, |d| filter.reason_against(d).is_none()));
    let mut told = |read| console.progress("tokenizer", "bytes", read, None);
    let sample = sample(documents, flags.sample_bytes, flags.seed, &mut told)?;
    let (bytes, read) = (sample.bytes, sample.read);
    let tokenizer = Tokenizer::train(sample.texts.into_iter().map(Ok), &options, &mut |_| {})?;
    tokenizer.save(&flags.output)?;
    console.finished("tokenizer");
    let fingerprint = tokenizer.fingerprint();
    console.say(&format!(
        "{}: {} tokens, learned from {bytes} of {read} bytes of text, fingerprint {}",
        flags.output.display(),
        tokenizer.vocab_size(),
        &fingerprint[..12]
    ));
    console.emit(&json!({
        "tokenizer": flags.output.display().to_string(), "vocab_size": tokenizer.vocab_size(), "bytes": bytes, "bytes_read": read,
        "fingerprint": fingerprint,
    }));
    console.ended(Ended::Done)
}

/// Refuses a folder that holds finished shards of anything else: days of work may be in them.
fn refuse_others(folder: &Path, tokenizer: &Tokenizer, options: &ShardOptions) -> Result<()> {
    let Ok(found) = Manifest::load(folder) else { return Ok(()) };
    let split = (found.validation_fraction, found.split_seed) == (options.split.fraction(), options.split.seed());
    let others = match () {
        () if found.tokenizer != tokenizer.fingerprint() => "made with another tokenizer",
        () if found.inputs != options.inputs => "made from other text",
        () if !split => "with another split",
        () if found.rules != options.curation.rules() => "of another choice of documents",
        () => return Ok(()),
    };
    if found.complete {
        bail!("{}: holds shards {others}; remove them, or choose another --output", folder.display());
    }
    Ok(())
}

/// One process for a folder: what two of them write under one name would be a mixture, and each would call it whole.
fn lock(folder: &Path) -> Result<FileLock> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create folder {}", folder.display()))?;
    FileLock::acquire(&folder.join(SHARDS_LOCK)).map_err(|error| match error {
        LockError::Held { .. } => anyhow!("{}: {error}; wait for it, or choose another --output", folder.display()),
        LockError::Io(source) => anyhow!("cannot lock {}: {source}", folder.display()),
    })
}

/// Writes shards.
pub(crate) fn tokenize(flags: &Tokenize) -> Result<Ended> {
    let mut console = Console::new(&flags.console);
    let tokenizer = Tokenizer::load(&flags.tokenizer)?;
    let reading = flags.filter.reading(&flags.text_field);
    let documents = open_documents_in(&flags.input, &reading)?;
    let found = Manifest::load(&flags.output).ok();
    let like = found.as_ref().map(|found| found.inputs.as_str());
    let inputs = fingerprint_files(&find_files_in(&flags.input)?, &reading, like)?;
    let rule = SplitRule::new(flags.validation_fraction, flags.seed)?;
    let mut curation = Curation {
        filter: flags.filter.filter(),
        duplicates: flags.duplicates.duplicates()?,
        memory: flags.duplicates.duplicates_memory,
        ..Curation::default()
    };
    if !flags.decontaminate.is_empty() {
        curation.eval_sets = Some(Arc::new(EvalSets::read(&flags.decontaminate)?));
    }
    let options = ShardOptions { shard_tokens: flags.shard_tokens, curation, ..ShardOptions::new(rule, inputs) };
    let _lock = lock(&flags.output)?;
    refuse_others(&flags.output, &tokenizer, &options)?;
    let manifest = write_shards(&flags.output, &flags.name, documents, &tokenizer, &options, &mut |p| {
        console.progress("tokenize", "bytes", p.bytes, None);
    })?;
    console.finished("tokenize");
    let count = |split| (manifest.tokens_of(split), manifest.bytes_of(split), manifest.documents_of(split));
    if let Some(report) = manifest.report.as_ref().filter(|_| !manifest.rules.are_none()) {
        dropped(report).iter().for_each(|line| console.say(line));
    }
    for (name, split) in [("training", Split::Train), ("validation", Split::Val)] {
        let (tokens, bytes, documents) = count(split);
        console.say(&format!("{name}: {tokens} tokens from {documents} documents, {bytes} bytes"));
    }
    let (tokens, bytes, documents) = count(Split::Train);
    console.emit(&json!({
        "output": flags.output.display().to_string(), "tokens": tokens, "bytes": bytes, "documents": documents,
        "validation_tokens": manifest.tokens_of(Split::Val), "report": manifest.report,
    }));
    console.ended(Ended::Done)
}

/// What became of the documents, in lines.
fn dropped(report: &Report) -> Vec<String> {
    let mut lines = vec![format!("read: {} documents, {} bytes", report.read.documents, report.read.bytes)];
    for (reason, count) in &report.dropped {
        lines.push(format!("dropped, {}: {} documents, {} bytes", reason.name(), count.documents, count.bytes));
    }
    for (name, set) in report.eval_sets.iter().filter(|(_, set)| set.documents > 0) {
        lines.push(format!("evaluation set {name}: a piece of it in {} documents", set.documents));
    }
    let unprotected: u64 = report.eval_sets.values().map(|set| set.shorter).sum();
    if unprotected > 0 {
        let passages: u64 = report.eval_sets.values().map(|set| set.passages).sum();
        lines.push(format!(
            "{unprotected} of {passages} texts of evaluation sets are shorter than 13 words: they were not looked for"
        ));
    }
    lines.push(format!("kept: {} documents, {} bytes", report.kept.documents, report.kept.bytes));
    lines
}
