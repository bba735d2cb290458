//! An answer piece by piece, in the chunks of either endpoint.

use std::collections::VecDeque;
use std::sync::Arc;

use axum::response::Response;
use axum::response::sse::Event;

use super::super::server::Server;
use super::super::{sse, wire};
use super::answer::{self, Begun};
use super::logprobs;
use super::reply::Head;
use super::response::{ChatChunk, ChunkChoice, Delta, Extension, TextChoice, TextCompletion, Usage, finish_reason};
use crate::chatbot::{Answer, AnswerEvent, Chatbot, Done, SpokenToken};

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

/// An answer on its way. It holds the [`Answer`]: dropped with the connection, it takes the request back.
struct Chunks {
    server: Arc<Server>,
    bot: Arc<Chatbot>,
    answer: Option<Answer>,
    overflow: Option<wire::Overflow>,
    shape: Shape,
    head: Head,
    include_usage: bool,
    with_logprobs: bool,
    text_offset: usize,
    ready: VecDeque<Event>,
}

/// The response.
pub(super) fn response(start: Start) -> Response {
    let Start { server, bot, begun: Begun { answer, overflow }, shape, head, include_usage, with_logprobs } = start;
    let mut chunks = Chunks {
        server,
        bot,
        answer: Some(answer),
        overflow,
        shape,
        head,
        include_usage,
        with_logprobs,
        text_offset: 0,
        ready: VecDeque::new(),
    };
    if chunks.shape == Shape::Chat {
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
            match self.answer.as_mut()?.next().await {
                Some(AnswerEvent::Started { .. } | AnswerEvent::Reading { .. }) => {}
                Some(AnswerEvent::Text { text, tokens }) => self.push_text(text, &tokens),
                Some(AnswerEvent::Done(done)) => {
                    self.answer = None;
                    self.server.metrics.answered(&done.timing);
                    self.push_end(&done);
                }
                Some(AnswerEvent::Failed(reason)) => {
                    self.answer = None;
                    self.ready.push_back(sse::json(&answer::failed(&self.server, &reason).body()));
                }
                None => self.answer = None,
            }
        }
    }

    fn push_text(&mut self, text: String, tokens: &[SpokenToken]) {
        if text.is_empty() && tokens.is_empty() {
            return;
        }
        match self.shape {
            Shape::Chat => {
                let logprobs = self.with_logprobs.then(|| logprobs::chat(self.bot.tokenizer(), tokens));
                self.push_chat((Delta { role: None, content: Some(text) }, logprobs, None), None);
            }
            Shape::Text => {
                let logprobs = self
                    .with_logprobs
                    .then(|| logprobs::completion(self.bot.tokenizer(), tokens, &mut self.text_offset));
                self.push_text_choice(TextChoice { text, index: 0, logprobs, finish_reason: None }, None);
            }
        }
    }

    /// The chunk with the reason, the one with the usage if it is wanted, and OpenAI's last word.
    fn push_end(&mut self, done: &Done) {
        let reason = Some(finish_reason(done.finish));
        let last = Some(Extension::new(done, self.bot.context(), self.overflow.take()));
        let (with_reason, alone) = if self.include_usage { (None, last) } else { (last, None) };
        match self.shape {
            Shape::Chat => self.push_chat((Delta::default(), None, reason), with_reason),
            Shape::Text => {
                let choice = TextChoice { text: String::new(), index: 0, logprobs: None, finish_reason: reason };
                self.push_text_choice(choice, with_reason);
            }
        }
        if self.include_usage {
            let usage = Some(Some(Usage::from(done)));
            match self.shape {
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
            id: self.head.id.clone(),
            object: "chat.completion.chunk",
            created: self.head.created,
            model: self.head.model.clone(),
            choices,
            usage: self.include_usage.then_some(None),
            casallm,
        }
    }

    fn text_chunk(&self, choices: Vec<TextChoice>, casallm: Option<Extension>) -> TextCompletion {
        TextCompletion {
            id: self.head.id.clone(),
            object: "text_completion",
            created: self.head.created,
            model: self.head.model.clone(),
            choices,
            usage: self.include_usage.then_some(None),
            casallm,
        }
    }
}
