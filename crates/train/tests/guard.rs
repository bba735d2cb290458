//! Bad batches in the data: the guard sees them, and a run that goes back past them ends as one that never had them; what
//! it did stands in the metrics, and a run that is resumed does the same to the bit.

use std::cell::RefCell;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use casallm_compute::cuda::CudaDevice;
use casallm_compute::cuda::simulator::Simulator;
use casallm_compute::{CpuDevice, DType, Device, Isa};
use casallm_data::batch::Batch;
use casallm_model::config::ModelConfig;
use casallm_model::network::Network;
use casallm_model::parameters::Parameters;
use casallm_model::workspace::Recompute;
use casallm_train::TrainError;
use casallm_train::checkpoint::CheckpointStore;
use casallm_train::events::{Action, Event, Quantity, What};
use casallm_train::feed::Feed;
use casallm_train::guard::GuardConfig;
use casallm_train::interrupt::Interrupt;
use casallm_train::metrics::{self, MetricsRow};
use casallm_train::optimizer::OptimizerConfig;
use casallm_train::recipe::Stage;
use casallm_train::schedule::{Schedule, Shape};
use casallm_train::trainer::{Observer, Outcome, Trainer, TrainerConfig};
use casallm_train::validation::ValidationSet;

const CONTEXT: usize = 16;
const ROWS: u64 = 4;
const VOCAB_SIZE: usize = 23;
const STEPS: u64 = 80;

fn noise(i: u64) -> u32 {
    (i.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) as u32 % VOCAB_SIZE as u32
}

/// Rows that count on from some number, and stumble now and then.
fn text(number: u64) -> Batch {
    let row = |r: u64| {
        let begin = noise(number * ROWS + r);
        let id = move |t: u64| {
            let stumble = noise(1000 * (number * ROWS + r) + t) == 0;
            (begin + t as u32 + u32::from(stumble)) % VOCAB_SIZE as u32
        };
        (0..=CONTEXT as u64).map(id).collect::<Vec<u32>>()
    };
    let rows: Vec<Vec<u32>> = (0..ROWS).map(row).collect();
    Batch::from_rows(rows.iter().map(Vec::as_slice)).unwrap()
}

/// What stands in the place of text.
#[derive(Clone, Copy, PartialEq)]
enum Bad {
    /// Random tokens.
    Random,
    /// A weight that makes the loss infinite.
    Infinite,
}

/// Text, with bad batches at some numbers; the text goes on behind them.
#[derive(Clone)]
struct Data {
    bad: Range<u64>,
    kind: Bad,
}

impl Data {
    fn clean() -> Self {
        Data { bad: 0..0, kind: Bad::Random }
    }

    fn with(bad: Range<u64>, kind: Bad) -> Self {
        Data { bad, kind }
    }
}

impl Feed for Data {
    fn micro_batches(&self, step: u64) -> Result<Vec<Batch>, TrainError> {
        let before = step.min(self.bad.end).saturating_sub(self.bad.start);
        let mut batch = text(step - before);
        if self.bad.contains(&step) {
            match self.kind {
                Bad::Random => {
                    let rows: Vec<Vec<u32>> = (0..ROWS)
                        .map(|r| (0..=CONTEXT as u64).map(|t| noise(7_000_000 + 100 * (step * ROWS + r) + t)).collect())
                        .collect();
                    batch = Batch::from_rows(rows.iter().map(Vec::as_slice)).unwrap();
                }
                Bad::Infinite => batch.weights[3] = f32::INFINITY,
            }
        }
        Ok(vec![batch])
    }

    fn describe(&self, step: u64) -> String {
        format!("batch {step}")
    }
}

fn rollback(before: u64) -> GuardConfig {
    GuardConfig { window: 16, z: 6.0, spike: Action::Rollback, non_finite: Action::Rollback, before }
}

fn trainer<D: Device>(device: &Arc<D>, guard: GuardConfig, background: bool) -> Trainer<D> {
    trainer_of(device, guard, background, (STEPS, 10, 20))
}

fn trainer_of<D: Device>(
    device: &Arc<D>,
    guard: GuardConfig,
    background: bool,
    (steps, checkpoint_every, eval_every): (u64, u64, u64),
) -> Trainer<D> {
    let mut model = ModelConfig::modern(2, 32, 2, 1, VOCAB_SIZE, CONTEXT).unwrap();
    model.dropout = 0.05;
    let parameters = Parameters::random(device.clone(), &model, DType::Bf16.into(), 3).unwrap();
    let tokens = CONTEXT * ROWS as usize;
    let config = TrainerConfig {
        stage: Stage::Pretrain,
        settings: String::new(),
        schedule: Schedule { shape: Shape::Cosine, steps, warmup: 5, cooldown: 0, peak: 0.01, min: 0.001 },
        clip: 1.0,
        optimizer: OptimizerConfig::default(),
        eval_every,
        checkpoint_every,
        background,
        guard,
        seed: 5,
        micro_tokens: tokens,
        recompute: Recompute::Light,
        step_tokens: tokens,
        context: CONTEXT,
        samples: 0,
        peak: None,
    };
    Trainer::new(Network::new(model, DType::Bf16, parameters).unwrap(), config).unwrap()
}

fn cpu() -> Arc<CpuDevice> {
    Arc::new(CpuDevice::new(1, Isa::detect().unwrap()).unwrap())
}

/// Listens, and does something at some rows.
struct Listener<'a> {
    told: RefCell<Vec<String>>,
    at_row: Box<dyn Fn(u64) + 'a>,
}

impl Observer for Listener<'_> {
    fn step(&mut self, row: &MetricsRow, _: u64) {
        (self.at_row)(row.step);
    }

    fn note(&mut self, text: &str) {
        self.told.borrow_mut().push(text.to_owned());
    }
}

struct Ended {
    outcome: Result<Outcome, TrainError>,
    weights: Vec<Vec<u32>>,
    told: Vec<String>,
}

impl Ended {
    fn val_loss(&self) -> f64 {
        match &self.outcome {
            Ok(Outcome::Finished(result)) => result.loss,
            other => panic!("{other:?}"),
        }
    }
}

/// Runs or resumes the run in `folder`.
fn run<D: Device>(
    trainer: Trainer<D>,
    data: &Data,
    folder: &Path,
    interrupt: &Interrupt,
    at_row: impl Fn(u64),
) -> Ended {
    let store = CheckpointStore::new(folder.join("checkpoints"), 9).unwrap();
    run_with(store, trainer, data, folder, interrupt, at_row)
}

fn run_with<D: Device>(
    store: CheckpointStore,
    mut trainer: Trainer<D>,
    data: &Data,
    folder: &Path,
    interrupt: &Interrupt,
    at_row: impl Fn(u64),
) -> Ended {
    let set =
        ValidationSet { source: "text".into(), batches: (9000..9008).map(text).collect(), bytes: None, pairs: None };
    let mut listener = Listener { told: RefCell::default(), at_row: Box::new(at_row) };
    let metrics = folder.join("metrics.jsonl");
    let outcome = trainer.run(data, &[set], &store, &metrics, interrupt, &mut listener);
    let parameters = &trainer.network().parameters;
    let bits = |i| parameters.read(i).unwrap().iter().map(|x: &f32| x.to_bits()).collect();
    let weights = (0..parameters.len()).map(bits).collect();
    Ended { outcome, weights, told: listener.told.into_inner() }
}

fn whole(guard: GuardConfig, data: &Data, folder: &Path) -> Ended {
    run(trainer(&cpu(), guard, true), data, folder, &Interrupt::new(), |_| {})
}

/// The rows without what differs from run to run.
fn rows(folder: &Path) -> Vec<String> {
    let rows = metrics::read(&folder.join("metrics.jsonl")).unwrap();
    rows.iter().map(|row| row.reproducible_line().unwrap()).collect()
}

/// What happened beyond the beginning.
fn events(folder: &Path) -> Vec<Event> {
    let mut events = metrics::read_events(&folder.join("metrics.jsonl")).unwrap();
    events.retain(|event| !matches!(event.what, What::Began { .. }));
    events
}

/// Rows and reproducible events in their order, as text.
fn reproducible(folder: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    let lines = text
        .lines()
        .filter(|line| serde_json::from_str::<Event>(line).map_or(true, |event| event.what.is_reproducible()));
    lines.map(|line| line.split(",\"timing\":").next().unwrap().to_owned()).collect()
}

fn assert_no_nan(folder: &Path) {
    assert_no_nan_in(folder, STEPS);
}

fn assert_no_nan_in(folder: &Path, steps: u64) {
    for row in metrics::read(&folder.join("metrics.jsonl")).unwrap() {
        assert!(row.loss.is_some() && row.grad_norm.is_some(), "step {}", row.step);
    }
    let store = CheckpointStore::new(folder.join("checkpoints"), 3).unwrap();
    let newest = store.latest_good().unwrap().checkpoint.unwrap();
    assert_eq!(newest.step(), steps);
    let path = newest.path().join("tensors.safetensors");
    let bytes = std::fs::read(path).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    for name in newest.tensor_names() {
        let view = tensors.tensor(&name).unwrap();
        let values = view.data().as_chunks::<4>().0;
        assert!(values.iter().all(|b| f32::from_le_bytes(*b).is_finite()), "{name}");
    }
    assert!(newest.meta::<serde_json::Value>().is_ok());
}

const THREE: Range<u64> = 54..57;

/// To the bit: the batches are passed over as if they were not in the data.
#[test]
fn a_run_that_goes_back_past_bad_batches_is_one_that_never_had_them() {
    let (with, without) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let clean = whole(rollback(0), &Data::clean(), without.path());
    assert!(clean.told.is_empty() && events(without.path()).is_empty(), "{:?}", clean.told);
    let saved = whole(rollback(0), &Data::with(THREE, Bad::Random), with.path());
    assert!(saved.weights == clean.weights);
    assert_eq!(rows(with.path()), rows(without.path()));
    let events = events(with.path());
    let [spike, back] = &events[..] else { panic!("{events:?}") };
    assert!(
        matches!(&spike.what, What::Spike { quantity: Quantity::Loss, z, action: Action::Rollback, batch, .. }
            if *z > 6.0 && batch == "batch 54"),
        "{spike:?}"
    );
    assert_eq!((&back.what, back.step), (&What::RolledBack { to: 50, passed_over: vec![54, 55, 56] }, 55));
    assert!(saved.told[1].contains("back to step 50; 3 batches are passed over: 54 to 56"), "{:?}", saved.told);
    assert_no_nan(with.path());
    // The same without a guard shows what it is good for: the batches are seen, and leave their mark.
    let harmed = tempfile::tempdir().unwrap();
    let warned =
        whole(GuardConfig { window: 16, ..Default::default() }, &Data::with(THREE, Bad::Random), harmed.path());
    let spikes = self::events(harmed.path());
    assert_eq!(spikes.iter().take(3).map(|event| event.step).collect::<Vec<_>>(), [55, 56, 57], "{spikes:?}");
    assert!(warned.weights != clean.weights);
    println!("validation loss: clean {}, warned {}", clean.val_loss(), warned.val_loss());
}

/// Batches before the spike are passed over too, and the run goes back to before them: other batches, so other bits; the
/// loss is that of the clean run within 5 % (the spread of this model's over its seeds is larger).
#[test]
fn a_rollback_passes_over_batches_before_the_spike_too() {
    let (with, without) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let clean = whole(rollback(0), &Data::clean(), without.path());
    let saved = whole(rollback(6), &Data::with(THREE, Bad::Random), with.path());
    let back = events(with.path()).pop().unwrap();
    assert_eq!(back.what, What::RolledBack { to: 40, passed_over: (48..57).collect() });
    let (got, want) = (saved.val_loss(), clean.val_loss());
    assert!((got / want - 1.0).abs() < 0.05, "{got} {want}");
    assert_no_nan(with.path());
}

#[test]
fn skipped_updates_leave_the_run_where_it_was() {
    let (with, without) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let clean = whole(rollback(0), &Data::clean(), without.path());
    let guard = GuardConfig { spike: Action::Skip, ..rollback(0) };
    let skipped = whole(guard, &Data::with(THREE, Bad::Random), with.path());
    assert_eq!(events(with.path()).iter().map(|event| event.step).collect::<Vec<_>>(), [55, 56, 57]);
    let (got, want) = (skipped.val_loss(), clean.val_loss());
    assert!((got / want - 1.0).abs() < 0.05, "{got} {want}");
    let rows = metrics::read(&with.path().join("metrics.jsonl")).unwrap();
    let tokens = |step: usize| rows[step - 1].tokens;
    assert_eq!((tokens(54), tokens(57), tokens(80)), (54 * 64, 54 * 64, 77 * 64), "tokens that were trained on");
    assert_no_nan(with.path());
}

/// Whatever interrupts it and whenever, before, amid and after the rollback.
#[test]
fn a_resumed_run_judges_as_one_that_never_stopped() {
    for (guard, data) in [
        (rollback(0), Data::with(THREE, Bad::Random)),
        (rollback(6), Data::with(THREE, Bad::Random)),
        (GuardConfig { spike: Action::Skip, ..rollback(0) }, Data::with(THREE, Bad::Random)),
        (GuardConfig { spike: Action::Warn, ..rollback(0) }, Data::with(THREE, Bad::Infinite)),
    ] {
        let uninterrupted = tempfile::tempdir().unwrap();
        // No more are kept than a rollback needs where nothing is stopped.
        let part = |folder: &Path, interrupt: &Interrupt, at_row: &dyn Fn(u64)| {
            let store = CheckpointStore::new(folder.join("checkpoints"), 2).unwrap().regularly(10, STEPS);
            run_with(store, trainer(&cpu(), guard, true), &data, folder, interrupt, at_row)
        };
        let expected = part(uninterrupted.path(), &Interrupt::new(), &|_| {});
        assert!(expected.outcome.is_ok(), "{:?}", expected.outcome);
        for stops in [vec![3, 41, 43], vec![52], vec![51, 52, 53], vec![54, 55], vec![56, 57, 61], vec![49, 51, 53, 70]]
        {
            let folder = tempfile::tempdir().unwrap();
            let mut ended = None;
            for stop in stops.iter().copied().chain([u64::MAX]) {
                let interrupt = Interrupt::new();
                let at_row = |step| {
                    if step == stop {
                        interrupt.request()
                    }
                };
                let part = part(folder.path(), &interrupt, &at_row);
                assert!(matches!(&part.outcome, Ok(Outcome::Interrupted(at)) if *at == stop) || stop == u64::MAX);
                ended = Some(part);
            }
            assert!(ended.unwrap().weights == expected.weights, "{guard:?} {stops:?}");
            assert_eq!(reproducible(folder.path()), reproducible(uninterrupted.path()), "{guard:?} {stops:?}");
            let resumed = events(folder.path()).iter().filter(|event| event.what == What::Resumed).count();
            assert_eq!(resumed, stops.len());
        }
    }
}

/// On the processor and on the GPU's code, which works a step ahead where the guard lets it.
fn survives_what_is_not_finite<D: Device>(device: impl Fn() -> Option<Arc<D>>) {
    const SHORT: (u64, u64, u64) = (7, 3, 20);
    let data = Data::with(4..5, Bad::Infinite);
    let run = |spike, non_finite, data: &Data| {
        let folder = tempfile::tempdir().unwrap();
        let trainer = trainer_of(&device()?, GuardConfig { spike, non_finite, ..rollback(0) }, true, SHORT);
        let ended = run(trainer, data, folder.path(), &Interrupt::new(), |_| {});
        assert!(ended.outcome.is_ok(), "{:?}", ended.outcome);
        Some((ended.weights, folder))
    };
    let Some((clean, without)) = run(Action::Warn, Action::Stop, &Data::clean()) else { return };
    for spike in [Action::Warn, Action::Rollback] {
        let Some((weights, with)) = run(spike, Action::Rollback, &data) else { return };
        assert_no_nan_in(with.path(), SHORT.0);
        assert!(weights == clean && rows(with.path()) == rows(without.path()), "{spike:?}");
    }
    let Some((weights, folder)) = run(Action::Warn, Action::Skip, &data) else { return };
    assert!(weights != clean && weights.iter().flatten().all(|bits| f32::from_bits(*bits).is_finite()));
    let text = std::fs::read_to_string(folder.path().join("metrics.jsonl")).unwrap();
    let at = |step: u64| text.lines().filter(move |line| line.contains(&format!("\"step\":{step},"))).count();
    assert_eq!((at(4), at(5), at(6)), (1, 2, 1), "{text}");
    assert!(!text.contains("NaN") && text.contains("\"event\":\"not_finite\"") && text.contains("\"loss\":null"));
}

#[test]
fn what_is_not_finite_is_passed_over_on_the_processor() {
    survives_what_is_not_finite(|| Some(cpu()));
}

#[test]
fn what_is_not_finite_is_passed_over_on_the_gpu() {
    survives_what_is_not_finite(|| {
        let simulator = Simulator::for_test(1)?;
        Some(Arc::new(CudaDevice::with_graphs(simulator, true).unwrap()))
    });
}

#[test]
fn a_place_that_no_rollback_helps_ends_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let ended = whole(rollback(0), &Data::with(54..100_000, Bad::Random), folder.path());
    let error = ended.outcome.unwrap_err();
    assert!(matches!(error, TrainError::GuardGaveUp { step: 55, times: 4, .. }), "{error}");
    // With a warning it goes on, and takes the new level for what it is.
    let folder = tempfile::tempdir().unwrap();
    let guard = GuardConfig { spike: Action::Skip, ..rollback(0) };
    let ended = whole(guard, &Data::with(40..100_000, Bad::Random), folder.path());
    assert!(ended.outcome.is_ok());
    let level = events(folder.path()).into_iter().find(|event| matches!(event.what, What::NewLevel { .. })).unwrap();
    assert_eq!((level.step, level.what), (72, What::NewLevel { outliers: 32 }));
}

/// In the background or between the steps: the same files.
#[test]
fn how_a_checkpoint_is_written_changes_no_byte() {
    let folders = [true, false].map(|background| {
        let folder = tempfile::tempdir().unwrap();
        let trainer = trainer(&cpu(), rollback(0), background);
        run(trainer, &Data::clean(), folder.path(), &Interrupt::new(), |_| {}).outcome.unwrap();
        folder
    });
    for step in [60, 70, 80] {
        for file in ["tensors.safetensors", "state.json"] {
            let bytes = |folder: &tempfile::TempDir| {
                std::fs::read(folder.path().join(format!("checkpoints/step-{step:06}")).join(file)).unwrap()
            };
            let text = |folder| {
                let lines = String::from_utf8_lossy(&bytes(folder)).into_owned();
                lines.lines().filter(|line| !line.contains("\"seconds\"")).collect::<Vec<_>>().join("\n")
            };
            assert!(text(&folders[0]) == text(&folders[1]), "step {step}, {file}");
        }
    }
}

/// A folder that takes no checkpoints for a while, and then for good.
#[test]
fn a_checkpoint_that_cannot_be_written_is_said_and_tried_again() {
    for background in [true, false] {
        for heals in [true, false] {
            let folder = tempfile::tempdir().unwrap();
            let (checkpoints, aside) = (folder.path().join("checkpoints"), folder.path().join("aside"));
            let at_row = |step| match step {
                25 => {
                    // The one before is under way: it must be there, however much is left to do for it.
                    while !checkpoints.join("step-000020").exists() {
                        std::thread::yield_now();
                    }
                    std::fs::rename(&checkpoints, &aside).unwrap();
                    std::fs::write(&checkpoints, "in the way").unwrap();
                }
                45 if heals => {
                    std::fs::remove_file(&checkpoints).unwrap();
                    std::fs::rename(&aside, &checkpoints).unwrap();
                }
                _ => {}
            };
            let trainer = trainer(&cpu(), GuardConfig::default(), background);
            let ended = run(trainer, &Data::clean(), folder.path(), &Interrupt::new(), at_row);
            let failed: Vec<u64> = events(folder.path())
                .iter()
                .filter(
                    |event| matches!(&event.what, What::CheckpointFailed { reason } if reason.contains("checkpoints")),
                )
                .map(|event| event.step)
                .filter(|step| *step > 20)
                .collect();
            if heals {
                assert!(ended.outcome.is_ok(), "{:?}", ended.outcome);
                // One that is written in the background may be late enough to find the folder again.
                assert!(failed == [30, 40] || background && failed == [30], "{failed:?}");
                assert_no_nan(folder.path());
            } else {
                let error = ended.outcome.unwrap_err();
                assert!(matches!(error, TrainError::Io { .. }), "{error}");
                assert_eq!(failed, [30, 40, 50, 60, 70]);
                assert!(aside.join("step-000020").is_dir(), "the last good one is lost");
            }
            assert!(ended.told.iter().any(|told| told.contains("training goes on")), "{:?}", ended.told);
        }
    }
}

/// Validated more often than saved: the best is one that can be loaded.
#[test]
fn the_best_is_the_best_of_the_checkpoints() {
    const EVERY: u64 = 10;
    let folder = tempfile::tempdir().unwrap();
    let store = || CheckpointStore::new(folder.path().join("checkpoints"), 1).unwrap().regularly(EVERY, STEPS);
    let guard = GuardConfig::default();
    let trainer = || trainer_of(&cpu(), guard, true, (STEPS, EVERY, 1));
    let data = Data::with(65..80, Bad::Random);
    for stop in [43, u64::MAX] {
        let interrupt = Interrupt::new();
        let at_row = |step| {
            if step == stop {
                interrupt.request()
            }
        };
        run_with(store(), trainer(), &data, folder.path(), &interrupt, at_row).outcome.unwrap();
    }
    let rows = metrics::read(&folder.path().join("metrics.jsonl")).unwrap();
    let lowest = |of: &dyn Fn(u64) -> bool| {
        let losses = rows.iter().filter(|row| of(row.step)).map(|row| (row.val_loss.unwrap(), row.step));
        losses.min_by(|a, b| a.0.total_cmp(&b.0)).unwrap()
    };
    let saved = lowest(&|step| step % EVERY == 0);
    assert!(lowest(&|_| true).0 < saved.0, "no validation between two checkpoints is the lowest of all");
    let best = store().best().unwrap().unwrap();
    assert_eq!((best.val_loss, best.step), saved);
    store().open(best.step).unwrap();
}
