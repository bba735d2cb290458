//! The second stage: fine-tuning on conversations. What DPO shares with it, the model that is tuned and the conversations
//! that are held out, is here too.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use casallm_compute::{Device, MatrixUse, memory};
use casallm_data::chat::{ChatTemplate, Role};
use casallm_data::packing::FitReport;
use casallm_data::tokenizer::Tokenizer;
use casallm_model::config::ModelConfig;
use casallm_model::directory::{GENERATION_CONFIG, ModelDirectory, StoredDtype, TOKENIZER, TOKENIZER_CONFIG, WEIGHTS};
use casallm_model::error::ModelError;
use casallm_model::network::Network;
use casallm_model::parameters::Parameters;
use casallm_model::workspace::Recompute;

use super::conversations::{Conversations, gather, write_report};
use super::packing::{Packing, settle};
use super::{
    RunDir, Sized, StageObserver, config_of, keep_settings, matrices_of, open_store, optimizer_config, peak, save,
    sized, update_settings, write_model,
};
use crate::checkpoint::CheckpointStore;
use crate::error::TrainError;
use crate::feed::SftFeed;
use crate::interrupt::Interrupt;
use crate::recipe::{Checkpointing, Recipe, Stage};
use crate::samples::{self, DEFAULT_PROMPTS, PROMPT_TOKENS, Prompt, Samples};
use crate::trainer::{Outcome, Trainer, TrainerConfig};
use crate::validation::ValidationSet;

/// Everything of the stage but the weights.
pub struct SftSetup {
    /// The model that is tuned.
    base: Base,
    /// The batches.
    pub feed: SftFeed,
    /// The fixed validation.
    pub validation: Vec<ValidationSet>,
    /// The trainer's settings.
    pub config: TrainerConfig,
    /// What became of conversations longer than the context.
    pub fit: FitReport,
    /// The conversations themselves, and what cleaning did.
    pub conversations: Conversations,
}

/// A model that is tuned, with what turns conversations into its ids.
pub(super) struct Base {
    pub(super) directory: ModelDirectory,
    pub(super) tokenizer: Arc<Tokenizer>,
    pub(super) template: ChatTemplate,
}

impl Base {
    /// The model that a recipe's second stage begins with: the one it names, or its own.
    ///
    /// # Errors
    /// There is none; its tokenizer or its chat template cannot be used.
    pub(super) fn of(recipe: &Recipe) -> Result<Self, TrainError> {
        let (directory, tokenizer) = match recipe.sft_from() {
            Some(path) => opened(recipe, path)?,
            None => model_of(recipe, Stage::Pretrain)?,
        };
        Self::with(directory, tokenizer)
    }

    /// The model that a recipe's third stage begins with.
    ///
    /// # Errors
    /// As [`Base::of`].
    pub(super) fn tuned(recipe: &Recipe) -> Result<Self, TrainError> {
        let (directory, tokenizer) = model_of(recipe, Stage::Sft)?;
        Self::with(directory, tokenizer)
    }

    fn with(directory: ModelDirectory, tokenizer: Tokenizer) -> Result<Self, TrainError> {
        // A model of ours that was only pre-trained talks by our template, whatever stands beside it.
        let template = if tokenizer.special().is_ok() {
            ChatTemplate::own(&tokenizer)?
        } else {
            let text = |name| directory.checksum(name).map(|_| directory.text(name)).transpose();
            let config = text(TOKENIZER_CONFIG)?.unwrap_or_else(|| "{}".to_owned());
            ChatTemplate::of_model(&config, text(GENERATION_CONFIG)?.as_deref(), &tokenizer)?
        };
        Ok(Base { directory, tokenizer: Arc::new(tokenizer), template })
    }

    /// Writes the tuned network with what stood beside the model: our own texts, or those that an imported one brought.
    pub(super) fn save<D: Device>(
        &self,
        dir: &Path,
        network: &Network<D>,
        dtype: StoredDtype,
    ) -> Result<(), TrainError> {
        if self.tokenizer.special().is_ok() {
            return save(dir, network, &self.tokenizer, dtype);
        }
        let names = [TOKENIZER, TOKENIZER_CONFIG, GENERATION_CONFIG];
        let kept = names.into_iter().filter(|name| self.directory.checksum(name).is_some());
        let texts: Vec<_> =
            kept.map(|name| Ok((name, self.directory.text(name)?))).collect::<Result<_, TrainError>>()?;
        write_model(dir, network, &texts, dtype)
    }
}

/// Refuses a model of another shape than the recipe describes, which would be tuned in its place. Dropout is
/// no part of the shape.
fn check_same_model(recipe: &Recipe, base: &ModelDirectory) -> Result<(), TrainError> {
    let keys = |config: ModelConfig| -> Result<BTreeMap<String, serde_json::Value>, TrainError> {
        let json = ModelConfig { dropout: 0.0, ..config }.to_json()?;
        serde_json::from_str(&json)
            .map_err(|e| TrainError::RunState { path: base.path().to_owned(), reason: e.to_string() })
    };
    let (wanted, found) = (keys(config_of(recipe)?)?, keys(base.config().clone())?);
    let differences: Vec<String> = wanted
        .iter()
        .filter_map(|(key, wanted)| {
            let found = found.get(key).filter(|found| *found != wanted)?;
            Some(format!("{key} is {found}, the recipe says {wanted}"))
        })
        .collect();
    if differences.is_empty() {
        return Ok(());
    }
    Err(TrainError::RunState {
        path: base.path().to_owned(),
        reason: format!(
            "the model is another than the recipe's: {}; restore the recipe, or train in another run.dir",
            differences.join("; ")
        ),
    })
}

/// The trainer's settings for a recipe's second stage of so many steps; which conversations it is about is not among
/// them yet.
///
/// # Errors
/// The recipe has no such stage.
pub fn sft_config(recipe: &Recipe, steps: u64) -> Result<TrainerConfig, TrainError> {
    let stage = recipe.sft()?;
    Ok(TrainerConfig {
        stage: Stage::Sft,
        settings: recipe.stage_toml(Stage::Sft)?,
        schedule: stage.schedule(steps),
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

/// The model that a stage ended with and its tokenizer, for the stage after it.
///
/// # Errors
/// There is no such model, or it is not the recipe's.
pub(super) fn model_of(recipe: &Recipe, stage: Stage) -> Result<(ModelDirectory, Tokenizer), TrainError> {
    let dir = RunDir::new(&recipe.run.dir);
    let path = dir.model(stage);
    if !dir.has_model(stage) {
        let (what, or) = match stage {
            Stage::Pretrain => ("pre-trained", ", or name the model to begin with: sft.from, or --model"),
            Stage::Sft | Stage::Dpo => ("fine-tuned", ""),
        };
        return Err(TrainError::RunState {
            path,
            reason: format!("there is no {what} model yet; run `casallm {}` with this recipe first{or}", stage.name()),
        });
    }
    opened(recipe, path)
}

/// A model directory of the recipe's shape, and its tokenizer.
fn opened(recipe: &Recipe, path: PathBuf) -> Result<(ModelDirectory, Tokenizer), TrainError> {
    let directory = ModelDirectory::open(&path)?;
    let tokenizer = Tokenizer::of_model(directory.text(TOKENIZER)?.as_bytes())?;
    if directory.config().vocab_size != tokenizer.vocab_size() {
        return Err(TrainError::RunState {
            path,
            reason: format!(
                "the model has a vocabulary of {}, its tokenizer.json one of {}; restore the pair",
                directory.config().vocab_size,
                tokenizer.vocab_size()
            ),
        });
    }
    check_same_model(recipe, &directory)?;
    Ok((directory, tokenizer))
}

/// Reads and packs the conversations for the model that the stage begins with.
///
/// # Errors
/// There is no such model; the data cannot be read; an older program began the run and its steps were others.
fn sft_setup(
    recipe: &Recipe,
    store: &CheckpointStore,
    observer: &mut dyn StageObserver,
) -> Result<SftSetup, TrainError> {
    let stage = recipe.sft()?;
    let base = Base::of(recipe)?;
    let tokenizer = &base.tokenizer;
    let conversations = gather(recipe, stage, &base.template, observer)?;
    if conversations.examined > 0 {
        observer.note(&format!(
            "{} conversations were left out: they ask what the model is asked at its examination on the identity",
            conversations.examined
        ));
    }
    let packing = Packing::of(recipe, stage, tokenizer, &base.template);
    let (feed, fit) = packing.feed(stage, &conversations.train)?;
    let held_out = packing.validation(&conversations.validation, stage.eval_tokens, observer)?;
    let validation = Vec::from_iter(held_out);
    let steps = feed.steps();
    let mut config = sft_config(recipe, steps)?;
    let fingerprint = format!("conversations = \"{}\"\n", conversations.fingerprint(tokenizer));
    let begins_with = format!("base_model = \"{}\"\n", base.directory.checksum(WEIGHTS).unwrap_or_default());
    settle(&mut config, (&fingerprint, &begins_with), store)?;
    if validation.is_empty() {
        config.eval_every = u64::MAX;
    }
    Ok(SftSetup { base, feed, validation, config, fit, conversations })
}

impl SftSetup {
    /// Leaves what cleaning did, and what the conversations are made of, beside the run.
    fn write_reports(&self, dir: &RunDir) -> Result<(), TrainError> {
        write_report(&dir.cleaning(), &self.conversations.cleaning)?;
        write_report(&dir.conversations(), &self.conversations.report(&self.feed, &self.fit))
    }

    /// What the model is asked at each validation: as the recipe says, or its name and the first held-out questions that are
    /// short.
    fn samples(&self, recipe: &Recipe) -> Result<Samples, TrainError> {
        let (Base { tokenizer, template, .. }, context) = (&self.base, recipe.model.context);
        let prompts = match &recipe.sft()?.samples {
            Some(texts) => samples::given(Stage::Sft, texts, tokenizer, template, context)?,
            None => {
                let mut prompts = name_question(recipe, tokenizer, template)?;
                let asked =
                    self.conversations.validation.iter().filter_map(|conversation| conversation.messages.first());
                for message in asked.filter(|message| message.role == Role::User) {
                    let prompt = samples::question(&message.content, tokenizer, template)?;
                    if prompt.ids.len() <= PROMPT_TOKENS {
                        prompts.push(prompt);
                    }
                    if prompts.len() == DEFAULT_PROMPTS {
                        break;
                    }
                }
                prompts
            }
        };
        Ok(Samples::new(prompts, tokenizer.clone(), template, context, self.config.seed))
    }
}

/// Asks for the bot's name, where it has one.
pub(super) fn name_question(
    recipe: &Recipe,
    tokenizer: &Tokenizer,
    template: &ChatTemplate,
) -> Result<Vec<Prompt>, TrainError> {
    recipe.identity.iter().map(|_| samples::question("Who are you?", tokenizer, template)).collect()
}

/// Runs or resumes the second stage; at its end the model stands in [`RunDir::model`].
///
/// # Errors
/// Anything from the recipe to the disk; see [`TrainError`].
pub fn sft<D: Device>(
    recipe: &Recipe,
    device: &Arc<D>,
    resume: bool,
    interrupt: &Interrupt,
    observer: &mut dyn StageObserver,
) -> Result<(Outcome, SftSetup), TrainError> {
    let dir = RunDir::new(&recipe.run.dir);
    let matrices = matrices_of(recipe.run.precision);
    let dtype = matrices.activations();
    device.supports(matrices).map_err(ModelError::from)?;
    let store = open_store(&dir, Stage::Sft, recipe.sft()?.keep_last, resume)?.keeping_every(recipe.sft()?.keep_every);
    // What a stage before it on the same device needed is there for this one.
    device.release_scratch();
    let Sized { recipe, choice } = &sized(recipe, Stage::Sft, &**device, device.available_bytes())?;
    choice.plan.check_host(memory::available())?;
    observer.planned(Stage::Sft, choice);
    let mut setup = sft_setup(recipe, &store, observer)?;
    let store = store.regularly(setup.config.checkpoint_every, setup.config.schedule.steps);
    setup.config.recompute = choice.recompute;
    setup.config.peak = peak(device, dtype);
    // What the preparation of data took and freed would else stay beside what is planned.
    memory::give_back();
    keep_settings(recipe, &dir, &store)?;
    // As with the settings: a run that goes on may yet turn out to be about other conversations.
    if store.steps()?.is_empty() {
        setup.write_reports(&dir)?;
    }
    let base = &setup.base.directory;
    let mut model = base.config().clone();
    model.dropout = recipe.model.dropout as f32;
    let usage = (MatrixUse::Training, setup.config.optimizer.place);
    let parameters = Parameters::load_at(device.clone(), base, matrices, usage)?;
    let mut trainer = Trainer::new(Network::new(model, dtype, parameters)?, setup.config.clone())?;
    trainer.write_samples(setup.samples(recipe)?);
    let metrics = dir.metrics();
    let outcome = trainer.run(&setup.feed, &setup.validation, &store, &metrics, interrupt, observer)?;
    update_settings(recipe, &dir)?;
    setup.write_reports(&dir)?;
    if matches!(outcome, Outcome::Finished(_)) {
        setup.base.save(&dir.model(Stage::Sft), trainer.network(), StoredDtype::Bf16)?;
    }
    Ok((outcome, setup))
}
