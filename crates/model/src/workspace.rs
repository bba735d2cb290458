//! Every buffer that a pass over the network needs, sized from the config before the first step.
//!
//! For a backward pass each layer has a set of buffers that holds what its gradient needs; how much of that is kept, and how
//! much computed again, is a [`Recompute`]. Everything else is shared: a buffer serves one purpose after the other, as
//! its comment says.

use casallm_compute::{DType, Device, MatrixFormat, ScratchShape};
use serde::{Deserialize, Serialize};

use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::memory::MemoryPlan;

/// What a backward pass computes again because the forward pass has not kept it. Loss and gradients have the same bits at
/// every level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recompute {
    /// Nothing.
    None,
    /// What costs no matrix product: the norms' and the activation's outputs, and queries and keys where QK-norm
    /// makes them depend on more than themselves.
    Light,
    /// Each block's forward pass, but for its last product: of a block only its input is kept.
    Block,
}

impl Recompute {
    /// All levels, the least recomputation first.
    pub const ALL: [Recompute; 3] = [Recompute::None, Recompute::Light, Recompute::Block];

    /// What recipes and flags call it.
    pub fn name(self) -> &'static str {
        match self {
            Recompute::None => "none",
            Recompute::Light => "light",
            Recompute::Block => "block",
        }
    }
}

/// How large a workspace is.
#[derive(Clone, Copy, Debug)]
pub struct WorkspaceShape {
    /// Most tokens in one pass.
    pub tokens: usize,
    /// Longest sequence: most keys one query sees.
    pub sequence: usize,
    /// Storage type of activations.
    pub dtype: DType,
    /// How the matrices of the blocks are held.
    pub matrices: MatrixFormat,
    /// For a backward pass, and what that computes again; `None` for inference.
    pub training: Option<Recompute>,
}

/// Queries, and keys and values where there is no cache.
pub(crate) struct Heads<B> {
    pub(crate) q: B,
    pub(crate) kv: Option<(B, B)>,
}

/// What one layer keeps for its backward pass, or what all layers share: in inference, and where each block is repeated.
pub(crate) struct LayerActivations<B> {
    /// The residual stream ahead of the MLP; where a block is repeated the stream itself still holds it.
    pub(crate) x_mid: Option<B>,
    pub(crate) stats1: B,
    pub(crate) stats2: B,
    /// Both norms' outputs.
    pub(crate) hidden: Option<[B; 2]>,
    /// For the gradient of QK-norm.
    pub(crate) qkv: Option<B>,
    pub(crate) heads: Option<Heads<B>>,
    pub(crate) attended: B,
    pub(crate) lse: Option<B>,
    /// Becomes its own gradient.
    pub(crate) up: B,
    /// The activation's output.
    pub(crate) activated: Option<B>,
}

/// What every layer works in.
pub(crate) struct Shared<B> {
    /// The residual stream.
    pub(crate) x: B,
    /// A norm's output; in the backward pass also a branch's gradient, and the queries'.
    pub(crate) hidden: B,
    /// `qkv`, then the activation's output; in the backward pass the latter and its gradient, then that of `qkv`.
    pub(crate) wide: B,
    pub(crate) heads: Option<Heads<B>>,
    /// A residual branch ahead of dropout.
    pub(crate) branch: Option<B>,
}

/// Buffers of the backward pass alone, shared by all layers.
pub(crate) struct BackwardBuffers<B> {
    /// Gradient of the residual stream.
    pub(crate) dx: B,
    /// Gradient of a norm's output, and of what attention gives.
    pub(crate) d_hidden: B,
    pub(crate) dk: B,
    pub(crate) dv: B,
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
    /// Of the final norm.
    pub(crate) stats: B,
    pub(crate) shared: Shared<B>,
    /// The residual stream ahead of each block; none in inference.
    pub(crate) entrances: Vec<B>,
    pub(crate) layers: Vec<LayerActivations<B>>,
    pub(crate) backward: Option<BackwardBuffers<B>>,
}

/// Whose a buffer is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// One of each layer's.
    Layer,
    All,
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
        Self::build(config, shape, |_, name, dtype, len| device.allocate(name, dtype, len))
    }

    /// Most tokens of one pass.
    pub fn tokens(&self) -> usize {
        self.shape.tokens
    }

    /// The one list of buffers: [`Workspace::new`] allocates it, [`plan`] counts it.
    fn build<E: Into<ModelError>>(
        config: &ModelConfig,
        shape: WorkspaceShape,
        mut allocate: impl FnMut(Owner, &str, DType, usize) -> Result<B, E>,
    ) -> Result<Self, ModelError> {
        let WorkspaceShape { tokens, dtype, training, .. } = shape;
        let (d, q_width, kv_width) = (config.n_embd, config.attention_width(), config.kv_width());
        let f32 = DType::F32;
        let mut take = |owner: Owner, name: &str, dtype: DType, width: usize| -> Result<B, ModelError> {
            allocate(owner, name, dtype, tokens.saturating_mul(width)).map_err(Into::into)
        };
        // Of every layer, or one for all of them.
        let apart = matches!(training, Some(Recompute::None | Recompute::Light));
        let (owner, sets) = if apart { (Owner::Layer, config.n_layer) } else { (Owner::All, 1) };
        // Without QK-norm they are all that its gradient needs of qkv.
        let keeps_heads = training == Some(Recompute::None) || training == Some(Recompute::Light) && !config.qk_norm;
        let mut layers = Vec::new();
        for _ in 0..sets {
            let mut take = |name: &str, dtype: DType, width: usize| take(owner, name, dtype, width);
            layers.push(LayerActivations {
                x_mid: if apart { Some(take("residual mid", f32, d)?) } else { None },
                stats1: take("statistics", f32, 2)?,
                stats2: take("statistics", f32, 2)?,
                hidden: match training {
                    Some(Recompute::None) => Some([take("norm output", dtype, d)?, take("norm output", dtype, d)?]),
                    _ => None,
                },
                qkv: match training {
                    Some(_) if config.qk_norm => Some(take("qkv", dtype, config.qkv_rows())?),
                    _ => None,
                },
                heads: match keeps_heads {
                    true => Some(Heads {
                        q: take("queries", dtype, q_width)?,
                        kv: Some((take("keys", dtype, kv_width)?, take("values", dtype, kv_width)?)),
                    }),
                    false => None,
                },
                attended: take("attended", dtype, q_width)?,
                lse: if training.is_some() { Some(take("log-sum-exp", f32, config.n_head)?) } else { None },
                up: take("up", dtype, config.up_rows())?,
                activated: match training {
                    Some(Recompute::None) => Some(take("activated", dtype, config.n_ff)?),
                    _ => None,
                },
            });
        }
        let mut entrances = Vec::new();
        for _ in 0..if training.is_some() { config.n_layer } else { 0 } {
            entrances.push(take(Owner::Layer, "residual in", f32, d)?);
        }
        let mut take = |name: &str, dtype: DType, width: usize| take(Owner::All, name, dtype, width);
        let backward = match training {
            Some(_) => Some(BackwardBuffers {
                dx: take("residual gradient", f32, d)?,
                d_hidden: take("hidden gradient", dtype, d.max(q_width))?,
                dk: take("key gradient", dtype, kv_width)?,
                dv: take("value gradient", dtype, kv_width)?,
            }),
            None => None,
        };
        Ok(Workspace {
            shape,
            ids: take("ids", DType::U32, 1)?,
            positions: take("positions", DType::U32, 1)?,
            slots: take("slots", DType::U32, 1)?,
            targets: take("targets", DType::U32, 1)?,
            weights: take("weights", f32, 1)?,
            losses: take("losses", f32, 1)?,
            stats: take("statistics", f32, 2)?,
            shared: Shared {
                x: take("residual stream", f32, d)?,
                hidden: take("hidden", dtype, d.max(q_width))?,
                wide: take("activated", dtype, config.n_ff.max(config.qkv_rows()))?,
                heads: match keeps_heads {
                    true => None,
                    false => Some(Heads {
                        q: take("queries", dtype, q_width)?,
                        kv: match training {
                            Some(_) => Some((take("keys", dtype, kv_width)?, take("values", dtype, kv_width)?)),
                            None => None,
                        },
                    }),
                },
                branch: match training {
                    Some(_) if config.dropout > 0.0 => Some(take("branch", dtype, d)?),
                    _ => None,
                },
            },
            entrances,
            layers,
            backward,
        })
    }
}

/// What [`Workspace::new`] would allocate, added to a plan.
pub fn plan<D: Device>(device: &D, config: &ModelConfig, shape: WorkspaceShape, plan: &mut MemoryPlan) {
    let (mut of_layers, mut shared) = (0u64, 0u64);
    let count = |owner: Owner, _: &str, dtype: DType, len: usize| {
        let sum = if owner == Owner::Layer { &mut of_layers } else { &mut shared };
        *sum = sum.saturating_add((len as u64).saturating_mul(dtype.size() as u64));
        Ok::<(), ModelError>(())
    };
    if Workspace::build(config, shape, count).is_ok() {
        plan.add("activations of each layer", of_layers);
        plan.add("activations shared", shared);
    }
    plan.add("scratch", device.scratch_bytes(&scratch(config, shape)));
}

fn scratch(config: &ModelConfig, shape: WorkspaceShape) -> ScratchShape {
    let widths = [config.qkv_rows(), config.up_rows(), config.n_ff, config.n_embd, config.attention_width()];
    ScratchShape {
        dtype: shape.dtype,
        matrices: shape.matrices,
        tokens: shape.tokens,
        width: widths.into_iter().fold(0, usize::max),
        vocab_size: config.vocab_size,
        n_embd: config.n_embd,
        sequence: shape.sequence,
        n_head: config.n_head,
        n_kv_head: config.n_kv_head,
        head_dim: config.head_dim,
        training: shape.training.is_some(),
    }
}
