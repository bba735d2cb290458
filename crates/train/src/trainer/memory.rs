//! What a run takes of memory, before it takes it.

use casallm_compute::{Device, MatrixFormat};
use casallm_model::config::ModelConfig;
use casallm_model::memory::MemoryPlan;
use casallm_model::network::Network;
use casallm_model::workspace::{self, WorkspaceShape};

use super::TrainerConfig;
use crate::optimizer::Optimizer;
use crate::recipe::Stage;
use crate::{samples, snapshot};

/// Bytes of a token in a batch: its id, its target, its weight, and its share of the boundaries at most.
const BATCH_BYTES: u64 = 16;

/// What a plan calls the copy of a checkpoint.
pub const COPY: &str = "copy of a checkpoint";

/// What [`Trainer::new`](super::Trainer::new) and its network allocate, the batches of a step, which are read together, and the copy that a
/// checkpoint is written from.
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
    if config.samples > 0 {
        plan.add("cache and workspace of samples", samples::bytes(device, model, format, config.samples));
    }
    if config.stage == Stage::Dpo {
        plan.add_host("losses and weights of pairs", 8 * config.micro_tokens as u64);
    }
    if config.background && config.checkpoint_every < u64::MAX {
        plan.add_host(COPY, snapshot::bytes(model, &config.optimizer));
    }
    plan
}

pub(super) fn shape(config: &TrainerConfig, matrices: MatrixFormat) -> WorkspaceShape {
    let (tokens, sequence, dtype) = (config.micro_tokens, config.context, matrices.activations());
    WorkspaceShape { tokens, sequence, dtype, matrices, training: Some(config.recompute) }
}
