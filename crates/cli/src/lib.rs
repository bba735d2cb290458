//! The `casallm` command line as a library: what the binary and the tests share.
//!
//! [`args`] is every command and flag; each command is a function that turns them into one call of the crates below.
//! [`report`] draws the page that a finished run leaves behind from plain data.

pub mod args;
mod bench;
mod bench_chat;
mod chat;
mod console;
mod devices;
mod eval;
mod exam;
mod export;
mod fetch;
mod import;
mod inspect;
mod plan;
mod quickstart;
pub mod report;
mod roofline;
mod selftest;
mod serve;
pub mod streams;
mod sweep;
mod task;
mod tensorboard;
mod tokens;
mod training;
mod watch;

use args::{Arguments, Bench, Command, DataCommand, TokenizerCommand};

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// As asked.
    Done,
    /// It ran, and what it found is bad news (a selftest that fails).
    Failed,
    /// A signal came, and everything is saved.
    Interrupted,
}

impl Ended {
    /// The program's exit code. An error, which ends a command before its end, is 2.
    pub fn code(self) -> u8 {
        match self {
            Ended::Done => 0,
            Ended::Failed => 1,
            // As shells count Ctrl-C.
            Ended::Interrupted => 130,
        }
    }
}

/// Runs a command.
///
/// # Errors
/// Whatever stood in the way, with the thing, the value and the remedy in its message.
pub fn run(arguments: Arguments) -> anyhow::Result<Ended> {
    match arguments.command {
        Command::Quickstart(flags) => quickstart::run(&flags),
        Command::Tokenizer(TokenizerCommand::Train(flags)) => tokens::train(&flags),
        Command::Tokenize(flags) => tokens::tokenize(&flags),
        Command::Pretrain(flags) => training::pretrain(&flags),
        Command::Sft(flags) => training::sft(&flags),
        Command::Dpo(flags) => training::dpo(&flags),
        Command::Sweep(flags) => sweep::run(&flags),
        Command::Tensorboard(flags) => tensorboard::run(&flags),
        Command::Plan(flags) => plan::run(&flags),
        Command::Data(DataCommand::Inspect(flags)) => inspect::run(&flags),
        Command::Fetch(flags) => fetch::run(&flags),
        Command::Import(flags) => import::run(&flags),
        Command::Export(flags) => export::run(&flags),
        Command::Eval(flags) => eval::run(&flags),
        Command::Report(flags) => report::run(&flags),
        Command::Chat(flags) => chat::run(&flags),
        Command::Serve(flags) => serve::run(&flags),
        Command::Watch(flags) => watch::run(&flags),
        Command::Bench(Bench::Train(flags)) => bench::train(&flags),
        Command::Bench(Bench::Generate(flags)) => bench::generate(&flags),
        Command::Bench(Bench::Chat(flags)) => bench_chat::run(&flags),
        Command::Bench(Bench::Roofline(flags)) => roofline::run(&flags),
        Command::Selftest(flags) => selftest::run(&flags),
    }
}
