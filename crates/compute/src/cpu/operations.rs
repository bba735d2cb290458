//! [`Device`] for the processor: each operation cuts its operands to shape and hands them to its kernel.

use std::sync::atomic::Ordering;

use super::attention::Cached;
use super::gemm::{Add, Store};
use super::memory::Carver;
use super::pool::Shared;
use super::{
    CpuBuffer, CpuDevice, CpuMatrix, activation, adamw, attention, elementwise, head, linear, norm, qkv, scratch,
};
use crate::cache_format::CacheFormat;
use crate::device::*;
use crate::dtype::{Bf16, DType, Element};
use crate::error::ComputeError;
use crate::matrix_format::MatrixFormat;
use crate::tally::HostTally;

/// Runs `$body` with `$S` bound to the storage type of a tag.
macro_rules! with_storage {
    ($dtype:expr, $S:ident => $body:expr) => {
        match $dtype {
            DType::F32 => {
                type $S = f32;
                $body
            }
            DType::Bf16 => {
                type $S = Bf16;
                $body
            }
            DType::U32 => panic!("indices used as activations"),
        }
    };
}

fn norm_parameters<'a>(norm: &Norm<'a, CpuBuffer>, width: usize) -> norm::Parameters<'a> {
    norm::Parameters {
        kind: norm.kind,
        eps: norm.eps,
        weight: &norm.weight.slice()[..width],
        bias: norm.bias.map(|b| &b.slice()[..width]),
    }
}

fn split_parameters<'a>(split: &QkvSplit<'a, CpuBuffer>, tokens: usize) -> qkv::Split<'a> {
    assert!(split.shape.head_dim <= qkv::MAX_HEAD_DIM, "heads of at most {}", qkv::MAX_HEAD_DIM);
    qkv::Split {
        shape: split.shape,
        norm: split.norm.as_ref().map(|n| (n.eps, n.q_weight.slice(), n.k_weight.slice())),
        cos: split.cos.slice(),
        sin: split.sin.slice(),
        positions: &split.positions.slice()[..tokens],
        slots: &split.slots.slice()[..tokens],
    }
}

impl Device for CpuDevice {
    type Buffer = CpuBuffer;
    type Matrix = CpuMatrix;
    type Tally = HostTally;

    fn info(&self) -> DeviceInfo {
        DeviceInfo { name: "cpu".into(), isa: self.pool.isa().name().into(), threads: self.pool.threads() }
    }

    fn allocated_bytes(&self) -> u64 {
        self.allocated.load(Ordering::Relaxed)
    }

    fn available_bytes(&self) -> Option<u64> {
        crate::memory::available()
    }

    fn is_host(&self) -> bool {
        true
    }

    fn together<R: Send>(&self, operations: impl FnOnce() -> R + Send) -> R {
        self.pool.together(operations)
    }

    fn allocate(&self, name: &str, dtype: DType, len: usize) -> Result<CpuBuffer, ComputeError> {
        self.buffer(name, dtype, len)
    }

    fn supports(&self, format: MatrixFormat) -> Result<(), ComputeError> {
        match format {
            MatrixFormat::F32 | MatrixFormat::Bf16 | MatrixFormat::Q8 | MatrixFormat::Q4 => Ok(()),
            MatrixFormat::Fp8 => Err(ComputeError::no_fp8(&self.info())),
        }
    }

    fn supports_cache(&self, _: CacheFormat) -> Result<(), ComputeError> {
        Ok(())
    }

    fn rounds_activations(&self, format: MatrixFormat) -> bool {
        format.is_quantized()
    }

    fn allocate_matrix(
        &self,
        name: &str,
        format: MatrixFormat,
        rows: usize,
        columns: usize,
        usage: MatrixUse,
    ) -> Result<CpuMatrix, ComputeError> {
        self.supports(format)?;
        let matrix = CpuMatrix::new(name, format, rows, columns, usage)?;
        self.allocated.fetch_add(self.matrix_bytes(format, rows, columns, usage), Ordering::Relaxed);
        Ok(matrix)
    }

    fn matrix_bytes(&self, format: MatrixFormat, rows: usize, columns: usize, usage: MatrixUse) -> u64 {
        CpuMatrix::bytes(format, rows, columns, usage) as u64
    }

    fn scratch_bytes(&self, shape: &ScratchShape) -> u64 {
        scratch::bytes(&self.pool, shape) as u64
    }

    fn reserve_scratch(&self, shape: &ScratchShape) -> Result<(), ComputeError> {
        self.scratch.reserve(&self.pool, shape, &self.allocated)
    }

    fn len(&self, buffer: &CpuBuffer) -> usize {
        buffer.len()
    }

    fn bytes<'a>(&self, buffer: &'a CpuBuffer) -> std::borrow::Cow<'a, [u8]> {
        std::borrow::Cow::Borrowed(buffer.as_bytes())
    }

    fn read_bytes(&self, buffer: &CpuBuffer, offset: usize, len: usize) -> Vec<u8> {
        let size = buffer.dtype().size();
        buffer.as_bytes()[offset * size..][..len * size].to_vec()
    }

    fn write_bytes(&self, buffer: &mut CpuBuffer, offset: usize, bytes: &[u8]) {
        let size = buffer.dtype().size();
        buffer.as_bytes_mut()[offset * size..][..bytes.len()].copy_from_slice(bytes);
    }

    fn write_f32(&self, buffer: &mut CpuBuffer, offset: usize, values: &[f32]) {
        with_storage!(buffer.dtype(), S => {
            for (to, from) in buffer.slice_mut::<S>()[offset..offset + values.len()].iter_mut().zip(values) {
                *to = crate::dtype::Storage::store(*from);
            }
        });
    }

    fn read_f32(&self, buffer: &CpuBuffer, offset: usize, values: &mut [f32]) {
        with_storage!(buffer.dtype(), S => {
            for (to, from) in values.iter_mut().zip(&buffer.slice::<S>()[offset..]) {
                *to = crate::dtype::Storage::load(*from);
            }
        });
    }

    fn write_u32(&self, buffer: &mut CpuBuffer, offset: usize, values: &[u32]) {
        buffer.slice_mut::<u32>()[offset..offset + values.len()].copy_from_slice(values);
    }

    fn fill_zero(&self, buffer: &mut CpuBuffer) {
        match buffer.dtype() {
            DType::F32 => elementwise::fill_zero(&self.pool, buffer.slice_mut::<f32>()),
            DType::Bf16 => elementwise::fill_zero(&self.pool, buffer.slice_mut::<Bf16>()),
            DType::U32 => elementwise::fill_zero(&self.pool, buffer.slice_mut::<u32>()),
        }
    }

    fn clear_gradient(&self, gradient: &mut CpuBuffer) {
        match gradient.dtype() {
            DType::F32 if gradient.len() >= LARGE_GRADIENT => gradient.put_zeros_off(),
            _ => self.fill_zero(gradient),
        }
    }

    fn pack(&self, values: &CpuBuffer, matrix: &mut CpuMatrix) {
        with_storage!(matrix.dtype(), S => matrix.pack::<S>(&self.pool, values.slice()));
    }

    fn pack_stochastically(&self, values: &CpuBuffer, matrix: &mut CpuMatrix, seed: u64) {
        match matrix.dtype() {
            DType::Bf16 => adamw::pack_stochastically(&self.pool, values.slice(), matrix, seed),
            _ => self.pack(values, matrix),
        }
    }

    fn copy(&self, from: &CpuBuffer, len: usize, to: &mut CpuBuffer) {
        match from.dtype() {
            DType::F32 => elementwise::copy(&self.pool, &from.slice::<f32>()[..len], to.slice_mut()),
            DType::Bf16 => elementwise::copy(&self.pool, &from.slice::<Bf16>()[..len], to.slice_mut()),
            DType::U32 => elementwise::copy(&self.pool, &from.slice::<u32>()[..len], to.slice_mut()),
        }
    }

    fn gather_rows(&self, from: &CpuBuffer, width: usize, rows: &[u32], to: &mut CpuBuffer) {
        fn copy<T: Element>(from: &CpuBuffer, width: usize, rows: &[u32], to: &mut CpuBuffer) {
            let from = from.slice::<T>();
            for (to, row) in to.slice_mut::<T>().chunks_exact_mut(width).zip(rows) {
                to.copy_from_slice(&from[*row as usize * width..][..width]);
            }
        }
        with_storage!(from.dtype(), S => copy::<S>(from, width, rows, to));
    }

    fn embedding(&self, table: &CpuMatrix, ids: &CpuBuffer, tokens: usize, x: &mut CpuBuffer) {
        let ids = &ids.slice()[..tokens];
        let x = &mut x.slice_mut()[..tokens * table.columns];
        with_storage!(table.dtype(), S => elementwise::embedding::<S>(&self.pool, table, ids, x));
    }

    fn embedding_backward(
        &self,
        ids: &CpuBuffer,
        dx: &CpuBuffer,
        tokens: usize,
        width: usize,
        d_table: &mut CpuBuffer,
    ) {
        // Some rows of many: with all threads.
        if d_table.take_zeros() {
            self.fill_zero(d_table);
        }
        elementwise::embedding_backward(&self.pool, &ids.slice()[..tokens], dx.slice(), width, d_table.slice_mut());
    }

    fn norm(
        &self,
        norm: &Norm<'_, CpuBuffer>,
        x: &CpuBuffer,
        tokens: usize,
        width: usize,
        y: &mut CpuBuffer,
        stats: &mut CpuBuffer,
    ) {
        let x = &x.slice::<f32>()[..tokens * width];
        let stats = norm::Stats::Compute(&mut stats.slice_mut()[..2 * tokens]);
        let norm = norm_parameters(norm, width);
        with_storage!(y.dtype(), S => norm::forward(&self.pool, norm, x, y.slice_mut::<S>(), stats));
    }

    fn norm_backward(
        &self,
        norm: &Norm<'_, CpuBuffer>,
        x: &CpuBuffer,
        stats: &CpuBuffer,
        dy: &CpuBuffer,
        tokens: usize,
        width: usize,
        dx: &mut CpuBuffer,
        gradient: NormGradient<'_, CpuBuffer>,
    ) {
        let norm = norm_parameters(norm, width);
        let x = &x.slice::<f32>()[..tokens * width];
        let stats = &stats.slice::<f32>()[..2 * tokens];
        let d_weight = &mut gradient.weight.slice_mut::<f32>()[..width];
        let d_bias = gradient.bias.map(|b| &mut b.slice_mut::<f32>()[..width]);
        with_storage!(dy.dtype(), S => {
            let saved = norm::Saved { x, stats, dy: dy.slice::<S>() };
            norm::backward(&self.pool, norm, &saved, dx.slice_mut(), d_weight, d_bias);
        });
    }

    fn norm_again(
        &self,
        norm: &Norm<'_, CpuBuffer>,
        x: &CpuBuffer,
        stats: &CpuBuffer,
        tokens: usize,
        width: usize,
        y: &mut CpuBuffer,
    ) {
        let x = &x.slice::<f32>()[..tokens * width];
        let stats = norm::Stats::Given(&stats.slice()[..2 * tokens]);
        let norm = norm_parameters(norm, width);
        with_storage!(y.dtype(), S => norm::forward(&self.pool, norm, x, y.slice_mut::<S>(), stats));
    }

    fn linear(
        &self,
        x: &CpuBuffer,
        weight: &CpuMatrix,
        bias: Option<&CpuBuffer>,
        tokens: usize,
        out: Out<'_, CpuBuffer>,
    ) {
        let stride = weight.rows;
        let bias = bias.map(|b| &b.slice::<f32>()[..stride]);
        with_storage!(x.dtype(), S => {
            let x = x.slice::<S>();
            self.with_scratch(linear::forward_scratch::<S>(tokens, weight), |scratch| {
                match out {
                    Out::Add(out) => {
                        let add = Add { out: Shared::new(out.slice_mut()), stride, bias };
                        linear::forward(&self.pool, x, tokens, weight, &add, scratch);
                    }
                    Out::Store(out) => with_storage!(out.dtype(), T => {
                        let store = Store::<T> { out: Shared::new(out.slice_mut()), stride, bias };
                        linear::forward(&self.pool, x, tokens, weight, &store, scratch);
                    }),
                }
            });
        });
    }

    fn linear_backward_input(&self, dy: &CpuBuffer, weight: &CpuMatrix, tokens: usize, dx: &mut CpuBuffer) {
        with_storage!(dy.dtype(), S => {
            let len = linear::padding_len::<S>(tokens, weight.rows);
            self.with_scratch(Carver::bytes::<S>(len), |scratch| {
                let padding = Carver::new(scratch).take(len);
                let store = Store::<S> { out: Shared::new(dx.slice_mut()), stride: weight.columns, bias: None };
                linear::product(&self.pool, dy.slice::<S>(), tokens, weight.backward::<S>(), &store, padding);
            });
        });
    }

    fn linear_backward_weight(
        &self,
        dy: &CpuBuffer,
        x: &CpuBuffer,
        tokens: usize,
        shape: (usize, usize),
        d_weight: &mut CpuBuffer,
        d_bias: Option<&mut CpuBuffer>,
    ) {
        let d_bias = d_bias.map(|b| &mut b.slice_mut::<f32>()[..shape.0]);
        with_storage!(dy.dtype(), S => {
            let bytes = linear::backward_weight_scratch::<S>(tokens, shape.0, shape.1);
            self.with_scratch(bytes, |scratch| {
                let operands = (dy.slice::<S>(), x.slice::<S>());
                let d_weight = linear::WeightGradient::new(d_weight, shape.0 * shape.1, tokens > 0);
                linear::backward_weight(&self.pool, operands, tokens, shape, d_weight, d_bias, scratch);
            });
        });
    }

    fn split_qkv(
        &self,
        split: &QkvSplit<'_, CpuBuffer>,
        qkv: &CpuBuffer,
        tokens: usize,
        q: &mut CpuBuffer,
        k: &mut CpuBuffer,
        v: &mut CpuBuffer,
    ) {
        let split = split_parameters(split, tokens);
        with_storage!(qkv.dtype(), S => {
            attention::with_cached!(k, S, E => {
                let (k, v) = (E::rows_mut(k), E::rows_mut(v));
                qkv::forward::<S, E>(&self.pool, split, qkv.slice(), q.slice_mut(), k, v);
            });
        });
    }

    fn split_qkv_backward(
        &self,
        split: &QkvSplit<'_, CpuBuffer>,
        qkv: &mut CpuBuffer,
        gradients: [&CpuBuffer; 3],
        tokens: usize,
        d_norm: Option<(&mut CpuBuffer, &mut CpuBuffer)>,
    ) {
        let split = split_parameters(split, tokens);
        let len = tokens.div_ceil(qkv::TOKENS) * 2 * split.shape.head_dim;
        let d_norm = d_norm.map(|(q, k)| (q.slice_mut::<f32>(), k.slice_mut::<f32>()));
        with_storage!(qkv.dtype(), S => self.with_scratch(Carver::bytes::<f32>(len), |scratch| {
            let [q, k, v] = gradients;
            let incoming = qkv::Incoming { q: q.slice::<S>(), k: k.slice(), v: v.slice() };
            let partial = Carver::new(scratch).take(len);
            qkv::backward(&self.pool, split, qkv.slice_mut(), &incoming, d_norm, partial);
        }));
    }

    fn attention(
        &self,
        shape: AttentionShape,
        spans: &[Span],
        [q, k, v]: [&CpuBuffer; 3],
        out: &mut CpuBuffer,
        lse: Option<&mut CpuBuffer>,
    ) {
        let row = CacheFormat::of(k.dtype()).row_len(shape.n_kv_head, shape.head_dim);
        attention::check_spans(spans, q.len() / (shape.n_head * shape.head_dim), k.len() / row);
        let lse = lse.map(CpuBuffer::slice_mut::<f32>);
        with_storage!(q.dtype(), S => attention::with_cached!(k, S, E => {
            let threads = self.pool.threads();
            let bytes = attention::forward_bytes::<S, E>(threads, attention::longest(spans), shape.n_head, shape.head_dim);
            self.with_scratch(bytes, |scratch| {
                let inputs = attention::Inputs { q: q.slice::<S>(), k: E::rows(k), v: E::rows(v) };
                attention::forward(&self.pool, shape, spans, inputs, out.slice_mut(), lse, scratch);
            });
        }));
    }

    fn attention_backward(
        &self,
        shape: AttentionShape,
        spans: &[Span],
        [q, k, v]: [&CpuBuffer; 3],
        out: &CpuBuffer,
        lse: &CpuBuffer,
        d_out: &CpuBuffer,
        [dq, dk, dv]: [&mut CpuBuffer; 3],
    ) {
        attention::check_spans(
            spans,
            q.len() / (shape.n_head * shape.head_dim),
            k.len() / (shape.n_kv_head * shape.head_dim),
        );
        with_storage!(q.dtype(), S => {
            let bytes = attention::backward_bytes::<S>(self.pool.threads(), attention::longest(spans), shape.head_dim);
            self.with_scratch(bytes, |scratch| {
                let inputs = attention::Inputs { q: q.slice::<S>(), k: k.slice(), v: v.slice() };
                let incoming =
                    attention::Incoming { inputs, out: out.slice(), lse: lse.slice(), d_out: d_out.slice() };
                let gradients = attention::Gradients {
                    q: Shared::new(dq.slice_mut()),
                    k: Shared::new(dk.slice_mut()),
                    v: Shared::new(dv.slice_mut()),
                };
                attention::backward(&self.pool, shape, spans, incoming, gradients, scratch);
            });
        });
    }

    fn activation(&self, kind: ActivationKind, x: &CpuBuffer, tokens: usize, n_ff: usize, y: &mut CpuBuffer) {
        with_storage!(x.dtype(), S => {
            let y = &mut y.slice_mut::<S>()[..tokens * n_ff];
            activation::forward(&self.pool, kind, n_ff, x.slice(), y);
        });
    }

    fn activation_backward(
        &self,
        kind: ActivationKind,
        x: &mut CpuBuffer,
        dy: &mut CpuBuffer,
        tokens: usize,
        n_ff: usize,
        again: bool,
    ) {
        with_storage!(x.dtype(), S => {
            let dy = &mut dy.slice_mut::<S>()[..tokens * n_ff];
            activation::backward(&self.pool, kind, n_ff, x.slice_mut(), dy, again);
        });
    }

    fn dropout_add(&self, dropout: Dropout, branch: &CpuBuffer, len: usize, x: &mut CpuBuffer) {
        with_storage!(branch.dtype(), S => {
            elementwise::dropout_add(&self.pool, dropout, &branch.slice::<S>()[..len], x.slice_mut());
        });
    }

    fn dropout(&self, dropout: Dropout, len: usize, x: &mut CpuBuffer) {
        elementwise::dropout(&self.pool, dropout, &mut x.slice_mut()[..len]);
    }

    fn branch_gradient(&self, dropout: Option<Dropout>, dx: &CpuBuffer, len: usize, branch: &mut CpuBuffer) {
        with_storage!(branch.dtype(), S => {
            elementwise::branch_gradient(&self.pool, dropout, &dx.slice()[..len], branch.slice_mut::<S>());
        });
    }

    fn head(
        &self,
        head: &Head<'_, CpuBuffer, CpuMatrix>,
        losses: &mut CpuBuffer,
        gradient: Option<HeadGradient<'_, CpuBuffer>>,
    ) -> HeadResult {
        let (vocab_size, n_embd) = (head.weight.rows, head.weight.columns);
        with_storage!(head.hidden.dtype(), S => {
            let bytes = head::scratch_bytes::<S>(head.tokens, vocab_size, n_embd, gradient.is_some());
            self.with_scratch(bytes, |scratch| {
                let inputs = head::Inputs {
                    hidden: head.hidden.slice::<S>(),
                    weight: head.weight,
                    targets: &head.targets.slice()[..head.tokens],
                    weights: &head.weights.slice()[..head.tokens],
                };
                let counted = inputs.weights.iter().any(|weight| *weight != 0.0);
                let gradient = gradient.map(|g| head::Gradient {
                    scale: g.scale,
                    hidden: g.hidden.slice_mut(),
                    weight: linear::WeightGradient::new(g.weight, vocab_size * n_embd, counted),
                });
                head::run(&self.pool, &inputs, losses.slice_mut(), gradient, scratch)
            })
        })
    }

    fn allocate_tally(&self) -> Result<HostTally, ComputeError> {
        Ok(HostTally::default())
    }

    fn clear_tally(&self, tally: &mut HostTally) {
        tally.clear();
    }

    fn post_tally(&self, tally: &mut HostTally) {
        tally.post();
    }

    fn collect_tally(&self, tally: &mut HostTally) -> StepTotals {
        tally.collect()
    }

    fn read_tally(&self, tally: &HostTally) -> StepTotals {
        tally.totals()
    }

    fn head_to_tally(
        &self,
        head: &Head<'_, CpuBuffer, CpuMatrix>,
        losses: &mut CpuBuffer,
        gradient: Option<HeadGradient<'_, CpuBuffer>>,
        tally: &mut HostTally,
    ) {
        tally.add(self.head(head, losses, gradient));
    }

    fn clip(&self, gradients: &[&CpuBuffer], max_norm: f64, tally: &mut HostTally) {
        tally.clip(self, gradients, max_norm);
    }

    fn adamw_all(&self, update: &AdamW, tensors: Vec<AdamWTensor<'_, CpuBuffer, CpuMatrix>>, tally: &HostTally) {
        tally.adamw_all(self, update, tensors);
    }

    fn muon_all(&self, update: &Muon, mut tensors: Vec<MuonTensor<'_, CpuBuffer, CpuMatrix>>, tally: &HostTally) {
        let Some(gradient_scale) = tally.gradient_scale(update.gradient_scale) else { return };
        self.update_by_muon(&Muon { gradient_scale, ..*update }, &mut tensors);
        for MuonTensor { weight, matrix, seed, .. } in tensors {
            if let Some(matrix) = matrix {
                self.pack_rounded(weight, matrix, update.weight_rounding, seed);
            }
        }
    }

    fn sum_of_squares(&self, buffer: &CpuBuffer) -> f64 {
        let len = 2 * elementwise::square_pieces(buffer.len());
        self.with_scratch(Carver::bytes::<f32>(len), |scratch| {
            elementwise::sum_of_squares(&self.pool, buffer.slice(), Carver::new(scratch).take(len))
        })
    }

    fn adamw(&self, update: &AdamW, weight: &mut CpuBuffer, gradient: &CpuBuffer, moments: [&mut CpuBuffer; 2]) {
        adamw::adamw(&self.pool, *update, weight.slice_mut(), gradient.slice(), moments);
    }

    fn adamw_and_pack(
        &self,
        update: &AdamW,
        weight: &mut CpuBuffer,
        gradient: &CpuBuffer,
        moments: [&mut CpuBuffer; 2],
        matrix: &mut CpuMatrix,
    ) {
        if !adamw::adamw_and_pack(&self.pool, *update, weight.slice_mut(), gradient.slice(), moments, matrix) {
            self.pack(weight, matrix);
        }
    }

    fn muon(
        &self,
        update: &Muon,
        row_blocks: &[usize],
        columns: usize,
        weight: &mut CpuBuffer,
        gradient: &CpuBuffer,
        momentum: &mut CpuBuffer,
    ) {
        let tensor = MuonTensor { weight, matrix: None, gradient, momentum, row_blocks, columns, seed: update.seed };
        self.update_by_muon(update, &mut [tensor]);
    }
}
