//! What a stage will see, before it is paid for: its first batches as training makes them, and numbers about all of its data.
//! Nothing is trained, and nothing is written but what the stage would write first: a tokenizer and shards that are not there.

use std::sync::Arc;

use casallm_data::batch::Batch;
use casallm_data::chat::ChatTemplate;
use casallm_data::lengths::Lengths;
use casallm_data::preferences::PairReport;
use casallm_data::shards::{Manifest, ShardSet};
use casallm_data::split::Split;
use casallm_data::tokenizer::Tokenizer;
use serde::Serialize;

use super::conversations::{ConversationsReport, gather};
use super::dpo::Pairs;
use super::packing::Packing;
use super::sft::{Base, model_of};
use super::{Prepared, RunDir, StageObserver, pretrain, shards, tokenizer};
use crate::error::TrainError;
use crate::feed::{DpoFeed, Feed};
use crate::interrupt::Interrupt;
use crate::recipe::{Recipe, Stage};
use crate::run_lock::RunLock;

/// Tokens of a source whose documents are measured, from its first on.
const MOST_MEASURED: u64 = 20_000_000;
/// Tokens read at once.
const CHUNK: u64 = 1 << 20;

/// A stage's data, looked at.
pub struct Inspected {
    /// The stage.
    pub stage: Stage,
    /// What its ids mean.
    pub tokenizer: Arc<Tokenizer>,
    /// Its first micro-batches, in the order of training.
    pub batches: Vec<Batch>,
    /// Its optimizer steps.
    pub steps: u64,
    /// Tokens of one of them, what packing leaves empty included.
    pub step_tokens: usize,
    /// All of its data in numbers.
    pub data: InspectedData,
}

/// A stage's data in numbers.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum InspectedData {
    /// Of pre-training, by source.
    Documents(Vec<DocumentsReport>),
    /// Of fine-tuning.
    Conversations(Box<ConversationsReport>),
    /// Of DPO.
    Pairs(Box<PairsReport>),
}

/// A source of documents.
#[derive(Clone, Debug, Serialize)]
pub struct DocumentsReport {
    /// Its name.
    pub name: String,
    /// Its share of rows, relative to the others.
    pub weight: f64,
    /// Documents to train on.
    pub documents: u64,
    /// Their tokens, `<s>` and `</s>` included.
    pub tokens: u64,
    /// Bytes of their text.
    pub bytes: u64,
    /// Tokens held out for validation.
    pub held_out: u64,
    /// Tokens of a document, of the first twenty million tokens.
    pub lengths: Lengths,
}

/// Preference pairs.
#[derive(Clone, Debug, Serialize)]
pub struct PairsReport {
    /// Pairs to train on.
    pub trained: usize,
    /// Pairs held out.
    pub held_out: usize,
    /// What became of the rows.
    pub rows: PairReport,
    /// Tokens of a prompt.
    pub prompts: Lengths,
    /// Tokens of a chosen answer, its end included.
    pub chosen: Lengths,
    /// Tokens of a rejected answer, its end included.
    pub rejected: Lengths,
}

/// Looks at a stage's data; `count` micro-batches are shown, or as many as there are.
///
/// # Errors
/// The recipe has no such stage, or its data cannot be read.
pub fn inspect(
    recipe: &Recipe,
    stage: Stage,
    count: usize,
    observer: &mut dyn StageObserver,
) -> Result<Inspected, TrainError> {
    match stage {
        Stage::Pretrain => documents(recipe, count, observer),
        Stage::Sft => conversations(recipe, count, observer),
        Stage::Dpo => pairs(recipe, count, observer),
    }
}

/// The first micro-batches of a feed.
fn first(feed: &dyn Feed, steps: u64, count: usize) -> Result<Vec<Batch>, TrainError> {
    let mut batches = Vec::new();
    for step in 0..steps {
        if batches.len() >= count {
            break;
        }
        batches.extend(feed.micro_batches(step)?);
    }
    batches.truncate(count);
    Ok(batches)
}

fn documents(recipe: &Recipe, count: usize, observer: &mut dyn StageObserver) -> Result<Inspected, TrainError> {
    let stage = recipe.pretrain()?;
    let dir = RunDir::new(&recipe.run.dir);
    let complete = |name: &str| Manifest::load(&dir.shards(name)).is_ok_and(|manifest| manifest.complete);
    let ready = dir.tokenizer().exists() && recipe.data.pretrain.iter().all(|source| complete(&source.name));
    // What is there is only read, also of a run that is training now.
    let _lock = (!ready).then(|| RunLock::acquire(dir.root())).transpose()?;
    let tokenizer = Arc::new(tokenizer(recipe, &dir, &Interrupt::new(), observer)?);
    let prepared = shards(recipe, &dir, &tokenizer, ready, &Interrupt::new(), observer)?;
    let feed = pretrain::open(recipe, stage, &dir, &tokenizer, &prepared)?.feed;
    let of = |source: &Prepared| document_report(&dir, source, &tokenizer);
    Ok(Inspected {
        stage: Stage::Pretrain,
        batches: first(&feed, stage.steps, count)?,
        steps: stage.steps,
        step_tokens: stage.batch_tokens,
        data: InspectedData::Documents(prepared.iter().map(of).collect::<Result<_, _>>()?),
        tokenizer,
    })
}

fn document_report(dir: &RunDir, source: &Prepared, tokenizer: &Tokenizer) -> Result<DocumentsReport, TrainError> {
    let set = ShardSet::open(&dir.shards(&source.name), Split::Train, tokenizer)?;
    Ok(DocumentsReport {
        name: source.name.clone(),
        weight: source.weight,
        documents: source.manifest.documents_of(Split::Train),
        tokens: set.tokens(),
        bytes: set.bytes(),
        held_out: source.manifest.tokens_of(Split::Val),
        lengths: Lengths::of(document_lengths(&set, tokenizer.special()?.bos)?),
    })
}

/// Tokens of each whole document, from one `<s>` to the next.
fn document_lengths(set: &ShardSet, bos: u32) -> Result<Vec<usize>, TrainError> {
    let end = set.tokens().min(MOST_MEASURED);
    let (mut lengths, mut begun, mut ids) = (Vec::new(), None, Vec::new());
    let mut at = 0;
    while at < end {
        ids.clear();
        set.read(at, CHUNK.min(end - at), &mut ids)?;
        for place in ids.iter().enumerate().filter(|(_, id)| **id == bos).map(|(i, _)| at + i as u64) {
            lengths.extend(begun.replace(place).map(|begun| (place - begun) as usize));
        }
        at += (ids.len() as u64).max(1);
    }
    if end == set.tokens() {
        lengths.extend(begun.map(|begun| (end - begun) as usize));
    }
    Ok(lengths)
}

/// The tokenizer of the pre-trained model, where there is one; or the run's, or one that is trained now.
fn tokenizer_of(recipe: &Recipe, observer: &mut dyn StageObserver) -> Result<Arc<Tokenizer>, TrainError> {
    let dir = RunDir::new(&recipe.run.dir);
    if dir.has_model(Stage::Pretrain) {
        return Ok(Arc::new(model_of(recipe, Stage::Pretrain)?.1));
    }
    let path = dir.tokenizer();
    if !path.exists() && recipe.data.pretrain.is_empty() {
        return Err(TrainError::RunState {
            path,
            reason:
                "there is no tokenizer yet: run `casallm pretrain` first, or name the model to begin with: sft.from"
                    .to_owned(),
        });
    }
    let _lock = (!path.exists()).then(|| RunLock::acquire(dir.root())).transpose()?;
    match tokenizer(recipe, &dir, &Interrupt::new(), observer) {
        // Of whoever asks for conversations nobody expects that text is needed.
        Err(TrainError::RecipeNoFiles { file, key, found, remedy }) => Err(TrainError::RecipeNoFiles {
            remedy: format!(
                "{remedy}; it is needed because there is no {} yet, which is learned from it",
                path.display()
            ),
            file,
            key,
            found,
        }),
        found => Ok(Arc::new(found?)),
    }
}

/// What conversations are rendered by: what the model brings that a stage begins with, where there is one yet, or the run's own.
fn renderer(
    base: Option<Base>,
    recipe: &Recipe,
    observer: &mut dyn StageObserver,
) -> Result<(Arc<Tokenizer>, ChatTemplate), TrainError> {
    if let Some(base) = base {
        return Ok((base.tokenizer, base.template));
    }
    let tokenizer = tokenizer_of(recipe, observer)?;
    let template = ChatTemplate::own(&tokenizer)?;
    Ok((tokenizer, template))
}

fn conversations(recipe: &Recipe, count: usize, observer: &mut dyn StageObserver) -> Result<Inspected, TrainError> {
    let stage = recipe.sft()?;
    let base = recipe.sft_from().is_some().then(|| Base::of(recipe)).transpose()?;
    let (tokenizer, template) = renderer(base, recipe, observer)?;
    let found = gather(recipe, stage, &template, observer)?;
    let (feed, fit) = Packing::of(recipe, stage, &tokenizer, &template).feed(stage, &found.train)?;
    Ok(Inspected {
        stage: Stage::Sft,
        batches: first(&feed, feed.steps(), count)?,
        steps: feed.steps(),
        step_tokens: stage.batch_tokens,
        data: InspectedData::Conversations(Box::new(found.report(&feed, &fit))),
        tokenizer,
    })
}

fn pairs(recipe: &Recipe, count: usize, observer: &mut dyn StageObserver) -> Result<Inspected, TrainError> {
    let stage = recipe.dpo()?;
    let base = RunDir::new(&recipe.run.dir).has_model(Stage::Sft).then(|| Base::tuned(recipe)).transpose()?;
    let (tokenizer, template) = renderer(base, recipe, observer)?;
    let found = Pairs::gather(recipe, stage, &tokenizer, &template, observer)?;
    let plan = found.train.plan(0, stage.batch_tokens);
    let all = || found.train.pairs().iter();
    let answers = |which: usize| Lengths::of(all().map(|pair| pair.supervised()[which]));
    Ok(Inspected {
        stage: Stage::Dpo,
        batches: (0..plan.len().min(count)).filter_map(|i| plan.batch(i)).collect(),
        steps: DpoFeed::steps(&found.train, stage.epochs, stage.batch_tokens),
        step_tokens: stage.batch_tokens,
        data: InspectedData::Pairs(Box::new(PairsReport {
            trained: found.train.pairs().len(),
            held_out: found.held_out.as_ref().map_or(0, |set| set.pairs().len()),
            prompts: Lengths::of(all().map(|pair| pair.prompt.len())),
            chosen: answers(0),
            rejected: answers(1),
            rows: found.report.clone(),
        })),
        tokenizer,
    })
}
