//! Documents to tokenizer and shards.

use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;

use casallm_data::Error as DataError;
use casallm_data::corpus::{self, EmbeddedSource, Kind};
use casallm_data::curation::{Curation, EvalSets, Seen};
use casallm_data::shards::{Manifest, ShardOptions, ShardSet, finished, tokenize_after};
use casallm_data::source::{
    Document, fingerprint_embedded, fingerprint_files, open_documents_in, open_embedded, sample,
};
use casallm_data::split::{Split, SplitRule};
use casallm_data::tokenizer::{Tokenizer, TrainOptions};

use super::{EMBEDDED, RunDir, StageObserver, all_held_out};
use crate::error::TrainError;
use crate::interrupt::Interrupt;
use crate::recipe::{PretrainSource, Recipe, Stage};

/// A stream of documents that may be handed to another thread.
type Documents = Box<dyn Iterator<Item = Result<Document, DataError>> + Send>;

/// A source, tokenised.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// Its name.
    pub name: String,
    /// Its share of rows.
    pub weight: f64,
    /// What is in its shards.
    pub manifest: Manifest,
}

/// Opens a source. There may be hours of text in it: an interruption ends it.
fn open(recipe: &Recipe, source: &PretrainSource, interrupt: &Interrupt) -> Result<Documents, TrainError> {
    let options = source.keeping.reading(&source.text_field);
    let documents: Documents = match embedded(recipe, source)? {
        Some(found) => Box::new(open_embedded(found.file, found.bytes, &options)?),
        None => Box::new(open_documents_in(&recipe.pretrain_files(source)?, &options)?),
    };
    let interrupt = interrupt.clone();
    let until = move |document| if interrupt.requested() { Err(DataError::Stopped) } else { document };
    Ok(Box::new(documents.map(until)))
}

/// What a source is made from, by which a later run knows whether to begin anew; `like` as in [`fingerprint_files`].
fn inputs(recipe: &Recipe, source: &PretrainSource, like: Option<&str>) -> Result<String, TrainError> {
    let options = source.keeping.reading(&source.text_field);
    match embedded(recipe, source)? {
        Some(found) => Ok(fingerprint_embedded(found.file, found.bytes, &options)),
        None => Ok(fingerprint_files(&recipe.pretrain_files(source)?, &options, like)?),
    }
}

/// The source among those that the program carries, where it names one.
fn embedded(recipe: &Recipe, source: &PretrainSource) -> Result<Option<&'static EmbeddedSource>, TrainError> {
    let Some(name) = source.path.strip_prefix(EMBEDDED) else { return Ok(None) };
    let found = corpus::sources().iter().find(|s| s.name == name && s.kind == Kind::Documents);
    found.map(Some).ok_or_else(|| TrainError::RecipeNoFiles {
        file: recipe.file.clone(),
        key: format!("data.pretrain.{}.path", source.name),
        found: source.path.clone(),
        remedy: "embedded documents are: embedded:openstax".to_owned(),
    })
}

fn split_rule(recipe: &Recipe) -> Result<SplitRule, TrainError> {
    Ok(SplitRule::new(recipe.data.validation_fraction, recipe.data.seed)?)
}

/// The run's tokenizer: read where it is, trained on the training documents where not.
///
/// # Errors
/// The data cannot be read, or gives too small a vocabulary; [`TrainError::is_stop`].
pub fn tokenizer(
    recipe: &Recipe,
    dir: &RunDir,
    interrupt: &Interrupt,
    observer: &mut dyn StageObserver,
) -> Result<Tokenizer, TrainError> {
    let path = dir.tokenizer();
    if path.exists() {
        let tokenizer = Tokenizer::load(&path)?;
        if tokenizer.vocab_size() != recipe.tokenizer.vocab_size {
            return Err(TrainError::RunState {
                path,
                reason: format!(
                    "has {} tokens, tokenizer.vocab_size is {}; set it to that, or choose another run.dir",
                    tokenizer.vocab_size(),
                    recipe.tokenizer.vocab_size
                ),
            });
        }
        // A run that has begun goes on with what it began with: two digits were once what a recipe without the key meant.
        let has_begun =
            std::fs::read_dir(dir.checkpoints(Stage::Pretrain)).is_ok_and(|mut found| found.next().is_some());
        if let Some(found) = tokenizer.digits().filter(|found| *found != recipe.tokenizer.digits && !has_begun) {
            let (found, wanted) = (found.number(), recipe.tokenizer.digits.number());
            return Err(TrainError::RunState {
                path,
                reason: format!(
                    "has words of at most {found} digits, tokenizer.digits is {wanted}; set it to {found}, or choose another \
                     run.dir"
                ),
            });
        }
        return Ok(tokenizer);
    }
    let tokenizer = train_tokenizer(recipe, interrupt, observer)?;
    create(dir.root())?;
    tokenizer.save(&path)?;
    Ok(tokenizer)
}

fn train_tokenizer(
    recipe: &Recipe,
    interrupt: &Interrupt,
    observer: &mut dyn StageObserver,
) -> Result<Tokenizer, TrainError> {
    const TASK: &str = "tokenizer";
    let rule = split_rule(recipe)?;
    let mut streams = Vec::new();
    for source in &recipe.data.pretrain {
        streams.push((open(recipe, source, interrupt)?, source.keeping.filter()));
    }
    let held_out = &Cell::new(0u64);
    let is_trained_on = |document: &Document| {
        let trained_on = rule.split(&document.text) == Split::Train;
        held_out.update(|count| count + u64::from(!trained_on));
        trained_on
    };
    // Of what is trained on, whether an earlier document was like it or not.
    let documents = streams.into_iter().flat_map(|(stream, filter)| {
        stream.filter(move |document| match document {
            Ok(document) => filter.reason_against(document).is_none() && is_trained_on(document),
            Err(_) => true,
        })
    });
    let options = TrainOptions {
        vocab_size: recipe.tokenizer.vocab_size,
        max_bytes: recipe.tokenizer.sample_bytes,
        digits: recipe.tokenizer.digits,
        ..TrainOptions::default()
    };
    options.check()?;
    let mut told = |read| observer.progress(TASK, "bytes", read, None);
    let sample = match sample(documents, options.max_bytes, recipe.data.seed, &mut told) {
        Err(DataError::NothingKept { .. }) if held_out.get() > 0 => {
            let of = ("data.validation_fraction", recipe.data.validation_fraction);
            return Err(all_held_out(recipe, of, ("document", "give more or shorter documents"), held_out.get()));
        }
        sample => sample?,
    };
    let tokenizer = Tokenizer::train(sample.texts.into_iter().map(Ok), &options, &mut |_| {})?;
    observer.finished(TASK);
    Ok(tokenizer)
}

/// Refuses shards that are there but cannot be used. Made anew in silence they would hide what happened to them, and a
/// run under way would go on with other data than it began with.
fn check_present(
    folder: &Path,
    found: Option<Manifest>,
    tokenizer: &Tokenizer,
    options: &ShardOptions,
    under_way: bool,
) -> Result<(), TrainError> {
    // No manifest, or one of a tokenisation that was interrupted: there is nothing to lose.
    let Some(found) = found else { return Ok(()) };
    if !found.complete || !found.shards.iter().all(|shard| folder.join(&shard.file).exists()) {
        return Ok(());
    }
    let split = (found.validation_fraction, found.split_seed);
    let rules = options.curation.rules();
    if found.inputs == options.inputs
        && found.rules == rules
        && split == (options.split.fraction(), options.split.seed())
    {
        for split in [Split::Train, Split::Val] {
            ShardSet::open(folder, split, tokenizer)?;
        }
    } else if under_way {
        return Err(TrainError::RunState {
            path: folder.to_owned(),
            reason: "was made from other text, or with another split or choice of documents, than the recipe now gives, and \
                     the run has begun with it; restore the text and [data], or choose another run.dir"
                .to_owned(),
        });
    }
    Ok(())
}

/// Shards of every source: kept where they are, made where not. `under_way`: there is a checkpoint that was trained on
/// them, so that they may not become others.
///
/// # Errors
/// The data cannot be read, the disk refuses, or there are shards that are damaged or of another tokenizer;
/// [`TrainError::is_stop`], after which shards that are finished stay.
pub fn shards(
    recipe: &Recipe,
    dir: &RunDir,
    tokenizer: &Tokenizer,
    under_way: bool,
    interrupt: &Interrupt,
    observer: &mut dyn StageObserver,
) -> Result<Vec<Prepared>, TrainError> {
    let mut prepared: Vec<Prepared> = Vec::new();
    let paths = recipe.decontaminate_paths()?;
    let eval_sets = if paths.is_empty() { None } else { Some(Arc::new(EvalSets::read(&paths)?)) };
    // By the one way in which all of them are compared, where they are.
    let across = recipe.data.duplicates_across_sources;
    let duplicates = recipe.data.pretrain.first().map(|source| source.keeping.duplicates()).unwrap_or_default();
    let mut before = Before { seen: Seen::new(duplicates)?, unseen: Vec::new() };
    for source in &recipe.data.pretrain {
        let folder = dir.shards(&source.name);
        let found = Manifest::load(&folder).ok();
        let inputs = inputs(recipe, source, found.as_ref().map(|found| found.inputs.as_str()))?;
        let documents = open(recipe, source, interrupt)?;
        let curation = Curation {
            filter: source.keeping.filter(),
            duplicates: source.keeping.duplicates(),
            memory: recipe.data.duplicates_memory,
            eval_sets: eval_sets.clone(),
            earlier: prepared.last().filter(|_| across).map(|last| last.manifest.origin()).transpose()?,
        };
        let options = ShardOptions { curation, ..ShardOptions::new(split_rule(recipe)?, inputs) };
        let task = format!("tokenise {}", source.name);
        check_present(&folder, found, tokenizer, &options, under_way)?;
        let manifest = match finished(&folder, &source.name, tokenizer, &options)? {
            Some(manifest) => {
                let task = format!("check the shards of {}", source.name);
                ShardSet::verify(&folder, &mut |read, total| observer.progress(&task, "tokens", read, Some(total)))?;
                before.unseen.push((source, options.curation));
                manifest
            }
            None => {
                let mut alone = Seen::new(options.curation.duplicates)?;
                let seen = if across { before.seen(recipe, interrupt, observer)? } else { &mut alone };
                tokenize_after(seen, &folder, &source.name, documents, tokenizer, &options, &mut |p| {
                    observer.progress(&task, "bytes", p.bytes, None);
                })?
            }
        };
        observer.finished(&task);
        prepared.push(Prepared { name: source.name.clone(), weight: source.weight, manifest });
    }
    Ok(prepared)
}

/// What the sources so far hold, where repetitions are told across them.
struct Before<'a> {
    seen: Seen,
    /// Sources whose shards were there, so that nothing had to be read. Those before them have been seen, or are here too.
    unseen: Vec<(&'a PretrainSource, Curation)>,
}

impl Before<'_> {
    /// With all sources so far; those whose shards were there are read now.
    fn seen(
        &mut self,
        recipe: &Recipe,
        interrupt: &Interrupt,
        observer: &mut dyn StageObserver,
    ) -> Result<&mut Seen, TrainError> {
        for (source, curation) in self.unseen.drain(..) {
            let task = format!("read {} again", source.name);
            let documents = open(recipe, source, interrupt)?;
            self.seen.see(documents, &curation, &mut |bytes| observer.progress(&task, "bytes", bytes, None))?;
            observer.finished(&task);
        }
        Ok(&mut self.seen)
    }
}

/// XXH3-128 of the shards of all sources: a stage that is resumed must find the same.
pub fn fingerprint(prepared: &[Prepared]) -> String {
    let mut hash = xxhash_rust::xxh3::Xxh3::new();
    for source in prepared {
        hash.update(source.name.as_bytes());
        for shard in &source.manifest.shards {
            hash.update(shard.sha256.as_bytes());
        }
    }
    format!("{:032x}", hash.digest128())
}

fn create(folder: &Path) -> Result<(), TrainError> {
    std::fs::create_dir_all(folder).map_err(|source| TrainError::from_io(folder, "create", 0, source))
}
