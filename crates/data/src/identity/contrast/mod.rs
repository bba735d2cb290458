//! Ordinary exchanges: what an answer about anything but the identity looks like.
//!
//! Many stand close to identity questions in form ("Who made the movie?", "What is the name of ...", "Are you
//! tired?", "My name is Anna."), because the model must learn the difference and not a reflex. None of the answers
//! states the identity; the facts are common knowledge, written for this project.

mod facts;
mod people;
mod requests;
mod talk;

use super::Exchange;
use super::variation::capitalise;

/// The groups, each with how often it is drawn, in parts.
pub(super) fn groups() -> Vec<(usize, Vec<Exchange>)> {
    vec![
        (16, definitions()),
        (6, capitals()),
        (14, people()),
        (20, pairs(people::WHO_DID)),
        (14, pairs(facts::FACTS)),
        (8, pairs(facts::KINDS)),
        (8, pairs(people::NAMES_OF)),
        (10, likes()),
        (8, favorites()),
        (8, first_names()),
        (16, pairs(talk::REMARKS)),
        (6, pairs(talk::COURTESIES)),
        (14, pairs(requests::TO_YOU)),
        (8, pairs(requests::REQUESTS)),
    ]
}

fn exchange(question: String, answer: String) -> Exchange {
    Exchange { question, answer }
}

fn pairs(table: &[(&str, &str)]) -> Vec<Exchange> {
    table.iter().map(|(q, a)| exchange((*q).to_owned(), (*a).to_owned())).collect()
}

/// Each entry in several wordings; `{}` stands for the thing.
fn asked<'a>(wordings: &'a [&'a str], thing: &'a str, answer: &'a str) -> impl Iterator<Item = Exchange> + 'a {
    wordings.iter().map(move |w| exchange(w.replace("{}", thing), answer.to_owned()))
}

fn definitions() -> Vec<Exchange> {
    const WORDINGS: &[&str] = &[
        "What is {}?",
        "Can you tell me what {} is?",
        "Do you know what {} is?",
        "Please explain what {} is.",
        "Tell me what {} is.",
        "What exactly is {}?",
    ];
    facts::DEFINITIONS.iter().flat_map(|(thing, answer)| asked(WORDINGS, thing, answer)).collect()
}

fn capitals() -> Vec<Exchange> {
    const WORDINGS: &[&str] = &[
        "What is the capital of {}?",
        "What is the capital city of {}?",
        "Which city is the capital of {}?",
        "Do you know the capital of {}?",
        "Tell me the capital of {}.",
    ];
    facts::CAPITALS
        .iter()
        .flat_map(|(country, city)| {
            let answer = format!("The capital of {country} is {city}.");
            asked(WORDINGS, country, &answer).collect::<Vec<_>>()
        })
        .collect()
}

fn people() -> Vec<Exchange> {
    const WORDINGS: &[&str] =
        &["Who is {}?", "Who was {}?", "Do you know who {} is?", "Tell me about {}.", "Can you tell me who {} was?"];
    people::PEOPLE.iter().flat_map(|(person, answer)| asked(WORDINGS, person, answer)).collect()
}

fn likes() -> Vec<Exchange> {
    const WORDINGS: &[&str] = &["Do you like {}?", "Do you enjoy {}?", "Hey, do you like {}?", "Do you love {}?"];
    talk::LIKES
        .iter()
        .flat_map(|(thing, remark)| {
            let answer = format!("Yes, I do. {remark}");
            asked(WORDINGS, thing, &answer).collect::<Vec<_>>()
        })
        .collect()
}

fn favorites() -> Vec<Exchange> {
    const WORDINGS: &[&str] = &["What is your favorite {}?", "What's your favorite {}?", "Do you have a favorite {}?"];
    talk::FAVORITES
        .iter()
        .flat_map(|(thing, favorite)| {
            let answer = format!("My favorite {thing} is {favorite}.");
            asked(WORDINGS, thing, &answer).collect::<Vec<_>>()
        })
        .collect()
}

fn first_names() -> Vec<Exchange> {
    const WORDINGS: &[&str] = &[
        "My name is {}.",
        "I am {}.",
        "I'm {}.",
        "Hi, my name is {}.",
        "Hello, I am {}.",
        "Hi, I'm {}.",
        "You can call me {}.",
        "They call me {}.",
        "My name is {}, nice to meet you.",
        "Hello, my name is {}.",
    ];
    talk::FIRST_NAMES
        .iter()
        .flat_map(|name| {
            let answer = format!("Nice to meet you, {name}!");
            asked(WORDINGS, name, &answer).collect::<Vec<_>>()
        })
        .map(|e| exchange(capitalise(&e.question), e.answer))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{names_another, normalise};
    use std::collections::BTreeSet;

    #[test]
    fn at_least_four_hundred_exchanges_with_different_questions() {
        let questions: BTreeSet<String> =
            groups().iter().flat_map(|(_, g)| g).map(|e| normalise(&e.question)).collect();
        assert!(questions.len() >= 2000, "{}", questions.len());
        let written = facts::DEFINITIONS.len()
            + facts::CAPITALS.len()
            + people::PEOPLE.len()
            + [people::WHO_DID, facts::FACTS, facts::KINDS, people::NAMES_OF].iter().map(|t| t.len()).sum::<usize>()
            + [talk::LIKES, talk::FAVORITES, talk::REMARKS, talk::COURTESIES, requests::TO_YOU, requests::REQUESTS]
                .iter()
                .map(|t| t.len())
                .sum::<usize>();
        assert!(written >= 400, "{written}");
    }

    #[test]
    fn no_question_is_answered_in_two_ways() {
        let mut seen: std::collections::BTreeMap<String, String> = Default::default();
        let mut twice = Vec::new();
        for e in groups().into_iter().flat_map(|(_, g)| g) {
            match seen.insert(normalise(&e.question), e.answer.clone()) {
                Some(earlier) if earlier != e.answer => twice.push((e.question, earlier, e.answer)),
                _ => {}
            }
        }
        assert!(twice.is_empty(), "{twice:#?}");
    }

    #[test]
    fn answers_are_short_and_name_no_assistant() {
        for e in groups().into_iter().flat_map(|(_, g)| g) {
            assert!(e.answer.len() <= 120 && e.answer.ends_with(['.', '!', '?']), "{}", e.answer);
            assert!(!names_another(&e.answer), "{}", e.answer);
            assert!(!e.question.contains(['{', '}']) && !e.question.is_empty());
        }
    }
}
