//! The layouts in which preference pairs are published.

use serde_json::Value;

use super::{DropReason, PreferencePair};
use crate::chat::{Message, Role};
use crate::conversations::{At, kind};
use crate::error::Error;

const HUMAN: &str = "\n\nHuman:";
const ASSISTANT: &str = "\n\nAssistant:";

/// The pair of one record. `chosen` and `rejected` are there in every layout:
///
/// - texts, after a `prompt` (or `question`, or `instruction` with `input`), with or without `system` or `system_prompt` (orca-dpo-pairs);
/// - hh-rlhf's transcripts, `"\n\nHuman: ...\n\nAssistant: ..."`: whole, without a prompt, or after one of the same form;
/// - lists of messages, `role` and `content` or `from` and `value`: whole conversations (ultrafeedback-binarized), or
///   the answer alone, which may also be one message, after a `prompt` or `conversations`, a text or a list.
///
/// White space around each text is removed. What both have in common is the prompt; each must then have one answer.
///
/// # Errors
/// [`Error::PairLayout`] when no layout fits, [`Error::ConversationField`] and [`Error::ConversationRole`] as for chats.
/// The inner `Err` says why a well-formed record is no pair.
pub fn parse_pair(record: &Value, source: &str, row: usize) -> Result<Result<PreferencePair, DropReason>, Error> {
    let at = At { source, row };
    let there = |key: &str| record.get(key).filter(|value| !value.is_null());
    let (Some(chosen), Some(rejected)) = (there("chosen"), there("rejected")) else {
        let found = match record {
            Value::Object(fields) => fields.keys().cloned().collect::<Vec<_>>().join(", "),
            other => kind(other).to_owned(),
        };
        return Err(Error::PairLayout { path: source.to_owned(), row, found });
    };
    let prompt = prompt(&at, record)?;
    let chosen = whole(&at, prompt.as_deref(), chosen, "chosen")?;
    let rejected = whole(&at, prompt.as_deref(), rejected, "rejected")?;
    Ok(pair(chosen, rejected))
}

/// What stands before both answers, where the record has a field for it.
fn prompt(at: &At<'_>, record: &Value) -> Result<Option<Vec<Message>>, Error> {
    let there = |key: &str| record.get(key).filter(|value| !value.is_null());
    let mut messages = if let Some((name, value)) =
        ["prompt", "conversations", "question"].iter().find_map(|name| Some((*name, there(name)?)))
    {
        match value {
            Value::String(text) if is_transcript(text) => {
                let mut turns = transcript(text);
                // Such a prompt ends with the name of who speaks next.
                turns.pop_if(|last| last.role == Role::Assistant && last.content.is_empty());
                turns
            }
            Value::String(text) => vec![Message::user(text.trim())],
            list => at.messages(list, name)?,
        }
    } else if there("instruction").is_some() {
        vec![Message::user(at.question(record)?)]
    } else {
        return Ok(None);
    };
    at.add_system(record, &mut messages)?;
    Ok(Some(messages))
}

/// A conversation that ends with the answer in `value`.
fn whole(at: &At<'_>, prompt: Option<&[Message]>, value: &Value, name: &str) -> Result<Vec<Message>, Error> {
    let said = match (value, prompt) {
        (Value::String(text), _) if is_transcript(text) => transcript(text),
        (Value::String(text), Some(_)) => vec![Message::assistant(text.trim())],
        (Value::String(_), None) => {
            return Err(at.field(name, "a transcript that begins with \"Human:\", as there is no `prompt`", value));
        }
        (list, _) => at.messages(list, name)?,
    };
    match prompt {
        // Whoever begins with a question has the prompt in it already.
        Some(prompt) if said.first().is_none_or(|first| first.role == Role::Assistant) => {
            Ok(prompt.iter().cloned().chain(said).collect())
        }
        Some(prompt) => {
            // A system message may stand in the record and not in the list.
            let system = prompt.first().filter(|m| m.role == Role::System);
            let missing = system.filter(|_| said.first().is_some_and(|first| first.role != Role::System));
            Ok(missing.into_iter().cloned().chain(said).collect())
        }
        None => Ok(said),
    }
}

fn pair(mut chosen: Vec<Message>, mut rejected: Vec<Message>) -> Result<PreferencePair, DropReason> {
    if chosen == rejected {
        return Err(DropReason::EqualAnswers);
    }
    let answers = (chosen.pop(), rejected.pop());
    match answers {
        (Some(c), Some(r)) if c.role == Role::Assistant && r.role == Role::Assistant && chosen == rejected => {
            Ok(PreferencePair { prompt: chosen, chosen: c.content, rejected: r.content })
        }
        _ => Err(DropReason::DifferentPrompts),
    }
}

fn is_transcript(text: &str) -> bool {
    text.trim_start().starts_with(HUMAN.trim_start())
}

/// The turns of a text that begins with `Human:`.
fn transcript(text: &str) -> Vec<Message> {
    let text = format!("\n\n{}", text.trim_start());
    let mut turns = Vec::new();
    let mut rest = text.as_str();
    loop {
        let (role, name) = if rest.starts_with(HUMAN) { (Role::User, HUMAN) } else { (Role::Assistant, ASSISTANT) };
        let Some(said) = rest.strip_prefix(name) else { return turns };
        let end = [HUMAN, ASSISTANT].iter().filter_map(|name| said.find(name)).min().unwrap_or(said.len());
        turns.push(Message { role, content: said[..end].trim().to_owned() });
        rest = &said[end..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn parse(record: &Value) -> Result<Result<PreferencePair, DropReason>, Error> {
        parse_pair(record, "pairs.jsonl", 7)
    }

    fn expected(system: bool) -> PreferencePair {
        let system = system.then(|| Message::system("Be kind."));
        PreferencePair {
            prompt: system.into_iter().chain([Message::user("Hi")]).collect(),
            chosen: "Hello.".into(),
            rejected: "What?".into(),
        }
    }

    #[test]
    fn every_layout_gives_the_same_pair() {
        let (user, good, bad) = (
            json!({"role": "user", "content": "Hi "}),
            json!({"role": "assistant", "content": "Hello."}),
            json!({"role": "assistant", "content": "What?"}),
        );
        for record in [
            json!({"prompt": "Hi", "chosen": " Hello.", "rejected": "What?\n"}),
            json!({"question": "Hi", "system": "", "chosen": "Hello.", "rejected": "What?"}),
            json!({"instruction": "Hi", "input": "", "output": "x", "chosen": "Hello.", "rejected": "What?"}),
            json!({"chosen": "\n\nHuman: Hi\n\nAssistant: Hello.", "rejected": "\n\nHuman: Hi\n\nAssistant: What?"}),
            json!({"prompt": "\n\nHuman: Hi\n\nAssistant:", "chosen": " Hello.", "rejected": " What?"}),
            json!({"prompt": [user], "chosen": [good], "rejected": [bad]}),
            json!({"prompt": "Hi", "messages": [user, good], "chosen": [user, good], "rejected": [user, bad]}),
            json!({"chosen": [user, good], "rejected": [user, bad]}),
            json!({"conversations": [{"from": "human", "value": "Hi"}],
                   "chosen": {"from": "gpt", "value": "Hello."}, "rejected": {"from": "gpt", "value": "What?"}}),
        ] {
            assert_eq!(parse(&record).unwrap().unwrap(), expected(false), "{record}");
        }
        for record in [
            json!({"system": "Be kind.", "question": "Hi", "chosen": "Hello.", "rejected": "What?"}),
            json!({"system": "Be kind.", "prompt": "Hi", "chosen": [user, good], "rejected": [user, bad]}),
        ] {
            assert_eq!(parse(&record).unwrap().unwrap(), expected(true), "{record}");
        }
    }

    #[test]
    fn a_transcript_keeps_its_turns() {
        let talk = "\n\nHuman: Who said\n\"Human: no\"?\n\nAssistant: I did.\n\nHuman: Why?\n\nAssistant: ";
        let record = json!({"chosen": format!("{talk}For fun."), "rejected": format!("{talk}Go away.")});
        let pair = parse(&record).unwrap().unwrap();
        let prompt = [Message::user("Who said\n\"Human: no\"?"), Message::assistant("I did."), Message::user("Why?")];
        assert_eq!(pair.prompt, prompt);
        assert_eq!((pair.chosen.as_str(), pair.rejected.as_str()), ("For fun.", "Go away."));
    }

    #[test]
    fn each_wrong_shape_names_file_row_and_field() {
        for (record, named) in [
            (json!({"prompt": "x", "chosen": "y"}), "prompt"),
            (json!([1]), "a list"),
            (json!({"prompt": "x", "chosen": 4, "rejected": "y"}), "chosen"),
            (json!({"chosen": "x", "rejected": "y"}), "Human:"),
            (json!({"prompt": 3, "chosen": "x", "rejected": "y"}), "prompt"),
            (json!({"prompt": "x", "system": [], "chosen": "x", "rejected": "y"}), "system"),
            (json!({"prompt": "x", "chosen": [{"role": "poet", "content": "x"}], "rejected": "y"}), "poet"),
            (json!({"prompt": "x", "chosen": [{"role": "user"}], "rejected": "y"}), "chosen[0].content"),
        ] {
            let message = parse(&record).unwrap_err().to_string();
            assert!(message.contains("pairs.jsonl") && message.contains('7'), "{message}");
            assert!(message.contains(named), "{record}: {message}");
        }
    }

    #[test]
    fn what_is_no_pair_says_why() {
        for (record, reason) in [
            (json!({"prompt": "a", "chosen": "x", "rejected": "x"}), DropReason::EqualAnswers),
            (
                json!({"prompt": "a", "chosen": [{"role": "user", "content": "b"}], "rejected": "x"}),
                DropReason::DifferentPrompts,
            ),
            (json!({"chosen": [], "rejected": [{"role": "user", "content": "b"}]}), DropReason::DifferentPrompts),
        ] {
            assert_eq!(parse(&record).unwrap(), Err(reason), "{record}");
        }
    }

    proptest! {
        #[test]
        fn no_transcript_panics(text in "(\n\nHuman:|\n\nAssistant:|\n| |[a-zé])*") {
            let record = json!({"chosen": text, "rejected": format!("{text}x"), "prompt": text});
            let _ = parse(&record);
        }
    }
}
