//! Conversations longer than the context. OpenAI's interface keeps nothing between requests, so that what can be done is
//! to leave out the oldest exchanges; the response says that it was done. Which they are is decided as for stored
//! conversations, so that the next request mostly begins as this one did and finds itself in the cache.

use casallm_data::chat::Role;

use super::super::error::ApiError;
use super::answer::refused;
use super::wire;
use crate::chatbot::{Chatbot, Turn};
use crate::overflow::{self, Budget, Decision, Length, Policy};

/// Leaves out old exchanges if it has to be. System messages at the beginning stay, and so does the last exchange.
///
/// # Errors
/// It would have to be more than the policy allows.
pub(super) fn fit(
    bot: &Chatbot,
    turns: &mut Vec<Turn>,
    policy: Policy,
    max_tokens: usize,
) -> Result<Option<wire::Overflow>, ApiError> {
    let count = |turns: &[Turn]| bot.count(turns).map_err(|error| refused("messages", &error));
    let whole = count(turns)?;
    if whole <= Budget::new(bot.context(), 0, Some(max_tokens), 0).room() {
        return Ok(None);
    }
    let policy = if policy == Policy::Refuse { Policy::Refuse } else { Policy::DropOldest };
    let opening = turns.iter().take_while(|turn| turn.message.role == Role::System).count();
    let said: Vec<usize> = turns.iter().map(|turn| bot.tokenizer().encode(&turn.message.content).len()).collect();
    // What the template adds is taken to be the same for each message.
    let around = whole.saturating_sub(said.iter().sum::<usize>()).div_ceil(turns.len());
    let length =
        |(turn, said): (&Turn, &usize)| Length { tokens: said + around, opens: turn.message.role == Role::User };
    let lengths: Vec<Length> = turns.iter().zip(&said).map(length).collect();
    let (always, branch) = lengths.split_at(opening);
    let mut fixed: usize = always.iter().map(|length| length.tokens).sum();
    loop {
        let budget = Budget::new(bot.context(), fixed, Some(max_tokens), 0);
        let decided = overflow::decide(policy, branch, &[], &budget);
        let (Decision::Answer(plan) | Decision::Condense(_, plan)) =
            decided.map_err(|error| ApiError::context_length("messages", error.to_string()))?;
        let kept: Vec<Turn> = turns[..opening].iter().chain(&turns[opening + plan.first..]).cloned().collect();
        let exact = count(&kept)?;
        if exact <= budget.room() {
            *turns = kept;
            let dropped = wire::Overflow { policy: Policy::DropOldest, dropped_messages: plan.first, note_id: None };
            return Ok((plan.first > 0).then_some(dropped));
        }
        // The estimate was too low by that much. It grows each time, until it fits or cannot.
        fixed += (exact - budget.room()).max(exact.saturating_sub(plan.tokens)).max(1);
    }
}
