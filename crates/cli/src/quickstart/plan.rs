//! The plan: how large a model and how many tokens this machine can do in the time, as a recipe.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use casallm_compute::{DType, Device, DeviceInfo, MatrixFormat};
use casallm_model::config::{Activation, ModelConfig};
use casallm_model::network::Network;
use casallm_model::parameters::Parameters;
use casallm_train::optimizer::MatrixUpdate;
use casallm_train::peak;
use casallm_train::trainer::Trainer;

use crate::args::Quickstart;
use crate::bench::{RandomFeed, fitted, timed_config};
use crate::console::duration;

/// What a recipe of a plan begins with; the minutes follow.
const WRITTEN_BY: &str = "# Written by `casallm quickstart --minutes ";
/// How long it may take where nothing is said.
const MINUTES: f64 = 13.5;

/// Tokens of a row, and rows of an optimizer step: small models like many small steps.
const CONTEXT: usize = 256;
const ROWS: usize = 16;
/// Learning rates of embedding and vectors (AdamW) and of matrices (Muon): the best of a sweep, docs/LOG.md.
const LR: f64 = 8e-3;
const MUON_LR: f64 = 5e-3;
/// The matrices' in fine-tuning. Nearly as high: hundreds of steps must turn a reader into a speaker.
const SFT_MUON_LR: f64 = 4e-3;

/// Share of the fine-tuning conversations that are generated: about the identity, and about anything else in the same
/// form. They are short, so that most tokens are dialogues' all the same. A small model tells one kind of question from
/// the other only after thousands of both.
const IDENTITY_RATE: f64 = 0.8;
/// Tokens of a dialogue and of a generated conversation, on the average.
const DIALOGUE_TOKENS: f64 = 190.0;
const GENERATED_TOKENS: f64 = 45.0;

/// Models by the FLOPs of pre-training that they are best for, smallest first. Twenty tokens a weight would be optimal
/// for one pass over endless text (Hoffmann et al. 2022); embeddings, the corpus's size and what a chat needs pull
/// towards fewer.
const MODELS: [(f64, [usize; 4]); 6] = [
    (3e12, [4, 128, 2, 2048]),
    (6e13, [4, 192, 3, 3072]),
    (3e14, [6, 256, 4, 4096]),
    (3e15, [6, 384, 6, 6144]),
    (2e16, [8, 512, 8, 8192]),
    (f64::INFINITY, [12, 768, 12, 12_288]),
];

/// A plan for people, and the recipe that does it.
pub(super) struct Plan {
    pub(super) text: String,
    pub(super) recipe: String,
}

/// How many minutes a recipe was planned for, if a plan wrote it.
pub(super) fn minutes_of(recipe: &str) -> Option<f64> {
    recipe.strip_prefix(WRITTEN_BY)?.split('`').next()?.parse().ok()
}

/// Seconds for everything but training: tokenizer, shards, validations, questions, report.
fn overhead(total: f64) -> f64 {
    (0.07 * total).clamp(12.0, 60.0)
}

/// Measures the machine and chooses.
pub(super) fn make<D: Device>(flags: &Quickstart, device: &Arc<D>) -> Result<Plan> {
    let minutes = flags.minutes.unwrap_or(MINUTES);
    let total = minutes * 60.0;
    let training = (total - overhead(total)).max(10.0);
    // Four fifths for learning to read, one fifth for learning to answer.
    let (pretrain, sft) = (0.8 * training, 0.2 * training);
    let peak = peak::measure(&**device, DType::Bf16)?;
    // A first guess at the speed decides the model; the model's own speed decides the rest.
    let budget = 0.5 * peak * pretrain;
    let [n_layer, n_embd, n_head, vocab_size] =
        MODELS.iter().find(|(most, _)| budget <= *most).map_or(MODELS[0].1, |(_, shape)| *shape);
    let model = ModelConfig::modern(n_layer, n_embd, n_head, n_head, vocab_size, CONTEXT)?
        .with_activation(Activation::ReluSquared);
    let settings = timed_config(CONTEXT, ROWS, MatrixUpdate::Muon { lr: 1e-6, momentum: 0.95 });
    let (settings, memory) = fitted(&**device, &model, MatrixFormat::Bf16, settings, None)?;
    let speed = measure(device, &model, settings)?;
    let batch = CONTEXT * ROWS;
    let tokens = |seconds: f64| ((speed * seconds / batch as f64) as usize).max(20) * batch;
    let (pretrain_tokens, sft_tokens) = (tokens(pretrain), tokens(sft));
    let steps = pretrain_tokens / batch;
    let generated = IDENTITY_RATE / (1.0 - IDENTITY_RATE);
    let conversations = (sft_tokens as f64 / (DIALOGUE_TOKENS + generated * GENERATED_TOKENS)).max(50.0) as usize;
    let text = format!(
        "plan for {} on {} ({:.0} GFLOP/s measured):\n  model     {} layers, width {n_embd}, {} weights, \
         vocabulary {vocab_size}, context {CONTEXT}\n  pre-train {:.2} M tokens of textbooks at {:.0} tokens/s, about {}\n  \
         fine-tune {:.2} M tokens of conversations, about {}\n  memory    {} MB\n  folder    {}",
        duration(total),
        place(&device.info()),
        peak / 1e9,
        n_layer,
        count(model.n_params()),
        pretrain_tokens as f64 / 1e6,
        speed,
        duration(pretrain),
        sft_tokens as f64 / 1e6,
        duration(sft),
        memory.plan.total() / 1_000_000 + 60,
        flags.dir.display(),
    );
    let recipe = format!(
        r#"{WRITTEN_BY}{minutes}`; run it again by hand with `casallm pretrain` and `casallm sft`.
# {steps} steps of {batch} tokens, {flops:.1} MFLOP a token, {speed:.0} tokens/s when it was planned.

[identity]
name = {name}
maker = {maker}
description = "a small language model trained at home"

[tokenizer]
vocab_size = {vocab_size}
sample_bytes = 16_000_000
digits = 2                     # pairs spare a small vocabulary tokens for numbers; 3, the default, is what llama.cpp knows

[data]
validation_fraction = 0.015
seed = {seed}

[[data.pretrain]]
name = "openstax"
path = "embedded:openstax"

[[data.sft]]
name = "chat"
path = "embedded:chat"
max_rows = {conversations}

[model]
block = "modern"
activation = "relusquared"
n_layer = {n_layer}
n_embd = {n_embd}
n_head = {n_head}
context = {CONTEXT}

[run]
dir = {dir}
seed = {seed}

[pretrain]
tokens = {pretrain_tokens}
batch_tokens = {batch}
micro_batch = {ROWS}
optimizer = "muon"
lr = {LR}
muon_lr = {MUON_LR}
min_lr = 0.0
schedule = "linear"
warmup = {warmup}
cooldown = 0.6
eval_every = {eval_every}
eval_tokens = 65_536
checkpoint_every = {checkpoint_every}
keep_last = 1

[sft]
epochs = 1
batch_tokens = {batch}
micro_batch = {ROWS}
identity_rate = {IDENTITY_RATE}
optimizer = "muon"
lr = {LR}
muon_lr = {SFT_MUON_LR}
min_lr = 0.0
schedule = "linear"
warmup = 10
cooldown = 0.8
eval_every = {sft_eval_every}
eval_tokens = 32_768
checkpoint_every = {checkpoint_every}
keep_last = 1
"#,
        flops = model.flops_per_token(CONTEXT) as f64 / 1e6,
        name = quoted(flags.name.as_deref().unwrap_or("Casa"))?,
        maker = quoted(flags.maker.as_deref().unwrap_or("the Casa family"))?,
        dir = quoted(&flags.dir)?,
        seed = flags.seed.unwrap_or(1),
        warmup = (steps / 20).clamp(2, 40),
        eval_every = (steps / 6).max(1),
        checkpoint_every = (steps / 10).max(1),
        sft_eval_every = (sft_tokens / batch / 3).max(1),
    );
    Ok(Plan { text, recipe })
}

/// A device in a few words.
fn place(info: &DeviceInfo) -> String {
    match info.threads {
        1 => format!("{} ({})", info.name, info.isa),
        threads => format!("{threads} threads ({})", info.isa),
    }
}

fn quoted(value: &(impl serde::Serialize + ?Sized)) -> Result<String> {
    serde_json::to_string(value).context("names must be valid Unicode")
}

fn count(n: usize) -> String {
    format!("{:.1} M", n as f64 / 1e6)
}

/// Tokens a second of training this model: the faster quartile of some steps, the first left out. What else the machine does
/// in these seconds makes steps longer, never shorter.
fn measure<D: Device>(
    device: &Arc<D>,
    model: &ModelConfig,
    settings: casallm_train::trainer::TrainerConfig,
) -> Result<f64> {
    let parameters = Parameters::random(device.clone(), model, DType::Bf16.into(), 1)?;
    let feed = RandomFeed::new(model.vocab_size, CONTEXT, ROWS)?;
    let mut trainer = Trainer::new(Network::new(model.clone(), DType::Bf16, parameters)?, settings)?;
    let begun = Instant::now();
    let mut seconds = Vec::new();
    for step in 0.. {
        let start = Instant::now();
        trainer.step(&feed, step)?;
        if step > 0 {
            seconds.push(start.elapsed().as_secs_f64());
        }
        if seconds.len() >= 5 && begun.elapsed().as_secs_f64() > 8.0 || seconds.len() >= 16 {
            break;
        }
    }
    seconds.sort_by(f64::total_cmp);
    Ok((CONTEXT * ROWS) as f64 / seconds[seconds.len() / 4])
}

/// Writes a small file whole: beside, synced, renamed.
pub(super) fn write(path: &Path, text: &str) -> Result<()> {
    Ok(casallm_data::durable::write_file(path, text.as_bytes())?)
}
