//! [`ChatTemplate`]: how conversations become token ids for one model, be it ours or an imported one.

use std::collections::BTreeSet;

use serde_json::Value;

use super::jinja::{Jinja, Piece, Trim, fault};
use super::{CHAT_TEMPLATE, Conversation, Message, Rendered, Role};
use crate::error::Error;
use crate::tokenizer::Tokenizer;

/// One message of a conversation that is to be rendered.
#[derive(Debug, Clone, Copy)]
pub struct Turn<'a> {
    /// Who speaks, and what is said.
    pub message: &'a Message,
    /// The ids of an answer as they were generated, without the one that ended it. They are used in place of the
    /// message's text, whose encoding may be another: what a cache holds then stays the prefix of what comes next.
    pub ids: Option<&'a [u32]>,
}

impl<'a> Turn<'a> {
    /// A message whose text is to be encoded.
    pub fn of(message: &'a Message) -> Self {
        Turn { message, ids: None }
    }
}

/// How conversations become token ids for one model.
#[derive(Debug)]
pub struct ChatTemplate {
    kind: Kind,
    stop: Vec<u32>,
    takes_system: bool,
}

/// How a template in Jinja shows an answer.
#[derive(Debug, Clone, Copy)]
struct Shown {
    start: Trim,
    end: Trim,
    /// The control token that follows the answer's text.
    closed_by: u32,
}

#[derive(Debug)]
enum Kind {
    /// `<s>`, and `<|role|> text </s>` of each message.
    Own,
    /// The template, and how it shows an answer, where it closes answers with a control token.
    Jinja(Box<Jinja>, Option<Shown>),
}

/// Names under which models end a turn or a text, whatever their configuration says: those of llama.cpp.
const ENDS: [&str; 12] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eom_id|>",
    "<end_of_turn>",
    "</s>",
    "<EOT>",
    "<|END_OF_TURN_TOKEN|>",
];

impl ChatTemplate {
    /// The template of the models that this program trains.
    ///
    /// # Errors
    /// [`Error::TokenizerNotOwn`].
    pub fn own(tokenizer: &Tokenizer) -> Result<Self, Error> {
        let special = tokenizer.special()?;
        // Any control token ends the answer: a small model may open the next turn itself.
        let stop = vec![special.bos, special.eos, special.pad, special.system, special.user, special.assistant];
        Ok(ChatTemplate { kind: Kind::Own, stop, takes_system: true })
    }

    /// A template in Jinja, which knows the tokens `bos` and `eos` by these names.
    ///
    /// # Errors
    /// [`Error::ChatTemplate`]: it is not Jinja, or does not render a first question.
    pub fn from_jinja(
        source: &str,
        bos: Option<&str>,
        eos: Option<&str>,
        tokenizer: &Tokenizer,
    ) -> Result<Self, Error> {
        let jinja = Jinja::new(source, bos.unwrap_or_default(), eos.unwrap_or_default(), tokenizer)?;
        let (system, user) = (Message::system("S"), Message::user("U"));
        let (asked, answered) = (Message::user("U"), Message::assistant("A"));
        let complete = |messages: &[&Message]| {
            let rendered = jinja.render(messages, true)?;
            let pieces = jinja.pieces(&rendered);
            let said = |at: usize| pieces.iter().any(|piece| matches!(piece, Piece::Message(m, ..) if *m == at));
            let controls = pieces.iter().filter_map(|piece| match piece {
                Piece::Control(at) => tokenizer.controls().get(*at),
                _ => None,
            });
            let controls: Vec<u32> = controls.filter(|control| control.hidden).map(|control| control.id).collect();
            Ok::<_, Error>(((0..messages.len()).all(said), controls))
        };
        // What ends an answer: what the model's files say and what is known, and any sign that the template writes, for a
        // small model may open the next turn itself.
        let mut stop: BTreeSet<u32> = ENDS.iter().chain(&eos).filter_map(|name| tokenizer.control_id(name)).collect();
        let (whole, controls) = complete(&[&user])?;
        if !whole {
            return Err(fault("it leaves out what the person says".to_owned()));
        }
        stop.extend(controls);
        if let Ok((_, controls)) = complete(&[&asked, &answered, &user]) {
            stop.extend(controls);
        }
        let takes_system = match complete(&[&system, &user]) {
            Ok((whole, controls)) => {
                stop.extend(controls);
                whole
            }
            Err(_) => false,
        };
        let shown = shown(&jinja, &[&user, &answered], tokenizer);
        Ok(ChatTemplate { kind: Kind::Jinja(Box::new(jinja), shown), stop: stop.into_iter().collect(), takes_system })
    }

    /// The template of a model directory, from the text of its `tokenizer_config.json` and, where there is one, its
    /// `generation_config.json`.
    ///
    /// # Errors
    /// [`Error::ChatTemplate`]: there is none, or as [`ChatTemplate::from_jinja`].
    pub fn of_model(
        tokenizer_config: &str,
        generation_config: Option<&str>,
        tokenizer: &Tokenizer,
    ) -> Result<Self, Error> {
        let read = |text: &str, file: &str| {
            serde_json::from_str::<Value>(text).map_err(|e| fault(format!("{file}: {e}; restore the file")))
        };
        let config = read(tokenizer_config, "tokenizer_config.json")?;
        let source = match config.get("chat_template") {
            Some(Value::String(source)) => source.as_str(),
            // Several by name.
            Some(Value::Array(named)) => {
                named.iter().find(|one| one["name"] == "default").and_then(|one| one["template"].as_str()).ok_or_else(
                    || fault("tokenizer_config.json has several, none of them named `default`".to_owned()),
                )?
            }
            None | Some(Value::Null) => {
                return Err(fault(
                    "tokenizer_config.json has no `chat_template`: this model continues texts and was not tuned to talk; use an instruct model".to_owned(),
                ));
            }
            Some(_) => return Err(fault("`chat_template` of tokenizer_config.json is not a text".to_owned())),
        };
        if source == CHAT_TEMPLATE && tokenizer.special().is_ok() {
            return Self::own(tokenizer);
        }
        let named = |key: &str| match config.get(key) {
            Some(Value::String(name)) => Some(name.as_str()),
            Some(token) => token.get("content").and_then(Value::as_str),
            None => None,
        };
        let mut template = Self::from_jinja(source, named("bos_token"), named("eos_token"), tokenizer)?;
        if let Some(text) = generation_config {
            let config = read(text, "generation_config.json")?;
            let ids = match config.get("eos_token_id") {
                Some(Value::Array(ids)) => ids.as_slice(),
                Some(id) => std::slice::from_ref(id),
                None => &[],
            };
            let ids = ids.iter().filter_map(Value::as_u64).filter(|id| *id < tokenizer.vocab_size() as u64);
            template.stop.extend(ids.map(|id| id as u32));
            template.stop.sort_unstable();
            template.stop.dedup();
        }
        Ok(template)
    }

    /// The ids from which the model goes on as the assistant. Text of messages never gives a control token; where ids of
    /// a turn are given they are put in as they are.
    ///
    /// # Errors
    /// [`Error::ChatTemplate`]: the template refuses the conversation (some want person and model to alternate), or leaves
    /// a message out.
    pub fn render_prompt(&self, turns: &[Turn<'_>], tokenizer: &Tokenizer) -> Result<Vec<u32>, Error> {
        let jinja = match &self.kind {
            Kind::Own => return super::render_prompt(turns, tokenizer),
            Kind::Jinja(jinja, _) => jinja,
        };
        let messages: Vec<&Message> = turns.iter().map(|turn| turn.message).collect();
        let rendered = jinja.render(&messages, true)?;
        let mut prompt = Prompt { tokenizer, ids: Vec::new(), run: String::new(), strips: false };
        let mut said = vec![false; turns.len()];
        for piece in jinja.pieces(&rendered) {
            match piece {
                Piece::Text(text) => prompt.run.push_str(text),
                Piece::Control(at) => prompt.control(at),
                Piece::Message(number, start, end) => {
                    let Some(turn) = turns.get(number) else { continue };
                    said[number] = true;
                    prompt.turn(turn, start, end);
                }
            }
        }
        prompt.flush();
        let lost = turns.iter().zip(&said).find(|(turn, said)| !**said && !turn.message.content.is_empty());
        match lost {
            Some((turn, _)) if turn.message.role == Role::System && !self.takes_system => {
                Err(fault("this model takes no system message; leave it out".to_owned()))
            }
            Some((turn, _)) => {
                Err(fault(format!("it leaves out or changes a message of the {}", turn.message.role.name())))
            }
            None => Ok(prompt.ids),
        }
    }

    /// The ids of a whole conversation, and the mask of those that are learned: each answer and the control token that closes
    /// it. Before an answer stands exactly what [`ChatTemplate::render_prompt`] gives for the turns before it, which is what the
    /// model will go on from. What is said after the last answer is left out.
    ///
    /// # Errors
    /// As [`ChatTemplate::render_prompt`]; [`Error::ChatTemplate`] for a template that closes answers with no control token, or
    /// shows a turn otherwise once another follows.
    pub fn render(&self, conversation: &Conversation, tokenizer: &Tokenizer) -> Result<Rendered, Error> {
        let shown = match &self.kind {
            Kind::Own => return super::render(conversation, tokenizer),
            Kind::Jinja(_, shown) => shown.ok_or_else(|| {
                fault("it closes no answer with a control token, so a model cannot be taught where to end".to_owned())
            })?,
        };
        let said = |message: &Message| {
            let text = shown.end.end(shown.start.start(&message.content));
            (message.role == Role::Assistant).then(|| tokenizer.encode(text))
        };
        let answers: Vec<Option<Vec<u32>>> = conversation.messages.iter().map(said).collect();
        let mut out = Rendered { ids: Vec::new(), loss_mask: Vec::new(), cuts: Vec::new() };
        let mut turns: Vec<Turn<'_>> = Vec::with_capacity(answers.len());
        for (message, ids) in conversation.messages.iter().zip(&answers) {
            if let Some(answer) = ids {
                let prompt = self.render_prompt(&turns, tokenizer)?;
                if !prompt.starts_with(&out.ids) {
                    return Err(fault("it shows an answer otherwise once another question follows".to_owned()));
                }
                out.ids = prompt;
                out.loss_mask.resize(out.ids.len(), false);
                out.ids.extend(answer.iter().copied().chain([shown.closed_by]));
                out.loss_mask.resize(out.ids.len(), true);
                out.cuts.push(out.ids.len());
            }
            turns.push(Turn { message, ids: ids.as_deref() });
        }
        Ok(out)
    }

    /// Ids that end an answer, in ascending order.
    pub fn stop_ids(&self) -> &[u32] {
        &self.stop
    }

    /// Whether a system message may come first.
    pub fn takes_system(&self) -> bool {
        self.takes_system
    }
}

/// How the last of `messages`, an answer, is shown; `None` where no control token comes right after it.
fn shown(jinja: &Jinja, messages: &[&Message], tokenizer: &Tokenizer) -> Option<Shown> {
    let rendered = jinja.render(messages, false).ok()?;
    let pieces = jinja.pieces(&rendered);
    let at = pieces.iter().position(|piece| matches!(piece, Piece::Message(m, ..) if m + 1 == messages.len()))?;
    match (&pieces[at], pieces.get(at + 1)) {
        (Piece::Message(_, start, end), Some(Piece::Control(control))) => {
            let closed_by = tokenizer.controls().get(*control)?.id;
            Some(Shown { start: *start, end: *end, closed_by })
        }
        _ => None,
    }
}

/// Ids being put together. Text between two control tokens is encoded in one piece, as other programs encode it.
struct Prompt<'a> {
    tokenizer: &'a Tokenizer,
    ids: Vec<u32>,
    run: String,
    /// Whether the control token before the run takes the white space after it.
    strips: bool,
}

impl Prompt<'_> {
    fn flush(&mut self) {
        let text = if self.strips { self.run.trim_start() } else { &self.run };
        self.tokenizer.encode_into(text, &mut self.ids);
        self.run.clear();
        self.strips = false;
    }

    fn control(&mut self, at: usize) {
        let Some(control) = self.tokenizer.controls().get(at) else { return };
        if control.strips_before {
            self.run.truncate(self.run.trim_end().len());
        }
        self.flush();
        self.ids.push(control.id);
        self.strips = control.strips_after;
    }

    fn turn(&mut self, turn: &Turn<'_>, start: Trim, end: Trim) {
        match turn.ids {
            Some(ids) => {
                self.flush();
                self.ids.extend_from_slice(ids);
            }
            None => self.run.push_str(end.end(start.start(&turn.message.content))),
        }
    }
}

#[cfg(test)]
mod tests;
