//! The model's identity: conversations that teach it, and the examination that tells learning from parroting.
//!
//! From the recipe's `[identity]` come exchanges in thousands of wordings (`questions`, `variation`, `answers`), next
//! to exchanges about everything else (`contrast`), alone and as turns of longer conversations; without the contrast a
//! small model answers every question with its name. `held_out` keeps twenty wordings of each kind out of
//! all of it, and `score` marks the answers. Called by `train` before fine-tuning and by the report of `quickstart`.

mod answers;
mod contrast;
mod held_out;
mod questions;
mod score;
mod variation;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub use held_out::{HELD_OUT_IDENTITY, HELD_OUT_ORDINARY};
pub use score::{names_another, names_identity, normalise};

use crate::chat::{Conversation, Message, Role};
use crate::error::Error;
use crate::seeded::SplitMix64;
use questions::{Intent, QUESTIONS, expand};
use variation::{asks, capitalise, vary};

/// The recipe's `[identity]`, checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Fields", into = "Fields")]
pub struct Identity {
    name: String,
    maker: String,
    description: String,
}

/// The three fields as a recipe holds them.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    name: String,
    maker: String,
    description: String,
}

impl TryFrom<Fields> for Identity {
    type Error = Error;

    fn try_from(fields: Fields) -> Result<Self, Error> {
        Identity::new(&fields.name, &fields.maker, &fields.description)
    }
}

impl From<Identity> for Fields {
    fn from(identity: Identity) -> Self {
        Fields { name: identity.name, maker: identity.maker, description: identity.description }
    }
}

impl Identity {
    /// `name` as the model gives it, `maker` as in "I was made by ...", `description` as in "I am Casa, ...":
    /// a noun phrase such as "a small language model trained at home"; a full stop at its end is dropped.
    ///
    /// # Errors
    /// [`Error::IdentityField`] when one is empty, longer than 200 characters, or holds control characters, braces
    /// or angle brackets.
    pub fn new(name: &str, maker: &str, description: &str) -> Result<Self, Error> {
        let check = |field: &'static str, value: &str| {
            let value = value.trim().trim_end_matches('.').trim_end();
            let bad = |c: char| c.is_control() || matches!(c, '{' | '}' | '<' | '>');
            if normalise(value).is_empty() || value.chars().count() > 200 || value.contains(bad) {
                return Err(Error::IdentityField { field, value: value.chars().take(80).collect() });
            }
            Ok(value.to_owned())
        };
        Ok(Self {
            name: check("name", name)?,
            maker: check("maker", maker)?,
            description: check("description", description)?,
        })
    }

    /// What the model is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Who made it.
    pub fn maker(&self) -> &str {
        &self.maker
    }

    /// What it is, as a noun phrase.
    pub fn description(&self) -> &str {
        &self.description
    }
}

/// One question with its answer, and whether the answer gives the identity.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Exchange {
    question: String,
    answer: String,
}

/// Draws exchanges so that every wording comes before any comes again.
struct Deck<T> {
    cards: Vec<T>,
    next: usize,
}

impl<T: Clone> Deck<T> {
    fn new(cards: Vec<T>, rng: &mut SplitMix64) -> Self {
        let mut deck = Self { cards, next: 0 };
        rng.shuffle(&mut deck.cards);
        deck
    }

    fn draw(&mut self, rng: &mut SplitMix64) -> Option<T> {
        if self.next == self.cards.len() {
            rng.shuffle(&mut self.cards);
            self.next = 0;
        }
        self.next += 1;
        self.cards.get(self.next - 1).cloned()
    }
}

/// Everything that conversations are drawn from.
struct Decks<'a> {
    identity: &'a Identity,
    held_out: BTreeSet<String>,
    asked: Vec<(Intent, usize, Deck<String>)>,
    contrast: Vec<(usize, Deck<Exchange>)>,
}

impl<'a> Decks<'a> {
    fn new(identity: &'a Identity, rng: &mut SplitMix64) -> Self {
        let held_out = held_out_wordings();
        let allowed = |question: &str| !held_out.contains(&normalise(question));
        let asked = QUESTIONS
            .iter()
            .map(|(intent, parts, patterns)| {
                let wordings: BTreeMap<String, String> = patterns
                    .iter()
                    .flat_map(|pattern| expand(pattern))
                    .filter(|wording| allowed(wording))
                    .map(|wording| (normalise(&wording), wording))
                    .collect();
                (*intent, *parts, Deck::new(wordings.into_values().collect(), rng))
            })
            .collect();
        let contrast = contrast::groups()
            .into_iter()
            .map(|(parts, exchanges)| {
                let kept = exchanges.into_iter().filter(|e| allowed(&e.question)).collect();
                (parts, Deck::new(kept, rng))
            })
            .collect();
        Self { identity, held_out, asked, contrast }
    }

    /// A question about the model, or a greeting.
    fn identity(&mut self, rng: &mut SplitMix64) -> Option<Exchange> {
        let place = weighted(self.asked.iter().map(|(_, parts, _)| *parts), rng);
        let (intent, _, deck) = self.asked.get_mut(place)?;
        let intent = *intent;
        let wording = deck.draw(rng)?;
        let question = self.typed(&wording, rng);
        let answer = answers::answer(intent, &wording, self.identity, rng.below(12));
        Some(Exchange { question, answer })
    }

    /// A question or remark about anything else.
    fn contrast(&mut self, rng: &mut SplitMix64) -> Option<Exchange> {
        let place = weighted(self.contrast.iter().map(|(parts, _)| *parts), rng);
        let (_, deck) = self.contrast.get_mut(place)?;
        let Exchange { question, answer } = deck.draw(rng)?;
        let bare = question.trim_end_matches(['?', '.', '!']);
        // Three in four stay as written; the rest as people type, so that loose typing alone does not mean identity.
        if bare.contains("\n") || rng.percent(75) {
            return Some(Exchange { question, answer });
        }
        let question = self.typed(bare, rng);
        Some(Exchange { question, answer })
    }

    /// The wording as typed; a variation that happens to meet a held-out wording gives way to the plain wording.
    fn typed(&self, wording: &str, rng: &mut SplitMix64) -> String {
        let typed = vary(wording, asks(wording), rng);
        if self.held_out.contains(&normalise(&typed)) { capitalise(wording) } else { typed }
    }
}

/// The held-out wordings of both kinds, normalised.
pub fn held_out_wordings() -> BTreeSet<String> {
    HELD_OUT_IDENTITY.iter().chain(&HELD_OUT_ORDINARY).map(|w| normalise(w)).collect()
}

/// `count` conversations that teach the identity: single exchanges and short conversations, about one in three of the
/// exchanges on the identity (or greetings) and two on anything else. The same seed gives the same conversations.
pub fn generate(identity: &Identity, count: usize, seed: u64) -> Vec<Conversation> {
    let mut rng = SplitMix64::new(seed, 0x1DE4_717F);
    let mut decks = Decks::new(identity, &mut rng);
    (0..count).map(|_| conversation(&mut decks, &mut rng)).collect()
}

/// The shapes of conversation: `i` stands for an exchange on the identity, `c` for one on anything else.
const SHAPES: &[(usize, &str)] = &[
    (18, "i"),
    (48, "c"),
    (5, "ic"),
    (5, "ci"),
    (10, "cc"),
    (2, "ii"),
    (3, "cic"),
    (3, "icc"),
    (3, "cci"),
    (3, "ici"),
];

fn conversation(decks: &mut Decks<'_>, rng: &mut SplitMix64) -> Conversation {
    let shape = SHAPES[weighted(SHAPES.iter().map(|(parts, _)| *parts), rng)].1;
    let mut messages = Vec::new();
    for kind in shape.chars() {
        let exchange = if kind == 'i' { decks.identity(rng) } else { decks.contrast(rng) };
        if let Some(Exchange { question, answer }) = exchange {
            messages.push(Message::user(question));
            messages.push(Message::assistant(answer));
        }
    }
    Conversation { messages }
}

/// An index drawn with the given parts.
fn weighted(parts: impl Iterator<Item = usize> + Clone, rng: &mut SplitMix64) -> usize {
    let mut drawn = rng.below(parts.clone().sum());
    for (index, share) in parts.enumerate() {
        if drawn < share {
            return index;
        }
        drawn -= share;
    }
    0
}

/// `conversations` with generated ones among them, in a seeded order, so that the generated are the share `rate`
/// (in `0.0..=0.9`) of the result. One in ten of the given conversations also gets an identity exchange
/// before it or after it, so that the identity holds in the midst of real talk. Given conversations in which a person says
/// a held-out wording are left out; how many is the second result.
///
/// # Errors
/// [`Error::MixRate`] when `rate` is not in its range.
pub fn mix(
    conversations: Vec<Conversation>,
    identity: &Identity,
    rate: f64,
    seed: u64,
) -> Result<(Vec<Conversation>, usize), Error> {
    if !(0.0..=0.9).contains(&rate) {
        return Err(Error::MixRate { rate });
    }
    let held_out = held_out_wordings();
    let examined =
        |c: &Conversation| c.messages.iter().any(|m| m.role == Role::User && held_out.contains(&normalise(&m.content)));
    let given = conversations.len();
    let mut mixed: Vec<Conversation> = conversations.into_iter().filter(|c| !examined(c)).collect();
    let left_out = given - mixed.len();
    if rate == 0.0 {
        return Ok((mixed, left_out));
    }
    let wanted = ((mixed.len() as f64) * rate / (1.0 - rate)).round() as usize;
    let mut rng = SplitMix64::new(seed, 0x3171_0000);
    let mut decks = Decks::new(identity, &mut rng);
    for conversation in &mut mixed {
        let opens_with_person = conversation.messages.first().is_some_and(|m| m.role == Role::User);
        if !opens_with_person || !rng.percent(10) {
            continue;
        }
        let Some(Exchange { question, answer }) = decks.identity(&mut rng) else {
            continue;
        };
        let turns = [Message::user(question), Message::assistant(answer)];
        if rng.percent(50) {
            conversation.messages.splice(0..0, turns);
        } else if conversation.messages.last().is_some_and(|m| m.role == Role::Assistant) {
            conversation.messages.extend(turns);
        }
    }
    mixed.extend(generate(identity, wanted, seed));
    rng.shuffle(&mut mixed);
    Ok((mixed, left_out))
}

#[cfg(test)]
mod tests;
