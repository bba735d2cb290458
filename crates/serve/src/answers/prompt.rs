//! From a stored branch to turns for the model: what fits, where the note goes, which ids are of use.

use casallm_data::chat;

use super::error::AnswersError;
use super::summary;
use crate::chatbot::{Chatbot, Turn};
use crate::overflow::{self, Budget, Condense, Decision, Length, NoteLength, Plan, Policy};
use crate::store::{Database, Note, Overflow, Role, Step, StoreError};

/// A branch of a conversation, up to the message to answer or to an answer.
#[derive(Debug, Clone)]
pub(super) struct Branch {
    pub(super) system_prompt: String,
    pub(super) steps: Vec<Step>,
    /// Those that condense a beginning of this branch, oldest first, and how many messages of it.
    pub(super) notes: Vec<(Note, usize)>,
}

impl Branch {
    /// Reads the branch that ends with `leaf`, none for the beginning of a conversation.
    pub(super) fn read(database: &Database, conversation: &str, leaf: Option<&str>) -> Result<Self, StoreError> {
        let system_prompt = database.conversation(conversation)?.system_prompt;
        let steps = leaf.map(|leaf| database.path(leaf)).transpose()?.unwrap_or_default();
        let notes = database.notes(conversation)?.into_iter().filter_map(|note| {
            // A note ends with an answer: an imported one that does not would begin what follows with an answer.
            let through = steps
                .iter()
                .position(|step| step.message.id == note.through_id && step.message.role == Role::Assistant)?;
            Some((note, through + 1))
        });
        Ok(Self { system_prompt, notes: notes.collect(), steps })
    }

    /// The turns that a plan gives to the model, of the messages before `end`.
    pub(super) fn turns(&self, chatbot: &Chatbot, note: Option<usize>, first: usize, end: usize) -> Vec<Turn> {
        let mut system = self.system_prompt.clone();
        if let Some((note, _)) = note.and_then(|note| self.notes.get(note)) {
            if !system.is_empty() {
                system.push_str("\n\n");
            }
            system.push_str(&headed(&note.text));
        }
        let mut turns: Vec<Turn> = Vec::with_capacity(end - first + 1);
        for step in &self.steps[first..end] {
            let content = &step.message.content;
            let turn: Turn = match step.message.role {
                Role::User => chat::Message::user(content).into(),
                Role::Assistant => {
                    // Ids are worth something to a model with the tokenizer that they are of, and to no other.
                    let tokens = step.tokens.as_ref().filter(|tokens| tokens.tokenizer == chatbot.card().tokenizer);
                    let ids = tokens.map(|tokens| tokens.ids.as_slice().into());
                    Turn { message: chat::Message::assistant(content), ids }
                }
            };
            turn.follow(&mut turns);
        }
        if system.is_empty() {
            return turns;
        }
        if chatbot.takes_system() {
            turns.insert(0, chat::Message::system(system).into());
        } else if let Some(turn) = turns.first_mut() {
            turn.message.content = format!("{system}\n\n{}", turn.message.content);
        }
        turns
    }

    /// How long the messages are, about: what the template adds is taken to be the same for each.
    fn lengths(&self, chatbot: &Chatbot, around: usize) -> Vec<Length> {
        let length = |step: &Step| match &step.tokens {
            _ if step.message.content.is_empty() => 0,
            Some(tokens) if tokens.tokenizer == chatbot.card().tokenizer => around + tokens.ids.len(),
            _ => around + chatbot.tokenizer().encode(&step.message.content).len(),
        };
        self.steps.iter().map(|step| Length { tokens: length(step), opens: step.message.role == Role::User }).collect()
    }

    fn note_lengths(&self, chatbot: &Chatbot) -> Vec<NoteLength> {
        let length = |(note, messages): &(Note, usize)| NoteLength {
            messages: *messages,
            // A note can have been written with another model's tokenizer.
            tokens: chatbot.tokenizer().encode(&headed(&note.text)).len(),
        };
        self.notes.iter().map(length).collect()
    }

    /// What the template and the system prompt take: tokens around a message, and tokens that are always there.
    fn frame(&self, chatbot: &Chatbot) -> Result<(usize, usize), AnswersError> {
        let ask = || Turn::from(chat::Message::user("a"));
        let once = chatbot.count(&[ask()])?;
        let again = chatbot.count(&[ask(), chat::Message::assistant("a").into(), ask()])?;
        let letter = chatbot.tokenizer().encode("a").len();
        let around = (again.saturating_sub(once)).div_ceil(2).saturating_sub(letter);
        let fixed = once.saturating_sub(letter + around);
        let system = chatbot.tokenizer().encode(&self.system_prompt).len();
        Ok((around, fixed + if system == 0 { 0 } else { system + around }))
    }

    /// What to do for an answer to the last message.
    ///
    /// # Errors
    /// [`AnswersError::DoesNotFit`], [`AnswersError::Chat`].
    pub(super) fn decide(
        &self,
        chatbot: &Chatbot,
        policy: Policy,
        max_tokens: Option<usize>,
    ) -> Result<Decision, AnswersError> {
        let (around, mut fixed) = self.frame(chatbot)?;
        let (lengths, notes) = (self.lengths(chatbot, around), self.note_lengths(chatbot));
        let instruction = summary::instruction_tokens(chatbot) + around;
        loop {
            let budget = Budget::new(chatbot.context(), fixed, max_tokens, instruction);
            let decision = overflow::decide(policy, &lengths, &notes, &budget)?;
            let (Decision::Answer(plan) | Decision::Condense(_, plan)) = decision;
            let exact = chatbot.count(&self.turns(chatbot, plan.note, plan.first, self.steps.len()))?;
            if exact <= budget.room() {
                return Ok(decision);
            }
            // The estimate was too low by that much. It grows each time, until it fits or cannot.
            fixed += (exact - budget.room()).max(exact.saturating_sub(plan.tokens));
        }
    }

    /// What to condense after the answer that the branch ends with.
    ///
    /// # Errors
    /// [`AnswersError::Chat`].
    pub(super) fn condense_ahead(&self, chatbot: &Chatbot) -> Result<Option<Condense>, AnswersError> {
        let (around, fixed) = self.frame(chatbot)?;
        let instruction = summary::instruction_tokens(chatbot) + around;
        let budget = Budget::new(chatbot.context(), fixed, None, instruction);
        Ok(overflow::condense_ahead(&self.lengths(chatbot, around), &self.note_lengths(chatbot), &budget))
    }

    /// What an answer by this plan is to say of it; none if all messages are given.
    pub(super) fn overflow(&self, policy: Policy, plan: &Plan) -> Option<Overflow> {
        let note_id = plan.note.and_then(|note| self.notes.get(note)).map(|(note, _)| note.id.clone());
        // A summary that could not be made, or does not reach far enough, is made up for by dropping.
        let condensed = plan.note.and_then(|note| self.notes.get(note)).map_or(0, |(_, messages)| *messages);
        let policy = if plan.first > condensed { Policy::DropOldest } else { policy };
        let dropped_messages = u32::try_from(plan.first).unwrap_or(u32::MAX);
        (plan.first > 0).then_some(Overflow { policy, dropped_messages, note_id })
    }
}

/// A note as the model reads it.
fn headed(note: &str) -> String {
    format!("Summary of the conversation so far:\n{note}")
}
