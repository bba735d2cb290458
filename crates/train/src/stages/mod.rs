//! From a recipe to a trained model, stage by stage: tokenizer, shards, pre-training, fine-tuning, DPO.
//!
//! Everything goes into the recipe's `run.dir`, whose layout is [`RunDir`]. Each part is skipped where its result is
//! already there, so that a command run again goes on where it was. Called by the command line.

mod conversations;
mod documents;
mod dpo;
mod inspect;
mod memory;
mod packing;
mod pretrain;
mod references;
mod sft;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use casallm_compute::{DType, Device, MatrixFormat, MomentFormat, Place, Rounding};
use casallm_data::chat::CHAT_TEMPLATE;
use casallm_data::tokenizer::Tokenizer;
use casallm_model::config::ModelConfig;
use casallm_model::directory::{
    CHECKSUMS, GENERATION_CONFIG, StoredDtype, TOKENIZER, TOKENIZER_CONFIG, TextFile, save_model,
};
use casallm_model::error::ModelError;
use casallm_model::network::Network;

pub use conversations::{Conversations, ConversationsReport, SourceReport};
use documents::fingerprint;
pub use documents::{Prepared, shards, tokenizer};
pub use dpo::{DpoSetup, dpo};
pub use inspect::{DocumentsReport, Inspected, InspectedData, PairsReport, inspect};
pub use memory::{Sized, memory_levels, sized};
pub use pretrain::{model_config, pretrain, pretrain_config, validation_texts};
pub use sft::{SftSetup, sft};

use crate::checkpoint::{Ahead, CheckpointStore};
use crate::error::TrainError;
use crate::optimizer::{MatrixUpdate, OptimizerConfig};
use crate::planning::MemoryChoice;
use crate::recipe::{self, Offload, Precision, Recipe, Stage};
use crate::snapshot;
use crate::trainer::{Observer, TrainerConfig};
use crate::whole_file;

/// Marks a data path as a source that the program carries: `embedded:openstax`.
pub const EMBEDDED: &str = "embedded:";

/// Where a run keeps what it makes.
#[derive(Clone, Debug)]
pub struct RunDir {
    root: PathBuf,
}

impl RunDir {
    /// The layout under `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        RunDir { root: root.into() }
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> PathBuf {
        self.root.join(TOKENIZER)
    }

    /// Token shards of a source.
    pub fn shards(&self, source: &str) -> PathBuf {
        self.root.join("data").join(source)
    }

    /// Metrics of all stages.
    pub fn metrics(&self) -> PathBuf {
        self.root.join("metrics.jsonl")
    }

    /// Checkpoints of a stage.
    pub fn checkpoints(&self, stage: Stage) -> PathBuf {
        self.root.join("checkpoints").join(stage.name())
    }

    /// The model that a stage ends with.
    pub fn model(&self, stage: Stage) -> PathBuf {
        match stage {
            Stage::Pretrain => self.root.join("base"),
            Stage::Sft => self.root.join("model"),
            Stage::Dpo => self.root.join("dpo"),
        }
    }

    /// Whether the stage's model is there, whole: its checksums are the last file that a save makes visible.
    pub fn has_model(&self, stage: Stage) -> bool {
        self.model(stage).join(CHECKSUMS).exists()
    }

    /// What became of the preference pairs.
    pub fn pairs(&self) -> PathBuf {
        self.root.join("pairs.json")
    }

    /// What the model that DPO begins with gives for each pair.
    pub fn references(&self) -> PathBuf {
        self.root.join("dpo-references.bin")
    }

    /// The canonical recipe of the stage that ran last: every value as it was used.
    pub fn settings(&self) -> PathBuf {
        self.root.join("settings.toml")
    }

    /// What the conversations are made of: sources, cleaning, what was mixed in, lengths.
    pub fn conversations(&self) -> PathBuf {
        self.root.join("conversations.json")
    }

    /// What cleaning did to the conversations.
    pub fn cleaning(&self) -> PathBuf {
        self.root.join("cleaning.json")
    }
}

/// Hears how the preparation of data and the training go.
pub trait StageObserver: Observer {
    /// Part of a task is done; `total` where known. `unit` is what is counted.
    fn progress(&mut self, task: &str, unit: &'static str, done: u64, total: Option<u64>);
    /// The task is done.
    fn finished(&mut self, task: &str);
    /// The memory that a stage is about to allocate.
    fn planned(&mut self, stage: Stage, choice: &MemoryChoice);
}

/// How a precision holds the matrices of the blocks; the storage type of activations follows from it.
pub fn matrices_of(precision: Precision) -> MatrixFormat {
    match precision {
        Precision::Bf16 => MatrixFormat::Bf16,
        Precision::F32 => MatrixFormat::F32,
        Precision::Fp8 => MatrixFormat::Fp8,
    }
}

fn optimizer_config(settings: &recipe::Optimization, offload: Offload) -> OptimizerConfig {
    OptimizerConfig {
        matrices: match (settings.optimizer, settings.muon_lr) {
            (recipe::Optimizer::Muon, Some(lr)) => MatrixUpdate::Muon { lr: lr as f32, momentum: 0.95 },
            _ => MatrixUpdate::AdamW,
        },
        beta1: settings.beta1 as f32,
        beta2: settings.beta2 as f32,
        eps: settings.eps as f32,
        weight_decay: settings.weight_decay as f32,
        moments: match settings.moments {
            recipe::Moments::F32 => MomentFormat::F32,
            recipe::Moments::Bf16 => MomentFormat::Bf16,
            recipe::Moments::Bits8 => MomentFormat::Bits8,
        },
        weight_rounding: match settings.weight_rounding {
            recipe::WeightRounding::Nearest => Rounding::Nearest,
            recipe::WeightRounding::Stochastic => Rounding::Stochastic,
        },
        place: match offload {
            Offload::None => Place::Device,
            Offload::Optimizer => Place::Host,
        },
    }
}

/// Why there is nothing to train on where the split took all `count` of something.
fn all_held_out(recipe: &Recipe, (key, fraction): (&str, f64), (one, remedy): (&str, &str), count: u64) -> TrainError {
    let all = if count == 1 {
        format!("the only {one} that is kept is")
    } else {
        format!("all {count} {one}s that are kept are")
    };
    TrainError::RecipeValue {
        file: recipe.file.clone(),
        key: key.to_owned(),
        found: fraction.to_string(),
        remedy: format!("{all} held out for validation, and none is left to train on: use less of it, or {remedy}"),
    }
}

/// Opens a stage's checkpoints; refuses to begin over some. To resume from none is to begin.
fn open_store(dir: &RunDir, stage: Stage, keep_last: usize, resume: bool) -> Result<CheckpointStore, TrainError> {
    let path = dir.checkpoints(stage);
    let store = CheckpointStore::new(&path, keep_last)?;
    match store.steps()?.last() {
        Some(step) if !resume => Err(TrainError::RunState {
            path,
            reason: format!("holds a checkpoint of step {step}; add --resume to go on, or choose another run.dir"),
        }),
        _ => Ok(store),
    }
}

/// Refuses a stage whose checkpoints do not fit the disk, before its data is prepared. ([`crate::trainer::Trainer::run`] asks again.)
fn check_room(store: &CheckpointStore, model: &ModelConfig, config: &TrainerConfig) -> Result<(), TrainError> {
    let bytes = snapshot::bytes(model, &config.optimizer);
    let step = store.steps()?.last().copied().unwrap_or(0);
    store.check_room(Ahead { bytes, every: config.checkpoint_every, step, steps: config.schedule.steps })
}

/// Leaves the recipe as it is used in the run's folder, for who wants to know what the run is: of a stage that begins. One that
/// goes on may yet turn out to be another recipe's; then what is there stays, and [`update_settings`] comes at its end.
fn keep_settings(recipe: &Recipe, dir: &RunDir, store: &CheckpointStore) -> Result<(), TrainError> {
    if store.steps()?.is_empty() { update_settings(recipe, dir) } else { Ok(()) }
}

/// The same once the stage has ended or stopped.
fn update_settings(recipe: &Recipe, dir: &RunDir) -> Result<(), TrainError> {
    whole_file::replace(&dir.settings(), recipe.to_toml()?.as_bytes())
}

/// Writes a network as a model directory with its tokenizer.
///
/// # Errors
/// The disk refuses.
pub fn save<D: Device>(
    dir: &Path,
    network: &Network<D>,
    tokenizer: &Tokenizer,
    dtype: StoredDtype,
) -> Result<(), TrainError> {
    let special = tokenizer.special()?;
    let tokenizer_config = serde_json::json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": network.config().context,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "additional_special_tokens": ["<|system|>", "<|user|>", "<|assistant|>"],
        "add_bos_token": false,
        "clean_up_tokenization_spaces": false,
        "chat_template": CHAT_TEMPLATE,
    });
    let generation_config = serde_json::json!({
        "bos_token_id": special.bos,
        "eos_token_id": special.eos,
        "pad_token_id": special.pad,
        "do_sample": true,
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 50,
    });
    let texts = [
        (TOKENIZER, tokenizer.to_json()),
        (TOKENIZER_CONFIG, format!("{tokenizer_config:#}\n")),
        (GENERATION_CONFIG, format!("{generation_config:#}\n")),
    ];
    write_model(dir, network, &texts, dtype)
}

/// Writes a network as a model directory with these texts.
fn write_model<D: Device>(
    dir: &Path,
    network: &Network<D>,
    texts: &[(&str, String)],
    dtype: StoredDtype,
) -> Result<(), TrainError> {
    let texts: Vec<TextFile<'_>> = texts.iter().map(|(name, contents)| TextFile { name, contents }).collect();
    let parameters = &network.parameters;
    let mut at = 0;
    save_model(dir, network.config(), dtype, &texts, |spec| {
        let values = parameters.read(at);
        parameters.device().check()?;
        at += 1;
        let values = values.ok_or_else(|| ModelError::WrongCount {
            name: spec.name.clone(),
            found: 0,
            expected: spec.shape.clone(),
        })?;
        Ok(values.into())
    })?;
    Ok(())
}

/// The model that a recipe describes, over a tokenizer's vocabulary.
fn config_of(recipe: &Recipe) -> Result<ModelConfig, TrainError> {
    let model = &recipe.model;
    let config = ModelConfig {
        vocab_size: recipe.tokenizer.vocab_size,
        n_layer: model.n_layer,
        n_head: model.n_head,
        n_kv_head: model.n_kv_head,
        n_embd: model.n_embd,
        head_dim: model.head_dim,
        n_ff: model.n_ff,
        context: model.context,
        norm: model.norm,
        qk_norm: model.qk_norm,
        activation: model.activation,
        bias: model.bias,
        tie_embeddings: model.tie_embeddings,
        rope_theta: model.rope_theta as f32,
        norm_eps: model.norm_eps as f32,
        dropout: model.dropout as f32,
    };
    config.validate()?;
    Ok(config)
}

/// The matrix peak of the device; a run without it still trains.
fn peak<D: Device>(device: &Arc<D>, dtype: DType) -> Option<f64> {
    crate::peak::measure(&**device, dtype).ok()
}
