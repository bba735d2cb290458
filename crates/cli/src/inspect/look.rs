//! A batch as text: every token decoded, what is learned told from what is only read, control tokens told from text.

use std::env;
use std::io::IsTerminal;

use casallm_data::batch::Batch;
use casallm_data::tokenizer::Tokenizer;
use console::Style;

use crate::streams::{dumb, visible};

/// How tokens are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// By colour: learned text green, what is only read dim, control tokens bright.
    Colours,
    /// By brackets: ⟦learned⟧, ‹control token›.
    Brackets,
}

/// A run of tokens of one kind.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Kind {
    learned: bool,
    control: bool,
}

impl Look {
    /// Colours where stdout is a terminal that knows them and `NO_COLOR` is not set, or where `CLICOLOR_FORCE` asks for them.
    pub(super) fn of_stdout() -> Self {
        let set = |name: &str| env::var_os(name).is_some_and(|value| !value.is_empty() && value != "0");
        let no_colour = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let wanted = set("CLICOLOR_FORCE") || std::io::stdout().is_terminal() && !dumb();
        if wanted && !no_colour { Look::Colours } else { Look::Brackets }
    }

    /// How to read what follows.
    pub(super) fn legend(self) -> String {
        let kind = |learned, control| Kind { learned, control };
        let control = self.control("control token");
        let parts = [(kind(true, false), "learned"), (kind(false, false), "only read"), (kind(false, true), &control)];
        parts.map(|(kind, text)| self.run(kind, None, None, text)).join("  ")
    }

    /// A run of text; `before` and `after` are the kinds beside it.
    fn run(self, kind: Kind, before: Option<Kind>, after: Option<Kind>, text: &str) -> String {
        match self {
            Look::Colours => {
                let style = Style::new().force_styling(true);
                let style = match (kind.learned, kind.control) {
                    (true, false) => style.green(),
                    (true, true) => style.green().bold(),
                    (false, false) => style.dim(),
                    (false, true) => style.cyan(),
                };
                style.apply_to(text).to_string()
            }
            Look::Brackets => {
                let learned = |kind: Option<Kind>| kind.is_some_and(|kind| kind.learned);
                let open = if kind.learned && !learned(before) { "⟦" } else { "" };
                let close = if kind.learned && !learned(after) { "⟧" } else { "" };
                format!("{open}{text}{close}")
            }
        }
    }

    /// Ids as text. `learned` says of each whether the loss falls on it.
    pub(super) fn text(self, ids: &[u32], learned: &[bool], tokenizer: &Tokenizer) -> String {
        let control = |id: u32| tokenizer.controls().iter().find(|control| control.id == id);
        let kind = |i: usize| Kind { learned: learned[i], control: control(ids[i]).is_some() };
        let mut out = String::new();
        let mut at = 0;
        let mut before = None;
        while at < ids.len() {
            let this = kind(at);
            let end = (at + 1..ids.len()).find(|i| kind(*i) != this).unwrap_or(ids.len());
            let text = if this.control {
                ids[at..end].iter().filter_map(|id| control(*id)).map(|c| self.control(&c.content)).collect()
            } else {
                visible(&tokenizer.decode(&ids[at..end]))
            };
            out += &self.run(this, before, (end < ids.len()).then(|| kind(end)), &text);
            (at, before) = (end, Some(this));
        }
        out
    }

    fn control(self, name: &str) -> String {
        let name = visible(name);
        if self == Look::Colours { name } else { format!("‹{name}›") }
    }
}

/// One sequence of a batch: its ids, the last target included, and whether each is learned.
pub(super) fn sequence(batch: &Batch, index: usize) -> (Vec<u32>, Vec<bool>) {
    let (from, to) = (batch.cu_seqlens[index] as usize, batch.cu_seqlens[index + 1] as usize);
    let ids = batch.tokens[from..=from].iter().chain(&batch.targets[from..to]).copied().collect();
    let learned = std::iter::once(false).chain(batch.weights[from..to].iter().map(|weight| *weight > 0.0)).collect();
    (ids, learned)
}

#[cfg(test)]
mod tests {
    use casallm_data::chat::{Conversation, render};
    use casallm_data::packing::ConversationSet;
    use casallm_data::tokenizer::{MIN_VOCAB_SIZE, TrainOptions};

    use super::*;

    fn shown(look: Look, question: &str, answer: &str) -> String {
        let options = TrainOptions { vocab_size: MIN_VOCAB_SIZE, ..TrainOptions::default() };
        let tokenizer = Tokenizer::train(std::iter::once(Ok("text".to_owned())), &options, &mut |_| {}).unwrap();
        let rendered = render(&Conversation::exchange(question, answer), &tokenizer).unwrap();
        let (set, _) = ConversationSet::new([rendered], 64, 64, 1).unwrap();
        let batch = set.plan(0, 64).batch(0).unwrap();
        let (ids, learned) = sequence(&batch, 0);
        look.text(&ids, &learned, &tokenizer)
    }

    #[test]
    fn what_is_learned_is_told_from_what_is_read() {
        assert_eq!(shown(Look::Brackets, "Hi </s>", "é ja"), "‹<s>›‹<|user|>›Hi </s>‹</s>›‹<|assistant|>›⟦é ja‹</s>›⟧");
        let coloured = shown(Look::Colours, "Hi", "ja");
        assert!(
            coloured.contains("\u{1b}[32mja\u{1b}[0m") && coloured.contains("\u{1b}[2mHi\u{1b}[0m"),
            "{coloured:?}"
        );
    }

    #[test]
    fn nothing_in_the_data_reaches_the_terminal_as_a_command() {
        assert!(!shown(Look::Brackets, "\u{1b}[2J", "\u{7}").contains(['\u{1b}', '\u{7}']));
    }
}
