//! The third stage: direct preference optimisation on pairs of answers.
//!
//! It begins with the fine-tuned model in `model/`, which stays as it is, since it is also the reference; the result
//! stands in `dpo/`. There is no dropout: what the trained model gives is compared with what the reference gave.

use std::sync::Arc;

use casallm_compute::{Device, MatrixUse, memory};
use casallm_data::Error as DataError;
use casallm_data::chat::ChatTemplate;
use casallm_data::cleaning::Cleaner;
use casallm_data::preferences::{PairRecord, PairReport, PairSet, TokenPair, read_pairs, split_pairs};
use casallm_data::shards::Manifest;
use casallm_data::tokenizer::Tokenizer;
use casallm_model::directory::{StoredDtype, WEIGHTS};
use casallm_model::error::ModelError;
use casallm_model::network::Network;
use casallm_model::parameters::Parameters;
use casallm_model::workspace::Recompute;

use super::conversations::{cleaned, identity, sample, write_report};
use super::packing::{Packing, settle};
use super::pretrain::text_validation;
use super::references::{self, Key};
use super::sft::{Base, name_question};
use super::{
    RunDir, Sized, StageObserver, all_held_out, keep_settings, matrices_of, open_store, optimizer_config, peak, sized,
    update_settings,
};
use crate::error::TrainError;
use crate::feed::DpoFeed;
use crate::interrupt::Interrupt;
use crate::preference::{LogProbabilities, Preferences};
use crate::recipe::{Checkpointing, Dpo, Recipe, Stage};
use crate::samples::{self, PROMPT_TOKENS, Prompt, Samples};
use crate::trainer::{Outcome, Trainer, TrainerConfig};
use crate::validation::ValidationSet;

/// What a run of the stage was made of.
pub struct DpoSetup {
    /// Pairs trained on.
    pub train: usize,
    /// Pairs validated on.
    pub held_out: usize,
    /// What became of the pairs that were read.
    pub report: PairReport,
}

/// The trainer's settings for a recipe's third stage of so many steps; which model and pairs it is about is not among them
/// yet.
///
/// # Errors
/// The recipe has no such stage.
pub fn dpo_config(recipe: &Recipe, steps: u64) -> Result<TrainerConfig, TrainError> {
    let stage = recipe.dpo()?;
    Ok(TrainerConfig {
        stage: Stage::Dpo,
        settings: recipe.stage_toml(Stage::Dpo)?,
        schedule: stage.schedule(steps),
        clip: stage.optimization.clip,
        optimizer: optimizer_config(&stage.optimization, recipe.run.offload),
        eval_every: stage.eval_every,
        checkpoint_every: stage.checkpoint_every,
        seed: recipe.run.seed,
        micro_tokens: stage.micro_rows() * stage.context,
        recompute: stage.recompute.given().unwrap_or(Recompute::Light),
        step_tokens: stage.batch_tokens,
        context: stage.context,
        samples: samples::count(stage.samples.as_deref(), matrices_of(recipe.run.precision)),
        peak: None,
        background: recipe.run.checkpoint == Checkpointing::Background,
        guard: recipe.run.guard,
    })
}

/// Pairs as they are trained and validated on.
pub(super) struct Pairs {
    pub(super) train: PairSet,
    pub(super) held_out: Option<PairSet>,
    pub(super) report: PairReport,
}

impl Pairs {
    /// Reads, cleans, splits and fits all pairs of a recipe.
    pub(super) fn gather(
        recipe: &Recipe,
        stage: &Dpo,
        tokenizer: &Tokenizer,
        template: &ChatTemplate,
        observer: &mut dyn StageObserver,
    ) -> Result<Self, TrainError> {
        const TASK: &str = "preference pairs";
        let cleaner = Cleaner::new(identity(recipe)?.as_ref());
        let mut report = PairReport::default();
        let (mut train, mut held_out): (Vec<PairRecord>, Vec<PairRecord>) = Default::default();
        let mut split_off = 0;
        let seed = recipe.data.seed;
        for (i, source) in recipe.data.dpo.iter().enumerate() {
            observer.progress(TASK, "sources", i as u64, Some(recipe.data.dpo.len() as u64));
            let mut found = Vec::new();
            for file in recipe.dpo_files(source)? {
                found.extend(read_pairs(&file, &cleaner, &mut report)?);
            }
            if let Some(limit) = source.max_rows {
                let limit = usize::try_from(limit).unwrap_or(usize::MAX);
                sample(&mut found, limit, seed, |record| (&record.source, record.row));
            }
            if source.held_out {
                held_out.extend(found);
            } else {
                let (taught, kept) = split_pairs(found, stage.validation_fraction, seed);
                split_off += kept.len() as u64;
                train.extend(taught);
                held_out.extend(kept);
            }
        }
        if train.is_empty() && split_off > 0 {
            let of = ("dpo.validation_fraction", stage.validation_fraction);
            return Err(all_held_out(recipe, of, ("preference pair", "give pairs of more prompts"), split_off));
        }
        let shape = (stage.context, stage.micro_rows() * stage.context);
        let train = PairSet::new(&train, tokenizer, template, shape, seed, &mut report)?;
        let held_out = match PairSet::new(&held_out, tokenizer, template, shape, seed, &mut report) {
            // None was held out, or none of them fits: there is nothing to validate on.
            Err(DataError::NoPairs { .. }) => None,
            made => Some(made?.sample(stage.eval_pairs)),
        };
        observer.finished(TASK);
        Ok(Pairs { train, held_out, report })
    }

    /// Those trained on, then those held out.
    fn sets(&self) -> impl Iterator<Item = &PairSet> {
        std::iter::once(&self.train).chain(&self.held_out)
    }

    fn count(&self) -> usize {
        self.sets().map(|set| set.pairs().len()).sum()
    }

    /// Where the recipe names no prompts: the bot's name is asked for, and the first held-out prompts that are short.
    fn prompts(
        &self,
        recipe: &Recipe,
        tokenizer: &Tokenizer,
        template: &ChatTemplate,
    ) -> Result<Vec<Prompt>, TrainError> {
        let mut prompts = name_question(recipe, tokenizer, template)?;
        let held_out = self.held_out.iter().flat_map(PairSet::pairs);
        let short = held_out.map(TokenPair::asked).filter(|ids| ids.len() <= PROMPT_TOKENS);
        prompts.extend(short.map(|ids| Prompt { text: tokenizer.decode(&ids).trim().to_owned(), ids }).take(2));
        Ok(prompts)
    }

    /// XXH3-128 of all ids, in order.
    fn fingerprint(&self) -> String {
        let mut hash = xxhash_rust::xxh3::Xxh3::new();
        for set in self.sets() {
            hash.update(&(set.pairs().len() as u64).to_le_bytes());
            for pair in set.pairs() {
                for ids in [&pair.prompt, &pair.answers[0], &pair.answers[1]] {
                    hash.update(&(ids.len() as u64).to_le_bytes());
                    ids.iter().for_each(|id| hash.update(&id.to_le_bytes()));
                }
            }
        }
        format!("{:032x}", hash.digest128())
    }
}

/// What the network gives for each pair as it is now.
fn compute_references<D: Device>(
    trainer: &mut Trainer<D>,
    pairs: &Pairs,
    interrupt: &Interrupt,
    observer: &mut dyn StageObserver,
) -> Result<Vec<LogProbabilities>, TrainError> {
    const TASK: &str = "reference model";
    let total = Some(pairs.count() as u64);
    let mut values = Vec::with_capacity(pairs.count());
    for set in pairs.sets() {
        let plan = set.in_order();
        for batch in (0..plan.len()).filter_map(|i| plan.batch(i)) {
            if interrupt.requested() {
                return Err(DataError::Stopped.into());
            }
            observer.progress(TASK, "pairs", values.len() as u64, total);
            let found = trainer.judge_pairs(&batch)?;
            if let Some(value) = found.iter().flatten().find(|value| !value.is_finite()) {
                return Err(TrainError::NonFinite {
                    stage: Stage::Dpo.name(),
                    step: 0,
                    what: "a log-probability of the reference model",
                    value: *value,
                    batch: format!("the pairs from number {} on", values.len()),
                });
            }
            values.extend(found);
        }
    }
    observer.finished(TASK);
    Ok(values)
}

/// What text is measured on beside the pairs: conversations and documents, where the recipe has some.
fn text(
    recipe: &Recipe,
    stage: &Dpo,
    base: &Base,
    observer: &mut dyn StageObserver,
) -> Result<Vec<ValidationSet>, TrainError> {
    let tokenizer = &*base.tokenizer;
    let dir = RunDir::new(&recipe.run.dir);
    let mut sets = Vec::new();
    if !recipe.data.sft.is_empty() {
        let held_out = cleaned(recipe, observer)?.validation;
        let micro_tokens = stage.micro_rows() * stage.context;
        let template = &base.template;
        let packing = Packing { tokenizer, template, context: stage.context, micro_tokens, seed: recipe.data.seed };
        sets.extend(packing.validation(&held_out, stage.eval_tokens, observer)?);
    }
    // Shards of the run hold ids of the run's own tokenizer.
    let tokenised =
        |name: &str| Manifest::load(&dir.shards(name)).is_ok_and(|found| found.tokenizer == tokenizer.fingerprint());
    if !recipe.data.pretrain.is_empty() && recipe.data.pretrain.iter().all(|source| tokenised(&source.name)) {
        let rows = (stage.context, stage.micro_rows());
        sets.extend(text_validation(recipe, rows, stage.eval_tokens, tokenizer)?);
    }
    Ok(sets)
}

/// Runs or resumes the third stage; at its end the model stands in [`RunDir::model`].
///
/// # Errors
/// Anything from the recipe to the disk; see [`TrainError`].
pub fn dpo<D: Device>(
    recipe: &Recipe,
    device: &Arc<D>,
    resume: bool,
    interrupt: &Interrupt,
    observer: &mut dyn StageObserver,
) -> Result<(Outcome, DpoSetup), TrainError> {
    let dir = RunDir::new(&recipe.run.dir);
    let matrices = matrices_of(recipe.run.precision);
    let dtype = matrices.activations();
    device.supports(matrices).map_err(ModelError::from)?;
    let store = open_store(&dir, Stage::Dpo, recipe.dpo()?.keep_last, resume)?.keeping_every(recipe.dpo()?.keep_every);
    // What a stage before it on the same device needed is there for this one.
    device.release_scratch();
    let Sized { recipe, choice } = &sized(recipe, Stage::Dpo, &**device, device.available_bytes())?;
    choice.plan.check_host(memory::available())?;
    observer.planned(Stage::Dpo, choice);
    let stage = recipe.dpo()?;
    let base = Base::tuned(recipe)?;
    let Base { directory, tokenizer, template } = &base;
    let pairs = Pairs::gather(recipe, stage, tokenizer, template, observer)?;
    write_report(&dir.pairs(), &pairs.report)?;
    let mut validation = text(recipe, stage, &base, observer)?;

    let weights = directory.checksum(WEIGHTS).unwrap_or_default().to_owned();
    let key = Key::new(weights, pairs.fingerprint(), format!("{:?}", recipe.run.precision), pairs.count());
    let steps = DpoFeed::steps(&pairs.train, stage.epochs, stage.batch_tokens);
    let mut config = TrainerConfig { recompute: choice.recompute, ..dpo_config(recipe, steps)? };
    let store = store.regularly(config.checkpoint_every, steps);
    let about = format!("reference_model = \"{}\"\npairs = \"{}\"\n", key.model, key.pairs);
    settle(&mut config, (&about, ""), &store)?;
    config.peak = peak(device, dtype);
    // What the preparation of data took and freed would else stay beside what is planned.
    memory::give_back();
    if validation.is_empty() && pairs.held_out.is_none() {
        config.eval_every = u64::MAX;
    }
    let mut model = directory.config().clone();
    model.dropout = 0.0;
    keep_settings(recipe, &dir, &store)?;
    let prompts = match &stage.samples {
        Some(texts) => samples::given(Stage::Dpo, texts, tokenizer, template, model.context)?,
        None => pairs.prompts(recipe, tokenizer, template)?,
    };
    let samples = Samples::new(prompts, tokenizer.clone(), template, model.context, config.seed);
    let usage = (MatrixUse::Training, config.optimizer.place);
    let parameters = Parameters::load_at(device.clone(), directory, matrices, usage)?;
    let mut trainer = Trainer::new(Network::new(model, dtype, parameters)?, config)?;

    let under_way = !store.steps()?.is_empty();
    let mut references = match references::load(&dir.references(), &key, under_way)? {
        Some(found) => found,
        None => {
            let computed = compute_references(&mut trainer, &pairs, interrupt, observer)?;
            references::store(&dir.references(), &key, &computed)?;
            computed
        }
    };
    let of_held_out = references.split_off(pairs.train.pairs().len());
    if let Some(set) = &pairs.held_out {
        let plan = set.in_order();
        let judged = |i: usize| plan.members(i).iter().map(|pair| of_held_out[*pair]).collect();
        validation.push(ValidationSet {
            source: "preference pairs".to_owned(),
            batches: (0..plan.len()).filter_map(|i| plan.batch(i)).collect(),
            bytes: None,
            pairs: Some(Preferences {
                objective: stage.objective(),
                references: (0..plan.len()).map(judged).collect(),
            }),
        });
    }
    let setup = DpoSetup {
        train: pairs.train.pairs().len(),
        held_out: pairs.held_out.as_ref().map_or(0, |set| set.pairs().len()),
        report: pairs.report,
    };
    let feed = DpoFeed::new(pairs.train, stage.objective(), references, stage.epochs, stage.batch_tokens);
    trainer.write_samples(samples);
    let outcome = trainer.run(&feed, &validation, &store, &dir.metrics(), interrupt, observer)?;
    update_settings(recipe, &dir)?;
    if matches!(outcome, Outcome::Finished(_)) {
        base.save(&dir.model(Stage::Dpo), trainer.network(), StoredDtype::Bf16)?;
    }
    Ok((outcome, setup))
}
