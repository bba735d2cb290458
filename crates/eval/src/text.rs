//! Bits per byte: how many bits a model needs for a byte of a text, whatever its tokenizer.
//!
//! The sum of `-log2 p` over the tokens of each document, divided by its bytes of UTF-8 (Gao et al. 2020, arXiv 2101.00027,
//! section 3.1), as lm-evaluation-harness sums it for `loglikelihood_rolling`: documents longer than the context are scored in
//! windows, and what ends a document is not.

use std::path::{Path, PathBuf};
use std::time::Instant;

use casallm_compute::Device;
use casallm_data::source::{SourceOptions, find_files, format_name, open_documents};
use serde::Serialize;
use serde_json::{Value, json};

use crate::batching::{self, Group};
use crate::error::EvalError;
use crate::journal::Journal;
use crate::results::Timing;
use crate::run::{Judged, Options, Progress, fingerprints};

/// Bytes of documents that are at work together.
const BATCH_BYTES: usize = 1 << 20;

/// What a text came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TextResult {
    /// The file, folder or pattern.
    pub path: String,
    /// The number.
    pub bits_per_byte: f64,
    /// `exp` of the mean loss of a token; says little between tokenizers.
    pub perplexity_of_tokens: f64,
    /// Documents.
    pub documents: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Their tokens.
    pub tokens: u64,
    /// Where each document's result is.
    pub journal: String,
    /// Time, and documents in it.
    pub timing: Timing,
}

impl<D: Device> Judged<'_, D> {
    /// Reads the documents of a path, or the first `limit` of them.
    ///
    /// # Errors
    /// [`EvalError`].
    pub fn text(
        &self,
        path: &Path,
        text_field: &str,
        options: &Options,
        progress: &mut Progress<'_>,
    ) -> Result<TextResult, EvalError> {
        let begun = Instant::now();
        let source = SourceOptions { text_field: text_field.to_owned(), ..SourceOptions::default() };
        let files: Vec<PathBuf> = find_files(path)?;
        let formats: Vec<_> = files.iter().map(|file| format_name(file)).collect();
        let particular = json!({
            "text": fingerprints(&files)?, "formats": formats, "field": text_field, "cut": source.text_file_bytes,
        });
        let mut journal = Journal::open(&options.journals, "text", &self.conditions(particular))?;
        let limit = options.limit.unwrap_or(usize::MAX);
        let (mut batch, mut bytes, mut seen, mut new) = (Vec::new(), 0, 0, 0);
        let mut told = 0;
        let mut documents = open_documents(path, &source)?.take(limit).enumerate();
        loop {
            let next = documents.next();
            let ended = next.is_none();
            if let Some((i, document)) = next {
                let text = document?.text;
                seen = i + 1;
                told += text.len() as u64;
                if journal.items().contains_key(&i) {
                    continue;
                }
                bytes += text.len();
                batch.push((i, text));
            }
            if bytes >= BATCH_BYTES || ended {
                let before = told - bytes as u64;
                self.documents(&batch, &mut journal, &mut |done| progress("text", "bytes", before + done, None))?;
                new += batch.len();
                batch.clear();
                bytes = 0;
            }
            if ended {
                break;
            }
        }
        let sum = |key: &str| -> f64 {
            journal.items().range(..seen).map(|(_, item)| item[key].as_f64().unwrap_or(f64::NAN)).sum()
        };
        let (nats, bytes, tokens) = (sum("nats"), sum("bytes"), sum("tokens"));
        Ok(TextResult {
            path: path.display().to_string(),
            bits_per_byte: nats / std::f64::consts::LN_2 / bytes,
            perplexity_of_tokens: (nats / tokens).exp(),
            documents: seen,
            bytes: bytes as u64,
            tokens: tokens as u64,
            journal: journal.path().display().to_string(),
            timing: Timing::new(begun.elapsed().as_secs_f64(), new),
        })
    }

    /// Scores some documents and keeps what they came to; `hear` is told how many bytes are done.
    fn documents(
        &self,
        documents: &[(usize, String)],
        journal: &mut Journal,
        hear: &mut dyn FnMut(u64),
    ) -> Result<(), EvalError> {
        // A group for each window: they have nothing in common.
        let (mut groups, mut owners) = (Vec::new(), Vec::new());
        let mut open: Vec<(usize, f64, usize)> = Vec::with_capacity(documents.len());
        for (at, (item, text)) in documents.iter().enumerate() {
            let windows = self.encoding.windows(text, self.context)?;
            if windows.is_empty() {
                return Err(EvalError::Untokenized { task: "text".into(), item: *item, what: "the document" });
            }
            open.push((windows.len(), 0.0, 0));
            for window in windows {
                groups.push(Group { requests: vec![window], ..Group::default() });
                owners.push(at);
            }
        }
        let mut done_bytes = 0;
        batching::score(self.network, &groups, &mut |group, scores| {
            let at = owners[group];
            let (left, nats, tokens) = &mut open[at];
            *left -= 1;
            *nats -= scores.iter().map(|score| score.logprob).sum::<f64>();
            *tokens += scores.iter().map(|score| score.tokens).sum::<usize>();
            if *left == 0 {
                let (item, text) = &documents[at];
                let result: Value = json!({"nats": *nats, "bytes": text.len(), "tokens": *tokens});
                journal.add(*item, result)?;
                done_bytes += text.len() as u64;
                hear(done_bytes);
            }
            Ok(())
        })
    }
}
