//! A task from its files to its numbers.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use casallm_compute::Device;
use casallm_data::durable::sha256_of_file;
use casallm_model::network::Network;
use serde_json::{Value, json};

use crate::batching::{self, Group, Score};
use crate::data_folder::{DataFolder, Split};
use crate::encoding::Encoding;
use crate::error::EvalError;
use crate::generating::{self, Ending};
use crate::journal::Journal;
use crate::prompts;
use crate::results::{TaskResult, Timing, best, mean, metrics};
use crate::tasks::{Doc, Examples, GSM8K_STOPS, Kind, Task, extracted, grades};

/// Counts when prompts, scoring or what a journal holds change: results from before are not mixed with those of today.
const VERSION: u32 = 2;
/// Longest generated answer, as the harness has it.
const MAX_NEW_TOKENS: usize = 256;

/// A model that is judged.
pub struct Judged<'a, D: Device> {
    /// Its network.
    pub network: &'a Network<D>,
    /// Its tokens.
    pub encoding: Encoding<'a>,
    /// Which it is, how it is held and on what: results of one are not those of another.
    pub conditions: Value,
    /// Most tokens of a text; at most its context.
    pub context: usize,
}

/// What a person may choose.
#[derive(Clone, Debug)]
pub struct Options {
    /// Examples before each question, in place of each task's own number.
    pub fewshot: Option<usize>,
    /// Only so many items of each task.
    pub limit: Option<usize>,
    /// Folder of the results of items.
    pub journals: PathBuf,
}

/// Hears how far something is: its name, what is counted, how many are done and of how many.
pub type Progress<'a> = dyn FnMut(&str, &'static str, u64, Option<u64>) + 'a;

impl<D: Device> Judged<'_, D> {
    /// What results depend on, with what is particular to a task.
    pub(crate) fn conditions(&self, particular: Value) -> Value {
        json!({"version": VERSION, "judged": self.conditions, "context": self.context, "particular": particular})
    }

    /// Asks a task, of which earlier results are kept; `None` where the folder has none of its splits.
    ///
    /// # Errors
    /// [`EvalError`].
    pub fn task(
        &self,
        task: Task,
        data: &DataFolder,
        options: &Options,
        progress: &mut Progress<'_>,
    ) -> Result<Option<TaskResult>, EvalError> {
        let begun = Instant::now();
        let facts = task.facts();
        let Some(split) = data.read(facts.name, facts.files, facts.splits)? else { return Ok(None) };
        let fewshot = options.fewshot.unwrap_or(facts.fewshot);
        let mut files = split.files.clone();
        let (Examples::Drawn(from) | Examples::First(from)) = facts.examples;
        let examples = match fewshot {
            0 => None,
            _ => data.read(facts.name, facts.files, &[from])?,
        };
        files.extend(examples.iter().flat_map(|split| split.files.clone()));
        let mut docs = read(task, &split)?;
        docs.truncate(options.limit.unwrap_or(usize::MAX));
        let examples = examples.map(|split| read(task, &split)).transpose()?;
        let headers = prompts::headers(task, &docs, examples.as_deref(), fewshot)?;

        let sums = fingerprints(&files)?;
        let conditions = self.conditions(json!({"fewshot": fewshot, "data": sums}));
        let mut journal = Journal::open(&options.journals, facts.name, &conditions)?;
        let open: Vec<usize> = (0..docs.len()).filter(|item| !journal.items().contains_key(item)).collect();
        let (total, held) = (docs.len() as u64, (docs.len() - open.len()) as u64);
        let mut told = held;
        let mut keep = |item: usize, result: Value| {
            journal.add(item, result)?;
            told += 1;
            progress(facts.name, "items", told, Some(total));
            Ok(())
        };
        match facts.kind {
            Kind::Generation => self.write(&docs, &headers, &open, &mut keep)?,
            kind => self.choose(task, kind, (&docs, &headers), &open, &mut keep)?,
        }

        let items = journal.items().range(..docs.len()).map(|(_, item)| item);
        let (metrics, metric) = metrics(&facts, items.clone());
        let value = metrics[metric].value;
        let acc = |item: usize| journal.items().get(&item).and_then(|item| item["acc"].as_bool()).unwrap_or(false);
        let mut right: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for (i, doc) in docs.iter().enumerate() {
            if let Some(subject) = &doc.subject {
                right.entry(subject).or_default().push(f64::from(u8::from(acc(i))));
            }
        }
        let subjects =
            right.into_iter().map(|(subject, of)| (subject.to_owned(), mean(of.iter().copied()).value)).collect();
        Ok(Some(TaskResult {
            name: facts.name.to_owned(),
            items: docs.len(),
            cut: items.clone().filter(|item| item["cut"].as_u64().is_some_and(|tokens| tokens > 0)).count(),
            fewshot,
            split: split.name.to_owned(),
            files: files.iter().map(|path| path.display().to_string()).collect(),
            metrics,
            metric,
            chance: facts.chance,
            core_centred: facts.core.map(|chance| (value - chance) / (1.0 - chance)),
            subjects,
            journal: journal.path().display().to_string(),
            timing: Timing::new(begun.elapsed().as_secs_f64(), open.len()),
        }))
    }

    /// Scores the given answers of the open items.
    fn choose(
        &self,
        task: Task,
        kind: Kind,
        (docs, headers): (&[Doc], &[Arc<str>]),
        open: &[usize],
        keep: &mut dyn FnMut(usize, Value) -> Result<(), EvalError>,
    ) -> Result<(), EvalError> {
        let mut groups = Vec::with_capacity(open.len());
        let mut shared: Option<(Arc<str>, Arc<[u32]>)> = None;
        for &item in open {
            let (doc, header) = (&docs[item], &headers[item]);
            // What one item alone begins with is read once in any case.
            let neighbour = |other: Option<&Arc<str>>| other.is_some_and(|other| Arc::ptr_eq(other, header));
            let is_shared = neighbour(headers.get(item + 1)) || item > 0 && neighbour(headers.get(item - 1));
            if header.is_empty() || !is_shared {
                shared = None;
            } else if shared.as_ref().is_none_or(|(text, _)| !Arc::ptr_eq(text, header)) {
                shared = Some((header.clone(), self.encoding.text(header).into()));
            }
            let mut requests = Vec::with_capacity(doc.answers());
            for answer in 0..doc.answers() {
                let context = format!("{header}{}", doc.context(answer));
                let continuation = format!("{}{}", task.delimiter(), doc.choice(answer));
                let request = self.encoding.pair(&context, &continuation, self.context)?;
                requests.push(request.ok_or_else(|| EvalError::Untokenized {
                    task: task.facts().name.into(),
                    item,
                    what: "an answer",
                })?);
            }
            let shared = shared.as_ref().map(|(_, tokens)| tokens.clone());
            groups.push(Group { shared, requests, leads: kind == Kind::Word });
        }
        batching::score(self.network, &groups, &mut |group, scores| {
            let item = open[group];
            let mut result = judged(&docs[item], kind, &scores);
            result["cut"] = groups[group].requests.iter().map(|request| request.cut).max().into();
            keep(item, result)
        })
    }

    /// Has the model write answers to the open items. Of a prompt that leaves no room for the longest answer the end is kept, as
    /// the harness does; where an answer would take most of the context, it may be half of it, so that a question is left.
    fn write(
        &self,
        docs: &[Doc],
        headers: &[Arc<str>],
        open: &[usize],
        keep: &mut dyn FnMut(usize, Value) -> Result<(), EvalError>,
    ) -> Result<(), EvalError> {
        let max_tokens = MAX_NEW_TOKENS.min(self.context / 2);
        let room = self.context - max_tokens;
        let mut cut = Vec::with_capacity(open.len());
        let prompt = |item: &usize| {
            let mut tokens = self.encoding.text(&format!("{}{}", headers[*item], docs[*item].context(0)));
            cut.push(tokens.drain(..tokens.len().saturating_sub(room)).count());
            tokens
        };
        let prompts: Vec<Vec<u32>> = open.iter().map(prompt).collect();
        let ending = Ending {
            max_tokens,
            stops: GSM8K_STOPS.map(str::to_owned).to_vec(),
            stop_ids: self.encoding.ending().into_iter().collect(),
        };
        let tokenizer = self.encoding.tokenizer();
        generating::generate(self.network, tokenizer, &prompts, self.context, &ending, &mut |i, answer| {
            let item = open[i];
            let right = docs[item].choice(0);
            let [strict, flexible] = extracted(&answer);
            let result = json!({
                "exact_match,strict-match": grades(&strict, right),
                "exact_match,flexible-extract": grades(&flexible, right),
                "answer": answer,
                "cut": cut[i],
            });
            keep(item, result)
        })
    }
}

fn read(task: Task, split: &Split) -> Result<Vec<Doc>, EvalError> {
    split.records.iter().map(|record| task.read(record)).collect()
}

/// What is kept of an item whose answers were scored.
fn judged(doc: &Doc, kind: Kind, scores: &[Score]) -> Value {
    let logprobs: Vec<f64> = scores.iter().map(|score| score.logprob).collect();
    if kind == Kind::Word {
        return json!({"logprobs": logprobs, "acc": scores.iter().all(|score| score.leads)});
    }
    let right = |lengths: &dyn Fn(usize) -> f64| best(&logprobs, lengths) == doc.gold;
    let acc = right(&|_| 1.0);
    match kind {
        Kind::Choice { normalised: true } => json!({
            "gold": doc.gold,
            "acc": acc,
            // The harness' `acc_norm` divides by characters, its `acc_bytes` by bytes.
            "acc_norm": right(&|i| doc.choice(i).chars().count() as f64),
            "acc_bytes": right(&|i| doc.choice(i).len() as f64),
            "logprobs": logprobs,
        }),
        _ => json!({"gold": doc.gold, "acc": acc, "logprobs": logprobs}),
    }
}

/// The SHA-256 of files, for conditions.
pub(crate) fn fingerprints(paths: &[PathBuf]) -> Result<Vec<String>, EvalError> {
    Ok(paths.iter().map(|path| sha256_of_file(path)).collect::<Result<_, _>>()?)
}
