//! From texts to the tokens that are read and those that count, as lm-evaluation-harness makes them for `transformers`.

use casallm_data::tokenizer::Tokenizer;

use crate::error::EvalError;

/// A tokenizer, and what begins a text.
pub struct Encoding<'a> {
    tokenizer: &'a Tokenizer,
    /// Put in front of every text.
    opening: Option<u32>,
    /// Stands in for a context where there is none.
    prefix: Option<u32>,
    /// Ends a text.
    ending: Option<u32>,
}

/// Tokens that are read, the last of which count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// All of them.
    pub tokens: Vec<u32>,
    /// The first that counts; at least 1.
    pub scored_from: usize,
    /// Tokens of its beginning that were left out, for it was too long.
    pub cut: usize,
}

impl<'a> Encoding<'a> {
    /// Of a model directory; `config` is its `tokenizer_config.json`. [`Tokenizer::opening`] begins a text.
    pub fn new(tokenizer: &'a Tokenizer, config: &str) -> Self {
        if let Ok(special) = tokenizer.special() {
            let (bos, ending) = (Some(special.bos), Some(special.eos));
            return Encoding { tokenizer, opening: bos, prefix: bos, ending };
        }
        let opening = tokenizer.opening(config);
        let (bos, eos) = (tokenizer.named(config, "bos_token"), tokenizer.named(config, "eos_token"));
        Encoding { tokenizer, opening, prefix: bos.or(eos), ending: eos }
    }

    /// What is put in front of every text.
    pub fn opening(&self) -> Option<u32> {
        self.opening
    }

    /// What ends a text.
    pub fn ending(&self) -> Option<u32> {
        self.ending
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        self.tokenizer
    }

    /// The tokens of a text, with what begins it.
    pub fn text(&self, text: &str) -> Vec<u32> {
        let mut ids: Vec<u32> = self.opening.into_iter().collect();
        self.tokenizer.encode_into(text, &mut ids);
        ids
    }

    /// A context and what may follow it, in at most `room + 1` tokens, of which the last needs not be read.
    ///
    /// Spaces at the end of the context go to the continuation, both are encoded as one text, and the tokens beyond as many as
    /// the context alone has count (`TemplateLM._encode_pair`). Of too long a text the end is kept.
    ///
    /// # Errors
    /// [`EvalError::NoOpening`] without a context and anything in its place; `None` where no token counts.
    pub fn pair(&self, context: &str, continuation: &str, room: usize) -> Result<Option<Request>, EvalError> {
        let bare = context.trim_end();
        let (mut tokens, mut scored_from);
        if bare.is_empty() {
            let prefix = self.prefix.ok_or(EvalError::NoOpening)?;
            tokens = vec![prefix];
            self.tokenizer.encode_into(&format!("{context}{continuation}"), &mut tokens);
            scored_from = 1;
        } else {
            tokens = self.text(bare);
            scored_from = tokens.len();
            let whole = self.text(&format!("{context}{continuation}"));
            tokens.extend(whole.into_iter().skip(scored_from));
        }
        if tokens.len() <= scored_from || scored_from == 0 {
            return Ok(None);
        }
        let beyond = tokens.len().saturating_sub(room + 1);
        tokens.drain(..beyond);
        scored_from = scored_from.saturating_sub(beyond).max(1);
        Ok(Some(Request { tokens, scored_from, cut: beyond }))
    }

    /// A whole text in windows of at most `room` tokens, each token scored once, with one token before those of a window
    /// (`get_rolling_token_windows`, `context_len=1`).
    ///
    /// # Errors
    /// [`EvalError::NoOpening`].
    pub fn windows(&self, text: &str, room: usize) -> Result<Vec<Request>, EvalError> {
        let mut tokens = vec![self.prefix.ok_or(EvalError::NoOpening)?];
        self.tokenizer.encode_into(text, &mut tokens);
        let (mut windows, mut scored) = (Vec::new(), 1);
        while scored < tokens.len() {
            let end = tokens.len().min(scored + room);
            // The last window is as long as the others, and begins with what was scored before.
            let start = if scored == 1 { 0 } else { end - (room + 1) };
            windows.push(Request { tokens: tokens[start..end].to_vec(), scored_from: scored - start, cut: 0 });
            scored = end;
        }
        Ok(windows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use casallm_data::tokenizer::TrainOptions;

    fn tokenizer() -> Tokenizer {
        let text = "the cat and the dog and the bird were there ".repeat(20);
        let options = TrainOptions { vocab_size: 280, ..TrainOptions::default() };
        Tokenizer::train([Ok(text)].into_iter(), &options, &mut |_| {}).unwrap()
    }

    #[test]
    fn a_pair_is_one_text_and_the_context_alone_says_where_the_continuation_begins() {
        let tokenizer = tokenizer();
        let encoding = Encoding::new(&tokenizer, "{}");
        let bos = tokenizer.special().unwrap().bos;
        let with_bos = |text: &str| [&[bos][..], &tokenizer.encode(text)].concat();
        let expected = Request { tokens: with_bos("the cat and"), scored_from: with_bos("the cat").len(), cut: 0 };
        assert_eq!(encoding.pair("the cat", " and", 100).unwrap().unwrap(), expected);
        // Spaces at the end of the context are the continuation's.
        assert_eq!(encoding.pair("the cat ", "and", 100).unwrap().unwrap(), expected);
        assert_eq!(
            encoding.pair("", "the", 100).unwrap().unwrap(),
            Request { tokens: with_bos("the"), scored_from: 1, cut: 0 }
        );
        assert_eq!(encoding.pair("the", "", 100).unwrap(), None);
        // Of what is too long the end stays: as many tokens as are read, and the last, which is not.
        let all = with_bos("the cat and the dog and");
        let cut = encoding.pair("the cat and the dog", " and", 3).unwrap().unwrap();
        assert_eq!((&cut.tokens[..], cut.scored_from, cut.cut), (&all[all.len() - 4..], 3, all.len() - 4));
    }

    #[test]
    fn windows_score_each_token_once() {
        let tokenizer = tokenizer();
        let encoding = Encoding::new(&tokenizer, "{}");
        let text = "the cat and the dog and the bird were there";
        let all = [&[tokenizer.special().unwrap().bos][..], &tokenizer.encode(text)].concat();
        for room in 2..=all.len() + 1 {
            let windows = encoding.windows(text, room).unwrap();
            let scored: Vec<u32> = windows.iter().flat_map(|w| w.tokens[w.scored_from..].to_vec()).collect();
            assert_eq!(scored, all[1..], "{room}");
            assert!(windows.iter().all(|w| w.tokens.len() <= room + 1));
            assert!(windows[1..].iter().all(|w| w.tokens.len() == room + 1), "{room}");
        }
        assert!(encoding.windows("", 8).unwrap().is_empty());
    }
}
