//! [`Error`]: each way a file can lie or a setting can be wrong, with what was found and what to do about it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use crate::preferences::DropReason;

/// What goes wrong between a file and a batch.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb: `read`, `write`, `open`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// No space left; nothing half-written is visible.
    #[error("the disk is full: {} was not written; free some space or choose another folder, then run the same command again", path.display())]
    DiskFull {
        /// The file that was not written.
        path: PathBuf,
    },

    /// Whoever gives the documents was told to stop: what was done with those before stays as after any other error.
    #[error("stopped before all of the text was read; the same command goes on")]
    Stopped,

    /// A path, folder or pattern that names no file.
    #[error("{path} names no data file; expected .txt, .jsonl, .json or .parquet, plain or with .zst or .gz")]
    NoFiles {
        /// As given.
        path: String,
    },
    /// A path that is neither there nor a pattern.
    #[error("{}: there is no such file or folder; a pattern has `*`, `?` or `[...]`", path.display())]
    NoSuchPath {
        /// As given.
        path: PathBuf,
    },
    /// Among the files of a folder or pattern, one by its name that is not there.
    #[error("{} is a link that leads to no file; bring back what it leads to, or remove the link", path.display())]
    BrokenLink {
        /// The link.
        path: PathBuf,
    },
    /// A file that two of several paths mean.
    #[error("{} is named twice, so that its text would come twice; leave out the file or the folder or pattern that it is in", path.display())]
    FileTwice {
        /// The file, as it was found the second time.
        path: PathBuf,
    },
    /// A file whose name does not tell a format that can be read.
    #[error("{}: unknown format; expected .txt, .jsonl, .json or .parquet, plain or with .zst or .gz", path.display())]
    UnknownFormat {
        /// The file.
        path: PathBuf,
    },
    /// Plain text where records are wanted.
    #[error("{}: is plain text; conversations, pairs and tasks are records: expected .jsonl, .json or .parquet", path.display())]
    NoRecords {
        /// The file.
        path: PathBuf,
    },
    /// Sources without a single document that has text.
    #[error("{path}: no text found in {documents} documents; check the file and the name of the text field")]
    EmptyCorpus {
        /// The sources.
        path: String,
        /// Documents seen, all of them empty.
        documents: u64,
    },
    /// Bytes that are not UTF-8.
    #[error("{}: invalid UTF-8 at byte {offset}{}; convert the file to UTF-8", path.display(), in_line(*line))]
    InvalidUtf8 {
        /// The file.
        path: PathBuf,
        /// Offset of the first bad byte in the decompressed file.
        offset: u64,
        /// Line number from 1, where the format has lines.
        line: Option<u64>,
    },
    /// A record longer than a document can be.
    #[error("{}: the record that starts in line {line} is longer than {limit} bytes; is the file damaged, or of another format?", path.display())]
    RecordTooLong {
        /// The file.
        path: PathBuf,
        /// Line number from 1.
        line: u64,
        /// The longest record that is read, bytes.
        limit: u64,
    },
    /// Text that is not JSON.
    #[error("{}: line {line}: {message}", path.display())]
    BrokenJson {
        /// The file.
        path: PathBuf,
        /// Line number from 1.
        line: u64,
        /// The parser's complaint.
        message: String,
    },
    /// A record without a field that is asked for.
    #[error("{}: record {record} has no field `{field}`; it has: {found}; set the name of the {role} field", path.display())]
    MissingField {
        /// What it would hold: `text`, `language` or `score`.
        role: &'static str,
        /// The file.
        path: PathBuf,
        /// Record number from 1.
        record: u64,
        /// The field that was looked for.
        field: String,
        /// The fields that exist.
        found: String,
    },
    /// A field of another type.
    #[error("{}: record {record}: field `{field}` is {found}, expected {expected}", path.display())]
    FieldType {
        /// What it must be.
        expected: &'static str,
        /// The file.
        path: PathBuf,
        /// Record number from 1.
        record: u64,
        /// The field.
        field: String,
        /// What it holds.
        found: &'static str,
    },
    /// A parquet file that cannot be decoded.
    #[error("{}: not a readable parquet file: {message}", path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// The decoder's complaint.
        message: String,
    },
    /// A parquet file without a column that is asked for.
    #[error("{}: no column `{column}`; it has: {columns}; set the name of the {role} field", path.display())]
    ParquetColumn {
        /// What it would hold: `text`, `language` or `score`.
        role: &'static str,
        /// The file.
        path: PathBuf,
        /// The column that was looked for.
        column: String,
        /// The columns that exist.
        columns: String,
    },
    /// A parquet column of another type.
    #[error("{}: column `{column}` holds {found}, expected {expected}", path.display())]
    ParquetColumnType {
        /// What it must hold.
        expected: &'static str,
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
        /// Its type in the file's schema.
        found: String,
    },
    /// A file of plain text, of which a language or a score is asked.
    #[error("{}: plain text has no field `{field}`; give the files with fields apart, or ask nothing of the {role}", path.display())]
    NoFields {
        /// The file.
        path: PathBuf,
        /// The field that was looked for.
        field: String,
        /// What it would hold: `language` or `score`.
        role: &'static str,
    },
    /// Evaluation sets that nothing can be compared with.
    #[error("{path}: no text of {words} words or more in it; give the folder that holds the evaluation sets")]
    NoEvalText {
        /// As given.
        path: String,
        /// The fewest words that are compared.
        words: usize,
    },
    /// Rules that no document of a source meets.
    #[error("source `{source_name}`: not one document is kept ({counts}); ask less of them")]
    NothingKept {
        /// The source.
        source_name: String,
        /// How many were dropped, by reason.
        counts: String,
    },
    /// Too many documents to remember.
    #[error(
        "after {documents} documents, those to tell duplicates by would take more than the {limit} bytes allowed, at up to {bytes_each} each; \
         allow more (--duplicates-memory, or duplicates_memory in [data]) and run the same command again, drop exact duplicates only (up to \
         {} bytes each), or divide the text into several sources",
        crate::curation::EXACT_BYTES
    )]
    DuplicateMemory {
        /// Documents that are remembered.
        documents: u64,
        /// Bytes allowed.
        limit: u64,
        /// Bytes a document, at most.
        bytes_each: u64,
    },
    /// A compressed file that is truncated, damaged, or of another format than its name says.
    #[error("{}: damaged or truncated {format} data: {message}; fetch the file again", path.display())]
    Compressed {
        /// The file.
        path: PathBuf,
        /// `zstd` or `gzip`.
        format: &'static str,
        /// The decoder's complaint.
        message: String,
    },
    /// A share of validation outside `0..1`.
    #[error("validation fraction {found}: must be at least 0 and below 1")]
    SplitFraction {
        /// The value given.
        found: f64,
    },

    /// A vocabulary size that byte-level BPE cannot have.
    #[error(
        "vocabulary size {found}: must be at least {minimum} (256 bytes and the control tokens) and at most {maximum}"
    )]
    VocabularySize {
        /// The value given.
        found: usize,
        /// The smallest possible.
        minimum: usize,
        /// The largest allowed.
        maximum: usize,
    },
    /// Too little text for the vocabulary.
    #[error(
        "the text yields only {reached} of the {requested} tokens asked for; set a vocabulary of {reached} or less, or give more text"
    )]
    VocabularyShort {
        /// Tokens asked for.
        requested: usize,
        /// Tokens that the text yields.
        reached: usize,
    },
    /// A sample size that the trainer cannot count.
    #[error("tokenizer sample of {found} bytes: must be at least 1 and at most {maximum}")]
    SampleSize {
        /// The value given.
        found: u64,
        /// The largest allowed.
        maximum: u64,
    },
    /// A file that is not a tokenizer that this program can use.
    #[error("{path}: not a usable tokenizer.json: {message}")]
    TokenizerFormat {
        /// The file, or what the bytes were taken from.
        path: String,
        /// What is wrong.
        message: String,
    },
    /// A tokenizer without a control token at its place.
    #[error("{path}: control token `{token}` must have id {expected}, found {}; train a tokenizer with `casallm tokenizer train`", shown(*found))]
    TokenizerSpecial {
        /// The file.
        path: String,
        /// The control token.
        token: &'static str,
        /// The id that it must have.
        expected: u32,
        /// The id that it has, if any.
        found: Option<u32>,
    },
    /// A tokenizer that splits or normalises text in another way.
    #[error(
        "{path}: `{field}` is not the one that this program uses ({found}); train a tokenizer with `casallm tokenizer train`"
    )]
    TokenizerPipeline {
        /// The file.
        path: String,
        /// The field of tokenizer.json.
        field: &'static str,
        /// What it holds, shortened.
        found: String,
    },

    /// A tokenizer of another program that works in a way that this one does not know.
    #[error("{path}: `{field}` is {found}, which this program cannot follow; it reads {known}")]
    TokenizerForeign {
        /// The file.
        path: String,
        /// The field of tokenizer.json, or the key of the GGUF file.
        field: &'static str,
        /// What it holds, shortened.
        found: String,
        /// What is read.
        known: &'static str,
    },
    /// The tokenizer of an imported model where one of this program's own is needed.
    #[error(
        "this tokenizer has control tokens of its own ({found}), which pre-training does not know: it needs one of `casallm tokenizer train`; fine-tune the model instead (`casallm sft --model FOLDER`)"
    )]
    TokenizerNotOwn {
        /// The first of its control tokens.
        found: String,
    },
    /// A chat template that cannot be used, or refuses a conversation.
    #[error("chat template: {message}")]
    ChatTemplate {
        /// What is wrong, and what to do.
        message: String,
    },

    /// A file that does not start as a shard.
    #[error("{}: bad magic number {found}, expected {expected}: not a token shard; remove it and run the same command again", path.display())]
    ShardMagic {
        /// The shard.
        path: PathBuf,
        /// The number found.
        found: i32,
        /// The number of a shard.
        expected: i32,
    },
    /// A shard of an unknown layout.
    #[error("{}: shard version {found}, expected {expected}; remove the shard and run the same command again", path.display())]
    ShardVersion {
        /// The shard.
        path: PathBuf,
        /// The version found.
        found: i32,
        /// The version that the vocabulary asks for.
        expected: i32,
    },
    /// A shard that is shorter or longer than its header says.
    #[error("{}: {found} bytes, but its header promises {expected}: truncated or damaged; remove it and run the same command again", path.display())]
    ShardLength {
        /// The shard.
        path: PathBuf,
        /// Bytes that the header promises, itself included.
        expected: u64,
        /// Bytes in the file.
        found: u64,
    },
    /// A shard that disagrees with the manifest.
    #[error("{}: {found} tokens, but the manifest says {expected}; remove the shard and run the same command again", path.display())]
    ShardCount {
        /// The shard.
        path: PathBuf,
        /// Tokens by the manifest.
        expected: u64,
        /// Tokens by the header.
        found: u64,
    },
    /// A shard made with another tokenizer.
    #[error("{}: made with tokenizer {found}, but this run uses {expected}; restore that tokenizer, or remove the shards and run the same command again", path.display())]
    ShardTokenizer {
        /// The shard or its manifest.
        path: PathBuf,
        /// Fingerprint of the tokenizer in use.
        expected: String,
        /// Fingerprint in the file.
        found: String,
    },
    /// A shard made for another vocabulary.
    #[error("{}: made for a vocabulary of {found}, but this run uses {expected}; restore that tokenizer, or remove the shards and run the same command again", path.display())]
    ShardVocabulary {
        /// The shard or its manifest.
        path: PathBuf,
        /// Vocabulary in use.
        expected: usize,
        /// Vocabulary in the file.
        found: usize,
    },
    /// An id that the vocabulary does not have.
    #[error("{}: token {position} is {id}, outside the vocabulary of {vocab_size}: damaged; remove the shard and run the same command again", path.display())]
    ShardToken {
        /// The shard.
        path: PathBuf,
        /// Index of the token in the shard.
        position: u64,
        /// The id.
        id: u32,
        /// Ids in the vocabulary.
        vocab_size: usize,
    },
    /// A shard whose bytes changed since it was written.
    #[error("{}: checksum {found}, but the manifest says {expected}: damaged; remove the shard and run the same command again", path.display())]
    ShardChecksum {
        /// The shard.
        path: PathBuf,
        /// SHA-256 by the manifest, hexadecimal.
        expected: String,
        /// SHA-256 of the file, hexadecimal.
        found: String,
    },
    /// A manifest that cannot be used.
    #[error("{}: {message}; run `casallm tokenize` again", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A source name that cannot be a folder, or stands twice.
    #[error("source name `{name}`: {message}")]
    SourceName {
        /// The name.
        name: String,
        /// What is wrong.
        message: &'static str,
    },

    /// A setting of the loader that cannot be served.
    #[error("{field} is {found}: must be {expected}")]
    LoaderSetting {
        /// The setting.
        field: &'static str,
        /// The value given.
        found: String,
        /// What is allowed.
        expected: &'static str,
    },
    /// A source with fewer tokens than one row.
    #[error(
        "source `{source_name}` ({split}) has {tokens} tokens, but one row needs {needed}; {}",
        if *split == "val" {
            "raise data.validation_fraction (whole documents are held out), give more or shorter documents, or a shorter context"
        } else {
            "give more text or a shorter context"
        }
    )]
    SourceTooShort {
        /// The source.
        source_name: String,
        /// `train` or `val`.
        split: &'static str,
        /// Tokens in its shards.
        tokens: u64,
        /// Tokens in a row: context + 1.
        needed: u64,
    },
    /// A batch whose parts disagree.
    #[error("batch: {fault}")]
    BatchShape {
        /// What disagrees.
        fault: String,
    },
    // Chats.
    /// A chat record that has none of the known layouts.
    #[error(
        "{path}: row {row} is no conversation: it has {found}; expected `messages`, `conversations`, or `instruction` and `output`"
    )]
    ConversationLayout {
        /// File or data set.
        path: String,
        /// Row from 1.
        row: usize,
        /// The keys that exist, or the kind of value.
        found: String,
    },
    /// A field of a chat record that is missing or has another type.
    #[error("{path}: row {row}: `{field}` is {found}, expected {expected}")]
    ConversationField {
        /// File or data set.
        path: String,
        /// Row from 1.
        row: usize,
        /// The field, with its place in the list of turns.
        field: String,
        /// What it must be.
        expected: &'static str,
        /// What it is.
        found: &'static str,
    },
    /// A speaker that is neither person, model nor system.
    #[error("{path}: row {row}: `{field}` is `{found}`, expected system, user (or human) or assistant (or gpt)")]
    ConversationRole {
        /// File or data set.
        path: String,
        /// Row from 1.
        row: usize,
        /// The field, with its place in the list of turns.
        field: String,
        /// The speaker found.
        found: String,
    },
    /// A micro-batch that cannot hold one full conversation.
    #[error("batch of {batch_tokens} tokens is below the context of {context}; set it to {context} or more")]
    BatchBelowContext {
        /// Tokens of a micro-batch.
        batch_tokens: usize,
        /// Positions of the context.
        context: usize,
    },
    /// No conversation left to train on.
    #[error(
        "none of {given} conversations has an answer that fits the context of {context}; give chats with shorter turns or a longer context"
    )]
    NoConversations {
        /// Conversations given.
        given: usize,
        /// Positions of the context.
        context: usize,
    },
    /// A preference record without its two answers.
    #[error("{path}: row {row} is no preference pair: it has {found}; expected `chosen` and `rejected`")]
    PairLayout {
        /// File or data set.
        path: String,
        /// Row from 1.
        row: usize,
        /// The keys that exist, or the kind of value.
        found: String,
    },
    /// A micro-batch that cannot hold the two sequences of one pair.
    #[error("batch of {batch_tokens} tokens is below two sequences of the context of {context}; set it to {} or more", 2 * context)]
    BatchBelowPair {
        /// Tokens of a micro-batch.
        batch_tokens: usize,
        /// Positions of the context.
        context: usize,
    },
    /// No preference pair left to train on.
    #[error(
        "none of {given} preference pairs can be trained on within the context of {context} ({}); give pairs of two different answers to one prompt, shorter ones, or a longer context",
        dropped(counts)
    )]
    NoPairs {
        /// Pairs given.
        given: usize,
        /// Positions of the context.
        context: usize,
        /// How many were dropped, by reason.
        counts: BTreeMap<DropReason, usize>,
    },
    /// A field of the recipe's `[identity]` that cannot be said.
    #[error(
        "[identity] {field} is `{value}`: must be 1 to 200 characters of plain text, without line breaks, braces or angle brackets"
    )]
    IdentityField {
        /// `name`, `maker` or `description`.
        field: &'static str,
        /// The value given, shortened.
        value: String,
    },
    /// A share of identity conversations out of range.
    #[error("identity rate {rate}: must be from 0 to 0.9")]
    MixRate {
        /// The value given.
        rate: f64,
    },
}

impl Error {
    /// An [`Error::Io`], or [`Error::DiskFull`] where that is the reason.
    pub fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::DiskFull { path },
            _ => Error::Io { action, path, source },
        }
    }
}

fn in_line(line: Option<u64>) -> String {
    line.map(|line| format!(" (line {line})")).unwrap_or_default()
}

fn dropped(counts: &BTreeMap<DropReason, usize>) -> String {
    counts.iter().map(|(reason, count)| format!("{count}: {}", reason.name())).collect::<Vec<_>>().join("; ")
}

fn shown(id: Option<u32>) -> String {
    id.map_or("none".to_owned(), |id| id.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_disk_is_told_from_other_failures() {
        let full = Error::io("write", Path::new("a.bin"), io::ErrorKind::StorageFull.into());
        assert!(matches!(&full, Error::DiskFull { path } if path == Path::new("a.bin")));
        assert!(full.to_string().contains("a.bin") && full.to_string().contains("free some space"));
        let other = Error::io("read", Path::new("b"), io::ErrorKind::NotFound.into());
        assert!(other.to_string().starts_with("cannot read b: "));
    }

    #[test]
    fn message_names_file_value_and_remedy() {
        let error = Error::InvalidUtf8 { path: "x.jsonl".into(), offset: 7, line: Some(2) };
        assert_eq!(error.to_string(), "x.jsonl: invalid UTF-8 at byte 7 (line 2); convert the file to UTF-8");
        let error = Error::TokenizerSpecial { path: "t.json".into(), token: "<|user|>", expected: 4, found: None };
        assert!(error.to_string().contains("`<|user|>` must have id 4, found none"));
    }
}
