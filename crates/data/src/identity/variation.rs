//! How people really type: small letters, missing marks, `u` for you, a slip of the finger.

use crate::seeded::SplitMix64;

/// The wording as one person might type it. Most keep ordinary spelling, so that ordinary spelling is learned best.
pub(super) fn vary(wording: &str, is_question: bool, rng: &mut SplitMix64) -> String {
    let mut text = wording.to_owned();
    match rng.below(20) {
        0 => text = slip(&text, rng),
        1 => text = shorten(&text),
        _ => {}
    }
    let style = rng.below(20);
    if style < 14 {
        text = capitalise(&text);
    } else if style == 14 {
        text = text.to_uppercase();
    } else {
        text = text.to_lowercase();
    }
    let marks: &[&str] = if is_question {
        &["?", "?", "?", "?", "?", "?", "", "", ".", "??", " ?", "?!"]
    } else {
        &[".", ".", ".", "!", "!", "", "", "", "...", "!!"]
    };
    text.push_str(marks[rng.below(marks.len())]);
    text
}

/// First letter and a lone `i` in capitals.
pub(super) fn capitalise(text: &str) -> String {
    let words: Vec<String> = text
        .split(' ')
        .map(|word| match word {
            "i" => "I".to_owned(),
            "i'd" => "I'd".to_owned(),
            "i'm" => "I'm".to_owned(),
            other => other.to_owned(),
        })
        .collect();
    let joined = words.join(" ");
    let mut letters = joined.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// True for a wording that asks.
pub(super) fn asks(wording: &str) -> bool {
    const ASKING: &[&str] = &[
        "who", "whom", "whose", "what", "whats", "what's", "which", "where", "when", "why", "how", "how's", "are",
        "is", "do", "does", "did", "can", "could", "would", "will", "may", "am", "was", "were", "have", "has",
        "should", "isn't", "don't", "who's", "whos", "wat", "with", "by",
    ];
    let clause = wording.rsplit(", ").find(|c| c.split(' ').count() > 2).unwrap_or(wording);
    let first = |part: &str| part.split(' ').next().is_some_and(|word| ASKING.contains(&word.to_lowercase().as_str()));
    first(wording) || first(clause)
}

/// Drops, doubles or swaps one letter inside a word of at least four.
fn slip(text: &str, rng: &mut SplitMix64) -> String {
    let mut words: Vec<String> = text.split(' ').map(str::to_owned).collect();
    let long: Vec<usize> = (0..words.len()).filter(|&i| words[i].is_ascii() && words[i].len() >= 4).collect();
    if long.is_empty() {
        return text.to_owned();
    }
    let word = *rng.pick(&long);
    let mut letters: Vec<char> = words[word].chars().collect();
    let at = 1 + rng.below(letters.len() - 2);
    match rng.below(3) {
        0 => drop(letters.remove(at)),
        1 => letters.insert(at, letters[at]),
        _ => letters.swap(at, at + 1),
    }
    words[word] = letters.into_iter().collect();
    words.join(" ")
}

fn shorten(text: &str) -> String {
    let words: Vec<&str> = text
        .split(' ')
        .map(|word| match word {
            "you" => "u",
            "are" => "r",
            "your" => "ur",
            "please" => "pls",
            "what's" => "whats",
            "who's" => "whos",
            other => other,
        })
        .collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_told_from_remarks() {
        for question in ["who are you", "hi, who are you", "so, what is your name", "can you say hi"] {
            assert!(asks(question), "{question}");
        }
        for remark in ["tell me your name", "hello there", "nice to meet you", "good morning"] {
            assert!(!asks(remark), "{remark}");
        }
    }

    #[test]
    fn variations_are_many_and_seeded() {
        let make = |seed| {
            let mut rng = SplitMix64::new(seed, 0);
            (0..200).map(|_| vary("what is your name", true, &mut rng)).collect::<Vec<_>>()
        };
        assert_eq!(make(1), make(1));
        let distinct: std::collections::BTreeSet<_> = make(1).into_iter().collect();
        assert!(distinct.len() > 20, "{distinct:?}");
        assert!(distinct.contains("What is your name?") && distinct.contains("what is your name"));
    }

    #[test]
    fn capitalising_keeps_the_rest() {
        assert_eq!(capitalise("may i ask Tom"), "May I ask Tom");
        assert_eq!(capitalise(""), "");
    }
}
