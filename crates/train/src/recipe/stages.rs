//! `[run]`, `[pretrain]` and `[sft]`.

use casallm_model::workspace::Recompute;
use serde::{Deserialize, Serialize, Serializer};
use toml::Value;

use super::guard;
use super::model::Model;
use super::optimization::{MAX_STEPS, Optimization, is_default};
use super::section::{Interval, Section};
use crate::error::TrainError;
use crate::guard::GuardConfig;
use crate::planning::ENOUGH_TOKENS;
use crate::samples::MOST_PROMPTS;
use crate::schedule::Schedule;

/// What computes. It decides nothing: the command line says what does, where the command is run. Recipes have the key from before
/// that, and so have the settings of their checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// The processor.
    Cpu,
}

/// In what numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// bf16 storage, f32 accumulation, f32 master weights.
    Bf16,
    /// f32 throughout.
    F32,
    /// As bf16, the products of the blocks' linear layers of 8-bit operands, but for the weights' gradients: on GPUs of compute
    /// capability 8.9 and later.
    Fp8,
}

/// What lies in the host's memory while a GPU trains. Results do not depend on it; a processor has but one memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Offload {
    /// Nothing.
    #[default]
    None,
    /// The f32 weights of matrices and the optimizer's state of them.
    Optimizer,
}

/// When checkpoints are written. Results do not depend on it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Checkpointing {
    /// While the next steps run, from a copy in the host's memory.
    #[default]
    Background,
    /// Between two steps, which wait for the disk; no copy is made.
    BetweenSteps,
}

/// Where, on what, and from which seed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Run {
    /// Directory of everything that the run makes; relative to the current directory.
    pub dir: String,
    /// Seed of weights, dropout and samples.
    pub seed: u64,
    /// Decides nothing.
    pub device: DeviceKind,
    /// In what numbers.
    pub precision: Precision,
    /// Threads; 0 takes one for each core. Results do not depend on it.
    pub threads: usize,
    /// What lies in the host's memory while a GPU trains.
    pub offload: Offload,
    /// When checkpoints are written.
    #[serde(skip_serializing_if = "is_default")]
    pub checkpoint: Checkpointing,
    /// What is done about steps that are out of the ordinary.
    #[serde(skip_serializing_if = "is_default")]
    pub guard: GuardConfig,
}

impl Run {
    pub(super) fn read(section: &Section<'_>) -> Result<Self, TrainError> {
        Ok(Self {
            dir: section.require("dir", section.text("dir")?, "write where the run goes, like dir = \"runs/casa\"")?,
            seed: section.integer("seed", 0, i64::MAX as u64)?.unwrap_or(1),
            device: match section.text("device")?.as_deref() {
                None | Some("cpu") => DeviceKind::Cpu,
                Some(found) => {
                    return Err(section.bad(
                        "device",
                        format!("\"{found}\""),
                        "leave the key out: what computes is said where the command is run, by --device cuda or --device cpu",
                    ));
                }
            },
            precision: section
                .choice("precision", &[("bf16", Precision::Bf16), ("f32", Precision::F32), ("fp8", Precision::Fp8)])?
                .unwrap_or(Precision::Bf16),
            threads: section.size("threads", 0, 4096)?.unwrap_or(0),
            offload: section
                .choice("offload", &[("none", Offload::None), ("optimizer", Offload::Optimizer)])?
                .unwrap_or_default(),
            checkpoint: section
                .choice(
                    "checkpoint",
                    &[("background", Checkpointing::Background), ("between_steps", Checkpointing::BetweenSteps)],
                )?
                .unwrap_or_default(),
            guard: guard::read(section)?,
        })
    }
}

/// A value, or "auto": what fits the device is chosen when the run begins, see [`crate::planning`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice<T> {
    /// Left open.
    Auto,
    /// Decided.
    Given(T),
}

impl<T> Choice<T> {
    /// What was decided.
    pub fn given(self) -> Option<T> {
        match self {
            Self::Auto => None,
            Self::Given(value) => Some(value),
        }
    }
}

impl<T: Serialize> Serialize for Choice<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Given(value) => value.serialize(serializer),
        }
    }
}

/// The first stage.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Pretrain {
    /// Optimizer steps.
    pub steps: u64,
    /// Tokens of an optimizer step; a multiple of `micro_batch * context`.
    pub batch_tokens: usize,
    /// Rows of a forward and backward pass.
    pub micro_batch: Choice<usize>,
    /// What the backward pass computes again. No number depends on it.
    pub recompute: Choice<Recompute>,
    /// Tokens of a row.
    pub context: usize,
    /// Learning rate, schedule and optimizer.
    #[serde(flatten)]
    pub optimization: Optimization,
    /// Steps between validations.
    pub eval_every: u64,
    /// Tokens of a validation, rounded up to whole rows of each source.
    pub eval_tokens: u64,
    /// What the model goes on from at each validation; `None`: beginnings of held-out data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub samples: Option<Vec<String>>,
    /// Steps between checkpoints.
    pub checkpoint_every: u64,
    /// Checkpoints kept besides the best.
    pub keep_last: usize,
    /// Checkpoints of multiples of so many steps are kept too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_every: Option<u64>,
}

impl Pretrain {
    pub(super) fn read(section: &Section<'_>, model: &Model) -> Result<Self, TrainError> {
        let batch = Batch::read(section, model, 1 << 19)?;
        let steps = section.integer("steps", 1, MAX_STEPS)?;
        let tokens = section.integer("tokens", 1, 1 << 60)?;
        let steps = match (steps, tokens) {
            (Some(steps), None) => steps,
            (None, Some(tokens)) => tokens.div_ceil(batch.tokens as u64),
            (Some(steps), Some(_)) => {
                return Err(section.bad("steps", steps, "tokens is given too: keep one of the two"));
            }
            (None, None) => section.require(
                "tokens",
                None,
                "write how much to train on, like tokens = 10_000_000, or steps = 1000",
            )?,
        };
        if steps > MAX_STEPS {
            return Err(section.bad(
                "tokens",
                tokens.unwrap_or(0),
                format!("that is {steps} steps: raise batch_tokens"),
            ));
        }
        let optimization = Optimization::read(section, 3e-4, 3e-5)?;
        optimization.check_fits(section, steps)?;
        let eval_every = section.integer("eval_every", 1, MAX_STEPS)?.unwrap_or((steps / 20).clamp(1, 250));
        let checkpoint_every = section.integer("checkpoint_every", 1, MAX_STEPS)?.unwrap_or(eval_every);
        Ok(Self {
            steps,
            batch_tokens: batch.tokens,
            micro_batch: batch.micro_batch,
            recompute: batch.recompute,
            context: batch.context,
            optimization,
            eval_every,
            eval_tokens: section.integer("eval_tokens", 1, 1 << 50)?.unwrap_or(1 << 18),
            samples: samples(section)?,
            checkpoint_every,
            keep_last: section.size("keep_last", 1, 1 << 20)?.unwrap_or(2),
            keep_every: keep_every(section, checkpoint_every)?,
        })
    }

    /// Tokens of the whole stage.
    pub fn tokens(&self) -> u64 {
        self.steps.saturating_mul(self.batch_tokens as u64)
    }

    /// Rows of a micro-batch; while that is open, those of about 8,192 tokens.
    pub fn micro_rows(&self) -> usize {
        self.micro_batch.given().unwrap_or_else(|| usual_micro_batch(self.batch_tokens, self.context))
    }

    /// Micro-batches of an optimizer step.
    pub fn accumulation(&self) -> usize {
        self.batch_tokens / (self.micro_rows() * self.context)
    }

    /// The learning rate of every step.
    pub fn schedule(&self) -> Schedule {
        self.optimization.schedule(self.steps)
    }
}

/// The second stage.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sft {
    /// The model directory that it begins with, relative to the recipe's folder; `None`: the run's own pre-trained model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Passes over the conversations.
    pub epochs: u64,
    /// Tokens of an optimizer step, what packing leaves empty included; a multiple of `micro_batch * context`.
    pub batch_tokens: usize,
    /// Rows of a forward and backward pass.
    pub micro_batch: Choice<usize>,
    /// What the backward pass computes again. No number depends on it.
    pub recompute: Choice<Recompute>,
    /// Tokens of a row, into which conversations are packed.
    pub context: usize,
    /// Share of the conversations that is generated: the identity, and contrasts to it.
    pub identity_rate: f64,
    /// Share of the conversations without a system message that get one.
    #[serde(skip_serializing_if = "is_default")]
    pub system_rate: f64,
    /// Learning rate, schedule and optimizer.
    #[serde(flatten)]
    pub optimization: Optimization,
    /// Steps between validations.
    pub eval_every: u64,
    /// Tokens of a validation, rounded up to whole rows of each source.
    pub eval_tokens: u64,
    /// What the model goes on from at each validation; `None`: beginnings of held-out data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub samples: Option<Vec<String>>,
    /// Steps between checkpoints.
    pub checkpoint_every: u64,
    /// Checkpoints kept besides the best.
    pub keep_last: usize,
    /// Checkpoints of multiples of so many steps are kept too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_every: Option<u64>,
}

impl Sft {
    pub(super) fn read(section: &Section<'_>, model: &Model) -> Result<Self, TrainError> {
        let context = section.size("context", 1, 1 << 24)?.unwrap_or(model.context);
        let batch = Batch::read(section, model, context.saturating_mul(32))?;
        let eval_every = section.integer("eval_every", 1, MAX_STEPS)?.unwrap_or(100);
        let checkpoint_every = section.integer("checkpoint_every", 1, MAX_STEPS)?.unwrap_or(eval_every);
        Ok(Self {
            from: section.text("from")?,
            epochs: section.integer("epochs", 1, 10_000)?.unwrap_or(3),
            batch_tokens: batch.tokens,
            micro_batch: batch.micro_batch,
            recompute: batch.recompute,
            context: batch.context,
            identity_rate: section.number("identity_rate", Interval::BELOW_ONE)?.unwrap_or(0.05),
            system_rate: section.number("system_rate", Interval::BELOW_ONE)?.unwrap_or(0.0),
            optimization: Optimization::read(section, 5e-5, 1e-5)?,
            eval_every,
            eval_tokens: section.integer("eval_tokens", 1, 1 << 50)?.unwrap_or(1 << 17),
            samples: samples(section)?,
            checkpoint_every,
            keep_last: section.size("keep_last", 1, 1 << 20)?.unwrap_or(2),
            keep_every: keep_every(section, checkpoint_every)?,
        })
    }

    /// Rows of a micro-batch; while that is open, those of about 8,192 tokens.
    pub fn micro_rows(&self) -> usize {
        self.micro_batch.given().unwrap_or_else(|| usual_micro_batch(self.batch_tokens, self.context))
    }

    /// The learning rate of every step; how many there are is known once the conversations are packed.
    pub fn schedule(&self, steps: u64) -> Schedule {
        self.optimization.schedule(steps)
    }
}

/// Reads `samples`.
pub(super) fn samples(section: &Section<'_>) -> Result<Option<Vec<String>>, TrainError> {
    let texts = section.texts("samples")?;
    match &texts {
        Some(texts) if texts.len() > MOST_PROMPTS => {
            Err(section.bad("samples", format!("{} texts", texts.len()), format!("use at most {MOST_PROMPTS}")))
        }
        _ => Ok(texts),
    }
}

/// Reads `keep_every`: of other steps there is no checkpoint to keep.
pub(super) fn keep_every(section: &Section<'_>, checkpoint_every: u64) -> Result<Option<u64>, TrainError> {
    let every = section.integer("keep_every", 1, MAX_STEPS)?;
    if let Some(every) = every.filter(|every| every % checkpoint_every != 0) {
        let next = every.next_multiple_of(checkpoint_every);
        let remedy = format!("use a multiple of checkpoint_every = {checkpoint_every}, like {next}");
        return Err(section.bad("keep_every", every, remedy));
    }
    Ok(every)
}

/// How an optimizer step is cut into micro-batches of rows.
pub(super) struct Batch {
    pub(super) tokens: usize,
    pub(super) micro_batch: Choice<usize>,
    pub(super) recompute: Choice<Recompute>,
    pub(super) context: usize,
}

/// Rows of a micro-batch that keeps the matrix kernels busy at little memory.
pub(super) fn usual_micro_batch(step_tokens: usize, context: usize) -> usize {
    divisor_below(step_tokens / context, (ENOUGH_TOKENS / context).max(1))
}

impl Batch {
    pub(super) fn read(section: &Section<'_>, model: &Model, default_tokens: usize) -> Result<Self, TrainError> {
        let context = section.size("context", 1, 1 << 24)?.unwrap_or(model.context);
        if context > model.context {
            return Err(section.bad(
                "context",
                context,
                format!(
                    "the model reads at most model.context = {}: lower this, or raise model.context",
                    model.context
                ),
            ));
        }
        let tokens = section.size("batch_tokens", 1, 1 << 40)?.unwrap_or(default_tokens);
        if tokens % context != 0 {
            let below = tokens / context * context;
            let near = if below == 0 { format!("{context}") } else { format!("{below} or {}", below + context) };
            return Err(section.bad(
                "batch_tokens",
                tokens,
                format!("a step is made of whole rows of context = {context}: use a multiple, like {near}"),
            ));
        }
        let rows = tokens / context;
        let (auto, given) = match section.value("micro_batch") {
            Some(Value::String(text)) if text == "auto" => (true, None),
            Some(found @ Value::String(_)) => {
                return Err(section.wrong_type("micro_batch", found, "a whole number of rows, like 8, or \"auto\""));
            }
            _ => (false, section.size("micro_batch", 1, 1 << 24)?),
        };
        let micro_batch = match given {
            Some(micro_batch) if !rows.is_multiple_of(micro_batch) => {
                return Err(section.bad(
                    "micro_batch",
                    micro_batch,
                    format!(
                        "a step of batch_tokens = {tokens} has {rows} rows of context = {context}: use a divisor of \
                         {rows}, like {}",
                        divisor_below(rows, micro_batch)
                    ),
                ));
            }
            Some(micro_batch) => Choice::Given(micro_batch),
            None if auto => Choice::Auto,
            None => Choice::Given(usual_micro_batch(tokens, context)),
        };
        let levels = Recompute::ALL.map(|level| (level.name(), Choice::Given(level)));
        let recompute = section.choice("recompute", &[&[("auto", Choice::Auto)], &levels[..]].concat())?;
        Ok(Self { tokens, micro_batch, recompute: recompute.unwrap_or(Choice::Auto), context })
    }
}

/// The largest divisor of `n` that is at most `limit`.
fn divisor_below(n: usize, limit: usize) -> usize {
    (1..=limit.min(n)).rev().find(|candidate| n.is_multiple_of(*candidate)).unwrap_or(1)
}
