//! `casallm chat`: one answer, or a conversation on the terminal.

use std::io::{BufRead, IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use casallm_compute::{Device, MatrixFormat, MatrixUse};
use casallm_data::chat::{ChatTemplate, Message, Turn};
use casallm_data::tokenizer::{StreamDecoder, Tokenizer};
use casallm_model::decoder::Decoder;
use casallm_model::directory::{GENERATION_CONFIG, ModelDirectory, TOKENIZER, TOKENIZER_CONFIG};
use casallm_model::error::ModelError;
use casallm_model::generate::Generation;
use casallm_model::network::Network;
use casallm_model::parameters::Parameters;
use casallm_model::sampler::{Sampler, SamplerConfig};

use crate::Ended;
use crate::args::Chat;
use crate::devices::{self, on_device};
use crate::streams::{print, tell};

/// A model that can answer.
pub(crate) struct Chatbot<D: Device> {
    network: Network<D>,
    tokenizer: Tokenizer,
    template: ChatTemplate,
}

impl<D: Device> Chatbot<D> {
    /// Loads a model directory.
    pub(crate) fn load(dir: &Path, device: &Arc<D>, format: MatrixFormat) -> Result<Self> {
        let directory = ModelDirectory::open(dir)?;
        let tokenizer = Tokenizer::of_model(directory.text(TOKENIZER)?.as_bytes())
            .with_context(|| format!("{}", dir.join(TOKENIZER).display()))?;
        let config = directory.config().clone();
        if config.vocab_size != tokenizer.vocab_size() {
            bail!(
                "{}: the model has a vocabulary of {}, its tokenizer.json one of {}; restore the pair",
                dir.display(),
                config.vocab_size,
                tokenizer.vocab_size()
            );
        }
        let template = template(&directory, &tokenizer).with_context(|| dir.display().to_string())?;
        let parameters = Parameters::load(device.clone(), &directory, format, MatrixUse::Inference)?;
        Ok(Chatbot { network: Network::new(config, format.activations(), parameters)?, tokenizer, template })
    }

    /// The network's context.
    fn context(&self) -> usize {
        self.network.config().context
    }

    /// Answers a conversation; `hear` gets the text as it comes.
    pub(crate) fn answer(
        &self,
        messages: &[Message],
        sampler: &mut Sampler,
        max_new_tokens: usize,
        hear: &mut dyn FnMut(&str),
    ) -> Result<String> {
        let prompt = self.prompt(messages)?;
        self.complete(&prompt, sampler, max_new_tokens, hear)
    }

    fn prompt(&self, messages: &[Message]) -> Result<Vec<u32>> {
        let turns: Vec<Turn<'_>> = messages.iter().map(Turn::of).collect();
        Ok(self.template.render_prompt(&turns, &self.tokenizer)?)
    }

    /// Continues a document.
    pub(crate) fn continue_text(&self, text: &str, sampler: &mut Sampler, max_new_tokens: usize) -> Result<String> {
        let mut prompt = vec![self.tokenizer.special()?.bos];
        prompt.extend(self.tokenizer.encode(text));
        self.complete(&prompt, sampler, max_new_tokens, &mut |_| {})
    }

    fn complete(
        &self,
        prompt: &[u32],
        sampler: &mut Sampler,
        max_new_tokens: usize,
        hear: &mut dyn FnMut(&str),
    ) -> Result<String> {
        let capacity = prompt.len().saturating_add(max_new_tokens).min(self.context());
        let mut decoder = Decoder::new(&self.network, capacity)?;
        let mut stream = StreamDecoder::new();
        let mut text = String::new();
        for id in Generation::new(&mut decoder, sampler, prompt, self.template.stop_ids(), max_new_tokens) {
            let piece = stream.push(&self.tokenizer, id?);
            hear(&piece);
            text += &piece;
        }
        let rest = stream.finish();
        hear(&rest);
        Ok(text + &rest)
    }
}

/// The template of a model directory.
fn template(directory: &ModelDirectory, tokenizer: &Tokenizer) -> Result<ChatTemplate> {
    let generation_config = match directory.text(GENERATION_CONFIG) {
        Ok(text) => Some(text),
        Err(ModelError::MissingFile { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let tokenizer_config = directory.text(TOKENIZER_CONFIG)?;
    Ok(ChatTemplate::of_model(&tokenizer_config, generation_config.as_deref(), tokenizer)?)
}

fn sampler(flags: &Chat) -> Result<Sampler> {
    Ok(Sampler::new(SamplerConfig {
        temperature: flags.temperature,
        top_k: flags.top_k,
        top_p: flags.top_p,
        min_p: flags.min_p,
        repetition_penalty: flags.repetition_penalty,
        repetition_window: 64,
        seed: flags.seed,
    })?)
}

/// One answer or a conversation.
pub(crate) fn run(flags: &Chat) -> Result<Ended> {
    let mut sampler = sampler(flags)?;
    let format = devices::format(flags.weights);
    on_device!(devices::open(&flags.compute, 0)?, device => {
        talk(flags, &mut sampler, &Chatbot::load(&flags.model, &device, format)?)
    })
}

fn talk<D: Device>(flags: &Chat, sampler: &mut Sampler, bot: &Chatbot<D>) -> Result<Ended> {
    let mut messages: Vec<Message> = flags.system.iter().map(Message::system).collect();
    match &flags.prompt {
        Some(prompt) => {
            messages.push(Message::user(prompt));
            let answer = bot.answer(&messages, sampler, flags.max_new_tokens, &mut |_| {})?;
            print(answer.trim())?;
            Ok(Ended::Done)
        }
        None => converse(bot, messages, sampler, flags.max_new_tokens),
    }
}

/// A conversation on the terminal until the end of the input.
pub(crate) fn converse<D: Device>(
    bot: &Chatbot<D>,
    mut messages: Vec<Message>,
    sampler: &mut Sampler,
    max_new_tokens: usize,
) -> Result<Ended> {
    let terminal = std::io::stdin().is_terminal();
    if terminal {
        tell("Say something. An empty line or Ctrl-D ends the conversation.");
    }
    let opening = messages.len();
    let mut out = std::io::stdout();
    let mut lines = std::io::stdin().lock().lines();
    loop {
        if terminal {
            write!(out, "you> ")?;
            out.flush()?;
        }
        let Some(line) = lines.next().transpose()? else { break };
        if line.trim().is_empty() {
            break;
        }
        messages.push(Message::user(line.trim()));
        if !make_room(bot, &mut messages, opening)? {
            continue;
        }
        if terminal {
            write!(out, "bot> ")?;
        }
        let answer = bot.answer(&messages, sampler, max_new_tokens, &mut |piece| {
            // A closed pipe ends the program at the next line; the answer is not worth an error.
            let _ = write!(out, "{piece}").and_then(|()| out.flush());
        })?;
        writeln!(out)?;
        messages.push(Message::assistant(answer.trim()));
    }
    Ok(Ended::Done)
}

/// Drops the oldest exchanges, aloud, until the conversation leaves a quarter of the context for the answer. A message
/// that does not fit by itself is taken back, aloud: then there is nothing to answer.
fn make_room<D: Device>(bot: &Chatbot<D>, messages: &mut Vec<Message>, opening: usize) -> Result<bool> {
    let limit = bot.context() * 3 / 4;
    let mut dropped = 0;
    while messages.len() > opening + 2 && bot.prompt(messages)?.len() > limit {
        messages.drain(opening..opening + 2);
        dropped += 1;
    }
    if dropped > 0 {
        tell(&format!(
            "(the context of {} tokens is full: the {dropped} oldest exchanges were left out)",
            bot.context()
        ));
    }
    let tokens = bot.prompt(messages)?.len();
    let fits = tokens < bot.context();
    if !fits {
        tell(&format!("({tokens} tokens do not fit the context of {}: say it shorter)", bot.context()));
        messages.pop();
    }
    Ok(fits)
}
