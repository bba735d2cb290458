//! Attention as an operation of the device: plans and their tables on the GPU, kept for all layers of a pass.

use super::attention::{self, Backward, BackwardPlan, Forward, ForwardPlan, is_tiled};
use super::buffer::{CudaBuffer, Memory, little_endian};
use super::device::CudaDevice;
use super::driver::{Address, Attention, AttentionPass, Driver};
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
pub(super) fn scratch(carver: &mut Carver, shape: &ScratchShape, driver: &dyn Driver) -> Address {
    let ScratchShape { dtype, tokens, n_head, n_kv_head, head_dim, training, .. } = *shape;
    let mut bytes = attention::most_part_bytes(head_dim);
    if training {
        bytes = bytes.max(attention::delta_bytes(tokens, n_head));
        if is_tiled(dtype, head_dim) {
            bytes = bytes.max(driver.attention_scratch(AttentionShape { n_head, n_kv_head, head_dim }, tokens));
        }
    }
    carver.take(bytes)
}

/// Lengths of sequences that a library is asked for: shorter ones, and such as no tile fits, are ours. Every length is
/// a plan that takes a second to make.
const LIBRARY_LENGTH: usize = 128;

/// How many sequences of which length the spans are, where they are such as a library is asked for: those of pre-training.
fn sequences(spans: &[Span]) -> Option<(usize, usize)> {
    let length = spans.first()?.q_len;
    let regular = |(i, span): (usize, &Span)| {
        *span == Span { q_start: i * length, q_len: length, kv_start: i * length, kv_len: length }
    };
    let fits = length >= 2 * LIBRARY_LENGTH && length.is_multiple_of(LIBRARY_LENGTH);
    (fits && spans.iter().enumerate().all(regular)).then_some((spans.len(), length))
}

/// A library's attention in place of our kernels, where there is one that might do it.
struct Library {
    shape: AttentionShape,
    sequences: usize,
    length: usize,
    /// Scratch that it takes.
    bytes: usize,
}

impl Library {
    fn of(device: &CudaDevice, shape: AttentionShape, dtype: DType, spans: &[Span]) -> Option<Self> {
        let (sequences, length) = sequences(spans).filter(|_| is_tiled(dtype, shape.head_dim))?;
        let bytes = device.driver().attention_scratch(shape, sequences * length);
        (bytes > 0).then_some(Library { shape, sequences, length, bytes })
    }

    /// Starts it where it is known to be the better way, else `ours`; where neither is known, finds out.
    fn or(&self, driver: &dyn Driver, scratch: Address, pass: AttentionPass, ours: &dyn Fn()) {
        let Library { shape, sequences, length, bytes: scratch_bytes } = *self;
        let attention = Attention { shape, sequences, length, pass, scratch, scratch_bytes };
        match driver.knows_attention(&attention) {
            Some(true) => driver.attention(&attention),
            Some(false) => ours(),
            None => driver.choose_attention(&attention, ours),
        }
    }
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

    /// Gives the tables' memory back.
    pub(super) fn release(&mut self, device: &CudaDevice) {
        (self.forward.made, self.backward.made) = (None, None);
        device.let_go(&mut self.forward.memory);
        device.let_go(&mut self.backward.memory);
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
    let library = operands.lse.and_then(|_| Library::of(device, shape, dtype, spans));
    device.with_scratch(
        |carver| carver.take(plan.part_bytes().max(library.as_ref().map_or(0, |library| library.bytes))),
        |scratch| {
            let ours = || attention::forward(device.driver(), plan, table, scratch, &operands);
            match &library {
                Some(library) => library.or(device.driver(), scratch, AttentionPass::Forward(operands), &ours),
                None => ours(),
            }
        },
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
    let library = Library::of(device, shape, dtype, spans);
    let delta_bytes = attention::delta_bytes(rows, shape.n_head);
    device.with_scratch(
        |carver| carver.take(delta_bytes.max(library.as_ref().map_or(0, |library| library.bytes))),
        |scratch| {
            let ours = || attention::backward(device.driver(), plan, table, scratch, &operands);
            match &library {
                Some(library) => library.or(device.driver(), scratch, AttentionPass::Backward(operands), &ours),
                None => ours(),
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans(lengths: &[(usize, usize)]) -> Vec<Span> {
        let (mut q_start, mut kv_start) = (0, 0);
        let mut spans = Vec::new();
        for (q_len, kv_len) in lengths.iter().copied() {
            spans.push(Span { q_start, q_len, kv_start, kv_len });
            (q_start, kv_start) = (q_start + q_len, kv_start + kv_len);
        }
        spans
    }

    #[test]
    fn a_library_is_asked_for_whole_sequences_of_one_length_only() {
        let of = |lengths: &[(usize, usize)]| sequences(&spans(lengths));
        assert_eq!(of(&[(256, 256)]), Some((1, 256)));
        assert_eq!(of(&[(2048, 2048); 3]), Some((3, 2048)));
        for lengths in [
            &[][..],
            &[(128, 128); 2],
            &[(300, 300); 2],
            &[(256, 256), (128, 128)],
            &[(256, 256), (384, 384)],
            &[(256, 512)],
            &[(1, 256)],
        ] {
            assert_eq!(of(lengths), None, "{lengths:?}");
        }
        // A gap between two of them, and one that does not begin at the first row.
        let mut apart = spans(&[(256, 256); 2]);
        (apart[1].q_start, apart[1].kv_start) = (257, 257);
        assert_eq!(sequences(&apart), None);
        assert_eq!(sequences(&apart[1..]), None);
        // Queries and keys from different places.
        let mut moved = spans(&[(256, 256)]);
        moved[0].kv_start = 256;
        assert_eq!(sequences(&moved), None);
    }
}
