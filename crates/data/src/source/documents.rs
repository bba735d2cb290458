//! [`Documents`]: the texts of any number of files, one after the other.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::files::{Format, find_files, find_files_in};
use super::parquet_rows::ParquetRows;
use super::records::{Rows, json_rows};
use super::stream::Stream;
use super::text::TextPieces;
use crate::error::Error;

/// One text to learn from.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Document {
    /// As in the file.
    pub text: String,
    /// What stands in [`SourceOptions::language_field`].
    pub language: Option<String>,
    /// What stands in [`SourceOptions::score_field`].
    pub score: Option<f64>,
}

impl From<String> for Document {
    /// Of a text alone.
    fn from(text: String) -> Self {
        Document { text, ..Document::default() }
    }
}

/// How texts are taken from files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceOptions {
    /// Field of JSON records, or column of parquet files, that holds the text.
    pub text_field: String,
    /// A `.txt` file is one document; a longer one is cut between paragraphs into documents of at most this many bytes.
    pub text_file_bytes: usize,
    /// Field that holds the language of a text: a string, or null. Not read without.
    pub language_field: Option<String>,
    /// Field that holds how good a text is: a number, or null. Not read without.
    pub score_field: Option<String>,
}

impl Default for SourceOptions {
    fn default() -> Self {
        Self { text_field: "text".to_owned(), text_file_bytes: 64 << 10, language_field: None, score_field: None }
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
    Columns(Box<ParquetRows>),
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
/// Those of [`find_files_in`].
pub fn open_documents_in(paths: &[PathBuf], options: &SourceOptions) -> Result<Documents, Error> {
    let files = find_files_in(paths)?;
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
        Format::Text => Texts::pieces(Path::new(name), stream, options)?,
        format => Texts::Rows { rows: json_rows(format, stream)?, record: 0 },
    });
    Ok(documents)
}

impl Documents {
    fn new(mut files: Vec<PathBuf>, name: String, options: &SourceOptions) -> Self {
        files.reverse();
        Self { options: options.clone(), files, open: None, name, seen: 0, given: 0, ended: false }
    }

    fn next_document(&mut self) -> Result<Option<Document>, Error> {
        loop {
            if let Some(texts) = &mut self.open {
                if let Some(document) = texts.next(&self.options)? {
                    self.seen += 1;
                    return Ok(Some(document));
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
            match self.next_document() {
                Ok(Some(document)) if document.text.trim().is_empty() => {}
                Ok(Some(document)) => {
                    self.given += 1;
                    return Some(Ok(document));
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
            Format::Text => Texts::pieces(path, Stream::open(path)?, options)?,
            Format::Parquet => Texts::Columns(Box::new(ParquetRows::open_columns(path, options)?)),
            format => Texts::Rows { rows: json_rows(format, Stream::open(path)?)?, record: 0 },
        })
    }

    fn pieces(path: &Path, stream: Stream, options: &SourceOptions) -> Result<Self, Error> {
        for (role, field) in [("language", &options.language_field), ("score", &options.score_field)] {
            if let Some(field) = field {
                return Err(Error::NoFields { path: path.to_path_buf(), field: field.clone(), role });
            }
        }
        Ok(Texts::Pieces(TextPieces::new(stream, options.text_file_bytes)))
    }

    fn next(&mut self, options: &SourceOptions) -> Result<Option<Document>, Error> {
        match self {
            Texts::Pieces(pieces) => Ok(pieces.next()?.map(Document::from)),
            Texts::Columns(rows) => rows.next_document(options),
            Texts::Rows { rows, record } => {
                let Some(value) = rows.next()? else {
                    return Ok(None);
                };
                *record += 1;
                Fields { path: rows.path(), record: *record }.document(value, options).map(Some)
            }
        }
    }
}

/// Takes fields out of a record of JSON, which stands at `record` in `path`.
struct Fields<'a> {
    path: &'a Path,
    record: u64,
}

impl Fields<'_> {
    fn document(&self, value: Value, options: &SourceOptions) -> Result<Document, Error> {
        let Value::Object(mut fields) = value else {
            return Err(self.missing("text", &options.text_field, "no fields: the record is not an object".to_owned()));
        };
        let language = options.language_field.as_ref().map(|field| self.text(&fields, "language", field));
        let score = options.score_field.as_ref().map(|field| self.number(&fields, field));
        let text = match fields.get_mut(&options.text_field) {
            Some(Value::String(text)) => std::mem::take(text),
            _ => self.text(&fields, "text", &options.text_field)?.unwrap_or_default(),
        };
        Ok(Document { text, language: language.transpose()?.flatten(), score: score.transpose()?.flatten() })
    }

    fn text(&self, fields: &Map<String, Value>, role: &'static str, field: &str) -> Result<Option<String>, Error> {
        match self.field(fields, role, field)? {
            Value::Null => Ok(None),
            Value::String(text) => Ok(Some(text.clone())),
            other => Err(self.wrong(field, "a string", other)),
        }
    }

    fn number(&self, fields: &Map<String, Value>, field: &str) -> Result<Option<f64>, Error> {
        match self.field(fields, "score", field)? {
            Value::Null => Ok(None),
            Value::Number(number) => Ok(number.as_f64()),
            other => Err(self.wrong(field, "a number", other)),
        }
    }

    fn field<'v>(&self, fields: &'v Map<String, Value>, role: &'static str, field: &str) -> Result<&'v Value, Error> {
        let names = || fields.keys().cloned().collect::<Vec<_>>().join(", ");
        fields.get(field).ok_or_else(|| self.missing(role, field, names()))
    }

    fn missing(&self, role: &'static str, field: &str, found: String) -> Error {
        Error::MissingField { path: self.path.to_path_buf(), record: self.record, field: field.to_owned(), found, role }
    }

    fn wrong(&self, field: &str, expected: &'static str, found: &Value) -> Error {
        let found = match found {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Number(_) => "a number",
            Value::String(_) => "a string",
            Value::Array(_) => "a list",
            Value::Object(_) => "an object",
        };
        Error::FieldType {
            path: self.path.to_path_buf(),
            record: self.record,
            field: field.to_owned(),
            found,
            expected,
        }
    }
}
