//! One piece of work with its operands, to be done again and again.

use super::operands::Operands;
use super::work::{Destination, UpdatedTensor, Work};
use crate::device::{
    AdamW, AdamWTensor, AttentionShape, Device, Dropout, Head, HeadGradient, MatrixUse, Muon, MuonTensor, Norm,
    NormGradient, NormKind, Out, QkNorm, QkvSplit, Rounding, Span,
};
use crate::dtype::DType;
use crate::error::ComputeError;

/// So small that nothing grows, however often it is repeated.
const ADAMW: AdamW = AdamW {
    lr: 1e-6,
    beta1: 0.9,
    beta2: 0.95,
    eps: 1e-8,
    weight_decay: 0.1,
    step: 10,
    gradient_scale: 1.0,
    weight_rounding: Rounding::Nearest,
    seed: 1,
};
const MUON: Muon = Muon {
    lr: 1e-6,
    momentum: 0.95,
    weight_decay: 0.1,
    gradient_scale: 1.0,
    seed: 1,
    weight_rounding: Rounding::Nearest,
};
const DROPOUT: Dropout = Dropout { rate: 0.1, seed: 1, site: 1 };
const EPS: f32 = 1e-5;

/// Work and its operands; which is which follows from the work.
pub(super) struct Case<D: Device> {
    work: Work,
    buffers: Vec<D::Buffer>,
    matrices: Vec<D::Matrix>,
    tally: D::Tally,
}

/// Rows that spans reach: of queries, of keys.
fn reach(spans: &[Span]) -> (usize, usize) {
    spans.iter().fold((0, 0), |(q, kv), s| (q.max(s.q_start + s.q_len), kv.max(s.kv_start + s.kv_len)))
}

impl<D: Device> Case<D> {
    /// Allocates and fills the operands.
    ///
    /// # Errors
    /// The memory cannot be had.
    pub(super) fn new(device: &D, work: &Work) -> Result<Self, ComputeError> {
        let mut tally = device.allocate_tally()?;
        device.clear_tally(&mut tally);
        let operands = Operands(device);
        // A step that has been concluded, so that updates take place.
        device.clip(&[&operands.values(DType::F32, 64)?], 0.0, &mut tally);
        let mut case = Case { work: work.clone(), buffers: Vec::new(), matrices: Vec::new(), tally };
        case.fill(device)?;
        Ok(case)
    }

    fn fill(&mut self, device: &D) -> Result<(), ComputeError> {
        let operands = Operands(device);
        let f32 = |len: usize| operands.values(DType::F32, len);
        let Case { work, buffers, matrices, .. } = self;
        let work = &*work;
        *buffers = match work {
            Work::FillZero { dtype, len } => vec![operands.values(*dtype, *len)?],
            Work::Copy { dtype, len } => vec![operands.values(*dtype, *len)?, operands.values(*dtype, *len)?],
            Work::GatherRows { dtype, rows, width } => {
                vec![operands.values(*dtype, rows * width)?, operands.values(*dtype, rows * width)?]
            }
            Work::Pack { dtype, shape } => {
                matrices.push(operands.matrix(*dtype, *shape, MatrixUse::Training)?);
                vec![f32(shape.0 * shape.1)?]
            }
            Work::Embedding { format, tokens, shape } => {
                matrices.push(operands.matrix(*format, *shape, MatrixUse::Inference)?);
                vec![operands.indices(*tokens, shape.0)?, f32(tokens * shape.1)?]
            }
            Work::EmbeddingBackward { tokens, shape } => {
                vec![operands.indices(*tokens, shape.0)?, f32(tokens * shape.1)?, f32(shape.0 * shape.1)?]
            }
            Work::Norm { dtype, tokens, width, .. }
            | Work::NormAgain { dtype, tokens, width, .. }
            | Work::NormBackward { dtype, tokens, width, .. } => {
                let len = tokens * width;
                let (x, y, stats) = (f32(len)?, operands.values(*dtype, len)?, operands.positive(2 * tokens)?);
                vec![x, y, stats, f32(*width)?, f32(*width)?, f32(len)?, f32(*width)?, f32(*width)?]
            }
            Work::Linear { format, tokens, shape: (rows, columns), out, .. } => {
                matrices.push(operands.matrix(*format, (*rows, *columns), MatrixUse::Inference)?);
                let to = match out {
                    Destination::Store(to) => *to,
                    Destination::Add => DType::F32,
                };
                let x = operands.values(format.activations(), tokens * columns)?;
                vec![x, operands.values(to, tokens * rows)?, f32(*rows)?]
            }
            Work::LinearBackwardInput { dtype, tokens, shape: (rows, columns) } => {
                matrices.push(operands.matrix(*dtype, (*rows, *columns), MatrixUse::Training)?);
                vec![operands.values(*dtype, tokens * rows)?, operands.values(*dtype, tokens * columns)?]
            }
            Work::LinearBackwardWeight { dtype, tokens, shape: (rows, columns), .. } => {
                let (dy, x) = (operands.values(*dtype, tokens * rows)?, operands.values(*dtype, tokens * columns)?);
                vec![dy, x, f32(rows * columns)?, f32(*rows)?]
            }
            Work::SplitQkv { dtype, shape, tokens, .. } | Work::SplitQkvBackward { dtype, shape, tokens, .. } => {
                let slots = match work {
                    Work::SplitQkv { slots, .. } => *slots,
                    _ => *tokens,
                };
                Self::qkv(&operands, *dtype, *shape, *tokens, slots)?
            }
            Work::Attention { dtype, shape, spans, .. } | Work::AttentionBackward { dtype, shape, spans } => {
                let (q, kv) = reach(spans);
                let (q_len, kv_len) = (q * shape.n_head * shape.head_dim, kv * shape.n_kv_head * shape.head_dim);
                let mut buffers = Vec::new();
                // Queries, keys, values; the output and its gradient; three gradients; the log-sum-exps.
                for len in [q_len, kv_len, kv_len, q_len, q_len, q_len, kv_len, kv_len] {
                    buffers.push(operands.values(*dtype, len)?);
                }
                buffers.push(f32(q * shape.n_head)?);
                if let [q, k, v, out, .., lse] = &mut buffers[..] {
                    device.attention(*shape, spans, [q, k, v], out, Some(lse));
                }
                buffers
            }
            Work::Activation { kind, dtype, tokens, n_ff }
            | Work::ActivationBackward { kind, dtype, tokens, n_ff, .. } => {
                let wide = tokens * kind.input_width(*n_ff);
                vec![operands.values(*dtype, wide)?, operands.values(*dtype, tokens * n_ff)?]
            }
            Work::DropoutAdd { dtype, len } | Work::BranchGradient { dtype, len, .. } => {
                vec![f32(*len)?, operands.values(*dtype, *len)?]
            }
            Work::Dropout { len } => vec![f32(*len)?],
            Work::Head { dtype, tokens, shape: (rows, columns), gradient } => {
                let usage = if *gradient { MatrixUse::Training } else { MatrixUse::Inference };
                matrices.push(operands.matrix(*dtype, (*rows, *columns), usage)?);
                let hidden = operands.values(*dtype, tokens * columns)?;
                let (targets, weights) = (operands.indices(*tokens, *rows)?, operands.positive(*tokens)?);
                let mut buffers = vec![hidden, targets, weights, f32(*tokens)?];
                if *gradient {
                    buffers.extend([operands.values(*dtype, tokens * columns)?, f32(rows * columns)?]);
                }
                buffers
            }
            // Tensors of one length share their memory, which is still far more than any cache.
            Work::Clip { lens } => distinct(lens).into_iter().map(f32).collect::<Result<_, _>>()?,
            Work::AdamW { tensors } => {
                let mut buffers = Vec::new();
                for UpdatedTensor { len, matrix } in tensors {
                    buffers.extend([f32(*len)?, f32(*len)?, f32(*len)?, operands.positive(*len)?]);
                    if let Some((dtype, shape)) = matrix {
                        matrices.push(operands.matrix(*dtype, *shape, MatrixUse::Training)?);
                    }
                }
                buffers
            }
            Work::Muon { tensors } => {
                let mut buffers = Vec::new();
                for tensor in tensors {
                    buffers.extend([f32(tensor.values())?, f32(tensor.values())?, f32(tensor.values())?]);
                    if let Some(dtype) = tensor.matrix {
                        matrices.push(operands.matrix(dtype, tensor.shape(), MatrixUse::Training)?);
                    }
                }
                buffers
            }
        };
        Ok(())
    }

    /// The row of queries, keys and values; the three; cosines and sines; positions and slots; the norm's weights and their
    /// gradients.
    fn qkv(
        operands: &Operands<'_, D>,
        dtype: DType,
        shape: AttentionShape,
        tokens: usize,
        slots: usize,
    ) -> Result<Vec<D::Buffer>, ComputeError> {
        let AttentionShape { n_head, n_kv_head, head_dim } = shape;
        let table = tokens * head_dim / 2;
        let mut buffers = Vec::new();
        let kv = slots * n_kv_head * head_dim;
        let row = (n_head + 2 * n_kv_head) * head_dim;
        for len in [tokens * row, tokens * n_head * head_dim, kv, kv, tokens * row] {
            buffers.push(operands.values(dtype, len)?);
        }
        for len in [table, table] {
            buffers.push(operands.values(DType::F32, len)?);
        }
        buffers.push(operands.places(tokens, |i| i as u32)?);
        // The last ones: a cache that is full.
        buffers.push(operands.places(tokens, |i| (slots - tokens + i) as u32)?);
        for _ in 0..4 {
            buffers.push(operands.values(DType::F32, head_dim)?);
        }
        Ok(buffers)
    }

    /// Does the work once.
    pub(super) fn run(&mut self, device: &D) {
        let Case { work, buffers, matrices, tally } = self;
        match (&*work, &mut buffers[..], &mut matrices[..]) {
            (Work::FillZero { .. }, [buffer], _) => device.fill_zero(buffer),
            (Work::Copy { len, .. }, [from, to], _) => device.copy(from, *len, to),
            (Work::GatherRows { rows, width, .. }, [from, to], _) => {
                device.gather_rows(from, *width, &(0..*rows as u32).collect::<Vec<_>>(), to);
            }
            (Work::Pack { .. }, [values], [matrix]) => device.pack(values, matrix),
            (Work::Embedding { tokens, .. }, [ids, x], [table]) => device.embedding(table, ids, *tokens, x),
            (Work::EmbeddingBackward { tokens, shape }, [ids, dx, d_table], _) => {
                device.embedding_backward(ids, dx, *tokens, shape.1, d_table);
            }
            (Work::Norm { kind, tokens, width, .. }, [x, y, stats, weight, bias, ..], _) => {
                device.norm(&norm(*kind, weight, bias), x, *tokens, *width, y, stats);
            }
            (Work::NormAgain { kind, tokens, width, .. }, [x, y, stats, weight, bias, ..], _) => {
                device.norm_again(&norm(*kind, weight, bias), x, stats, *tokens, *width, y);
            }
            (Work::NormBackward { kind, tokens, width, .. }, [x, dy, stats, weight, bias, dx, d_weight, d_bias], _) => {
                let d_bias = (*kind == NormKind::LayerNorm).then_some(d_bias);
                let gradient = NormGradient { weight: d_weight, bias: d_bias };
                device.norm_backward(&norm(*kind, weight, bias), x, stats, dy, *tokens, *width, dx, gradient);
            }
            (Work::Linear { tokens, bias, out, .. }, [x, y, b], [weight]) => {
                let to = match out {
                    Destination::Store(_) => Out::Store(y),
                    Destination::Add => Out::Add(y),
                };
                device.linear(x, weight, bias.then_some(&*b), *tokens, to);
            }
            (Work::LinearBackwardInput { tokens, .. }, [dy, dx], [weight]) => {
                device.linear_backward_input(dy, weight, *tokens, dx);
            }
            (Work::LinearBackwardWeight { tokens, shape, bias, .. }, [dy, x, d_weight, d_bias], _) => {
                device.linear_backward_weight(dy, x, *tokens, *shape, d_weight, bias.then_some(d_bias));
            }
            (
                Work::SplitQkv { shape, norm, tokens, .. },
                [qkv, q, k, v, _, cos, sin, positions, slots, q_weight, k_weight, ..],
                _,
            ) => {
                let norm = norm.then_some(QkNorm { eps: EPS, q_weight, k_weight });
                let split = QkvSplit { shape: *shape, norm, cos, sin, positions, slots };
                device.split_qkv(&split, qkv, *tokens, q, k, v);
            }
            (
                Work::SplitQkvBackward { shape, norm, tokens, .. },
                [qkv, dq, dk, dv, _, cos, sin, positions, slots, q_weight, k_weight, d_q_weight, d_k_weight],
                _,
            ) => {
                let d_norm = norm.then_some((d_q_weight, d_k_weight));
                let norm = norm.then_some(QkNorm { eps: EPS, q_weight, k_weight });
                let split = QkvSplit { shape: *shape, norm, cos, sin, positions, slots };
                device.split_qkv_backward(&split, qkv, [dq, dk, dv], *tokens, d_norm);
            }
            (Work::Attention { shape, spans, lse: kept, .. }, [q, k, v, out, .., lse], _) => {
                device.attention(*shape, spans, [q, k, v], out, kept.then_some(lse));
            }
            (Work::AttentionBackward { shape, spans, .. }, [q, k, v, out, d_out, dq, dk, dv, lse], _) => {
                device.attention_backward(*shape, spans, [q, k, v], out, lse, d_out, [dq, dk, dv]);
            }
            (Work::Activation { kind, tokens, n_ff, .. }, [x, y], _) => {
                device.activation(*kind, x, *tokens, *n_ff, y);
            }
            (Work::ActivationBackward { kind, tokens, n_ff, again, .. }, [x, dy], _) => {
                device.activation_backward(*kind, x, dy, *tokens, *n_ff, *again);
            }
            (Work::DropoutAdd { len, .. }, [x, branch], _) => device.dropout_add(DROPOUT, branch, *len, x),
            (Work::Dropout { len }, [x], _) => device.dropout(DROPOUT, *len, x),
            (Work::BranchGradient { len, dropout, .. }, [dx, branch], _) => {
                device.branch_gradient(dropout.then_some(DROPOUT), dx, *len, branch);
            }
            (Work::Head { tokens, .. }, [hidden, targets, weights, losses, gradient @ ..], [weight]) => {
                let head = Head { hidden, weight, targets, weights, tokens: *tokens };
                let gradient = match gradient {
                    [hidden, weight] => Some(HeadGradient { scale: 1e-3, hidden, weight }),
                    _ => None,
                };
                device.head_to_tally(&head, losses, gradient, tally);
            }
            (Work::Clip { lens }, buffers, _) => {
                let lengths = distinct(lens);
                let of = |len: &usize| lengths.iter().position(|known| known == len).map(|at| &buffers[at]);
                device.clip(&lens.iter().filter_map(of).collect::<Vec<_>>(), 1.0, tally);
            }
            (Work::AdamW { tensors }, buffers, matrices) => {
                let mut matrices = matrices.iter_mut();
                let mut updated = Vec::with_capacity(tensors.len());
                for (tensor, operands) in tensors.iter().zip(buffers.chunks_exact_mut(4)) {
                    if let [weight, gradient, first, second] = operands {
                        let matrix = tensor.matrix.and_then(|_| matrices.next());
                        let moments = [first, second];
                        updated.push(AdamWTensor { weight, matrix, gradient, moments, weight_decay: 0.1, seed: 1 });
                    }
                }
                device.adamw_all(&ADAMW, updated, tally);
            }
            (Work::Muon { tensors }, buffers, matrices) => {
                let mut matrices = matrices.iter_mut();
                let mut updated = Vec::with_capacity(tensors.len());
                for (tensor, operands) in tensors.iter().zip(buffers.chunks_exact_mut(3)) {
                    if let [weight, gradient, momentum] = operands {
                        let matrix = tensor.matrix.and_then(|_| matrices.next());
                        let (row_blocks, columns) = (&tensor.row_blocks[..], tensor.columns);
                        updated.push(MuonTensor { weight, matrix, gradient, momentum, row_blocks, columns, seed: 1 });
                    }
                }
                device.muon_all(&MUON, updated, tally);
            }
            _ => unreachable!("operands are made for the work"),
        }
    }
}

fn norm<'a, B>(kind: NormKind, weight: &'a B, bias: &'a B) -> Norm<'a, B> {
    Norm { kind, eps: EPS, weight, bias: (kind == NormKind::LayerNorm).then_some(bias) }
}

/// Each value once, in the order of first appearance.
fn distinct(values: &[usize]) -> Vec<usize> {
    let mut once = Vec::new();
    for value in values {
        if !once.contains(value) {
            once.push(*value);
        }
    }
    once
}
