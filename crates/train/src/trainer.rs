//! The training loop: one for every stage.
//!
//! A step gathers its micro-batches, divides by the supervised tokens of all of them, and updates once. Everything a
//! step does is a function of the settings and the step's number, so that a resumed run repeats an uninterrupted one to
//! the bit. Called by [`crate::stages`]; tells an [`Observer`] how it goes.

use std::collections::VecDeque;
use std::time::Instant;

use casallm_compute::{Device, DeviceInfo, MatrixFormat};
use casallm_data::batch::Batch;
use casallm_model::config::ModelConfig;
use casallm_model::error::ModelError;
use casallm_model::memory::MemoryPlan;
use casallm_model::network::Network;
use casallm_model::training::Gradients;
use casallm_model::workspace::{self, Recompute, Workspace, WorkspaceShape};

use crate::checkpoint::{Best, CheckpointStore};
use crate::error::TrainError;
use crate::feed::Feed;
use crate::interrupt::Interrupt;
use crate::metrics::{MetricsLog, MetricsRow, Timing};
use crate::optimizer::{Optimizer, OptimizerConfig};
use crate::preference::{LogProbabilities, PairTotals, PreferenceMetrics};
use crate::recipe::Stage;
use crate::schedule::Schedule;
use crate::snapshot::{self, Progress};
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
    /// Steps between checkpoints; the last step always has one.
    pub checkpoint_every: u64,
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
    /// The device's FLOP/s, where measured.
    pub peak: Option<f64>,
}

/// Hears how a run goes.
pub trait Observer {
    /// A step is done.
    fn step(&mut self, row: &MetricsRow, steps: u64);
    /// Something worth a line: a checkpoint skipped, a run resumed.
    fn note(&mut self, text: &str);
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
    config: TrainerConfig,
}

/// What is known of a step before the device has done it.
struct Queued {
    step: u64,
    /// Supervised tokens, or preference pairs.
    weight: f64,
    /// What its pairs come to, where it has some.
    pairs: Option<PairTotals>,
    tokens: u64,
    lr: f64,
    begun: Instant,
}

/// Bytes of a token in a batch: its id, its target, its weight, and its share of the boundaries at most.
const BATCH_BYTES: u64 = 16;

/// What [`Trainer::new`] and its network allocate, and the batches of a step, which are read together.
pub fn plan<D: Device>(
    device: &D,
    model: &ModelConfig,
    format: impl Into<MatrixFormat>,
    config: &TrainerConfig,
) -> MemoryPlan {
    use casallm_compute::MatrixUse;
    use casallm_model::parameters::Parameters;
    let (mut plan, format) = (MemoryPlan::of(device), format.into());
    let (values, masters) = (4 * model.n_params() as u64, Parameters::<D>::master_bytes(model));
    plan.add_at(config.optimizer.place, "weights of matrices, f32", masters);
    plan.add("weights of vectors, f32", values - masters);
    plan.add("weights for products", Parameters::bytes(device, model, format, MatrixUse::Training) - values);
    plan.add("gradients", values);
    Optimizer::<D>::plan(model, &config.optimizer, &mut plan);
    workspace::plan(device, model, shape(config, format), &mut plan);
    plan.add("tables and totals", Network::<D>::table_bytes(model) + device.tally_bytes());
    plan.add_host("batches of a step", BATCH_BYTES.saturating_mul(config.step_tokens as u64));
    if config.stage == Stage::Dpo {
        plan.add_host("losses and weights of pairs", 8 * config.micro_tokens as u64);
    }
    plan
}

fn shape(config: &TrainerConfig, matrices: MatrixFormat) -> WorkspaceShape {
    let (tokens, sequence, dtype) = (config.micro_tokens, config.context, matrices.activations());
    WorkspaceShape { tokens, sequence, dtype, matrices, training: Some(config.recompute) }
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
        let (queued, finished) = (VecDeque::new(), None);
        Ok(Trainer { network, workspace, gradients, optimizer, tally, queued, finished, config })
    }

    /// The network, trained so far.
    pub fn network(&self) -> &Network<D> {
        &self.network
    }

    /// Gives the network back.
    pub fn into_network(self) -> Network<D> {
        self.network
    }

    /// Runs step `step`, counted from 0, and waits for it.
    ///
    /// # Errors
    /// A batch cannot be read or does not fit, or the loss or the gradient is not finite: then the parameters are unchanged,
    /// and no later step of this trainer changes them.
    pub fn step(&mut self, feed: &dyn Feed, step: u64) -> Result<StepResult, TrainError> {
        self.queue(feed, step)?;
        self.finish(feed)
    }

    /// Has the device do step `step`. Where the device works on its own, nothing is waited for: the step may then be
    /// queued before the last one is finished.
    fn queue(&mut self, feed: &dyn Feed, step: u64) -> Result<(), TrainError> {
        let begun = Instant::now();
        let batches = feed.micro_batches(step)?;
        let device = self.network.device().clone();
        let preferences = feed.preferences(step);
        let weight: f64 = match &preferences {
            Some(preferences) => preferences.references.iter().map(Vec::len).sum::<usize>() as f64,
            None => batches.iter().map(Batch::supervised).sum(),
        };
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
        let lr = self.config.schedule.lr(step);
        let rates = (lr as f32, (lr / self.config.schedule.peak) as f32);
        device.together(|| {
            device.clip(&self.gradients.all(), self.config.clip, &mut self.tally);
            self.optimizer.step(&mut self.network.parameters, &self.gradients, step + 1, rates, &self.tally);
        });
        device.post_tally(&mut self.tally);
        let pairs = preferences.map(|_| pairs);
        self.queued.push_back(Queued { step, weight, pairs, tokens, lr, begun });
        Ok(())
    }

    /// Waits for the earliest step that is queued. An update by numbers that are not finite has not happened, nor has any
    /// that was queued behind it.
    fn finish(&mut self, feed: &dyn Feed) -> Result<StepResult, TrainError> {
        let Queued { step, weight, pairs, tokens, lr, begun } = self.queued.pop_front().expect("a step that is queued");
        let device = self.network.device();
        let totals = device.collect_tally(&mut self.tally);
        device.check()?;
        let preference = pairs.map(|pairs| pairs.mean());
        let loss = match &preference {
            Some(preference) => preference.loss.unwrap_or(f64::NAN),
            None => totals.head.weighted_loss / weight,
        };
        let grad_norm = totals.gradient_norm;
        for (what, value) in [("the loss", loss), ("the gradient norm", grad_norm)] {
            if !value.is_finite() {
                let (stage, batch) = (self.config.stage.name(), feed.describe(step));
                // What is behind it has been done without its update, and comes to nothing.
                for _ in self.queued.drain(..) {
                    device.collect_tally(&mut self.tally);
                }
                return Err(TrainError::NonFinite { stage, step: step + 1, what, value, batch });
            }
        }
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
        self.network.device().runs_ahead() && step < schedule.steps && !stops && !interrupt.requested()
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
        let (mut step, mut progress) = self.resume(store, observer)?;
        let mut metrics = MetricsLog::open(metrics_path, self.config.stage, (step > 0).then_some(step))?;
        let steps = self.config.schedule.steps;
        let flops = self.network.config().flops_per_token(self.config.context) as f64;
        let mut last_saved = step;
        let mut last = ValidationResult::default();
        if step == steps {
            last = self.validate(validation)?;
        }
        if step == 0 && validation.iter().any(|set| set.pairs.is_some()) {
            // What the pairs and the text are like before: what comes after is only worth something beside it.
            let mut row = MetricsRow::before(self.config.stage);
            row.set_validation(&self.validate(validation)?);
            metrics.append(&row)?;
            observer.step(&row, steps);
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
            let result = self.finish(feed)?;
            step += 1;
            let speed = result.tokens as f64 / result.seconds;
            progress.tokens += result.tokens;
            progress.seconds += result.seconds;
            let mut row = MetricsRow {
                step,
                stage: self.config.stage,
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
                },
            };
            let mut improved = None;
            if step.is_multiple_of(self.config.eval_every) || step == steps {
                last = self.validate(validation)?;
                row.set_validation(&last);
                let objective = last.objective();
                if objective.is_finite() && progress.best.is_none_or(|best| objective < best.val_loss) {
                    progress.best = Some(Best { step, val_loss: objective });
                    improved = Some(objective);
                }
            }
            metrics.append(&row)?;
            observer.step(&row, steps);
            if let Some(note) = self.network.device().take_note() {
                observer.note(&note);
            }
            ahead?;
            // What is queued is part of the run: it is finished first.
            let stop = interrupt.requested() && step < steps && self.queued.is_empty();
            if step.is_multiple_of(self.config.checkpoint_every) || step == steps || stop {
                metrics.sync()?;
                snapshot::save(store, step, &progress, &self.network.parameters, &self.optimizer)?;
                last_saved = step;
            }
            if let (Some(loss), true) = (improved, last_saved == step) {
                store.mark_best(step, loss)?;
            }
            if stop {
                return Ok(Outcome::Interrupted(step));
            }
        }
        Ok(Outcome::Finished(last))
    }

    /// Loads the newest good checkpoint, if any: steps done and what is known of them.
    fn resume(&mut self, store: &CheckpointStore, observer: &mut dyn Observer) -> Result<(u64, Progress), TrainError> {
        let DeviceInfo { name, isa, .. } = self.network.device().info();
        let device_name = format!("{name} ({isa})");
        let latest = store.latest_good()?;
        for skipped in &latest.skipped {
            observer.note(&format!("skipped a damaged checkpoint: {}", skipped.error));
        }
        let Some(mut checkpoint) = latest.checkpoint else {
            if let Some(skipped) = latest.skipped.into_iter().next() {
                // Beginning anew would bury what went wrong, and overwrite it.
                return Err(skipped.error);
            }
            let settings = self.config.settings.clone();
            return Ok((0, Progress { settings, device: device_name, tokens: 0, seconds: 0.0, best: None }));
        };
        let saved: Progress = checkpoint.meta()?;
        if saved.settings != self.config.settings {
            return Err(TrainError::RecipeChanged {
                path: checkpoint.path().to_owned(),
                differences: differences(&saved.settings, &self.config.settings),
            });
        }
        let mut progress = snapshot::load(&mut checkpoint, &mut self.network.parameters, &mut self.optimizer)?;
        if progress.device != device_name {
            observer.note(&format!(
                "the checkpoint was made on {}; on {device_name} the run goes on, but not to the same bits",
                progress.device
            ));
            progress.device = device_name;
        }
        if let Some(best) = progress.best.filter(|best| best.step == checkpoint.step()) {
            // The process may have ended between saving this checkpoint and marking it.
            store.mark_best(best.step, best.val_loss)?;
        }
        observer.note(&format!("resumed {} after step {}", self.config.stage.name(), checkpoint.step()));
        Ok((checkpoint.step(), progress))
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

/// Lines that differ between two canonical settings.
fn differences(saved: &str, now: &str) -> String {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<std::collections::BTreeSet<_>>();
    let (saved, now) = (lines(saved), lines(now));
    let was = saved.difference(&now).map(|line| format!("was `{line}`"));
    let is = now.difference(&saved).map(|line| format!("is `{line}`"));
    was.chain(is).collect::<Vec<_>>().join(", ")
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
