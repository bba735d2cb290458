//! Conversations longer than the context. OpenAI's interface keeps nothing between requests, so that what can be done is
//! to leave out the oldest exchanges; the response says that it was done.

use casallm_data::chat::Role;

use super::super::error::ApiError;
use super::super::server::Overflow;
use super::super::wire;
use super::answer::refused;
use crate::chatbot::{Chatbot, Turn};

/// Leaves out as few of the oldest exchanges as make room for an answer of `max_tokens`, or of a quarter of the context if
/// that is less. System messages at the beginning stay, and so does the last message of a person.
///
/// # Errors
/// It would have to be more than the policy allows.
pub(super) fn fit(
    bot: &Chatbot,
    turns: &mut Vec<Turn>,
    policy: Overflow,
    max_tokens: usize,
) -> Result<Option<wire::Overflow>, ApiError> {
    let context = bot.context();
    let count = |turns: &[Turn]| bot.count(turns).map_err(|error| refused("messages", &error));
    let whole = count(turns)?;
    let limit = context.saturating_sub(max_tokens.min(context / 4).max(1));
    if whole <= limit {
        return Ok(None);
    }
    let opening = turns.iter().take_while(|turn| turn.message.role == Role::System).count();
    let without = |cut: usize| turns[..opening].iter().chain(&turns[cut..]).cloned().collect::<Vec<_>>();
    // Where an exchange begins, the first aside.
    let mut cuts: Vec<usize> =
        (opening + 1..turns.len()).filter(|index| turns[*index].message.role == Role::User).collect();
    if policy == Overflow::Refuse {
        cuts.clear();
    }
    let mut failed = None;
    let first = cuts.partition_point(|cut| match count(&without(*cut)) {
        Ok(tokens) => tokens > limit,
        Err(error) => {
            failed = Some(error);
            false
        }
    });
    if let Some(error) = failed {
        return Err(error);
    }
    let Some(cut) = cuts.get(first).or(cuts.last()).copied() else {
        // There is nothing to leave out. What fits with a shorter answer is answered.
        return if whole < context { Ok(None) } else { Err(too_long(whole, context)) };
    };
    let kept = without(cut);
    let tokens = count(&kept)?;
    if tokens >= context {
        return Err(too_long(tokens, context));
    }
    let dropped_messages = cut - opening;
    *turns = kept;
    Ok(Some(wire::Overflow { policy: "drop-oldest", dropped_messages, note_id: None }))
}

fn too_long(tokens: usize, context: usize) -> ApiError {
    let message =
        format!("the messages have {tokens} tokens and leave no room in the context of {context}; shorten them");
    ApiError::context_length("messages", message)
}
