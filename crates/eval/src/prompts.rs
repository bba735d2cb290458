//! What precedes each question: a description and examples, chosen as lm-evaluation-harness chooses them.

use std::sync::Arc;

use crate::error::EvalError;
use crate::python_random::PythonRandom;
use crate::tasks::{Doc, Examples, Task, by_subject};

/// `fewshot_random_seed` of the harness.
const SEED: u32 = 1234;

/// The text before each question; neighbours that have the same share it.
///
/// # Errors
/// [`EvalError::Examples`] when there are fewer than `fewshot` to take.
pub fn headers(task: Task, docs: &[Doc], examples: Option<&[Doc]>, fewshot: usize) -> Result<Vec<Arc<str>>, EvalError> {
    if fewshot == 0 {
        return Ok(shared(docs.iter().map(|doc| task.description(doc))));
    }
    let facts = task.facts();
    let (Examples::Drawn(split) | Examples::First(split)) = facts.examples;
    let lacking = |found| EvalError::Examples { task: facts.name, wanted: fewshot, split, found };
    let examples = examples.ok_or_else(|| lacking(None))?;
    match facts.examples {
        Examples::Drawn(_) => {
            if examples.len() < fewshot || u32::try_from(examples.len()).is_err() {
                return Err(lacking(Some(examples.len())));
            }
            // One generator for all items, in their order.
            let mut random = PythonRandom::new(SEED);
            let drawn = |doc: &Doc| {
                let places = random.sample(examples.len(), fewshot);
                places.into_iter().fold(task.description(doc), |text, at| text + &examples[at].shown())
            };
            Ok(shared(docs.iter().map(drawn)))
        }
        Examples::First(_) => {
            let subjects = by_subject(examples);
            let of = |doc: &Doc| {
                let first = subjects.get(&doc.subject.as_deref()).map(Vec::as_slice).unwrap_or_default();
                let first = first.get(..fewshot).ok_or_else(|| lacking(Some(first.len())))?;
                Ok(first.iter().fold(task.description(doc), |text, example| text + &example.shown()))
            };
            Ok(shared(docs.iter().map(of).collect::<Result<Vec<_>, EvalError>>()?.into_iter()))
        }
    }
}

fn shared(texts: impl Iterator<Item = String>) -> Vec<Arc<str>> {
    let mut all: Vec<Arc<str>> = Vec::new();
    for text in texts {
        let same = all.last().filter(|last| ***last == *text).cloned();
        all.push(same.unwrap_or_else(|| text.into()));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doc(question: &str, subject: Option<&str>) -> Doc {
        Doc {
            contexts: vec![format!("Question: {question}\nAnswer:")],
            choices: vec!["no".into(), "yes".into()],
            gold: 1,
            subject: subject.map(str::to_owned),
        }
    }

    #[test]
    fn examples_are_drawn_anew_for_each_item_as_python_draws_them() {
        let pool: Vec<Doc> = (0..5).map(|i| doc(&i.to_string(), None)).collect();
        let docs = [doc("a", None), doc("b", None)];
        let headers = headers(Task::BoolQ, &docs, Some(&pool), 3).unwrap();
        // random.Random(1234).sample(range(5), 3), twice.
        for (header, places) in headers.iter().zip([DRAWN_FIRST, DRAWN_SECOND]) {
            let expected: String = places.iter().map(|i| format!("Question: {i}\nAnswer: yes\n\n")).collect();
            assert_eq!(**header, expected);
        }
    }
    const DRAWN_FIRST: [usize; 3] = [3, 0, 4];
    const DRAWN_SECOND: [usize; 3] = [0, 4, 2];

    #[test]
    fn a_subject_begins_with_its_own_examples() {
        let pool = [doc("1", Some("us_law")), doc("2", Some("art")), doc("3", Some("us_law"))];
        let docs = [doc("a", Some("us_law")), doc("b", Some("us_law")), doc("c", Some("art"))];
        let all = headers(Task::Mmlu, &docs, Some(&pool), 1).unwrap();
        let expected =
            "The following are multiple choice questions (with answers) about us law.\n\nQuestion: 1\nAnswer: yes\n\n";
        assert_eq!(&*all[0], expected);
        assert!(Arc::ptr_eq(&all[0], &all[1]) && all[2].contains("Question: 2"));
        let error = headers(Task::Mmlu, &docs, Some(&pool), 2).unwrap_err().to_string();
        assert!(error.contains("mmlu: 2 examples") && error.contains("dev, which has 1"), "{error}");
        let error = headers(Task::Gsm8k, &docs, None, 5).unwrap_err().to_string();
        assert!(error.contains("train, which is not in the folder; add it, or use --fewshot 0"), "{error}");
    }
}
