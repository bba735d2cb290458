//! What trials share: tokenizer and shards are made once for all trials that agree on them, and lie in each trial's folder as
//! hard links, so that a trial is a run like any other.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use casallm_data::durable::write_file;
use casallm_model::directory::CHECKSUMS;
use casallm_train::interrupt::Interrupt;
use casallm_train::recipe::{PretrainSource, RawRecipe, Recipe, Stage};
use casallm_train::stages::{self, RunDir, StageObserver};
use crc::{CRC_64_XZ, Crc};
use serde_json::json;

use super::grid::Trial;
use crate::streams::word;

/// A trial's recipe, in its folder.
const RECIPE: &str = "recipe.toml";
/// Names that make what lies beside them whole: they come last.
const SEALS: [&str; 2] = [CHECKSUMS, "manifest.json"];

/// Refuses a folder that holds a trial of another recipe, whose result would be taken for this one's.
pub(super) fn check_same(trial: &Trial, stage: Stage) -> Result<()> {
    let path = Path::new(&trial.recipe.run.dir).join(RECIPE);
    if !path.exists() {
        return Ok(());
    }
    let saved = RawRecipe::load(&path)?.validate()?;
    let differences = trial.recipe.differences(stage, &saved.stage_toml(stage)?)?;
    if differences.is_empty() {
        return Ok(());
    }
    let value = |value: Option<String>| value.unwrap_or_else(|| "not there".to_owned());
    let lines = differences.into_iter().map(|d| format!("{} was {}, is {}", d.key, value(d.saved), value(d.now)));
    bail!(
        "{}: the trial was begun with another recipe: {}; restore that, or choose another --out",
        path.display(),
        lines.collect::<Vec<_>>().join("; ")
    )
}

/// Puts into the trial's folder what it begins with.
pub(super) fn place(
    trial: &Trial,
    stage: Stage,
    (sweep, own_run): (&Path, &RunDir),
    interrupt: &Interrupt,
    observer: &mut dyn StageObserver,
) -> Result<()> {
    let dir = RunDir::new(&trial.recipe.run.dir);
    fs::create_dir_all(dir.root()).with_context(|| format!("cannot create {}", dir.root().display()))?;
    if !dir.root().join(RECIPE).exists() {
        let text = format!(
            "# Trial {} of a sweep. `casallm {} {} --resume` does it alone.\n\n{}",
            trial.name,
            stage.name(),
            word(&dir.root().join(RECIPE)),
            trial.recipe.to_toml()?
        );
        write_file(&dir.root().join(RECIPE), text.as_bytes())?;
    }
    if dir.tokenizer().exists() {
        return Ok(());
    }
    if stage == Stage::Pretrain {
        let shared = shared(&trial.recipe, sweep);
        let tokenizer = stages::tokenizer(&trial.recipe, &shared, interrupt, observer)?;
        for source in stages::shards(&trial.recipe, &shared, &tokenizer, false, interrupt, observer)? {
            link_folder(&shared.shards(&source.name), &dir.shards(&source.name))?;
        }
        return link(&shared.tokenizer(), &dir.tokenizer());
    }
    let before = Stage::ALL.into_iter().take_while(|before| *before != stage);
    for before in before.filter(|before| own_run.has_model(*before)) {
        link_folder(&own_run.model(before), &dir.model(before))?;
    }
    // DPO measures what the model knows of the text on the side.
    for source in &trial.recipe.data.pretrain {
        let shards = own_run.shards(&source.name);
        if shards.is_dir() {
            link_folder(&shards, &dir.shards(&source.name))?;
        }
    }
    if stage == Stage::Sft && trial.recipe.sft_from().is_some() {
        return Ok(());
    }
    // The last one: it says that the others are there.
    link(&own_run.tokenizer(), &dir.tokenizer())
}

/// Refuses a sweep of a later stage without the model that it begins with.
pub(super) fn check_base(stage: Stage, recipe: &Recipe, own_run: &RunDir) -> Result<()> {
    let before = match stage {
        Stage::Pretrain => return Ok(()),
        Stage::Sft if recipe.sft_from().is_some() => return Ok(()),
        Stage::Sft => Stage::Pretrain,
        Stage::Dpo => Stage::Sft,
    };
    if own_run.has_model(before) && own_run.tokenizer().exists() {
        return Ok(());
    }
    bail!(
        "{}: there is no model to begin with; run `casallm {}` with this recipe first",
        own_run.model(before).display(),
        before.name()
    )
}

/// Where tokenizer and shards of all recipes are that agree on what decides them.
fn shared(recipe: &Recipe, sweep: &Path) -> RunDir {
    let data = &recipe.data;
    let source = |s: &PretrainSource| json!([s.name, s.path, s.text_field, s.keeping]);
    let sources: Vec<_> = data.pretrain.iter().map(source).collect();
    let key = json!([recipe.tokenizer, data.validation_fraction, data.seed, data.decontaminate, sources]).to_string();
    let digest = Crc::<u64>::new(&CRC_64_XZ).checksum(key.as_bytes());
    RunDir::new(sweep.join("shared").join(format!("{digest:016x}")))
}

/// Links every file of a folder, those that make it whole last.
fn link_folder(from: &Path, to: &Path) -> Result<()> {
    let failed = |error: io::Error| anyhow::anyhow!("cannot read {}: {error}", from.display());
    let entries = fs::read_dir(from).map_err(failed)?;
    let mut files =
        entries.map(|entry| entry.map(|e| e.path())).collect::<io::Result<Vec<PathBuf>>>().map_err(failed)?;
    let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    files.retain(|path| path.is_file() && !name(path).starts_with('.') && !name(path).ends_with(".tmp"));
    files.sort_by_key(|path| (SEALS.contains(&name(path).as_str()), name(path)));
    files.iter().try_for_each(|path| link(path, &to.join(name(path))))
}

/// The same file under a second name; a copy where the file system knows no links. Whoever changes one of our files renames
/// a new one over it, which leaves the other name as it was.
fn link(from: &Path, to: &Path) -> Result<()> {
    let folder = to.parent().unwrap_or(Path::new("."));
    let doing = || format!("cannot link {} to {}", from.display(), to.display());
    fs::create_dir_all(folder).with_context(doing)?;
    match fs::remove_file(to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).with_context(doing),
        _ => {}
    }
    if fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    let beside = to.with_extension("tmp");
    fs::copy(from, &beside).and_then(|_| fs::rename(&beside, to)).with_context(doing)
}
