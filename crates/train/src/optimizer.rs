//! The optimizer: which update each parameter gets, and the state that update keeps.
//!
//! AdamW for everything, or Muon for the matrices of the blocks with AdamW for the rest (embedding, head, vectors).
//! Decay is on matrices only. The trainer calls [`Optimizer::step`] once per optimizer step and stores
//! [`Optimizer::state`] in checkpoints.
//!
//! The state of matrices and of the embedding may be kept in less memory ([`MomentFormat`]; Muon's momentum in bf16 at
//! least) and, with their f32 values, in the host's. That of vectors, a thousandth of all, is f32 on the device always.

use casallm_compute::{AdamW, AdamWTensor, Device, MomentFormat, Muon, MuonTensor, Place, Rounding};
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
    /// How moments of matrices and the embedding lie in memory.
    pub moments: MomentFormat,
    /// How weights become the bf16 that products read.
    pub weight_rounding: Rounding,
    /// Where the state of matrices and the embedding lies, and where their f32 values do.
    pub place: Place,
}

/// AdamW as recipes have it where they say nothing else: GPT-3's (Brown et al. 2020).
impl Default for OptimizerConfig {
    fn default() -> Self {
        OptimizerConfig {
            matrices: MatrixUpdate::AdamW,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: 0.1,
            moments: MomentFormat::F32,
            weight_rounding: Rounding::Nearest,
            place: Place::Device,
        }
    }
}

/// What a parameter's update remembers.
enum State<B> {
    AdamW([B; 2]),
    Muon { momentum: B, row_blocks: Vec<usize>, columns: usize },
}

/// A buffer of a parameter's state.
pub struct StateBuffer<B> {
    /// What it is, for checkpoints.
    pub name: &'static str,
    /// How it lies in memory.
    pub format: MomentFormat,
    /// The buffer, `&B` or `&mut B`.
    pub buffer: B,
}

/// The state of every parameter, in canonical order.
pub struct Optimizer<D: Device> {
    config: OptimizerConfig,
    seed: u64,
    states: Vec<State<D::Buffer>>,
    formats: Vec<MomentFormat>,
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

/// How a parameter's state lies in memory, and where.
fn residence(config: &OptimizerConfig, spec: &ParameterSpec) -> (MomentFormat, Place) {
    match (spec.kind, config.moments) {
        (ParameterKind::Vector, _) => (MomentFormat::F32, Place::Device),
        (_, MomentFormat::Bits8) if uses_muon(config, spec) => (MomentFormat::Bf16, config.place),
        (_, format) => (format, config.place),
    }
}

/// Bytes of the state of all parameters, wherever it lies.
pub(crate) fn state_bytes(model: &ModelConfig, config: &OptimizerConfig) -> u64 {
    state_bytes_at(model, config, None)
}

fn state_bytes_at(model: &ModelConfig, config: &OptimizerConfig, place: Option<Place>) -> u64 {
    let there = |spec: &ParameterSpec| {
        let (format, at) = residence(config, spec);
        let buffers = if uses_muon(config, spec) { 1 } else { 2 };
        if place.is_none_or(|place| at == place) { buffers * format.bytes(spec.len()) as u64 } else { 0 }
    };
    model.parameters().iter().map(there).sum()
}

/// Of a tensor's stochastic rounding at a step (SplitMix64's finaliser over all that distinguishes it).
fn rounding_seed(seed: u64, step: u64, tensor: usize) -> u64 {
    let mut x = seed;
    for part in [step, tensor as u64] {
        x = x.wrapping_add(part).wrapping_add(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^= x >> 31;
    }
    x
}

impl<D: Device> Optimizer<D> {
    /// Zeroed state for every parameter. The seed is that of stochastic rounding.
    ///
    /// # Errors
    /// The memory cannot be had.
    pub fn new(device: &D, model: &ModelConfig, config: OptimizerConfig, seed: u64) -> Result<Self, ModelError> {
        let state = |spec: &ParameterSpec| {
            let (format, place) = residence(&config, spec);
            let (name, len) = (format!("moment of {}", spec.name), format.buffer_len(spec.len()));
            let buffer = || device.allocate_at(place, &name, format.dtype(), len);
            Ok(if uses_muon(&config, spec) {
                let row_blocks = row_blocks(model, spec);
                State::Muon { momentum: buffer()?, row_blocks, columns: spec.shape[1] }
            } else {
                State::AdamW([buffer()?, buffer()?])
            })
        };
        let states = model.parameters().iter().map(state).collect::<Result<_, ModelError>>()?;
        let formats = model.parameters().iter().map(|spec| residence(&config, spec).0).collect();
        Ok(Optimizer { config, seed, states, formats })
    }

    /// What [`Optimizer::new`] would allocate, added to a plan.
    pub fn plan(model: &ModelConfig, config: &OptimizerConfig, plan: &mut MemoryPlan) {
        for place in [Place::Device, Place::Host] {
            match state_bytes_at(model, config, Some(place)) {
                0 => {}
                bytes => plan.add_at(place, "optimizer moments", bytes),
            }
        }
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
        let OptimizerConfig { matrices, beta1, beta2, eps, weight_decay, weight_rounding, .. } = self.config;
        let decays: Vec<bool> = (0..parameters.len()).map(|i| parameters.spec(i).decays()).collect();
        let (mut by_muon, mut by_adamw) = (Vec::new(), Vec::new());
        for (i, (state, (weight, matrix))) in self.states.iter_mut().zip(parameters.all_mut()).enumerate() {
            let gradient = gradients.get(i);
            let seed = rounding_seed(self.seed, step, i);
            match state {
                // Matrices, which all decay.
                State::Muon { momentum, row_blocks, columns } => {
                    let columns = *columns;
                    by_muon.push(MuonTensor { weight, matrix, gradient, momentum, row_blocks, columns, seed });
                }
                State::AdamW([m, v]) => {
                    let weight_decay = if decays[i] { weight_decay } else { 0.0 };
                    by_adamw.push(AdamWTensor { weight, matrix, gradient, moments: [m, v], weight_decay, seed });
                }
            }
        }
        // Each tensor has a seed of its own.
        let (gradient_scale, seed) = (1.0, 0);
        if let MatrixUpdate::Muon { lr, momentum } = matrices {
            let lr = lr * lr_share;
            let update = Muon { lr, momentum, weight_decay, gradient_scale, seed, weight_rounding };
            device.muon_all(&update, by_muon, tally);
        }
        let update = AdamW { lr, beta1, beta2, eps, weight_decay, step, gradient_scale, seed, weight_rounding };
        device.adamw_all(&update, by_adamw, tally);
    }

    /// Rounds every matrix as it was after `step` steps, its f32 values being those of then.
    pub fn round_again(&self, parameters: &mut Parameters<D>, step: u64) {
        if self.config.weight_rounding == Rounding::Stochastic {
            let device = parameters.device().clone();
            for (i, (weight, matrix)) in parameters.all_mut().enumerate() {
                if let Some(matrix) = matrix {
                    device.pack_stochastically(weight, matrix, rounding_seed(self.seed, step, i));
                }
            }
        }
    }

    /// The buffers of parameter `i`'s state, for checkpoints.
    pub fn state(&self, i: usize) -> Vec<StateBuffer<&D::Buffer>> {
        let format = self.formats[i];
        match &self.states[i] {
            State::AdamW([m, v]) => named(format, [("first_moment", m), ("second_moment", v)]),
            State::Muon { momentum, .. } => named(format, [("momentum", momentum)]),
        }
    }

    /// The same buffers, to be filled from a checkpoint.
    pub fn state_mut(&mut self, i: usize) -> Vec<StateBuffer<&mut D::Buffer>> {
        let format = self.formats[i];
        match &mut self.states[i] {
            State::AdamW([m, v]) => named(format, [("first_moment", m), ("second_moment", v)]),
            State::Muon { momentum, .. } => named(format, [("momentum", momentum)]),
        }
    }
}

fn named<B, const N: usize>(format: MomentFormat, buffers: [(&'static str, B); N]) -> Vec<StateBuffer<B>> {
    buffers.into_iter().map(|(name, buffer)| StateBuffer { name, format, buffer }).collect()
}
