//! Weight matrices and linear layers: forward, input gradient, weight gradient. FLOPs: `2 tokens rows columns` each.

use super::buffer::CpuBuffer;
#[cfg(target_arch = "x86_64")]
use super::gemm;
use super::gemm::{
    Add, Epilogue, Left, MatElement, PANEL, PackedB, Store, left_len, left_transposed, multiply, pack_columns,
    pack_transposed,
};
use super::isa::{Isa, Kernel, Math};
use super::memory::{Carver, Memory};
use super::pool::{Pool, Shared};
use super::quantized::{self, Quantized};
use crate::device::MatrixUse;
use crate::dtype::{Bf16, DType, Storage};
use crate::error::ComputeError;
use crate::matrix_format::MatrixFormat;

/// Tokens whose activations are packed at once for a weight gradient: bounds scratch, and fixes the order of sums.
pub(super) const TOKENS: usize = 1024;
/// Longest `k` multiplied in one go: longer sums would stream the panels from memory for every few rows.
pub(super) const LONG_K: usize = 4096;

/// A weight matrix `[rows, columns]`, packed for the forward pass and, for training, for the input gradient.
pub struct CpuMatrix {
    format: MatrixFormat,
    pub(super) rows: usize,
    pub(super) columns: usize,
    forward: Memory,
    backward: Option<Memory>,
}

impl CpuMatrix {
    /// Bytes that a matrix takes.
    pub(super) fn bytes(format: MatrixFormat, rows: usize, columns: usize, usage: MatrixUse) -> usize {
        if format.is_quantized() {
            return quantized::bytes(format, rows, columns);
        }
        let dtype = format.activations();
        let group = if dtype == DType::Bf16 { 2 } else { 1 };
        let forward = columns.next_multiple_of(group) * rows.next_multiple_of(PANEL);
        let backward = rows.next_multiple_of(group) * columns.next_multiple_of(PANEL);
        match usage {
            MatrixUse::Inference => forward * dtype.size(),
            MatrixUse::Training => (forward + backward) * dtype.size(),
        }
    }

    pub(super) fn new(
        name: &str,
        format: MatrixFormat,
        rows: usize,
        columns: usize,
        usage: MatrixUse,
    ) -> Result<Self, ComputeError> {
        if format.is_quantized() && usage == MatrixUse::Training {
            return Err(ComputeError::QuantizedTraining { name: name.into(), format: format.name() });
        }
        let forward = Self::bytes(format, rows, columns, MatrixUse::Inference);
        let both = Self::bytes(format, rows, columns, MatrixUse::Training);
        let backward = match usage {
            MatrixUse::Inference => None,
            MatrixUse::Training => Some(Memory::new(name, both - forward)?),
        };
        Ok(CpuMatrix { format, rows, columns, forward: Memory::new(name, forward)?, backward })
    }

    /// The storage type of its activations.
    pub(super) fn dtype(&self) -> DType {
        self.format.activations()
    }

    /// The operand of `x · Wᵀ`: `k = columns`, `n = rows`.
    pub(super) fn forward<S: MatElement>(&self) -> PackedB<'_, S> {
        assert_eq!(self.format, S::DTYPE.into(), "matrix used as another type");
        PackedB::new(self.forward.slice(), self.columns, self.rows)
    }

    /// The operand of `dy · W`: `k = rows`, `n = columns`.
    pub(super) fn backward<S: MatElement>(&self) -> PackedB<'_, S> {
        assert_eq!(self.format, S::DTYPE.into(), "matrix used as another type");
        let packed = self.backward.as_ref().expect("a matrix for inference has no input gradient");
        PackedB::new(packed.slice(), self.rows, self.columns)
    }

    /// The quantised weights, if they are.
    fn quantized(&self) -> Option<Quantized<'_>> {
        let CpuMatrix { format, rows, columns, .. } = *self;
        format.is_quantized().then(|| Quantized { format, rows, columns, words: self.forward.slice() })
    }

    /// Packs row-major values.
    pub(super) fn pack<S: MatElement>(&mut self, pool: &Pool, values: &[f32]) {
        assert_eq!(self.dtype(), S::DTYPE, "matrix packed as another type");
        let (rows, columns) = (self.rows, self.columns);
        if self.format.is_quantized() {
            let values = &values[..rows * columns];
            return quantized::pack(pool, self.format, values, columns, self.forward.slice_mut());
        }
        if let Some(forms) = self.both_forms(pool.isa()) {
            return pool.for_ranges(rows, BothForms::ROWS, |range| {
                // SAFETY: ranges are disjoint, and of whole panels.
                unsafe { forms.write(range.start, &values[range.start * columns..range.end * columns]) };
            });
        }
        let forward = self.forward.slice_mut::<S>();
        pack_transposed(pool, values, columns, (columns, rows), forward);
        if let Some(backward) = &mut self.backward {
            pack_columns(pool, values, columns, (rows, columns), backward.slice_mut::<S>());
        }
    }

    /// Columns of a panel.
    pub(super) const PANEL: usize = PANEL;

    /// The panels of a bf16 matrix, to be written: those of the forward pass, those of the input gradient.
    pub(super) fn bf16_panels_mut(&mut self) -> (&mut [Bf16], Option<&mut [Bf16]>) {
        assert_eq!(self.dtype(), DType::Bf16, "matrix packed as another type");
        (self.forward.slice_mut(), self.backward.as_mut().map(Memory::slice_mut))
    }

    /// Both forms, to be written a few rows at a time, where instruction set and shape allow it.
    pub(super) fn both_forms(&mut self, isa: Isa) -> Option<BothForms<'_>> {
        let (rows, columns) = (self.rows, self.columns);
        let fits = self.format == MatrixFormat::Bf16 && BothForms::fits(isa, rows, columns);
        let backward = self.backward.as_mut().filter(|_| fits)?;
        let (forward, backward) = (Shared::new(self.forward.slice_mut()), Shared::new(backward.slice_mut()));
        Some(BothForms { rows, columns, forward, backward })
    }

    /// Row `row` as f32, from the forward panels.
    pub(super) fn row<S: MatElement>(&self, row: usize, out: &mut [f32]) {
        if let Some(weight) = self.quantized() {
            return weight.row(row, out);
        }
        let panel_len = self.columns.next_multiple_of(S::GROUP) * PANEL;
        let panel = &self.forward.slice::<S>()[row / PANEL * panel_len..][..panel_len];
        let lane = row % PANEL;
        for (values, group) in out.chunks_mut(S::GROUP).zip(panel.chunks_exact(PANEL * S::GROUP)) {
            for (value, x) in values.iter_mut().zip(&group[lane * S::GROUP..]) {
                *value = x.load();
            }
        }
    }
}

/// The two forms of a bf16 matrix for training, by rows: a pass over the weights in the order in which they lie.
pub(super) struct BothForms<'a> {
    rows: usize,
    columns: usize,
    forward: Shared<'a, Bf16>,
    backward: Shared<'a, Bf16>,
}

impl BothForms<'_> {
    /// Rows written at once.
    pub(super) const ROWS: usize = PANEL;

    fn fits(isa: Isa, rows: usize, columns: usize) -> bool {
        isa >= Isa::Avx512Bf16 && rows.is_multiple_of(Self::ROWS) && columns.is_multiple_of(32)
    }

    /// Rounds the [`Self::ROWS`] rows from `first` on, a multiple of that.
    ///
    /// # Safety
    /// Nobody else writes or reads them meanwhile.
    pub(super) unsafe fn write(&self, first: usize, values: &[f32]) {
        let len = Self::ROWS * self.columns;
        assert!(first.is_multiple_of(Self::ROWS) && values.len() == len, "rows of a matrix");
        let panel_len = self.rows * PANEL;
        // The last panel's part ends last.
        let backward = self.backward.at(first * PANEL, (self.columns / PANEL - 1) * panel_len + Self::ROWS * PANEL);
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the constructor saw to level and shape; the caller's promise.
        unsafe {
            let forward = self.forward.slice_mut(first * self.columns, len);
            gemm::both_forms(values, self.columns, forward, backward, panel_len);
        }
        #[cfg(not(target_arch = "x86_64"))]
        unreachable!("no such level here: {backward:?} {:?}", self.forward.at(0, 0));
    }
}

/// `x · Wᵀ` for weights of any format, with [`forward_scratch`] bytes.
pub(super) fn forward<S: MatElement, E: Epilogue + Sync>(
    pool: &Pool,
    x: &[S],
    tokens: usize,
    weight: &CpuMatrix,
    epilogue: &E,
    scratch: &mut [u8],
) {
    match weight.quantized() {
        Some(weight) => quantized::product(pool, x, tokens, weight, epilogue, scratch),
        None => {
            let padding = Carver::new(scratch).take(padding_len::<S>(tokens, weight.columns));
            product(pool, x, tokens, weight.forward(), epilogue, padding);
        }
    }
}

/// Bytes of scratch for [`forward`].
pub(super) fn forward_scratch<S: MatElement>(tokens: usize, weight: &CpuMatrix) -> usize {
    match weight.quantized() {
        Some(weight) => quantized::scratch_bytes(tokens, weight.columns),
        None => Carver::bytes::<S>(padding_len::<S>(tokens, weight.columns)),
    }
}

/// A product whose left operand is activations, row-major.
pub(super) fn product<S: MatElement, E: Epilogue + Sync>(
    pool: &Pool,
    x: &[S],
    tokens: usize,
    right: PackedB<'_, S>,
    epilogue: &E,
    padding: &mut [S],
) {
    let k = right.k;
    if k.is_multiple_of(S::GROUP) {
        multiply(pool, Left::rows(x, tokens, k, k), tokens, right, epilogue);
    } else {
        // An odd `k` leaves half a pair at each row's end: the rows are copied with a zero behind them.
        let wide = k.next_multiple_of(S::GROUP);
        for (to, from) in padding.chunks_exact_mut(wide).zip(x.chunks_exact(k)).take(tokens) {
            to[..k].copy_from_slice(from);
            to[k..].fill(S::store(0.0));
        }
        multiply(pool, Left::rows(padding, tokens, wide, wide), tokens, right.slice(0, wide, 0, right.n), epilogue);
    }
}

/// Elements of padding that [`product`] may need.
pub(super) fn padding_len<S: MatElement>(tokens: usize, k: usize) -> usize {
    if k.is_multiple_of(S::GROUP) { 0 } else { tokens * k.next_multiple_of(S::GROUP) }
}

/// `out += x · right` (f32), in pieces of a long `k`.
pub(super) fn add_long_product<S: MatElement>(
    pool: &Pool,
    x: &[S],
    stride: usize,
    tokens: usize,
    right: PackedB<'_, S>,
    out: &mut [f32],
) {
    let n = right.n;
    let add = Add { out: Shared::new(out), stride: n, bias: None };
    for k0 in (0..right.k).step_by(LONG_K) {
        let k = LONG_K.min(right.k - k0).next_multiple_of(S::GROUP);
        multiply(pool, Left::rows(&x[k0..], tokens, k, stride), tokens, right.slice(k0, k, 0, n), &add);
    }
}

/// Rows of a weight whose gradients are computed before the next: those of a head's are too many to be packed at once.
const GRADIENT_ROWS: usize = 8192;

/// Bytes of scratch for [`backward_weight`].
pub(super) fn backward_weight_scratch<S: MatElement>(tokens: usize, rows: usize, columns: usize) -> usize {
    let tokens = tokens.min(TOKENS).next_multiple_of(2);
    Carver::bytes::<S>(left_len::<S>(tokens, rows.min(GRADIENT_ROWS)))
        + Carver::bytes::<S>(tokens * columns.next_multiple_of(PANEL))
}

/// The gradient of a weight.
pub(super) struct WeightGradient<'a> {
    pub(super) sums: &'a mut [f32],
    /// Whether the next product is stored instead of added: what is there counts as zeros.
    pub(super) stores: bool,
}

impl<'a> WeightGradient<'a> {
    /// Of `len` elements, to which a product is to be added next if it is `certain`: it is stored where zeros are due.
    pub(super) fn new(buffer: &'a mut CpuBuffer, len: usize, certain: bool) -> Self {
        let stores = certain && buffer.len() == len && buffer.take_zeros();
        WeightGradient { sums: buffer.slice_mut(), stores }
    }
}

/// `d_weight += dyᵀ · x` for a `dy` whose rows are `stride >= rows` wide; at most [`TOKENS`] tokens, at least one.
pub(super) fn backward_weight_padded<S: MatElement>(
    pool: &Pool,
    (dy, x): (&[S], &[S]),
    tokens: usize,
    (rows, stride, columns): (usize, usize, usize),
    d_weight: &mut WeightGradient<'_>,
    scratch: &mut [u8],
) {
    let mut scratch = Carver::new(scratch);
    let k = tokens.next_multiple_of(S::GROUP);
    let packed = scratch.take::<S>(left_len::<S>(tokens, rows.min(GRADIENT_ROWS)));
    let right = scratch.take::<S>(k * columns.next_multiple_of(PANEL));
    pack_columns(pool, x, columns, (tokens, columns), right);
    let right = PackedB::new(right, tokens, columns);
    let stores = std::mem::take(&mut d_weight.stores);
    for (i, sums) in d_weight.sums[..rows * columns].chunks_mut(GRADIENT_ROWS * columns).enumerate() {
        let rows = sums.len() / columns;
        let left = left_transposed(pool, &dy[i * GRADIENT_ROWS..], stride, (tokens, rows), packed);
        let out = Shared::new(sums);
        if stores {
            multiply(pool, left, rows, right, &Store { out, stride: columns, bias: None });
        } else {
            multiply(pool, left, rows, right, &Add { out, stride: columns, bias: None });
        }
    }
}

/// `d_weight += dyᵀ · x`, `d_bias += sum dy`.
pub(super) fn backward_weight<S: MatElement>(
    pool: &Pool,
    (dy, x): (&[S], &[S]),
    tokens: usize,
    (rows, columns): (usize, usize),
    mut d_weight: WeightGradient<'_>,
    d_bias: Option<&mut [f32]>,
    scratch: &mut [u8],
) {
    for first in (0..tokens).step_by(TOKENS) {
        let n = TOKENS.min(tokens - first);
        let operands = (&dy[first * rows..], &x[first * columns..]);
        backward_weight_padded(pool, operands, n, (rows, rows, columns), &mut d_weight, scratch);
    }
    if let Some(d_bias) = d_bias {
        add_column_sums(pool, &dy[..tokens * rows], rows, d_bias);
    }
}

struct ColumnSums<'a, S> {
    rows: &'a [S],
    width: usize,
    first: usize,
    out: &'a mut [f32],
}

/// Columns of a job: one cache line of bf16 and more, so that a pass over the rows is worth its misses.
const COLUMNS: usize = 128;

impl<S: Storage> Kernel for ColumnSums<'_, S> {
    type Output = ();
    #[inline(always)]
    fn run<M: Math>(self) {
        let mut sums = [0.0f32; COLUMNS];
        let n = self.out.len();
        for row in self.rows.chunks_exact(self.width) {
            for (sum, x) in sums.iter_mut().zip(&row[self.first..self.first + n]) {
                *sum += x.load();
            }
        }
        for (out, sum) in self.out.iter_mut().zip(sums) {
            *out += sum;
        }
    }
}

/// `out[c] += sum_r rows[r, c]`, rows in order.
fn add_column_sums<S: Storage>(pool: &Pool, rows: &[S], width: usize, out: &mut [f32]) {
    let out = Shared::new(out);
    pool.for_ranges(width, COLUMNS, |range| {
        // SAFETY: ranges are disjoint.
        let out = unsafe { out.slice_mut(range.start, range.len()) };
        pool.isa().run(ColumnSums { rows, width, first: range.start, out });
    });
}
