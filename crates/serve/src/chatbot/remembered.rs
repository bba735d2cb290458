//! The ids of answers that were given lately. Clients of a stateless interface send answers back as text, whose encoding
//! may differ from the ids that made it; with the ids themselves the prompt begins as the cache has it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// Most bytes that texts and ids take together.
const BUDGET: usize = 4 << 20;

#[derive(Default)]
pub(super) struct Remembered {
    answers: Mutex<Answers>,
}

#[derive(Default)]
struct Answers {
    /// The oldest first.
    texts: VecDeque<(Arc<str>, Arc<[u32]>)>,
    bytes: usize,
}

fn bytes(text: &str, ids: &[u32]) -> usize {
    text.len() + 4 * ids.len()
}

impl Remembered {
    /// Keeps an answer.
    pub(super) fn keep(&self, text: &str, ids: &[u32]) {
        if text.is_empty() || bytes(text, ids) > BUDGET / 4 {
            return;
        }
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.texts.push_back((text.into(), ids.into()));
        answers.bytes += bytes(text, ids);
        while answers.bytes > BUDGET {
            let Some((text, ids)) = answers.texts.pop_front() else { return };
            answers.bytes -= bytes(&text, &ids);
        }
    }

    /// The ids of an answer, the latest of that text.
    pub(super) fn ids(&self, text: &str) -> Option<Arc<[u32]>> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.texts.iter().rev().find(|(known, _)| **known == *text).map(|(_, ids)| ids.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_are_known_and_the_oldest_forgotten() {
        let remembered = Remembered::default();
        remembered.keep("yes", &[1, 2]);
        remembered.keep("yes", &[3]);
        assert_eq!(remembered.ids("yes").as_deref(), Some(&[3][..]));
        assert!(remembered.ids("no").is_none());
        let long = "x".repeat(BUDGET / 8);
        for i in 0..9 {
            remembered.keep(&format!("{i}{long}"), &[i]);
        }
        assert!(remembered.ids("yes").is_none());
        assert!(remembered.ids(&format!("8{long}")).is_some());
        assert!(remembered.answers.lock().unwrap().bytes <= BUDGET);
    }
}
