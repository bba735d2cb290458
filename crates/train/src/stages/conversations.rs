//! Conversations to fine-tune on: read, cleaned, split, mixed with the identity and with system prompts.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::path::Path;

use casallm_data::chat::{ChatTemplate, Conversation};
use casallm_data::cleaning::{Cleaner, CleaningReport};
use casallm_data::conversations::{ConversationRecord, ReadReport, read_conversations};
use casallm_data::corpus;
use casallm_data::identity::{Identity, mix};
use casallm_data::lengths::Lengths;
use casallm_data::packing::{FitReport, split};
use casallm_data::system_prompts;
use casallm_data::tokenizer::Tokenizer;
use serde::Serialize;

use super::{EMBEDDED, StageObserver, all_held_out};
use crate::error::TrainError;
use crate::feed::SftFeed;
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
    pub sources: Vec<SourceReport>,
    /// Who the model is taught to be.
    pub identity: Option<Identity>,
    /// Left out of those to train on: they ask what the model is asked at its examination on the identity.
    pub examined: usize,
    /// Conversations to train on before the identity was mixed in.
    pub before_identity: usize,
    /// System messages mixed in.
    pub system_prompts: usize,
}

/// What was found in a source and taken from it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SourceReport {
    /// Its name.
    pub name: String,
    /// Rows read.
    pub rows: usize,
    /// Rows with an answer.
    pub with_answer: usize,
    /// Of those, the sample that was taken.
    pub taken: usize,
    /// Empty answers dropped, each with the question before it.
    pub empty_answers: usize,
    /// File and row (from 1) of each row that lost something.
    pub touched: Vec<(String, usize)>,
}

/// What the conversations of a fine-tuning are made of, for `conversations.json` and whoever looks at data.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ConversationsReport {
    /// What was found in each source.
    pub sources: Vec<SourceReport>,
    /// Messages that cleaning touched, by rule; which they are stands in `cleaning.json`.
    pub cleaned: BTreeMap<&'static str, usize>,
    /// Conversations that cleaning left nothing of.
    pub cleaned_away: usize,
    /// Conversations held out for validation.
    pub held_out: usize,
    /// Left out of those to train on: they ask what the model is asked at its examination on the identity.
    pub examined: usize,
    /// Conversations to train on before the identity was mixed in.
    pub before_identity: usize,
    /// Conversations with a system message that was mixed in.
    pub system_prompts: usize,
    /// Conversations to train on.
    pub conversations: usize,
    /// Messages in them.
    pub turns: usize,
    /// What became of those that do not fit the context.
    pub fit: FitReport,
    /// Tokens of one pass.
    pub tokens: usize,
    /// Those that are learned.
    pub supervised: usize,
    /// Tokens of a conversation, as it is trained on.
    pub lengths: Lengths,
    /// Learned tokens of a conversation.
    pub supervised_lengths: Lengths,
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

    /// What they are made of, and what they become in `feed`.
    pub fn report(&self, feed: &SftFeed, fit: &FitReport) -> ConversationsReport {
        let mut cleaned: BTreeMap<&'static str, usize> = BTreeMap::new();
        for touched in &self.cleaning.touched {
            *cleaned.entry(touched.rule).or_default() += 1;
        }
        let set = feed.set();
        ConversationsReport {
            sources: self.sources.clone(),
            cleaned,
            cleaned_away: self.cleaning.dropped_conversations,
            held_out: self.validation.len(),
            examined: self.examined,
            before_identity: self.before_identity,
            system_prompts: self.system_prompts,
            conversations: self.train.len(),
            turns: self.train.iter().map(|conversation| conversation.messages.len()).sum(),
            fit: fit.clone(),
            tokens: set.tokens(),
            supervised: set.supervised_tokens(),
            lengths: Lengths::of(set.lengths().map(|(ids, _)| ids)),
            supervised_lengths: Lengths::of(set.lengths().map(|(_, learned)| learned)),
        }
    }
}

/// The identity of a recipe, checked.
pub(super) fn identity(recipe: &Recipe) -> Result<Option<Identity>, TrainError> {
    let checked = |i: &crate::recipe::Identity| Identity::new(&i.name, &i.maker, &i.description);
    Ok(recipe.identity.as_ref().map(checked).transpose()?)
}

fn read(recipe: &Recipe, source: &SftSource) -> Result<(Vec<ConversationRecord>, SourceReport), TrainError> {
    let mut report = SourceReport { name: source.name.clone(), ..SourceReport::default() };
    let mut count = |of: &str, read: ReadReport| {
        report.rows += read.rows;
        report.with_answer += read.conversations;
        report.empty_answers += read.empty_answers;
        report.touched.extend(read.touched.into_iter().map(|row| (of.to_owned(), row)));
    };
    let mut records = if let Some(name) = source.path.strip_prefix(EMBEDDED) {
        if name != "chat" {
            return Err(TrainError::RecipeNoFiles {
                file: recipe.file.clone(),
                key: format!("data.sft.{}.path", source.name),
                found: source.path.clone(),
                remedy: "embedded conversations are: embedded:chat".to_owned(),
            });
        }
        let (records, read) = corpus::conversations()?;
        count(&source.path, read);
        records
    } else {
        let mut all = Vec::new();
        for file in recipe.sft_files(source)? {
            let (records, read) = read_conversations(&file)?;
            count(&file.display().to_string(), read);
            all.extend(records);
        }
        all
    };
    if let Some(limit) = source.max_rows {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        sample(&mut records, limit, recipe.data.seed, |record| (&record.source, record.row));
    }
    report.taken = records.len();
    Ok((records, report))
}

/// Keeps `limit` records, chosen by a hash of their file's name, their row and the seed, in their order: files often come
/// sorted. `place` gives a record's file and row. Where the file lies does not matter.
pub(super) fn sample<T>(records: &mut Vec<T>, limit: usize, seed: u64, place: impl Fn(&T) -> (&str, usize)) {
    let key = |record: &T| {
        let (source, row) = place(record);
        let name = Path::new(source).file_name().map_or(source.into(), |name| name.to_string_lossy());
        xxhash_rust::xxh3::xxh3_64_with_seed(format!("{name} {row}").as_bytes(), seed)
    };
    if limit < records.len() {
        let mut keys: Vec<u64> = records.iter().map(key).collect();
        keys.sort_unstable();
        let bound = keys.get(limit).copied().unwrap_or(u64::MAX);
        // Files of one name in several folders share their keys: of those at the bound the first are taken.
        let mut at_bound = limit - keys.partition_point(|key| *key < bound);
        records.retain(|record| match key(record).cmp(&bound) {
            Ordering::Less => true,
            Ordering::Equal if at_bound > 0 => {
                at_bound -= 1;
                true
            }
            _ => false,
        });
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
    let mut sources = Vec::new();
    for (i, source) in recipe.data.sft.iter().enumerate() {
        observer.progress(TASK, "sources", i as u64, Some(recipe.data.sft.len() as u64));
        let (found, report) = read(recipe, source)?;
        records.extend(found);
        sources.push(report);
    }
    let (records, cleaning) = Cleaner::new(identity.as_ref()).clean(records);
    let conversations = records.into_iter().map(|r| r.conversation).collect();
    let (train, validation) = split(conversations, recipe.data.validation_fraction, recipe.data.seed);
    observer.finished(TASK);
    let before_identity = train.len();
    Ok(Conversations {
        train,
        validation,
        cleaning,
        sources,
        identity,
        examined: 0,
        before_identity,
        system_prompts: 0,
    })
}

/// Reads, cleans and mixes all conversations of a recipe, for a model of this chat template.
///
/// # Errors
/// The data cannot be read.
pub(super) fn gather(
    recipe: &Recipe,
    sft: &Sft,
    template: &ChatTemplate,
    observer: &mut dyn StageObserver,
) -> Result<Conversations, TrainError> {
    let mut found = cleaned(recipe, observer)?;
    if found.train.is_empty() && !found.validation.is_empty() {
        let of = ("data.validation_fraction", recipe.data.validation_fraction);
        let count = found.validation.len() as u64;
        return Err(all_held_out(recipe, of, ("conversation", "give more conversations"), count));
    }
    let seed = recipe.data.seed;
    // Only the training part is taught the identity: validation measures talk.
    if let Some(identity) = &found.identity {
        (found.train, found.examined) = mix(found.train, identity, sft.identity_rate, seed)?;
        found.before_identity -= found.examined;
    }
    if template.takes_system() {
        found.system_prompts = system_prompts::mix(&mut found.train, found.identity.as_ref(), sft.system_rate, seed)?;
    } else if sft.system_rate > 0.0 {
        // The template would refuse every conversation that got one.
        observer.note("the model takes no system message: none is mixed in, whatever sft.system_rate says");
    }
    Ok(found)
}

/// Writes what became of the data beside the run.
pub(super) fn write_report(path: &Path, report: &impl Serialize) -> Result<(), TrainError> {
    let json = serde_json::to_vec_pretty(report)
        .map_err(|e| TrainError::RunState { path: path.to_owned(), reason: e.to_string() })?;
    whole_file::replace(path, &json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_one_name_give_a_sample_of_the_whole_size() {
        for limit in 0..60 {
            let folders = (0..5).flat_map(|folder| (1..=10).map(move |row| (format!("{folder}/train.jsonl"), row)));
            let mut records: Vec<(String, usize)> = folders.collect();
            sample(&mut records, limit, 3, |(source, row)| (source, *row));
            assert_eq!(records.len(), limit.min(50));
            assert!(records.is_sorted());
        }
    }
}
