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
        // For a message that cannot be answered nothing is forgotten.
        let last = self.turns.len().saturating_sub(1);
        let alone = bot.count(&self.given(&self.turns[last..]))?;
        if alone >= bot.context() {
            return Ok(Room::None(alone));
        }
        let limit = bot.context() * 3 / 4;
        let mut left_out = 0;
        while self.turns.len() > 2 && bot.count(&self.all())? > limit {
            self.turns.drain(..2);
            left_out += 1;
        }
        Ok(Room::LeftOut(left_out))
    }

    /// What the model is given.
    pub(super) fn all(&self) -> Vec<Turn> {
        self.given(&self.turns)
    }

    /// These turns, with the instructions before them.
    fn given(&self, turns: &[Turn]) -> Vec<Turn> {
        let mut given: Vec<Turn> = self.system.iter().cloned().collect();
        turns.iter().for_each(|turn| turn.clone().follow(&mut given));
        given
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use casallm_data::chat::ChatTemplate;
    use casallm_data::tokenizer::{Tokenizer, TrainOptions};
    use casallm_serve::chatbot::ModelCard;
    use casallm_serve::engine::fake::FakeModel;
    use casallm_serve::engine::{Engine, EngineConfig};

    use super::*;

    /// A chatbot of this context and template (the program's own if it is empty), whose tokens are bytes.
    pub(in crate::chat) fn chatbot(context: usize, template: &str) -> Chatbot {
        let options = TrainOptions { vocab_size: 262, ..TrainOptions::default() };
        let tokenizer = Tokenizer::train([Ok("x".to_owned())].into_iter(), &options, &mut |_| {}).unwrap();
        let model = FakeModel::new(1, context, tokenizer.vocab_size());
        let engine = Engine::start(model, &EngineConfig::default(), None).unwrap();
        let settings = serde_json::json!({"chat_template": template}).to_string();
        let template = match template {
            "" => ChatTemplate::own(&tokenizer),
            _ => ChatTemplate::of_model(&settings, None, &tokenizer),
        };
        let template = template.unwrap();
        let card = ModelCard {
            id: "fake".to_owned(),
            parameters: 1,
            device: "none".to_owned(),
            created: 1,
            tokenizer: tokenizer.fingerprint(),
        };
        Chatbot::new(engine, Arc::new(tokenizer), template, None, card)
    }

    fn conversation(system: Option<&str>) -> Conversation {
        Conversation::new(system, SamplerConfig::greedy(), 5)
    }

    fn said(turns: &[Turn]) -> Vec<String> {
        turns.iter().map(|turn| turn.message.content.clone()).collect()
    }

    #[test]
    fn what_is_taken_back_is_the_last_exchange() {
        let mut conversation = conversation(Some("Be kind."));
        conversation.ask("one");
        conversation.answered("1", None);
        conversation.ask("two");
        conversation.answered("2", None);
        assert_eq!(conversation.take_back().as_deref(), Some("two"));
        assert_eq!(said(&conversation.ask("three").turns), ["Be kind.", "one", "1", "three"]);
        conversation.clear();
        assert_eq!(conversation.take_back(), None);
        conversation.instruct(Some(" "));
        assert_eq!(said(&conversation.ask("four").turns), ["four"]);
    }

    #[test]
    fn every_answer_draws_from_its_own_stream() {
        let sampling = SamplerConfig { seed: 7, ..SamplerConfig::default() };
        let mut conversation = Conversation::new(None, sampling, 5);
        let (first, second) = (conversation.ask("a"), conversation.request());
        assert_eq!((first.sampling.seed, second.sampling.seed), (7, 8));
    }

    #[test]
    fn a_message_that_fits_in_no_way_makes_nothing_be_forgotten() {
        let (bot, mut conversation) = (chatbot(100, ""), conversation(None));
        conversation.ask("My name is Ada.");
        conversation.answered("Good.", None);
        conversation.ask(&"x".repeat(200));
        assert!(matches!(conversation.make_room(&bot).unwrap(), Room::None(tokens) if tokens > 200));
        conversation.take_back();
        conversation.ask("What is it?");
        assert_eq!(conversation.make_room(&bot).unwrap(), Room::LeftOut(0));
        assert_eq!(said(&conversation.all()), ["My name is Ada.", "Good.", "What is it?"]);
        // One that fits by itself has the oldest left out.
        conversation.take_back();
        conversation.ask(&"x".repeat(60));
        assert_eq!(conversation.make_room(&bot).unwrap(), Room::LeftOut(1));
        assert_eq!(conversation.all().len(), 1);
    }

    #[test]
    fn an_answer_that_was_stopped_before_its_first_word_is_not_given_to_the_model() {
        let mut conversation = conversation(Some("Be kind."));
        conversation.ask("one");
        conversation.answered("", None);
        assert_eq!(said(&conversation.ask("two").turns), ["Be kind.", "one\n\ntwo"]);
        conversation.answered("2", None);
        assert_eq!(said(&conversation.ask("three").turns), ["Be kind.", "one\n\ntwo", "2", "three"]);
        assert_eq!(conversation.take_back().as_deref(), Some("three"));
    }
}
