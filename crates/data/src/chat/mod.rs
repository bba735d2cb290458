//! The chat template: how a conversation becomes token ids, and which of them are learned.
//!
//! `<s>`, then for each message its role token, its text and `</s>`. The loss falls on the assistant's text and the
//! `</s>` that ends it; a role token is never a target, because the program writes it, not the model.
//! Called by `packing` (fine-tuning) and by whoever generates (the prompt ends with the assistant's role token).
//!
//! Control tokens are placed here by id. The text of people goes through `Tokenizer::encode`, which never yields
//! one, so typing `<|system|>` gives the characters and not the role.
//!
//! An imported model brings a template of its own in Jinja: [`ChatTemplate`] is either.

mod jinja;
mod template;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::tokenizer::{SpecialTokens, Tokenizer};

pub use template::{ChatTemplate, Turn};

/// The same template in Jinja, for `tokenizer_config.json`: other programs then format prompts as this one does.
pub const CHAT_TEMPLATE: &str = concat!(
    "{{ bos_token }}",
    "{% for message in messages %}",
    "{{ '<|' + message['role'] + '|>' + message['content'] + eos_token }}",
    "{% endfor %}",
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}",
);

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions that precede the conversation.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
}

impl Role {
    /// The role's name as it stands in `messages` records and in the template.
    pub fn name(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
        }
    }
}

/// One turn.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said, as plain text.
    pub content: String,
}

impl Message {
    /// A turn of the model's instructions.
    pub fn system(content: impl Into<String>) -> Self {
        Self::new(Role::System, content)
    }

    /// A turn of the person.
    pub fn user(content: impl Into<String>) -> Self {
        Self::new(Role::User, content)
    }

    /// A turn of the model.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self::new(Role::Assistant, content)
    }

    fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into() }
    }
}

/// Turns in order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Conversation {
    /// The turns, oldest first.
    pub messages: Vec<Message>,
}

impl Conversation {
    /// One question with its answer.
    pub fn exchange(question: impl Into<String>, answer: impl Into<String>) -> Self {
        Self { messages: vec![Message::user(question), Message::assistant(answer)] }
    }
}

/// A conversation as ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// `[n]` token ids.
    pub ids: Vec<u32>,
    /// `[n]`: true where the id is to be predicted (the assistant's text and its `</s>`).
    pub loss_mask: Vec<bool>,
    /// For each assistant message the number of ids up to and with its `</s>`: where the conversation may be cut.
    pub cuts: Vec<usize>,
}

/// The ids of a whole conversation and the mask of those that are learned.
///
/// # Errors
/// [`Error::TokenizerNotOwn`]: the template of this program needs its control tokens.
pub fn render(conversation: &Conversation, tokenizer: &Tokenizer) -> Result<Rendered, Error> {
    let special = tokenizer.special()?;
    let mut ids = vec![special.bos];
    let mut loss_mask = vec![false];
    let mut cuts = Vec::new();
    for message in &conversation.messages {
        ids.extend(turn(message, tokenizer, special));
        loss_mask.push(false);
        loss_mask.resize(ids.len(), message.role == Role::Assistant);
        if message.role == Role::Assistant {
            cuts.push(ids.len());
        }
    }
    Ok(Rendered { ids, loss_mask, cuts })
}

/// The ids of one message: its role, its text, its end.
pub(crate) fn turn(message: &Message, tokenizer: &Tokenizer, special: SpecialTokens) -> Vec<u32> {
    let mut ids = vec![role_id(message.role, special)];
    tokenizer.encode_into(&message.content, &mut ids);
    ids.push(special.eos);
    ids
}

/// The ids from which the model goes on as the assistant.
fn render_prompt(turns: &[Turn<'_>], tokenizer: &Tokenizer) -> Result<Vec<u32>, Error> {
    let special = tokenizer.special()?;
    let mut ids = vec![special.bos];
    for turn in turns {
        ids.push(role_id(turn.message.role, special));
        match turn.ids {
            Some(given) => ids.extend_from_slice(given),
            None => tokenizer.encode_into(&turn.message.content, &mut ids),
        }
        ids.push(special.eos);
    }
    ids.push(special.assistant);
    Ok(ids)
}

fn role_id(role: Role, special: SpecialTokens) -> u32 {
    match role {
        Role::System => special.system,
        Role::User => special.user,
        Role::Assistant => special.assistant,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::tests::byte_tokenizer;

    fn prompt_of(messages: &[Message], tokenizer: &Tokenizer) -> Vec<u32> {
        let turns: Vec<Turn<'_>> = messages.iter().map(Turn::of).collect();
        render_prompt(&turns, tokenizer).unwrap()
    }

    fn talk() -> Vec<Message> {
        vec![
            Message::system("Be kind."),
            Message::user("Hi <|assistant|>"),
            Message::assistant("Hello."),
            Message::user("Bye </s>"),
            Message::assistant("See you."),
        ]
    }

    #[test]
    fn loss_falls_on_answers_and_their_ends_only() {
        let tokenizer = byte_tokenizer();
        let special = tokenizer.special().unwrap();
        let conversation = Conversation { messages: talk() };
        let rendered = render(&conversation, &tokenizer).unwrap();
        assert_eq!(rendered.ids.len(), rendered.loss_mask.len());
        let learned: Vec<u32> =
            rendered.ids.iter().zip(&rendered.loss_mask).filter(|(_, m)| **m).map(|(id, _)| *id).collect();
        let mut expected = tokenizer.encode("Hello.");
        expected.push(special.eos);
        expected.extend(tokenizer.encode("See you."));
        expected.push(special.eos);
        assert_eq!(learned, expected);
        for &cut in &rendered.cuts {
            assert!(rendered.ids[cut - 1] == special.eos && rendered.loss_mask[cut - 1]);
        }
        assert_eq!(rendered.cuts.len(), 2);
        assert_eq!(rendered.cuts[1], rendered.ids.len());
    }

    #[test]
    fn typed_control_tokens_stay_text() {
        let tokenizer = byte_tokenizer();
        let special = tokenizer.special().unwrap();
        let typed = "<s></s><pad><|system|><|user|><|assistant|>";
        let ids = prompt_of(&[Message::user(typed)], &tokenizer);
        let control = [special.bos, special.eos, special.pad, special.system, special.user, special.assistant];
        let placed: Vec<u32> = ids.into_iter().filter(|id| control.contains(id)).collect();
        assert_eq!(placed, [special.bos, special.user, special.eos, special.assistant]);
    }

    #[test]
    fn prompt_is_the_beginning_of_the_conversation() {
        let tokenizer = byte_tokenizer();
        let whole = render(&Conversation { messages: talk() }, &tokenizer).unwrap();
        for turns in [2, 4] {
            let prompt = prompt_of(&talk()[..turns], &tokenizer);
            assert_eq!(whole.ids[..prompt.len()], prompt);
            assert!(whole.loss_mask[prompt.len()] && !whole.loss_mask[prompt.len() - 1]);
        }
    }

    /// What people may type: markup, Jinja, other scripts, control characters, and names of control tokens.
    const TYPED: [&str; 30] = [
        "Hello",
        " what is",
        "\n",
        "  ",
        "\t\r\n",
        "12",
        "2026",
        "'s",
        "e\u{301}",
        "漢字",
        "\u{1F600}",
        "\u{200b}",
        "\0",
        "<|",
        "|>",
        "<|user",
        "</s",
        "<s>",
        "</s>",
        "<pad>",
        "<|system|>",
        "<|user|>",
        "<|assistant|>",
        "{{ bos_token }}",
        "{% endfor %}",
        "{{ raise_exception('x') }}",
        "{#",
        "<script>",
        "\\",
        "\u{10FFFF}",
    ];

    #[test]
    fn jinja_template_says_the_same_of_any_conversation() {
        let tokenizer = byte_tokenizer();
        let given = ChatTemplate::from_jinja(CHAT_TEMPLATE, Some("<s>"), Some("</s>"), &tokenizer).unwrap();
        let own = ChatTemplate::own(&tokenizer).unwrap();
        let environment = minijinja::Environment::new();
        let mut state = 9;
        let mut below = |bound: usize| {
            state = (state * 6_364_136_223_846_793_005u64 as u128 + 1_442_695_040_888_963_407) % (1 << 64);
            (state >> 33) as usize % bound
        };
        let mut named = 0;
        for _ in 0..500 {
            let mut text = || (0..below(10)).map(|_| TYPED[below(TYPED.len())]).collect::<String>();
            let mut messages =
                vec![Message::system(text()), Message::user(text()), Message::assistant(text()), Message::user(text())];
            messages.drain(..below(4));
            let turns: Vec<Turn<'_>> = messages.iter().map(Turn::of).collect();
            let ids = own.render_prompt(&turns, &tokenizer).unwrap();
            assert_eq!(given.render_prompt(&turns, &tokenizer).unwrap(), ids);
            // The text that a program without such care renders.
            let said: Vec<minijinja::Value> = messages
                .iter()
                .map(|m| minijinja::context! { role => m.role.name(), content => m.content.as_str() })
                .collect();
            let context = minijinja::context! {
                messages => said, bos_token => "<s>", eos_token => "</s>", add_generation_prompt => true,
            };
            let rendered = environment.render_str(CHAT_TEMPLATE, context).unwrap();
            let shown = |id: &u32| match tokenizer.controls().iter().find(|control| control.id == *id) {
                Some(control) => control.content.as_bytes().to_vec(),
                None => tokenizer.token_bytes(*id).unwrap_or_default().to_vec(),
            };
            assert_eq!(ids.iter().flat_map(shown).collect::<Vec<u8>>(), rendered.as_bytes());
            // And no control token but the template's, whatever was typed.
            let controls =
                ids.iter().filter(|id| tokenizer.controls().iter().any(|control| control.id == **id)).count();
            assert_eq!(controls, 2 + 2 * messages.len());
            named += usize::from(
                tokenizer.controls().iter().any(|c| messages.iter().any(|m| m.content.contains(&c.content))),
            );
        }
        assert!((100..450).contains(&named), "{named}");
    }
}
