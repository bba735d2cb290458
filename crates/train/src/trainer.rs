//! The training loop: one for every stage.
//!
//! A step gathers its micro-batches, divides by the supervised tokens of all of them, and updates once. Everything a
//! step does is a function of the settings and the step's number, so that a resumed run repeats an uninterrupted one to
//! the bit. Called by [`crate::stages`]; tells an [`Observer`] how it goes. What is done about steps that the guard does
//! not like stands in `trainer/guarded.rs`, checkpoints in `trainer/saving.rs`.

mod guarded;
mod memory;
mod saving;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use casallm_compute::{Device, DeviceInfo};
use casallm_data::batch::Batch;
use casallm_model::error::ModelError;
use casallm_model::network::Network;
use casallm_model::training::Gradients;
use casallm_model::workspace::{Recompute, Workspace};

use self::memory::shape;
pub use self::memory::{COPY, plan};
use crate::checkpoint::{Best, CheckpointStore};
use crate::diary::Diary;
use crate::error::TrainError;
use crate::events::{Event, What};
use crate::feed::Feed;
use crate::guard::{Guard, GuardConfig};
use crate::interrupt::Interrupt;
use crate::metrics::{Gpu, MetricsLog, MetricsRow, Position, Timing};
use crate::optimizer::{Optimizer, OptimizerConfig};
use crate::pace::Pace;
use crate::preference::{LogProbabilities, PairTotals, PreferenceMetrics};
use crate::recipe::Stage;
use crate::samples::Samples;
use crate::saver::Saver;
use crate::schedule::Schedule;
use crate::validation::{ValidationResult, ValidationSet, evaluate, judge_pairs, view};

/// Settings of a run of one stage.
#[derive(Clone, Debug)]
pub struct TrainerConfig {
    /// The stage.
    pub stage: Stage,
    /// The stage's settings in canonical form: a checkpoint of other settings is refused.
    pub settings: String,
    /// Learning rates; also says how many steps there are.
    pub schedule: Schedule,
    /// Largest gradient norm; 0 does not clip.
    pub clip: f64,
    /// The update.
    pub optimizer: OptimizerConfig,
    /// Steps between validations; the last step always has one.
    pub eval_every: u64,
    /// Steps between checkpoints; the last step always has one. `u64::MAX`: none is written, nor memory planned for it.
    pub checkpoint_every: u64,
    /// Whether checkpoints are copied and written while the next steps run, or from where they are while those wait.
    pub background: bool,
    /// What is done about steps that are out of the ordinary.
    pub guard: GuardConfig,
    /// Seed of dropout.
    pub seed: u64,
    /// Most tokens of a micro-batch.
    pub micro_tokens: usize,
    /// What the backward pass computes again: less memory for more time, the same bits.
    pub recompute: Recompute,
    /// Most tokens of an optimizer step.
    pub step_tokens: usize,
    /// Longest sequence.
    pub context: usize,
    /// Prompts that memory is planned for, see [`Trainer::write_samples`].
    pub samples: usize,
    /// The device's FLOP/s, where measured.
    pub peak: Option<f64>,
}

/// Hears how a run goes.
pub trait Observer {
    /// A step is done.
    fn step(&mut self, row: &MetricsRow, steps: u64);
    /// Something worth a line.
    fn note(&mut self, text: &str);
    /// Something happened to the run: a checkpoint skipped, a run resumed, a spike.
    fn event(&mut self, event: &Event) {
        self.note(&event.to_string());
    }
    /// An event was written of which people need not be told: that a stage begins.
    fn recorded(&mut self, _: &Event) {}
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// All steps are done; the last validation.
    Finished(ValidationResult),
    /// A signal came: this many steps are done and saved.
    Interrupted(u64),
}

/// Everything a stage trains with.
pub struct Trainer<D: Device> {
    network: Network<D>,
    workspace: Workspace<D::Buffer>,
    gradients: Gradients<D::Buffer>,
    optimizer: Optimizer<D>,
    tally: D::Tally,
    /// Steps that the device has been given and that are not accounted for, at most two.
    queued: VecDeque<Queued>,
    /// When the last step was.
    finished: Option<Instant>,
    guard: Guard,
    samples: Option<Samples>,
    /// When the device's sensors were last read.
    sensed: Option<Instant>,
    /// Bytes of the device that the run takes. What the device has given so far is more: it counts what was given back.
    memory: u64,
    config: TrainerConfig,
}

/// What is known of a step before the device has done it.
struct Queued {
    weighed: Weighed,
    lr: f64,
    begun: Instant,
}

/// What a step's gradients are of.
struct Weighed {
    /// Supervised tokens, or preference pairs.
    weight: f64,
    tokens: u64,
    /// What its pairs come to, where it has some.
    pairs: Option<PairTotals>,
}

impl Weighed {
    /// The step's loss: of its pairs, where it has some, else the mean of what the device has added up.
    fn loss(&self, weighted_loss: f64) -> f64 {
        match &self.pairs {
            Some(pairs) => pairs.mean().loss.unwrap_or(f64::NAN),
            None => weighted_loss / self.weight,
        }
    }
}

impl<D: Device> Trainer<D> {
    /// Allocates all memory of the run.
    ///
    /// # Errors
    /// The memory cannot be had.
    pub fn new(network: Network<D>, config: TrainerConfig) -> Result<Self, TrainError> {
        let device = network.device().clone();
        let model = network.config().clone();
        let workspace = Workspace::new(&*device, &model, shape(&config, network.parameters.format()))?;
        let gradients = Gradients::new(&*device, &model)?;
        // Another stream of random numbers than dropout's, though both are functions of seed and stage.
        let rounding_seed = dropout_seed(!config.seed, config.stage, 0, 0);
        let optimizer = Optimizer::new(&*device, &model, config.optimizer, rounding_seed)?;
        let tally = device.allocate_tally().map_err(ModelError::from)?;
        let (queued, finished, guard) = (VecDeque::new(), None, Guard::new(config.guard));
        let (samples, sensed) = (None, None);
        let memory = plan(&*device, &model, network.parameters.format(), &config).on_device();
        Ok(Trainer {
            network,
            workspace,
            gradients,
            optimizer,
            tally,
            queued,
            finished,
            guard,
            samples,
            sensed,
            memory,
            config,
        })
    }

    /// From now on has the model write at each validation, for [`What::Sample`]; not where no memory was planned for it.
    pub fn write_samples(&mut self, samples: Samples) {
        self.samples = (self.config.samples > 0).then_some(samples);
    }

    /// The network, trained so far.
    pub fn network(&self) -> &Network<D> {
        &self.network
    }

    /// Runs step `step`, counted from 0, and waits for it.
    ///
    /// # Errors
    /// A batch cannot be read or does not fit, or the loss or the gradient is not finite: then the parameters are unchanged,
    /// and no later step of this trainer changes them.
    pub fn step(&mut self, feed: &dyn Feed, step: u64) -> Result<StepResult, TrainError> {
        self.queue(feed, step)?;
        let result = self.finish()?;
        match self.guard.judge(result.loss, result.grad_norm).filter(|outlier| outlier.above.is_none()) {
            None => Ok(result),
            Some(outlier) => Err(self.not_finite(feed, step, outlier)),
        }
    }

    /// Has the device do step `step`. Where the device works on its own, nothing is waited for: the step may then be
    /// queued before the last one is finished.
    fn queue(&mut self, feed: &dyn Feed, step: u64) -> Result<(), TrainError> {
        let begun = Instant::now();
        let weighed = self.add_gradients(feed, step, self.guard.batch_of(step))?;
        let device = self.network.device().clone();
        let lr = self.config.schedule.lr(step);
        let rates = (lr as f32, (lr / self.config.schedule.peak) as f32);
        let clip = self.config.clip;
        // Where an outlier may lead to no update, the update waits for the judgement.
        let judged = self.guard.config.decides();
        let updates = !judged || {
            device.clip(&self.gradients.all(), clip, &mut self.tally);
            let totals = device.read_tally(&self.tally);
            self.guard.judge(weighed.loss(totals.head.weighted_loss), totals.gradient_norm).is_none()
        };
        device.together(|| {
            if !judged {
                device.clip(&self.gradients.all(), clip, &mut self.tally);
            }
            if updates {
                self.optimizer.step(&mut self.network.parameters, &self.gradients, step + 1, rates, &self.tally);
            }
        });
        device.post_tally(&mut self.tally);
        self.queued.push_back(Queued { weighed, lr, begun });
        Ok(())
    }

    /// Has the device compute loss and gradients of batch `batch`, as step `step` does.
    fn add_gradients(&mut self, feed: &dyn Feed, step: u64, batch: u64) -> Result<Weighed, TrainError> {
        let batches = feed.micro_batches(batch)?;
        let device = self.network.device().clone();
        let preferences = feed.preferences(batch);
        let weight: f64 = match &preferences {
            Some(preferences) => preferences.references.iter().map(Vec::len).sum::<usize>() as f64,
            None => batches.iter().map(Batch::supervised).sum(),
        };
        if weight == 0.0 {
            let (stage, batch) = (self.config.stage.name(), feed.describe(batch));
            return Err(TrainError::NoBatch { stage, step: step + 1, batch });
        }
        let mut pairs = PairTotals::default();
        let tokens = batches.iter().map(|b| b.tokens.len() as u64).sum();
        device.together(|| {
            self.gradients.clear(&*device);
            device.clear_tally(&mut self.tally);
        });
        for (i, batch) in batches.iter().enumerate() {
            let seed = dropout_seed(self.config.seed, self.config.stage, step, i as u64);
            let scale = (1.0 / weight) as f32;
            let (workspace, gradients, tally) = (&mut self.workspace, &mut self.gradients, &mut self.tally);
            let (network, scale_and_seed) = (&self.network, (scale, seed));
            match &preferences {
                None => network.add_micro_batch(workspace, view(batch), scale_and_seed, gradients, tally)?,
                Some(preferences) => {
                    let (objective, references) = (&preferences.objective, &preferences.references[i]);
                    let weigh = |losses: &[f32]| objective.weigh(batch, losses, references, &mut pairs);
                    network.add_weighed(workspace, view(batch), scale_and_seed, gradients, tally, weigh)?;
                }
            }
        }
        Ok(Weighed { weight, tokens, pairs: preferences.map(|_| pairs) })
    }

    /// Waits for the earliest step that is queued. An update by numbers that are not finite has not happened, nor has any
    /// that was queued behind it.
    fn finish(&mut self) -> Result<StepResult, TrainError> {
        let Queued { weighed, lr, begun } = self.queued.pop_front().expect("a step that is queued");
        let device = self.network.device();
        let totals = device.collect_tally(&mut self.tally);
        device.check()?;
        let (loss, grad_norm) = (weighed.loss(totals.head.weighted_loss), totals.gradient_norm);
        let (preference, tokens) = (weighed.pairs.map(|pairs| pairs.mean()), weighed.tokens);
        // A step that was queued early has been waiting for the one before it.
        let now = Instant::now();
        let seconds = (now - self.finished.replace(now).map_or(begun, |before| begun.max(before))).as_secs_f64();
        Ok(StepResult { loss, preference, grad_norm, tokens, lr, seconds })
    }

    /// Whether step `step`, counted from 0, may be queued while the one before it is under way: not if something comes
    /// between the two that needs the parameters as they are there.
    fn may_run_ahead(&self, step: u64, interrupt: &Interrupt) -> bool {
        let TrainerConfig { eval_every, checkpoint_every, schedule, .. } = &self.config;
        let stops = [*eval_every, *checkpoint_every].iter().any(|every| step.is_multiple_of(*every));
        let decided = self.guard.config.decides();
        self.network.device().runs_ahead() && step < schedule.steps && !stops && !decided && !interrupt.requested()
    }

    /// Evaluates on fixed sets.
    ///
    /// # Errors
    /// A batch does not fit.
    pub fn validate(&mut self, sets: &[ValidationSet]) -> Result<ValidationResult, TrainError> {
        evaluate(&self.network, &mut self.workspace, sets)
    }

    /// The log-probabilities of the pairs of a batch, by the network as it is.
    ///
    /// # Errors
    /// The batch does not fit.
    pub fn judge_pairs(&mut self, batch: &Batch) -> Result<Vec<LogProbabilities>, TrainError> {
        judge_pairs(&self.network, &mut self.workspace, batch)
    }

    /// Runs from the last good checkpoint, or from the beginning, to the end of the schedule or to an interruption.
    ///
    /// # Errors
    /// Whatever a step, a validation, a checkpoint or the metrics file can fail with. What was saved stays.
    pub fn run(
        &mut self,
        feed: &dyn Feed,
        validation: &[ValidationSet],
        store: &CheckpointStore,
        metrics_path: &std::path::Path,
        interrupt: &Interrupt,
        observer: &mut dyn Observer,
    ) -> Result<Outcome, TrainError> {
        // The run ends only when the thread that writes checkpoints has: a scope waits for its threads.
        std::thread::scope(|scope| {
            let saver = Saver::new(store, self.config.background, scope);
            self.run_saving(feed, validation, saver, metrics_path, interrupt, observer)
        })
    }

    fn run_saving(
        &mut self,
        feed: &dyn Feed,
        validation: &[ValidationSet],
        mut saver: Saver<'_>,
        metrics_path: &std::path::Path,
        interrupt: &Interrupt,
        observer: &mut dyn Observer,
    ) -> Result<Outcome, TrainError> {
        let stage = self.config.stage;
        let mut told = Vec::new();
        let resumed = self.resume(saver.store(), &mut told);
        let (mut step, mut progress) = resumed.inspect_err(|_| {
            told.drain(..).for_each(|what| observer.event(&Event { what, step: 0, stage }));
        })?;
        let steps = self.config.schedule.steps;
        let begun = told.contains(&What::Resumed).then_some(Position { step, lines: progress.lines });
        self.check_room(saver.store(), step)?;
        let mut diary = Diary::new(stage, MetricsLog::open(metrics_path, stage, begun)?, observer);
        for what in told {
            // Of a run that is done nothing more is written.
            if step < steps { diary.event(step, what)? } else { diary.say(step, what) }
        }
        if step < steps {
            let DeviceInfo { name, isa, threads } = self.network.device().info();
            let device = match threads {
                1 => format!("{name} ({isa})"),
                threads => format!("{name} ({isa}, {threads} threads)"),
            };
            if self.config.checkpoint_every < u64::MAX {
                saver.reserve(&self.network.parameters, &self.optimizer)?;
            }
            diary.record(step, What::Began { steps, tokens_per_step: self.config.step_tokens as u64, device })?;
        }
        let flops = self.network.config().flops_per_token(self.config.context) as f64;
        let mut pace = Pace::new();
        let mut last = ValidationResult::default();
        // Seconds that the steps have waited for a checkpoint since the last row.
        let mut waited = None;
        if step == steps {
            last = self.validate(validation)?;
        }
        if step == 0 && diary.lines() == 0 && validation.iter().any(|set| set.pairs.is_some()) {
            // What the pairs and the text are like before: what comes after is only worth something beside it.
            let mut row = MetricsRow::before(self.config.stage);
            row.set_validation(&self.validate(validation)?);
            diary.row(&row, steps)?;
        }
        // Behind that row, which a run that goes back to here keeps.
        if step == 0 && begun.is_none() && self.config.guard.goes_back() {
            self.save(&mut saver, &mut diary, (step, false), &mut progress, None)?;
        }
        while step < steps {
            if self.queued.is_empty() {
                self.queue(feed, step)?;
            }
            // One step ahead, so that neither reading batches nor starting work keeps the device waiting. What goes wrong
            // with that step is said after this one has been accounted for.
            let ahead = match self.queued.len() < 2 && self.may_run_ahead(step + 1, interrupt) {
                true => self.queue(feed, step + 1),
                false => Ok(()),
            };
            let result = self.finish()?;
            let updated = match self.guard.judge(result.loss, result.grad_norm) {
                None => {
                    self.guard.take(result.loss, result.grad_norm);
                    true
                }
                Some(outlier) => match self.handle(outlier, (feed, step), &mut saver, &mut diary, &mut progress)? {
                    guarded::Handled::GoneBack(to) => {
                        step = to;
                        continue;
                    }
                    guarded::Handled::Updated => true,
                    guarded::Handled::NotUpdated => false,
                },
            };
            step += 1;
            let speed = result.tokens as f64 / result.seconds;
            progress.tokens += if updated { result.tokens } else { 0 };
            progress.seconds += result.seconds;
            let mut row = MetricsRow {
                step,
                stage,
                tokens: progress.tokens,
                loss: Some(result.loss),
                val_loss: None,
                bits_per_byte: None,
                val: Default::default(),
                accuracy: None,
                preference: result.preference,
                val_preference: None,
                lr: result.lr,
                grad_norm: Some(result.grad_norm),
                timing: Timing {
                    seconds: Some(progress.seconds),
                    tokens_per_s: Some(speed),
                    flop_utilisation: self.config.peak.map(|peak| speed * flops / peak),
                    checkpoint_s: waited.take(),
                    memory_bytes: Some(self.memory),
                    gpu: self.sense(),
                },
            };
            let mut improved = None;
            let validated = step.is_multiple_of(self.config.eval_every) || step == steps;
            let regular = step.is_multiple_of(self.config.checkpoint_every) || step == steps;
            if validated {
                last = self.validate(validation)?;
                row.set_validation(&last);
                let objective = last.objective();
                // The best of the checkpoints, and of those that are there whether the run is stopped or not.
                let better = progress.best.is_none_or(|best| objective < best.val_loss);
                if regular && objective.is_finite() && better {
                    progress.best = Some(Best { step, val_loss: objective });
                    improved = Some(objective);
                }
            }
            diary.row(&row, steps)?;
            if let Some(samples) = self.samples.as_ref().filter(|_| validated) {
                for (prompt, text) in samples.write(&self.network)? {
                    diary.event(step, What::Sample { prompt, text })?;
                }
            }
            for what in [pace.step(result.seconds), pace.clock()].into_iter().flatten() {
                diary.event(step, what)?;
            }
            if let Some(text) = self.network.device().take_note() {
                diary.event(step, What::Note { text })?;
            }
            if let Some(saved) = saver.poll() {
                saving::say_failed(saved, &mut diary)?;
            }
            ahead?;
            // What is queued is part of the run: it is finished first.
            let stop = interrupt.requested() && step < steps && self.queued.is_empty();
            if regular || stop {
                let last = stop || step == steps;
                waited = Some(self.save(&mut saver, &mut diary, (step, last), &mut progress, improved)?);
            }
            if stop {
                return Ok(Outcome::Interrupted(step));
            }
        }
        Ok(Outcome::Finished(last))
    }

    /// The device's sensors, every few seconds: reading them takes milliseconds.
    fn sense(&mut self) -> Option<Gpu> {
        const EVERY: Duration = Duration::from_secs(5);
        if self.sensed.is_some_and(|last| last.elapsed() < EVERY) {
            return None;
        }
        self.sensed = Some(Instant::now());
        self.network.device().sensors().map(Gpu::from)
    }
}

/// What a step reports.
#[derive(Clone, Copy, Debug)]
pub struct StepResult {
    /// Mean loss over the supervised tokens, nats, or over the pairs.
    pub loss: f64,
    /// How its pairs are judged, where it has some.
    pub preference: Option<PreferenceMetrics>,
    /// Global norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Tokens read.
    pub tokens: u64,
    /// Learning rate.
    pub lr: f64,
    /// From the end of the step before, or from this one's beginning if that was later, to its end.
    pub seconds: f64,
}

/// A seed for each micro-batch (SplitMix64's finaliser over all that distinguishes it).
fn dropout_seed(seed: u64, stage: Stage, step: u64, micro_batch: u64) -> u64 {
    let mut x = seed ^ (stage as u64) << 62;
    for part in [step, micro_batch] {
        x = x.wrapping_add(part).wrapping_add(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^= x >> 31;
    }
    x
}
