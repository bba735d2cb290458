//! [`Documents`]: the texts of any number of files, one after the other.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::files::{Format, find_files};
use super::parquet_rows::ParquetRows;
use super::records::{Rows, json_rows};
use super::stream::Stream;
use super::text::TextPieces;
use crate::error::Error;

/// One text to learn from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// As in the file.
    pub text: String,
}

/// How texts are taken from files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceOptions {
    /// Field of JSON records, or column of parquet files, that holds the text.
    pub text_field: String,
    /// A `.txt` file is one document; a longer one is cut between paragraphs into documents of at most this many bytes.
    pub text_file_bytes: usize,
}

impl Default for SourceOptions {
    fn default() -> Self {
        Self { text_field: "text".to_owned(), text_file_bytes: 64 << 10 }
    }
}

/// Texts of files in order; those without text (empty, white space or null) are passed over. Ends after the first
/// error; when the end comes without a single text, that is one: [`Error::EmptyCorpus`].
pub struct Documents {
    options: SourceOptions,
    /// Files not yet opened, last first.
    files: Vec<PathBuf>,
    open: Option<Texts>,
    name: String,
    seen: u64,
    given: u64,
    ended: bool,
}

enum Texts {
    Pieces(TextPieces),
    Rows { rows: Rows, record: u64 },
    Column(Box<ParquetRows>),
}

/// The documents of a file, of a folder, or of the files that fit a pattern (see [`find_files`]).
///
/// # Errors
/// Those of [`find_files`] here; those of reading come with the documents.
pub fn open_documents(path: &Path, options: &SourceOptions) -> Result<Documents, Error> {
    Ok(Documents::new(find_files(path)?, path.display().to_string(), options))
}

/// The documents of several paths, each as for [`open_documents`], in the given order.
///
/// # Errors
/// Those of [`find_files`].
pub fn open_documents_in(paths: &[PathBuf], options: &SourceOptions) -> Result<Documents, Error> {
    let mut files = Vec::new();
    for path in paths {
        files.extend(find_files(path)?);
    }
    let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    if files.is_empty() {
        return Err(Error::NoFiles { path: "an empty list of paths".to_owned() });
    }
    Ok(Documents::new(files, names.join(", "), options))
}

/// The documents in bytes that the program carries. `name` tells the format, as in `openstax.jsonl.zst`.
///
/// # Errors
/// [`Error::UnknownFormat`] (parquet is not read from bytes) and [`Error::Compressed`].
pub fn open_embedded(name: &str, bytes: &'static [u8], options: &SourceOptions) -> Result<Documents, Error> {
    let format = Format::required(Path::new(name))?;
    let stream = Stream::embedded(name, bytes)?;
    let mut documents = Documents::new(Vec::new(), name.to_owned(), options);
    documents.open = Some(match format {
        Format::Text => Texts::Pieces(TextPieces::new(stream, options.text_file_bytes)),
        format => Texts::Rows { rows: json_rows(format, stream)?, record: 0 },
    });
    Ok(documents)
}

impl Documents {
    fn new(mut files: Vec<PathBuf>, name: String, options: &SourceOptions) -> Self {
        files.reverse();
        Self { options: options.clone(), files, open: None, name, seen: 0, given: 0, ended: false }
    }

    fn next_text(&mut self) -> Result<Option<String>, Error> {
        loop {
            if let Some(texts) = &mut self.open {
                if let Some(text) = texts.next(&self.options)? {
                    self.seen += 1;
                    return Ok(Some(text));
                }
                self.open = None;
            }
            let Some(path) = self.files.pop() else {
                return Ok(None);
            };
            self.open = Some(Texts::open(&path, &self.options)?);
        }
    }
}

impl Iterator for Documents {
    type Item = Result<Document, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.ended {
            match self.next_text() {
                Ok(Some(text)) if text.trim().is_empty() => {}
                Ok(Some(text)) => {
                    self.given += 1;
                    return Some(Ok(Document { text }));
                }
                Ok(None) => {
                    self.ended = true;
                    if self.given == 0 {
                        return Some(Err(Error::EmptyCorpus { path: self.name.clone(), documents: self.seen }));
                    }
                }
                Err(error) => {
                    self.ended = true;
                    return Some(Err(error));
                }
            }
        }
        None
    }
}

impl Texts {
    fn open(path: &Path, options: &SourceOptions) -> Result<Self, Error> {
        Ok(match Format::required(path)? {
            Format::Text => Texts::Pieces(TextPieces::new(Stream::open(path)?, options.text_file_bytes)),
            Format::Parquet => Texts::Column(Box::new(ParquetRows::open_column(path, &options.text_field)?)),
            format => Texts::Rows { rows: json_rows(format, Stream::open(path)?)?, record: 0 },
        })
    }

    fn next(&mut self, options: &SourceOptions) -> Result<Option<String>, Error> {
        match self {
            Texts::Pieces(pieces) => pieces.next(),
            Texts::Column(rows) => rows.next_text(),
            Texts::Rows { rows, record } => {
                let Some(value) = rows.next()? else {
                    return Ok(None);
                };
                *record += 1;
                text_of(value, &options.text_field, rows.path(), *record).map(Some)
            }
        }
    }
}

fn text_of(value: Value, field: &str, path: &Path, record: u64) -> Result<String, Error> {
    let wrong =
        |found: &'static str| Error::FieldType { path: path.to_path_buf(), record, field: field.to_owned(), found };
    match value {
        Value::Object(mut fields) => match fields.remove(field) {
            Some(Value::String(text)) => Ok(text),
            Some(Value::Null) => Ok(String::new()),
            Some(Value::Bool(_)) => Err(wrong("a boolean")),
            Some(Value::Number(_)) => Err(wrong("a number")),
            Some(Value::Array(_)) => Err(wrong("a list")),
            Some(Value::Object(_)) => Err(wrong("an object")),
            None => Err(Error::MissingField {
                path: path.to_path_buf(),
                record,
                field: field.to_owned(),
                found: fields.keys().cloned().collect::<Vec<_>>().join(", "),
            }),
        },
        _ => Err(Error::MissingField {
            path: path.to_path_buf(),
            record,
            field: field.to_owned(),
            found: "no fields: the record is not an object".to_owned(),
        }),
    }
}
