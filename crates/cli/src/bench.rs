//! `casallm bench`: speed as one JSON line.

pub(crate) mod flags;

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, bail};
use casallm_compute::{Device, MatrixFormat, MatrixUse, MomentFormat, Place, Rounding, memory::peak_resident};
use casallm_data::batch::Batch;
use casallm_model::config::ModelConfig;
use casallm_model::network::{KvCache, Network};
use casallm_model::parameters::Parameters;
use casallm_model::sequences::{Piece, Sequences};
use casallm_model::specification::init_parameter;
use casallm_model::workspace::Recompute;
use casallm_train::TrainError;
use casallm_train::feed::Feed;
use casallm_train::optimizer::{MatrixUpdate, OptimizerConfig};
use casallm_train::planning::{Asked, MemoryChoice, Planner};
use casallm_train::recipe::Stage;
use casallm_train::schedule::{Schedule, Shape};
use casallm_train::trainer::{Trainer, TrainerConfig};
use serde_json::json;

use crate::Ended;
use crate::args::{
    BenchGenerate, BenchTrain, BlockKind, Dimensions, MomentKind, OffloadKind, OptimizerKind, RecomputeKind,
    RoundingKind,
};
use crate::devices::{self, on_device};
use crate::streams::print;

/// Most tokens of a step: beyond any memory, and far from where counting its bytes would overflow.
pub(crate) const MAX_TOKENS: usize = 1 << 40;

/// Tokens of a prompt that are read at a time, as a server does.
const PASS_TOKENS: usize = 512;

/// A model of the flags' dimensions.
pub(crate) fn config(dimensions: &Dimensions, context: usize) -> Result<ModelConfig> {
    let Dimensions { n_layer, n_embd, n_head, n_kv_head, vocab_size, block } = *dimensions;
    Ok(match block {
        BlockKind::Classic if n_kv_head.is_some_and(|n| n != n_head) => {
            bail!("--n-kv-head is for --block modern: the classic block has as many as --n-head")
        }
        BlockKind::Classic => ModelConfig::classic(n_layer, n_embd, n_head, vocab_size, context)?,
        BlockKind::Modern => {
            ModelConfig::modern(n_layer, n_embd, n_head, n_kv_head.unwrap_or(n_head), vocab_size, context)?
        }
    })
}

/// Pseudo-random ids: as hard to predict as anything.
pub(crate) fn ids(count: usize, vocab_size: usize, seed: u64) -> Vec<u32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) % vocab_size as u64) as u32
        })
        .collect()
}

/// The same random rows at every step, made once.
pub(crate) struct RandomFeed(Batch);

impl RandomFeed {
    /// `rows` rows of `context` tokens.
    pub(crate) fn new(vocab_size: usize, context: usize, rows: usize) -> Result<Self> {
        let ids = ids(rows * (context + 1), vocab_size, 1);
        Ok(RandomFeed(Batch::from_rows(ids.chunks_exact(context + 1))?))
    }
}

impl Feed for RandomFeed {
    fn micro_batches(&self, _: u64) -> Result<Vec<Batch>, TrainError> {
        Ok(vec![self.0.clone()])
    }

    fn describe(&self, _: u64) -> String {
        "random tokens".to_owned()
    }
}

/// Settings of a trainer that is only timed.
pub(crate) fn timed_config(context: usize, rows: usize, matrices: MatrixUpdate) -> TrainerConfig {
    TrainerConfig {
        stage: Stage::Pretrain,
        settings: String::new(),
        // So small that random data does no harm.
        schedule: Schedule { shape: Shape::Cosine, steps: u64::MAX, warmup: 0, cooldown: 0, peak: 1e-6, min: 1e-6 },
        clip: 1.0,
        optimizer: OptimizerConfig { matrices, ..Default::default() },
        eval_every: u64::MAX,
        checkpoint_every: u64::MAX,
        background: true,
        guard: Default::default(),
        seed: 1,
        micro_tokens: context * rows,
        recompute: Recompute::Light,
        step_tokens: context * rows,
        context,
        samples: 0,
        peak: None,
    }
}

/// Settings with the recomputation asked for, or the least that fits.
pub(crate) fn fitted<D: Device>(
    device: &D,
    model: &ModelConfig,
    matrices: MatrixFormat,
    settings: TrainerConfig,
    recompute: Option<Recompute>,
) -> Result<(TrainerConfig, MemoryChoice)> {
    let asked = Asked { micro_batch: Some(settings.micro_tokens / settings.context), recompute };
    let choice =
        Planner { device, model, matrices, config: &settings, available: device.available_bytes() }.choose(asked)?;
    Ok((TrainerConfig { recompute: choice.recompute, ..settings }, choice))
}

/// The update that a flag means, with a rate as small.
pub(crate) fn matrix_update(optimizer: OptimizerKind) -> MatrixUpdate {
    match optimizer {
        OptimizerKind::Adamw => MatrixUpdate::AdamW,
        OptimizerKind::Muon => MatrixUpdate::Muon { lr: 1e-6, momentum: 0.95 },
    }
}

/// The middle value.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Training steps.
pub(crate) fn train(flags: &BenchTrain) -> Result<Ended> {
    if flags.steps == 0 || flags.batch == 0 {
        bail!("--steps and --batch must be at least 1");
    }
    if flags.batch.checked_mul(flags.context).is_none_or(|tokens| tokens > MAX_TOKENS) {
        bail!("--batch {} of --context {}: use at most {MAX_TOKENS} tokens in all", flags.batch, flags.context);
    }
    let model = config(&flags.dimensions, flags.context)?;
    let result = on_device!(devices::open(&flags.compute, 0)?, device => train_on(flags, &model, device)?);
    report(&result, flags.json)?;
    Ok(Ended::Done)
}

fn train_on<D: Device>(flags: &BenchTrain, model: &ModelConfig, device: Arc<D>) -> Result<serde_json::Value> {
    let format = devices::matrices(flags.precision);
    device.supports(format)?;
    let asked = flags.recompute.map(|kind| match kind {
        RecomputeKind::None => Recompute::None,
        RecomputeKind::Light => Recompute::Light,
        RecomputeKind::Block => Recompute::Block,
    });
    let mut settings = timed_config(flags.context, flags.batch, matrix_update(flags.optimizer));
    settings.optimizer.moments = match flags.moments {
        MomentKind::F32 => MomentFormat::F32,
        MomentKind::Bf16 => MomentFormat::Bf16,
        MomentKind::Bits8 => MomentFormat::Bits8,
    };
    settings.optimizer.weight_rounding = match flags.weight_rounding {
        RoundingKind::Nearest => Rounding::Nearest,
        RoundingKind::Stochastic => Rounding::Stochastic,
    };
    settings.optimizer.place = match flags.offload {
        OffloadKind::None => Place::Device,
        OffloadKind::Optimizer => Place::Host,
    };
    let (settings, memory) = fitted(&*device, model, format, settings, asked)?;
    let feed = RandomFeed::new(model.vocab_size, flags.context, flags.batch)?;
    let parameters = Parameters::random_at(device.clone(), model, format, 1, settings.optimizer.place)?;
    let moments = settings.optimizer.moments.name();
    let mut trainer = Trainer::new(Network::new(model.clone(), format.activations(), parameters)?, settings)?;
    let mut seconds = Vec::new();
    for step in 0..=flags.steps as u64 {
        let begun = Instant::now();
        trainer.step(&feed, step)?;
        if step > 0 {
            seconds.push(begun.elapsed().as_secs_f64());
        }
    }
    let step = median(seconds);
    let tokens = (flags.batch * flags.context) as f64;
    let flops = model.flops_per_token(flags.context) as f64 * tokens;
    let info = device.info();
    Ok(json!({
        "tokens_per_s": tokens / step,
        "ms_per_step": 1e3 * step,
        "gflops_per_s": flops / step / 1e9,
        "params": model.n_params(),
        "peak_bytes": peak_resident(),
        "device_bytes": device.allocated_bytes(),
        "planned_bytes": memory.plan.total(),
        "recompute": memory.recompute,
        "host_bytes": device.allocated_host_bytes(),
        "planned_host_bytes": memory.plan.host_total(),
        "moments": moments,
        "device": info.name,
        "isa": info.isa,
        "threads": info.threads,
        "precision": format.name(),
        "batch": flags.batch,
        "context": flags.context,
        "note": device.take_note(),
        "steps": flags.steps,
    }))
}

/// Prefill and decode.
pub(crate) fn generate(flags: &BenchGenerate) -> Result<Ended> {
    if flags.prompt_tokens == 0 || flags.new_tokens == 0 || flags.batch == 0 {
        bail!("--prompt-tokens, --new-tokens and --batch must be at least 1");
    }
    // What overflows is refused with the context.
    let capacity = flags.prompt_tokens.saturating_add(flags.new_tokens);
    let model = config(&flags.dimensions, capacity)?;
    let result = on_device!(devices::open(&flags.compute, 0)?, device => generate_on(flags, &model, &device)?);
    report(&result, flags.json)?;
    Ok(Ended::Done)
}

fn generate_on<D: Device>(flags: &BenchGenerate, model: &ModelConfig, device: &Arc<D>) -> Result<serde_json::Value> {
    let BenchGenerate { prompt_tokens, new_tokens, batch, .. } = *flags;
    let capacity = prompt_tokens.saturating_add(new_tokens);
    let format = devices::format(flags.weights);
    let kv_cache = devices::cache(flags.kv_cache, format);
    device.supports(format)?;
    device.supports_cache(kv_cache)?;
    let usage = MatrixUse::Inference;
    let weights = Parameters::bytes(&**device, model, format, usage);
    let mut memory_plan = casallm_model::memory::MemoryPlan::default();
    memory_plan.add("weights", weights);
    memory_plan
        .add("key and value cache", KvCache::<()>::bytes(model, kv_cache, capacity).saturating_mul(batch as u64));
    memory_plan.check(device.available_bytes())?;
    let parameters = Parameters::new(device.clone(), model, format, usage, |spec| Ok(init_parameter(spec, 1)))?;
    let network = Network::new(model.clone(), format.activations(), parameters)?;
    let pass = PASS_TOKENS.min(capacity).max(batch);
    let mut sequences = Sequences::with_cache(&network, kv_cache, batch, capacity, pass)?;
    let prompt = ids(prompt_tokens, model.vocab_size, 2);
    let mut prefill = Vec::new();
    // The first three times are warming up and repetitions.
    for sequence in [0, 0, 0].into_iter().chain(0..batch) {
        let begun = Instant::now();
        for (number, ids) in prompt.chunks(pass).enumerate() {
            let at = number * pass;
            let logits = at + ids.len() == prompt_tokens;
            sequences.forward(&[Piece { sequence, at, ids, logits }])?;
        }
        prefill.push(begun.elapsed().as_secs_f64());
    }
    let prefill = median(prefill.split_off(1));
    let next = ids(new_tokens * batch, model.vocab_size, 3);
    let begun = Instant::now();
    for (number, ids) in next.chunks(batch).enumerate() {
        let at = prompt_tokens + number;
        let piece = |(sequence, id)| Piece { sequence, at, ids: std::slice::from_ref(id), logits: true };
        sequences.forward(&ids.iter().enumerate().map(piece).collect::<Vec<_>>())?;
    }
    let pass = begun.elapsed().as_secs_f64() / new_tokens as f64;
    // The embedding is read in full as the head when tied, and once more only where it is not.
    let bytes = weights + KvCache::<()>::bytes(model, kv_cache, prompt_tokens + new_tokens / 2) * batch as u64;
    let info = device.info();
    Ok(json!({
        "prefill_tokens_per_s": prompt_tokens as f64 / prefill,
        "decode_tokens_per_s": batch as f64 / pass,
        "batch": batch,
        "weights": format.name(),
        "kv_cache": kv_cache.name(),
        "bytes_per_pass": bytes,
        "decode_bytes_per_s": bytes as f64 / pass,
        "params": model.n_params(),
        "peak_bytes": peak_resident(),
        "device_bytes": device.allocated_bytes(),
        "device": info.name,
        "isa": info.isa,
        "threads": info.threads,
        "prompt_tokens": prompt_tokens,
        "new_tokens": new_tokens,
    }))
}

/// One JSON line, or a line a value.
pub(crate) fn report(result: &serde_json::Value, json: bool) -> Result<()> {
    if json {
        return print(&result.to_string());
    }
    for (name, value) in result.as_object().into_iter().flatten() {
        print(&format!("{name:>22}  {value}"))?;
    }
    Ok(())
}
