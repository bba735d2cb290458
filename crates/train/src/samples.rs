//! What the model writes at each validation, so that whoever watches a run can read how it goes.
//!
//! Every prompt is a sequence of its own in a cache that lives only while they are written; sampling begins with the same
//! seed each time. So samples are a function of the weights, repeat to the bit, and change nothing of the training.

use std::sync::Arc;

use casallm_compute::{Device, MatrixFormat};
use casallm_data::batch::Batch;
use casallm_data::chat::{ChatTemplate, Message, Turn};
use casallm_data::tokenizer::Tokenizer;
use casallm_model::config::ModelConfig;
use casallm_model::memory::MemoryPlan;
use casallm_model::network::{KvCache, Network};
use casallm_model::sampler::{Sampler, SamplerConfig};
use casallm_model::sequences::{Piece, Sequences};
use casallm_model::workspace::{self, WorkspaceShape};

use crate::error::TrainError;
use crate::recipe::Stage;

/// Longest prompt, in tokens.
pub const PROMPT_TOKENS: usize = 64;
/// Longest text that follows one, in tokens.
pub const NEW_TOKENS: usize = 48;
/// Most prompts of a stage.
pub const MOST_PROMPTS: usize = 8;
/// Tokens of a document that its continuation begins with, where the recipe names no prompts.
const BEGINNING: usize = 8;

/// A text to go on from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// As a person reads it.
    pub text: String,
    /// As the model does.
    pub ids: Vec<u32>,
}

/// The prompts of a stage.
pub struct Samples {
    prompts: Vec<Prompt>,
    tokenizer: Arc<Tokenizer>,
    stop: Vec<u32>,
    seed: u64,
}

impl Samples {
    /// Goes on from `prompts` to what ends an answer by `template`; those that leave no room in `context` are left out.
    pub fn new(
        prompts: Vec<Prompt>,
        tokenizer: Arc<Tokenizer>,
        template: &ChatTemplate,
        context: usize,
        seed: u64,
    ) -> Self {
        let fits = |prompt: &Prompt| !prompt.ids.is_empty() && prompt.ids.len() < capacity(context);
        let prompts = prompts.into_iter().filter(fits).take(MOST_PROMPTS).collect();
        Samples { prompts, tokenizer, stop: template.stop_ids().to_vec(), seed }
    }

    /// What the network writes as it is now: each prompt with its continuation.
    ///
    /// # Errors
    /// The memory cannot be had, or the device has failed.
    pub fn write<D: Device>(&self, network: &Network<D>) -> Result<Vec<(String, String)>, TrainError> {
        if self.prompts.is_empty() {
            return Ok(Vec::new());
        }
        let capacity = capacity(network.config().context);
        let vocab_size = network.config().vocab_size;
        let config = SamplerConfig { temperature: 0.7, top_p: 0.9, seed: self.seed, ..SamplerConfig::default() };
        let mut sequences = self.sequences(network)?;
        let mut writing = Vec::with_capacity(self.prompts.len());
        for (sequence, prompt) in self.prompts.iter().enumerate() {
            let mut sampler = Sampler::new(config.clone())?;
            let piece = Piece { sequence, at: 0, ids: &prompt.ids, logits: true };
            let first = sampler.sample(sequences.forward(&[piece])?, &prompt.ids)?;
            writing.push(Writing { sequence, sampler, ids: prompt.ids.clone(), next: Some(first) });
        }
        loop {
            for one in &mut writing {
                let full = one.ids.len() + 1 >= capacity.min(self.prompts[one.sequence].ids.len() + NEW_TOKENS);
                match one.next {
                    Some(id) if !self.stop.contains(&id) => one.ids.push(id),
                    _ => one.next = None,
                }
                if full {
                    one.next = None;
                }
            }
            let last: Vec<Piece<'_>> = writing
                .iter()
                .filter(|one| one.next.is_some())
                .map(|one| {
                    let at = one.ids.len() - 1;
                    Piece { sequence: one.sequence, at, ids: &one.ids[at..], logits: true }
                })
                .collect();
            if last.is_empty() {
                break;
            }
            let logits = sequences.forward(&last)?;
            let going = writing.iter_mut().filter(|one| one.next.is_some());
            for (one, logits) in going.zip(logits.chunks_exact(vocab_size)) {
                one.next = Some(one.sampler.sample(logits, &one.ids)?);
            }
        }
        let text = |one: &Writing| self.tokenizer.decode(&one.ids[self.prompts[one.sequence].ids.len()..]);
        Ok(writing.iter().map(|one| (self.prompts[one.sequence].text.clone(), text(one))).collect())
    }

    /// Room for all prompts and what follows them.
    fn sequences<'a, D: Device>(&self, network: &'a Network<D>) -> Result<Sequences<&'a Network<D>, D>, TrainError> {
        let (count, context) = (self.prompts.len(), network.config().context);
        Ok(Sequences::new(network, count, capacity(context), pass_tokens(count, context))?)
    }
}

/// A continuation that is being written.
struct Writing {
    sequence: usize,
    sampler: Sampler,
    ids: Vec<u32>,
    /// The token that comes next; `None` at the end.
    next: Option<u32>,
}

/// Tokens that a sequence can hold.
fn capacity(context: usize) -> usize {
    context.min(PROMPT_TOKENS + NEW_TOKENS)
}

/// Tokens of the longest pass: a prompt, or one of each sequence.
fn pass_tokens(count: usize, context: usize) -> usize {
    count.max(capacity(context).min(PROMPT_TOKENS))
}

/// Bytes that [`Samples::write`] takes for so many prompts, and gives back.
pub fn bytes<D: Device>(device: &D, model: &ModelConfig, matrices: MatrixFormat, count: usize) -> u64 {
    if count == 0 {
        return 0;
    }
    let (capacity, dtype) = (capacity(model.context), matrices.activations());
    let tokens = pass_tokens(count, model.context);
    let shape = WorkspaceShape { tokens, sequence: capacity, dtype, matrices, training: None };
    let mut plan = MemoryPlan::of(device);
    workspace::plan(device, model, shape, &mut plan);
    let rows = count as u64 * (dtype.size() * model.n_embd + 4 * model.vocab_size) as u64;
    plan.on_device() + KvCache::<D::Buffer>::bytes(model, dtype.into(), count * capacity) + rows
}

/// How many prompts a stage may come to have, before its data is read.
pub fn count(given: Option<&[String]>, matrices: MatrixFormat) -> usize {
    match (matrices, given) {
        // Products of a single row in 8 bits are not a thing that GPUs have.
        (MatrixFormat::Fp8, _) => 0,
        (_, Some(given)) => given.len(),
        (_, None) => DEFAULT_PROMPTS,
    }
}

/// Prompts where the recipe names none.
pub const DEFAULT_PROMPTS: usize = 3;

/// The recipe's prompts: beginnings of text in pre-training, questions afterwards.
///
/// # Errors
/// One is longer than [`PROMPT_TOKENS`], or leaves no room in `context`.
pub fn given(
    stage: Stage,
    texts: &[String],
    tokenizer: &Tokenizer,
    template: &ChatTemplate,
    context: usize,
) -> Result<Vec<Prompt>, TrainError> {
    let most = PROMPT_TOKENS.min(context.saturating_sub(1));
    let one = |(i, text): (usize, &String)| {
        let prompt = match stage {
            Stage::Pretrain => beginning(text, tokenizer)?,
            Stage::Sft | Stage::Dpo => question(text, tokenizer, template)?,
        };
        match prompt.ids.len() {
            tokens if tokens > most => Err(TrainError::SampleTooLong { stage: stage.name(), number: i, tokens, most }),
            _ => Ok(prompt),
        }
    };
    texts.iter().enumerate().map(one).collect()
}

/// Text that a document begins with.
fn beginning(text: &str, tokenizer: &Tokenizer) -> Result<Prompt, TrainError> {
    let mut ids = vec![tokenizer.special()?.bos];
    tokenizer.encode_into(text, &mut ids);
    Ok(Prompt { text: text.to_owned(), ids })
}

/// What a person asks.
pub(crate) fn question(text: &str, tokenizer: &Tokenizer, template: &ChatTemplate) -> Result<Prompt, TrainError> {
    let message = Message::user(text);
    let ids = template.render_prompt(&[Turn::of(&message)], tokenizer)?;
    Ok(Prompt { text: text.to_owned(), ids })
}

/// The first words of held-out documents: of the first that begins in each batch, until there are enough.
///
/// # Errors
/// The tokenizer is not one of ours.
pub(crate) fn beginnings<'a>(
    batches: impl Iterator<Item = &'a Batch>,
    tokenizer: &Tokenizer,
) -> Result<Vec<Prompt>, TrainError> {
    let special = tokenizer.special()?;
    let is_text = |id: u32| tokenizer.token_bytes(id).is_some_and(|bytes| !bytes.is_empty());
    let begins = |batch: &Batch| {
        let at = batch.tokens.iter().position(|id| *id == special.bos)?;
        let words = batch.tokens[at + 1..].iter().take(BEGINNING).take_while(|id| is_text(**id));
        let ids: Vec<u32> = std::iter::once(special.bos).chain(words.copied()).collect();
        let text = tokenizer.decode(&ids[1..]);
        (ids.len() > 1).then_some(Prompt { text, ids })
    };
    Ok(batches.filter_map(begins).take(DEFAULT_PROMPTS).collect())
}

#[cfg(test)]
mod tests;
