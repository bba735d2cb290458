//! A model's chat template in Jinja, rendered without ever seeing what people write.
//!
//! The template gets a placeholder where a message's text would stand. What it renders is therefore its own text and
//! placeholders, and only its own text is searched for control tokens; the messages are put in afterwards, as text. A
//! template comes with a model from somewhere, so it has no files, no other templates, bounded work and bounded output.
//!
//! What a template does with a text it can do with a placeholder, with two exceptions. Trimming is noticed, because a
//! placeholder has white space around it, and done to the text. A question about the text (`'</think>' in content`) is
//! answered as if the text were a plain word.

use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, ErrorKind, Value, context};
use regex::Regex;

use super::Message;
use crate::error::Error;
use crate::tokenizer::Tokenizer;

/// The longest template; those of large models with tools have about ten thousand bytes.
const MAX_SOURCE: usize = 1 << 18;
/// Instructions of a rendering, and for each message: real templates take about a hundred a message. What is written and
/// copied is charged too, so that this bounds the output to a few megabytes.
const FUEL: u64 = 100_000;
const FUEL_PER_MESSAGE: u64 = 10_000;
/// How deep macros may call each other.
const RECURSION: usize = 64;

/// Two characters for private use, between which a placeholder has its message's number.
const OPEN: char = '\u{F5CA1}';
const CLOSE: char = '\u{F5CA2}';
/// White space that no template writes (U+205F), and line ends outside it: which of them are left tells what a template
/// has trimmed.
const RARE_SPACE: char = '\u{205F}';
const LINE_ENDS: &str = "\n\n\n\n";

/// A piece of a rendered conversation.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// Text of the template.
    Text(&'a str),
    /// A control token of the template: its place in [`Tokenizer::controls`].
    Control(usize),
    /// The text of a message, by its number, and how its ends are trimmed.
    Message(usize, Trim, Trim),
}

/// What is taken away at one end of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trim {
    /// Nothing.
    Nothing,
    /// Line ends.
    LineEnds,
    /// All white space.
    Space,
}

impl Trim {
    pub(super) fn start(self, text: &str) -> &str {
        match self {
            Trim::Nothing => text,
            Trim::LineEnds => text.trim_start_matches('\n'),
            Trim::Space => text.trim_start(),
        }
    }

    pub(super) fn end(self, text: &str) -> &str {
        match self {
            Trim::Nothing => text,
            Trim::LineEnds => text.trim_end_matches('\n'),
            Trim::Space => text.trim_end(),
        }
    }

    fn found(left: Option<&str>) -> Self {
        match left {
            None => Trim::Space,
            Some(space) if space.len() > RARE_SPACE.len_utf8() => Trim::Nothing,
            Some(_) => Trim::LineEnds,
        }
    }
}

/// A template, compiled.
pub(super) struct Jinja {
    environment: Environment<'static>,
    bos: String,
    eos: String,
    /// A placeholder, or any control token's name.
    marks: Regex,
    /// Names in order, with their places in [`Tokenizer::controls`].
    controls: Vec<(String, usize)>,
}

impl std::fmt::Debug for Jinja {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Jinja").finish_non_exhaustive()
    }
}

/// The name under which the one template of an environment is kept.
const NAME: &str = "chat_template";

impl Jinja {
    /// Compiles `source`, for which `bos_token` and `eos_token` are these.
    pub(super) fn new(source: &str, bos: &str, eos: &str, tokenizer: &Tokenizer) -> Result<Self, Error> {
        if source.len() > MAX_SOURCE {
            return Err(fault(format!("{} bytes; at most {MAX_SOURCE} are read", source.len())));
        }
        let names = tokenizer.controls().iter().map(|control| control.content.as_str());
        for text in names.chain([source, bos, eos]) {
            if let Some(reserved) = text.chars().find(|c| [OPEN, CLOSE, RARE_SPACE].contains(c)) {
                return Err(fault(format!(
                    "it holds the character U+{:X}, which stands for messages here; remove it",
                    u32::from(reserved)
                )));
            }
        }
        let mut environment = Environment::new();
        // As the programs do for which these templates are written.
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|e| fault(e.to_string()))?);
        environment.set_recursion_limit(RECURSION);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", strftime_now);
        environment.add_template_owned(NAME, source.to_owned()).map_err(|e| fault(complaint(&e)))?;

        let mut controls: Vec<(String, usize)> =
            tokenizer.controls().iter().enumerate().map(|(at, control)| (control.content.clone(), at)).collect();
        // The first alternative that fits is taken: the longest.
        controls.sort_by(|(a, _), (b, _)| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        let line_ends = LINE_ENDS.len();
        let mut pattern = format!(
            "((?:\n{{{line_ends}}})?{RARE_SPACE})?{OPEN}([0-9]{{1,9}}){CLOSE}({RARE_SPACE}(?:\n{{{line_ends}}})?)?"
        );
        for (name, _) in &controls {
            pattern.push('|');
            pattern.push_str(&regex::escape(name));
        }
        let marks = Regex::new(&pattern).map_err(|e| fault(format!("the names of the control tokens: {e}")))?;
        controls.sort();
        Ok(Jinja { environment, bos: bos.to_owned(), eos: eos.to_owned(), marks, controls })
    }

    /// Renders `messages`, with `asks` up to where the assistant goes on.
    pub(super) fn render(&self, messages: &[&Message], asks: bool) -> Result<String, Error> {
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(FUEL + FUEL_PER_MESSAGE * messages.len() as u64));
        let listed: Vec<Value> = messages
            .iter()
            .enumerate()
            .map(|(at, message)| {
                let content = match message.content.is_empty() {
                    true => String::new(),
                    false => format!("{LINE_ENDS}{RARE_SPACE}{OPEN}{at}{CLOSE}{RARE_SPACE}{LINE_ENDS}"),
                };
                context! { role => message.role.name(), content => content }
            })
            .collect();
        let given = context! {
            messages => listed,
            bos_token => self.bos.as_str(),
            eos_token => self.eos.as_str(),
            add_generation_prompt => asks,
            tools => (),
            documents => (),
        };
        let template = environment.get_template(NAME).map_err(|e| fault(complaint(&e)))?;
        template.render(given).map_err(|e| fault(complaint(&e)))
    }

    /// The pieces of what [`Jinja::render`] gave, in order.
    pub(super) fn pieces<'a>(&self, rendered: &'a str) -> Vec<Piece<'a>> {
        let mut pieces = Vec::new();
        let mut at = 0;
        for found in self.marks.captures_iter(rendered) {
            let Some(whole) = found.get(0) else { continue };
            if at < whole.start() {
                pieces.push(Piece::Text(&rendered[at..whole.start()]));
            }
            at = whole.end();
            let number = found.get(2).and_then(|digits| digits.as_str().parse().ok());
            pieces.push(match number {
                Some(number) => {
                    let trim = |group| Trim::found(found.get(group).map(|space| space.as_str()));
                    Piece::Message(number, trim(1), trim(3))
                }
                None => match self.controls.binary_search_by(|(name, _)| name.as_str().cmp(whole.as_str())) {
                    Ok(place) => Piece::Control(self.controls[place].1),
                    Err(_) => Piece::Text(whole.as_str()),
                },
            });
        }
        if at < rendered.len() {
            pieces.push(Piece::Text(&rendered[at..]));
        }
        pieces
    }
}

pub(super) fn fault(message: String) -> Error {
    Error::ChatTemplate { message }
}

/// What went wrong in a template, and where.
fn complaint(error: &minijinja::Error) -> String {
    let line = error.line().map(|line| format!(" (line {line})")).unwrap_or_default();
    match error.kind() {
        ErrorKind::OutOfFuel => format!("it does not end within the work that it is given{line}"),
        ErrorKind::InvalidOperation => format!("{}{line}", error.detail().unwrap_or("an operation that cannot be")),
        _ => error.to_string(),
    }
}

/// `strftime_now(format)`: the date that some templates tell the model.
fn strftime_now(format: &str) -> Result<String, minijinja::Error> {
    jiff::fmt::strtime::format(format, &jiff::Zoned::now())
        .map_err(|e| minijinja::Error::new(ErrorKind::InvalidOperation, format!("strftime_now({format:?}): {e}")))
}
