//! Every way in which an evaluation can be refused.

use std::path::PathBuf;

use casallm_model::error::ModelError;

/// An error of the `eval` crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// A name that is no task.
    #[error("unknown task `{name}`; there are {known}")]
    UnknownTask {
        /// As given.
        name: String,
        /// All names.
        known: String,
    },
    /// Files of one split that do not belong together.
    #[error(
        "{} and {} may both hold {task}, split {split}; keep one of them in the folder",
        first.display(), second.display()
    )]
    Ambiguous {
        /// The task.
        task: &'static str,
        /// The split.
        split: &'static str,
        /// One file.
        first: PathBuf,
        /// Another.
        second: PathBuf,
    },
    /// Files of one split of which others are missing.
    #[error(
        "{}: the folder has {found} of the {parts} parts of {task}, split {split}; add the others", path.display()
    )]
    Parts {
        /// One that is there.
        path: PathBuf,
        /// The task.
        task: &'static str,
        /// The split.
        split: &'static str,
        /// Parts that are there.
        found: usize,
        /// Parts there should be.
        parts: usize,
    },
    /// A record without a field, or with one of another kind.
    #[error("{}: record {record}: `{field}` is missing or not {expected}; is this {task} as the Hub has it?", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// From 1.
        record: usize,
        /// The field.
        field: &'static str,
        /// What it should be.
        expected: &'static str,
        /// The task that the file is read for.
        task: &'static str,
    },
    /// A split without a record.
    #[error("{}: no records", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Examples are wanted and there is nothing to take them from.
    #[error(
        "{task}: {wanted} examples are wanted from a file of the split {split}, which {}; add it, or use --fewshot 0",
        match found { None => "is not in the folder".to_owned(), Some(found) => format!("has {found} to take") }
    )]
    Examples {
        /// The task.
        task: &'static str,
        /// Examples of an item.
        wanted: usize,
        /// Where they come from.
        split: &'static str,
        /// Records there.
        found: Option<usize>,
    },
    /// Text that gives no tokens where some are to be scored.
    #[error("{task}, item {item}: {what}")]
    Untokenized {
        /// The task.
        task: String,
        /// From 0.
        item: usize,
        /// What has no tokens.
        what: &'static str,
    },
    /// A model that computes what is no number: of answers without a probability the first would be the best.
    #[error(
        "the model computes {value} where a log-probability should be; try --weights f32, else the model is damaged"
    )]
    NotFinite {
        /// What it computes.
        value: f32,
    },
    /// A model without a token to begin a text with.
    #[error("the tokenizer names no token that begins or ends a text, which scoring from the first token on needs")]
    NoOpening,
    /// Results that cannot be read back.
    #[error("{}: line {line}: {message}; remove the file to score its items again", path.display())]
    Journal {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// Why.
        message: String,
    },
    /// Another process writes these results.
    #[error("{}: another evaluation{} writes there; wait for it, or choose another --out", path.display(),
        pid.map_or(String::new(), |pid| format!(", process {pid},")))]
    Locked {
        /// The folder.
        path: PathBuf,
        /// Its process, where known.
        pid: Option<u32>,
    },
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Reading of data or text failed.
    #[error(transparent)]
    Data(#[from] casallm_data::Error),
    /// The model failed.
    #[error(transparent)]
    Model(#[from] ModelError),
}
