//! A device that computes nothing and notes what it is asked for.

use std::borrow::Cow;
use std::sync::{Mutex, PoisonError};

use super::work::{BlockedTensor, Destination, UpdatedTensor, Work};
use crate::device::{
    ActivationKind, AdamW, AdamWTensor, AttentionShape, Device, DeviceInfo, Dropout, Head, HeadGradient, HeadResult,
    LARGE_GRADIENT, MatrixUse, Muon, MuonTensor, Norm, NormGradient, Out, QkvSplit, ScratchShape, Span, StepTotals,
};
use crate::dtype::DType;
use crate::error::ComputeError;
use crate::matrix_format::MatrixFormat;

/// Work that was asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Traced {
    /// The weight it is for, without its layer's number: `attn.qkv`. Empty where an operation has none.
    pub label: String,
    /// What was to be done.
    pub work: Work,
    /// How often, with this label.
    pub calls: usize,
}

/// A device without memory.
#[derive(Default)]
pub struct Tracer {
    traced: Mutex<Vec<Traced>>,
}

/// A buffer that holds nothing.
pub struct TracedBuffer {
    name: String,
    dtype: DType,
    len: usize,
}

/// A matrix that holds nothing.
pub struct TracedMatrix {
    name: String,
    format: MatrixFormat,
    shape: (usize, usize),
}

impl Tracer {
    /// Everything since the last call, in the order of first appearance.
    pub fn take(&self) -> Vec<Traced> {
        std::mem::take(&mut *self.traced.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note(&self, name: &str, work: Work) {
        let label = label(name);
        let mut traced = self.traced.lock().unwrap_or_else(PoisonError::into_inner);
        match traced.iter_mut().find(|t| t.label == label && t.work == work) {
            Some(known) => known.calls += 1,
            None => traced.push(Traced { label, work, calls: 1 }),
        }
    }
}

/// Elements of the tensors that Muon's update is measured with at once.
const MUON_GROUP: usize = 1 << 24;

/// `layers.3.attn.qkv.weight` is `attn.qkv`: what all layers have in common.
fn label(name: &str) -> String {
    let parts: Vec<&str> = name.split('.').collect();
    let number = parts.iter().rposition(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()));
    let common = &parts[number.map_or(0, |at| at + 1)..];
    common.strip_suffix(&["weight"]).unwrap_or(common).join(".")
}

fn rows_and_columns(len: usize, width: usize) -> (usize, usize) {
    (len / width.max(1), width)
}

impl Device for Tracer {
    type Buffer = TracedBuffer;
    type Matrix = TracedMatrix;
    type Tally = ();

    fn info(&self) -> DeviceInfo {
        DeviceInfo { name: "tracer".into(), isa: "none".into(), threads: 1 }
    }

    fn allocated_bytes(&self) -> u64 {
        0
    }

    fn available_bytes(&self) -> Option<u64> {
        None
    }

    fn allocate(&self, name: &str, dtype: DType, len: usize) -> Result<TracedBuffer, ComputeError> {
        Ok(TracedBuffer { name: name.into(), dtype, len })
    }

    fn supports(&self, _: MatrixFormat) -> Result<(), ComputeError> {
        Ok(())
    }

    fn allocate_matrix(
        &self,
        name: &str,
        format: MatrixFormat,
        rows: usize,
        columns: usize,
        _: MatrixUse,
    ) -> Result<TracedMatrix, ComputeError> {
        Ok(TracedMatrix { name: name.into(), format, shape: (rows, columns) })
    }

    fn matrix_bytes(&self, _: MatrixFormat, _: usize, _: usize, _: MatrixUse) -> u64 {
        0
    }

    fn scratch_bytes(&self, _: &ScratchShape) -> u64 {
        0
    }

    fn reserve_scratch(&self, _: &ScratchShape) -> Result<(), ComputeError> {
        Ok(())
    }

    fn len(&self, buffer: &TracedBuffer) -> usize {
        buffer.len
    }

    fn bytes<'a>(&self, buffer: &'a TracedBuffer) -> Cow<'a, [u8]> {
        Cow::Owned(vec![0; buffer.len * buffer.dtype.size()])
    }

    fn read_bytes(&self, buffer: &TracedBuffer, _: usize, len: usize) -> Vec<u8> {
        vec![0; len * buffer.dtype.size()]
    }

    fn write_bytes(&self, _: &mut TracedBuffer, _: usize, _: &[u8]) {}

    fn write_f32(&self, _: &mut TracedBuffer, _: usize, _: &[f32]) {}

    fn read_f32(&self, _: &TracedBuffer, _: usize, _: &mut [f32]) {}

    fn write_u32(&self, _: &mut TracedBuffer, _: usize, _: &[u32]) {}

    fn fill_zero(&self, buffer: &mut TracedBuffer) {
        self.note("", Work::FillZero { dtype: buffer.dtype, len: buffer.len });
    }

    fn clear_gradient(&self, gradient: &mut TracedBuffer) {
        // Of a matrix it costs the processor nothing, and a GPU little.
        if gradient.len < LARGE_GRADIENT {
            self.fill_zero(gradient);
        }
    }

    fn pack(&self, _: &TracedBuffer, matrix: &mut TracedMatrix) {
        self.note(&matrix.name, Work::Pack { dtype: matrix.format.activations(), shape: matrix.shape });
    }

    fn pack_stochastically(&self, values: &TracedBuffer, matrix: &mut TracedMatrix, _: u64) {
        self.pack(values, matrix);
    }

    fn copy(&self, from: &TracedBuffer, len: usize, _: &mut TracedBuffer) {
        self.note("", Work::Copy { dtype: from.dtype, len });
    }

    fn gather_rows(&self, from: &TracedBuffer, width: usize, rows: &[u32], _: &mut TracedBuffer) {
        self.note("", Work::GatherRows { dtype: from.dtype, rows: rows.len(), width });
    }

    fn embedding(&self, table: &TracedMatrix, _: &TracedBuffer, tokens: usize, _: &mut TracedBuffer) {
        self.note("", Work::Embedding { format: table.format, tokens, shape: table.shape });
    }

    fn embedding_backward(
        &self,
        _: &TracedBuffer,
        _: &TracedBuffer,
        tokens: usize,
        width: usize,
        d_table: &mut TracedBuffer,
    ) {
        self.note("", Work::EmbeddingBackward { tokens, shape: rows_and_columns(d_table.len, width) });
    }

    fn norm(
        &self,
        norm: &Norm<'_, TracedBuffer>,
        _: &TracedBuffer,
        tokens: usize,
        width: usize,
        y: &mut TracedBuffer,
        _: &mut TracedBuffer,
    ) {
        self.note("", Work::Norm { kind: norm.kind, dtype: y.dtype, tokens, width });
    }

    fn norm_backward(
        &self,
        norm: &Norm<'_, TracedBuffer>,
        _: &TracedBuffer,
        _: &TracedBuffer,
        dy: &TracedBuffer,
        tokens: usize,
        width: usize,
        _: &mut TracedBuffer,
        _: NormGradient<'_, TracedBuffer>,
    ) {
        self.note("", Work::NormBackward { kind: norm.kind, dtype: dy.dtype, tokens, width });
    }

    fn norm_again(
        &self,
        norm: &Norm<'_, TracedBuffer>,
        _: &TracedBuffer,
        _: &TracedBuffer,
        tokens: usize,
        width: usize,
        y: &mut TracedBuffer,
    ) {
        self.note("", Work::NormAgain { kind: norm.kind, dtype: y.dtype, tokens, width });
    }

    fn linear(
        &self,
        _: &TracedBuffer,
        weight: &TracedMatrix,
        bias: Option<&TracedBuffer>,
        tokens: usize,
        out: Out<'_, TracedBuffer>,
    ) {
        let out = match out {
            Out::Store(to) => Destination::Store(to.dtype),
            Out::Add(_) => Destination::Add,
        };
        self.note(
            &weight.name,
            Work::Linear { format: weight.format, tokens, shape: weight.shape, bias: bias.is_some(), out },
        );
    }

    fn linear_backward_input(&self, dy: &TracedBuffer, weight: &TracedMatrix, tokens: usize, _: &mut TracedBuffer) {
        self.note(&weight.name, Work::LinearBackwardInput { dtype: dy.dtype, tokens, shape: weight.shape });
    }

    fn linear_backward_weight(
        &self,
        dy: &TracedBuffer,
        _: &TracedBuffer,
        tokens: usize,
        shape: (usize, usize),
        d_weight: &mut TracedBuffer,
        d_bias: Option<&mut TracedBuffer>,
    ) {
        let work = Work::LinearBackwardWeight { dtype: dy.dtype, tokens, shape, bias: d_bias.is_some() };
        self.note(&d_weight.name, work);
    }

    fn split_qkv(
        &self,
        split: &QkvSplit<'_, TracedBuffer>,
        qkv: &TracedBuffer,
        tokens: usize,
        _: &mut TracedBuffer,
        k: &mut TracedBuffer,
        _: &mut TracedBuffer,
    ) {
        let (dtype, shape) = (qkv.dtype, split.shape);
        let slots = k.len / (shape.n_kv_head * shape.head_dim);
        self.note("", Work::SplitQkv { dtype, shape, norm: split.norm.is_some(), tokens, slots });
    }

    fn split_qkv_backward(
        &self,
        split: &QkvSplit<'_, TracedBuffer>,
        qkv: &mut TracedBuffer,
        _: [&TracedBuffer; 3],
        tokens: usize,
        _: Option<(&mut TracedBuffer, &mut TracedBuffer)>,
    ) {
        let (dtype, shape) = (qkv.dtype, split.shape);
        self.note("", Work::SplitQkvBackward { dtype, shape, norm: split.norm.is_some(), tokens });
    }

    fn attention(
        &self,
        shape: AttentionShape,
        spans: &[Span],
        [q, _, _]: [&TracedBuffer; 3],
        _: &mut TracedBuffer,
        lse: Option<&mut TracedBuffer>,
    ) {
        let (dtype, lse) = (q.dtype, lse.is_some());
        self.note("", Work::Attention { dtype, shape, spans: spans.to_vec(), lse });
    }

    fn attention_backward(
        &self,
        shape: AttentionShape,
        spans: &[Span],
        [q, _, _]: [&TracedBuffer; 3],
        _: &TracedBuffer,
        _: &TracedBuffer,
        _: &TracedBuffer,
        _: [&mut TracedBuffer; 3],
    ) {
        self.note("", Work::AttentionBackward { dtype: q.dtype, shape, spans: spans.to_vec() });
    }

    fn activation(&self, kind: ActivationKind, x: &TracedBuffer, tokens: usize, n_ff: usize, _: &mut TracedBuffer) {
        self.note("", Work::Activation { kind, dtype: x.dtype, tokens, n_ff });
    }

    fn activation_backward(
        &self,
        kind: ActivationKind,
        x: &mut TracedBuffer,
        _: &mut TracedBuffer,
        tokens: usize,
        n_ff: usize,
        again: bool,
    ) {
        self.note("", Work::ActivationBackward { kind, dtype: x.dtype, tokens, n_ff, again });
    }

    fn dropout_add(&self, _: Dropout, branch: &TracedBuffer, len: usize, _: &mut TracedBuffer) {
        self.note("", Work::DropoutAdd { dtype: branch.dtype, len });
    }

    fn dropout(&self, _: Dropout, len: usize, _: &mut TracedBuffer) {
        self.note("", Work::Dropout { len });
    }

    fn branch_gradient(&self, dropout: Option<Dropout>, _: &TracedBuffer, len: usize, branch: &mut TracedBuffer) {
        self.note("", Work::BranchGradient { dtype: branch.dtype, len, dropout: dropout.is_some() });
    }

    fn head(
        &self,
        head: &Head<'_, TracedBuffer, TracedMatrix>,
        _: &mut TracedBuffer,
        gradient: Option<HeadGradient<'_, TracedBuffer>>,
    ) -> HeadResult {
        let (dtype, tokens, gradient) = (head.hidden.dtype, head.tokens, gradient.is_some());
        self.note("", Work::Head { dtype, tokens, shape: head.weight.shape, gradient });
        HeadResult::default()
    }

    fn allocate_tally(&self) -> Result<(), ComputeError> {
        Ok(())
    }

    fn clear_tally(&self, (): &mut ()) {}

    fn post_tally(&self, (): &mut ()) {}

    fn collect_tally(&self, (): &mut ()) -> StepTotals {
        StepTotals::default()
    }

    fn read_tally(&self, (): &()) -> StepTotals {
        StepTotals::default()
    }

    fn head_to_tally(
        &self,
        head: &Head<'_, TracedBuffer, TracedMatrix>,
        losses: &mut TracedBuffer,
        gradient: Option<HeadGradient<'_, TracedBuffer>>,
        (): &mut (),
    ) {
        self.head(head, losses, gradient);
    }

    fn clip(&self, gradients: &[&TracedBuffer], _: f64, (): &mut ()) {
        self.note("", Work::Clip { lens: gradients.iter().map(|gradient| gradient.len).collect() });
    }

    /// Matrices one by one, so that each can be measured without memory for all; vectors, which are many and small, together.
    fn adamw_all(&self, _: &AdamW, tensors: Vec<AdamWTensor<'_, TracedBuffer, TracedMatrix>>, (): &()) {
        let mut vectors = Vec::new();
        for AdamWTensor { weight, matrix, .. } in tensors {
            let tensor = UpdatedTensor { len: weight.len, matrix: matrix.map(|m| (m.format.activations(), m.shape)) };
            match tensor.matrix {
                Some(_) => self.note(&weight.name, Work::AdamW { tensors: vec![tensor] }),
                None => vectors.push(tensor),
            }
        }
        if !vectors.is_empty() {
            self.note("vectors", Work::AdamW { tensors: vectors });
        }
    }

    /// Those of all layers together, in as many groups as keep the memory of one small: a device works on several at a time.
    fn muon_all(&self, _: &Muon, tensors: Vec<MuonTensor<'_, TracedBuffer, TracedMatrix>>, (): &()) {
        let mut named: Vec<(String, Vec<BlockedTensor>)> = Vec::new();
        for MuonTensor { weight, matrix, row_blocks, columns, .. } in tensors {
            let matrix = matrix.map(|m| m.format.activations());
            let tensor = BlockedTensor { row_blocks: row_blocks.to_vec(), columns, matrix };
            let label = label(&weight.name);
            match named.iter_mut().find(|(name, like)| *name == label && like.first() == Some(&tensor)) {
                Some((_, like)) => like.push(tensor),
                None => named.push((label, vec![tensor])),
            }
        }
        for (label, like) in named {
            let fits = |count: &usize| count * like[0].values() <= MUON_GROUP;
            // Groups alike: a row of the page each would tell nothing.
            let count =
                (1..=like.len()).rev().filter(|count| like.len().is_multiple_of(*count)).find(fits).unwrap_or(1);
            for group in like.chunks(count) {
                self.note(&label, Work::Muon { tensors: group.to_vec() });
            }
        }
    }

    fn sum_of_squares(&self, buffer: &TracedBuffer) -> f64 {
        self.note("", Work::Clip { lens: vec![buffer.len] });
        0.0
    }

    fn adamw(&self, _: &AdamW, weight: &mut TracedBuffer, _: &TracedBuffer, _: [&mut TracedBuffer; 2]) {
        let tensor = UpdatedTensor { len: weight.len, matrix: None };
        self.note(&weight.name, Work::AdamW { tensors: vec![tensor] });
    }

    fn muon(
        &self,
        _: &Muon,
        row_blocks: &[usize],
        columns: usize,
        weight: &mut TracedBuffer,
        _: &TracedBuffer,
        _: &mut TracedBuffer,
    ) {
        let tensor = BlockedTensor { row_blocks: row_blocks.to_vec(), columns, matrix: None };
        self.note(&weight.name, Work::Muon { tensors: vec![tensor] });
    }
}
