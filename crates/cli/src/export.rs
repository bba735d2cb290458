//! `casallm export`: a model directory leaves for the programs that others use.

mod card;
pub mod flags;
mod gguf_keys;

use std::path::Path;

use anyhow::{Context, Result, bail};
use casallm_data::tokenizer::Tokenizer;
use casallm_model::directory::{
    CHECKSUMS, CONFIG, GENERATION_CONFIG, ModelDirectory, TOKENIZER, TOKENIZER_CONFIG, TextFile, WEIGHTS,
};
use casallm_model::error::ModelError;
use casallm_model::formats::export::{Exported, HfOptions, INDEX, export_gguf, export_hf};
use casallm_train::interrupt::Interrupt;
use casallm_train::stages::StageObserver;
use serde_json::{Map, Value, json};

use crate::Ended;
use crate::console::Console;
use crate::streams::word;
use flags::{Export, Form};
pub(crate) use gguf_keys::TOKENIZER_JSON;

/// What stands beside the weights of a model directory.
pub(crate) struct Texts {
    tokenizer_json: String,
    tokenizer: Tokenizer,
    tokenizer_config: String,
    settings: Value,
    generation_config: Option<String>,
    generation: Value,
}

/// Refuses a folder that holds a model, or anything that one would be written over: a run's tokenizer, a card that somebody
/// wrote. `more`: names beside those of every model.
pub(crate) fn refuse_present(folder: &Path, more: &[&str]) -> Result<()> {
    if folder.join(CONFIG).exists() {
        bail!("{}: holds a model already; choose another --out, or remove it", folder.display());
    }
    let names = [TOKENIZER, TOKENIZER_CONFIG, GENERATION_CONFIG, WEIGHTS, INDEX, CHECKSUMS];
    match names.iter().chain(more).map(|name| folder.join(name)).find(|path| path.exists()) {
        Some(path) => bail!(
            "{}: is there already and would be overwritten; choose another --out, or move it away",
            path.display()
        ),
        None => Ok(()),
    }
}

/// Ends the writing of a model where somebody wants that, so that what was written of it can be removed.
pub(crate) fn unless_requested(interrupt: &Interrupt) -> Result<(), ModelError> {
    if interrupt.requested() { Err(ModelError::Stopped) } else { Ok(()) }
}

/// What was made, or nothing where the writing was stopped.
pub(crate) fn unless_stopped<T>(made: Result<T>, console: &mut Console) -> Result<Option<T>> {
    match made {
        Err(error) if matches!(error.downcast_ref(), Some(ModelError::Stopped)) => {
            console.clear();
            console.say("stopped; nothing was written");
            Ok(None)
        }
        made => made.map(Some),
    }
}

/// Reads a model directory and writes what was asked for.
pub(crate) fn run(flags: &Export) -> Result<Ended> {
    let mut console = Console::new(&flags.output);
    let source = ModelDirectory::open(&flags.model)?;
    let texts = texts(&source)?;
    if texts.tokenizer.vocab_size() != source.config().vocab_size {
        bail!(
            "{}: the model has a vocabulary of {}, its tokenizer.json one of {}; restore the pair",
            flags.model.display(),
            source.config().vocab_size,
            texts.tokenizer.vocab_size()
        );
    }
    let total = source.config().n_params() as u64;
    let interrupt = Interrupt::on_signals()?;
    let mut progress = |done| {
        console.progress("export", "weights", done, Some(total));
        unless_requested(&interrupt)
    };
    let made = match flags.to {
        Form::Hf => to_folder(flags, &source, &texts, &mut progress).map(|exported| (exported, None)),
        Form::Gguf => to_file(flags, &source, &texts, &mut progress),
    };
    let Some((exported, remark)) = unless_stopped(made, &mut console)? else {
        return console.ended(Ended::Interrupted);
    };
    console.finished("export");
    let types: Vec<String> = exported.element_types.iter().map(|(name, count)| format!("{count} {name}")).collect();
    let bytes: u64 = exported.files.iter().map(|file| file.bytes).sum();
    let files = match exported.files.len() {
        1 => "one file".to_owned(),
        n => format!("{n} files"),
    };
    console.say(&format!("{total} parameters in {bytes} bytes, {files}; tensors: {}", types.join(", ")));
    if let Some(remark) = &remark {
        console.say(remark);
    }
    console.say(&format!("{}: {}", flags.out.display(), flags.to.next_step()));
    console.emit(&json!({
        "out": flags.out.display().to_string(), "to": flags.to.name(), "parameters": total, "bytes": bytes,
        "files": exported.files.iter().map(|file| json!({
            "name": file.name, "bytes": file.bytes, "sha256": file.sha256,
        })).collect::<Vec<_>>(),
        "tensors": exported.element_types.iter().map(|(name, count)| (name.to_string(), json!(count)))
            .collect::<Map<_, _>>(),
        "remark": remark,
    }));
    console.ended(Ended::Done)
}

fn texts(source: &ModelDirectory) -> Result<Texts> {
    let parsed = |name: &str, text: &str| -> Result<Value> {
        serde_json::from_str(text).with_context(|| format!("{}: not JSON", source.path().join(name).display()))
    };
    let tokenizer_json = source.text(TOKENIZER)?;
    let tokenizer =
        Tokenizer::of_model(tokenizer_json.as_bytes()).with_context(|| source.path().display().to_string())?;
    let tokenizer_config = source.text(TOKENIZER_CONFIG)?;
    let generation_config = match source.text(GENERATION_CONFIG) {
        Ok(text) => Some(text),
        Err(ModelError::MissingFile { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    Ok(Texts {
        settings: parsed(TOKENIZER_CONFIG, &tokenizer_config)?,
        generation: match &generation_config {
            Some(text) => parsed(GENERATION_CONFIG, text)?,
            None => json!({}),
        },
        tokenizer_json,
        tokenizer,
        tokenizer_config,
        generation_config,
    })
}

fn to_folder(
    flags: &Export,
    source: &ModelDirectory,
    texts: &Texts,
    progress: &mut dyn FnMut(u64) -> Result<(), ModelError>,
) -> Result<Exported> {
    if flags.gguf_type.is_some() {
        bail!("--type is of --to gguf; with --to hf give --dtype f32, bf16 or f16");
    }
    refuse_present(&flags.out, &[card::README])?;
    let dtype = flags.dtype.unwrap_or_default();
    let ids = ["bos_token_id", "eos_token_id", "pad_token_id"];
    let token_ids = ids.iter().filter_map(|key| Some(((*key).to_owned(), texts.generation.get(*key)?.clone())));
    let options =
        HfOptions { dtype: dtype.into(), max_shard_bytes: flags.max_shard_size, token_ids: token_ids.collect() };
    let card = card::of(flags, source, texts, dtype.name())?;
    let mut files = vec![
        TextFile { name: TOKENIZER, contents: &texts.tokenizer_json },
        TextFile { name: TOKENIZER_CONFIG, contents: &texts.tokenizer_config },
        TextFile { name: card::README, contents: &card },
    ];
    files.extend(texts.generation_config.iter().map(|contents| TextFile { name: GENERATION_CONFIG, contents }));
    Ok(export_hf(source, &flags.out, &options, &files, progress)?)
}

fn to_file(
    flags: &Export,
    source: &ModelDirectory,
    texts: &Texts,
    progress: &mut dyn FnMut(u64) -> Result<(), ModelError>,
) -> Result<(Exported, Option<String>)> {
    if flags.dtype.is_some() {
        bail!("--dtype is of --to hf; with --to gguf give --type f32, f16, bf16, q8_0, q4_0 or q4_k_m");
    }
    let (out, last) = (flags.out.display(), flags.out.as_os_str().as_encoded_bytes().last());
    if flags.out.is_dir() || last.is_some_and(|last| std::path::is_separator(char::from(*last))) {
        bail!("{out}: a folder, and a GGUF file needs a name: --out {}", word(&flags.out.join("model.gguf")));
    }
    if flags.out.exists() {
        bail!("{out}: is there already; choose another --out, or remove it");
    }
    let kind = flags.gguf_type.unwrap_or_default();
    let tokenizer = texts.tokenizer.to_gguf()?;
    let remark = tokenizer.differs.map(|differs| {
        format!(
            "llama.cpp will read some texts as other tokens than this model knows: it has no name for this tokenizer's way of \
             cutting text. {:?} is nearest, by which {differs}",
            tokenizer.pre
        )
    });
    let keys = gguf_keys::of(&name_of(flags), tokenizer, texts);
    Ok((export_gguf(source, &flags.out, kind.into(), &keys, progress)?, remark))
}

/// What the model is called: as asked, or after its run.
fn name_of(flags: &Export) -> String {
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let whole = flags.model.canonicalize().unwrap_or_else(|_| flags.model.clone());
    let stages = ["model", "base", "dpo"];
    flags.name.clone().unwrap_or_else(|| match name(&whole) {
        // A run's folder says more than the stage's.
        Some(stage) if stages.contains(&stage.as_str()) => whole.parent().and_then(name).unwrap_or(stage),
        Some(other) => other,
        None => "model".to_owned(),
    })
}
