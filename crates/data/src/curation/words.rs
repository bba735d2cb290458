//! The words of a text as numbers, and runs of words: what near duplicates and contamination are told by.
//!
//! Words are those of GPT-3's comparison (Brown et al. 2020, arXiv 2005.14165, appendix C): split at white space, lower-cased,
//! without punctuation. Scripts that put no spaces between words give a word for each character.

use crate::seeded::mix;

/// Multiplies what stands before the next character of a word, or the next word of a run. Odd, as the arithmetic is modulo 2^64.
const BASE: u64 = 0x9E37_79B9_7F4A_7C15;

/// Replaces `words` by the hash of each word of `text`, in order. 64 bits a word; nothing random in them.
pub(super) fn hash_words(text: &str, words: &mut Vec<u64>) {
    words.clear();
    let mut word = 0;
    let mut close = |word: &mut u64| {
        if *word != 0 {
            words.push(mix(*word));
            *word = 0;
        }
    };
    // `+ 1` keeps a word that has begun apart from none; the chance that a word comes to 0 later is 2^-64.
    let more = |word: u64, c: char| (word ^ (u64::from(c) + 1)).wrapping_mul(BASE);
    for c in text.chars() {
        if c.is_ascii() {
            if c.is_ascii_alphanumeric() {
                word = more(word, c.to_ascii_lowercase());
            } else if c.is_ascii_whitespace() {
                close(&mut word);
            }
        } else if c.is_whitespace() {
            close(&mut word);
        } else if stands_alone(c) {
            close(&mut word);
            word = more(word, c);
            close(&mut word);
        } else if c.is_alphanumeric() {
            word = c.to_lowercase().fold(word, more);
        }
    }
    close(&mut word);
}

/// Characters of scripts without spaces: Thai to Tibetan, Burmese, Khmer, kana, Han.
fn stands_alone(c: char) -> bool {
    let ranges = matches!(c, '\u{0E00}'..='\u{0FFF}' | '\u{1000}'..='\u{109F}' | '\u{1780}'..='\u{17FF}' | '\u{3040}'..='\u{30FF}')
        || matches!(c, '\u{3400}'..='\u{4DBF}' | '\u{4E00}'..='\u{9FFF}' | '\u{F900}'..='\u{FAFF}' | '\u{20000}'..='\u{323AF}');
    ranges && c.is_alphanumeric()
}

/// The hash of each run of `count` words, in order: a polynomial that rolls from one run to the next (Karp and Rabin 1987),
/// mixed. None when there are fewer words.
pub(super) fn runs(words: &[u64], count: usize) -> impl Iterator<Item = u64> + '_ {
    let leading = BASE.wrapping_pow(count as u32);
    let mut hash = 0u64;
    words.iter().enumerate().filter_map(move |(at, word)| {
        hash = hash.wrapping_mul(BASE).wrapping_add(*word);
        if at >= count {
            hash = hash.wrapping_sub(words[at - count].wrapping_mul(leading));
        }
        (at + 1 >= count).then(|| mix(hash))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(text: &str) -> Vec<u64> {
        let mut words = Vec::new();
        hash_words(text, &mut words);
        words
    }

    #[test]
    fn case_punctuation_and_spacing_make_no_difference() {
        assert_eq!(words("The cat's -- mat,\n\nred."), words("the   CATS mat RED"));
        assert_eq!(words("ÀÉ «naïve»"), words("àé naïve"));
        assert_ne!(words("the cat"), words("thecat"));
        assert_ne!(words("ab ba"), words("ba ab"));
        assert_eq!((words("").len(), words(" -- ... ").len(), words("a\u{a0}b\u{3000}c").len()), (0, 0, 3));
        assert_eq!((words("日本語、です").len(), words("см. Привет").len()), (5, 2));
    }

    proptest! {
        #[test]
        fn a_run_depends_on_its_words_alone(before in 0usize..5, values in prop::collection::vec(any::<u64>(), 0..40), count in 1usize..9) {
            let alone: Vec<u64> = values.windows(count).map(|run| runs(run, count).next().unwrap()).collect();
            let padded: Vec<u64> = std::iter::repeat_n(7, before).chain(values.iter().copied()).collect();
            prop_assert_eq!(runs(&values, count).collect::<Vec<_>>(), alone.clone());
            prop_assert_eq!(runs(&padded, count).skip(before).collect::<Vec<_>>(), alone);
        }
    }
}
