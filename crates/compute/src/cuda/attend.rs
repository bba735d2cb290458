//! Attention as an operation of the device: plans and their tables on the GPU, kept for all layers of a pass.

use super::attention::{self, Backward, BackwardPlan, Forward, ForwardPlan};
use super::buffer::{CudaBuffer, Memory, little_endian};
use super::device::CudaDevice;
use super::driver::Address;
use super::scratch::Carver;
use crate::device::{AttentionShape, ScratchShape, Span};
use crate::dtype::DType;
use crate::error::ComputeError;

/// A forward or a backward plan.
trait Plan {
    fn new(shape: AttentionShape, dtype: DType, spans: &[Span]) -> Self;
    fn table(&self) -> &[u32];
}

impl Plan for ForwardPlan {
    fn new(shape: AttentionShape, dtype: DType, spans: &[Span]) -> Self {
        ForwardPlan::new(shape, dtype, spans)
    }
    fn table(&self) -> &[u32] {
        self.table()
    }
}

impl Plan for BackwardPlan {
    fn new(shape: AttentionShape, dtype: DType, spans: &[Span]) -> Self {
        BackwardPlan::new(shape, dtype, spans)
    }
    fn table(&self) -> &[u32] {
        self.table()
    }
}

/// A plan, what it was made for, and its table on the GPU.
struct Made<P> {
    shape: AttentionShape,
    dtype: DType,
    spans: Vec<Span>,
    plan: P,
}

/// The latest plan: the layers of a pass share their spans.
struct Latest<P> {
    made: Option<Made<P>>,
    memory: Option<Memory>,
}

impl<P: Plan> Latest<P> {
    /// The plan for these spans and where its table is.
    fn plan(
        &mut self,
        device: &CudaDevice,
        (shape, dtype): (AttentionShape, DType),
        spans: &[Span],
    ) -> Result<(&P, Address), ComputeError> {
        let same = |made: &Made<P>| made.shape == shape && made.dtype == dtype && made.spans == spans;
        if !self.made.as_ref().is_some_and(same) {
            self.made = None;
            let plan = P::new(shape, dtype, spans);
            device.grow(&mut self.memory, "attention's table", 4 * plan.table().len())?;
            if let Some(memory) = &self.memory {
                device.driver().upload(memory.address(), &little_endian(plan.table(), u32::to_le_bytes));
            }
            self.made = Some(Made { shape, dtype, spans: spans.to_vec(), plan });
        }
        let made = self.made.as_ref().expect("made above");
        Ok((&made.plan, self.memory.as_ref().map_or(Address::NULL, Memory::address)))
    }
}

/// Both directions' latest plans.
pub(super) struct Plans {
    forward: Latest<ForwardPlan>,
    backward: Latest<BackwardPlan>,
}

/// Bytes of the tables that any pass of this shape needs: forward, backward.
pub(super) fn table_bytes(shape: &ScratchShape) -> [usize; 2] {
    let bytes = 4 * attention::most_table_len(shape.tokens, shape.n_head);
    [bytes, if shape.training { bytes } else { 0 }]
}

/// Scratch of any pass of this shape.
pub(super) fn scratch(carver: &mut Carver, shape: &ScratchShape) -> Address {
    let delta = if shape.training { attention::delta_bytes(shape.tokens, shape.n_head) } else { 0 };
    carver.take(attention::most_part_bytes(shape.head_dim).max(delta))
}

impl Plans {
    pub(super) fn new() -> Self {
        Plans { forward: Latest { made: None, memory: None }, backward: Latest { made: None, memory: None } }
    }

    /// Makes room for every table of passes of this shape.
    pub(super) fn reserve(&mut self, device: &CudaDevice, shape: &ScratchShape) -> Result<(), ComputeError> {
        let [forward, backward] = table_bytes(shape);
        // What is kept refers to memory that may be replaced.
        (self.forward.made, self.backward.made) = (None, None);
        device.grow(&mut self.forward.memory, "attention's table", forward)?;
        device.grow(&mut self.backward.memory, "attention's table", backward)
    }
}

/// Where the spans' queries and keys end.
fn ends(spans: &[Span]) -> (usize, usize) {
    let end = |of: fn(&Span) -> usize| spans.iter().map(of).max().unwrap_or(0);
    (end(|span| span.q_start + span.q_len), end(|span| span.kv_start + span.kv_len))
}

pub(super) fn forward(
    device: &CudaDevice,
    shape: AttentionShape,
    spans: &[Span],
    [q, k, v]: [&CudaBuffer; 3],
    out: &mut CudaBuffer,
    lse: Option<&mut CudaBuffer>,
) {
    let dtype = q.dtype();
    let (rows, slots) = ends(spans);
    let (q_len, kv_len) = (rows * shape.n_head * shape.head_dim, slots * shape.n_kv_head * shape.head_dim);
    let operands = Forward {
        q: q.input(dtype, q_len),
        k: k.input(dtype, kv_len),
        v: v.input(dtype, kv_len),
        out: out.output(dtype, q_len),
        lse: lse.map(|lse| lse.output(DType::F32, rows * shape.n_head)),
    };
    let mut plans = device.plans();
    let Some((plan, table)) = device.unless_failed(plans.forward.plan(device, (shape, dtype), spans)) else { return };
    device.with_scratch(
        |carver| carver.take(plan.part_bytes()),
        |parts| attention::forward(device.driver(), plan, table, parts, &operands),
    );
}

#[allow(clippy::too_many_arguments)] // The operands of the operation.
pub(super) fn backward(
    device: &CudaDevice,
    shape: AttentionShape,
    spans: &[Span],
    [q, k, v]: [&CudaBuffer; 3],
    out: &CudaBuffer,
    lse: &CudaBuffer,
    d_out: &CudaBuffer,
    [dq, dk, dv]: [&mut CudaBuffer; 3],
) {
    let dtype = q.dtype();
    let (rows, slots) = ends(spans);
    let (q_len, kv_len) = (rows * shape.n_head * shape.head_dim, slots * shape.n_kv_head * shape.head_dim);
    let operands = Backward {
        q: q.input(dtype, q_len),
        k: k.input(dtype, kv_len),
        v: v.input(dtype, kv_len),
        out: out.input(dtype, q_len),
        lse: lse.input(DType::F32, rows * shape.n_head),
        d_out: d_out.input(dtype, q_len),
        dq: dq.output(dtype, q_len),
        dk: dk.output(dtype, kv_len),
        dv: dv.output(dtype, kv_len),
    };
    let mut plans = device.plans();
    let Some((plan, table)) = device.unless_failed(plans.backward.plan(device, (shape, dtype), spans)) else { return };
    device.with_scratch(
        |carver| carver.take(attention::delta_bytes(rows, shape.n_head)),
        |delta| attention::backward(device.driver(), plan, table, delta, &operands),
    );
}
