//! A conversation's title: the beginning of what was first said in it, on one line.

/// Characters of a title made here.
const LENGTH: usize = 60;

/// The beginning of `text`, cut between words where it can be. Empty if the text has nothing to show.
pub(super) fn from_text(text: &str) -> String {
    let mut title = String::new();
    let mut length = 0;
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()) {
        let word_length = word.chars().count();
        let gap = usize::from(length > 0);
        if length + gap + word_length > LENGTH {
            // A first word that is longer than the title is cut inside: there is nowhere else.
            if length == 0 {
                title.extend(word.chars().take(LENGTH - 1));
            }
            title.push('…');
            return title;
        }
        if gap == 1 {
            title.push(' ');
        }
        title.push_str(word);
        length += gap + word_length;
    }
    title
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_texts_are_their_own_title_on_one_line() {
        assert_eq!(from_text("  Why is\n\tthe sky\u{0} blue? "), "Why is the sky blue?");
        assert_eq!(from_text(""), "");
        assert_eq!(from_text("\n\r\t\u{0}\u{7f}"), "");
    }

    #[test]
    fn long_texts_are_cut_between_words_and_say_so() {
        let title = from_text(&"seven letters ".repeat(50));
        assert_eq!(title, "seven letters seven letters seven letters seven letters…");
        assert!(title.chars().count() <= LENGTH + 1);
    }

    #[test]
    fn a_word_without_end_is_cut_inside() {
        let title = from_text(&"雨".repeat(1_000_000));
        assert_eq!(title, format!("{}…", "雨".repeat(LENGTH - 1)));
    }
}
