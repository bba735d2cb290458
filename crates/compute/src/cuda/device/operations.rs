//! The operations of [`Device`], each handed to the file that knows how it is done.

use std::borrow::Cow;
use std::sync::atomic::Ordering;

use super::CudaDevice;
use crate::cuda::attention::WIDEST_HEAD;
use crate::cuda::buffer::{CudaBuffer, CudaMatrix, f32_values, little_endian};
use crate::cuda::driver::{Address, Driver};
use crate::cuda::recorder::Recorder;
use crate::cuda::step::{self, CudaTally};
use crate::cuda::{attend, elementwise, head, linear, norm, optimizer, qkv};
use crate::device::*;
use crate::dtype::{Bf16, DType};
use crate::error::ComputeError;
use crate::matrix_format::MatrixFormat;

impl Device for CudaDevice {
    type Buffer = CudaBuffer;
    type Matrix = CudaMatrix;
    type Tally = CudaTally;

    fn info(&self) -> DeviceInfo {
        self.driver.info()
    }

    fn allocated_bytes(&self) -> u64 {
        self.allocated.load(Ordering::Relaxed)
    }

    fn available_bytes(&self) -> Option<u64> {
        self.driver.available_bytes()
    }

    fn sensors(&self) -> Option<Sensors> {
        self.driver.sensors()
    }

    fn allocated_host_bytes(&self) -> u64 {
        self.allocated_on_host.load(Ordering::Relaxed)
    }

    fn runs_ahead(&self) -> bool {
        true
    }

    fn together<R: Send>(&self, operations: impl FnOnce() -> R + Send) -> R {
        /// Ends the listing also where an operation panics.
        struct Listing<'a>(&'a Recorder);
        impl Drop for Listing<'_> {
            fn drop(&mut self) {
                self.0.end();
            }
        }
        self.recorder.begin();
        let _listing = Listing(&self.recorder);
        operations()
    }

    fn take_note(&self) -> Option<String> {
        self.recorder.take_note()
    }

    fn check(&self) -> Result<(), ComputeError> {
        self.driver.check()
    }

    fn allocate(&self, name: &str, dtype: DType, len: usize) -> Result<CudaBuffer, ComputeError> {
        let buffer = CudaBuffer::new(&self.driver, name, dtype, len)?;
        self.allocated.fetch_add(buffer.bytes() as u64, Ordering::Relaxed);
        Ok(buffer)
    }

    fn supports(&self, format: MatrixFormat) -> Result<(), ComputeError> {
        match format == MatrixFormat::Fp8 && !self.driver.has_fp8() {
            false => Ok(()),
            true => Err(ComputeError::no_fp8(&self.info())),
        }
    }

    fn supports_heads(&self, head_dim: usize) -> Result<(), ComputeError> {
        if head_dim <= WIDEST_HEAD {
            return Ok(());
        }
        let DeviceInfo { name: device, isa, .. } = self.info();
        Err(ComputeError::WideHeads { head_dim, most: WIDEST_HEAD, device, isa })
    }

    fn allocate_on_host(&self, name: &str, dtype: DType, len: usize) -> Result<CudaBuffer, ComputeError> {
        let buffer = CudaBuffer::on_host(&self.driver, name, dtype, len)?;
        self.allocated_on_host.fetch_add(buffer.bytes() as u64, Ordering::Relaxed);
        Ok(buffer)
    }

    fn allocate_matrix(
        &self,
        name: &str,
        format: MatrixFormat,
        rows: usize,
        columns: usize,
        usage: MatrixUse,
    ) -> Result<CudaMatrix, ComputeError> {
        if format.is_quantized() && usage == MatrixUse::Training {
            return Err(ComputeError::QuantizedTraining { name: name.into(), format: format.name() });
        }
        self.supports(format)?;
        let matrix = CudaMatrix::new(&self.driver, name, format, rows, columns, usage)?;
        self.allocated.fetch_add(self.matrix_bytes(format, rows, columns, usage), Ordering::Relaxed);
        Ok(matrix)
    }

    fn matrix_bytes(&self, format: MatrixFormat, rows: usize, columns: usize, usage: MatrixUse) -> u64 {
        CudaMatrix::bytes(format, rows, columns, usage) as u64
    }

    fn scratch_bytes(&self, shape: &ScratchShape) -> u64 {
        let tables: usize = attend::table_bytes(shape).iter().sum();
        (self.scratch_len(shape) + tables) as u64
    }

    fn reserve_scratch(&self, shape: &ScratchShape) -> Result<(), ComputeError> {
        self.supports_heads(shape.head_dim)?;
        self.plans().reserve(self, shape)?;
        self.grow(&mut self.lock_scratch(), "scratch", self.scratch_len(shape))
    }

    fn release_scratch(&self) {
        self.plans().release(self);
        self.let_go(&mut self.lock_scratch());
    }

    fn len(&self, buffer: &CudaBuffer) -> usize {
        buffer.len()
    }

    fn bytes<'a>(&self, buffer: &'a CudaBuffer) -> Cow<'a, [u8]> {
        Cow::Owned(buffer.download(0, buffer.len()))
    }

    fn read_bytes(&self, buffer: &CudaBuffer, offset: usize, len: usize) -> Vec<u8> {
        buffer.download(offset, len)
    }

    fn write_bytes(&self, buffer: &mut CudaBuffer, offset: usize, bytes: &[u8]) {
        buffer.write(buffer.dtype(), offset, bytes);
    }

    fn write_f32(&self, buffer: &mut CudaBuffer, offset: usize, values: &[f32]) {
        let bytes = match buffer.dtype() {
            DType::F32 => little_endian(values, f32::to_le_bytes),
            DType::Bf16 => values.iter().flat_map(|x| Bf16::from_f32(*x).0.to_le_bytes()).collect(),
            DType::U32 => panic!("indices used as activations"),
        };
        buffer.write(buffer.dtype(), offset, &bytes);
    }

    fn read_f32(&self, buffer: &CudaBuffer, offset: usize, values: &mut [f32]) {
        let bytes = buffer.download(offset, values.len().min(buffer.len() - offset));
        match buffer.dtype() {
            DType::F32 => {
                for (to, from) in values.iter_mut().zip(f32_values(&bytes)) {
                    *to = from;
                }
            }
            DType::Bf16 => {
                for (to, from) in values.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *to = Bf16(u16::from_le_bytes(*from)).to_f32();
                }
            }
            DType::U32 => panic!("indices used as activations"),
        }
    }

    fn write_u32(&self, buffer: &mut CudaBuffer, offset: usize, values: &[u32]) {
        buffer.write(DType::U32, offset, &little_endian(values, u32::to_le_bytes));
    }

    fn fill_zero(&self, buffer: &mut CudaBuffer) {
        let bytes = buffer.len() * buffer.dtype().size();
        self.driver.zero(buffer.output(buffer.dtype(), buffer.len()), bytes);
    }

    fn pack(&self, values: &CudaBuffer, matrix: &mut CudaMatrix) {
        elementwise::pack(self, values, matrix);
    }

    fn pack_stochastically(&self, values: &CudaBuffer, matrix: &mut CudaMatrix, seed: u64) {
        elementwise::pack_stochastically(self, values, matrix, seed);
    }

    fn copy(&self, from: &CudaBuffer, len: usize, to: &mut CudaBuffer) {
        let dtype = from.dtype();
        self.driver.copy(from.input(dtype, len), to.output(dtype, len), len * dtype.size());
    }

    fn gather_rows(&self, from: &CudaBuffer, width: usize, rows: &[u32], to: &mut CudaBuffer) {
        elementwise::gather_rows(self, from, width, rows, to);
    }

    fn embedding(&self, table: &CudaMatrix, ids: &CudaBuffer, tokens: usize, x: &mut CudaBuffer) {
        elementwise::embedding(self, table, ids, tokens, x);
    }

    fn embedding_backward(
        &self,
        ids: &CudaBuffer,
        dx: &CudaBuffer,
        tokens: usize,
        width: usize,
        d_table: &mut CudaBuffer,
    ) {
        elementwise::embedding_backward(self, ids, dx, (tokens, width), d_table);
    }

    fn norm(
        &self,
        norm: &Norm<'_, CudaBuffer>,
        x: &CudaBuffer,
        tokens: usize,
        width: usize,
        y: &mut CudaBuffer,
        stats: &mut CudaBuffer,
    ) {
        norm::forward(self, norm, x, (tokens, width), y, stats);
    }

    fn norm_backward(
        &self,
        norm: &Norm<'_, CudaBuffer>,
        x: &CudaBuffer,
        stats: &CudaBuffer,
        dy: &CudaBuffer,
        tokens: usize,
        width: usize,
        dx: &mut CudaBuffer,
        gradient: NormGradient<'_, CudaBuffer>,
    ) {
        norm::backward(self, norm, x, stats, dy, (tokens, width), dx, gradient);
    }

    fn norm_again(
        &self,
        norm: &Norm<'_, CudaBuffer>,
        x: &CudaBuffer,
        stats: &CudaBuffer,
        tokens: usize,
        width: usize,
        y: &mut CudaBuffer,
    ) {
        norm::again(self, norm, x, stats, (tokens, width), y);
    }

    fn linear(
        &self,
        x: &CudaBuffer,
        weight: &CudaMatrix,
        bias: Option<&CudaBuffer>,
        tokens: usize,
        out: Out<'_, CudaBuffer>,
    ) {
        linear::forward(self, x, weight, bias, tokens, out);
    }

    fn linear_backward_input(&self, dy: &CudaBuffer, weight: &CudaMatrix, tokens: usize, dx: &mut CudaBuffer) {
        linear::backward_input(self, dy, weight, tokens, dx);
    }

    fn linear_backward_weight(
        &self,
        dy: &CudaBuffer,
        x: &CudaBuffer,
        tokens: usize,
        shape: (usize, usize),
        d_weight: &mut CudaBuffer,
        d_bias: Option<&mut CudaBuffer>,
    ) {
        linear::backward_weight(self, dy, x, tokens, shape, d_weight, d_bias);
    }

    fn split_qkv(
        &self,
        split: &QkvSplit<'_, CudaBuffer>,
        qkv: &CudaBuffer,
        tokens: usize,
        q: &mut CudaBuffer,
        k: &mut CudaBuffer,
        v: &mut CudaBuffer,
    ) {
        qkv::forward(self, split, qkv, tokens, [q, k, v]);
    }

    fn split_qkv_backward(
        &self,
        split: &QkvSplit<'_, CudaBuffer>,
        qkv: &mut CudaBuffer,
        gradients: [&CudaBuffer; 3],
        tokens: usize,
        d_norm: Option<(&mut CudaBuffer, &mut CudaBuffer)>,
    ) {
        qkv::backward(self, split, qkv, gradients, tokens, d_norm);
    }

    fn attention(
        &self,
        shape: AttentionShape,
        spans: &[Span],
        qkv: [&CudaBuffer; 3],
        out: &mut CudaBuffer,
        lse: Option<&mut CudaBuffer>,
    ) {
        attend::forward(self, shape, spans, qkv, out, lse);
    }

    fn attention_backward(
        &self,
        shape: AttentionShape,
        spans: &[Span],
        qkv: [&CudaBuffer; 3],
        out: &CudaBuffer,
        lse: &CudaBuffer,
        d_out: &CudaBuffer,
        gradients: [&mut CudaBuffer; 3],
    ) {
        attend::backward(self, shape, spans, qkv, out, lse, d_out, gradients);
    }

    fn activation(&self, kind: ActivationKind, x: &CudaBuffer, tokens: usize, n_ff: usize, y: &mut CudaBuffer) {
        elementwise::activation(self, kind, x, (tokens, n_ff), y);
    }

    fn activation_backward(
        &self,
        kind: ActivationKind,
        x: &mut CudaBuffer,
        dy: &mut CudaBuffer,
        tokens: usize,
        n_ff: usize,
        again: bool,
    ) {
        elementwise::activation_backward(self, kind, x, dy, (tokens, n_ff), again);
    }

    fn dropout_add(&self, dropout: Dropout, branch: &CudaBuffer, len: usize, x: &mut CudaBuffer) {
        elementwise::dropout_add(self, dropout, branch, len, x);
    }

    fn dropout(&self, dropout: Dropout, len: usize, x: &mut CudaBuffer) {
        elementwise::dropout(self, dropout, len, x);
    }

    fn branch_gradient(&self, dropout: Option<Dropout>, dx: &CudaBuffer, len: usize, branch: &mut CudaBuffer) {
        elementwise::branch_gradient(self, dropout, dx, len, branch);
    }

    fn head(
        &self,
        head: &Head<'_, CudaBuffer, CudaMatrix>,
        losses: &mut CudaBuffer,
        gradient: Option<HeadGradient<'_, CudaBuffer>>,
    ) -> HeadResult {
        self.with_results(|tally| {
            self.driver.zero(tally, step::TALLY_BYTES);
            head::run(self, head, losses, gradient, tally);
            step::read(self, tally).head
        })
    }

    fn allocate_tally(&self) -> Result<CudaTally, ComputeError> {
        CudaTally::new(self)
    }

    fn tally_bytes(&self) -> u64 {
        step::WHOLE_TALLY_BYTES as u64
    }

    fn clear_tally(&self, tally: &mut CudaTally) {
        self.driver.zero(tally.address(), step::TALLY_BYTES);
    }

    fn post_tally(&self, tally: &mut CudaTally) {
        tally.post(self);
    }

    fn collect_tally(&self, tally: &mut CudaTally) -> StepTotals {
        tally.collect(self)
    }

    fn read_tally(&self, tally: &CudaTally) -> StepTotals {
        step::read(self, tally.address())
    }

    fn head_to_tally(
        &self,
        head: &Head<'_, CudaBuffer, CudaMatrix>,
        losses: &mut CudaBuffer,
        gradient: Option<HeadGradient<'_, CudaBuffer>>,
        tally: &mut CudaTally,
    ) {
        head::run(self, head, losses, gradient, tally.address());
    }

    fn clip(&self, gradients: &[&CudaBuffer], max_norm: f64, tally: &mut CudaTally) {
        step::clip(self, gradients, max_norm, tally);
    }

    fn adamw_all(&self, update: &AdamW, tensors: Vec<AdamWTensor<'_, CudaBuffer, CudaMatrix>>, tally: &CudaTally) {
        step::adamw_all(self, update, tensors, tally.address());
    }

    fn muon_all(&self, update: &Muon, tensors: Vec<MuonTensor<'_, CudaBuffer, CudaMatrix>>, tally: &CudaTally) {
        for MuonTensor { weight, matrix, gradient, momentum, row_blocks, columns, seed } in tensors {
            let update = Muon { seed, ..*update };
            optimizer::muon(self, &update, (row_blocks, columns), [weight, momentum], gradient, tally.address());
            if let Some(matrix) = matrix {
                self.pack_rounded(weight, matrix, update.weight_rounding, seed);
            }
        }
    }

    fn sum_of_squares(&self, buffer: &CudaBuffer) -> f64 {
        optimizer::sum_of_squares(self, buffer)
    }

    fn adamw(&self, update: &AdamW, weight: &mut CudaBuffer, gradient: &CudaBuffer, moments: [&mut CudaBuffer; 2]) {
        let AdamW { weight_decay, seed, .. } = *update;
        let tensor = AdamWTensor { weight, matrix: None, gradient, moments, weight_decay, seed };
        step::adamw_all(self, update, vec![tensor], Address::NULL);
    }

    fn muon(
        &self,
        update: &Muon,
        row_blocks: &[usize],
        columns: usize,
        weight: &mut CudaBuffer,
        gradient: &CudaBuffer,
        momentum: &mut CudaBuffer,
    ) {
        optimizer::muon(self, update, (row_blocks, columns), [weight, momentum], gradient, Address::NULL);
    }
}
