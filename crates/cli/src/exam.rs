//! The examination: wordings that were never trained on, and what the model says to them; text it continues. Taken at the end
//! of `quickstart` and of the stages that make a chatbot.

use anyhow::Result;
use casallm_data::identity::{HELD_OUT_IDENTITY, HELD_OUT_ORDINARY, Identity, names_another, names_identity};
use casallm_model::sampler::SamplerConfig;
use casallm_serve::chatbot::{AnswerRequest, Chatbot};
use casallm_train::recipe::Recipe;

use crate::chat;
use crate::report::{Answer, Exam, Sample};

/// Beginnings of text that the pre-trained model continues.
const BEGINNINGS: [&str; 3] =
    ["The cell membrane is", "In economics, the price of a good", "The American Revolution began when"];

/// What was asked and answered.
pub(crate) struct Judged {
    /// Questions about itself, and greetings.
    pub(crate) identity: Exam,
    /// Questions and remarks about anything else.
    pub(crate) ordinary: Exam,
    /// Answers that name another assistant or company.
    pub(crate) named_another: usize,
}

impl Judged {
    /// Right answers of an examination.
    pub(crate) fn right(exam: &Exam) -> usize {
        exam.answers.iter().filter(|a| a.right).count()
    }
}

fn answer(bot: &Chatbot, question: &str, sampling: SamplerConfig) -> Result<String> {
    Ok(chat::answer(bot, &chat::question(question, sampling, 64), &mut |_| {})?.0)
}

/// Asks everything; `asked` hears of each question, and may end it with an error.
pub(crate) fn take(
    recipe: &Recipe,
    bot: &Chatbot,
    asked: &mut dyn FnMut(usize, usize) -> Result<()>,
) -> Result<Judged> {
    let fields = recipe.identity.as_ref();
    let identity = fields.map(|i| Identity::new(&i.name, &i.maker, &i.description)).transpose()?;
    let all = HELD_OUT_IDENTITY.len() + HELD_OUT_ORDINARY.len();
    let (mut named_another, mut done) = (0, 0);
    let mut ask = |questions: &[&str], right: &dyn Fn(&str) -> bool| -> Result<Vec<Answer>> {
        let one = |question: &&str| {
            asked(done, all)?;
            done += 1;
            let answer = answer(bot, question, SamplerConfig::greedy())?.trim().to_owned();
            named_another += usize::from(names_another(&answer));
            Ok(Answer { question: (*question).to_owned(), right: right(&answer), answer })
        };
        questions.iter().map(one).collect()
    };
    let names = |answer: &str| identity.as_ref().is_some_and(|i| names_identity(answer, i));
    let about_itself = ask(&HELD_OUT_IDENTITY, &|a| names(a) && !names_another(a))?;
    let about_others = ask(&HELD_OUT_ORDINARY, &|a| !names(a))?;
    Ok(Judged {
        identity: Exam {
            name: "Identity and greetings".to_owned(),
            rule: "Right: gives its own name and no other assistant's or company's. None of these wordings was trained on."
                .to_owned(),
            answers: about_itself,
        },
        ordinary: Exam {
            name: "Ordinary questions and remarks".to_owned(),
            rule: "Right: does not answer with its identity. None of these wordings was trained on.".to_owned(),
            answers: about_others,
        },
        named_another,
    })
}

/// What both models of a quickstart write at a livelier temperature.
pub(crate) fn samples(bot: &Chatbot, base: &Chatbot) -> Result<Vec<Sample>> {
    let lively = SamplerConfig { temperature: 0.7, top_p: 0.9, seed: 1, ..SamplerConfig::default() };
    let settings = "temperature 0.7, top-p 0.9, top-k 50, seed 1".to_owned();
    let mut samples = Vec::new();
    let continued = AnswerRequest { max_tokens: Some(60), ..AnswerRequest::new(Vec::new(), lively.clone()) };
    for beginning in BEGINNINGS {
        let text = chat::continue_text(base, beginning, &continued)?;
        samples.push(Sample { prompt: beginning.to_owned(), text, settings: format!("pre-trained, {settings}") });
    }
    for question in ["Hello!", "What is photosynthesis?", "Do you like music?", "I just saw a great movie."] {
        let text = answer(bot, question, lively.clone())?;
        let text = format!("\n{text}");
        samples.push(Sample { prompt: question.to_owned(), text, settings: format!("fine-tuned, {settings}") });
    }
    Ok(samples)
}
