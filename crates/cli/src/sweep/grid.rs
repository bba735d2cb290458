//! From the flags to the trials: every combination a recipe of its own, checked before any time is spent.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use casallm_train::TrainError;
use casallm_train::recipe::{RawRecipe, Recipe, Stage};
use casallm_train::stages::EMBEDDED;

/// Most trials of a sweep: more is a mistake in a grid.
const MOST_TRIALS: usize = 1000;

/// A key and the values that it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Axis {
    /// Its path in the recipe.
    pub(super) key: String,
    /// As given.
    pub(super) values: Vec<String>,
}

/// A run of the sweep.
#[derive(Clone, Debug)]
pub(super) struct Trial {
    /// Of its folder.
    pub(super) name: String,
    /// Which combination it is of, counted from 0.
    pub(super) combination: usize,
    /// Its `run.seed`.
    pub(super) seed: u64,
    /// The whole recipe, with `run.dir`. Data is found from the trial's folder too: its paths are written out.
    pub(super) recipe: Recipe,
}

/// The trials.
#[derive(Clone, Debug)]
pub(super) struct Grid {
    /// What is varied.
    pub(super) axes: Vec<Axis>,
    /// The value of each axis, for each combination.
    pub(super) combinations: Vec<Vec<String>>,
    /// Seeds of each combination beside one another.
    pub(super) trials: Vec<Trial>,
    /// The recipe's own `run.dir`.
    pub(super) own_dir: PathBuf,
    /// Where the trials' folders are.
    pub(super) out: PathBuf,
}

impl Axis {
    /// Reads `KEY=VALUE,VALUE`.
    fn parse(text: &str, stage: Stage) -> Result<Self> {
        let Some((key, values)) = text.split_once('=') else {
            bail!("--grid {text}: there is no `=`; write it like --grid pretrain.lr=1e-3,2e-3");
        };
        let axis =
            Axis { key: key.trim().to_owned(), values: values.split(',').map(|v| v.trim().to_owned()).collect() };
        if axis.values.iter().any(String::is_empty) {
            bail!("--grid {text}: a value is empty; write it like --grid {}=VALUE,VALUE", axis.key);
        }
        let distinct: BTreeSet<_> = axis.values.iter().collect();
        if distinct.len() < axis.values.len() {
            bail!("--grid {text}: a value stands there twice; leave one of them out");
        }
        if axis.key == "run.dir" {
            bail!("--grid {text}: each trial has a folder of its own in --out; leave run.dir out");
        }
        if !takes_part(&axis.key, stage) {
            bail!(
                "--grid {text}: {} does not depend on {}; {}",
                stage.name(),
                axis.key,
                match stage {
                    Stage::Pretrain => "add --stage sft or --stage dpo, or vary another key",
                    _ =>
                        "it begins with the model of the recipe's own run: sweep --stage pretrain, or vary another key",
                }
            );
        }
        Ok(axis)
    }

    /// A short name that no other axis has.
    fn label<'a>(&'a self, all: &[Axis]) -> &'a str {
        let last = |axis: &'a Axis| axis.key.rsplit('.').next().unwrap_or_default();
        let own = last(self);
        let same = all.iter().filter(|other| other.key.rsplit('.').next() == Some(own)).count();
        if same > 1 { &self.key } else { own }
    }
}

/// Whether a stage's numbers, or its speed, can depend on a key. Of a key that is none the recipe says what is wrong.
fn takes_part(key: &str, stage: Stage) -> bool {
    let (section, rest) = key.split_once('.').unwrap_or((key, ""));
    let source = rest.split('.').next().unwrap_or_default();
    let own = section == stage.name();
    let known =
        Stage::ALL.iter().any(|other| other.name() == section) || ["identity", "tokenizer", "model"].contains(&section);
    match (section, stage) {
        ("data", _) => ["pretrain", "sft", "dpo"].iter().all(|name| *name != source || source == stage.name()),
        ("identity", Stage::Pretrain) => false,
        ("tokenizer" | "model", Stage::Pretrain) | ("identity", _) => true,
        // What a model's shape is not part of may change between stages.
        ("model", _) => rest == "dropout",
        _ => own || !known,
    }
}

/// A value as a part of a file's name.
fn in_a_name(value: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+');
    let text = value.trim_matches('"').chars().map(|c| if allowed(c) { c } else { '-' });
    text.take(40).collect()
}

/// Every combination of the axes' values, the last axis varying fastest.
fn combinations(axes: &[Axis]) -> Vec<Vec<String>> {
    axes.iter().fold(vec![Vec::new()], |before, axis| {
        before
            .iter()
            .flat_map(|head| axis.values.iter().map(|v| [&head[..], std::slice::from_ref(v)].concat()))
            .collect()
    })
}

impl Grid {
    /// Reads the flags and validates the recipe of every combination.
    ///
    /// # Errors
    /// What is wrong, with the flag or the combination.
    pub(super) fn new(
        raw: &RawRecipe,
        (grid, overrides, seeds): (&[String], &[String], u64),
        stage: Stage,
        out: Option<&Path>,
    ) -> Result<Self> {
        let axes = grid.iter().map(|text| Axis::parse(text, stage)).collect::<Result<Vec<_>>>()?;
        let keys: BTreeSet<_> = axes.iter().map(|axis| &axis.key).collect();
        if keys.len() < axes.len() {
            bail!("--grid: a key is given twice; write its values in one, like --grid pretrain.lr=1e-3,2e-3");
        }
        let count = axes.iter().try_fold(1_usize, |n, axis| n.checked_mul(axis.values.len()));
        let count = count.and_then(|n| n.checked_mul(usize::try_from(seeds).ok()?)).unwrap_or(usize::MAX);
        if seeds == 0 || count > MOST_TRIALS {
            bail!("--grid and --seeds {seeds} make {count} trials; use from 1 to {MOST_TRIALS}");
        }
        if axes.is_empty() && seeds == 1 {
            bail!("there is nothing to try: add --grid pretrain.lr=1e-3,2e-3, or --seeds 3");
        }
        if seeds > 1 && keys.iter().any(|key| *key == "run.seed") {
            bail!("--grid run.seed and --seeds {seeds}: keep one of the two");
        }
        let combinations = combinations(&axes);
        let mut trials: Vec<Trial> = Vec::new();
        let mut wrong = Vec::new();
        let mut dirs = None;
        for (number, values) in combinations.iter().enumerate() {
            for offset in 0..seeds {
                match trial(raw, overrides, (&axes, values), (seeds, offset), stage) {
                    Ok((mut name, mut recipe)) => {
                        // File systems may take no notice of case.
                        while trials.iter().any(|other| other.name.eq_ignore_ascii_case(&name)) {
                            name.push('_');
                        }
                        let (_, out) = dirs.get_or_insert_with(|| {
                            let own = PathBuf::from(&recipe.run.dir);
                            let out = out.map_or_else(|| own.join("sweep"), Path::to_owned);
                            (own, out)
                        });
                        recipe.run.dir = out.join(&name).to_string_lossy().into_owned();
                        trials.push(Trial { name, combination: number, seed: recipe.run.seed, recipe });
                    }
                    Err(error) => wrong.push(error.to_string()),
                }
            }
        }
        wrong.dedup();
        if let Some(first) = wrong.first() {
            let more =
                if wrong.len() > 1 { format!(" (and {} more combinations)", wrong.len() - 1) } else { String::new() };
            bail!("{first}{more}; no trial was begun");
        }
        let placeless = |trial: &Trial| {
            let mut recipe = trial.recipe.clone();
            recipe.run.dir.clear();
            recipe
        };
        for (i, trial) in trials.iter().enumerate() {
            if let Some(twin) = trials[..i].iter().find(|other| placeless(other) == placeless(trial)) {
                bail!("{} and {} are the same recipe: leave one of them out", twin.name, trial.name);
            }
        }
        let (own_dir, out) = dirs.context("a sweep has a trial")?;
        Ok(Grid { axes, combinations, trials, own_dir, out })
    }

    /// The combination in words; of one without axes only the seeds differ.
    pub(super) fn title(&self, combination: usize) -> String {
        let values = self.combinations[combination].iter();
        let parts: Vec<String> =
            self.axes.iter().zip(values).map(|(axis, value)| format!("{} = {value}", axis.label(&self.axes))).collect();
        if parts.is_empty() { "the recipe".to_owned() } else { parts.join(", ") }
    }
}

/// A trial's name and recipe, whose `run.dir` is the recipe's own.
fn trial(
    raw: &RawRecipe,
    overrides: &[String],
    (axes, values): (&[Axis], &[String]),
    (seeds, offset): (u64, u64),
    stage: Stage,
) -> Result<(String, Recipe)> {
    let mut raw = raw.clone();
    for text in overrides {
        raw.apply_override(text)?;
    }
    let mut parts = Vec::new();
    for (axis, value) in axes.iter().zip(values) {
        raw.apply_override(&format!("{}={value}", axis.key))?;
        parts.push(format!("{}={}", axis.label(axes), in_a_name(value)));
    }
    let recipe = raw.validate().and_then(|recipe| stage_of(recipe, stage)?.placed());
    let mut recipe = match recipe {
        Err(error) if !parts.is_empty() => bail!("{}: {error}", parts.join(",")),
        recipe => recipe?,
    };
    if seeds > 1 {
        recipe.run.seed = match recipe.run.seed.checked_add(offset).filter(|seed| *seed <= i64::MAX as u64) {
            Some(seed) => seed,
            None => {
                bail!("run.seed = {}: {seeds} seeds from there on are too large; use a smaller one", recipe.run.seed)
            }
        };
        parts.push(format!("seed={}", recipe.run.seed));
    }
    Ok((parts.join(","), recipe))
}

/// Refuses a recipe without the stage, or with text that is not there.
fn stage_of(recipe: Recipe, stage: Stage) -> Result<Recipe, TrainError> {
    match stage {
        Stage::Pretrain => drop(recipe.pretrain()?),
        Stage::Sft => drop(recipe.sft()?),
        Stage::Dpo => drop(recipe.dpo()?),
    }
    if stage == Stage::Pretrain {
        casallm_train::stages::model_config(&recipe)?;
        for source in recipe.data.pretrain.iter().filter(|source| !source.path.starts_with(EMBEDDED)) {
            recipe.pretrain_files(source)?;
        }
    }
    if stage == Stage::Sft {
        for source in recipe.data.sft.iter().filter(|source| !source.path.starts_with(EMBEDDED)) {
            recipe.sft_files(source)?;
        }
    }
    if stage == Stage::Dpo {
        for source in &recipe.data.dpo {
            recipe.dpo_files(source)?;
        }
    }
    Ok(recipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECIPE: &str = "[tokenizer]\nvocab_size = 320\n[[data.pretrain]]\nname = \"a\"\npath = \"embedded:openstax\"\n[model]\n\
                          n_layer = 2\nn_embd = 32\nn_head = 2\ncontext = 64\n[run]\ndir = \"r\"\nseed = 5\n[pretrain]\nsteps = 9\n\
                          batch_tokens = 256\n";

    fn grid(grid: &[&str], seeds: u64) -> Result<Grid> {
        let raw = RawRecipe::parse(RECIPE, "tiny.toml", Path::new("")).unwrap();
        let grid: Vec<String> = grid.iter().map(|text| (*text).to_owned()).collect();
        Grid::new(&raw, (&grid, &[], seeds), Stage::Pretrain, Some(Path::new("out")))
    }

    #[test]
    fn every_combination_is_a_recipe_with_a_name() {
        let found = grid(&["pretrain.lr=1e-3,0.002", "model.n_layer=1,2"], 2).unwrap();
        let names: Vec<&str> = found.trials.iter().map(|trial| trial.name.as_str()).collect();
        assert_eq!(names.len(), 8);
        assert_eq!(names[0], "lr=1e-3,n_layer=1,seed=5");
        assert_eq!(names[7], "lr=0.002,n_layer=2,seed=6");
        let last = &found.trials[7];
        assert_eq!((last.combination, last.seed, last.recipe.model.n_layer), (3, 6, 2));
        assert_eq!(last.recipe.pretrain().unwrap().optimization.lr, 0.002);
        assert_eq!(last.recipe.run.dir, Path::new("out").join("lr=0.002,n_layer=2,seed=6").to_string_lossy());
        assert_eq!(found.title(3), "lr = 0.002, n_layer = 2");
        let seeds = grid(&[], 3).unwrap();
        assert_eq!(seeds.trials[2].name, "seed=7");
        assert_eq!(seeds.title(0), "the recipe");
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        for (flags, seeds, named) in [
            (&["pretrain.lr"][..], 1, &["--grid pretrain.lr", "no `=`"][..]),
            (&["pretrain.lr=1e-3,"], 1, &["a value is empty"]),
            (&["pretrain.lr=1e-3,1e-3"], 1, &["twice"]),
            (&["pretrain.lr=1e-3,0.001"], 1, &["lr=1e-3 and lr=0.001 are the same recipe"]),
            (&["pretrain.lr=1e-3", "pretrain.lr=2e-3"], 1, &["a key is given twice"]),
            (&["pretrain.lrr=1e-3"], 1, &["lrr=1e-3", "did you mean `lr`?", "no trial was begun"]),
            (&["model.n_embd=32,33"], 1, &["n_embd=33", "no trial was begun"]),
            (&["pretrain.lr=-1,-2"], 1, &["lr=-1", "and 1 more combinations"]),
            (&["run.dir=a,b"], 1, &["leave run.dir out"]),
            (&["sft.lr=1e-3"], 1, &["pretrain does not depend on sft.lr"]),
            (&["data.sft.0.max_rows=3"], 1, &["pretrain does not depend on data.sft.0.max_rows"]),
            (&["run.seed=1,2"], 3, &["keep one of the two"]),
            (&["pretrain.lr=1e-3"], 5000, &["5000 trials"]),
            (&["pretrain.lr=1e-3"], 0, &["from 1 to"]),
            (&[], 1, &["nothing to try"]),
        ] {
            let error = grid(flags, seeds).unwrap_err().to_string();
            for name in named {
                assert!(error.contains(name), "{name:?} is not in {error:?}");
            }
        }
    }
}
