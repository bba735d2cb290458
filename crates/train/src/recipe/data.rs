//! `[identity]`, `[tokenizer]` and `[data]`.

use std::collections::BTreeSet;

use casallm_data::curation::{Curation, Duplicates};
use casallm_data::tokenizer::Digits;
use serde::{Serialize, Serializer};

use super::keeping::Keeping;
use super::optimization::is_default;
use super::section::{Interval, Section};
use crate::error::TrainError;

/// Smallest vocabulary: 256 bytes and six control tokens.
const MIN_VOCAB: usize = 262;
const MAX_VOCAB: usize = 1 << 24;
const MAX_SEED: u64 = i64::MAX as u64;

/// Who the chatbot is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Identity {
    /// Its name.
    pub name: String,
    /// Who made it.
    pub maker: String,
    /// A noun phrase: "a small language model trained at home".
    pub description: String,
}

impl Identity {
    /// `is_said`: there is a stage that teaches it.
    pub(super) fn read(section: &Section<'_>, is_said: bool) -> Result<Self, TrainError> {
        let field = |key: &str, remedy: &str| section.require(key, section.text(key)?, remedy);
        let identity = Self {
            name: field("name", "write the name the chatbot should give, like name = \"Casa\"")?,
            maker: field("maker", "write who made it, like maker = \"Ada Lovelace\"")?,
            description: field(
                "description",
                "write what it is, like description = \"a small language model trained at home\"",
            )?,
        };
        // Fine-tuning, which says these, comes after hours of pre-training.
        let Self { name, maker, description } = &identity;
        match casallm_data::identity::Identity::new(name, maker, description) {
            Err(casallm_data::error::Error::IdentityField { field, value }) if is_said => Err(section.bad(
                field,
                format!("{value:?}"),
                "use 1 to 200 characters of plain text, without line breaks, braces or angle brackets",
            )),
            _ => Ok(identity),
        }
    }
}

/// The vocabulary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tokenizer {
    /// Tokens, the control tokens included.
    pub vocab_size: usize,
    /// Bytes of training text that the merges are learned from, drawn from all of it by `data.seed`.
    pub sample_bytes: u64,
    /// How many digits are a word, at most.
    #[serde(skip_serializing_if = "is_default", serialize_with = "as_number")]
    pub digits: Digits,
}

impl Tokenizer {
    /// `imported`: of a model that was trained elsewhere, whose vocabulary may lack bytes.
    pub(super) fn read(section: &Section<'_>, imported: bool) -> Result<Self, TrainError> {
        let least = if imported { 1 } else { MIN_VOCAB };
        Ok(Self {
            vocab_size: section.size("vocab_size", least, MAX_VOCAB)?.unwrap_or(40_960),
            sample_bytes: section.integer("sample_bytes", 1, 1 << 50)?.unwrap_or(200_000_000),
            digits: match section.integer("digits", 1, 3)? {
                Some(1) => Digits::One,
                Some(2) => Digits::Two,
                _ => Digits::Three,
            },
        })
    }
}

fn as_number<S: Serializer>(digits: &Digits, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(digits.number() as u64)
}

/// Documents to pre-train on.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PretrainSource {
    /// What reports call it.
    pub name: String,
    /// A file, a folder, or a pattern with `*`; relative to the recipe's folder. The endings of the names tell what is in
    /// the files.
    pub path: String,
    /// Column or key that holds the text.
    pub text_field: String,
    /// Which documents are kept.
    #[serde(flatten)]
    pub keeping: Keeping,
    /// Its share of the rows, relative to the others and whatever their sizes.
    pub weight: f64,
}

/// Conversations to fine-tune on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SftSource {
    /// What reports call it.
    pub name: String,
    /// A file, a folder, or a pattern with `*`; relative to the recipe's folder. The keys of each row tell its layout.
    pub path: String,
    /// Most conversations taken, a sample by the seed; `None` takes all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_rows: Option<u64>,
}

/// Preference pairs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DpoSource {
    /// What reports call it.
    pub name: String,
    /// A file, a folder, or a pattern with `*`; relative to the recipe's folder. The keys of each row tell its layout.
    pub path: String,
    /// Whether its pairs are only ever validated on.
    pub held_out: bool,
    /// Most pairs taken, a sample by the seed; `None` takes all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_rows: Option<u64>,
}

fn is_usual_memory(bytes: &u64) -> bool {
    *bytes == Curation::default().memory
}

/// What is learned from.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Data {
    /// Share of the documents that is only ever validated on.
    pub validation_fraction: f64,
    /// Seed of the split and of the order.
    pub seed: u64,
    /// Files, folders or patterns of evaluation sets, relative to the recipe's folder: documents that hold a piece of them are
    /// dropped.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub decontaminate: Vec<String>,
    /// Whether what an earlier source holds is dropped from the later ones.
    #[serde(skip_serializing_if = "is_default")]
    pub duplicates_across_sources: bool,
    /// Most bytes for remembering documents, by which repetitions are told. No result depends on it.
    #[serde(skip_serializing_if = "is_usual_memory")]
    pub duplicates_memory: u64,
    /// Documents.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pretrain: Vec<PretrainSource>,
    /// Conversations.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sft: Vec<SftSource>,
    /// Preference pairs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dpo: Vec<DpoSource>,
}

impl Data {
    pub(super) fn read(section: &Section<'_>) -> Result<Self, TrainError> {
        let pretrain = section.sections("pretrain")?;
        let sft = section.sections("sft")?;
        let dpo = section.sections("dpo")?;
        for sources in [&pretrain, &sft, &dpo] {
            distinct_names(sources)?;
        }
        let pretrain: Vec<_> = pretrain.iter().map(PretrainSource::read).collect::<Result<_, _>>()?;
        let across = section.boolean("duplicates_across_sources")?.unwrap_or(false);
        let dropped = |source: &PretrainSource| source.keeping.duplicates();
        if across && pretrain.iter().any(|s| dropped(s) == Duplicates::Kept || dropped(s) != dropped(&pretrain[0])) {
            return Err(section.bad(
                "duplicates_across_sources",
                true,
                "give every [[data.pretrain]] the same drop_duplicates, \"exact\" or \"near\", and the same similarity",
            ));
        }
        Ok(Self {
            validation_fraction: section.number("validation_fraction", Interval::INSIDE_UNIT)?.unwrap_or(0.015),
            seed: section.integer("seed", 0, MAX_SEED)?.unwrap_or(1),
            decontaminate: section.text_or_texts("decontaminate")?.unwrap_or_default(),
            duplicates_across_sources: across,
            duplicates_memory: section
                .integer("duplicates_memory", 1 << 20, 1 << 50)?
                .unwrap_or(Curation::default().memory),
            pretrain,
            sft: sft.iter().map(SftSource::read).collect::<Result<_, _>>()?,
            dpo: dpo.iter().map(DpoSource::read).collect::<Result<_, _>>()?,
        })
    }
}

impl PretrainSource {
    fn read(section: &Section<'_>) -> Result<Self, TrainError> {
        Ok(Self {
            name: source_name(section)?,
            path: source_path(section)?,
            text_field: section.text("text_field")?.unwrap_or_else(|| "text".to_owned()),
            keeping: Keeping::read(section)?,
            weight: section.number("weight", Interval::POSITIVE)?.unwrap_or(1.0),
        })
    }
}

impl SftSource {
    fn read(section: &Section<'_>) -> Result<Self, TrainError> {
        Ok(Self {
            name: source_name(section)?,
            path: source_path(section)?,
            max_rows: section.integer("max_rows", 1, MAX_SEED)?,
        })
    }
}

impl DpoSource {
    fn read(section: &Section<'_>) -> Result<Self, TrainError> {
        Ok(Self {
            name: source_name(section)?,
            path: source_path(section)?,
            held_out: section.boolean("held_out")?.unwrap_or(false),
            max_rows: section.integer("max_rows", 1, MAX_SEED)?,
        })
    }
}

/// Names become file names of shards and keys of metrics.
fn source_name(section: &Section<'_>) -> Result<String, TrainError> {
    let name = section.require("name", section.text("name")?, "name the source, like name = \"fineweb\"")?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !name.chars().all(allowed) || name.starts_with('.') || name.len() > 64 {
        return Err(section.bad(
            "name",
            format!("{name:?}"),
            "use at most 64 letters, digits, `-`, `_` and `.`, the first not a `.`: it becomes a file name",
        ));
    }
    Ok(name)
}

fn source_path(section: &Section<'_>) -> Result<String, TrainError> {
    section.require("path", section.text("path")?, "write a file, a folder, or a pattern like \"books/*.txt\"")
}

fn distinct_names(sections: &[Section<'_>]) -> Result<(), TrainError> {
    let mut seen = BTreeSet::new();
    for section in sections {
        let name = source_name(section)?;
        // Two names that differ in case only are one file on some systems.
        if !seen.insert(name.to_lowercase()) {
            return Err(section.bad(
                "name",
                format!("{name:?}"),
                "another source has this name: choose a different one",
            ));
        }
    }
    Ok(())
}
