//! `casallm bench chat`: how long the first token of each turn of a conversation takes, beside how long it would take if
//! everything were read again. Random weights and tokens: the time does not depend on what is said.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use casallm_compute::{Device, MatrixUse};
use casallm_model::config::ModelConfig;
use casallm_model::memory::MemoryPlan;
use casallm_model::network::{KvCache, Network};
use casallm_model::parameters::Parameters;
use casallm_model::sampler::SamplerConfig;
use casallm_model::sequences::Sequences;
use casallm_model::specification::init_parameter;
use casallm_serve::engine::{Engine, EngineConfig, Event, Priority, Request};
use serde_json::json;

use crate::Ended;
use crate::args::BenchChat;
use crate::bench::{config, ids, median, report};
use crate::devices::{self, on_device};

/// Tokens of a pass, as the server has it.
const PASS_TOKENS: usize = 512;

/// One answer.
struct Answered {
    first_token: Duration,
    cached: usize,
    ids: Vec<u32>,
    tokens_per_second: f64,
}

/// Measures and prints.
pub(crate) fn run(flags: &BenchChat) -> Result<Ended> {
    if flags.turns < 2 || flags.message_tokens == 0 || flags.new_tokens < 2 || flags.repeat == 0 {
        bail!("--turns and --new-tokens must be at least 2, --message-tokens and --repeat at least 1");
    }
    let context = flags.message_tokens.saturating_add(flags.new_tokens).saturating_mul(flags.turns);
    let model = config(&flags.dimensions, context)?;
    let result = on_device!(devices::open(&flags.compute, 0)?, device => {
        let info = device.info();
        let mut result = measure(flags, &engine(flags, &model, &device)?, model.vocab_size)?;
        result["device"] = json!(info.name);
        result["isa"] = json!(info.isa);
        result["threads"] = json!(info.threads);
        result
    });
    report(&result, flags.json)?;
    Ok(Ended::Done)
}

fn engine<D: Device + 'static>(flags: &BenchChat, model: &ModelConfig, device: &Arc<D>) -> Result<Engine> {
    let format = devices::format(flags.weights);
    let kv_cache = devices::cache(flags.kv_cache, format);
    device.supports(format)?;
    device.supports_cache(kv_cache)?;
    let mut memory = MemoryPlan::default();
    memory.add("weights", Parameters::bytes(&**device, model, format, MatrixUse::Inference));
    memory.add("key and value caches", KvCache::<()>::bytes(model, kv_cache, 2 * model.context));
    memory.check(device.available_bytes())?;
    let random = |spec: &_| Ok(init_parameter(spec, 1));
    let parameters = Parameters::new(device.clone(), model, format, MatrixUse::Inference, random)?;
    let network: Arc<Network<D>> = Arc::new(Network::new(model.clone(), format.activations(), parameters)?);
    // One sequence for the conversation, one for what is read again.
    let sequences = Sequences::with_cache(network, kv_cache, 2, model.context, PASS_TOKENS)?;
    Ok(Engine::start(sequences, &EngineConfig { stored_bytes: 0, ..EngineConfig::default() }, None)?)
}

fn measure(flags: &BenchChat, engine: &Engine, vocab_size: usize) -> Result<serde_json::Value> {
    // A server's first pass is not a conversation's: memory is touched, and the engine learns how much it reads at a time.
    let tokens = flags.message_tokens.max(256).min(engine.context() / 2);
    for seed in 0..4 {
        answer(engine, &ids(tokens, vocab_size, u64::MAX - seed), 2)?;
    }
    let conversations =
        (0..flags.repeat).map(|i| converse(flags, engine, vocab_size, i)).collect::<Result<Vec<Conversation>>>()?;
    let medians = |times: fn(&Conversation) -> &[f64]| -> Vec<f64> {
        let turn = |turn: usize| median(conversations.iter().map(|one| times(one)[turn]).collect());
        (0..times(&conversations[0]).len()).map(turn).collect()
    };
    let (first, again) = (medians(|one| &one.first), medians(|one| &one.again));
    let (last, last_again) = (first[first.len() - 1], again[again.len() - 1]);
    Ok(json!({
        "first_token_s": first,
        "last_over_first": last / first[0],
        "read_again_s": again,
        "read_again_over_first": last_again / again[0],
        "read_again_over_cached": last_again / last,
        "reused_tokens": conversations[0].reused,
        "tokens": conversations[0].tokens,
        "decode_tokens_per_s": median(conversations.iter().map(|one| one.decode).collect()),
    }))
}

/// What one conversation took, in seconds.
struct Conversation {
    /// To the first token of each turn.
    first: Vec<f64>,
    /// The same of the first and the last turn when nothing is held.
    again: Vec<f64>,
    reused: Vec<usize>,
    tokens: usize,
    /// Tokens a second of the last answer.
    decode: f64,
}

/// Conversation `i`, which has no beginning in common with another.
fn converse(flags: &BenchChat, engine: &Engine, vocab_size: usize, i: usize) -> Result<Conversation> {
    let mut said = Vec::new();
    let mut it = Conversation { first: Vec::new(), again: Vec::new(), reused: Vec::new(), tokens: 0, decode: 0.0 };
    for turn in 0..flags.turns {
        said.extend(ids(flags.message_tokens, vocab_size, (i * flags.turns + turn) as u64 + 2));
        let with_cache = answer(engine, &said, flags.new_tokens)?;
        if turn == 0 || turn + 1 == flags.turns {
            // The same length, but another beginning, which nothing holds.
            let mut strange = said.clone();
            strange[0] = (strange[0] + 1 + turn as u32) % vocab_size as u32;
            let without = answer(engine, &strange, 2)?;
            if without.cached > 0 {
                bail!("{} tokens of an unknown conversation were held", without.cached);
            }
            it.again.push(without.first_token.as_secs_f64());
        }
        it.first.push(with_cache.first_token.as_secs_f64());
        it.reused.push(with_cache.cached);
        it.decode = with_cache.tokens_per_second;
        said.extend(with_cache.ids);
    }
    it.tokens = said.len();
    Ok(it)
}

fn answer(engine: &Engine, prompt: &[u32], new_tokens: usize) -> Result<Answered> {
    let begun = Instant::now();
    let mut generation = engine.submit(Request {
        prompt: prompt.to_vec(),
        sampling: SamplerConfig::greedy(),
        draws: 0,
        max_new_tokens: new_tokens,
        stop_ids: Vec::new(),
        top_logprobs: None,
        priority: Priority::Interactive,
    })?;
    let (mut made, mut first) = (Vec::new(), None);
    while let Some(event) = generation.blocking_next() {
        match event {
            Event::Token { id, .. } => {
                first.get_or_insert_with(Instant::now);
                made.push(id);
            }
            Event::Finished { usage, .. } => {
                let Some(first) = first else { bail!("no token came") };
                let seconds = first.elapsed().as_secs_f64();
                return Ok(Answered {
                    first_token: first.duration_since(begun),
                    cached: usage.cached_tokens,
                    tokens_per_second: (made.len() - 1) as f64 / seconds.max(1e-9),
                    ids: made,
                });
            }
            Event::Failed(error) => bail!("{error}"),
            Event::Started { .. } | Event::Reading { .. } => {}
        }
    }
    bail!("the engine broke off")
}
