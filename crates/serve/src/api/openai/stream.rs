//! An answer piece by piece, in the chunks of either endpoint.

use std::collections::VecDeque;
use std::sync::Arc;

use axum::response::Response;
use axum::response::sse::Event;

use super::super::server::Server;
use super::super::sse;
use super::answer::{self, Begun};
use super::logprobs;
use super::reply::Head;
use super::response::{ChatChunk, ChunkChoice, Delta, Extension, TextChoice, TextCompletion, Usage, finish_reason};
use crate::chatbot::{AnswerEvent, Chatbot, Done, SpokenToken};

/// Which endpoint's chunks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Chat,
    Text,
}

impl Shape {
    /// What names of answers begin with.
    pub(super) fn prefix(self) -> &'static str {
        match self {
            Shape::Chat => "chatcmpl",
            Shape::Text => "cmpl",
        }
    }
}

/// What a stream is made of.
pub(super) struct Start {
    pub server: Arc<Server>,
    pub bot: Arc<Chatbot>,
    pub begun: Begun,
    pub shape: Shape,
    pub head: Head,
    pub include_usage: bool,
    pub with_logprobs: bool,
}

/// An answer on its way. It holds the [`Answer`](crate::chatbot::Answer): dropped with the connection, it takes the request
/// back.
struct Chunks {
    start: Start,
    text_offset: logprobs::Offset,
    ready: VecDeque<Event>,
}

/// The response.
pub(super) fn response(start: Start) -> Response {
    let mut chunks = Chunks { start, text_offset: logprobs::Offset::default(), ready: VecDeque::new() };
    if chunks.start.shape == Shape::Chat {
        let delta = Delta { role: Some("assistant"), content: Some(String::new()) };
        chunks.push_chat((delta, None, None), None);
    }
    sse::response(futures_util::stream::unfold(chunks, async |mut chunks| {
        let event = chunks.next().await?;
        Some((event, chunks))
    }))
}

impl Chunks {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            match self.start.begun.answer.next().await? {
                AnswerEvent::Started { .. } | AnswerEvent::Reading { .. } => {}
                AnswerEvent::Text { text, tokens } => self.push_text(text, &tokens),
                AnswerEvent::Done(done) => {
                    self.start.server.metrics.answered(&done.timing);
                    self.push_end(&done);
                }
                AnswerEvent::Failed(reason) => {
                    self.ready.push_back(sse::json(&answer::failed(&self.start.server, &reason).body()));
                }
            }
        }
    }

    fn push_text(&mut self, text: String, tokens: &[SpokenToken]) {
        if text.is_empty() && tokens.is_empty() {
            return;
        }
        match self.start.shape {
            Shape::Chat => {
                let logprobs = self.start.with_logprobs.then(|| logprobs::chat(self.start.bot.tokenizer(), tokens));
                self.push_chat((Delta { role: None, content: Some(text) }, logprobs, None), None);
            }
            Shape::Text => {
                let logprobs = self
                    .start
                    .with_logprobs
                    .then(|| logprobs::completion(self.start.bot.tokenizer(), tokens, &mut self.text_offset));
                self.push_text_choice(TextChoice { text, index: 0, logprobs, finish_reason: None }, None);
            }
        }
    }

    /// The chunk with the reason, the one with the usage if it is wanted, and OpenAI's last word.
    fn push_end(&mut self, done: &Done) {
        let reason = Some(finish_reason(done.finish));
        let last = Some(Extension::new(done, self.start.bot.context(), self.start.begun.overflow.take()));
        let (with_reason, alone) = if self.start.include_usage { (None, last) } else { (last, None) };
        match self.start.shape {
            Shape::Chat => self.push_chat((Delta::default(), None, reason), with_reason),
            Shape::Text => {
                let choice = TextChoice { text: String::new(), index: 0, logprobs: None, finish_reason: reason };
                self.push_text_choice(choice, with_reason);
            }
        }
        if self.start.include_usage {
            let usage = Some(Some(Usage::from(done)));
            match self.start.shape {
                Shape::Chat => {
                    let chunk = ChatChunk { usage, ..self.chat_chunk(Vec::new(), alone) };
                    self.ready.push_back(sse::json(&chunk));
                }
                Shape::Text => {
                    let chunk = TextCompletion { usage, ..self.text_chunk(Vec::new(), alone) };
                    self.ready.push_back(sse::json(&chunk));
                }
            }
        }
        self.ready.push_back(Event::default().data("[DONE]"));
    }

    fn push_chat(
        &mut self,
        (delta, logprobs, finish_reason): (Delta, Option<logprobs::ChatLogprobs>, Option<&'static str>),
        casallm: Option<Extension>,
    ) {
        let choice = ChunkChoice { index: 0, delta, logprobs, finish_reason };
        let chunk = self.chat_chunk(vec![choice], casallm);
        self.ready.push_back(sse::json(&chunk));
    }

    fn push_text_choice(&mut self, choice: TextChoice, casallm: Option<Extension>) {
        let chunk = self.text_chunk(vec![choice], casallm);
        self.ready.push_back(sse::json(&chunk));
    }

    fn chat_chunk(&self, choices: Vec<ChunkChoice>, casallm: Option<Extension>) -> ChatChunk {
        ChatChunk {
            id: self.start.head.id.clone(),
            object: "chat.completion.chunk",
            created: self.start.head.created,
            model: self.start.head.model.clone(),
            choices,
            usage: self.start.include_usage.then_some(None),
            casallm,
        }
    }

    fn text_chunk(&self, choices: Vec<TextChoice>, casallm: Option<Extension>) -> TextCompletion {
        TextCompletion {
            id: self.start.head.id.clone(),
            object: "text_completion",
            created: self.start.head.created,
            model: self.start.head.model.clone(),
            choices,
            usage: self.start.include_usage.then_some(None),
            casallm,
        }
    }
}
