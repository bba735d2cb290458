//! An answer while it is made: token ids from the engine become text.

use std::sync::Arc;
use std::time::Instant;

use casallm_data::tokenizer::{StreamDecoder, Tokenizer};

use super::remembered::Remembered;
use super::request::{AnswerEvent, AnswerRequest, Done, FinishReason, SpokenToken, Timing};
use super::stops::{Heard, StopTexts};
use crate::engine::{Event, Finish, Generation, Usage};

/// An answer on its way. Dropping it stops it.
pub struct Answer {
    generation: Option<Generation>,
    tokenizer: Arc<Tokenizer>,
    remembered: Arc<Remembered>,
    decoder: StreamDecoder,
    stops: StopTexts,
    /// Ids that were made before.
    continued: usize,
    ids: Vec<u32>,
    text: String,
    /// Tokens and text that wait to be given out.
    tokens: Vec<SpokenToken>,
    /// The event that follows the one given last.
    next: Option<AnswerEvent>,
    usage: Usage,
    submitted: Instant,
    first: Option<Instant>,
    last: Option<Instant>,
}

impl Answer {
    pub(super) fn new(
        generation: Generation,
        submitted: Instant,
        tokenizer: Arc<Tokenizer>,
        remembered: Arc<Remembered>,
        request: &AnswerRequest,
    ) -> Self {
        let mut decoder = StreamDecoder::new();
        let mut stops = StopTexts::new(&request.stop);
        // What was said before may end within a character, or in the beginning of a stop text.
        let mut text = String::new();
        for id in &request.continue_ids {
            let (Heard::Text(piece) | Heard::End(piece)) = stops.push(&decoder.push(&tokenizer, *id));
            text += &piece;
        }
        Answer {
            generation: Some(generation),
            tokenizer,
            remembered,
            decoder,
            stops,
            continued: request.continue_ids.len(),
            ids: request.continue_ids.clone(),
            text,
            tokens: Vec::new(),
            next: None,
            usage: Usage::default(),
            submitted,
            first: None,
            last: None,
        }
    }

    /// The next event; `None` after the last.
    pub async fn next(&mut self) -> Option<AnswerEvent> {
        loop {
            if let Some(event) = self.next.take() {
                return Some(event);
            }
            let event = self.generation.as_mut()?.next().await;
            if let Some(event) = self.hear(event) {
                return Some(event);
            }
        }
    }

    /// The same where nothing is asynchronous.
    pub fn blocking_next(&mut self) -> Option<AnswerEvent> {
        loop {
            if let Some(event) = self.next.take() {
                return Some(event);
            }
            let event = self.generation.as_mut()?.blocking_next();
            if let Some(event) = self.hear(event) {
                return Some(event);
            }
        }
    }

    fn hear(&mut self, event: Option<Event>) -> Option<AnswerEvent> {
        match event {
            Some(Event::Started { cached_tokens }) => {
                self.usage.cached_tokens = cached_tokens;
                Some(AnswerEvent::Started { cached_tokens })
            }
            Some(Event::Reading { read, of }) => {
                self.usage.prompt_tokens = of;
                Some(AnswerEvent::Reading { read, of })
            }
            Some(Event::Token { id, logprobs, at }) => self.token(SpokenToken { id, logprobs, at }),
            Some(Event::Finished { finish, .. }) => {
                let rest = self.decoder.finish();
                let (text, finish) = match self.stops.push(&rest) {
                    Heard::Text(text) => (text + &self.stops.finish(), reason(finish)),
                    Heard::End(text) => (text, FinishReason::Stop),
                };
                Some(self.end(text, finish, true))
            }
            Some(Event::Failed(error)) => {
                self.generation = None;
                Some(AnswerEvent::Failed(error))
            }
            None => {
                let reason = self.generation.take()?.cut_short();
                Some(AnswerEvent::Failed(reason.to_string()))
            }
        }
    }

    fn token(&mut self, token: SpokenToken) -> Option<AnswerEvent> {
        self.first.get_or_insert(token.at);
        self.last = Some(token.at);
        self.ids.push(token.id);
        let piece = self.decoder.push(&self.tokenizer, token.id);
        self.tokens.push(token);
        match self.stops.push(&piece) {
            Heard::Text(text) if text.is_empty() => None,
            Heard::Text(text) => {
                self.text += &text;
                Some(AnswerEvent::Text { text, tokens: std::mem::take(&mut self.tokens) })
            }
            Heard::End(text) => {
                if let Some(generation) = self.generation.take() {
                    generation.enough();
                }
                Some(self.end(text, FinishReason::Stop, false))
            }
        }
    }

    /// The last text, if any, and then `Done`. `whole`: the ids say what the text says.
    fn end(&mut self, text: String, finish: FinishReason, whole: bool) -> AnswerEvent {
        self.generation = None;
        self.text += &text;
        let whole = whole || self.tokenizer.decode(&self.ids) == self.text;
        if whole {
            self.remembered.keep(&self.text, &self.ids);
        }
        let prompt_tokens = self.usage.prompt_tokens.saturating_sub(self.continued);
        let usage = Usage {
            prompt_tokens,
            cached_tokens: self.usage.cached_tokens.min(prompt_tokens),
            completion_tokens: self.ids.len(),
        };
        let timing = self.timing();
        let ids = whole.then(|| std::mem::take(&mut self.ids));
        let done = AnswerEvent::Done(Done { finish, usage, timing, ids });
        let tokens = std::mem::take(&mut self.tokens);
        if text.is_empty() && tokens.is_empty() {
            return done;
        }
        self.next = Some(done);
        AnswerEvent::Text { text, tokens }
    }

    fn timing(&self) -> Timing {
        let (Some(first), Some(last)) = (self.first, self.last) else { return Timing::default() };
        let seconds = last.duration_since(first).as_secs_f64();
        let tokens = self.ids.len() - self.continued;
        Timing {
            first_token: Some(first.duration_since(self.submitted)),
            tokens_per_second: (tokens > 1 && seconds > 0.0).then(|| (tokens - 1) as f64 / seconds),
        }
    }
}

fn reason(finish: Finish) -> FinishReason {
    match finish {
        Finish::Stop => FinishReason::Stop,
        Finish::Length => FinishReason::Length,
        Finish::Context => FinishReason::Context,
    }
}
