//! [`Manifest`]: what a folder of shards holds. Written by `tokenize` after every shard, read by `set`.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::curation::{Report, Rules};
use crate::durable;
use crate::error::Error;
use crate::split::Split;

/// Name of the manifest in the folder of a source.
pub const MANIFEST_FILE: &str = "manifest.json";

/// Layout of the manifest.
const VERSION: u32 = 1;

/// Contents of `manifest.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Layout of this file.
    pub version: u32,
    /// Name of the source.
    pub source: String,
    /// What the shards were made from, as the caller described it: other inputs are tokenised anew.
    pub inputs: String,
    /// Fingerprint of the tokenizer.
    pub tokenizer: String,
    /// Ids in the tokenizer's vocabulary.
    pub vocab_size: usize,
    /// Share of documents held out.
    pub validation_fraction: f64,
    /// Seed of the split.
    pub split_seed: u64,
    /// A shard is closed at the end of the document that brings it to this many tokens.
    pub shard_tokens: u64,
    /// Which documents were kept.
    #[serde(default, skip_serializing_if = "Rules::are_none")]
    pub rules: Rules,
    /// False while shards are still to come.
    pub complete: bool,
    /// Documents in all shards.
    pub documents: u64,
    /// Tokens in all shards.
    pub tokens: u64,
    /// What was read, dropped and kept; there when it is complete. Not in manifests of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<Report>,
    /// The shards, in the order in which they were finished.
    pub shards: Vec<ShardEntry>,
}

/// One shard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShardEntry {
    /// Name in the folder.
    pub file: String,
    /// Train or validation.
    pub split: Split,
    /// Documents.
    pub documents: u64,
    /// Tokens, `<s>` and `</s>` included.
    pub tokens: u64,
    /// Bytes of text, for bits per byte.
    pub bytes: u64,
    /// SHA-256 of the file, hexadecimal.
    pub sha256: String,
    /// Place in the stream of documents after the last one in this shard: where a continued run takes up this split.
    pub next_document: u64,
}

impl Manifest {
    /// An empty manifest of this layout.
    pub(super) fn new(source: &str) -> Self {
        Self {
            version: VERSION,
            source: source.to_owned(),
            inputs: String::new(),
            tokenizer: String::new(),
            vocab_size: 0,
            validation_fraction: 0.0,
            split_seed: 0,
            shard_tokens: 0,
            rules: Rules::default(),
            complete: false,
            documents: 0,
            tokens: 0,
            report: None,
            shards: Vec::new(),
        }
    }

    /// Reads the manifest of a folder.
    ///
    /// # Errors
    /// [`Error::Manifest`] when it is missing, is no manifest, is of another layout, or names files outside the folder.
    pub fn load(folder: &Path) -> Result<Self, Error> {
        let path = folder.join(MANIFEST_FILE);
        let fault = |message: String| Error::Manifest { path: path.clone(), message };
        let bytes = std::fs::read(&path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => fault("there are no shards here".to_owned()),
            _ => Error::io("read", &path, e),
        })?;
        let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|e| fault(e.to_string()))?;
        if manifest.version != VERSION {
            return Err(fault(format!("layout {}, expected {VERSION}", manifest.version)));
        }
        let outside = manifest.shards.iter().find(|s| Path::new(&s.file).file_name() != Some(s.file.as_ref()));
        match outside {
            Some(entry) => Err(fault(format!("`{}` is not a file name", entry.file))),
            None => Ok(manifest),
        }
    }

    /// XXH3-128 of what the documents come from and which of them were kept: names them for [`Curation::earlier`].
    ///
    /// # Errors
    /// [`Error::Manifest`], which does not happen.
    ///
    /// [`Curation::earlier`]: crate::curation::Curation::earlier
    pub fn origin(&self) -> Result<String, Error> {
        let text = serde_json::to_vec(&(&self.inputs, &self.rules))
            .map_err(|e| Error::Manifest { path: self.source.clone().into(), message: e.to_string() })?;
        Ok(format!("{:032x}", xxhash_rust::xxh3::xxh3_128(&text)))
    }

    /// Writes the manifest of a folder, visible only when whole.
    pub(super) fn save(&self, folder: &Path) -> Result<(), Error> {
        let path = folder.join(MANIFEST_FILE);
        let text = serde_json::to_string_pretty(self)
            .map_err(|e| Error::Manifest { path: path.clone(), message: e.to_string() })?;
        durable::write_file(&path, text.as_bytes())
    }

    /// The shards of one side, in order.
    pub fn of_split(&self, split: Split) -> impl Iterator<Item = &ShardEntry> {
        self.shards.iter().filter(move |shard| shard.split == split)
    }

    /// Tokens of one side.
    pub fn tokens_of(&self, split: Split) -> u64 {
        self.of_split(split).map(|shard| shard.tokens).sum()
    }

    /// Bytes of text of one side.
    pub fn bytes_of(&self, split: Split) -> u64 {
        self.of_split(split).map(|shard| shard.bytes).sum()
    }

    /// Documents of one side.
    pub fn documents_of(&self, split: Split) -> u64 {
        self.of_split(split).map(|shard| shard.documents).sum()
    }
}
