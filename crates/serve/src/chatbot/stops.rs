//! Stop texts in a text that comes in pieces.

/// Finds the first stop text, and holds back what may become one.
#[derive(Debug, Default)]
pub(super) struct StopTexts {
    stops: Vec<String>,
    held: String,
}

/// What a piece of text led to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// This much may be given out.
    Text(String),
    /// A stop text came: this is the last.
    End(String),
}

impl StopTexts {
    pub(super) fn new(stops: &[String]) -> Self {
        StopTexts { stops: stops.iter().filter(|stop| !stop.is_empty()).cloned().collect(), held: String::new() }
    }

    pub(super) fn push(&mut self, piece: &str) -> Heard {
        self.held += piece;
        if let Some(at) = self.stops.iter().filter_map(|stop| self.held.find(stop)).min() {
            self.held.truncate(at);
            return Heard::End(std::mem::take(&mut self.held));
        }
        let keep = self.stops.iter().map(|stop| self.unfinished(stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        Heard::Text(std::mem::replace(&mut self.held, rest))
    }

    /// What was held back and did not become a stop text.
    pub(super) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Bytes at the end with which `stop` begins.
    fn unfinished(&self, stop: &str) -> usize {
        let ends = stop.char_indices().map(|(at, _)| at).skip(1);
        ends.filter(|at| self.held.ends_with(&stop[..*at])).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn found_wherever_the_pieces_part() {
        let stops = ["###".to_owned(), "né".to_owned(), String::new(), "END".to_owned()];
        for text in ["a ## b ### c", "so né", "#EN#END###", "nothing of it n #", "ENEND", ""] {
            let first = ["###", "né", "END"].iter().filter_map(|stop| text.find(stop)).min();
            let wanted = &text[..first.unwrap_or(text.len())];
            let letters: Vec<String> = text.chars().map(String::from).collect();
            for pieces in [vec![text.to_owned()], letters] {
                let mut stop = StopTexts::new(&stops);
                let (mut said, mut ended) = (String::new(), false);
                for piece in &pieces {
                    match stop.push(piece) {
                        Heard::Text(text) => said += &text,
                        Heard::End(text) => {
                            said += &text;
                            ended = true;
                            break;
                        }
                    }
                }
                if !ended {
                    said += &stop.finish();
                }
                assert_eq!((said.as_str(), ended), (wanted, first.is_some()), "{text}");
            }
        }
    }

    #[test]
    fn without_stop_texts_nothing_waits() {
        assert_eq!(StopTexts::new(&[]).push("abc"), Heard::Text("abc".into()));
    }
}
