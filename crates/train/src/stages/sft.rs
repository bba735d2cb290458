//! The second stage: fine-tuning on conversations. What DPO shares with it, the model that is tuned and the conversations
//! that are held out, is here too.

use std::collections::BTreeMap;
use std::sync::Arc;

use casallm_compute::{Device, MatrixUse};
use casallm_data::chat::{Conversation, Role};
use casallm_data::packing::{ConversationSet, FitReport};
use casallm_data::tokenizer::Tokenizer;
use casallm_model::config::ModelConfig;
use casallm_model::directory::{ModelDirectory, StoredDtype, TOKENIZER};
use casallm_model::error::ModelError;
use casallm_model::network::Network;
use casallm_model::parameters::Parameters;
use casallm_model::workspace::Recompute;

use super::{
    RunDir, Sized, StageObserver, config_of, conversations, gather, keep_settings, matrices_of, open_store,
    optimizer_config, peak, save, sized, update_settings,
};
use crate::error::TrainError;
use crate::feed::SftFeed;
use crate::interrupt::Interrupt;
use crate::recipe::{Checkpointing, Recipe, Stage};
use crate::samples::{self, DEFAULT_PROMPTS, PROMPT_TOKENS, Prompt, Samples};
use crate::trainer::{Outcome, Trainer, TrainerConfig};
use crate::validation::ValidationSet;

/// Everything of the stage but the weights.
pub struct SftSetup {
    /// The batches.
    pub feed: SftFeed,
    /// The fixed validation.
    pub validation: Vec<ValidationSet>,
    /// The trainer's settings.
    pub config: TrainerConfig,
    /// What became of conversations longer than the context.
    pub fit: FitReport,
    /// The conversations themselves, and what cleaning did.
    pub conversations: conversations::Conversations,
    /// The tokenizer of the model that is tuned.
    pub tokenizer: Arc<Tokenizer>,
}

/// How conversations are packed.
#[derive(Clone, Copy)]
pub(super) struct Packing {
    /// Tokens of the longest.
    pub(super) context: usize,
    /// Tokens of a micro-batch.
    pub(super) micro_tokens: usize,
    /// Seed of the order.
    pub(super) seed: u64,
}

impl Packing {
    fn pack(
        self,
        conversations: &[Conversation],
        tokenizer: &Tokenizer,
    ) -> Result<(ConversationSet, FitReport), TrainError> {
        let Packing { context, micro_tokens, seed } = self;
        Ok(ConversationSet::from_conversations(conversations, tokenizer, context, micro_tokens, seed)?)
    }

    /// The fixed validation of at least `eval_tokens`, where there are so many.
    pub(super) fn validation(
        self,
        conversations: &[Conversation],
        tokenizer: &Tokenizer,
        eval_tokens: u64,
    ) -> Result<ValidationSet, TrainError> {
        let (held_out, _) = self.pack(conversations, tokenizer)?;
        let lengths = tokenizer.byte_lengths();
        let plan = held_out.plan(0);
        let rows = eval_tokens.div_ceil(self.micro_tokens as u64).max(1);
        let batches: Vec<_> =
            (0..plan.len().min(usize::try_from(rows).unwrap_or(usize::MAX))).filter_map(|i| plan.batch(i)).collect();
        let supervised = batches.iter().flat_map(|b| b.targets.iter().zip(&b.weights));
        let bytes = supervised
            .filter(|(_, weight)| **weight > 0.0)
            .map(|(target, _)| u64::from(lengths.get(*target as usize).copied().unwrap_or(0)))
            .sum();
        Ok(ValidationSet { source: "conversations".to_owned(), batches, bytes: Some(bytes), pairs: None })
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
        let what = if stage == Stage::Pretrain { "pre-trained" } else { "fine-tuned" };
        return Err(TrainError::RunState {
            path,
            reason: format!("there is no {what} model yet; run `casallm {}` with this recipe first", stage.name()),
        });
    }
    let directory = ModelDirectory::open(&path)?;
    let tokenizer = Tokenizer::from_bytes(directory.text(TOKENIZER)?.as_bytes())?;
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

/// Reads and packs the conversations for the model in [`RunDir::model`] of the first stage.
///
/// # Errors
/// There is no such model; the data cannot be read.
pub fn sft_setup(recipe: &Recipe, observer: &mut dyn StageObserver) -> Result<SftSetup, TrainError> {
    let stage = recipe.sft()?;
    let dir = RunDir::new(&recipe.run.dir);
    let (_, tokenizer) = model_of(recipe, Stage::Pretrain)?;
    let conversations = gather(recipe, stage, &dir, observer)?;
    let packing =
        Packing { context: stage.context, micro_tokens: stage.micro_rows() * stage.context, seed: recipe.data.seed };
    let (set, fit) = packing.pack(&conversations.train, &tokenizer)?;
    let mut validation = Vec::new();
    if !conversations.validation.is_empty() {
        validation.push(packing.validation(&conversations.validation, &tokenizer, stage.eval_tokens)?);
    }
    let feed = SftFeed::new(set, stage.epochs, stage.accumulation());
    let steps = feed.steps();
    let mut config = sft_config(recipe, steps)?;
    config.settings += &format!("conversations = \"{}\"\n", conversations.fingerprint(&tokenizer));
    if validation.is_empty() {
        config.eval_every = u64::MAX;
    }
    Ok(SftSetup { feed, validation, config, fit, conversations, tokenizer: Arc::new(tokenizer) })
}

impl SftSetup {
    /// What the model is asked at each validation: as the recipe says, or its name and the first held-out questions that are
    /// short.
    fn samples(&self, recipe: &Recipe) -> Result<Samples, TrainError> {
        let (tokenizer, context) = (&self.tokenizer, recipe.model.context);
        let prompts = match &recipe.sft()?.samples {
            Some(texts) => samples::given(Stage::Sft, texts, tokenizer, context)?,
            None => {
                let mut prompts = name_question(recipe, tokenizer)?;
                let asked =
                    self.conversations.validation.iter().filter_map(|conversation| conversation.messages.first());
                for message in asked.filter(|message| message.role == Role::User) {
                    let prompt = samples::question(&message.content, tokenizer)?;
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
        Samples::new(prompts, tokenizer.clone(), context, self.config.seed)
    }
}

/// Asks for the bot's name, where it has one.
pub(super) fn name_question(recipe: &Recipe, tokenizer: &Tokenizer) -> Result<Vec<Prompt>, TrainError> {
    recipe.identity.iter().map(|_| samples::question("Who are you?", tokenizer)).collect()
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
    let Sized { recipe, choice } = &sized(recipe, Stage::Sft, &**device, device.available_bytes())?;
    choice.plan.check_host(casallm_compute::memory::available())?;
    observer.planned(Stage::Sft, choice);
    let mut setup = sft_setup(recipe, observer)?;
    setup.config.recompute = choice.recompute;
    keep_settings(recipe, &dir, &store)?;
    let base = ModelDirectory::open(&dir.model(Stage::Pretrain))?;
    let mut model = base.config().clone();
    model.dropout = recipe.model.dropout as f32;
    setup.config.peak = peak(device, dtype);
    let usage = (MatrixUse::Training, setup.config.optimizer.place);
    let parameters = Parameters::load_at(device.clone(), &base, matrices, usage)?;
    let mut trainer = Trainer::new(Network::new(model, dtype, parameters)?, setup.config.clone())?;
    trainer.write_samples(setup.samples(recipe)?);
    let metrics = dir.metrics();
    let outcome = trainer.run(&setup.feed, &setup.validation, &store, &metrics, interrupt, observer)?;
    update_settings(recipe, &dir)?;
    if matches!(outcome, Outcome::Finished(_)) {
        save(&dir.model(Stage::Sft), trainer.network(), &setup.tokenizer, StoredDtype::Bf16)?;
    }
    Ok((outcome, setup))
}
