//! Summaries: the model condenses older turns into a note.
//!
//! It is asked within the conversation itself, after the last turn to condense. So what it has to read is the beginning of
//! what it has read already, and the cache has nearly all of it; a former note stands where it stood, and is continued.

use std::sync::Arc;

use casallm_data::chat;
use casallm_model::sampler::SamplerConfig;

use super::blocking;
use super::error::AnswersError;
use super::prompt::Branch;
use crate::chatbot::{AnswerEvent, AnswerRequest, ChatError, Chatbot};
use crate::engine::{Priority, SubmitError};
use crate::overflow::{self, Condense};

/// A summary, or why there is none.
pub(super) enum Summary {
    /// Text and number of tokens.
    Text(String, u32),
    /// The engine's queue is full.
    Busy,
    /// What the reader is told.
    Failed(String),
}

/// Has the model condense these turns of the branch. Dropping the future stops it.
pub(super) async fn summarise(
    chatbot: &Arc<Chatbot>,
    branch: &Branch,
    condense: &Condense,
    priority: Priority,
) -> Summary {
    let most = overflow::note_tokens(chatbot.context());
    let mut turns = branch.turns(chatbot, condense.note, condense.first, condense.end);
    turns.push(chat::Message::user(instruction(most, condense.note.is_some())).into());
    let worker = chatbot.clone();
    let begun = blocking(move || {
        let condensed = worker.count(&turns)?;
        let mut request = AnswerRequest::new(turns, sampling());
        request.max_tokens = Some(most);
        request.priority = priority;
        Ok((condensed, worker.answer(&request)?))
    });
    let (condensed, mut answer) = match begun.await {
        Ok(begun) => begun,
        Err(AnswersError::Chat(ChatError::Submit(SubmitError::QueueFull { .. }))) => return Summary::Busy,
        Err(error) => return Summary::Failed(error.to_string()),
    };
    let mut text = String::new();
    loop {
        match answer.next().await {
            Some(AnswerEvent::Text { text: piece, .. }) => text.push_str(&piece),
            Some(AnswerEvent::Started { .. } | AnswerEvent::Reading { .. }) => {}
            Some(AnswerEvent::Failed(error)) => return Summary::Failed(error),
            Some(AnswerEvent::Done(_)) => break,
            None => return Summary::Failed("the model stopped in the middle of it".to_owned()),
        }
    }
    let text = text.trim();
    if text.is_empty() {
        return Summary::Failed("the model wrote nothing".to_owned());
    }
    let tokens = chatbot.tokenizer().encode(text).len();
    if tokens >= condensed {
        return Summary::Failed("the model wrote more than there was to condense".to_owned());
    }
    Summary::Text(text.to_owned(), u32::try_from(tokens).unwrap_or(u32::MAX))
}

/// The likeliest, but that small models then say one sentence over and over, and a note of repetitions keeps nothing.
fn sampling() -> SamplerConfig {
    SamplerConfig { repetition_penalty: 1.15, repetition_window: 64, ..SamplerConfig::greedy() }
}

/// Tokens of what the model is asked, at most.
pub(super) fn instruction_tokens(chatbot: &Chatbot) -> usize {
    chatbot.tokenizer().encode(&instruction(overflow::note_tokens(chatbot.context()), true)).len()
}

/// What the model is asked. Three quarters of a word a token is the field's rule of thumb for English; half leaves room.
fn instruction(tokens: usize, continued: bool) -> String {
    let words = (tokens / 2).max(10);
    let former = if continued { " Keep what the summary at the beginning says." } else { "" };
    format!(
        "Summarise our conversation so far in at most {words} words, so that we can go on without reading it again. Keep \
         names, facts, numbers, decisions, wishes and open questions.{former} Write nothing but the summary."
    )
}
