//! The optimizer: which update each parameter gets, and the state that update keeps.
//!
//! AdamW for everything, or Muon for the matrices of the blocks with AdamW for the rest (embedding, head, vectors).
//! Decay is on matrices only. The trainer calls [`Optimizer::step`] once per optimizer step and stores
//! [`Optimizer::state`] in checkpoints.

use casallm_compute::{AdamW, AdamWTensor, DType, Device, Muon};
use casallm_model::config::{Activation, ModelConfig};
use casallm_model::error::ModelError;
use casallm_model::memory::MemoryPlan;
use casallm_model::parameters::Parameters;
use casallm_model::specification::{ParameterKind, ParameterSpec};
use casallm_model::training::Gradients;

/// Which update the blocks' matrices get.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MatrixUpdate {
    /// AdamW, as everything else.
    AdamW,
    /// Muon of that learning rate (at the schedule's peak) and momentum.
    Muon {
        /// Peak learning rate; the schedule scales it as it scales AdamW's.
        lr: f32,
        /// Nesterov momentum.
        momentum: f32,
    },
}

/// Settings that do not change during a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OptimizerConfig {
    /// For the blocks' matrices.
    pub matrices: MatrixUpdate,
    /// AdamW's first-moment decay.
    pub beta1: f32,
    /// AdamW's second-moment decay.
    pub beta2: f32,
    /// AdamW's denominator offset.
    pub eps: f32,
    /// Decoupled decay of matrices and the embedding.
    pub weight_decay: f32,
}

/// What a parameter's update remembers.
enum State<B> {
    AdamW([B; 2]),
    Muon { momentum: B, row_blocks: Vec<usize>, columns: usize },
}

/// The state of every parameter, in canonical order.
pub struct Optimizer<D: Device> {
    config: OptimizerConfig,
    states: Vec<State<D::Buffer>>,
}

/// Rows that Muon treats as separate matrices: queries, keys, values; gate and up.
fn row_blocks(config: &ModelConfig, spec: &ParameterSpec) -> Vec<usize> {
    if spec.name.ends_with("attn.qkv.weight") {
        vec![config.attention_width(), config.kv_width(), config.kv_width()]
    } else if spec.name.ends_with("mlp.up.weight") && config.activation == Activation::SwiGlu {
        vec![config.n_ff, config.n_ff]
    } else {
        vec![spec.shape[0]]
    }
}

fn uses_muon(config: &OptimizerConfig, spec: &ParameterSpec) -> bool {
    matches!(config.matrices, MatrixUpdate::Muon { .. })
        && spec.kind == ParameterKind::Matrix
        && spec.name.starts_with("layers.")
}

impl<D: Device> Optimizer<D> {
    /// Zeroed state for every parameter.
    ///
    /// # Errors
    /// The memory cannot be had.
    pub fn new(device: &D, model: &ModelConfig, config: OptimizerConfig) -> Result<Self, ModelError> {
        let state = |spec: &ParameterSpec| {
            let buffer = || device.allocate(&format!("moment of {}", spec.name), DType::F32, spec.len());
            Ok(if uses_muon(&config, spec) {
                let row_blocks = row_blocks(model, spec);
                State::Muon { momentum: buffer()?, row_blocks, columns: spec.shape[1] }
            } else {
                State::AdamW([buffer()?, buffer()?])
            })
        };
        let states = model.parameters().iter().map(state).collect::<Result<_, ModelError>>()?;
        Ok(Optimizer { config, states })
    }

    /// What [`Optimizer::new`] would allocate, added to a plan.
    pub fn plan(model: &ModelConfig, config: &OptimizerConfig, plan: &mut MemoryPlan) {
        let bytes = |spec: &ParameterSpec| spec.len() as u64 * if uses_muon(config, spec) { 4 } else { 8 };
        plan.add("optimizer moments", model.parameters().iter().map(bytes).sum());
    }

    /// One update of every parameter, scaled by clipping or left undone as the tally says. `step` counts from 1; `lr` is
    /// AdamW's rate now, `lr_share` what share of the peak that is (for Muon's own rate).
    pub fn step(
        &mut self,
        parameters: &mut Parameters<D>,
        gradients: &Gradients<D::Buffer>,
        step: u64,
        (lr, lr_share): (f32, f32),
        tally: &D::Tally,
    ) {
        let device = parameters.device().clone();
        let OptimizerConfig { matrices, beta1, beta2, eps, weight_decay } = self.config;
        let decays: Vec<bool> = (0..parameters.len()).map(|i| parameters.spec(i).decays()).collect();
        let mut tensors = Vec::new();
        for (i, (state, (weight, matrix))) in self.states.iter_mut().zip(parameters.all_mut()).enumerate() {
            let weight_decay = if decays[i] { weight_decay } else { 0.0 };
            let gradient = gradients.get(i);
            match (state, matrices) {
                (State::Muon { momentum, row_blocks, columns }, MatrixUpdate::Muon { lr, momentum: decay }) => {
                    let update = Muon { lr: lr * lr_share, momentum: decay, weight_decay, gradient_scale: 1.0 };
                    device.muon_by_tally(&update, (row_blocks, *columns), weight, gradient, momentum, tally);
                    if let Some(matrix) = matrix {
                        device.pack(weight, matrix);
                    }
                }
                (State::AdamW([m, v]), _) => {
                    tensors.push(AdamWTensor { weight, matrix, gradient, moments: [m, v], weight_decay });
                }
                (State::Muon { .. }, MatrixUpdate::AdamW) => unreachable!("state is made from the same config"),
            }
        }
        let update = AdamW { lr, beta1, beta2, eps, weight_decay, step, gradient_scale: 1.0 };
        device.adamw_all(&update, tensors, tally);
    }

    /// The buffers of parameter `i`'s state with their names, for checkpoints.
    pub fn state(&self, i: usize) -> Vec<(&'static str, &D::Buffer)> {
        match &self.states[i] {
            State::AdamW([m, v]) => vec![("first_moment", m), ("second_moment", v)],
            State::Muon { momentum, .. } => vec![("momentum", momentum)],
        }
    }

    /// The same buffers, to be filled from a checkpoint.
    pub fn state_mut(&mut self, i: usize) -> Vec<(&'static str, &mut D::Buffer)> {
        match &mut self.states[i] {
            State::AdamW([m, v]) => vec![("first_moment", m), ("second_moment", v)],
            State::Muon { momentum, .. } => vec![("momentum", momentum)],
        }
    }
}
