//! `casallm tokenizer train` and `casallm tokenize`.

use std::path::Path;

use anyhow::{Result, bail};
use casallm_data::shards::{Manifest, ShardOptions, tokenize as write_shards};
use casallm_data::source::{SourceOptions, find_files, fingerprint_files, open_documents_in};
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
    let source = SourceOptions { text_field: flags.text_field.clone(), ..SourceOptions::default() };
    let documents = open_documents_in(&flags.input, &source)?.map(|d| d.map(|d| d.text));
    let options = TrainOptions {
        vocab_size: flags.vocab_size,
        max_bytes: flags.sample_bytes,
        digits: match flags.digits {
            1 => Digits::One,
            3 => Digits::Three,
            _ => Digits::Two,
        },
        ..TrainOptions::default()
    };
    let mut bytes = 0;
    let tokenizer = Tokenizer::train(documents, &options, &mut |p| {
        bytes = p.bytes;
        console.progress("tokenizer", "bytes", p.bytes, Some(flags.sample_bytes));
    })?;
    tokenizer.save(&flags.output)?;
    console.finished("tokenizer");
    let fingerprint = tokenizer.fingerprint();
    console.say(&format!(
        "{}: {} tokens, learned from {bytes} bytes of text, fingerprint {}",
        flags.output.display(),
        tokenizer.vocab_size(),
        &fingerprint[..12]
    ));
    console.emit(&json!({
        "tokenizer": flags.output, "vocab_size": tokenizer.vocab_size(), "bytes": bytes, "fingerprint": fingerprint,
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
        () => return Ok(()),
    };
    if found.complete {
        bail!("{}: holds shards {others}; remove them, or choose another --output", folder.display());
    }
    Ok(())
}

/// Writes shards.
pub(crate) fn tokenize(flags: &Tokenize) -> Result<Ended> {
    let mut console = Console::new(&flags.console);
    let tokenizer = Tokenizer::load(&flags.tokenizer)?;
    let source = SourceOptions { text_field: flags.text_field.clone(), ..SourceOptions::default() };
    let documents = open_documents_in(&flags.input, &source)?;
    let mut files = Vec::new();
    for path in &flags.input {
        files.extend(find_files(path)?);
    }
    let inputs = fingerprint_files(&files, &source)?;
    let rule = SplitRule::new(flags.validation_fraction, flags.seed)?;
    let options = ShardOptions::new(rule, inputs);
    refuse_others(&flags.output, &tokenizer, &options)?;
    let manifest = write_shards(&flags.output, &flags.name, documents, &tokenizer, &options, &mut |p| {
        console.progress("tokenize", "bytes", p.bytes, None);
    })?;
    console.finished("tokenize");
    let count = |split| (manifest.tokens_of(split), manifest.bytes_of(split), manifest.documents_of(split));
    for (name, split) in [("training", Split::Train), ("validation", Split::Val)] {
        let (tokens, bytes, documents) = count(split);
        console.say(&format!("{name}: {tokens} tokens from {documents} documents, {bytes} bytes"));
    }
    let (tokens, bytes, documents) = count(Split::Train);
    console.emit(&json!({
        "output": flags.output, "tokens": tokens, "bytes": bytes, "documents": documents,
        "validation_tokens": manifest.tokens_of(Split::Val),
    }));
    console.ended(Ended::Done)
}
