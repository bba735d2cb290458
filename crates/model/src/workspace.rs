//! Every buffer that a pass over the network needs, sized from the config before the first step.

use casallm_compute::{ComputeError, DType, Device, Place, ScratchShape};

use crate::config::ModelConfig;
use crate::error::ModelError;

/// How large a workspace is.
#[derive(Clone, Copy, Debug)]
pub struct WorkspaceShape {
    /// Most tokens in one pass.
    pub tokens: usize,
    /// Longest sequence: most keys one query sees.
    pub sequence: usize,
    /// Storage type of activations.
    pub dtype: DType,
    /// Whether activations of every layer are kept for a backward pass.
    pub training: bool,
}

/// A named amount of memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryItem {
    /// What it is for.
    pub name: String,
    /// Bytes.
    pub bytes: u64,
}

/// Everything a run will allocate, listed before anything is.
#[derive(Clone, Debug, Default)]
pub struct MemoryPlan {
    /// Largest things first is not promised; order is that of allocation.
    pub items: Vec<MemoryItem>,
    /// What a device with memory of its own keeps in the host's.
    pub host: Vec<MemoryItem>,
}

impl MemoryPlan {
    /// Adds an entry.
    pub fn add(&mut self, name: &str, bytes: u64) {
        self.items.push(MemoryItem { name: name.into(), bytes });
    }

    /// Adds an entry where that place is on that device.
    pub fn add_at<D: Device>(&mut self, device: &D, place: Place, name: &str, bytes: u64) {
        match place {
            Place::Host if device.has_own_memory() => self.host.push(MemoryItem { name: name.into(), bytes }),
            _ => self.add(name, bytes),
        }
    }

    /// Sum of all entries of the device's memory.
    pub fn total(&self) -> u64 {
        self.items.iter().fold(0, |total, item| total.saturating_add(item.bytes))
    }

    /// Sum of all entries of the host's memory.
    pub fn host_total(&self) -> u64 {
        self.host.iter().fold(0, |total, item| total.saturating_add(item.bytes))
    }

    /// Refuses a plan larger than what the device has, or the host for the host's part.
    ///
    /// # Errors
    /// [`ComputeError::PlanTooLarge`] or [`ComputeError::HostPlanTooLarge`] with the three largest entries.
    pub fn check(&self, available: Option<u64>) -> Result<(), ModelError> {
        let mib = |bytes: u64| bytes >> 20;
        if let Some(available) = available.filter(|available| self.total() > *available) {
            let (needed_mib, available_mib) = (mib(self.total()), mib(available));
            let largest = largest(&self.items);
            return Err(ComputeError::PlanTooLarge { needed_mib, available_mib, largest }.into());
        }
        let available = if self.host.is_empty() { None } else { casallm_compute::memory::available() };
        if let Some(available) = available.filter(|available| self.host_total() > *available) {
            let (needed_mib, available_mib) = (mib(self.host_total()), mib(available));
            let largest = largest(&self.host);
            return Err(ComputeError::HostPlanTooLarge { needed_mib, available_mib, largest }.into());
        }
        Ok(())
    }
}

/// The three largest entries, in words.
fn largest(items: &[MemoryItem]) -> String {
    let mut items = items.to_vec();
    items.sort_by_key(|item| std::cmp::Reverse(item.bytes));
    let named = items.iter().take(3).map(|item| format!("{} ({} MiB)", item.name, item.bytes >> 20));
    named.collect::<Vec<_>>().join(", ")
}

/// What one layer keeps for its backward pass (or, for inference, what all layers share).
pub(crate) struct LayerActivations<B> {
    /// The residual stream ahead of attention and ahead of the MLP.
    pub(crate) residuals: Option<(B, B)>,
    pub(crate) stats1: B,
    pub(crate) stats2: B,
    pub(crate) qkv: B,
    pub(crate) attended: B,
    pub(crate) lse: Option<B>,
    pub(crate) up: B,
}

/// Buffers of the backward pass, shared by all layers.
pub(crate) struct BackwardBuffers<B> {
    /// Gradient of the residual stream.
    pub(crate) dx: B,
    /// Gradient of a residual branch, and of a norm's output.
    pub(crate) d_branch: B,
    pub(crate) d_hidden: B,
    pub(crate) d_activated: B,
    pub(crate) d_up: B,
    pub(crate) d_attended: B,
    pub(crate) dq: B,
    pub(crate) dk: B,
    pub(crate) dv: B,
    pub(crate) d_qkv: B,
}

/// Buffers of a pass; `B` is the device's buffer type.
pub struct Workspace<B> {
    pub(crate) shape: WorkspaceShape,
    pub(crate) ids: B,
    pub(crate) positions: B,
    pub(crate) slots: B,
    pub(crate) targets: B,
    pub(crate) weights: B,
    pub(crate) losses: B,
    /// The residual stream.
    pub(crate) x: B,
    pub(crate) hidden: B,
    pub(crate) stats: B,
    pub(crate) q: B,
    /// Keys and values of this pass when there is no cache.
    pub(crate) kv: Option<(B, B)>,
    pub(crate) activated: B,
    /// A residual branch ahead of dropout.
    pub(crate) branch: Option<B>,
    pub(crate) layers: Vec<LayerActivations<B>>,
    pub(crate) backward: Option<BackwardBuffers<B>>,
}

impl<B> Workspace<B> {
    /// Allocates every buffer and the device's scratch memory.
    ///
    /// # Errors
    /// The memory cannot be had.
    pub fn new<D: Device<Buffer = B>>(
        device: &D,
        config: &ModelConfig,
        shape: WorkspaceShape,
    ) -> Result<Self, ModelError> {
        device.reserve_scratch(&scratch(config, shape))?;
        Self::build(config, shape, |name, dtype, len| device.allocate(name, dtype, len))
    }

    /// Most tokens of one pass.
    pub fn tokens(&self) -> usize {
        self.shape.tokens
    }

    /// The one list of buffers: [`Workspace::new`] allocates it, [`plan`] counts it.
    fn build<E: Into<ModelError>>(
        config: &ModelConfig,
        shape: WorkspaceShape,
        mut allocate: impl FnMut(&str, DType, usize) -> Result<B, E>,
    ) -> Result<Self, ModelError> {
        let WorkspaceShape { tokens, dtype, training, .. } = shape;
        let (d, q_width, kv_width) = (config.n_embd, config.attention_width(), config.kv_width());
        let mut take = |name: &str, dtype: DType, width: usize| -> Result<B, ModelError> {
            allocate(name, dtype, tokens * width).map_err(Into::into)
        };
        let mut layers = Vec::new();
        for _ in 0..if training { config.n_layer } else { 1 } {
            layers.push(LayerActivations {
                residuals: match training {
                    true => Some((take("residual in", DType::F32, d)?, take("residual mid", DType::F32, d)?)),
                    false => None,
                },
                stats1: take("statistics", DType::F32, 2)?,
                stats2: take("statistics", DType::F32, 2)?,
                qkv: take("qkv", dtype, config.qkv_rows())?,
                attended: take("attended", dtype, q_width)?,
                lse: if training { Some(take("log-sum-exp", DType::F32, config.n_head)?) } else { None },
                up: take("up", dtype, config.up_rows())?,
            });
        }
        let backward = match training {
            true => Some(BackwardBuffers {
                dx: take("residual gradient", DType::F32, d)?,
                d_branch: take("branch gradient", dtype, d)?,
                d_hidden: take("hidden gradient", dtype, d)?,
                d_activated: take("activation gradient", dtype, config.n_ff)?,
                d_up: take("up gradient", dtype, config.up_rows())?,
                d_attended: take("attended gradient", dtype, q_width)?,
                dq: take("query gradient", dtype, q_width)?,
                dk: take("key gradient", dtype, kv_width)?,
                dv: take("value gradient", dtype, kv_width)?,
                d_qkv: take("qkv gradient", dtype, config.qkv_rows())?,
            }),
            false => None,
        };
        Ok(Workspace {
            shape,
            ids: take("ids", DType::U32, 1)?,
            positions: take("positions", DType::U32, 1)?,
            slots: take("slots", DType::U32, 1)?,
            targets: take("targets", DType::U32, 1)?,
            weights: take("weights", DType::F32, 1)?,
            losses: take("losses", DType::F32, 1)?,
            x: take("residual stream", DType::F32, d)?,
            hidden: take("hidden", dtype, d)?,
            stats: take("statistics", DType::F32, 2)?,
            q: take("queries", dtype, q_width)?,
            kv: match training {
                true => Some((take("keys", dtype, kv_width)?, take("values", dtype, kv_width)?)),
                false => None,
            },
            activated: take("activated", dtype, config.n_ff)?,
            branch: if config.dropout > 0.0 && training { Some(take("branch", dtype, d)?) } else { None },
            layers,
            backward,
        })
    }
}

/// What [`Workspace::new`] would allocate, added to a plan.
pub fn plan<D: Device>(device: &D, config: &ModelConfig, shape: WorkspaceShape, plan: &mut MemoryPlan) {
    let mut bytes = 0u64;
    let count = |_: &str, dtype: DType, len: usize| {
        bytes = bytes.saturating_add((len as u64).saturating_mul(dtype.size() as u64));
        Ok::<(), ModelError>(())
    };
    if Workspace::build(config, shape, count).is_ok() {
        plan.add("activations", bytes);
    }
    plan.add("scratch", device.scratch_bytes(&scratch(config, shape)));
}

fn scratch(config: &ModelConfig, shape: WorkspaceShape) -> ScratchShape {
    let widths = [config.qkv_rows(), config.up_rows(), config.n_ff, config.n_embd, config.attention_width()];
    ScratchShape {
        dtype: shape.dtype,
        tokens: shape.tokens,
        width: widths.into_iter().fold(0, usize::max),
        vocab_size: config.vocab_size,
        n_embd: config.n_embd,
        sequence: shape.sequence,
        n_head: config.n_head,
        head_dim: config.head_dim,
        training: shape.training,
    }
}
