//! Flags of `tokenizer train` and `tokenize`.

use std::path::PathBuf;

use anyhow::{Result, bail};
use casallm_data::curation::{Duplicates, Filter};
use casallm_data::source::SourceOptions;
use clap::{Args, Subcommand, ValueEnum};

use crate::args::{Output, memory_size};

/// `tokenizer` commands.
#[derive(Debug, Subcommand)]
pub enum TokenizerCommand {
    /// Learn a byte-level BPE vocabulary from text
    Train(TokenizerTrain),
}

/// Flags of `tokenizer train`.
#[derive(Debug, Args)]
pub struct TokenizerTrain {
    /// Files, folders or patterns of text: txt, jsonl, json, parquet; plain, .gz or .zst
    #[arg(required = true)]
    pub input: Vec<PathBuf>,
    /// Where the tokenizer.json goes
    #[arg(long, short)]
    pub output: PathBuf,
    /// Tokens in all, the six control tokens included
    #[arg(long, default_value_t = 40_960)]
    pub vocab_size: usize,
    /// Key or column that holds the text
    #[arg(long, default_value = "text")]
    pub text_field: String,
    /// Bytes of text to learn from, drawn from all of it; they are held in memory
    #[arg(long, default_value_t = 1_000_000_000)]
    pub sample_bytes: u64,
    /// Seed of the sample
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Which documents are learned from.
    #[command(flatten)]
    pub filter: FilterFlags,
    /// Digits of a word, at most: 1, 2 or 3. llama.cpp knows no way with 2 and cuts long numbers of such models in another
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=3))]
    pub digits: u8,
    /// What to print.
    #[command(flatten)]
    pub console: Output,
}

/// Flags of `tokenize`.
#[derive(Debug, Args)]
pub struct Tokenize {
    /// Files, folders or patterns of text: txt, jsonl, json, parquet; plain, .gz or .zst
    #[arg(required = true)]
    pub input: Vec<PathBuf>,
    /// The tokenizer.json
    #[arg(long, short)]
    pub tokenizer: PathBuf,
    /// Folder for the shards and their manifest
    #[arg(long, short)]
    pub output: PathBuf,
    /// Name of the source in reports
    #[arg(long, default_value = "text")]
    pub name: String,
    /// Key or column that holds the text
    #[arg(long, default_value = "text")]
    pub text_field: String,
    /// Share of the documents held out for validation
    #[arg(long, default_value_t = 0.015)]
    pub validation_fraction: f64,
    /// Seed of the split
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// A shard ends with the document that brings it to so many tokens
    #[arg(long, default_value_t = 100_000_000)]
    pub shard_tokens: u64,
    /// Which documents are kept.
    #[command(flatten)]
    pub filter: FilterFlags,
    /// Which repetitions are dropped.
    #[command(flatten)]
    pub duplicates: DuplicateFlags,
    /// Drop documents that share 13 words in a row with these evaluation sets: files, folders or patterns (may be given again)
    #[arg(long, value_name = "PATH")]
    pub decontaminate: Vec<PathBuf>,
    /// What to print.
    #[command(flatten)]
    pub console: Output,
}

/// What is asked of each document by itself.
#[derive(Debug, Args)]
pub struct FilterFlags {
    /// Keep documents of this language, as it stands in the text's record: en (may be given again)
    #[arg(long)]
    pub language: Vec<String>,
    /// Key or column that holds the language
    #[arg(long, default_value = "language")]
    pub language_field: String,
    /// Keep documents with at least this score
    #[arg(long, allow_negative_numbers = true)]
    pub min_score: Option<f64>,
    /// Key or column that holds the score
    #[arg(long, default_value = "score")]
    pub score_field: String,
    /// Keep documents of at least so many characters
    #[arg(long)]
    pub min_chars: Option<u64>,
    /// Keep documents of at most so many characters
    #[arg(long)]
    pub max_chars: Option<u64>,
}

impl FilterFlags {
    /// As the stream is asked.
    pub(super) fn filter(&self) -> Filter {
        let Self { language, min_score, min_chars, max_chars, .. } = self;
        Filter { languages: language.clone(), min_score: *min_score, min_chars: *min_chars, max_chars: *max_chars }
    }

    /// How texts are read so that it can be asked.
    pub(super) fn reading(&self, text_field: &str) -> SourceOptions {
        self.filter().reading(text_field, &self.language_field, &self.score_field)
    }
}

/// From which similarity on a document is nearly another, where nothing else is said.
const SIMILARITY: f64 = 0.8;

/// Which repetitions are dropped.
#[derive(Debug, Args)]
pub struct DuplicateFlags {
    /// Drop documents that were there before
    #[arg(long, value_enum, default_value_t = DuplicateKind::None)]
    pub drop_duplicates: DuplicateKind,
    /// Jaccard similarity, of runs of five words, from which a document is nearly another, of --drop-duplicates near: 0.7 to 1
    /// [default: 0.8]
    #[arg(long)]
    pub similarity: Option<f64>,
    /// Most memory for remembering documents, like 16GB: each that is kept takes up to 43 bytes with exact, 343 with near
    #[arg(long, default_value = "4GB", value_parser = memory_size)]
    pub duplicates_memory: u64,
}

/// Kinds of repetitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DuplicateKind {
    /// Keep all
    None,
    /// The same but for white space
    Exact,
    /// Those, and nearly the same: MinHash of runs of five words
    Near,
}

impl DuplicateFlags {
    /// As the stream is asked.
    pub(super) fn duplicates(&self) -> Result<Duplicates> {
        let near = self.drop_duplicates == DuplicateKind::Near;
        if let Some(similarity) = self.similarity.filter(|_| !near) {
            bail!(
                "--similarity {similarity}: nothing is compared by it without --drop-duplicates near; add that, or leave it out"
            );
        }
        Ok(match self.drop_duplicates {
            DuplicateKind::None => Duplicates::Kept,
            DuplicateKind::Exact => Duplicates::Exact,
            DuplicateKind::Near => Duplicates::Near(self.similarity.unwrap_or(SIMILARITY)),
        })
    }
}
