//! `.parquet`: rows of a file, row group by row group, either all columns as JSON or those of documents.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::basic::{ConvertedType, LogicalType, Repetition, Type as PhysicalType};
use parquet::errors::ParquetError;
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::reader::{FileReader, RowGroupReader, SerializedFileReader};
use parquet::record::reader::{ReaderIter, TreeBuilder};
use parquet::record::{Field, Row};
use parquet::schema::types::{SchemaDescPtr, SchemaDescriptor, Type};
use serde_json::Value;

use super::contained::contained;
use super::documents::{Document, SourceOptions};
use super::parquet_bounds::{CheckedFile, CheckedGroup, check_pages};
use crate::error::Error;

/// Rows of one file.
pub(super) struct ParquetRows {
    path: PathBuf,
    /// The same file, for looking at pages before they are read.
    file: CheckedFile,
    reader: SerializedFileReader<CheckedFile>,
    /// The columns that are read.
    schema: SchemaDescPtr,
    next_group: usize,
    rows: Option<ReaderIter>,
    /// Rows given so far.
    count: u64,
}

impl ParquetRows {
    /// All columns.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
        let file = CheckedFile::new(file).map_err(|e| Error::io("read", path, e))?;
        let read = file.try_clone().map_err(|e| Error::io("open", path, e))?;
        let reader = guarded(path, || SerializedFileReader::new(read))?;
        let schema = reader.metadata().file_metadata().schema_descr_ptr();
        Ok(Self { path: path.to_path_buf(), file, reader, schema, next_group: 0, rows: None, count: 0 })
    }

    /// The columns of text, language and score: the others are not read from the disk.
    pub(super) fn open_columns(path: &Path, options: &SourceOptions) -> Result<Self, Error> {
        let mut rows = Self::open(path)?;
        let root = rows.schema.root_schema();
        let fields = root.get_fields();
        let mut wanted: Vec<Arc<Type>> = Vec::new();
        let texts = [("text", Some(&options.text_field)), ("language", options.language_field.as_ref())];
        let asked = texts.into_iter().chain([("score", options.score_field.as_ref())]);
        for (role, column) in asked.filter_map(|(role, column)| Some((role, column?))) {
            let Some(field) = fields.iter().find(|field| field.name() == column) else {
                let columns: Vec<&str> = fields.iter().map(|field| field.name()).collect();
                return Err(Error::ParquetColumn {
                    path: path.to_path_buf(),
                    column: column.clone(),
                    columns: columns.join(", "),
                    role,
                });
            };
            let (fits, expected) =
                if role == "score" { (is_number(field), "numbers") } else { (is_text(field), "strings") };
            if !fits {
                let (column, found) = (column.clone(), kind(field));
                return Err(Error::ParquetColumnType { path: path.to_path_buf(), column, found, expected });
            }
            if !wanted.iter().any(|other| other.name() == column) {
                wanted.push(field.clone());
            }
        }
        let projection = Type::group_type_builder(root.name()).with_fields(wanted).build();
        let projection = projection.map_err(|e| fault(path, &e))?;
        rows.schema = Arc::new(SchemaDescriptor::new(Arc::new(projection)));
        Ok(rows)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The next row as an object; `None` at the end.
    pub(super) fn next_value(&mut self) -> Result<Option<Value>, Error> {
        Ok(self.next_row()?.map(|row| row.to_json_value()))
    }

    /// The next row's text, empty for a null, language and score; `None` at the end. For [`ParquetRows::open_columns`].
    pub(super) fn next_document(&mut self, options: &SourceOptions) -> Result<Option<Document>, Error> {
        let Some(row) = self.next_row()? else {
            return Ok(None);
        };
        let mut document = Document::default();
        for (column, field) in row.into_columns() {
            if options.language_field.as_ref() == Some(&column) {
                document.language = if let Field::Str(text) = &field { Some(text.clone()) } else { None };
            }
            if options.score_field.as_ref() == Some(&column) {
                document.score = number(&field);
            }
            if let (Field::Str(text), true) = (field, column == options.text_field) {
                document.text = text;
            }
        }
        Ok(Some(document))
    }

    fn next_row(&mut self) -> Result<Option<Row>, Error> {
        loop {
            if let Some(rows) = &mut self.rows {
                let row = guarded(&self.path, || rows.next().transpose());
                let row = row.map_err(|e| self.in_row(e))?;
                if row.is_some() {
                    self.count += 1;
                    return Ok(row);
                }
                self.rows = None;
            }
            if self.next_group >= self.reader.num_row_groups() {
                return Ok(None);
            }
            let (reader, schema, group) = (&self.reader, &self.schema, self.next_group);
            let rows = guarded(&self.path, || {
                let group = CheckedGroup(reader.get_row_group(group)?);
                let read: Vec<&str> = schema.root_schema().get_fields().iter().map(|field| field.name()).collect();
                let is_read = |column: &&ColumnChunkMetaData| {
                    column.column_path().parts().first().is_some_and(|part| read.contains(&part.as_str()))
                };
                let columns = group.metadata().columns().iter();
                columns.filter(is_read).try_for_each(|column| check_pages(&self.file, column))?;
                TreeBuilder::new().as_iter(schema.clone(), &group)
            })?;
            self.next_group += 1;
            self.rows = Some(rows);
        }
    }

    /// The decoder's message, with the row, and without the bytes that it prints of a broken text.
    fn in_row(&self, error: Error) -> Error {
        let row = self.count + 1;
        match error {
            Error::Parquet { path, message } => {
                let message = match message.split_once("as String") {
                    Some(_) => format!("row {row}: the text is not valid UTF-8"),
                    None => format!("row {row}: {message}"),
                };
                Error::Parquet { path, message }
            }
            other => other,
        }
    }
}

fn is_text(field: &Type) -> bool {
    let info = field.get_basic_info();
    let text = matches!(info.converted_type(), ConvertedType::UTF8)
        || matches!(info.logical_type_ref(), Some(LogicalType::String));
    let single = !info.has_repetition() || info.repetition() != Repetition::REPEATED;
    field.is_primitive() && field.get_physical_type() == PhysicalType::BYTE_ARRAY && text && single
}

fn is_number(field: &Type) -> bool {
    use PhysicalType::{DOUBLE, FLOAT, INT32, INT64};
    let info = field.get_basic_info();
    let single = !info.has_repetition() || info.repetition() != Repetition::REPEATED;
    let number = matches!(
        info.converted_type(),
        ConvertedType::NONE
            | ConvertedType::INT_8
            | ConvertedType::INT_16
            | ConvertedType::INT_32
            | ConvertedType::INT_64
            | ConvertedType::UINT_8
            | ConvertedType::UINT_16
            | ConvertedType::UINT_32
            | ConvertedType::UINT_64
    );
    field.is_primitive() && single && number && matches!(field.get_physical_type(), INT32 | INT64 | FLOAT | DOUBLE)
}

/// A value of a column for which [`is_number`] holds; `None` for a null.
fn number(field: &Field) -> Option<f64> {
    match field {
        Field::Byte(n) => Some(f64::from(*n)),
        Field::Short(n) => Some(f64::from(*n)),
        Field::Int(n) => Some(f64::from(*n)),
        Field::Long(n) => Some(*n as f64),
        Field::UByte(n) => Some(f64::from(*n)),
        Field::UShort(n) => Some(f64::from(*n)),
        Field::UInt(n) => Some(f64::from(*n)),
        Field::ULong(n) => Some(*n as f64),
        Field::Float(n) => Some(f64::from(*n)),
        Field::Double(n) => Some(*n),
        _ => None,
    }
}

fn kind(field: &Type) -> String {
    if field.is_primitive() { format!("{:?}", field.get_physical_type()) } else { "a nested structure".to_owned() }
}

fn fault(path: &Path, error: &ParquetError) -> Error {
    let message = error.to_string();
    // The library says so of a codec that it was built without.
    let message = match message.split_once("Disabled feature at compile time: ") {
        Some((_, codec)) => {
            format!("it is compressed with {codec}, which is not read here; write it with zstd, snappy, gzip or lz4")
        }
        None => message.chars().take(300).collect(),
    };
    Error::Parquet { path: path.to_path_buf(), message }
}

/// Runs the decoder. It asserts what a damaged file or an odd schema does not keep; such a panic is the file's fault
/// and becomes its error. The decoder is not used again after an error, so nothing sees it half-changed.
fn guarded<T>(path: &Path, decode: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, Error> {
    match contained(decode) {
        Some(result) => result.map_err(|e| fault(path, &e)),
        None => Err(Error::Parquet {
            path: path.to_path_buf(),
            message: "the decoder met contents that the format does not allow".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_codec_that_is_not_built_in_is_named_with_what_to_do() {
        // As the library says it of each codec.
        let refused = ParquetError::General("Disabled feature at compile time: brotli".to_owned());
        let told = fault(Path::new("a.parquet"), &refused).to_string();
        assert!(
            told.contains("a.parquet") && told.contains("compressed with brotli") && told.contains("zstd"),
            "{told}"
        );
    }
}
