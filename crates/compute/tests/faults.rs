//! The selftest can fail: a device that gets every operation wrong, in each of several ways, passes none.

use std::sync::atomic::{AtomicU32, Ordering};

use casallm_compute::selftest::{self, Check};
use casallm_compute::*;

/// What the device does wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// Operations do nothing.
    Idle,
    /// One element of each output is off by a fifth of the largest and more.
    Nudge,
    /// One element behind each output is written.
    Overrun,
    /// The last bits of one element change from call to call.
    Flicker,
}

/// A processor with a fault in every operation but reading, writing and packing.
struct Faulty {
    device: CpuDevice,
    fault: Fault,
    calls: AtomicU32,
}

impl Faulty {
    fn new(fault: Fault) -> Self {
        let device = CpuDevice::new(2, Isa::Portable).expect("every machine has it");
        Faulty { device, fault, calls: AtomicU32::new(0) }
    }

    /// Runs an operation, unless the fault is to run none, and spoils what it wrote.
    fn run<const N: usize>(&self, outputs: [&mut CpuBuffer; N], operation: impl FnOnce([&mut CpuBuffer; N])) {
        if self.fault == Fault::Idle {
            return;
        }
        let mut outputs = outputs;
        operation(outputs.each_mut().map(|buffer| &mut **buffer));
        for buffer in outputs {
            self.spoil(buffer);
        }
    }

    fn spoil(&self, buffer: &mut CpuBuffer) {
        if buffer.dtype() == DType::U32 {
            return self.spoil_word(buffer);
        }
        let mut values = vec![0.0; buffer.len()];
        self.device.read_f32(buffer, 0, &mut values);
        let Some(at) = values.iter().position(|x| x.is_finite()) else { return };
        let (at, value) = match self.fault {
            Fault::Idle => return,
            Fault::Nudge => {
                // The guard's value stays out of it.
                let finite = values.iter().filter(|x| x.is_finite() && **x != -24576.0);
                (at, values[at] + 0.3 + 0.2 * finite.fold(0.0, |m: f32, x| m.max(x.abs())))
            }
            Fault::Overrun => (buffer.len() - 1, 1.0),
            Fault::Flicker => {
                let last_bit = if buffer.dtype() == DType::Bf16 { 16 } else { 0 };
                let step = self.calls.fetch_add(1, Ordering::Relaxed) % 100;
                (at, f32::from_bits(values[at].to_bits().wrapping_add(step << last_bit)))
            }
        };
        self.device.write_f32(buffer, at, &[value]);
    }

    /// The same for codes: one of four in the first word.
    fn spoil_word(&self, buffer: &mut CpuBuffer) {
        let word = buffer.slice::<u32>()[0];
        let word = match self.fault {
            Fault::Idle | Fault::Overrun => word,
            Fault::Nudge => word ^ 0x40,
            Fault::Flicker => word ^ (self.calls.fetch_add(1, Ordering::Relaxed) % 2),
        };
        self.device.write_u32(buffer, 0, &[word]);
    }

    /// The same for a number.
    fn spoil_number(&self, value: f64) -> f64 {
        match self.fault {
            Fault::Idle => 0.0,
            Fault::Nudge => value * 1.2 + 0.2,
            Fault::Overrun => value,
            Fault::Flicker => value * (1.0 + 1e-14 * f64::from(self.calls.fetch_add(1, Ordering::Relaxed) % 100)),
        }
    }
}

impl Device for Faulty {
    type Buffer = CpuBuffer;
    type Matrix = CpuMatrix;
    type Tally = HostTally;

    fn info(&self) -> DeviceInfo {
        self.device.info()
    }
    fn allocated_bytes(&self) -> u64 {
        self.device.allocated_bytes()
    }
    fn available_bytes(&self) -> Option<u64> {
        self.device.available_bytes()
    }
    fn allocate(&self, name: &str, dtype: DType, len: usize) -> Result<CpuBuffer, ComputeError> {
        self.device.allocate(name, dtype, len)
    }
    fn supports(&self, format: MatrixFormat) -> Result<(), ComputeError> {
        self.device.supports(format)
    }
    fn supports_cache(&self, format: CacheFormat) -> Result<(), ComputeError> {
        self.device.supports_cache(format)
    }
    fn allocate_matrix(
        &self,
        name: &str,
        format: MatrixFormat,
        rows: usize,
        columns: usize,
        usage: MatrixUse,
    ) -> Result<CpuMatrix, ComputeError> {
        self.device.allocate_matrix(name, format, rows, columns, usage)
    }
    fn matrix_bytes(&self, format: MatrixFormat, rows: usize, columns: usize, usage: MatrixUse) -> u64 {
        self.device.matrix_bytes(format, rows, columns, usage)
    }
    fn scratch_bytes(&self, shape: &ScratchShape) -> u64 {
        self.device.scratch_bytes(shape)
    }
    fn reserve_scratch(&self, shape: &ScratchShape) -> Result<(), ComputeError> {
        self.device.reserve_scratch(shape)
    }
    fn len(&self, buffer: &CpuBuffer) -> usize {
        buffer.len()
    }
    fn bytes<'a>(&self, buffer: &'a CpuBuffer) -> std::borrow::Cow<'a, [u8]> {
        self.device.bytes(buffer)
    }
    fn read_bytes(&self, buffer: &CpuBuffer, offset: usize, len: usize) -> Vec<u8> {
        self.device.read_bytes(buffer, offset, len)
    }
    fn write_bytes(&self, buffer: &mut CpuBuffer, offset: usize, bytes: &[u8]) {
        self.device.write_bytes(buffer, offset, bytes);
    }
    fn write_f32(&self, buffer: &mut CpuBuffer, offset: usize, values: &[f32]) {
        self.device.write_f32(buffer, offset, values);
    }
    fn read_f32(&self, buffer: &CpuBuffer, offset: usize, values: &mut [f32]) {
        self.device.read_f32(buffer, offset, values);
    }
    fn write_u32(&self, buffer: &mut CpuBuffer, offset: usize, values: &[u32]) {
        self.device.write_u32(buffer, offset, values);
    }
    fn pack_stochastically(&self, values: &CpuBuffer, matrix: &mut CpuMatrix, seed: u64) {
        self.device.pack_stochastically(values, matrix, seed);
    }
    fn pack(&self, values: &CpuBuffer, matrix: &mut CpuMatrix) {
        self.device.pack(values, matrix);
    }

    fn fill_zero(&self, buffer: &mut CpuBuffer) {
        self.run([buffer], |[buffer]| self.device.fill_zero(buffer));
    }
    fn copy(&self, from: &CpuBuffer, len: usize, to: &mut CpuBuffer) {
        self.run([to], |[to]| self.device.copy(from, len, to));
    }
    fn gather_rows(&self, from: &CpuBuffer, width: usize, rows: &[u32], to: &mut CpuBuffer) {
        self.run([to], |[to]| self.device.gather_rows(from, width, rows, to));
    }
    fn embedding(&self, table: &CpuMatrix, ids: &CpuBuffer, tokens: usize, x: &mut CpuBuffer) {
        self.run([x], |[x]| self.device.embedding(table, ids, tokens, x));
    }
    fn embedding_backward(
        &self,
        ids: &CpuBuffer,
        dx: &CpuBuffer,
        tokens: usize,
        width: usize,
        d_table: &mut CpuBuffer,
    ) {
        self.run([d_table], |[d_table]| self.device.embedding_backward(ids, dx, tokens, width, d_table));
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
        self.run([y, stats], |[y, stats]| self.device.norm(norm, x, tokens, width, y, stats));
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
        let NormGradient { weight, bias } = gradient;
        self.run([dx, weight], |[dx, weight]| {
            let gradient = NormGradient { weight, bias };
            self.device.norm_backward(norm, x, stats, dy, tokens, width, dx, gradient);
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
        self.run([y], |[y]| self.device.norm_again(norm, x, stats, tokens, width, y));
    }
    fn linear(
        &self,
        x: &CpuBuffer,
        weight: &CpuMatrix,
        bias: Option<&CpuBuffer>,
        tokens: usize,
        out: Out<'_, CpuBuffer>,
    ) {
        match out {
            Out::Store(out) => {
                self.run([out], |[out]| self.device.linear(x, weight, bias, tokens, Out::Store(out)));
            }
            Out::Add(out) => self.run([out], |[out]| self.device.linear(x, weight, bias, tokens, Out::Add(out))),
        }
    }
    fn linear_backward_input(&self, dy: &CpuBuffer, weight: &CpuMatrix, tokens: usize, dx: &mut CpuBuffer) {
        self.run([dx], |[dx]| self.device.linear_backward_input(dy, weight, tokens, dx));
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
        self.run([d_weight], |[d_weight]| {
            self.device.linear_backward_weight(dy, x, tokens, shape, d_weight, d_bias);
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
        self.run([q, k, v], |[q, k, v]| self.device.split_qkv(split, qkv, tokens, q, k, v));
    }
    fn split_qkv_backward(
        &self,
        split: &QkvSplit<'_, CpuBuffer>,
        qkv: &mut CpuBuffer,
        gradients: [&CpuBuffer; 3],
        tokens: usize,
        mut d_norm: Option<(&mut CpuBuffer, &mut CpuBuffer)>,
    ) {
        self.run([qkv], |[qkv]| {
            let d_norm = d_norm.as_mut().map(|(q, k)| (&mut **q, &mut **k));
            self.device.split_qkv_backward(split, qkv, gradients, tokens, d_norm);
        });
    }
    fn attention(
        &self,
        shape: AttentionShape,
        spans: &[Span],
        qkv: [&CpuBuffer; 3],
        out: &mut CpuBuffer,
        lse: Option<&mut CpuBuffer>,
    ) {
        self.run([out], |[out]| self.device.attention(shape, spans, qkv, out, lse));
    }
    fn attention_backward(
        &self,
        shape: AttentionShape,
        spans: &[Span],
        qkv: [&CpuBuffer; 3],
        out: &CpuBuffer,
        lse: &CpuBuffer,
        d_out: &CpuBuffer,
        d_qkv: [&mut CpuBuffer; 3],
    ) {
        self.run(d_qkv, |d_qkv| self.device.attention_backward(shape, spans, qkv, out, lse, d_out, d_qkv));
    }
    fn activation(&self, kind: ActivationKind, x: &CpuBuffer, tokens: usize, n_ff: usize, y: &mut CpuBuffer) {
        self.run([y], |[y]| self.device.activation(kind, x, tokens, n_ff, y));
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
        self.run([x, dy], |[x, dy]| self.device.activation_backward(kind, x, dy, tokens, n_ff, again));
    }
    fn dropout_add(&self, dropout: Dropout, branch: &CpuBuffer, len: usize, x: &mut CpuBuffer) {
        self.run([x], |[x]| self.device.dropout_add(dropout, branch, len, x));
    }
    fn dropout(&self, dropout: Dropout, len: usize, x: &mut CpuBuffer) {
        self.run([x], |[x]| self.device.dropout(dropout, len, x));
    }
    fn branch_gradient(&self, dropout: Option<Dropout>, dx: &CpuBuffer, len: usize, branch: &mut CpuBuffer) {
        self.run([branch], |[branch]| self.device.branch_gradient(dropout, dx, len, branch));
    }
    fn head(
        &self,
        head: &Head<'_, CpuBuffer, CpuMatrix>,
        losses: &mut CpuBuffer,
        gradient: Option<HeadGradient<'_, CpuBuffer>>,
    ) -> HeadResult {
        let mut result = HeadResult::default();
        match gradient {
            None => self.run([losses], |[losses]| result = self.device.head(head, losses, None)),
            Some(HeadGradient { scale, hidden, weight }) => {
                self.run([losses, hidden, weight], |[losses, hidden, weight]| {
                    result = self.device.head(head, losses, Some(HeadGradient { scale, hidden, weight }));
                });
            }
        }
        result.weighted_loss = self.spoil_number(result.weighted_loss);
        result
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
    fn muon_all(&self, update: &Muon, tensors: Vec<MuonTensor<'_, CpuBuffer, CpuMatrix>>, tally: &HostTally) {
        tally.muon_all(self, update, tensors);
    }
    fn sum_of_squares(&self, buffer: &CpuBuffer) -> f64 {
        self.spoil_number(self.device.sum_of_squares(buffer))
    }
    fn adamw(&self, update: &AdamW, weight: &mut CpuBuffer, gradient: &CpuBuffer, [m, v]: [&mut CpuBuffer; 2]) {
        self.run([weight, m, v], |[weight, m, v]| self.device.adamw(update, weight, gradient, [m, v]));
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
        self.run([weight, momentum], |[weight, momentum]| {
            self.device.muon(update, row_blocks, columns, weight, gradient, momentum);
        });
    }
}

/// Operations that [`Faulty`] spoils.
const SPOILED: [&str; 24] = [
    "fill_zero",
    "copy",
    "gather_rows",
    "embedding",
    "embedding_backward",
    "norm",
    "norm_backward",
    "norm_again",
    "linear",
    "linear_backward_input",
    "linear_backward_weight",
    "split_qkv",
    "split_qkv_backward",
    "attention",
    "attention_backward",
    "activation",
    "activation_backward",
    "dropout_add",
    "dropout",
    "branch_gradient",
    "head",
    "sum_of_squares",
    "adamw",
    "muon",
];

fn checks_of<'a>(checks: &'a [Check], operation: &str) -> Vec<&'a Check> {
    let checks: Vec<&Check> = checks.iter().filter(|check| check.operation == operation).collect();
    assert!(!checks.is_empty(), "{operation} is not checked");
    checks
}

/// Panics with each case of an operation none of whose outputs fails.
fn assert_every_case_fails(checks: &[Check], operation: &str) {
    let checks = checks_of(checks, operation);
    let name = |check: &Check| check.case.rsplit_once(": ").map(|(name, _)| name.to_owned()).unwrap_or_default();
    for check in &checks {
        let fails = checks.iter().any(|other| name(other) == name(check) && !other.passed);
        assert!(fails, "{operation} ({}) passes", check.case);
    }
}

#[test]
fn operations_that_do_nothing_fail() {
    let checks = selftest::run(&Faulty::new(Fault::Idle), 30);
    for operation in SPOILED {
        for dtype in ["f32", "bf16"] {
            let checks = checks_of(&checks, operation);
            let typed: Vec<_> = checks.iter().filter(|check| check.case.contains(dtype)).collect();
            assert!(typed.is_empty() || typed.iter().any(|check| !check.passed), "{operation} passes in {dtype}");
        }
    }
}

#[test]
fn one_wrong_element_fails_every_case() {
    let checks = selftest::run(&Faulty::new(Fault::Nudge), 31);
    for operation in SPOILED {
        assert_every_case_fails(&checks, operation);
    }
}

#[test]
fn one_element_past_the_end_fails() {
    let checks = selftest::run(&Faulty::new(Fault::Overrun), 32);
    for operation in SPOILED {
        // These take whole buffers: there is nothing behind.
        if !["sum_of_squares", "adamw", "muon", "fill_zero"].contains(&operation) {
            let overran = |check: &&Check| check.detail.contains("past the end");
            assert!(checks_of(&checks, operation).iter().any(overran), "{operation}");
        }
    }
}

#[test]
fn bits_that_change_from_run_to_run_fail() {
    let checks = selftest::run(&Faulty::new(Fault::Flicker), 33);
    for operation in SPOILED {
        let changed = |check: &&Check| check.detail.contains("a second run gave");
        assert!(checks_of(&checks, operation).iter().any(changed), "{operation}");
    }
}
