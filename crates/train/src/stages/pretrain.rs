//! The first stage: next-token prediction on documents.

use std::sync::Arc;

use casallm_compute::{Device, memory};
use casallm_data::chat::ChatTemplate;
use casallm_data::loader::{PretrainLoader, ValidationLoader, WeightedSource};
use casallm_data::shards::ShardSet;
use casallm_data::split::Split;
use casallm_data::tokenizer::Tokenizer;
use casallm_model::config::ModelConfig;
use casallm_model::directory::StoredDtype;
use casallm_model::error::ModelError;
use casallm_model::network::Network;
use casallm_model::parameters::Parameters;
use casallm_model::workspace::Recompute;

use super::{
    Prepared, RunDir, Sized, StageObserver, check_room, config_of, fingerprint, keep_settings, matrices_of, open_store,
    optimizer_config, peak, save, shards, sized, tokenizer, update_settings,
};
use crate::error::TrainError;
use crate::feed::PretrainFeed;
use crate::interrupt::Interrupt;
use crate::recipe::{Checkpointing, Pretrain, Recipe, Stage};
use crate::samples::{self, Samples};
use crate::trainer::{Outcome, Trainer, TrainerConfig};
use crate::validation::{ValidationSet, from_loader};

/// The model that a recipe describes.
///
/// # Errors
/// Its dimensions contradict each other.
pub fn model_config(recipe: &Recipe) -> Result<ModelConfig, TrainError> {
    config_of(recipe)
}

/// The trainer's settings for a recipe's first stage.
///
/// # Errors
/// The recipe has no such stage.
pub fn pretrain_config(recipe: &Recipe) -> Result<TrainerConfig, TrainError> {
    let stage = recipe.pretrain()?;
    Ok(TrainerConfig {
        stage: Stage::Pretrain,
        settings: recipe.stage_toml(Stage::Pretrain)?,
        schedule: stage.schedule(),
        clip: stage.optimization.clip,
        optimizer: optimizer_config(&stage.optimization, recipe.run.offload),
        eval_every: stage.eval_every,
        checkpoint_every: stage.checkpoint_every,
        background: recipe.run.checkpoint == Checkpointing::Background,
        guard: recipe.run.guard,
        seed: recipe.run.seed,
        micro_tokens: stage.micro_rows() * stage.context,
        recompute: stage.recompute.given().unwrap_or(Recompute::Light),
        step_tokens: stage.batch_tokens,
        context: stage.context,
        samples: samples::count(stage.samples.as_deref(), matrices_of(recipe.run.precision)),
        peak: None,
    })
}

pub(super) struct Data {
    pub(super) feed: PretrainFeed,
    validation: Vec<ValidationSet>,
}

/// The fixed validation of a recipe's first stage.
fn validation(recipe: &Recipe, stage: &Pretrain, tokenizer: &Tokenizer) -> Result<Vec<ValidationSet>, TrainError> {
    text_validation(recipe, (stage.context, stage.micro_rows()), stage.eval_tokens, tokenizer)
}

/// The fixed validation on documents, `micro_rows` rows of `context` tokens a batch.
pub(super) fn text_validation(
    recipe: &Recipe,
    (context, micro_rows): (usize, usize),
    eval_tokens: u64,
    tokenizer: &Tokenizer,
) -> Result<Vec<ValidationSet>, TrainError> {
    let dir = RunDir::new(&recipe.run.dir);
    let sources = &recipe.data.pretrain;
    let open = |name: &str| ShardSet::open(&dir.shards(name), Split::Val, tokenizer);
    let sets = sources.iter().map(|source| open(&source.name)).collect::<Result<_, _>>()?;
    let rows = eval_tokens.div_ceil((context * sources.len().max(1)) as u64);
    let loader = ValidationLoader::new(sets, context, rows, tokenizer)?;
    from_loader(&loader, micro_rows, &tokenizer.byte_lengths())
}

/// The very text that validation measures, by source: what other compressors are to be measured on.
///
/// # Errors
/// The shards or the tokenizer cannot be read.
pub fn validation_texts(recipe: &Recipe) -> Result<Vec<(String, Vec<u8>)>, TrainError> {
    let dir = RunDir::new(&recipe.run.dir);
    let tokenizer = Tokenizer::load(&dir.tokenizer())?;
    let special = tokenizer.special()?;
    let controls = [special.bos, special.eos, special.pad, special.system, special.user, special.assistant];
    let text = |set: ValidationSet| {
        let targets = set.batches.iter().flat_map(|b| &b.targets).filter(|id| !controls.contains(id));
        let bytes = targets.flat_map(|id| tokenizer.token_bytes(*id).unwrap_or_default()).copied().collect();
        (set.source, bytes)
    };
    Ok(validation(recipe, recipe.pretrain()?, &tokenizer)?.into_iter().map(text).collect())
}

/// Opens the shards of every source.
pub(super) fn open(
    recipe: &Recipe,
    stage: &Pretrain,
    dir: &RunDir,
    tokenizer: &Tokenizer,
    prepared: &[Prepared],
) -> Result<Data, TrainError> {
    let mut sources = Vec::new();
    for source in prepared {
        let shards = ShardSet::open(&dir.shards(&source.name), Split::Train, tokenizer)?;
        sources.push(WeightedSource { shards, weight: source.weight });
    }
    let loader = PretrainLoader::new(sources, stage.context, recipe.data.seed)?;
    let feed = PretrainFeed { loader, rows: stage.micro_rows(), accumulation: stage.accumulation() };
    Ok(Data { feed, validation: validation(recipe, stage, tokenizer)? })
}

/// Runs or resumes the first stage; at its end the model stands in [`RunDir::model`].
///
/// # Errors
/// Anything from the recipe to the disk; see [`TrainError`], and [`TrainError::is_stop`].
pub fn pretrain<D: Device>(
    recipe: &Recipe,
    device: &Arc<D>,
    resume: bool,
    interrupt: &Interrupt,
    observer: &mut dyn StageObserver,
) -> Result<Outcome, TrainError> {
    let dir = RunDir::new(&recipe.run.dir);
    let model = config_of(recipe)?;
    let matrices = matrices_of(recipe.run.precision);
    let dtype = matrices.activations();
    // Before any time is spent: can the device do it, does it fit, is there something in the way?
    device.supports(matrices).map_err(ModelError::from)?;
    let (keep_last, keep_every) = (recipe.pretrain()?.keep_last, recipe.pretrain()?.keep_every);
    // What a stage before it on the same device needed is there for this one.
    device.release_scratch();
    let Sized { recipe, choice } = &sized(recipe, Stage::Pretrain, &**device, device.available_bytes())?;
    choice.plan.check_host(memory::available())?;
    let store = open_store(&dir, Stage::Pretrain, keep_last, resume)?.keeping_every(keep_every);
    observer.planned(Stage::Pretrain, choice);
    let stage = recipe.pretrain()?;
    let mut config = TrainerConfig { recompute: choice.recompute, ..pretrain_config(recipe)? };
    let store = store.regularly(config.checkpoint_every, config.schedule.steps);
    check_room(&store, &model, &config)?;
    let tokenizer = Arc::new(tokenizer(recipe, &dir, interrupt, observer)?);
    let prepared = shards(recipe, &dir, &tokenizer, !store.steps()?.is_empty(), interrupt, observer)?;
    config.settings += &format!("shards = \"{}\"\n", fingerprint(&prepared));
    let data = open(recipe, stage, &dir, &tokenizer, &prepared)?;
    config.peak = peak(device, dtype);
    // What the preparation of data took and freed would else stay beside what is planned.
    memory::give_back();
    keep_settings(recipe, &dir, &store)?;
    let template = ChatTemplate::own(&tokenizer)?;
    let prompts = match &stage.samples {
        Some(texts) => samples::given(Stage::Pretrain, texts, &tokenizer, &template, config.context)?,
        None => samples::beginnings(data.validation.iter().flat_map(|set| &set.batches), &tokenizer)?,
    };
    let samples = Samples::new(prompts, tokenizer.clone(), &template, model.context, config.seed);
    let parameters = Parameters::random_at(device.clone(), &model, matrices, recipe.run.seed, config.optimizer.place)?;
    let mut trainer = Trainer::new(Network::new(model, dtype, parameters)?, config)?;
    trainer.write_samples(samples);
    let outcome = trainer.run(&data.feed, &data.validation, &store, &dir.metrics(), interrupt, observer)?;
    update_settings(recipe, &dir)?;
    if matches!(outcome, Outcome::Finished(_)) {
        save(&dir.model(Stage::Pretrain), trainer.network(), &tokenizer, StoredDtype::F32)?;
    }
    Ok(outcome)
}
