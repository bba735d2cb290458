//! `casallm chat`: one answer, or a conversation on the terminal. The engine is the server's.

mod conversation;
mod terminal;

use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, bail};
use casallm_compute::{CacheFormat, Device, MatrixFormat};
use casallm_data::chat::Message;
use casallm_model::sampler::SamplerConfig;
use casallm_serve::chatbot::{AnswerEvent, AnswerRequest, Chatbot, Done, LoadOptions, Turn};
use casallm_serve::engine::EngineConfig;

use crate::Ended;
use crate::args::Chat;
use crate::devices::{self, on_device};
use crate::streams::print_said;
use conversation::Conversation;

/// What is said is said again less readily, unless the likeliest token is asked for, or another penalty.
pub(crate) const REPETITION_PENALTY: f32 = 1.1;
/// Tokens that the repetition penalty looks back.
pub(crate) const REPETITION_WINDOW: usize = 64;

/// Loads a model directory for somebody who asks one thing after the other.
pub(crate) fn load<D: Device + 'static>(
    dir: &Path,
    device: &Arc<D>,
    format: MatrixFormat,
    kv_cache: CacheFormat,
) -> Result<Chatbot> {
    let options = LoadOptions {
        format,
        kv_cache,
        sequences: 1,
        context: None,
        // There is one conversation, and the model's own cache has it.
        engine: EngineConfig { stored_bytes: 0, ..EngineConfig::default() },
        spill: None,
    };
    Ok(Chatbot::load(dir, device, options)?)
}

/// An answer to its end; `hear` gets the text as it comes.
pub(crate) fn answer(bot: &Chatbot, request: &AnswerRequest, hear: &mut dyn FnMut(&str)) -> Result<(String, Done)> {
    listen(bot.answer(request)?, hear)
}

/// The continuation of a text that is no conversation.
pub(crate) fn continue_text(bot: &Chatbot, text: &str, request: &AnswerRequest) -> Result<String> {
    Ok(listen(bot.complete(text, request)?, &mut |_| {})?.0)
}

fn listen(mut answer: casallm_serve::chatbot::Answer, hear: &mut dyn FnMut(&str)) -> Result<(String, Done)> {
    let mut said = String::new();
    loop {
        match answer.blocking_next() {
            Some(AnswerEvent::Text { text, .. }) => {
                hear(&text);
                said += &text;
            }
            Some(AnswerEvent::Done(done)) => return Ok((said, done)),
            Some(AnswerEvent::Failed(error)) => bail!("{error}"),
            Some(AnswerEvent::Started { .. } | AnswerEvent::Reading { .. }) => {}
            None => bail!("the answer broke off"),
        }
    }
}

/// A single question.
pub(crate) fn question(text: &str, sampling: SamplerConfig, max_tokens: usize) -> AnswerRequest {
    AnswerRequest {
        max_tokens: Some(max_tokens),
        ..AnswerRequest::new(vec![Turn::from(Message::user(text))], sampling)
    }
}

fn sampling(flags: &Chat) -> SamplerConfig {
    let usual = SamplerConfig {
        temperature: flags.temperature,
        top_k: flags.top_k,
        top_p: flags.top_p,
        min_p: flags.min_p,
        repetition_penalty: REPETITION_PENALTY,
        repetition_window: REPETITION_WINDOW,
        seed: flags.seed,
    };
    usual.penalised(flags.repetition_penalty)
}

/// One answer or a conversation.
pub(crate) fn run(flags: &Chat) -> Result<Ended> {
    let sampling = sampling(flags);
    // Before a model is loaded for nothing.
    sampling.validate()?;
    let format = devices::format(flags.weights);
    let kv_cache = devices::cache(flags.kv_cache, format);
    let bot = on_device!(devices::open(&flags.compute, 0)?, device => load(&flags.model, &device, format, kv_cache)?);
    let mut conversation = Conversation::new(flags.system.as_deref(), sampling, flags.max_new_tokens);
    match &flags.prompt {
        Some(prompt) => {
            let request = conversation.ask(prompt);
            let said = answer(&bot, &request, &mut |_| {})?.0;
            print_said(&format!("{}\n", said.trim()))?;
            Ok(Ended::Done)
        }
        None => terminal::converse(&bot, conversation),
    }
}
