//! A conversation in memory: its turns with the ids of answers as they were generated, and what is left out of it when the
//! context is full.

use casallm_data::chat::{Message, Role};
use casallm_model::sampler::SamplerConfig;
use casallm_serve::chatbot::{AnswerRequest, ChatError, Chatbot, Done, Turn};

/// Turns and settings.
pub(super) struct Conversation {
    system: Option<Turn>,
    turns: Vec<Turn>,
    pub(super) sampling: SamplerConfig,
    pub(super) max_tokens: usize,
    /// Answers asked for: each draws from a stream of its own.
    answers: u64,
}

/// What making room took.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// Nothing, or that many of the oldest exchanges.
    LeftOut(usize),
    /// The last message does not fit by itself: it has that many tokens.
    None(usize),
}

impl Conversation {
    pub(super) fn new(system: Option<&str>, sampling: SamplerConfig, max_tokens: usize) -> Self {
        let mut conversation = Conversation { system: None, turns: Vec::new(), sampling, max_tokens, answers: 0 };
        conversation.instruct(system);
        conversation
    }

    /// Other instructions, or none.
    pub(super) fn instruct(&mut self, system: Option<&str>) {
        self.system = system.filter(|text| !text.trim().is_empty()).map(|text| Turn::from(Message::system(text)));
    }

    /// Forgets what was said.
    pub(super) fn clear(&mut self) {
        self.turns.clear();
    }

    /// Says something, and asks for an answer.
    pub(super) fn ask(&mut self, text: &str) -> AnswerRequest {
        self.turns.push(Turn::from(Message::user(text)));
        self.request()
    }

    /// Asks for an answer to what was said last; the next time it is asked for, another may come.
    pub(super) fn request(&mut self) -> AnswerRequest {
        let sampling = SamplerConfig { seed: self.sampling.seed.wrapping_add(self.answers), ..self.sampling.clone() };
        self.answers += 1;
        AnswerRequest { max_tokens: Some(self.max_tokens), ..AnswerRequest::new(self.all(), sampling) }
    }

    /// Keeps an answer; `done` is missing when it was stopped.
    pub(super) fn answered(&mut self, text: &str, done: Option<Done>) {
        let ids = done.and_then(|done| done.ids).map(Into::into);
        self.turns.push(Turn { message: Message::assistant(text.trim()), ids });
    }

    /// Takes the last message back, with its answer. What was it?
    pub(super) fn take_back(&mut self) -> Option<String> {
        let at = self.turns.iter().rposition(|turn| turn.message.role == Role::User)?;
        let said = self.turns.drain(at..).next()?;
        Some(said.message.content)
    }

    /// Leaves out the oldest exchanges until a quarter of the context is free for the answer.
    pub(super) fn make_room(&mut self, bot: &Chatbot) -> Result<Room, ChatError> {
        let limit = bot.context() * 3 / 4;
        let mut left_out = 0;
        while self.turns.len() > 2 && bot.count(&self.all())? > limit {
            self.turns.drain(..2);
            left_out += 1;
        }
        let tokens = bot.count(&self.all())?;
        Ok(if tokens < bot.context() { Room::LeftOut(left_out) } else { Room::None(tokens) })
    }

    /// What the model is given.
    pub(super) fn all(&self) -> Vec<Turn> {
        self.system.iter().chain(&self.turns).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_back_is_the_last_exchange() {
        let mut conversation = Conversation::new(Some("Be kind."), SamplerConfig::greedy(), 5);
        conversation.ask("one");
        conversation.answered("1", None);
        conversation.ask("two");
        conversation.answered("2", None);
        assert_eq!(conversation.take_back().as_deref(), Some("two"));
        let said =
            |request: &AnswerRequest| request.turns.iter().map(|turn| turn.message.content.clone()).collect::<Vec<_>>();
        assert_eq!(said(&conversation.ask("three")), ["Be kind.", "one", "1", "three"]);
        conversation.clear();
        assert_eq!(conversation.take_back(), None);
        conversation.instruct(Some(" "));
        assert_eq!(said(&conversation.ask("four")), ["four"]);
    }

    #[test]
    fn every_answer_draws_from_its_own_stream() {
        let mut conversation = Conversation::new(None, SamplerConfig { seed: 7, ..SamplerConfig::default() }, 5);
        let (first, second) = (conversation.ask("a"), conversation.request());
        assert_eq!((first.sampling.seed, second.sampling.seed), (7, 8));
    }
}
