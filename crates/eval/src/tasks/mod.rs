//! The tasks: where their records come from, and how a record becomes a question.
//!
//! Prompts, splits, numbers of examples and scoring are those of lm-evaluation-harness 0.4.13, so that results can be
//! compared; each reader says which of the harness' files it follows.

mod generation;
mod multiple_choice;

use std::collections::BTreeMap;

use crate::data_folder::Record;
use crate::error::EvalError;

pub use generation::{GSM8K_STOPS, extracted, grades};

/// A task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Task {
    /// HellaSwag (Zellers et al. 2019).
    HellaSwag,
    /// ARC, the easy questions (Clark et al. 2018).
    ArcEasy,
    /// ARC, the others.
    ArcChallenge,
    /// PIQA (Bisk et al. 2020).
    Piqa,
    /// WinoGrande (Sakaguchi et al. 2020).
    WinoGrande,
    /// OpenBookQA (Mihaylov et al. 2018).
    OpenBookQa,
    /// BoolQ (Clark et al. 2019).
    BoolQ,
    /// LAMBADA as OpenAI cut it (Paperno et al. 2016).
    Lambada,
    /// MMLU (Hendrycks et al. 2021).
    Mmlu,
    /// SciQ (Welbl et al. 2017).
    SciQ,
    /// CommonsenseQA (Talmor et al. 2019).
    CommonsenseQa,
    /// GSM8K, by generation (Cobbe et al. 2021).
    Gsm8k,
}

/// How an answer is had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The likeliest of several continuations; `normalised` where the harness also reports `acc_norm`.
    Choice {
        /// Whether it does.
        normalised: bool,
    },
    /// One continuation that must lead at every token.
    Word,
    /// The model writes.
    Generation,
}

/// Where examples come from, and which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Examples {
    /// Drawn anew for each item, as Python draws them from this split.
    Drawn(&'static str),
    /// The first of the item's subject.
    First(&'static str),
}

/// What is fixed of a task.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// What flags, results and the harness call it.
    pub name: &'static str,
    /// What files may be called beside that.
    pub files: &'static [&'static str],
    /// Splits by preference; the first is the harness'.
    pub splits: &'static [&'static str],
    /// How it is answered.
    pub kind: Kind,
    /// Examples that precede each question unless somebody wants another number.
    pub fewshot: usize,
    /// Where they come from.
    pub examples: Examples,
    /// What guessing reaches.
    pub chance: f64,
    /// Whether it is one of the tasks of DCLM's CORE (Li et al. 2024, table of appendix G), and what CORE takes for guessing.
    pub core: Option<f64>,
}

impl Facts {
    /// Whether the harness draws one example more than it shows and leaves out the question: it does where a task names neither
    /// a test split nor one for examples, which it takes for the same.
    pub fn draws_one_more(&self) -> bool {
        matches!(self.examples, Examples::Drawn(_)) && self.splits[0] == "validation"
    }
}

/// One question: what may precede, what may follow, and what is right.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Doc {
    /// One for all continuations, or one for each.
    pub contexts: Vec<String>,
    /// Continuations without what stands before them; one for all contexts, or one for each answer.
    pub choices: Vec<String>,
    /// Which answer is right.
    pub gold: usize,
    /// Of a task in subjects.
    pub subject: Option<String>,
}

impl Doc {
    fn ask(context: String, choices: Vec<String>, gold: usize) -> Self {
        Doc { contexts: vec![context], choices, gold, subject: None }
    }

    /// Answers there are.
    pub fn answers(&self) -> usize {
        self.contexts.len().max(self.choices.len())
    }

    /// The context of an answer.
    pub fn context(&self, answer: usize) -> &str {
        &self.contexts[answer.min(self.contexts.len() - 1)]
    }

    /// The continuation of an answer.
    pub fn choice(&self, answer: usize) -> &str {
        &self.choices[answer.min(self.choices.len() - 1)]
    }

    /// As an example that precedes questions.
    pub fn shown(&self) -> String {
        format!("{} {}\n\n", self.context(self.gold), self.choice(self.gold))
    }
}

impl Task {
    /// All of them, in the order of tables.
    pub const ALL: [Task; 12] = [
        Task::HellaSwag,
        Task::ArcEasy,
        Task::ArcChallenge,
        Task::Piqa,
        Task::WinoGrande,
        Task::OpenBookQa,
        Task::BoolQ,
        Task::Lambada,
        Task::Mmlu,
        Task::SciQ,
        Task::CommonsenseQa,
        Task::Gsm8k,
    ];

    /// The task of a name.
    ///
    /// # Errors
    /// [`EvalError::UnknownTask`], listing the names there are.
    pub fn parse(name: &str) -> Result<Self, EvalError> {
        Task::ALL.into_iter().find(|task| task.facts().name == name).ok_or_else(|| EvalError::UnknownTask {
            name: name.to_owned(),
            known: Task::ALL.map(|task| task.facts().name).join(", "),
        })
    }

    /// What is fixed of it.
    pub fn facts(self) -> Facts {
        // What most have in common.
        let choice = |name, files, splits, normalised, chance, core| Facts {
            name,
            files,
            splits,
            kind: Kind::Choice { normalised },
            fewshot: 0,
            examples: Examples::Drawn("train"),
            chance,
            core,
        };
        const VALIDATION: &[&str] = &["validation", "test"];
        const TEST: &[&str] = &["test", "validation"];
        match self {
            Task::HellaSwag => choice("hellaswag", &["hellaswag"], VALIDATION, true, 0.25, Some(0.25)),
            Task::ArcEasy => choice("arc_easy", &["arc_easy"], TEST, true, 0.25, Some(0.25)),
            Task::ArcChallenge => choice("arc_challenge", &["arc_challenge"], TEST, true, 0.25, Some(0.25)),
            Task::Piqa => choice("piqa", &["piqa"], VALIDATION, true, 0.5, Some(0.5)),
            Task::WinoGrande => choice("winogrande", &["winogrande"], VALIDATION, false, 0.5, Some(0.5)),
            Task::OpenBookQa => choice("openbookqa", &["openbookqa", "openbook_qa"], TEST, true, 0.25, Some(0.25)),
            // CORE measures from the share of the commoner answer.
            Task::BoolQ => choice("boolq", &["boolq"], VALIDATION, false, 0.5, Some(0.62)),
            Task::Lambada => Facts {
                kind: Kind::Word,
                examples: Examples::Drawn("test"),
                ..choice("lambada_openai", &["lambada_openai", "lambada"], TEST, false, 0.0, Some(0.0))
            },
            Task::Mmlu => {
                Facts { examples: Examples::First("dev"), ..choice("mmlu", &["mmlu"], TEST, false, 0.25, None) }
            }
            Task::SciQ => choice("sciq", &["sciq"], TEST, true, 0.25, None),
            Task::CommonsenseQa => {
                let files = &["commonsense_qa", "commonsenseqa"];
                choice("commonsense_qa", files, VALIDATION, false, 0.2, Some(0.2))
            }
            Task::Gsm8k => {
                Facts { kind: Kind::Generation, fewshot: 5, ..choice("gsm8k", &["gsm8k"], TEST, false, 0.0, None) }
            }
        }
    }

    /// A record as a question.
    ///
    /// # Errors
    /// [`EvalError::Field`].
    pub fn read(self, record: &Record) -> Result<Doc, EvalError> {
        match self {
            Task::HellaSwag => multiple_choice::hellaswag(record),
            Task::ArcEasy | Task::ArcChallenge => multiple_choice::arc(record),
            Task::Piqa => multiple_choice::piqa(record),
            Task::WinoGrande => multiple_choice::winogrande(record),
            Task::OpenBookQa => multiple_choice::openbookqa(record),
            Task::BoolQ => multiple_choice::boolq(record),
            Task::Lambada => multiple_choice::lambada(record),
            Task::Mmlu => multiple_choice::mmlu(record),
            Task::SciQ => multiple_choice::sciq(record),
            Task::CommonsenseQa => multiple_choice::commonsense_qa(record),
            Task::Gsm8k => generation::gsm8k(record),
        }
    }

    /// What stands between a context and a continuation.
    pub fn delimiter(self) -> &'static str {
        // LAMBADA's continuation brings its own space.
        if self == Task::Lambada { "" } else { " " }
    }

    /// What precedes examples and question.
    pub fn description(self, doc: &Doc) -> String {
        match (self, &doc.subject) {
            (Task::Mmlu, Some(subject)) => {
                let subject = subject.replace('_', " ");
                format!("The following are multiple choice questions (with answers) about {subject}.\n\n")
            }
            _ => String::new(),
        }
    }
}

/// Records by subject, in their order.
pub(crate) fn by_subject(docs: &[Doc]) -> BTreeMap<Option<&str>, Vec<&Doc>> {
    let mut subjects: BTreeMap<Option<&str>, Vec<&Doc>> = BTreeMap::new();
    for doc in docs {
        subjects.entry(doc.subject.as_deref()).or_default().push(doc);
    }
    subjects
}

#[cfg(test)]
mod tests;
