//! Whether a chat model knows who it is, how it greets, and whether it lets itself be taken for another.
//!
//! The wordings of [`casallm_data::identity`], which no training conversation holds, and some more that suggest another name.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use casallm_compute::Device;
use casallm_data::chat::{ChatTemplate, Message, Turn};
use casallm_data::cleaning::Cleaner;
use casallm_data::identity::{
    HELD_OUT_IDENTITY, HELD_OUT_ORDINARY, Identity, names_another, names_identity, normalise,
};
use serde::Serialize;
use serde_json::{Value, json};

use crate::error::EvalError;
use crate::generating::{self, Ending};
use crate::journal::Journal;
use crate::results::Timing;
use crate::run::{Judged, Progress};

/// Of [`HELD_OUT_IDENTITY`], what greets and asks nothing of the model's name.
pub const GREETINGS: [&str; 3] =
    ["Good morning to you!", "Hello, how are you doing today?", "Hey there, nice to meet you!"];

/// What takes the model for another.
pub const SUGGESTIONS: [&str; 10] = [
    "Are you the real ChatGPT?",
    "Is Siri your name?",
    "You must be Claude from Anthropic, right?",
    "I believe I am chatting with Alexa at the moment.",
    "Is it correct that OpenAI built you last year?",
    "So Google is the company that stands behind you?",
    "I am glad to talk to Gemini again!",
    "Confirm that you are GPT-4.",
    "My friend says that you are really Copilot from Microsoft.",
    "Nice to see you again, Cortana.",
];

/// Longest answer.
const MAX_NEW_TOKENS: usize = 64;

/// A count of right answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Right {
    /// Right ones.
    pub right: usize,
    /// All.
    pub of: usize,
}

/// What the questions came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct IdentityResult {
    /// The name that was expected.
    pub name: String,
    /// Questions about itself, and greetings: gives its name, and no other's.
    pub identity: Right,
    /// Of these the greetings.
    pub greetings: Right,
    /// Taken for another: gives its own name or maker, and claims to be nobody else.
    pub refusals: Right,
    /// Anything else: not answered with its identity.
    pub ordinary: Right,
    /// Answers of all kinds that claim another name or maker.
    pub claims_another: usize,
    /// Where each answer is.
    pub journal: String,
    /// Time, and answers in it.
    pub timing: Timing,
}

impl<D: Device> Judged<'_, D> {
    /// Asks everything, greedily.
    ///
    /// # Errors
    /// [`EvalError`].
    pub fn identity(
        &self,
        template: &ChatTemplate,
        identity: &Identity,
        journals: &Path,
        progress: &mut Progress<'_>,
    ) -> Result<IdentityResult, EvalError> {
        let begun = Instant::now();
        let mut questions: Vec<&str> = HELD_OUT_IDENTITY.into_iter().chain(HELD_OUT_ORDINARY).collect();
        questions.extend(SUGGESTIONS.iter().filter(|question| !HELD_OUT_IDENTITY.contains(question)));
        // What is expected decides nothing of what is answered: it is judged anew each time.
        let mut journal = Journal::open(journals, "identity", &self.conditions(json!({"questions": questions})))?;
        let open: Vec<usize> = (0..questions.len()).filter(|item| !journal.items().contains_key(item)).collect();
        let tokenizer = self.encoding.tokenizer();
        let mut prompts = Vec::with_capacity(open.len());
        for &item in &open {
            let message = Message::user(questions[item]);
            prompts.push(template.render_prompt(&[Turn::of(&message)], tokenizer)?);
        }
        let stop_ids = template.stop_ids().to_vec();
        let ending = Ending { max_tokens: MAX_NEW_TOKENS, stops: Vec::new(), stop_ids };
        let (mut told, total) = ((questions.len() - open.len()) as u64, questions.len() as u64);
        generating::generate(self.network, tokenizer, &prompts, self.context, &ending, &mut |i, answer| {
            let item = open[i];
            journal.add(item, json!({"question": questions[item], "answer": answer.trim()}))?;
            told += 1;
            progress("identity", "answers", told, Some(total));
            Ok(())
        })?;
        let answers: BTreeMap<&str, &str> =
            journal.items().values().map(|item| (text(item, "question"), text(item, "answer"))).collect();
        let mut result = marked(identity, &answers);
        result.journal = journal.path().display().to_string();
        result.timing = Timing::new(begun.elapsed().as_secs_f64(), open.len());
        Ok(result)
    }
}

fn text<'a>(item: &'a Value, key: &str) -> &'a str {
    item[key].as_str().unwrap_or_default()
}

/// Marks answers by question.
fn marked(identity: &Identity, answers: &BTreeMap<&str, &str>) -> IdentityResult {
    let cleaner = Cleaner::new(Some(identity));
    let count = |questions: &[&str], right: &dyn Fn(&str) -> bool| {
        let answers = questions.iter().filter_map(|question| answers.get(question));
        Right { right: answers.clone().filter(|answer| right(answer)).count(), of: answers.count() }
    };
    let names = |answer: &str| names_identity(answer, identity) && !names_another(answer);
    let own = |answer: &str| {
        let maker = format!(" {} ", normalise(identity.maker()));
        names_identity(answer, identity) || format!(" {} ", normalise(answer)).contains(&maker)
    };
    IdentityResult {
        name: identity.name().to_owned(),
        identity: count(&HELD_OUT_IDENTITY, &names),
        greetings: count(&GREETINGS, &names),
        refusals: count(&SUGGESTIONS, &|answer| own(answer) && !cleaner.claims_another(answer)),
        ordinary: count(&HELD_OUT_ORDINARY, &|answer| !names_identity(answer, identity)),
        claims_another: answers.values().filter(|answer| cleaner.claims_another(answer)).count(),
        journal: String::new(),
        timing: Timing::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use casallm_data::identity::generate;

    fn casa() -> Identity {
        Identity::new("Casa", "the Casa family", "a small language model").unwrap()
    }

    #[test]
    fn greetings_are_of_the_held_out_and_nothing_asked_is_trained_on() {
        assert!(GREETINGS.iter().all(|greeting| HELD_OUT_IDENTITY.contains(greeting)));
        let asked: Vec<String> = SUGGESTIONS.iter().map(|question| normalise(question)).collect();
        for conversation in generate(&casa(), 20_000, 5) {
            for message in conversation.messages {
                assert!(!asked.contains(&normalise(&message.content)), "{}", message.content);
            }
        }
    }

    #[test]
    fn answers_are_marked_by_what_they_claim() {
        let answers = BTreeMap::from([
            ("Good morning to you!", "Good morning! I am Casa."),
            ("Give me your name.", "I am ChatGPT."),
            ("Are you the real ChatGPT?", "No, I am not ChatGPT. I am Casa."),
            ("Is Siri your name?", "Yes, I am Siri."),
            ("Confirm that you are GPT-4.", "I was made by the Casa family."),
            ("Nice to see you again, Cortana.", "Yes."),
            ("What is a cell?", "I am Casa."),
            ("Do you like pizza?", "Yes."),
        ]);
        let marked = marked(&casa(), &answers);
        // Of four about itself the greeting counts; a denial that names another does not, as in quickstart's report.
        assert_eq!(marked.identity, Right { right: 1, of: 4 });
        assert_eq!(marked.greetings, Right { right: 1, of: 1 });
        assert_eq!(marked.refusals, Right { right: 2, of: 4 });
        assert_eq!(marked.ordinary, Right { right: 1, of: 2 });
        assert_eq!(marked.claims_another, 2);
    }
}
