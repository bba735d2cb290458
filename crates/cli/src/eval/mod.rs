//! `casallm eval`: from flags to the tasks that can be asked, and one result for people and one for machines.

pub(crate) mod flags;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use casallm_compute::{Device, MatrixUse};
use casallm_data::chat::ChatTemplate;
use casallm_data::durable;
use casallm_data::file_lock::{FileLock, LockError};
use casallm_data::identity::Identity;
use casallm_data::tokenizer::Tokenizer;
use casallm_eval::EvalError;
use casallm_eval::data_folder::DataFolder;
use casallm_eval::encoding::Encoding;
use casallm_eval::identity::IdentityResult;
use casallm_eval::results::{Core, TaskResult, core, mean_of};
use casallm_eval::run::{Judged, Options};
use casallm_eval::tasks::Task;
use casallm_eval::text::TextResult;
use casallm_model::directory::{GENERATION_CONFIG, ModelDirectory, TOKENIZER, TOKENIZER_CONFIG, WEIGHTS};
use casallm_model::network::Network;
use casallm_model::parameters::Parameters;
use casallm_train::recipe::Recipe;
use casallm_train::stages::StageObserver;
use serde_json::{Value, json};

use crate::Ended;
use crate::args::Eval;
use crate::console::Console;
use crate::devices::{self, on_device};
use crate::streams::print;

/// What `--tasks` calls the questions about itself.
const IDENTITY: &str = "identity";

/// Everything that was found.
#[derive(Default)]
pub(crate) struct Found {
    tasks: Vec<TaskResult>,
    core: Option<Core>,
    texts: Vec<TextResult>,
    identity: Option<IdentityResult>,
    /// What was not asked, and why.
    left_out: BTreeMap<String, String>,
}

/// What is to be asked.
struct Wanted {
    tasks: Vec<Task>,
    identity: bool,
    /// Whether a person named the tasks: then what cannot be asked is an error.
    named: bool,
    /// The same of the questions about itself, which whoever gives a name wants asked.
    identity_named: bool,
}

/// Judges a model.
pub(crate) fn run(flags: &Eval) -> Result<Ended> {
    let wanted = wanted(flags)?;
    on_device!(devices::open(&flags.compute, 0)?, device => judge(flags, &wanted, &device))
}

/// What the flags ask for, before a model is loaded for nothing.
fn wanted(flags: &Eval) -> Result<Wanted> {
    let named = !flags.tasks.is_empty();
    let names = flags.tasks.iter().filter(|name| *name != IDENTITY);
    let mut tasks = match named {
        true => names.map(|name| Task::parse(name)).collect::<Result<Vec<_>, _>>()?,
        false if flags.data.is_some() => Task::ALL.to_vec(),
        false => Vec::new(),
    };
    // A task that is named twice would count twice in the mean of all.
    let mut seen = BTreeSet::new();
    tasks.retain(|task| seen.insert(*task));
    if let (None, Some(task)) = (&flags.data, tasks.first()) {
        bail!("--tasks {}: give the folder of its data with --data", task.facts().name);
    }
    let all = !named && (flags.data.is_some() || flags.text.is_empty());
    let identity_named = flags.name.is_some() || flags.tasks.iter().any(|name| name == IDENTITY);
    Ok(Wanted { tasks, identity: all || identity_named, named, identity_named })
}

/// Asks everything and tells what was found.
fn judge<D: Device>(flags: &Eval, wanted: &Wanted, device: &Arc<D>) -> Result<Ended> {
    let mut console = Console::new(&flags.output);
    let dir = &flags.model;
    let directory = ModelDirectory::open(dir)?;
    let tokenizer =
        Tokenizer::of_model(directory.text(TOKENIZER)?.as_bytes()).with_context(|| dir.display().to_string())?;
    let settings = directory.text(TOKENIZER_CONFIG)?;
    let config = directory.config().clone();
    if config.vocab_size != tokenizer.vocab_size() {
        let (model, tokens) = (config.vocab_size, tokenizer.vocab_size());
        bail!(
            "{}: the model has a vocabulary of {model}, its tokenizer.json one of {tokens}; restore the pair",
            dir.display()
        );
    }
    let Some(weights) = directory.checksum(WEIGHTS).map(str::to_owned) else {
        bail!(
            "{}: checksums.json has no line for {WEIGHTS}, by which results are told apart; restore it",
            dir.display()
        );
    };
    let context = flags.context.map_or(config.context, |context| context as usize);
    if context > config.context {
        bail!("--context {context}: the model has {}", config.context);
    }
    let out = flags.out.clone().unwrap_or_else(|| dir.join("eval"));
    let unusable = |source: std::io::Error| {
        anyhow!("{}: no results can be kept there: {source}; give another --out", out.display())
    };
    std::fs::create_dir_all(&out).map_err(unusable)?;
    let _lock = FileLock::acquire(&out.join("eval.lock")).map_err(|error| match error {
        LockError::Held { pid } => EvalError::Locked { path: out.clone(), pid }.into(),
        LockError::Io(source) => unusable(source),
    })?;

    let format = devices::format(flags.weights);
    let parameters = Parameters::load(device.clone(), &directory, format, MatrixUse::Inference)?;
    let network = Network::new(config.clone(), format.activations(), parameters)?;
    let info = device.info();
    let on = format!("{} ({})", info.name, info.isa);
    let model = json!({
        "path": dir.display().to_string(), "sha256": weights, "tokenizer": tokenizer.fingerprint(), "parameters": config.n_params(),
    });
    let judged = Judged {
        network: &network,
        encoding: Encoding::new(&tokenizer, &settings),
        conditions: json!({
            "model": weights, "tokenizer": tokenizer.fingerprint(), "weights": format.name(), "device": on,
        }),
        context,
    };
    let options =
        Options { fewshot: flags.fewshot, limit: flags.limit.map(|limit| limit as usize), journals: out.join("items") };
    console.say(&format!(
        "{}: {} parameters, weights in {}, on {on}; results of items go to {}",
        dir.display(),
        config.n_params(),
        format.name(),
        options.journals.display()
    ));

    let mut found = Found::default();
    if let Some(folder) = &flags.data {
        let data = DataFolder::open(folder)?;
        for &task in &wanted.tasks {
            ask(&judged, task, &data, &options, wanted.named, &mut console, &mut found)?;
        }
        // Of a folder that was mistaken for another the rest would pass for a judgement.
        if found.tasks.is_empty() && !wanted.tasks.is_empty() {
            bail!(
                "--data {}: no task can be asked with what is there; hellaswag_validation.jsonl would be a file of one, and \
                 `casallm fetch eval` brings them",
                folder.display()
            );
        }
    }
    found.core = core(&found.tasks);
    for path in &flags.text {
        let mut hear = |task: &str, unit, done, total| console.progress(task, unit, done, total);
        found.texts.push(judged.text(path, &flags.text_field, &options, &mut hear)?);
        console.clear();
    }
    if wanted.identity {
        let generation = dir.join(GENERATION_CONFIG).exists().then(|| directory.text(GENERATION_CONFIG)).transpose()?;
        let template = ChatTemplate::of_model(&settings, generation.as_deref(), &tokenizer).map_err(|e| e.to_string());
        let question = template.and_then(|template| Ok((template, expected(flags).map_err(|e| format!("{e:#}"))?)));
        match question {
            Ok((template, identity)) => {
                let mut hear = |task: &str, unit, done, total| console.progress(task, unit, done, total);
                let result = judged.identity(&template, &identity, &options.journals, &mut hear)?;
                console.clear();
                found.identity = Some(result);
            }
            Err(reason) if wanted.identity_named => bail!("{IDENTITY}: {reason}"),
            Err(reason) => drop(found.left_out.insert(IDENTITY.to_owned(), reason)),
        }
    }
    if found.tasks.is_empty() && found.texts.is_empty() && found.identity.is_none() {
        let reasons = found.left_out.iter().map(|(name, reason)| format!("  {name}: {reason}"));
        bail!(
            "nothing to ask: give --data with a folder of task data, --text with a text, or --name with a chat model's name\n{}",
            reasons.collect::<Vec<_>>().join("\n")
        );
    }

    let result = as_json(&found, &model, flags, &on, format.name(), context);
    let path = out.join("result.json");
    let kept = with_earlier(result.clone(), &path);
    durable::write_file(&path, format!("{kept:#}\n").as_bytes())?;
    console.emit(&result);
    if !flags.output.json {
        for line in table::lines(&found) {
            print(&line)?;
        }
        let more = if kept == result { "" } else { ", with what was found before" };
        console.say(&format!("{}: the same for machines{more}", path.display()));
    }
    console.ended(Ended::Done)
}

/// One task.
fn ask<D: Device>(
    judged: &Judged<'_, D>,
    task: Task,
    data: &DataFolder,
    options: &Options,
    named: bool,
    console: &mut Console,
    found: &mut Found,
) -> Result<()> {
    let facts = task.facts();
    let mut hear = |task: &str, unit, done, total| console.progress(task, unit, done, total);
    let result = judged.task(task, data, options, &mut hear);
    console.clear();
    let reason = match result {
        Ok(Some(result)) => {
            console.say(&table::headline(&result));
            found.tasks.push(result);
            return Ok(());
        }
        Ok(None) => format!("no file of it in the folder; {}_{}.jsonl would be one", facts.name, facts.splits[0]),
        Err(error @ EvalError::Examples { .. }) if !named => error.to_string(),
        Err(error) => return Err(error.into()),
    };
    if named {
        bail!("{}: {reason}", facts.name);
    }
    console.say(&format!("{}: left out: {reason}", facts.name));
    found.left_out.insert(facts.name.to_owned(), reason);
    Ok(())
}

/// Who the model should be: as the flags say, or the recipe of the run that it stands in.
fn expected(flags: &Eval) -> Result<Identity> {
    if let Some(name) = &flags.name {
        let maker = flags.maker.as_deref().unwrap_or(name);
        return Ok(Identity::new(name, maker, "a language model")?);
    }
    let folder = flags.model.canonicalize().unwrap_or_else(|_| flags.model.clone());
    let run = folder.parent().unwrap_or(Path::new("."));
    let kept = ["settings.toml", "recipe.toml"].map(|name| run.join(name)).into_iter().find(|path| path.exists());
    let Some(recipe) = kept else { bail!("nobody says what the model should be called; give it with --name") };
    let recipe_identity = Recipe::load::<&str>(&recipe, &[])?.identity;
    let fields = recipe_identity.with_context(|| format!("{}: no [identity]; give --name", recipe.display()))?;
    Ok(Identity::new(&fields.name, &fields.maker, &fields.description)?)
}

/// A result with what an earlier one at `path` has besides, where that is of the same model under the same conditions: tasks are
/// asked one by one, and the report shows what is known of a model. (How many examples a task had stands with the task.)
fn with_earlier(mut result: Value, path: &Path) -> Value {
    let earlier = std::fs::read(path).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok());
    let conditions = |result: &Value| {
        let of = |key: &str| result["settings"][key].clone();
        let model = ["sha256", "tokenizer"].map(|key| result["model"][key].clone());
        (result["prompts"].clone(), model, ["weights", "device", "context", "limit"].map(of))
    };
    let Some(mut earlier) = earlier.filter(|earlier| conditions(earlier) == conditions(&result)) else { return result };
    if let (Value::Object(tasks), Value::Object(before)) = (&mut result["tasks"], earlier["tasks"].take()) {
        for (name, task) in before {
            tasks.entry(name).or_insert(task);
        }
    }
    if let (Value::Array(texts), Value::Array(before)) = (&mut result["texts"], earlier["texts"].take()) {
        for text in before {
            if texts.iter().all(|found| found["path"] != text["path"]) {
                texts.push(text);
            }
        }
    }
    if result["identity"].is_null() {
        result["identity"] = earlier["identity"].take();
    }
    let (tasks, identity) = (result["tasks"].clone(), !result["identity"].is_null());
    if let Value::Object(left_out) = &mut result["left_out"] {
        left_out.retain(|name, _| tasks[name].is_null() && !(identity && name == IDENTITY));
    }
    let centred = |task: Task| {
        let name = task.facts().name;
        Some((name.to_owned(), tasks[name]["core_centred"].as_f64()?))
    };
    result["core"] = json!(mean_of(Task::ALL.into_iter().filter_map(centred)));
    result
}

/// The one result for machines.
fn as_json(found: &Found, model: &Value, flags: &Eval, device: &str, weights: &str, context: usize) -> Value {
    let tasks: BTreeMap<&str, &TaskResult> = found.tasks.iter().map(|result| (result.name.as_str(), result)).collect();
    json!({
        "casallm": env!("CARGO_PKG_VERSION"),
        "prompts": "lm-evaluation-harness 0.4.13",
        "model": model,
        "settings": {
            "weights": weights, "device": device, "context": context, "fewshot": flags.fewshot, "limit": flags.limit,
        },
        "tasks": tasks,
        "core": found.core,
        "texts": found.texts,
        "identity": found.identity,
        "left_out": found.left_out,
    })
}
