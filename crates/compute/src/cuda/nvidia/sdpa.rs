//! cuDNN's scaled dot product attention: an operation, a graph of that one operation, and a plan that runs it.
//!
//! The library's tensors are `[b, h, s, d]` with free strides, so that ours, `[tokens, heads, head_dim]`, are described as
//! they lie: `b` sequences of `s` tokens. So are the log-sum-exps, `[b, h, s, 1]` in natural logarithms over our
//! `[tokens, n_head]`. Query heads share keys by the ratio of the heads' numbers. The causal mask is not an attribute but a graph
//! of its own, applied to the scores: `s_ij` for `j <= i`, else minus infinity.
//!
//! Backward passes add up `dq` from many blocks, and on Hopper do it in an order of chance unless asked otherwise. The
//! backend's only word for that is a knob of its engines, the number of stages: 4 is an ordered sum (Hopper, from 9.28
//! on), 2 goes through a workspace (small on data center Blackwell, elsewhere of a size with the square of the length, which
//! does not fit the scratch). Without either there is no plan.
//!
//! Attributes as in `cudnn_graph.h` of 9.28 and in NVIDIA's cudnn-frontend (`UnifiedSDPANode`,
//! `UnifiedDiagonalBandMaskNode`, `UnifiedSoftmaxNode`); what the library makes of them without a GPU is tested with
//! the library itself where it is installed (`tests/real_cudnn.rs`).

use std::ffi::c_void;
use std::fmt;
use std::sync::Arc;

use cudarc::cudnn::sys as nn;
use nn::cudnnBackendAttributeName_t as Name;
use nn::cudnnBackendAttributeType_t as Type;
use nn::cudnnBackendDescriptorType_t as Kind;

use super::cudnn::Descriptor;
use super::error::CudaError;
use super::ffi::Cudnn;
use crate::cuda::attention::{Backward, Forward};
use crate::cuda::driver::{Address, Attention, AttentionPass};
use crate::device::AttentionShape;

/// The oldest version that has all of it: 9.21.
pub(super) const OLDEST: usize = 92_100;

/// Engine configurations that the library's heuristics are asked for.
const CANDIDATES: usize = 8;
/// Most knobs of an engine.
const KNOBS: usize = 32;
/// Numbers of stages that stand for a deterministic sum of `dq`, the better one first.
const DETERMINISTIC_STAGES: [i64; 2] = [4, 2];

/// Names of tensors, by which addresses are given.
mod uid {
    pub const Q: i64 = 1;
    pub const K: i64 = 2;
    pub const V: i64 = 3;
    pub const OUT: i64 = 4;
    pub const LSE: i64 = 5;
    pub const SCALE: i64 = 6;
    pub const MASKED: i64 = 7;
    pub const D_OUT: i64 = 8;
    pub const DQ: i64 = 9;
    pub const DK: i64 = 10;
    pub const DV: i64 = 11;
    // Without an address: scores before and after the mask, before and after the softmax.
    pub const SCORES: i64 = 20;
    pub const SCORES_MASKED: i64 = 21;
    pub const SOFTMAX_IN: i64 = 22;
    pub const SOFTMAX_OUT: i64 = 23;
}

/// What a plan is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Problem {
    shape: AttentionShape,
    sequences: usize,
    length: usize,
    pub(super) backward: bool,
}

impl Problem {
    pub(super) fn of(attention: &Attention) -> Self {
        let Attention { shape, sequences, length, ref pass, .. } = *attention;
        Problem { shape, sequences, length, backward: matches!(pass, AttentionPass::Backward(_)) }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Problem { shape: AttentionShape { n_head, n_kv_head, head_dim }, sequences, length, backward } = *self;
        let pass = if backward { "backward" } else { "forward" };
        write!(f, "attention {pass} {sequences}x{length} heads={n_head}/{n_kv_head} head_dim={head_dim}")
    }
}

/// Bytes of workspace that plans may have: the backward pass's sums of `dq` in f32, its row sums and marks of order; where
/// query heads share keys, `dk` and `dv` of each.
pub(super) fn most_workspace(shape: AttentionShape, tokens: usize) -> usize {
    let AttentionShape { n_head, n_kv_head, head_dim } = shape;
    let per_row = 4 * head_dim + 8 + if n_kv_head < n_head { 4 * head_dim } else { 0 };
    tokens * n_head * per_row + (64 << 10)
}

/// Which GPU plans are made for.
#[derive(Clone, Copy)]
pub(super) enum Target<'a> {
    /// The handle's.
    Handle(nn::cudnnHandle_t),
    /// One that is not there, by its properties.
    #[cfg_attr(not(test), allow(dead_code))] // What a machine without a GPU can ask of the library.
    Properties(&'a str),
}

/// Where a tensor's elements are.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Device,
    /// Nowhere: inside the operation.
    Virtual,
    /// One value, in the host's memory.
    Host,
}

/// Makes descriptors.
struct Maker<'a> {
    library: &'a Arc<Cudnn>,
    target: Target<'a>,
    problem: Problem,
}

/// An operation that can be run.
pub(super) struct Plan {
    execution: Descriptor,
    /// Holds the graph.
    _heuristics: Descriptor,
}

impl Plan {
    /// The first of the library's proposals that repeats to the bit and needs at most so many bytes of workspace.
    ///
    /// # Errors
    /// There is none; the error says why not the last of them, or the call that failed.
    pub(super) fn new(
        library: &Arc<Cudnn>,
        target: Target<'_>,
        problem: Problem,
        most_workspace: usize,
    ) -> Result<Self, CudaError> {
        let maker = Maker { library, target, problem };
        let heuristics = maker.heuristics()?;
        let mut reason =
            CudaError::Call { call: "cudnnBackendGetAttribute", text: format!("no engine for {problem}"), hint: "" };
        let configs = heuristics.read(
            Name::CUDNN_ATTR_ENGINEHEUR_RESULTS,
            Kind::CUDNN_BACKEND_ENGINECFG_DESCRIPTOR,
            CANDIDATES,
        )?;
        for config in configs {
            for stages in if problem.backward { &DETERMINISTIC_STAGES[..] } else { &[0][..] } {
                let made = maker.repeatable(&config, *stages).and_then(|config| maker.execution(config));
                match made {
                    Ok((execution, workspace)) if workspace <= most_workspace => {
                        return Ok(Plan { execution, _heuristics: heuristics });
                    }
                    Ok((_, workspace)) => {
                        let text =
                            format!("{workspace} bytes of workspace for {problem}, and {most_workspace} are free");
                        reason = CudaError::Call { call: "cudnnBackendFinalize", text, hint: "" };
                    }
                    Err(error) => reason = error,
                }
            }
        }
        Err(reason)
    }

    /// Starts it.
    ///
    /// # Errors
    /// The library refuses.
    pub(super) fn start(
        &self,
        library: &Arc<Cudnn>,
        handle: nn::cudnnHandle_t,
        attention: &Attention,
    ) -> Result<(), CudaError> {
        let (scale, masked) = (1.0 / (attention.shape.head_dim as f32).sqrt(), f32::NEG_INFINITY);
        let at = |address: Address| address.0 as *mut c_void;
        let of = |value: &f32| std::ptr::from_ref(value).cast_mut().cast();
        let mut operands: Vec<(i64, *mut c_void)> = vec![(uid::SCALE, of(&scale)), (uid::MASKED, of(&masked))];
        match attention.pass {
            AttentionPass::Forward(Forward { q, k, v, out, lse }) => {
                let lse = lse.expect("attention of a library's without log-sum-exps");
                operands.extend([(uid::Q, q), (uid::K, k), (uid::V, v)].map(|(uid, a)| (uid, at(a))));
                operands.extend([(uid::OUT, out), (uid::LSE, lse)].map(|(uid, a)| (uid, at(a))));
            }
            AttentionPass::Backward(Backward { q, k, v, out, lse, d_out, dq, dk, dv }) => {
                operands.extend([(uid::Q, q), (uid::K, k), (uid::V, v)].map(|(uid, a)| (uid, at(a))));
                operands.extend([(uid::OUT, out), (uid::LSE, lse), (uid::D_OUT, d_out)].map(|(uid, a)| (uid, at(a))));
                operands.extend([(uid::DQ, dq), (uid::DK, dk), (uid::DV, dv)].map(|(uid, a)| (uid, at(a))));
            }
        }
        let (uids, addresses): (Vec<i64>, Vec<*mut c_void>) = operands.into_iter().unzip();
        let variant = Descriptor::new(library, Kind::CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR)?;
        variant.set(Name::CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, Type::CUDNN_TYPE_INT64, &uids)?;
        variant.set(Name::CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, Type::CUDNN_TYPE_VOID_PTR, &addresses)?;
        let workspace = [at(attention.scratch)];
        variant.set(Name::CUDNN_ATTR_VARIANT_PACK_WORKSPACE, Type::CUDNN_TYPE_VOID_PTR, &workspace)?;
        // The values on the host are read by the call.
        self.execution.execute(handle, &variant.finalize()?)
    }
}

impl Maker<'_> {
    fn create(&self, kind: Kind) -> Result<Descriptor, CudaError> {
        Descriptor::new(self.library, kind)
    }

    /// A tensor of bf16, or f32, elements.
    fn tensor(
        &self,
        uid: i64,
        element: nn::cudnnDataType_t,
        (dims, strides): ([usize; 4], [usize; 4]),
        place: Place,
    ) -> Result<Descriptor, CudaError> {
        let tensor = self.create(Kind::CUDNN_BACKEND_TENSOR_DESCRIPTOR)?;
        let wide = |numbers: [usize; 4]| numbers.map(|n| n as i64);
        tensor.set(Name::CUDNN_ATTR_TENSOR_UNIQUE_ID, Type::CUDNN_TYPE_INT64, &[uid])?;
        tensor.set(Name::CUDNN_ATTR_TENSOR_DATA_TYPE, Type::CUDNN_TYPE_DATA_TYPE, &[element as u32])?;
        tensor.set(Name::CUDNN_ATTR_TENSOR_DIMENSIONS, Type::CUDNN_TYPE_INT64, &wide(dims))?;
        tensor.set(Name::CUDNN_ATTR_TENSOR_STRIDES, Type::CUDNN_TYPE_INT64, &wide(strides))?;
        tensor.set(Name::CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, Type::CUDNN_TYPE_INT64, &[16_i64])?;
        match place {
            Place::Device => {}
            Place::Virtual => tensor.set(Name::CUDNN_ATTR_TENSOR_IS_VIRTUAL, Type::CUDNN_TYPE_BOOLEAN, &[true])?,
            Place::Host => tensor.set(Name::CUDNN_ATTR_TENSOR_IS_BY_VALUE, Type::CUDNN_TYPE_BOOLEAN, &[true])?,
        }
        tensor.finalize()
    }

    /// Vectors of `heads` heads for each token.
    fn heads(&self, uid: i64, heads: usize) -> Result<Descriptor, CudaError> {
        let Problem { shape: AttentionShape { head_dim: d, .. }, sequences: b, length: s, .. } = self.problem;
        let layout = ([b, heads, s, d], [s * heads * d, d, heads * d, 1]);
        self.tensor(uid, nn::cudnnDataType_t::CUDNN_DATA_BFLOAT16, layout, Place::Device)
    }

    fn log_sum_exps(&self) -> Result<Descriptor, CudaError> {
        let Problem { shape: AttentionShape { n_head: h, .. }, sequences: b, length: s, .. } = self.problem;
        let layout = ([b, h, s, 1], [s * h, 1, h, 1]);
        self.tensor(uid::LSE, nn::cudnnDataType_t::CUDNN_DATA_FLOAT, layout, Place::Device)
    }

    /// Scores, which are nowhere.
    fn scores(&self, uid: i64) -> Result<Descriptor, CudaError> {
        let Problem { shape: AttentionShape { n_head: h, .. }, sequences: b, length: s, .. } = self.problem;
        let layout = ([b, h, s, s], [h * s * s, s * s, s, 1]);
        self.tensor(uid, nn::cudnnDataType_t::CUDNN_DATA_FLOAT, layout, Place::Virtual)
    }

    fn scalar(&self, uid: i64) -> Result<Descriptor, CudaError> {
        self.tensor(uid, nn::cudnnDataType_t::CUDNN_DATA_FLOAT, ([1; 4], [1; 4]), Place::Host)
    }

    fn graph(&self, operation: Descriptor) -> Result<Descriptor, CudaError> {
        let mut graph = self.create(Kind::CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR)?;
        graph.refer(Name::CUDNN_ATTR_OPERATIONGRAPH_OPS, vec![operation])?;
        if let Target::Handle(handle) = self.target {
            graph.set(Name::CUDNN_ATTR_OPERATIONGRAPH_HANDLE, Type::CUDNN_TYPE_HANDLE, &[handle])?;
        }
        graph.finalize()
    }

    /// The causal mask: minus infinity where the row is not greater than or equal to the column.
    fn mask(&self) -> Result<Descriptor, CudaError> {
        let mut mask = self.create(Kind::CUDNN_BACKEND_OPERATION_DIAGONAL_BAND_MASK_DESCRIPTOR)?;
        mask.refer(Name::CUDNN_ATTR_OPERATION_DIAGONAL_BAND_MASK_XDESC, vec![self.scores(uid::SCORES)?])?;
        mask.refer(Name::CUDNN_ATTR_OPERATION_DIAGONAL_BAND_MASK_BDESC, vec![self.scalar(uid::MASKED)?])?;
        mask.refer(Name::CUDNN_ATTR_OPERATION_DIAGONAL_BAND_MASK_YDESC, vec![self.scores(uid::SCORES_MASKED)?])?;
        let kept = nn::cudnnPointwiseMode_t::CUDNN_POINTWISE_CMP_GE as u32;
        mask.set(
            Name::CUDNN_ATTR_OPERATION_DIAGONAL_BAND_MASK_COMPARISON_MODE,
            Type::CUDNN_TYPE_POINTWISE_MODE,
            &[kept],
        )?;
        // A graph inside an operation has no handle.
        let mut graph = self.create(Kind::CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR)?;
        graph.refer(Name::CUDNN_ATTR_OPERATIONGRAPH_OPS, vec![mask.finalize()?])?;
        graph.finalize()
    }

    /// The softmax, which says where the log-sum-exps go.
    fn softmax(&self) -> Result<Descriptor, CudaError> {
        let mut softmax = self.create(Kind::CUDNN_BACKEND_OPERATION_SOFTMAX_DESCRIPTOR)?;
        softmax.refer(Name::CUDNN_ATTR_OPERATION_SOFTMAX_XDESC, vec![self.scores(uid::SOFTMAX_IN)?])?;
        softmax.refer(Name::CUDNN_ATTR_OPERATION_SOFTMAX_YDESC, vec![self.scores(uid::SOFTMAX_OUT)?])?;
        softmax.refer(Name::CUDNN_ATTR_OPERATION_SOFTMAX_STATS_DESC, vec![self.log_sum_exps()?])?;
        softmax.finalize()
    }

    fn forward(&self) -> Result<Descriptor, CudaError> {
        let AttentionShape { n_head, n_kv_head, .. } = self.problem.shape;
        let mut forward = self.create(Kind::CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR)?;
        forward.refer(Name::CUDNN_ATTR_OPERATION_SDPA_FWD_QDESC, vec![self.heads(uid::Q, n_head)?])?;
        forward.refer(Name::CUDNN_ATTR_OPERATION_SDPA_FWD_KDESC, vec![self.heads(uid::K, n_kv_head)?])?;
        forward.refer(Name::CUDNN_ATTR_OPERATION_SDPA_FWD_VDESC, vec![self.heads(uid::V, n_kv_head)?])?;
        forward.refer(Name::CUDNN_ATTR_OPERATION_SDPA_FWD_ODESC, vec![self.heads(uid::OUT, n_head)?])?;
        forward.refer(Name::CUDNN_ATTR_OPERATION_SDPA_FWD_SOFTMAX_DESC, vec![self.softmax()?])?;
        forward.refer(Name::CUDNN_ATTR_OPERATION_SDPA_FWD_SCALEDESC, vec![self.scalar(uid::SCALE)?])?;
        forward.refer(Name::CUDNN_ATTR_OPERATION_SDPA_FWD_SUBGRAPH, vec![self.mask()?])?;
        let (before, after) = ([uid::SCORES], [uid::SCORES_MASKED]);
        forward.set(Name::CUDNN_ATTR_OPERATION_SDPA_FWD_SUBGRAPH_INPUT_UID, Type::CUDNN_TYPE_INT64, &before)?;
        forward.set(Name::CUDNN_ATTR_OPERATION_SDPA_FWD_SUBGRAPH_OUTPUT_UID, Type::CUDNN_TYPE_INT64, &after)?;
        forward.finalize()
    }

    fn backward(&self) -> Result<Descriptor, CudaError> {
        let AttentionShape { n_head, n_kv_head, .. } = self.problem.shape;
        let mut backward = self.create(Kind::CUDNN_BACKEND_OPERATION_SDPA_BWD_DESCRIPTOR)?;
        for (name, uid, heads) in [
            (Name::CUDNN_ATTR_OPERATION_SDPA_BWD_QDESC, uid::Q, n_head),
            (Name::CUDNN_ATTR_OPERATION_SDPA_BWD_KDESC, uid::K, n_kv_head),
            (Name::CUDNN_ATTR_OPERATION_SDPA_BWD_VDESC, uid::V, n_kv_head),
            (Name::CUDNN_ATTR_OPERATION_SDPA_BWD_ODESC, uid::OUT, n_head),
            (Name::CUDNN_ATTR_OPERATION_SDPA_BWD_DODDESC, uid::D_OUT, n_head),
            (Name::CUDNN_ATTR_OPERATION_SDPA_BWD_DQDESC, uid::DQ, n_head),
            (Name::CUDNN_ATTR_OPERATION_SDPA_BWD_DKDESC, uid::DK, n_kv_head),
            (Name::CUDNN_ATTR_OPERATION_SDPA_BWD_DVDESC, uid::DV, n_kv_head),
        ] {
            backward.refer(name, vec![self.heads(uid, heads)?])?;
        }
        backward.refer(Name::CUDNN_ATTR_OPERATION_SDPA_BWD_STATSDESC, vec![self.log_sum_exps()?])?;
        backward.refer(Name::CUDNN_ATTR_OPERATION_SDPA_BWD_SCALEDESC, vec![self.scalar(uid::SCALE)?])?;
        backward.refer(Name::CUDNN_ATTR_OPERATION_SDPA_BWD_SUBGRAPH, vec![self.mask()?])?;
        let (before, after) = ([uid::SCORES], [uid::SCORES_MASKED]);
        backward.set(Name::CUDNN_ATTR_OPERATION_SDPA_BWD_SUBGRAPH_INPUT_UID, Type::CUDNN_TYPE_INT64, &before)?;
        backward.set(Name::CUDNN_ATTR_OPERATION_SDPA_BWD_SUBGRAPH_OUTPUT_UID, Type::CUDNN_TYPE_INT64, &after)?;
        backward.finalize()
    }

    /// The target's properties, where it has no handle.
    fn properties(&self) -> Result<Option<Descriptor>, CudaError> {
        let Target::Properties(json) = self.target else { return Ok(None) };
        let properties = self.create(Kind::CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR)?;
        let bytes = json.as_bytes();
        properties.set(Name::CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, Type::CUDNN_TYPE_CHAR, bytes)?;
        properties.finalize().map(Some)
    }

    /// The library's proposals for the whole graph, by its own judgement.
    fn heuristics(&self) -> Result<Descriptor, CudaError> {
        let operation = if self.problem.backward { self.backward() } else { self.forward() };
        let mut heuristics = self.create(Kind::CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR)?;
        heuristics.refer(Name::CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, vec![self.graph(operation?)?])?;
        let mode = nn::cudnnBackendHeurMode_t::CUDNN_HEUR_MODE_A as u32;
        heuristics.set(Name::CUDNN_ATTR_ENGINEHEUR_MODE, Type::CUDNN_TYPE_HEUR_MODE, &[mode])?;
        if let Some(properties) = self.properties()? {
            heuristics.refer(Name::CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, vec![properties])?;
        }
        heuristics.finalize()
    }

    /// A proposal's engine and knobs, with so many stages where that is not 0.
    fn repeatable(&self, proposal: &Descriptor, stages: i64) -> Result<Descriptor, CudaError> {
        let engine = proposal.read(Name::CUDNN_ATTR_ENGINECFG_ENGINE, Kind::CUDNN_BACKEND_ENGINE_DESCRIPTOR, 1)?;
        let mut notes = [0_u32; 16];
        let mut count = 0;
        for engine in &engine {
            count = engine.get(Name::CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, Type::CUDNN_TYPE_NUMERICAL_NOTE, &mut notes)?;
        }
        if notes[..count].contains(&(nn::cudnnBackendNumericalNote_t::CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC as u32)) {
            let text = format!("an engine for {} that does not repeat", self.problem);
            return Err(CudaError::Call { call: "cudnnBackendGetAttribute", text, hint: "" });
        }
        let of_stages = nn::cudnnBackendKnobType_t::CUDNN_KNOB_TYPE_STAGES as u32;
        let mut choices = Vec::new();
        for choice in
            proposal.read(Name::CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, Kind::CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR, KNOBS)?
        {
            let mut knob = [0_u32];
            choice.get(Name::CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, Type::CUDNN_TYPE_KNOB_TYPE, &mut knob)?;
            if stages == 0 || knob[0] != of_stages {
                choices.push(choice);
            }
        }
        if stages != 0 {
            let choice = self.create(Kind::CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR)?;
            choice.set(Name::CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, Type::CUDNN_TYPE_KNOB_TYPE, &[of_stages])?;
            choice.set(Name::CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, Type::CUDNN_TYPE_INT64, &[stages])?;
            choices.push(choice.finalize()?);
        }
        let mut config = self.create(Kind::CUDNN_BACKEND_ENGINECFG_DESCRIPTOR)?;
        config.refer(Name::CUDNN_ATTR_ENGINECFG_ENGINE, engine)?;
        config.refer(Name::CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, choices)?;
        config.finalize()
    }

    /// A plan of a configuration, and its workspace: compiles the kernels.
    fn execution(&self, config: Descriptor) -> Result<(Descriptor, usize), CudaError> {
        let mut plan = self.create(Kind::CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR)?;
        plan.refer(Name::CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, vec![config])?;
        if let Target::Handle(handle) = self.target {
            plan.set(Name::CUDNN_ATTR_EXECUTION_PLAN_HANDLE, Type::CUDNN_TYPE_HANDLE, &[handle])?;
        }
        if let Some(properties) = self.properties()? {
            plan.refer(Name::CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, vec![properties])?;
        }
        let plan = plan.finalize()?;
        let mut workspace = [0_i64];
        plan.get(Name::CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, Type::CUDNN_TYPE_INT64, &mut workspace)?;
        Ok((plan, usize::try_from(workspace[0]).unwrap_or(usize::MAX)))
    }
}
