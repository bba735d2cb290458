//! `casallm import`: the model of another program becomes a model directory.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result, bail};
use casallm_data::chat::ChatTemplate;
use casallm_data::tokenizer::{GgufTokenizer, GgufVocabulary, Tokenizer};
use casallm_model::directory::{
    GENERATION_CONFIG, ModelDirectory, StoredDtype, TOKENIZER, TOKENIZER_CONFIG, TextFile, save_model,
};
use casallm_model::formats::{ForeignModel, Metadata};
use casallm_train::interrupt::Interrupt;
use casallm_train::stages::StageObserver;
use serde_json::{Value, json};

use crate::Ended;
use crate::args::Import;
use crate::console::Console;
use crate::export::{TOKENIZER_JSON, refuse_present, unless_requested, unless_stopped};
use crate::plan::layers;
use crate::streams::word;

/// What stands beside the weights.
struct Texts {
    tokenizer: Tokenizer,
    tokenizer_config: String,
    generation_config: Option<String>,
}

/// Reads a model and writes it as a model directory.
pub(crate) fn run(flags: &Import) -> Result<Ended> {
    let mut console = Console::new(&flags.output);
    refuse_present(&flags.out, &[])?;
    if ModelDirectory::open(&flags.path).is_ok() {
        let (path, named) = (flags.path.display(), word(&flags.path));
        bail!("{path}: is a model directory already; use it as it is: casallm chat --model {named}");
    }
    let mut model = ForeignModel::open(&flags.path)?;
    let texts = match model.metadata() {
        Some(metadata) => of_gguf(metadata, model.config().context, &flags.path)?,
        None => of_folder(&model, &flags.path)?,
    };
    let spare = model.config().vocab_size.saturating_sub(texts.tokenizer.vocab_size());
    model.keep_vocabulary(texts.tokenizer.vocab_size())?;
    let config = model.config().clone();
    let dtype = model.stored_dtype();
    let template =
        ChatTemplate::of_model(&texts.tokenizer_config, texts.generation_config.as_deref(), &texts.tokenizer);

    let types = model.element_types();
    let counts: Vec<String> = types.iter().map(|(name, count)| format!("{count} {name}")).collect();
    let stored = if dtype == StoredDtype::Bf16 { "bf16" } else { "f32" };
    console.say(&format!(
        "{}: {} parameters, {} of width {}, {} heads, {} of keys and values, context {}",
        flags.path.display(),
        config.n_params(),
        layers(config.n_layer),
        config.n_embd,
        config.n_head,
        config.n_kv_head,
        config.context
    ));
    console.say(&format!("tensors: {}; kept as {stored}", counts.join(", ")));
    let controls = texts.tokenizer.controls().len();
    let left_out = if spare > 0 { format!("; {spare} spare rows of the model are left out") } else { String::new() };
    console.say(&format!("tokenizer: {} tokens, {controls} control tokens{left_out}", config.vocab_size));
    match &template {
        Ok(template) => console.say(&format!(
            "chat template: found, {} system message; an answer ends at {}",
            if template.takes_system() { "takes a" } else { "takes no" },
            names(&texts.tokenizer, template.stop_ids()).join(" ")
        )),
        Err(error) => console.say(&format!("not for chats: {error}")),
    }

    let tokenizer_json = texts.tokenizer.to_json();
    let mut files = vec![
        TextFile { name: TOKENIZER, contents: &tokenizer_json },
        TextFile { name: TOKENIZER_CONFIG, contents: &texts.tokenizer_config },
    ];
    files.extend(texts.generation_config.iter().map(|contents| TextFile { name: GENERATION_CONFIG, contents }));
    let total = config.n_params() as u64;
    let mut done = 0;
    let interrupt = Interrupt::on_signals()?;
    let made = save_model(&flags.out, &config, dtype, &files, |spec| {
        unless_requested(&interrupt)?;
        let values = model.values(spec)?;
        done += values.len() as u64;
        console.progress("import", "weights", done, Some(total));
        Ok(values.into())
    });
    if unless_stopped(made.map_err(Into::into), &mut console)?.is_none() {
        return console.ended(Ended::Interrupted);
    }
    console.finished("import");
    console.say(&format!("{}: talk to it with `casallm chat --model {}`", flags.out.display(), word(&flags.out)));
    console.emit(&json!({
        "model": flags.out.display().to_string(), "parameters": total, "n_layer": config.n_layer, "n_embd": config.n_embd,
        "n_head": config.n_head, "n_kv_head": config.n_kv_head, "context": config.context,
        "vocab_size": config.vocab_size, "spare_rows": spare,
        "tensors": types.iter().map(|(name, count)| (name.to_string(), json!(count))).collect::<serde_json::Map<_, _>>(),
        "stored": stored, "control_tokens": controls,
        "chat": template.as_ref().ok().map(|template| json!({
            "takes_system": template.takes_system(), "stop": names(&texts.tokenizer, template.stop_ids()),
        })),
        "chat_error": template.err().map(|error| error.to_string()),
    }));
    console.ended(Ended::Done)
}

fn names(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
    let name = |id: &u32| tokenizer.controls().iter().find(|control| control.id == *id).map(|c| c.content.clone());
    ids.iter().map(|id| name(id).unwrap_or_else(|| id.to_string())).collect()
}

/// The texts that say what a GGUF file's metadata says.
fn of_gguf(metadata: &Metadata, context: usize, path: &Path) -> Result<Texts> {
    let origin = path.display().to_string();
    let lacking = |key: &str| format!("{origin}: {key} is missing: a file of weights alone cannot be used");
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    let tokens = metadata.texts(&key("tokens")).with_context(|| lacking(&key("tokens")))?;
    let token_types = metadata.integers(&key("token_type")).with_context(|| lacking(&key("token_type")))?;
    let merges = metadata.texts(&key("merges")).unwrap_or_default();
    // An export from here carries its tokenizer.json, which says more: how text is cut. Believed where it says the rest too.
    let carried = metadata.text(TOKENIZER_JSON).and_then(|json| Tokenizer::of_model(json.as_bytes()).ok());
    let carried = carried.filter(|tokenizer| {
        let same = |stated: GgufTokenizer| {
            stated.tokens == tokens && stated.token_types == token_types && stated.merges == merges
        };
        tokenizer.to_gguf().is_ok_and(same)
    });
    let tokenizer = match carried {
        Some(tokenizer) => tokenizer,
        None => Tokenizer::from_gguf(
            &GgufVocabulary {
                model: metadata.text(&key("model")).with_context(|| lacking(&key("model")))?,
                // Files from before this key was invented split text as nobody can know.
                pre: metadata.text(&key("pre")).unwrap_or("default"),
                tokens,
                token_types: &token_types,
                merges,
            },
            &origin,
        )?,
    };
    let id = |name: &str| {
        let id = usize::try_from(metadata.unsigned(&key(name))?).ok()?;
        tokens.get(id).map(|token| (id, token.as_str()))
    };
    // What llama.cpp does where the file does not say: of these ways of cutting text it knows that a text begins with a token.
    let begins = || matches!(metadata.text(&key("pre")), Some("llama3" | "llama-v3" | "llama-bpe"));
    let (bos, eos, pad) = (id("bos_token_id"), id("eos_token_id"), id("padding_token_id"));
    let mut tokenizer_config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context,
        "add_bos_token": metadata.truth(&key("add_bos_token")).unwrap_or_else(begins),
        "clean_up_tokenization_spaces": false,
    });
    for (name, token) in [("bos_token", bos), ("eos_token", eos), ("pad_token", pad)] {
        if let Some((_, token)) = token {
            tokenizer_config[name] = token.into();
        }
    }
    if let Some(template) = metadata.text("tokenizer.chat_template") {
        tokenizer_config["chat_template"] = template.into();
    }
    let mut generation_config = json!({});
    for (name, key) in [("temperature", "temp"), ("top_p", "top_p")] {
        if let Some(value) = metadata.float(&format!("general.sampling.{key}")) {
            // The decimal number that people wrote, and not the nearest single in 17 digits.
            generation_config[name] = (value as f32).to_string().parse::<f64>().unwrap_or(value).into();
        }
    }
    if let Some(k) = metadata.unsigned("general.sampling.top_k") {
        generation_config["top_k"] = k.into();
    }
    for (name, token) in [("bos_token_id", bos), ("pad_token_id", pad)] {
        if let Some((id, _)) = token {
            generation_config[name] = id.into();
        }
    }
    let ends: Vec<usize> =
        [eos, id("eot_token_id"), id("eom_token_id")].into_iter().flatten().map(|(id, _)| id).collect();
    if !ends.is_empty() {
        generation_config["eos_token_id"] = ends.into();
    }
    Ok(Texts {
        tokenizer,
        tokenizer_config: format!("{tokenizer_config:#}\n"),
        generation_config: Some(format!("{generation_config:#}\n")),
    })
}

/// The texts of a folder of `transformers`, as they are; a template in a file of its own goes where all programs look.
fn of_folder(model: &ForeignModel, folder: &Path) -> Result<Texts> {
    let read = |name: &str| -> Result<Option<String>> {
        let path = folder.join(name);
        match fs::read_to_string(&path) {
            Ok(text) => {
                model.check_text(name, text.as_bytes())?;
                Ok(Some(text))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    };
    let tokenizer = read(TOKENIZER)?.with_context(|| {
        format!("{} is missing; fetch it from where the model came from", folder.join(TOKENIZER).display())
    })?;
    let tokenizer = Tokenizer::of_model(tokenizer.as_bytes()).with_context(|| folder.display().to_string())?;
    let mut tokenizer_config = read(TOKENIZER_CONFIG)?.unwrap_or_else(|| "{}\n".to_owned());
    if let Some(template) = read("chat_template.jinja")? {
        let mut config: Value = serde_json::from_str(&tokenizer_config)
            .with_context(|| format!("{}: not JSON", folder.join(TOKENIZER_CONFIG).display()))?;
        if config.is_object() {
            config["chat_template"] = template.into();
        }
        tokenizer_config = format!("{config:#}\n");
    }
    Ok(Texts { tokenizer, tokenizer_config, generation_config: read(GENERATION_CONFIG)? })
}
