//! An operation with its shape: its name, its FLOPs, the bytes that it has to move.

use crate::device::{ActivationKind, AttentionShape, NormKind, Span};
use crate::dtype::DType;
use crate::matrix_format::MatrixFormat;

/// Where a linear layer's result goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Overwrites a buffer of this type.
    Store(DType),
    /// Adds to an f32 buffer.
    Add,
}

/// A parameter that AdamW updates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpdatedTensor {
    /// Values.
    pub len: usize,
    /// The matrix that is refreshed with it: its type, rows and columns.
    pub matrix: Option<(DType, (usize, usize))>,
}

/// A parameter that Muon updates: the matrices that lie in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockedTensor {
    /// Rows of each.
    pub row_blocks: Vec<usize>,
    /// Columns of all.
    pub columns: usize,
    /// Type of the matrix that is refreshed with it.
    pub matrix: Option<DType>,
}

impl BlockedTensor {
    /// Rows and columns of all of it.
    pub fn shape(&self) -> (usize, usize) {
        (self.row_blocks.iter().sum(), self.columns)
    }

    /// Its values.
    pub fn values(&self) -> usize {
        self.shape().0 * self.columns
    }
}

/// One call of an operation of [`Device`](crate::Device). `dtype` is the storage type of activations or of the matrix, `format`
/// how a weight that is only read is held, and `shape` the rows and columns of a weight.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // The fields are the arguments of the trait's methods.
pub enum Work {
    FillZero { dtype: DType, len: usize },
    Copy { dtype: DType, len: usize },
    GatherRows { dtype: DType, rows: usize, width: usize },
    Pack { dtype: DType, shape: (usize, usize) },
    Embedding { format: MatrixFormat, tokens: usize, shape: (usize, usize) },
    EmbeddingBackward { tokens: usize, shape: (usize, usize) },
    Norm { kind: NormKind, dtype: DType, tokens: usize, width: usize },
    NormAgain { kind: NormKind, dtype: DType, tokens: usize, width: usize },
    NormBackward { kind: NormKind, dtype: DType, tokens: usize, width: usize },
    Linear { format: MatrixFormat, tokens: usize, shape: (usize, usize), bias: bool, out: Destination },
    LinearBackwardInput { dtype: DType, tokens: usize, shape: (usize, usize) },
    LinearBackwardWeight { dtype: DType, tokens: usize, shape: (usize, usize), bias: bool },
    SplitQkv { dtype: DType, shape: AttentionShape, norm: bool, tokens: usize, slots: usize },
    SplitQkvBackward { dtype: DType, shape: AttentionShape, norm: bool, tokens: usize },
    Attention { dtype: DType, shape: AttentionShape, spans: Vec<Span>, lse: bool },
    AttentionBackward { dtype: DType, shape: AttentionShape, spans: Vec<Span> },
    Activation { kind: ActivationKind, dtype: DType, tokens: usize, n_ff: usize },
    ActivationBackward { kind: ActivationKind, dtype: DType, tokens: usize, n_ff: usize, again: bool },
    DropoutAdd { dtype: DType, len: usize },
    Dropout { len: usize },
    BranchGradient { dtype: DType, len: usize, dropout: bool },
    Head { dtype: DType, tokens: usize, shape: (usize, usize), gradient: bool },
    Clip { lens: Vec<usize> },
    AdamW { tensors: Vec<UpdatedTensor> },
    Muon { tensors: Vec<BlockedTensor> },
}

/// Steps of Muon's Newton-Schulz iteration.
const NEWTON_SCHULZ_STEPS: u64 = 5;

fn product(factors: &[usize]) -> u64 {
    factors.iter().map(|factor| *factor as u64).product()
}

/// Pairs of a query and a key that it sees: `q_len (kv_len - q_len)` behind the queries, and half the square with the
/// diagonal among them.
fn pairs(spans: &[Span]) -> u64 {
    let of = |s: &Span| product(&[s.q_len, s.kv_len - s.q_len]) + product(&[s.q_len, s.q_len + 1]) / 2;
    spans.iter().map(of).sum()
}

/// Sums of queries and of keys.
fn lengths(spans: &[Span]) -> (u64, u64) {
    spans.iter().fold((0, 0), |(q, kv), s| (q + s.q_len as u64, kv + s.kv_len as u64))
}

fn qkv_width(shape: &AttentionShape) -> usize {
    (shape.n_head + 2 * shape.n_kv_head) * shape.head_dim
}

impl Work {
    /// The method of [`Device`](crate::Device).
    pub fn operation(&self) -> &'static str {
        match self {
            Work::FillZero { .. } => "fill_zero",
            Work::Copy { .. } => "copy",
            Work::GatherRows { .. } => "gather_rows",
            Work::Pack { .. } => "pack",
            Work::Embedding { .. } => "embedding",
            Work::EmbeddingBackward { .. } => "embedding_backward",
            Work::Norm { .. } => "norm",
            Work::NormAgain { .. } => "norm_again",
            Work::NormBackward { .. } => "norm_backward",
            Work::Linear { .. } => "linear",
            Work::LinearBackwardInput { .. } => "linear_backward_input",
            Work::LinearBackwardWeight { .. } => "linear_backward_weight",
            Work::SplitQkv { .. } => "split_qkv",
            Work::SplitQkvBackward { .. } => "split_qkv_backward",
            Work::Attention { .. } => "attention",
            Work::AttentionBackward { .. } => "attention_backward",
            Work::Activation { .. } => "activation",
            Work::ActivationBackward { .. } => "activation_backward",
            Work::DropoutAdd { .. } => "dropout_add",
            Work::Dropout { .. } => "dropout",
            Work::BranchGradient { .. } => "branch_gradient",
            Work::Head { .. } => "head",
            Work::Clip { .. } => "clip",
            Work::AdamW { .. } => "adamw_all",
            Work::Muon { .. } => "muon_all",
        }
    }

    /// The sizes, for people: tokens first, then the weight's rows and columns.
    pub fn shape(&self) -> String {
        let attention = |shape: &AttentionShape, spans: &[Span]| {
            let (q, kv) = lengths(spans);
            format!("{q} on {kv}, {} heads of {}, {} of keys", shape.n_head, shape.head_dim, shape.n_kv_head)
        };
        match self {
            Work::FillZero { len, .. }
            | Work::Copy { len, .. }
            | Work::DropoutAdd { len, .. }
            | Work::Dropout { len }
            | Work::BranchGradient { len, .. } => len.to_string(),
            Work::GatherRows { rows, width, .. } => format!("{rows} x {width}"),
            Work::Pack { shape: (rows, columns), .. } => format!("{rows} x {columns}"),
            Work::Norm { tokens, width, .. }
            | Work::NormAgain { tokens, width, .. }
            | Work::NormBackward { tokens, width, .. } => format!("{tokens} x {width}"),
            Work::Embedding { tokens, shape: (rows, columns), .. }
            | Work::EmbeddingBackward { tokens, shape: (rows, columns) }
            | Work::Linear { tokens, shape: (rows, columns), .. }
            | Work::LinearBackwardInput { tokens, shape: (rows, columns), .. }
            | Work::LinearBackwardWeight { tokens, shape: (rows, columns), .. }
            | Work::Head { tokens, shape: (rows, columns), .. } => format!("{tokens} x {rows} x {columns}"),
            Work::SplitQkv { tokens, shape, .. } | Work::SplitQkvBackward { tokens, shape, .. } => {
                format!("{tokens} x {}", qkv_width(shape))
            }
            Work::Attention { shape, spans, .. } | Work::AttentionBackward { shape, spans, .. } => {
                attention(shape, spans)
            }
            Work::Activation { tokens, n_ff, .. } | Work::ActivationBackward { tokens, n_ff, .. } => {
                format!("{tokens} x {n_ff}")
            }
            Work::Clip { lens } => format!("{} in {} tensors", lens.iter().sum::<usize>(), lens.len()),
            Work::AdamW { tensors } => {
                format!("{} in {} tensors", tensors.iter().map(|t| t.len).sum::<usize>(), tensors.len())
            }
            Work::Muon { tensors } => {
                let one = |t: &BlockedTensor| {
                    let rows: Vec<String> = t.row_blocks.iter().map(usize::to_string).collect();
                    format!("{} x {}", rows.join(" + "), t.columns)
                };
                format!("{} tensors of {}", tensors.len(), tensors.first().map(one).unwrap_or_default())
            }
        }
    }

    /// Additions and multiplications, a fused pair being two.
    ///
    /// A product of `m x k` by `k x n` is `2 m n k`; attention is two products over the pairs that the causal mask leaves,
    /// five backward (the scores again, and the gradients of values, probabilities, queries and keys); the head is one
    /// product, three with gradients; Muon is five times `3 n² m + n³` for a matrix whose shorter side is `n`: of its three
    /// products two are symmetric, and a half of them is the other. Everything else is counted an element, from its formula; a root, a division, an exponential or an error function as one. What rounds,
    /// copies or looks up does none.
    pub fn flops(&self) -> u64 {
        use ActivationKind::{Gelu, ReluSquared, SwiGlu};
        use NormKind::{LayerNorm, RmsNorm};
        match self {
            Work::FillZero { .. }
            | Work::Copy { .. }
            | Work::GatherRows { .. }
            | Work::Pack { .. }
            | Work::Embedding { .. } => 0,
            Work::EmbeddingBackward { tokens, shape } => product(&[*tokens, shape.1]),
            Work::Norm { kind, tokens, width, .. } => {
                product(&[*tokens, *width]) * if *kind == LayerNorm { 7 } else { 4 }
            }
            Work::NormAgain { kind, tokens, width, .. } => {
                product(&[*tokens, *width]) * if *kind == LayerNorm { 4 } else { 2 }
            }
            Work::NormBackward { kind, tokens, width, .. } => {
                product(&[*tokens, *width]) * if *kind == RmsNorm { 10 } else { 14 }
            }
            Work::Linear { tokens, shape: (rows, columns), bias, out, .. } => {
                let once = u64::from(*bias) + u64::from(*out == Destination::Add);
                product(&[2, *tokens, *rows, *columns]) + once * product(&[*tokens, *rows])
            }
            Work::LinearBackwardInput { tokens, shape: (rows, columns), .. } => product(&[2, *tokens, *rows, *columns]),
            Work::LinearBackwardWeight { tokens, shape: (rows, columns), bias, .. } => {
                product(&[2, *tokens, *rows, *columns])
                    + product(&[*rows, *columns])
                    + u64::from(*bias) * product(&[*tokens, *rows])
            }
            Work::SplitQkv { shape, norm, tokens, .. } => {
                let rotated = product(&[*tokens, shape.n_head + shape.n_kv_head, shape.head_dim]);
                rotated * if *norm { 7 } else { 3 }
            }
            Work::SplitQkvBackward { shape, norm, tokens, .. } => {
                let rotated = product(&[*tokens, shape.n_head + shape.n_kv_head, shape.head_dim]);
                rotated * if *norm { 13 } else { 3 }
            }
            Work::Attention { shape, spans, .. } => 4 * pairs(spans) * product(&[shape.n_head, shape.head_dim]),
            Work::AttentionBackward { shape, spans, .. } => {
                10 * pairs(spans) * product(&[shape.n_head, shape.head_dim])
            }
            Work::Activation { kind, tokens, n_ff, .. } => {
                product(&[*tokens, *n_ff])
                    * match kind {
                        Gelu | SwiGlu => 5,
                        ReluSquared => 2,
                    }
            }
            Work::ActivationBackward { kind, tokens, n_ff, .. } => {
                product(&[*tokens, *n_ff])
                    * match kind {
                        Gelu => 10,
                        SwiGlu => 14,
                        ReluSquared => 4,
                    }
            }
            Work::DropoutAdd { len, .. } => 2 * *len as u64,
            Work::Dropout { len } => *len as u64,
            Work::BranchGradient { len, dropout, .. } => u64::from(*dropout) * *len as u64,
            Work::Head { tokens, shape: (rows, columns), gradient, .. } => {
                product(&[2, *tokens, *rows, *columns]) * if *gradient { 3 } else { 1 }
            }
            Work::Clip { lens } => 2 * lens.iter().map(|len| *len as u64).sum::<u64>(),
            Work::AdamW { tensors } => 15 * tensors.iter().map(|t| t.len as u64).sum::<u64>(),
            Work::Muon { tensors } => {
                let block = |rows: usize, columns: usize| {
                    let (n, m) = (rows.min(columns), rows.max(columns));
                    NEWTON_SCHULZ_STEPS * (product(&[3, n, n, m]) + product(&[n, n, n])) + product(&[12, n, m])
                };
                let one = |t: &BlockedTensor| t.row_blocks.iter().map(|rows| block(*rows, t.columns)).sum::<u64>();
                tensors.iter().map(one).sum()
            }
        }
    }

    /// Bytes that must cross the memory's bus if nothing is in a cache beforehand and everything stays in one until it is
    /// done with: each operand once, twice where it is added to. Logits and probabilities never leave.
    pub fn bytes(&self) -> u64 {
        let of = |dtype: &DType| dtype.size() as u64;
        match self {
            Work::FillZero { dtype, len } => *len as u64 * of(dtype),
            Work::Copy { dtype, len } => 2 * *len as u64 * of(dtype),
            Work::GatherRows { dtype, rows, width } => 2 * product(&[*rows, *width]) * of(dtype),
            Work::Pack { dtype, shape: (rows, columns) } => product(&[*rows, *columns]) * (4 + of(dtype)),
            Work::Embedding { format, tokens, shape } => {
                format.bytes(*tokens, shape.1) + product(&[*tokens, shape.1]) * 4 + 4 * *tokens as u64
            }
            // The gradient's rows are read and written.
            Work::EmbeddingBackward { tokens, shape } => 12 * product(&[*tokens, shape.1]) + 4 * *tokens as u64,
            Work::Norm { dtype, tokens, width, .. } | Work::NormAgain { dtype, tokens, width, .. } => {
                product(&[*tokens, *width]) * (4 + of(dtype)) + 8 * *tokens as u64
            }
            Work::NormBackward { dtype, tokens, width, .. } => {
                product(&[*tokens, *width]) * (12 + of(dtype)) + 8 * *tokens as u64
            }
            Work::Linear { format, tokens, shape: (rows, columns), bias, out } => {
                let written = match out {
                    Destination::Store(to) => of(to),
                    Destination::Add => 8,
                };
                product(&[*tokens, *columns]) * of(&format.activations())
                    + format.bytes(*rows, *columns)
                    + product(&[*tokens, *rows]) * written
                    + u64::from(*bias) * 4 * *rows as u64
            }
            Work::LinearBackwardInput { dtype, tokens, shape: (rows, columns) } => {
                (product(&[*tokens, *rows + *columns]) + product(&[*rows, *columns])) * of(dtype)
            }
            Work::LinearBackwardWeight { dtype, tokens, shape: (rows, columns), bias } => {
                product(&[*tokens, *rows + *columns]) * of(dtype)
                    + 8 * product(&[*rows, *columns])
                    + u64::from(*bias) * 8 * *rows as u64
            }
            Work::SplitQkv { dtype, shape, tokens, .. } => {
                let tables = product(&[*tokens, 4, shape.head_dim]);
                2 * product(&[*tokens, qkv_width(shape)]) * of(dtype) + tables
            }
            Work::SplitQkvBackward { dtype, shape, norm, tokens } => {
                let tables = product(&[*tokens, 4, shape.head_dim]);
                // With a norm its input is read again.
                let again = u64::from(*norm) * product(&[*tokens, shape.n_head + shape.n_kv_head, shape.head_dim]);
                (2 * product(&[*tokens, qkv_width(shape)]) + again) * of(dtype) + tables
            }
            Work::Attention { dtype, shape, spans, lse } => {
                let (q, kv) = lengths(spans);
                let (width, kv_width) =
                    (product(&[shape.n_head, shape.head_dim]), product(&[shape.n_kv_head, shape.head_dim]));
                (2 * q * width + 2 * kv * kv_width) * of(dtype) + u64::from(*lse) * 4 * q * shape.n_head as u64
            }
            Work::AttentionBackward { dtype, shape, spans } => {
                let (q, kv) = lengths(spans);
                let (width, kv_width) =
                    (product(&[shape.n_head, shape.head_dim]), product(&[shape.n_kv_head, shape.head_dim]));
                // Read: queries, output and its gradient, keys, values. Written: three gradients.
                (4 * q * width + 4 * kv * kv_width) * of(dtype) + 4 * q * shape.n_head as u64
            }
            Work::Activation { kind, dtype, tokens, n_ff } => {
                product(&[*tokens, kind.input_width(*n_ff) + *n_ff]) * of(dtype)
            }
            Work::ActivationBackward { kind, dtype, tokens, n_ff, again } => {
                product(&[*tokens, 2 * kind.input_width(*n_ff) + (1 + usize::from(*again)) * *n_ff]) * of(dtype)
            }
            Work::DropoutAdd { dtype, len } => *len as u64 * (8 + of(dtype)),
            Work::Dropout { len } => 8 * *len as u64,
            Work::BranchGradient { dtype, len, .. } => *len as u64 * (4 + of(dtype)),
            Work::Head { dtype, tokens, shape: (rows, columns), gradient } => {
                let hidden = product(&[*tokens, *columns]) * of(dtype);
                let weight = product(&[*rows, *columns]);
                let backward = if *gradient { hidden + 8 * weight } else { 0 };
                hidden + weight * of(dtype) + backward + 12 * *tokens as u64
            }
            Work::Clip { lens } => 4 * lens.iter().map(|len| *len as u64).sum::<u64>(),
            Work::AdamW { tensors } => {
                // Weight and both moments are read and written, the gradient is read, the matrix written.
                let one = |t: &UpdatedTensor| t.len as u64 * (28 + t.matrix.map_or(0, |(dtype, _)| of(&dtype)));
                tensors.iter().map(one).sum()
            }
            Work::Muon { tensors } => {
                // Weight and momentum are read and written, the gradient is read, the matrix written; the iteration could stay in
                // a cache.
                let one = |t: &BlockedTensor| t.values() as u64 * (20 + t.matrix.as_ref().map_or(0, of));
                tensors.iter().map(one).sum()
            }
        }
    }

    /// The type whose matrix product bounds the FLOPs: of the operands for products and attention, f32 for everything that is
    /// done an element at a time.
    pub fn arithmetic(&self) -> DType {
        match self {
            Work::Linear { format, .. } => format.activations(),
            Work::LinearBackwardInput { dtype, .. }
            | Work::LinearBackwardWeight { dtype, .. }
            | Work::Attention { dtype, .. }
            | Work::AttentionBackward { dtype, .. }
            | Work::Head { dtype, .. } => *dtype,
            Work::Muon { .. } => DType::Bf16,
            _ => DType::F32,
        }
    }
}
