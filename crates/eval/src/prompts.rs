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
            // One generator for all items, in their order: one number more for an item, and all after it have other examples.
            let mut random = PythonRandom::new(SEED);
            let drawn = |doc: &Doc| {
                let places = match facts.draws_one_more() {
                    true => sample_without(&mut random, examples, doc, fewshot),
                    false => Some(random.sample(examples.len(), fewshot)),
                };
                let places = places.ok_or_else(|| lacking(Some(examples.len())))?;
                Ok(places.into_iter().fold(task.description(doc), |text, at| text + &examples[at].shown()))
            };
            Ok(shared(docs.iter().map(drawn).collect::<Result<Vec<_>, EvalError>>()?.into_iter()))
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

/// Places of `count` examples that are not the question itself, as `ContextSampler.sample` draws them when it is given one: one
/// more, without what equals the question; where that leaves too few, anew from those that differ from it. `None` where these
/// are too few.
fn sample_without(random: &mut PythonRandom, examples: &[Doc], doc: &Doc, count: usize) -> Option<Vec<usize>> {
    let mut places = random.sample(examples.len(), examples.len().min(count + 1));
    places.retain(|at| examples[*at] != *doc);
    places.truncate(count);
    if places.len() == count {
        return Some(places);
    }
    let others: Vec<usize> = (0..examples.len()).filter(|at| examples[*at] != *doc).collect();
    let drawn = (others.len() >= count).then(|| random.sample(others.len(), count))?;
    Some(drawn.into_iter().map(|at| others[at]).collect())
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
        let drawn = |task, docs: &[Doc], pool: &[Doc], count| -> Vec<Vec<usize>> {
            let headers = headers(task, docs, Some(pool), count).unwrap();
            let questions = |text: &str| text.split("Question: ").skip(1).map(|q| q[..1].parse().unwrap()).collect();
            headers.iter().map(|header| questions(header)).collect()
        };
        // ContextSampler(pool, rnd=1234).sample(3, eval_doc) of the harness, twice: without a question,
        assert_eq!(drawn(Task::ArcEasy, &docs, &pool, 3), [[3, 0, 4], [0, 4, 2]]);
        // with one that is not there, with one that is, and with one that is there twice.
        assert_eq!(drawn(Task::BoolQ, &docs, &pool, 3), [[3, 0, 4], [4, 0, 2]]);
        let own = [doc("0", None), doc("0", None)];
        assert_eq!(drawn(Task::BoolQ, &own, &pool, 3), [[3, 4, 2], [4, 2, 3]]);
        let pool = [doc("0", None), doc("0", None), doc("1", None), doc("2", None)];
        assert_eq!(drawn(Task::BoolQ, &[&own[..], &own[..1]].concat(), &pool, 2), [[2, 1], [1, 2], [1, 2]]);
        let error = headers(Task::BoolQ, &own, Some(&pool), 3).unwrap_err().to_string();
        assert!(error.contains("boolq: 3 examples") && error.contains("which has 4"), "{error}");
    }

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
