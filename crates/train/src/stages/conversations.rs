//! Conversations to fine-tune on: read, cleaned, mixed with the identity, split.

use std::path::Path;

use casallm_data::chat::Conversation;
use casallm_data::cleaning::{Cleaner, CleaningReport};
use casallm_data::conversations::{ConversationRecord, ReadReport, read_conversations};
use casallm_data::corpus;
use casallm_data::identity::{Identity, mix};
use casallm_data::packing::split;
use casallm_data::tokenizer::Tokenizer;
use serde::Serialize;

use super::{EMBEDDED, RunDir, StageObserver};
use crate::error::TrainError;
use crate::recipe::{Recipe, Sft, SftSource};
use crate::whole_file;

/// Conversations ready to be rendered.
#[derive(Clone, Debug)]
pub struct Conversations {
    /// To train on.
    pub train: Vec<Conversation>,
    /// To validate on.
    pub validation: Vec<Conversation>,
    /// What cleaning did.
    pub cleaning: CleaningReport,
    /// What reading found, by source.
    pub reading: Vec<(String, ReadReport)>,
    /// Who the model is taught to be.
    pub identity: Option<Identity>,
}

impl Conversations {
    /// XXH3-128 of what is trained on, as ids of `tokenizer` would stand for it: a stage that is resumed must find the
    /// same.
    pub fn fingerprint(&self, tokenizer: &Tokenizer) -> String {
        let mut hash = xxhash_rust::xxh3::Xxh3::new();
        hash.update(tokenizer.fingerprint().as_bytes());
        for message in self.train.iter().flat_map(|conversation| &conversation.messages) {
            hash.update(&[message.role as u8]);
            hash.update(&(message.content.len() as u64).to_le_bytes());
            hash.update(message.content.as_bytes());
        }
        format!("{:032x}", hash.digest128())
    }
}

/// The identity of a recipe, checked.
pub(super) fn identity(recipe: &Recipe) -> Result<Option<Identity>, TrainError> {
    let checked = |i: &crate::recipe::Identity| Identity::new(&i.name, &i.maker, &i.description);
    Ok(recipe.identity.as_ref().map(checked).transpose()?)
}

fn read(recipe: &Recipe, source: &SftSource) -> Result<(Vec<ConversationRecord>, ReadReport), TrainError> {
    let (mut records, report) = if let Some(name) = source.path.strip_prefix(EMBEDDED) {
        if name != "chat" {
            return Err(TrainError::RecipeNoFiles {
                file: recipe.file.clone(),
                key: format!("data.sft.{}.path", source.name),
                found: source.path.clone(),
                remedy: "embedded conversations are: embedded:chat".to_owned(),
            });
        }
        corpus::conversations()?
    } else {
        let mut all = (Vec::new(), ReadReport::default());
        for file in recipe.sft_files(source)? {
            let (records, report) = read_conversations(&file)?;
            all.0.extend(records);
            all.1.rows += report.rows;
            all.1.conversations += report.conversations;
            all.1.messages += report.messages;
            all.1.empty_answers += report.empty_answers;
            all.1.without_answer += report.without_answer;
            all.1.touched.extend(report.touched);
        }
        all
    };
    if let Some(limit) = source.max_rows {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        sample(&mut records, limit, recipe.data.seed, |record| (&record.source, record.row));
    }
    Ok((records, report))
}

/// Keeps `limit` records, chosen by a hash of their row and the seed, in their order: files often come sorted.
/// `place` gives a record's source and row.
pub(super) fn sample<T>(records: &mut Vec<T>, limit: usize, seed: u64, place: impl Fn(&T) -> (&str, usize)) {
    let key = |record: &T| {
        let (source, row) = place(record);
        xxhash_rust::xxh3::xxh3_64_with_seed(format!("{source} {row}").as_bytes(), seed)
    };
    if limit < records.len() {
        let mut keys: Vec<u64> = records.iter().map(key).collect();
        keys.sort_unstable();
        let bound = keys.get(limit).copied().unwrap_or(u64::MAX);
        records.retain(|record| key(record) < bound);
    }
}

/// Reads, cleans and splits all conversations of a recipe; nothing of the identity is among them.
///
/// # Errors
/// The data cannot be read.
pub(super) fn cleaned(recipe: &Recipe, observer: &mut dyn StageObserver) -> Result<Conversations, TrainError> {
    const TASK: &str = "conversations";
    let identity = identity(recipe)?;
    let mut records = Vec::new();
    let mut reading = Vec::new();
    for (i, source) in recipe.data.sft.iter().enumerate() {
        observer.progress(TASK, "sources", i as u64, Some(recipe.data.sft.len() as u64));
        let (found, report) = read(recipe, source)?;
        records.extend(found);
        reading.push((source.name.clone(), report));
    }
    let (records, cleaning) = Cleaner::new(identity.as_ref()).clean(records);
    let conversations = records.into_iter().map(|r| r.conversation).collect();
    let (train, validation) = split(conversations, recipe.data.validation_fraction, recipe.data.seed);
    observer.finished(TASK);
    Ok(Conversations { train, validation, cleaning, reading, identity })
}

/// Reads, cleans and mixes all conversations of a recipe, and writes what cleaning did beside the run.
///
/// # Errors
/// The data cannot be read, or the disk refuses the report.
pub fn gather(
    recipe: &Recipe,
    sft: &Sft,
    dir: &RunDir,
    observer: &mut dyn StageObserver,
) -> Result<Conversations, TrainError> {
    let mut found = cleaned(recipe, observer)?;
    write_report(&dir.cleaning(), &found.cleaning)?;
    // Only the training part is taught the identity: validation measures talk.
    if let Some(identity) = &found.identity {
        found.train = mix(found.train, identity, sft.identity_rate, recipe.data.seed)?;
    }
    Ok(found)
}

/// Writes what became of the data beside the run.
pub(super) fn write_report(path: &Path, report: &impl Serialize) -> Result<(), TrainError> {
    let json = serde_json::to_vec_pretty(report)
        .map_err(|e| TrainError::RunState { path: path.to_owned(), reason: e.to_string() })?;
    whole_file::replace(path, &json)
}
