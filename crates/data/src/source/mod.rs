//! Readers: files of text to a stream of documents, files of chats to a stream of JSON records.
//!
//! `.txt`, `.jsonl`, `.json` and `.parquet`, the first three also as `.zst` or `.gz`; parquet compresses inside.
//! Memory holds one record (parquet: one page of each column) at a time, and the window of what was compressed: 8 MB, or up to 2 GB
//! after `zstd --long=31`. Called by `tokenizer` training, `shards`,
//! `curation` and `conversations`, with files or with the bytes that the program carries in itself.

mod contained;
mod documents;
mod files;
mod json_lines;
mod json_values;
mod parquet_bounds;
mod parquet_rows;
mod records;
mod sample;
mod stream;
mod text;

pub use documents::{Document, Documents, SourceOptions, open_documents, open_documents_in, open_embedded};
pub use files::{
    files_in, files_like, find_files, find_files_in, fingerprint_embedded, fingerprint_files, format_name,
};
pub(crate) use files::{is_data_file, is_text_file};
pub use records::{Records, open_embedded_records, open_records};
pub use sample::{Sample, sample};

/// Longer records are taken for damage: a quarter of a gigabyte is a library, not a document.
const MAX_RECORD_BYTES: u64 = 256 << 20;

#[cfg(test)]
mod tests;
