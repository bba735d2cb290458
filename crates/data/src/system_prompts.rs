//! System prompts mixed into conversations that have none: a model that has never seen one does not know what to make of it.
//!
//! Most hold for any answer. Those that ask for something are given only to conversations whose answers do it, so that the model
//! learns to heed them. Called by `train` after cleaning and after the identity is mixed in.

use crate::chat::{Conversation, Message, Role};
use crate::error::Error;
use crate::identity::Identity;
use crate::seeded::{SplitMix64, text_hash};

/// Prompts that hold for any answer.
const PLAIN: &[&str] = &[
    "You are a helpful assistant.",
    "You are a helpful, honest assistant.",
    "You are a friendly and helpful assistant.",
    "You are an assistant.",
    "You are a chatbot that likes to help.",
    "You are a helpful AI.",
    "You are a kind assistant who answers questions.",
    "You help people with their questions and tasks.",
    "Help the user as well as you can.",
    "Answer the user's questions as well as you can.",
    "Answer truthfully. If you do not know something, say so.",
    "Be helpful and polite.",
    "Be polite, honest and helpful.",
    "Read each message with care and answer it.",
    "Talk with the user.",
    "The following is a conversation between a person and an assistant.",
    "This is a chat. You are the assistant.",
    "A person is talking to you. Answer them.",
    "You are here to help.",
    "You are an AI assistant that follows instructions.",
    "You are an AI assistant. The user gives you a task; do it as faithfully as you can.",
    "Give helpful answers to the user's messages.",
    "Your job is to help the user.",
    "Assist the user.",
];

/// Prompts that say who the model is.
const NAMED: &[&str] = &[
    "You are {name}.",
    "You are {name}, {description}.",
    "You are {name}, {description}, made by {maker}.",
    "You are {name}, a helpful assistant.",
    "You are {name}, a helpful assistant made by {maker}.",
    "Your name is {name}. You were made by {maker}.",
    "Your name is {name}. Help the user.",
    "You are an assistant called {name}.",
];

/// For conversations whose answers have at most [`BRIEF_WORDS`] words each.
const BRIEF: &[&str] = &[
    "Answer briefly.",
    "Keep your answers short.",
    "You are a helpful assistant. Answer in a sentence or two.",
    "Be brief.",
    "Give short answers.",
    "Be concise.",
];
const BRIEF_WORDS: usize = 30;

/// For conversations whose answers have at least [`THOROUGH_WORDS`] words each.
const THOROUGH: &[&str] = &[
    "Answer in detail.",
    "You are a helpful assistant. Give detailed answers.",
    "Explain things thoroughly.",
    "Take your time and answer at length.",
    "Give long, complete answers.",
];
const THOROUGH_WORDS: usize = 150;

/// Gives about the share `rate` (in `0.0..1.0`) of the conversations without a system message one, and says how many got it.
/// Which, and what it says, is a function of a conversation's text and the seed.
///
/// # Errors
/// [`Error::MixRate`] when `rate` is not in its range.
pub fn mix(
    conversations: &mut [Conversation],
    identity: Option<&Identity>,
    rate: f64,
    seed: u64,
) -> Result<usize, Error> {
    if !(0.0..1.0).contains(&rate) {
        return Err(Error::MixRate { rate });
    }
    let below = (rate * 2f64.powi(53)) as u64;
    let mut given = 0;
    for conversation in conversations {
        if conversation.messages.iter().any(|message| message.role == Role::System) {
            continue;
        }
        let parts = conversation.messages.iter().flat_map(|m| [m.role.name(), m.content.as_str()]);
        let mut rng = SplitMix64::new(seed, text_hash(parts, seed));
        if rng.next_u64() >> 11 < below {
            let prompt = choose(conversation, identity, &mut rng);
            conversation.messages.insert(0, Message::system(prompt));
            given += 1;
        }
    }
    Ok(given)
}

fn choose(conversation: &Conversation, identity: Option<&Identity>, rng: &mut SplitMix64) -> String {
    let answers = || conversation.messages.iter().filter(|message| message.role == Role::Assistant);
    let words = |message: &Message| message.content.split_whitespace().count();
    let asking = match (answers().map(words).min(), answers().map(words).max()) {
        (_, Some(most)) if most <= BRIEF_WORDS => BRIEF,
        (Some(least), _) if least >= THOROUGH_WORDS => THOROUGH,
        _ => &[],
    };
    match (rng.below(10), identity) {
        (0..3, Some(identity)) => rng
            .pick(NAMED)
            .replace("{name}", identity.name())
            .replace("{maker}", identity.maker())
            .replace("{description}", identity.description()),
        (3..6, _) if !asking.is_empty() => (*rng.pick(asking)).to_owned(),
        _ => (*rng.pick(PLAIN)).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn talks(answer: &str) -> Vec<Conversation> {
        (0..2000).map(|i| Conversation::exchange(format!("question {i}"), answer)).collect()
    }

    #[test]
    fn the_share_is_as_asked_and_the_same_each_time_in_any_order() {
        let mut mixed = talks("An answer.");
        let given = mix(&mut mixed, None, 0.2, 1).unwrap();
        assert!((340..460).contains(&given), "{given}");
        let with = |all: &[Conversation]| all.iter().filter(|c| c.messages[0].role == Role::System).count();
        assert_eq!(with(&mixed), given);
        let mut turned: Vec<_> = talks("An answer.").into_iter().rev().collect();
        mix(&mut turned, None, 0.2, 1).unwrap();
        turned.reverse();
        assert_eq!(turned, mixed);
        let before = mixed.clone();
        mix(&mut mixed, None, 0.9, 2).unwrap();
        let kept = before.iter().zip(&mixed).filter(|(c, _)| c.messages[0].role == Role::System);
        assert!(kept.into_iter().all(|(before, after)| before == after), "a prompt that is there stays");
        let mut none = talks("x");
        assert_eq!((mix(&mut none, None, 0.0, 1).unwrap(), none == talks("x")), (0, true));
        assert!(matches!(mix(&mut none, None, 1.0, 1), Err(Error::MixRate { .. })));
    }

    #[test]
    fn what_a_prompt_asks_for_is_what_the_answers_do() {
        let prompts = |answer: &str, identity: Option<&Identity>| {
            let mut all = talks(answer);
            mix(&mut all, identity, 0.9, 3).unwrap();
            let system = |c: &Conversation| (c.messages[0].role == Role::System).then(|| c.messages[0].content.clone());
            all.iter().filter_map(system).collect::<BTreeSet<String>>()
        };
        let has = |found: &BTreeSet<String>, list: &[&str]| list.iter().all(|prompt| found.contains(*prompt));
        let any = |found: &BTreeSet<String>, list: &[&str]| list.iter().any(|prompt| found.contains(*prompt));
        let brief = prompts("Short.", None);
        assert!(has(&brief, BRIEF) && has(&brief, PLAIN) && !any(&brief, THOROUGH));
        let long = prompts(&"word ".repeat(200), None);
        assert!(has(&long, THOROUGH) && !any(&long, BRIEF));
        let middle = prompts(&"word ".repeat(60), None);
        assert!(has(&middle, PLAIN) && !any(&middle, BRIEF) && !any(&middle, THOROUGH));
        let identity = Identity::new("Casa", "Ada", "a small model").unwrap();
        let named = prompts("Short.", Some(&identity));
        assert!(named.contains("You are Casa, a small model, made by Ada."));
        assert!(named.iter().all(|prompt| !prompt.contains(['{', '}'])));
    }
}
