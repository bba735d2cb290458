//! What fits: the memory of a stage at each level of recomputation, and the choice that `auto` in a recipe means.
//!
//! The rule: of all levels the least recomputation at which a micro-batch of 8,192 tokens fits is taken, or where there is
//! none, the level of the largest micro-batch; the micro-batch is the largest that fits, divides the step's rows evenly,
//! and has at most 32,768 tokens. (Where the step's rows allow no 8,192 tokens, the most that they allow stand for them.)
//! On a device whose memory is the host's, shared with everything else that runs there, the search starts at `light`. It looks
//! at nothing but the plan and the memory, so that the same memory gives the same choice.

use casallm_compute::{Device, MatrixFormat};
use casallm_model::config::ModelConfig;
use casallm_model::error::ModelError;
use casallm_model::memory::MemoryPlan;
use casallm_model::workspace::Recompute;

use crate::error::TrainError;
use crate::recipe::{PAIR_ROWS, Stage};
use crate::trainer::{TrainerConfig, plan};

/// Tokens of a micro-batch that keep the matrix kernels busy.
pub const ENOUGH_TOKENS: usize = 8192;
/// Tokens beyond which a larger micro-batch gains nothing.
pub const MOST_TOKENS: usize = 32_768;

/// What a recipe leaves open is `None`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked {
    /// Rows of a micro-batch.
    pub micro_batch: Option<usize>,
    /// Level of recomputation.
    pub recompute: Option<Recompute>,
}

/// A level of recomputation and what it allows.
#[derive(Clone, Debug)]
pub struct Level {
    /// The level.
    pub recompute: Recompute,
    /// Rows of the largest micro-batch that fits, `None` where none does.
    pub micro_batch: Option<usize>,
    /// The memory at that micro-batch, or at the smallest.
    pub plan: MemoryPlan,
}

/// Micro-batch, recomputation and the memory that they take.
#[derive(Clone, Debug)]
pub struct MemoryChoice {
    /// Rows of a micro-batch.
    pub micro_batch: usize,
    /// Level of recomputation.
    pub recompute: Recompute,
    /// Every entry.
    pub plan: MemoryPlan,
    /// Bytes that may be taken, where known.
    pub available: Option<u64>,
}

/// A stage to be planned for: everything but micro-batch and recomputation is decided.
pub struct Planner<'a, D> {
    /// Whose memory.
    pub device: &'a D,
    /// The model.
    pub model: &'a ModelConfig,
    /// How the matrices of the blocks are held.
    pub matrices: MatrixFormat,
    /// The stage.
    pub config: &'a TrainerConfig,
    /// Bytes that may be taken, where known.
    pub available: Option<u64>,
}

impl<D: Device> Planner<'_, D> {
    /// The memory of one micro-batch and level.
    pub fn plan(&self, micro_batch: usize, recompute: Recompute) -> MemoryPlan {
        let micro_tokens = micro_batch.saturating_mul(self.config.context);
        plan(self.device, self.model, self.matrices, &TrainerConfig { micro_tokens, recompute, ..self.config.clone() })
    }

    /// Micro-batches to choose from, largest first.
    fn candidates(&self) -> Vec<usize> {
        let rows = (self.config.step_tokens / self.config.context).max(1);
        let least = if self.config.stage == Stage::Dpo { PAIR_ROWS } else { 1 };
        let most = (MOST_TOKENS / self.config.context).clamp(1, rows);
        let divides = |candidate: &usize| rows.is_multiple_of(*candidate);
        let found: Vec<usize> = (least..=most).rev().filter(divides).collect();
        if found.is_empty() { (least..=rows).find(divides).into_iter().collect() } else { found }
    }

    /// What a level allows, of these micro-batches (largest first).
    fn level(&self, recompute: Recompute, candidates: &[usize]) -> Level {
        let smallest = candidates.last().copied().unwrap_or(1);
        let fits = |rows: &usize| self.available.is_none_or(|bytes| self.plan(*rows, recompute).total() <= bytes);
        let micro_batch = candidates.iter().copied().find(fits);
        Level { recompute, micro_batch, plan: self.plan(micro_batch.unwrap_or(smallest), recompute) }
    }

    /// What each level allows, the least recomputation first.
    pub fn levels(&self) -> Vec<Level> {
        let candidates = self.candidates();
        Recompute::ALL.iter().map(|recompute| self.level(*recompute, &candidates)).collect()
    }

    /// The choice that the module's rule makes of what was asked.
    ///
    /// # Errors
    /// [`TrainError::DoesNotFit`], naming what would.
    pub fn choose(&self, asked: Asked) -> Result<MemoryChoice, TrainError> {
        let candidates = asked.micro_batch.map_or_else(|| self.candidates(), |rows| vec![rows]);
        let largest = candidates.first().copied().unwrap_or(1);
        let enough = largest.min((ENOUGH_TOKENS / self.config.context).max(1));
        let mut best: Option<Level> = None;
        let mut smallest = None;
        let skipped = usize::from(self.device.is_host());
        for recompute in asked.recompute.map_or(Recompute::ALL[skipped..].to_vec(), |level| vec![level]) {
            let level = self.level(recompute, &candidates);
            match level.micro_batch {
                Some(rows) if best.as_ref().and_then(|best| best.micro_batch).is_none_or(|best| rows > best) => {
                    best = Some(level);
                    if rows >= enough {
                        break;
                    }
                }
                Some(_) => {}
                None => smallest = Some(level.plan),
            }
        }
        match best {
            Some(Level { recompute, micro_batch: Some(micro_batch), plan }) => {
                Ok(MemoryChoice { micro_batch, recompute, plan, available: self.available })
            }
            _ => Err(self.refusal(&smallest.unwrap_or_default(), asked)),
        }
    }

    /// Why the smallest plan does not fit, and what would.
    fn refusal(&self, smallest: &MemoryPlan, asked: Asked) -> TrainError {
        let Err(ModelError::Compute(plan)) = smallest.check(self.available) else {
            unreachable!("a plan that was found too large")
        };
        let open = Asked::default();
        let remedy = match (asked.micro_batch.or(asked.recompute.map(|_| 0)), self.choose_open(open)) {
            (Some(_), Some(choice)) => format!(
                "micro_batch = {} with recompute = \"{}\" would fit; \"auto\" finds it for both keys",
                choice.micro_batch,
                choice.recompute.name()
            ),
            _ => "not even one row with recompute = \"block\" fits: it takes pretrain.moments = \"8bit\", on a processor \
                  run.checkpoint = \"between_steps\", on a GPU run.offload = \"optimizer\", or a device with more memory"
                .to_owned(),
        };
        TrainError::DoesNotFit { plan: Box::new(plan), remedy }
    }

    fn choose_open(&self, open: Asked) -> Option<MemoryChoice> {
        let smallest = self.plan(self.candidates().last().copied().unwrap_or(1), Recompute::Block);
        smallest.check(self.available).ok().and_then(|()| self.choose(open).ok())
    }
}
