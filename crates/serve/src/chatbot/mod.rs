//! Text around the engine: conversations become token ids by the model's template, token ids become text as they come.
//! It knows nothing of HTTP and nothing of how conversations are kept.

mod answer;
mod load;
mod remembered;
mod request;
mod stops;

use std::sync::Arc;
use std::time::Instant;

use casallm_data::chat::{self, ChatTemplate};
use casallm_data::tokenizer::Tokenizer;

use crate::engine::{Engine, Request};
use remembered::Remembered;

pub use answer::Answer;
pub use load::{LoadError, LoadOptions};
pub use request::{AnswerEvent, AnswerRequest, ChatError, Done, FinishReason, ModelCard, SpokenToken, Timing, Turn};

/// A model that can talk.
pub struct Chatbot {
    engine: Engine,
    tokenizer: Arc<Tokenizer>,
    template: ChatTemplate,
    /// What a text without a conversation begins with.
    opening: Option<u32>,
    card: ModelCard,
    remembered: Arc<Remembered>,
}

impl Chatbot {
    /// An engine whose ids are those of a tokenizer, with the template for its conversations. `opening` begins a text that
    /// is no conversation.
    pub fn new(
        engine: Engine,
        tokenizer: Arc<Tokenizer>,
        template: ChatTemplate,
        opening: Option<u32>,
        card: ModelCard,
    ) -> Self {
        Chatbot { engine, tokenizer, template, opening, card, remembered: Arc::default() }
    }

    /// What the model is.
    pub fn card(&self) -> &ModelCard {
        &self.card
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Tokens that a prompt and its answer have together.
    pub fn context(&self) -> usize {
        self.engine.context()
    }

    /// Whether the template takes a system message.
    pub fn takes_system(&self) -> bool {
        self.template.takes_system()
    }

    /// Tokens of the prompt that these turns make.
    ///
    /// # Errors
    /// [`ChatError::Template`].
    pub fn count(&self, turns: &[Turn]) -> Result<usize, ChatError> {
        Ok(self.prompt(turns)?.len())
    }

    /// Begins to answer a conversation.
    ///
    /// # Errors
    /// [`ChatError::Template`] when its template cannot render these turns, [`ChatError::Submit`] when the engine does not
    /// take the request.
    pub fn answer(&self, request: &AnswerRequest) -> Result<Answer, ChatError> {
        self.go_on(self.prompt(&request.turns)?, request)
    }

    /// Begins to continue a text that is no conversation. The turns of the request are not looked at.
    ///
    /// # Errors
    /// [`ChatError::Submit`] when the engine does not take the request.
    pub fn complete(&self, text: &str, request: &AnswerRequest) -> Result<Answer, ChatError> {
        let mut prompt: Vec<u32> = self.opening.into_iter().collect();
        self.tokenizer.encode_into(text, &mut prompt);
        self.go_on(prompt, request)
    }

    fn prompt(&self, turns: &[Turn]) -> Result<Vec<u32>, ChatError> {
        // An answer that comes back as text is given its own ids again, as far as they are remembered.
        let ids: Vec<Option<Arc<[u32]>>> = turns
            .iter()
            .map(|turn| match &turn.ids {
                Some(ids) => Some(ids.clone()),
                None if turn.message.role == chat::Role::Assistant => self.remembered.ids(&turn.message.content),
                None => None,
            })
            .collect();
        let turns: Vec<chat::Turn<'_>> = turns
            .iter()
            .zip(&ids)
            .map(|(turn, ids)| chat::Turn { message: &turn.message, ids: ids.as_deref() })
            .collect();
        Ok(self.template.render_prompt(&turns, &self.tokenizer)?)
    }

    fn go_on(&self, mut prompt: Vec<u32>, request: &AnswerRequest) -> Result<Answer, ChatError> {
        let made = request.continue_ids.len();
        prompt.extend_from_slice(&request.continue_ids);
        let most = request.max_tokens.unwrap_or(usize::MAX).saturating_sub(made);
        let submitted = Instant::now();
        let generation = self.engine.submit(Request {
            prompt,
            sampling: request.sampling.clone(),
            // A token takes one draw, but at temperature 0, where nobody counts.
            draws: made as u64,
            max_new_tokens: most,
            stop_ids: self.template.stop_ids().to_vec(),
            top_logprobs: request.top_logprobs,
            priority: request.priority,
        })?;
        Ok(Answer::new(generation, submitted, self.tokenizer.clone(), self.remembered.clone(), request))
    }
}
