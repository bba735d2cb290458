//! Validation on a fixed set: the same tokens at every interval of every run.

use std::collections::BTreeMap;

use casallm_compute::Device;
use casallm_data::batch::Batch;
use casallm_data::loader::ValidationLoader;
use casallm_model::network::Network;
use casallm_model::training::BatchView;
use casallm_model::workspace::Workspace;

use crate::error::TrainError;
use crate::metrics::SourceValidation;
use crate::preference::{LogProbabilities, PairTotals, PreferenceMetrics, Preferences, log_probabilities};

/// One source's fixed batches.
pub struct ValidationSet {
    /// What reports call it.
    pub source: String,
    /// Its batches.
    pub batches: Vec<Batch>,
    /// Bytes of text that the supervised targets stand for, where known.
    pub bytes: Option<u64>,
    /// For batches of preference pairs, which are judged and do not enter the loss.
    pub pairs: Option<Preferences>,
}

/// What validation found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ValidationResult {
    /// Nats per supervised token over all sources.
    pub loss: f64,
    /// Bits per byte over all sources, where all are known.
    pub bits_per_byte: Option<f64>,
    /// Share of targets put first.
    pub accuracy: f64,
    /// By source of text.
    pub sources: BTreeMap<String, SourceValidation>,
    /// Over all preference pairs, where there are some.
    pub preference: Option<PreferenceMetrics>,
}

impl ValidationResult {
    /// What is to become small: the loss of the pairs where there are some, of the text elsewhere.
    pub fn objective(&self) -> f64 {
        self.preference.map_or(self.loss, |preference| preference.loss.unwrap_or(f64::NAN))
    }
}

/// A batch as the model takes it.
pub fn view(batch: &Batch) -> BatchView<'_> {
    BatchView { tokens: &batch.tokens, targets: &batch.targets, weights: &batch.weights, cu_seqlens: &batch.cu_seqlens }
}

/// The loader's rows as sets, `rows` a batch.
///
/// # Errors
/// The shards cannot be read.
pub fn from_loader(loader: &ValidationLoader, rows: usize, bytes_of: &[u32]) -> Result<Vec<ValidationSet>, TrainError> {
    let mut sets = Vec::new();
    for (i, source) in loader.sources().iter().enumerate() {
        let mut batches = Vec::new();
        let mut first = 0;
        while let Some(batch) = loader.batch(i, first, rows as u64)? {
            first += rows as u64;
            batches.push(batch);
        }
        let length = |target: &u32| u64::from(bytes_of.get(*target as usize).copied().unwrap_or(0));
        let bytes = batches.iter().flat_map(|b| &b.targets).map(length).sum();
        sets.push(ValidationSet { source: source.source.clone(), batches, bytes: Some(bytes), pairs: None });
    }
    Ok(sets)
}

/// The log-probabilities of the pairs of a batch.
///
/// # Errors
/// The batch does not fit the workspace.
pub fn judge_pairs<D: Device>(
    network: &Network<D>,
    workspace: &mut Workspace<D::Buffer>,
    batch: &Batch,
) -> Result<Vec<LogProbabilities>, TrainError> {
    network.loss(workspace, view(batch))?;
    Ok(log_probabilities(batch, &network.row_losses(workspace, batch.len())))
}

/// Evaluates every set.
///
/// # Errors
/// A batch does not fit the workspace.
pub fn evaluate<D: Device>(
    network: &Network<D>,
    workspace: &mut Workspace<D::Buffer>,
    sets: &[ValidationSet],
) -> Result<ValidationResult, TrainError> {
    let mut result = ValidationResult::default();
    let (mut all_loss, mut all_weight, mut correct, mut counted) = (0.0, 0.0, 0, 0);
    let mut all_bytes = Some(0);
    let mut pairs = PairTotals::default();
    for (set, preferences) in sets.iter().filter_map(|set| Some((set, set.pairs.as_ref()?))) {
        for (batch, references) in set.batches.iter().zip(&preferences.references) {
            network.loss(workspace, view(batch))?;
            let losses = network.row_losses(workspace, batch.len());
            preferences.objective.weigh(batch, &losses, references, &mut pairs);
        }
        result.preference = Some(pairs.mean());
    }
    for set in sets.iter().filter(|set| set.pairs.is_none()) {
        let (mut loss, mut weight) = (0.0, 0.0);
        for batch in &set.batches {
            let part = network.loss(workspace, view(batch))?;
            loss += part.weighted_loss;
            weight += part.weight;
            correct += part.correct;
            counted += part.counted;
        }
        all_loss += loss;
        all_weight += weight;
        all_bytes = all_bytes.zip(set.bytes).map(|(a, b)| a + b);
        let bits = |nats: f64, bytes: u64| (bytes > 0).then(|| nats / std::f64::consts::LN_2 / bytes as f64);
        let source = SourceValidation {
            loss: (weight > 0.0).then(|| loss / weight),
            bits_per_byte: set.bytes.and_then(|bytes| bits(loss, bytes)),
        };
        result.sources.insert(set.source.clone(), source);
        result.bits_per_byte = all_bytes.and_then(|bytes| bits(all_loss, bytes));
    }
    network.device().check()?;
    result.loss = all_loss / all_weight;
    result.accuracy = correct as f64 / counted.max(1) as f64;
    Ok(result)
}
