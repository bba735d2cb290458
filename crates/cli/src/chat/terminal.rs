//! The conversation on the terminal: lines with history, commands, Ctrl-C for the answer and not for the program. Where
//! the input is no terminal, a line that is not blank is a message, and nothing else is printed but answers.

use std::io::{self, BufRead, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use casallm_serve::chatbot::{AnswerEvent, AnswerRequest, Chatbot, Done};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use signal_hook::consts::SIGINT;
use signal_hook::{SigId, flag, low_level};

use super::conversation::{Conversation, Room};
use crate::Ended;
use crate::streams::{print_piece, print_said, tell};

const HELP: &str = "\
/new            forget this conversation and begin another
/again          another answer to the last message
/back           take the last message and its answer back
/system TEXT    instructions for the model (nothing: none)
/stats          show tokens and speed after each answer, or no longer
/help           this list
/quit           end, as Ctrl-D does
Ctrl-C stops an answer. Arrow keys bring earlier messages back.";

/// Where messages come from.
enum Lines {
    Terminal(Box<DefaultEditor>),
    /// With the number of the line read last.
    Pipe(io::Lines<io::StdinLock<'static>>, usize),
}

/// A line of the input.
enum Line {
    Text(String),
    /// Ctrl-C where nothing is to be stopped.
    Interrupted,
    End,
}

impl Lines {
    fn open() -> Result<Self> {
        if io::stdin().is_terminal() {
            return Ok(Lines::Terminal(Box::new(DefaultEditor::new().context("the terminal cannot be read")?)));
        }
        Ok(Lines::Pipe(io::stdin().lock().lines(), 0))
    }

    fn next(&mut self) -> Result<Line> {
        match self {
            Lines::Terminal(editor) => match editor.readline("you> ") {
                Ok(line) => {
                    let _ = editor.add_history_entry(line.trim());
                    Ok(Line::Text(line))
                }
                Err(ReadlineError::Interrupted) => Ok(Line::Interrupted),
                Err(ReadlineError::Eof) => Ok(Line::End),
                Err(error) => Err(error).context("the terminal cannot be read"),
            },
            Lines::Pipe(lines, number) => {
                *number += 1;
                match lines.next().transpose() {
                    Ok(line) => Ok(line.map_or(Line::End, Line::Text)),
                    Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                        bail!("line {number} of the input is not UTF-8; convert it, as with `iconv -t UTF-8`")
                    }
                    Err(error) => Err(error).context("the input cannot be read"),
                }
            }
        }
    }

    fn is_terminal(&self) -> bool {
        matches!(self, Lines::Terminal(_))
    }
}

/// Ctrl-C from a message on until its answer has ended: also while the conversation is read over for what fits, when nothing is
/// shown of the answer yet. (While a line is typed the terminal gives it as a key.)
struct CtrlC {
    pressed: Arc<AtomicBool>,
    id: SigId,
}

impl CtrlC {
    fn listen() -> Result<Self> {
        let pressed = Arc::new(AtomicBool::new(false));
        let id = flag::register(SIGINT, pressed.clone()).context("Ctrl-C cannot be heard")?;
        Ok(CtrlC { pressed, id })
    }

    fn pressed(&self) -> bool {
        self.pressed.load(Ordering::Relaxed)
    }

    /// What was pressed before is of something else.
    fn forget(&self) {
        self.pressed.store(false, Ordering::Relaxed);
    }
}

impl Drop for CtrlC {
    fn drop(&mut self) {
        low_level::unregister(self.id);
    }
}

/// Until the end of the input, or until nobody reads the answers.
pub(super) fn converse(bot: &Chatbot, mut conversation: Conversation) -> Result<Ended> {
    let mut lines = Lines::open()?;
    let terminal = lines.is_terminal();
    if terminal {
        tell(&format!("{}: say something. /help lists commands, Ctrl-D ends.", bot.card().id));
    }
    // Without a terminal Ctrl-C ends the program.
    let interrupt = terminal.then(CtrlC::listen).transpose()?;
    let mut stats = false;
    loop {
        let line = lines.next()?;
        interrupt.iter().for_each(CtrlC::forget);
        let text = match line {
            Line::End => return Ok(Ended::Done),
            Line::Interrupted => {
                tell("(Ctrl-D or /quit ends)");
                continue;
            }
            Line::Text(text) => text.trim().to_owned(),
        };
        let asked = match command(&text).filter(|_| terminal) {
            None if text.is_empty() => continue,
            None => Some(text),
            Some(("quit" | "exit", _)) => return Ok(Ended::Done),
            Some(("help", _)) => {
                tell(HELP);
                None
            }
            Some(("new", _)) => {
                conversation.clear();
                tell("(a new conversation)");
                None
            }
            Some(("stats", _)) => {
                stats = !stats;
                tell(if stats { "(numbers after each answer)" } else { "(no numbers)" });
                None
            }
            Some(("system", text)) => {
                tell(instruct(bot, &mut conversation, text));
                None
            }
            Some(("back", _)) => {
                let back = conversation.take_back();
                tell(&back.map_or("(nothing was said)".to_owned(), |text| format!("(taken back: {text})")));
                None
            }
            Some(("again", _)) => conversation.take_back().or_else(|| {
                tell("(nothing was said)");
                None
            }),
            Some((other, _)) => {
                tell(&format!("/{other} is no command; /help lists them"));
                None
            }
        };
        let Some(text) = asked else { continue };
        let request = conversation.ask(&text);
        let Some(request) = fitted(bot, &mut conversation, request)? else {
            // Whoever reads the answers counts them: this one is empty.
            if !terminal {
                print_piece("\n")?;
            }
            continue;
        };
        let (said, done) = speak(bot, &request, interrupt.as_ref())?;
        if let (true, Some(done)) = (stats, &done) {
            tell(&numbers(done));
        }
        conversation.answered(&said, done);
    }
}

/// A command and what follows it.
fn command(line: &str) -> Option<(&str, &str)> {
    let rest = line.strip_prefix('/')?;
    let (name, argument) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    Some((name, argument.trim()))
}

/// Gives the model other instructions, or none, and says so.
fn instruct(bot: &Chatbot, conversation: &mut Conversation, text: &str) -> &'static str {
    // A template that refuses them would refuse every message from then on.
    if !text.is_empty() && !bot.takes_system() {
        return "(this model's template has no place for instructions: say it in a message)";
    }
    conversation.instruct(Some(text));
    if text.is_empty() { "(no instructions)" } else { "(from the next answer on)" }
}

/// The request with room for an answer. A message that does not fit by itself is taken back.
fn fitted(bot: &Chatbot, conversation: &mut Conversation, request: AnswerRequest) -> Result<Option<AnswerRequest>> {
    match conversation.make_room(bot)? {
        Room::LeftOut(0) => Ok(Some(request)),
        Room::LeftOut(n) => {
            tell(&format!("(the context of {} tokens is full: the {n} oldest exchanges were left out)", bot.context()));
            Ok(Some(AnswerRequest { turns: conversation.all(), ..request }))
        }
        Room::None(tokens) => {
            tell(&format!("({tokens} tokens do not fit the context of {}: say it shorter)", bot.context()));
            conversation.take_back();
            Ok(None)
        }
    }
}

/// Prints an answer as it comes. Without `Done` when it was stopped, which `interrupt` says of a terminal. Where it cannot be
/// printed the rest is not computed.
fn speak(bot: &Chatbot, request: &AnswerRequest, interrupt: Option<&CtrlC>) -> Result<(String, Option<Done>)> {
    let terminal = interrupt.is_some();
    if terminal {
        print_piece("bot> ")?;
    }
    let mut answer = bot.answer(request)?;
    let mut said = String::new();
    loop {
        match answer.blocking_next() {
            Some(AnswerEvent::Text { text, .. }) => {
                let text = if terminal && said.is_empty() { text.trim_start() } else { &text };
                print_said(text)?;
                said += text;
            }
            Some(AnswerEvent::Done(done)) => {
                print_piece("\n")?;
                return Ok((said, Some(done)));
            }
            Some(AnswerEvent::Failed(error)) => bail!("{error}"),
            Some(AnswerEvent::Started { .. } | AnswerEvent::Reading { .. }) => {}
            None => bail!("the answer broke off"),
        }
        if interrupt.is_some_and(CtrlC::pressed) {
            print_piece(" (stopped)\n")?;
            return Ok((said, None));
        }
    }
}

fn numbers(done: &Done) -> String {
    let usage = done.usage;
    let mut line = format!(
        "({} tokens read, {} of them held already; {} written",
        usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens
    );
    if let Some(first) = done.timing.first_token {
        line += &format!("; the first after {:.2} s", first.as_secs_f64());
    }
    if let Some(speed) = done.timing.tokens_per_second {
        line += &format!(", {speed:.1} a second");
    }
    line + ")"
}

#[cfg(test)]
mod tests {
    use casallm_model::sampler::SamplerConfig;

    use super::super::conversation::tests::chatbot;
    use super::*;

    #[test]
    fn a_model_whose_template_takes_no_instructions_is_given_none() {
        let strict = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}\
                      {% for m in messages %}{{ m.content }}</s>{% endfor %}";
        for (template, takes) in [("", true), (strict, false)] {
            let bot = chatbot(100, template);
            let mut conversation = Conversation::new(None, SamplerConfig::greedy(), 5);
            let told = instruct(&bot, &mut conversation, "Be kind.");
            assert_eq!(told == "(from the next answer on)", takes, "{told}");
            conversation.ask("Hi");
            assert_eq!(conversation.make_room(&bot).unwrap(), Room::LeftOut(0));
            assert_eq!(conversation.all().len(), if takes { 2 } else { 1 });
        }
    }

    #[test]
    fn commands_begin_with_a_slash() {
        assert_eq!(command("/system  Be kind. "), Some(("system", "Be kind.")));
        assert_eq!(command("/help"), Some(("help", "")));
        assert_eq!(command("1/2"), None);
    }
}
