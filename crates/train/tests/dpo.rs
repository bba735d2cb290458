//! Direct preference optimisation: gradients beside PyTorch's, training at any context and any lengths, what a run writes
//! of its pairs, and what it does about bad ones.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use casallm_compute::cuda::CudaDevice;
use casallm_compute::cuda::simulator::Simulator;
use casallm_compute::{CpuDevice, DType, Device, Isa, MatrixUse};
use casallm_data::batch::Batch;
use casallm_data::chat::{ChatTemplate, Message};
use casallm_data::preferences::{PairRecord, PairReport, PairSet, PreferencePair};
use casallm_data::tokenizer::{Tokenizer, TrainOptions};
use casallm_model::config::ModelConfig;
use casallm_model::network::Network;
use casallm_model::parameters::Parameters;
use casallm_model::training::Gradients;
use casallm_model::workspace::{Recompute, Workspace, WorkspaceShape};
use casallm_train::TrainError;
use casallm_train::checkpoint::CheckpointStore;
use casallm_train::events::{Action, Event, Quantity, What};
use casallm_train::feed::{DpoFeed, Feed};
use casallm_train::guard::GuardConfig;
use casallm_train::interrupt::Interrupt;
use casallm_train::metrics::{self, MetricsRow};
use casallm_train::optimizer::OptimizerConfig;
use casallm_train::preference::{LogProbabilities, Objective, PairTotals, Preferences};
use casallm_train::recipe::Stage;
use casallm_train::schedule::{Schedule, Shape};
use casallm_train::trainer::{Observer, Outcome, Trainer, TrainerConfig};
use casallm_train::validation::{ValidationSet, judge_pairs, view};
use proptest::prelude::*;
use safetensors::SafeTensors;

const FIXTURE: &[u8] = include_bytes!("fixtures/dpo.safetensors");

/// The fixture of `make_dpo_fixture.py`.
struct Fixture {
    config: ModelConfig,
    tensors: SafeTensors<'static>,
}

impl Fixture {
    fn open() -> Self {
        let (_, header) = SafeTensors::read_metadata(FIXTURE).unwrap();
        let config = ModelConfig::from_json(&header.metadata().as_ref().unwrap()["config"]).unwrap();
        Fixture { config, tensors: SafeTensors::deserialize(FIXTURE).unwrap() }
    }

    fn words(&self, name: &str) -> Vec<u32> {
        self.tensors.tensor(name).unwrap().data().as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect()
    }

    fn numbers(&self, name: &str) -> Vec<f32> {
        self.words(name).into_iter().map(f32::from_bits).collect()
    }

    fn network<D: Device>(&self, device: &Arc<D>, group: &str) -> Network<D> {
        let parameters =
            Parameters::new(device.clone(), &self.config, DType::F32.into(), MatrixUse::Training, |spec| {
                Ok(self.numbers(&format!("{group}.{}", spec.name)))
            });
        Network::new(self.config.clone(), DType::F32, parameters.unwrap()).unwrap()
    }

    /// The first two pairs and the third: two micro-batches.
    fn batches(&self) -> [Batch; 2] {
        let (ids, targets, mask) = (self.words("ids"), self.words("targets"), self.numbers("mask"));
        let bounds = self.words("cu_seqlens");
        [0..4, 4..6].map(|sequences| {
            let (from, to) = (bounds[sequences.start], bounds[sequences.end]);
            let rows = from as usize..to as usize;
            let bounds = bounds[sequences.start..=sequences.end].iter().map(|b| b - from).collect();
            Batch::new(ids[rows.clone()].to_vec(), targets[rows.clone()].to_vec(), mask[rows].to_vec(), bounds).unwrap()
        })
    }

    fn workspace<D: Device>(&self, device: &D, recompute: Recompute) -> Workspace<D::Buffer> {
        let shape = WorkspaceShape {
            tokens: self.words("ids").len(),
            sequence: self.config.context,
            dtype: DType::F32,
            matrices: DType::F32.into(),
            training: Some(recompute),
        };
        Workspace::new(device, &self.config, shape).unwrap()
    }
}

/// Relative L2 distance.
fn distance(found: &[f32], wanted: &[f32]) -> f64 {
    assert_eq!(found.len(), wanted.len());
    let square = |x: f64| x * x;
    let off: f64 = found.iter().zip(wanted).map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum();
    (off / wanted.iter().map(|x| square(f64::from(*x))).sum::<f64>()).sqrt()
}

fn equals_pytorch<D: Device>(device: &Arc<D>, recompute: Recompute) {
    let fixture = Fixture::open();
    let batches = fixture.batches();
    let mut workspace = fixture.workspace(&**device, recompute);
    let reference = fixture.network(device, "reference");
    let references: Vec<Vec<LogProbabilities>> =
        batches.iter().map(|batch| judge_pairs(&reference, &mut workspace, batch).unwrap()).collect();
    let found: Vec<f32> = references.iter().flatten().flatten().map(|x| *x as f32).collect();
    assert!(distance(&found, &fixture.numbers("reference_logps")) < 1e-5, "{found:?}");

    let network = fixture.network(device, "param");
    for name in ["plain", "smoothed", "normalised"] {
        let settings = fixture.numbers(&format!("{name}.settings"));
        let objective = Objective {
            beta: f64::from(settings[0]),
            label_smoothing: f64::from(settings[1]),
            length_normalised: settings[2] == 1.0,
        };
        let mut gradients = Gradients::new(&**device, &fixture.config).unwrap();
        let mut tally = device.allocate_tally().unwrap();
        let mut totals = PairTotals::default();
        for (batch, references) in batches.iter().zip(&references) {
            let weigh = |losses: &[f32]| objective.weigh(batch, losses, references, &mut totals);
            network
                .add_weighed(&mut workspace, view(batch), (1.0 / 3.0, 0), &mut gradients, &mut tally, weigh)
                .unwrap();
        }
        let loss = totals.mean().loss.unwrap();
        let wanted = f64::from(fixture.numbers(&format!("{name}.loss"))[0]);
        assert!((loss - wanted).abs() < 1e-5 * wanted, "{name}: loss {loss}, PyTorch {wanted}");
        let rewards = fixture.numbers(&format!("{name}.rewards"));
        let chosen = rewards.iter().step_by(2).sum::<f32>() / 3.0;
        assert!((totals.mean().chosen_reward.unwrap() - f64::from(chosen)).abs() < 1e-4, "{name}");
        for (i, spec) in fixture.config.parameters().iter().enumerate() {
            let mut found = vec![0.0; spec.len()];
            device.read_f32(gradients.get(i), 0, &mut found);
            let off = distance(&found, &fixture.numbers(&format!("{name}.grad.{}", spec.name)));
            assert!(off < 1e-4, "{name}: gradient of {}: {off:.1e}", spec.name);
        }
    }
}

#[test]
fn gradients_equal_pytorch_at_every_instruction_set_and_recomputation() {
    for isa in Isa::available() {
        equals_pytorch(&Arc::new(CpuDevice::new(2, isa).unwrap()), Recompute::Light);
    }
    for recompute in Recompute::ALL {
        equals_pytorch(&cpu(), recompute);
    }
}

#[test]
fn gradients_equal_pytorch_on_the_gpu() {
    if let Some(simulator) = Simulator::for_test(1) {
        equals_pytorch(&Arc::new(CudaDevice::new(simulator).unwrap()), Recompute::Light);
    }
}

fn cpu() -> Arc<CpuDevice> {
    Arc::new(CpuDevice::new(2, *Isa::available().last().unwrap()).unwrap())
}

fn tokenizer() -> Tokenizer {
    let texts = (0..40).map(|i| Ok(format!("Some words {i} to learn bytes and a few pairs of letters from.")));
    let options = TrainOptions { vocab_size: 270, ..TrainOptions::default() };
    Tokenizer::train(texts, &options, &mut |_| {}).unwrap()
}

fn record(question: &str, chosen: String, rejected: String) -> PairRecord {
    let prompt = vec![Message::user(question)];
    PairRecord { source: "test".into(), row: 1, pair: PreferencePair { prompt, chosen, rejected } }
}

const OBJECTIVE: Objective = Objective { beta: 0.3, label_smoothing: 0.05, length_normalised: false };

/// A stage of `steps` steps, two micro-batches of two rows each at most.
fn config(context: usize, steps: u64, lr: f64) -> TrainerConfig {
    TrainerConfig {
        stage: Stage::Dpo,
        settings: String::new(),
        schedule: Schedule { shape: Shape::Cosine, steps, warmup: 1, cooldown: 0, peak: lr, min: lr },
        clip: 1.0,
        optimizer: OptimizerConfig::default(),
        eval_every: 4,
        checkpoint_every: 4,
        seed: 5,
        micro_tokens: 2 * context,
        recompute: Recompute::Light,
        step_tokens: 4 * context,
        context,
        samples: 0,
        peak: None,
        background: true,
        guard: Default::default(),
    }
}

fn trainer(context: usize, vocab_size: usize, config: TrainerConfig) -> Trainer<CpuDevice> {
    let model = ModelConfig::modern(2, 32, 2, 1, vocab_size, context).unwrap();
    let parameters = Parameters::random(cpu(), &model, DType::Bf16.into(), 3).unwrap();
    Trainer::new(Network::new(model, DType::Bf16, parameters).unwrap(), config).unwrap()
}

/// What the trainer's network gives for the pairs of a set, in order.
fn references(trainer: &mut Trainer<CpuDevice>, set: &PairSet) -> Vec<LogProbabilities> {
    let plan = set.in_order();
    (0..plan.len()).flat_map(|i| trainer.judge_pairs(&plan.batch(i).unwrap()).unwrap()).collect()
}

fn own(tokenizer: &Tokenizer) -> ChatTemplate {
    ChatTemplate::own(tokenizer).unwrap()
}

struct Silent;

impl Observer for Silent {
    fn step(&mut self, _: &MetricsRow, _: u64) {}
    fn note(&mut self, _: &str) {}
}

fn set_of(records: &[PairRecord], tokenizer: &Tokenizer) -> PairSet {
    PairSet::new(records, tokenizer, &own(tokenizer), (64, 128), 1, &mut PairReport::default()).unwrap()
}

/// The pairs to validate on.
fn held_out(set: &PairSet, references: &[LogProbabilities]) -> ValidationSet {
    let plan = set.in_order();
    let of_batch = |i: usize| plan.members(i).iter().map(|pair| references[*pair]).collect();
    let pairs = Preferences { objective: OBJECTIVE, references: (0..plan.len()).map(of_batch).collect() };
    let batches = (0..plan.len()).map(|i| plan.batch(i).unwrap()).collect();
    ValidationSet { source: "pairs".into(), batches, bytes: None, pairs: Some(pairs) }
}

/// Questions with a polite and a rude answer.
fn manners() -> Vec<PairRecord> {
    (0..12)
        .map(|i| record(&format!("Question {i}?"), "Yes, gladly.".into(), format!("No, and go away, {i}!")))
        .collect()
}

#[test]
fn a_run_learns_its_pairs_and_tells_of_them() {
    let tokenizer = tokenizer();
    let set = set_of(&manners(), &tokenizer);
    let steps = DpoFeed::steps(&set, 6, 256);
    let mut trainer = trainer(64, tokenizer.vocab_size(), config(64, steps, 3e-3));
    let references = references(&mut trainer, &set);
    let held_out = held_out(&set, &references);
    let text = Batch::from_rows([[7u32; 30].as_slice(), &[9; 30]]).unwrap();
    let text = ValidationSet { source: "text".into(), batches: vec![text], bytes: Some(58), pairs: None };
    let feed = DpoFeed::new(set.clone(), OBJECTIVE, references.clone(), 6, 256);

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics.jsonl");
    let store = CheckpointStore::new(folder.path().join("checkpoints"), 9).unwrap();
    let outcome = trainer.run(&feed, &[text, held_out], &store, &path, &Interrupt::new(), &mut Silent).unwrap();
    let Outcome::Finished(last) = outcome else { panic!("{outcome:?}") };
    let rows = metrics::read(&path).unwrap();
    assert_eq!(rows.iter().map(|row| row.step).collect::<Vec<_>>(), (0..=steps).collect::<Vec<_>>());

    // Before: nothing is preferred to the reference, to the bit.
    let before = rows[0].val_preference.unwrap();
    assert_eq!((before.margin, before.accuracy, rows[0].loss), (Some(0.0), 0.5, None));
    assert!((before.loss.unwrap() - std::f64::consts::LN_2).abs() < 1e-12);
    assert!(rows[0].val_loss.unwrap() > 1.0 && rows[0].val.contains_key("text") && rows[0].val.len() == 1);
    let first = rows[1].preference.unwrap();
    assert_eq!(rows[1].loss, first.loss);

    let after = rows.last().unwrap().val_preference.unwrap();
    assert_eq!(Some(after), last.preference);
    assert!(after.accuracy == 1.0 && after.ranking == 1.0, "{after:?}");
    assert!(after.margin.unwrap() > 1.0 && after.loss.unwrap() < 0.5, "{after:?}");
    let difference = after.chosen_reward.unwrap() - after.rejected_reward.unwrap();
    assert!((difference - after.margin.unwrap()).abs() < 1e-9);
    // The best checkpoint is that of the pairs' loss, not that of the text's.
    let lowest = rows.iter().filter_map(|r| r.val_preference?.loss).fold(f64::INFINITY, f64::min);
    assert_eq!(last.objective(), after.loss.unwrap());
    let best = std::fs::read_to_string(folder.path().join("checkpoints/best.json")).unwrap();
    let best: serde_json::Value = serde_json::from_str(&best).unwrap();
    assert!((best["val_loss"].as_f64().unwrap() - lowest).abs() < 1e-12, "{best} {lowest}");
}

#[test]
fn references_that_are_not_finite_stop_the_step_and_leave_the_weights() {
    let tokenizer = tokenizer();
    let set = PairSet::new(
        &[record("Hi", "yes".into(), "no".into())],
        &tokenizer,
        &own(&tokenizer),
        (64, 128),
        1,
        &mut PairReport::default(),
    );
    let mut trainer = trainer(64, tokenizer.vocab_size(), config(64, 1, 1e-3));
    let before = trainer.network().parameters.read(0).unwrap();
    let feed = DpoFeed::new(set.unwrap(), OBJECTIVE, vec![[f64::NAN, 0.0]], 1, 256);
    let error = trainer.step(&feed, 0).err().unwrap().to_string();
    assert!(error.contains("dpo step 1: the loss is NaN"), "{error}");
    assert_eq!(trainer.network().parameters.read(0).unwrap(), before);
}

/// What stands in the place of pairs.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Bad {
    /// Random letters.
    Random,
    /// The rude answer is the chosen one.
    Swapped,
    /// What the reference model is said to have given is not finite.
    Infinite,
}

/// Pairs, with bad batches at some numbers; the pairs go on behind them.
struct Injected {
    pairs: DpoFeed,
    bad: Range<u64>,
    batches: Vec<Batch>,
    references: Vec<Vec<LogProbabilities>>,
}

impl Injected {
    fn new(
        trainer: &mut Trainer<CpuDevice>,
        pairs: DpoFeed,
        tokenizer: &Tokenizer,
        bad: Range<u64>,
        kind: Bad,
    ) -> Self {
        let noise = |i: usize| (0..12).map(|j| char::from(b'a' + ((i * 12 + j) * 7919 % 1013 % 26) as u8)).collect();
        let records: Vec<_> = manners()
            .into_iter()
            .enumerate()
            .map(|(i, PairRecord { source, row, pair })| {
                let PreferencePair { prompt, chosen, rejected } = pair;
                let (chosen, rejected) = match kind {
                    Bad::Random => (noise(2 * i), noise(2 * i + 1)),
                    Bad::Swapped | Bad::Infinite => (rejected, chosen),
                };
                PairRecord { source, row, pair: PreferencePair { prompt, chosen, rejected } }
            })
            .collect();
        let set = set_of(&records, tokenizer);
        let plan = set.in_order();
        let batches: Vec<Batch> = (0..plan.len()).map(|i| plan.batch(i).unwrap()).collect();
        let mut references: Vec<_> = batches.iter().map(|batch| trainer.judge_pairs(batch).unwrap()).collect();
        if kind == Bad::Infinite {
            references.iter_mut().flatten().for_each(|reference| reference[0] = f64::NEG_INFINITY);
        }
        Injected { pairs, bad, batches, references }
    }

    /// Which bad batch a step has, or else which of the pairs' steps it is.
    fn place(&self, step: u64) -> Result<usize, u64> {
        let before = step.min(self.bad.end).saturating_sub(self.bad.start);
        if self.bad.contains(&step) { Ok(before as usize) } else { Err(step - before) }
    }
}

impl Feed for Injected {
    fn micro_batches(&self, step: u64) -> Result<Vec<Batch>, TrainError> {
        match self.place(step) {
            Ok(bad) => Ok(vec![self.batches[bad].clone()]),
            Err(step) => self.pairs.micro_batches(step),
        }
    }

    fn describe(&self, step: u64) -> String {
        format!("batch {step}")
    }

    fn preferences(&self, step: u64) -> Option<Preferences> {
        match self.place(step) {
            Ok(bad) => Some(Preferences { objective: OBJECTIVE, references: vec![self.references[bad].clone()] }),
            Err(step) => self.pairs.preferences(step),
        }
    }
}

/// How a run ended: the bits of its weights, and its rows without what differs from run to run.
#[derive(PartialEq)]
struct Ended {
    weights: Vec<Vec<u32>>,
    rows: Vec<String>,
    best: String,
}

/// Runs or resumes in `folder`, and is interrupted after step `stop`.
fn guarded(folder: &Path, guard: GuardConfig, bad: Option<(Range<u64>, Bad)>, stop: Option<u64>) -> Ended {
    const EPOCHS: u64 = 10;
    let tokenizer = tokenizer();
    let set = set_of(&manners(), &tokenizer);
    let steps = DpoFeed::steps(&set, EPOCHS, 256);
    let mut trainer = trainer(64, tokenizer.vocab_size(), TrainerConfig { guard, ..config(64, steps, 1e-3) });
    let references = references(&mut trainer, &set);
    let held_out = held_out(&set, &references);
    let feed = DpoFeed::new(set.clone(), OBJECTIVE, references, EPOCHS, 256);
    let (range, kind) = bad.unwrap_or((0..0, Bad::Random));
    let feed = Injected::new(&mut trainer, feed, &tokenizer, range, kind);
    let store = CheckpointStore::new(folder.join("checkpoints"), 9).unwrap();
    let path = folder.join("metrics.jsonl");
    let interrupt = Interrupt::new();
    let mut listener = StopAt { step: stop, interrupt: &interrupt };
    let outcome = trainer.run(&feed, &[held_out], &store, &path, &interrupt, &mut listener).unwrap();
    assert!(
        matches!((stop, &outcome), (None, Outcome::Finished(_)) | (Some(_), Outcome::Interrupted(_))),
        "{outcome:?}"
    );
    let parameters = &trainer.network().parameters;
    let bits = |i| parameters.read(i).unwrap().iter().map(|x: &f32| x.to_bits()).collect();
    let rows = metrics::read(&path).unwrap();
    assert!(rows.iter().all(|row| row.step == 0 || row.loss.is_some() && row.grad_norm.is_some()));
    Ended {
        weights: (0..parameters.len()).map(bits).collect(),
        rows: rows.iter().map(|row| row.reproducible_line().unwrap()).collect(),
        best: std::fs::read_to_string(folder.join("checkpoints/best.json")).unwrap_or_default(),
    }
}

struct StopAt<'a> {
    step: Option<u64>,
    interrupt: &'a Interrupt,
}

impl Observer for StopAt<'_> {
    fn step(&mut self, row: &MetricsRow, _: u64) {
        if Some(row.step) == self.step {
            self.interrupt.request();
        }
    }

    fn note(&mut self, _: &str) {}
}

fn events(folder: &Path) -> Vec<Event> {
    let mut events = metrics::read_events(&folder.join("metrics.jsonl")).unwrap();
    events.retain(|event| !matches!(event.what, What::Began { .. } | What::Resumed));
    events
}

/// To the bit, also where the run was interrupted on the way: weights, rows (with their metrics of pairs) and best checkpoint.
#[test]
fn a_run_that_goes_back_past_bad_pairs_is_one_that_never_had_them() {
    const BAD: Range<u64> = 22..25;
    let rollback = GuardConfig { window: 8, z: 6.0, spike: Action::Rollback, non_finite: Action::Rollback, before: 0 };
    let without = tempfile::tempdir().unwrap();
    let clean = guarded(without.path(), rollback, None, None);
    assert!(events(without.path()).is_empty(), "{:?}", events(without.path()));
    for kind in [Bad::Random, Bad::Swapped, Bad::Infinite] {
        let with = tempfile::tempdir().unwrap();
        let saved = guarded(with.path(), rollback, Some((BAD, kind)), None);
        let found = events(with.path());
        let [outlier, back] = &found[..] else { panic!("{kind:?}: {found:?}") };
        let seen = match &outlier.what {
            What::Spike { quantity: Quantity::Loss, z, action: Action::Rollback, .. } => {
                kind != Bad::Infinite && *z > 6.0
            }
            What::NotFinite { action: Action::Rollback, .. } => kind == Bad::Infinite,
            _ => false,
        };
        assert!(seen, "{kind:?}: {outlier:?}");
        assert_eq!((&back.what, back.step), (&What::RolledBack { to: 20, passed_over: BAD.collect() }, 23), "{kind:?}");
        assert!(saved == clean, "{kind:?}: not the run without bad pairs");

        let parts = tempfile::tempdir().unwrap();
        guarded(parts.path(), rollback, Some((BAD, kind)), Some(21));
        guarded(parts.path(), rollback, Some((BAD, kind)), Some(26));
        assert!(guarded(parts.path(), rollback, Some((BAD, kind)), None) == clean, "{kind:?}: not when interrupted");
    }
    // What the guard is good for: with warnings alone the pairs leave their mark.
    let harmed = tempfile::tempdir().unwrap();
    let warned =
        guarded(harmed.path(), GuardConfig { spike: Action::Warn, ..rollback }, Some((BAD, Bad::Swapped)), None);
    assert!(warned.weights != clean.weights);
    assert_eq!(events(harmed.path()).first().map(|event| event.step), Some(BAD.start + 1));
}

/// What was measured before the first step stays, though the run goes back to where it began.
#[test]
fn a_run_that_goes_back_to_its_beginning_keeps_what_was_measured_there() {
    let rollback = GuardConfig { non_finite: Action::Rollback, before: 0, ..GuardConfig::default() };
    let [without, with, parts] = [0; 3].map(|_| tempfile::tempdir().unwrap());
    let clean = guarded(without.path(), rollback, None, None);
    let bad = || Some((1..2, Bad::Infinite));
    assert!(clean.rows[0].contains("\"step\":0"), "{}", clean.rows[0]);
    let saved = guarded(with.path(), rollback, bad(), None);
    assert_eq!(events(with.path())[1].what, What::RolledBack { to: 0, passed_over: vec![1] });
    assert_eq!(saved.rows, clean.rows);
    assert!(saved == clean);
    // And it comes once, where the run begins again from there.
    guarded(parts.path(), rollback, bad(), Some(1));
    for later in ["step-000001", "best.json"] {
        let path = parts.path().join("checkpoints").join(later);
        let _ = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    }
    assert_eq!(guarded(parts.path(), rollback, bad(), None).rows, clean.rows);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Any context from 64 up, any lengths: each pair is trained on once a pass, its tokens are counted exactly, and no
    /// number is anything but finite.
    #[test]
    fn any_context_and_any_lengths_train(
        context in 64usize..400,
        seed: u64,
        lengths in prop::collection::vec((0usize..150, 1usize..400, 1usize..400), 1..12),
        length_normalised: bool,
    ) {
        let tokenizer = tokenizer();
        let records: Vec<_> = lengths
            .iter()
            .map(|(q, c, r)| record(&"q".repeat(q + 1), "c".repeat(*c), "r".repeat(*r)))
            .collect();
        let mut report = PairReport::default();
        let Ok(set) = PairSet::new(&records, &tokenizer, &own(&tokenizer), (context, 2 * context), seed, &mut report) else {
            prop_assert_eq!(report.dropped.len(), records.len());
            return Ok(());
        };
        prop_assert_eq!(set.pairs().len() + report.dropped.len(), records.len());
        let positions: usize = set.pairs().iter().map(|pair| pair.positions()).sum();
        let supervised: usize = set.pairs().iter().flat_map(|pair| pair.supervised()).sum();
        let steps = DpoFeed::steps(&set, 2, 4 * context);
        let mut trainer = trainer(context, tokenizer.vocab_size(), config(context, steps, 1e-2));
        let references = references(&mut trainer, &set);
        let objective = Objective { length_normalised, ..OBJECTIVE };
        let feed = DpoFeed::new(set, objective, references, 2, 4 * context);
        let (mut tokens, mut learned) = (0, 0.0);
        for step in 0..steps {
            learned += feed.micro_batches(step).unwrap().iter().map(Batch::supervised).sum::<f64>();
            let result = trainer.step(&feed, step).unwrap();
            tokens += result.tokens as usize;
            let pairs = result.preference.unwrap();
            let numbers = [Some(result.loss), Some(result.grad_norm), pairs.margin, pairs.chosen_reward];
            prop_assert!(numbers.iter().all(|x| x.is_some_and(f64::is_finite)), "{result:?}");
        }
        prop_assert_eq!((tokens, learned as usize), (2 * positions, 2 * supervised));
    }
}
