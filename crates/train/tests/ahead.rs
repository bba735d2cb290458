//! A run on a device that works on its own: queued a step ahead, in graphs, and the same as step by step and call by call.

use std::cell::RefCell;
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
use casallm_train::feed::Feed;
use casallm_train::interrupt::Interrupt;
use casallm_train::metrics::MetricsRow;
use casallm_train::optimizer::{MatrixUpdate, OptimizerConfig};
use casallm_train::recipe::Stage;
use casallm_train::schedule::{Schedule, Shape};
use casallm_train::trainer::{Observer, Outcome, Trainer, TrainerConfig};
use casallm_train::validation::ValidationSet;

const CONTEXT: usize = 9;
const TOKENS: usize = 2 * CONTEXT;
const VOCAB_SIZE: usize = 23;
const STEPS: u64 = 10;
const MUON: MatrixUpdate = MatrixUpdate::Muon { lr: 0.02, momentum: 0.95 };

/// Lengths of three documents, in turn: other boundaries, as many pieces of attention's work.
const LENGTHS: [[u32; 3]; 5] = [[5, 6, 7], [6, 6, 6], [8, 5, 5], [7, 6, 5], [5, 5, 8]];

/// Two micro-batches a step.
#[derive(Clone, Copy)]
enum Batches {
    /// Of two whole rows; the second supervises every third target.
    Rows,
    /// Of three documents, whose boundaries and weights change all the time.
    Documents,
    /// As rows, but for one step (counted from 0) whose loss is not finite.
    Bad(u64),
}

impl Batches {
    fn batch(self, step: u64, micro: u64) -> Batch {
        let id = |i: u64| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) as u32 % VOCAB_SIZE as u32;
        let row = |r: u64| (0..=CONTEXT as u64).map(|t| id(1 + t + 100 * (r + 10 * (micro + 2 * step)))).collect();
        let rows: Vec<Vec<u32>> = (0..2).map(row).collect();
        let mut batch = Batch::from_rows(rows.iter().map(Vec::as_slice)).unwrap();
        match self {
            Batches::Documents => {
                let [first, second, _] = LENGTHS[(2 * step + micro) as usize % LENGTHS.len()];
                batch.cu_seqlens = vec![0, first, first + second, TOKENS as u32];
                batch.weights.fill(0.5 + 0.25 * step as f32);
            }
            Batches::Bad(bad) if bad == step => batch.weights[3] = f32::INFINITY,
            Batches::Rows | Batches::Bad(_) if micro == 1 => {
                batch.weights.iter_mut().enumerate().for_each(|(i, w)| *w = if i % 3 == 0 { 1.0 } else { 0.0 });
            }
            Batches::Rows | Batches::Bad(_) => {}
        }
        batch
    }
}

/// What is read and what is reported, in their order.
type Events = RefCell<Vec<String>>;

struct Told<'a> {
    batches: Batches,
    events: &'a Events,
}

impl Feed for Told<'_> {
    fn micro_batches(&self, step: u64) -> Result<Vec<Batch>, TrainError> {
        self.events.borrow_mut().push(format!("read {}", step + 1));
        Ok((0..2).map(|micro| self.batches.batch(step, micro)).collect())
    }

    fn describe(&self, step: u64) -> String {
        format!("batch {step}")
    }
}

struct Listener<'a> {
    events: &'a Events,
    /// Raised at this row.
    interrupt: Option<(u64, Interrupt)>,
}

impl Observer for Listener<'_> {
    fn step(&mut self, row: &MetricsRow, _: u64) {
        self.events.borrow_mut().push(format!("row {}", row.step));
        assert!(row.timing.seconds.is_some_and(|seconds| seconds > 0.0));
        if let Some((_, interrupt)) = self.interrupt.as_ref().filter(|(at, _)| *at == row.step) {
            interrupt.request();
        }
    }

    fn note(&mut self, text: &str) {
        self.events.borrow_mut().push(format!("note: {text}"));
    }
}

fn config(matrices: MatrixUpdate) -> TrainerConfig {
    TrainerConfig {
        stage: Stage::Pretrain,
        settings: String::new(),
        schedule: Schedule { shape: Shape::Cosine, steps: STEPS, warmup: 2, cooldown: 0, peak: 0.02, min: 0.002 },
        clip: 0.5,
        optimizer: OptimizerConfig { matrices, ..Default::default() },
        eval_every: 4,
        checkpoint_every: 6,
        background: true,
        guard: Default::default(),
        seed: 5,
        micro_tokens: TOKENS,
        recompute: Recompute::Light,
        step_tokens: 2 * TOKENS,
        context: CONTEXT,
        samples: 0,
        peak: None,
    }
}

fn trainer<D: Device>(device: &Arc<D>, matrices: MatrixUpdate, dropout: f32) -> Trainer<D> {
    let mut model = ModelConfig::modern(2, 16, 2, 1, VOCAB_SIZE, CONTEXT).unwrap();
    model.dropout = dropout;
    let parameters = Parameters::random(device.clone(), &model, DType::Bf16.into(), 3).unwrap();
    Trainer::new(Network::new(model, DType::Bf16, parameters).unwrap(), config(matrices)).unwrap()
}

fn weights<D: Device>(trainer: &Trainer<D>) -> Vec<Vec<u32>> {
    let parameters = &trainer.network().parameters;
    let bits = |i| parameters.read(i).unwrap().iter().map(|x: &f32| x.to_bits()).collect();
    (0..parameters.len()).map(bits).collect()
}

fn cpu() -> Arc<CpuDevice> {
    Arc::new(CpuDevice::new(1, Isa::Portable).unwrap())
}

fn gpu(graphs: bool) -> Option<(Arc<Simulator>, Arc<CudaDevice>)> {
    let simulator = Simulator::for_test(1)?;
    Some((simulator.clone(), Arc::new(CudaDevice::with_graphs(simulator, graphs).unwrap())))
}

/// Losses and norms of some steps, to the bit, and the weights behind them.
fn steps<D: Device>(trainer: &mut Trainer<D>, batches: Batches, count: u64) -> (Vec<[u64; 2]>, Vec<Vec<u32>>) {
    let feed = Told { batches, events: &Events::default() };
    let bits = |step| {
        let result = trainer.step(&feed, step).unwrap();
        [result.loss.to_bits(), result.grad_norm.to_bits()]
    };
    let results = (0..count).map(bits).collect();
    (results, weights(trainer))
}

/// While tokens, boundaries, scales, seeds of dropout and rates change.
#[test]
fn graphs_change_no_bit() {
    // Clearing, each shape of a micro-batch, Muon's update (AdamW's is a few calls): made at the second time, started from
    // then on. The first micro-batch of rows uploads attention's tables once, and is another shape afterwards.
    for (matrices, dropout, batches, made, started) in [
        (MatrixUpdate::AdamW, 0.0, Batches::Rows, 3, 4 + 3 + 4),
        (MUON, 0.1, Batches::Rows, 4, 4 + 3 + 4 + 4),
        (MatrixUpdate::AdamW, 0.1, Batches::Documents, 2, 4 + 9),
    ] {
        let (Some((simulator, with)), Some((plain, without))) = (gpu(true), gpu(false)) else { return };
        let (mut with, mut without) = (trainer(&with, matrices, dropout), trainer(&without, matrices, dropout));
        assert!(steps(&mut with, batches, 5) == steps(&mut without, batches, 5), "{matrices:?}, dropout {dropout}");
        assert_eq!(simulator.graphs(), (made, made as usize, started), "{matrices:?}, dropout {dropout}");
        assert_eq!(plain.graphs(), (0, 0, 0));
        drop(with);
    }
}

/// A run from the last checkpoint in a folder on.
fn run<D: Device>(
    trainer: &mut Trainer<D>,
    batches: Batches,
    folder: &Path,
    events: &Events,
    interrupt_at: Option<u64>,
) -> Result<Outcome, TrainError> {
    let interrupt = Interrupt::new();
    let mut listener = Listener { events, interrupt: interrupt_at.map(|step| (step, interrupt.clone())) };
    let store = CheckpointStore::new(folder.join("checkpoints"), 9).unwrap();
    let set =
        || ValidationSet { source: "rows".into(), batches: vec![Batches::Rows.batch(99, 0)], bytes: None, pairs: None };
    let metrics = folder.join("metrics.jsonl");
    trainer.run(&Told { batches, events }, &[set()], &store, &metrics, &interrupt, &mut listener)
}

/// The rows of a metrics file without their timing.
fn rows(folder: &Path) -> Vec<MetricsRow> {
    let mut rows = casallm_train::metrics::read(&folder.join("metrics.jsonl")).unwrap();
    rows.iter_mut().for_each(|row| row.timing = Default::default());
    rows
}

/// Reads and rows of steps that are queued one ahead, but for those that a validation or a checkpoint precedes.
fn one_ahead() -> Vec<String> {
    let mut events = Vec::new();
    for step in 1..=STEPS {
        let quiet = |step: u64| step.is_multiple_of(4) || step.is_multiple_of(6);
        if step == 1 || quiet(step - 1) {
            events.push(format!("read {step}"));
        }
        if step < STEPS && !quiet(step) {
            events.push(format!("read {}", step + 1));
        }
        events.push(format!("row {step}"));
    }
    events
}

#[test]
fn a_run_is_queued_a_step_ahead_and_is_what_its_steps_are() {
    let (Some((_, device)), Some((_, apart))) = (gpu(true), gpu(false)) else { return };
    let (folder, events) = (tempfile::tempdir().unwrap(), Events::default());
    let mut whole = trainer(&device, MatrixUpdate::AdamW, 0.1);
    let outcome = run(&mut whole, Batches::Documents, folder.path(), &events, None).unwrap();
    assert!(matches!(outcome, Outcome::Finished(_)));
    assert_eq!(*events.borrow(), one_ahead());
    let mut by_steps = trainer(&apart, MatrixUpdate::AdamW, 0.1);
    let (results, end) = steps(&mut by_steps, Batches::Documents, STEPS);
    assert!(weights(&whole) == end);
    let told = rows(folder.path());
    assert_eq!(told.len(), STEPS as usize);
    for (i, (row, [loss, norm])) in told.iter().zip(results).enumerate() {
        assert_eq!((row.step, row.tokens), (i as u64 + 1, 2 * TOKENS as u64 * (i as u64 + 1)));
        assert_eq!(row.loss.zip(row.grad_norm).map(|(l, n)| [l.to_bits(), n.to_bits()]), Some([loss, norm]));
        assert_eq!(row.val_loss.is_some(), [4, 8, 10].contains(&row.step));
    }
    // Stopped with a step queued: that one is finished first. Then resumed.
    let Some((_, device)) = gpu(true) else { return };
    let (stopped, events) = (tempfile::tempdir().unwrap(), Events::default());
    let mut first = trainer(&device, MatrixUpdate::AdamW, 0.1);
    let outcome = run(&mut first, Batches::Documents, stopped.path(), &events, Some(2)).unwrap();
    assert_eq!(outcome, Outcome::Interrupted(3));
    assert_eq!(rows(stopped.path()), told[..3]);
    let mut second = trainer(&device, MatrixUpdate::AdamW, 0.1);
    run(&mut second, Batches::Documents, stopped.path(), &events, None).unwrap();
    assert!(weights(&second) == end && rows(stopped.path()) == told);
}

#[test]
fn the_processor_is_not_queued_ahead() {
    let (folder, events) = (tempfile::tempdir().unwrap(), Events::default());
    run(&mut trainer(&cpu(), MatrixUpdate::AdamW, 0.0), Batches::Rows, folder.path(), &events, None).unwrap();
    let in_turn: Vec<String> = (1..=STEPS).flat_map(|step| [format!("read {step}"), format!("row {step}")]).collect();
    assert_eq!(*events.borrow(), in_turn);
}

/// The step behind it has been queued by then: neither updates, and the error names the one that was at fault.
#[test]
fn a_step_that_is_not_finite_lets_none_behind_it_update() {
    for matrices in [MatrixUpdate::AdamW, MUON] {
        let (Some((_, device)), Some((_, apart))) = (gpu(true), gpu(false)) else { return };
        let (folder, events) = (tempfile::tempdir().unwrap(), Events::default());
        let mut trainer_of_run = trainer(&device, matrices, 0.0);
        let error = run(&mut trainer_of_run, Batches::Bad(2), folder.path(), &events, None).unwrap_err();
        assert!(
            matches!(&error, TrainError::NonFinite { step: 3, what: "the loss", batch, .. } if batch == "batch 2"),
            "{error}"
        );
        let read = ["read 1", "read 2", "row 1", "read 3", "row 2", "read 4"];
        assert_eq!(*events.borrow(), read);
        assert_eq!(rows(folder.path()).len(), 2);
        let (_, good) = steps(&mut trainer(&apart, matrices, 0.0), Batches::Rows, 2);
        assert!(weights(&trainer_of_run) == good, "{matrices:?}: weights changed");
    }
}

#[test]
fn a_graph_that_cannot_be_made_is_a_note_and_nothing_else() {
    let (Some((simulator, device)), Some((_, plain))) = (gpu(true), gpu(false)) else { return };
    simulator.refuse_graphs("this one has none");
    let (folder, events) = (tempfile::tempdir().unwrap(), Events::default());
    let mut refused = trainer(&device, MatrixUpdate::AdamW, 0.0);
    run(&mut refused, Batches::Rows, folder.path(), &events, None).unwrap();
    let events = events.into_inner();
    let notes: Vec<&String> = events.iter().filter(|event| event.starts_with("note")).collect();
    assert!(notes.len() == 1 && notes[0].contains("no CUDA graphs") && notes[0].contains("this one has none"));
    assert_eq!(simulator.graphs(), (0, 0, 0));
    let (_, want) = steps(&mut trainer(&plain, MatrixUpdate::AdamW, 0.0), Batches::Rows, STEPS);
    assert!(weights(&refused) == want);
}
