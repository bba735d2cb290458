//! Attention: training spans, prefill on top of a cache, decoding; forward and backward.

use super::check::Tolerance;
use super::random::{round, wide};
use super::stage::{Expected, GUARD, Stage, Trial};
use crate::cache_format::CacheFormat;
use crate::device::{AttentionShape, Device, Span};
use crate::dtype::DType;
use crate::error::ComputeError;
use crate::reference::{attention, kv_cache};

const SHAPES: [AttentionShape; 5] = [
    AttentionShape { n_head: 1, n_kv_head: 1, head_dim: 8 },
    AttentionShape { n_head: 6, n_kv_head: 2, head_dim: 16 },
    AttentionShape { n_head: 2, n_kv_head: 1, head_dim: 64 },
    AttentionShape { n_head: 2, n_kv_head: 2, head_dim: 128 },
    AttentionShape { n_head: 4, n_kv_head: 1, head_dim: 18 },
];

/// Lengths of training spans.
const TRAINING: [&[usize]; 5] = [&[1], &[17], &[15, 1, 33, 2], &[65, 64], &[63, 195]];
/// (queries, keys): prefill on top of a cache, decoding of one to five tokens, a batch of both.
const CACHED: [&[(usize, usize)]; 5] = [
    &[(17, 80)],
    &[(70, 199), (1, 1)],
    &[(1, 33)],
    &[(1, 130), (2, 2), (3, 65), (4, 17), (5, 300)],
    &[(1, 63), (33, 64), (6, 6)],
];

/// Key heads that a job does not take all of, and queries that a pass does not.
const MANY: AttentionShape = AttentionShape { n_head: 21, n_kv_head: 7, head_dim: 16 };

pub(super) fn run<D: Device>(trial: &mut Trial<'_, D>, dtype: DType) {
    let pairs = [(4, 133), (1, 9)];
    let operands = Operands::new(trial, dtype, MANY, &pairs, 1.5);
    forward(trial, &operands, &pairs, Tolerance::F32_ATTENTION);
    quantized(trial, &operands, &pairs, Tolerance::F32_ATTENTION);
    for shape in SHAPES {
        for lengths in TRAINING {
            let pairs: Vec<(usize, usize)> = lengths.iter().map(|n| (*n, *n)).collect();
            let operands = Operands::new(trial, dtype, shape, &pairs, 1.5);
            forward(trial, &operands, &pairs, Tolerance::F32_ATTENTION);
            backward(trial, &operands, &pairs);
        }
        for pairs in CACHED {
            let operands = Operands::new(trial, dtype, shape, pairs, 1.5);
            forward(trial, &operands, pairs, Tolerance::F32_ATTENTION);
            quantized(trial, &operands, pairs, Tolerance::F32_ATTENTION);
        }
        // Scores near 100, whose exponentials overflow unless the largest is taken off first.
        let pairs = [(65, 70), (1, 40)];
        let operands = Operands::new(trial, dtype, shape, &pairs, 5.0);
        forward(trial, &operands, &pairs, Tolerance::F32_LARGE_SCORES);
        quantized(trial, &operands, &pairs, Tolerance::F32_LARGE_SCORES);
    }
}

/// Spans with rows between them that belong to none and hold NaN.
struct Operands {
    dtype: DType,
    shape: AttentionShape,
    spans: Vec<Span>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    q_covered: Vec<bool>,
}

impl Operands {
    fn new<D: Device>(
        trial: &mut Trial<'_, D>,
        dtype: DType,
        shape: AttentionShape,
        pairs: &[(usize, usize)],
        deviation: f64,
    ) -> Self {
        let (mut spans, mut q_start, mut kv_start) = (Vec::new(), 0, 3);
        for (q_len, kv_len) in pairs.iter().copied() {
            spans.push(Span { q_start, q_len, kv_start, kv_len });
            q_start += q_len + 2;
            kv_start += kv_len + 3;
        }
        let (mut q_covered, mut kv_covered) = (vec![false; q_start], vec![false; kv_start]);
        for span in &spans {
            q_covered[span.q_start..][..span.q_len].fill(true);
            kv_covered[span.kv_start..][..span.kv_len].fill(true);
        }
        let (q_width, kv_width) = (shape.n_head * shape.head_dim, shape.n_kv_head * shape.head_dim);
        Operands {
            dtype,
            shape,
            spans,
            q: poison(trial.random.normal(dtype, q_start * q_width, deviation), &q_covered),
            k: poison(trial.random.normal(dtype, kv_start * kv_width, deviation), &kv_covered),
            v: poison(trial.random.normal(dtype, kv_start * kv_width, 1.0), &kv_covered),
            q_covered,
        }
    }

    fn name(&self, pairs: &[(usize, usize)]) -> String {
        let AttentionShape { n_head, n_kv_head, head_dim } = self.shape;
        let spans: Vec<String> = pairs.iter().map(|(q, kv)| format!("{q}/{kv}")).collect();
        format!("{n_head}:{n_kv_head} heads of {head_dim}, spans {}, {}", spans.join(" "), self.dtype.name())
    }
}

/// Puts NaN in rows that belong to no span.
fn poison(mut values: Vec<f32>, covered: &[bool]) -> Vec<f32> {
    let width = values.len() / covered.len();
    for (row, covered) in values.chunks_exact_mut(width).zip(covered) {
        if !covered {
            row.fill(f32::NAN);
        }
    }
    values
}

fn forward<D: Device>(trial: &mut Trial<'_, D>, operands: &Operands, pairs: &[(usize, usize)], f32: Tolerance) {
    let Operands { dtype, shape, ref spans, ref q, ref k, ref v, .. } = *operands;
    let want = attention::forward(shape, spans, [&wide(q), &wide(k), &wide(v)]);
    let inside = if dtype == DType::Bf16 { Tolerance::BF16_INSIDE } else { f32 };
    let expected = vec![
        Expected::new("out", want.out.clone(), inside),
        Expected::new("lse", want.lse, f32),
        Expected::new("out without lse", want.out, inside),
    ];
    trial.case("attention", operands.name(pairs), expected, |stage| {
        let (q, k, v) = (stage.input(dtype, q)?, stage.input(dtype, k)?, stage.input(dtype, v)?);
        let len = operands.q.len();
        let mut out = stage.output(dtype, len)?;
        let mut lse = stage.output(DType::F32, len / shape.head_dim)?;
        stage.0.attention(shape, spans, [&q, &k, &v], &mut out, Some(&mut lse));
        let mut alone = stage.output(dtype, len)?;
        stage.0.attention(shape, spans, [&q, &k, &v], &mut alone, None);
        Ok(vec![stage.read(&out), stage.read(&lse), stage.read(&alone)])
    });
}

/// With a cache of 8 bits, where the device has it. What a key became is taken from the reference's reading of the rows, so
/// that the comparison is of arithmetic alone.
fn quantized<D: Device>(trial: &mut Trial<'_, D>, operands: &Operands, pairs: &[(usize, usize)], f32: Tolerance) {
    if trial.stage().0.supports_cache(CacheFormat::Q8).is_err() {
        return;
    }
    let Operands { dtype, shape, ref spans, ref q, ref k, ref v, .. } = *operands;
    let [k, v] = [k, v].map(|values| kv_cache::quantize(values, shape.n_kv_head, shape.head_dim));
    let [restored_k, restored_v] = [&k, &v].map(|rows| kv_cache::dequantize(rows, shape.n_kv_head, shape.head_dim).0);
    let want = attention::forward(shape, spans, [&wide(q), &restored_k, &restored_v]);
    let inside = if dtype == DType::Bf16 { Tolerance::BF16_INSIDE } else { f32 };
    let expected = vec![Expected::new("out", want.out, inside), Expected::new("lse", want.lse, f32)];
    trial.case("attention", format!("{}, q8 cache", operands.name(pairs)), expected, |stage| {
        let (q, k, v) = (stage.input(dtype, q)?, rows(stage, &k)?, rows(stage, &v)?);
        let mut out = stage.output(dtype, operands.q.len())?;
        let mut lse = stage.output(DType::F32, operands.q.len() / shape.head_dim)?;
        stage.0.attention(shape, spans, [&q, &k, &v], &mut out, Some(&mut lse));
        Ok(vec![stage.read(&out), stage.read(&lse)])
    });
}

/// Rows to read, and behind them scales that are NaN.
fn rows<D: Device>(stage: &Stage<'_, D>, rows: &[u8]) -> Result<D::Buffer, ComputeError> {
    let mut buffer = stage.0.allocate("selftest", DType::U32, rows.len() / 4 + GUARD)?;
    stage.0.write_bytes(&mut buffer, 0, rows);
    stage.0.write_bytes(&mut buffer, rows.len() / 4, &[0xff; 4 * GUARD]);
    Ok(buffer)
}

fn backward<D: Device>(trial: &mut Trial<'_, D>, operands: &Operands, pairs: &[(usize, usize)]) {
    let Operands { dtype, shape, ref spans, ref q, ref k, ref v, ref q_covered } = *operands;
    let d_out = poison(trial.random.normal(dtype, q.len(), 1.0), q_covered);
    let inputs = [q, k, v].map(|x| wide(x));
    let inputs = [&*inputs[0], &*inputs[1], &*inputs[2]];
    let saved = attention::forward(shape, spans, inputs);
    let out: Vec<f32> = saved.out.iter().map(|x| round(dtype, *x as f32)).collect();
    let lse: Vec<f32> = saved.lse.iter().map(|x| *x as f32).collect();
    let [dq, dk, dv] = attention::backward(shape, spans, inputs, &wide(&out), &wide(&d_out));
    let inside = if dtype == DType::Bf16 { Tolerance::BF16_INSIDE } else { Tolerance::F32_ATTENTION };
    let expected =
        vec![Expected::new("dq", dq, inside), Expected::new("dk", dk, inside), Expected::new("dv", dv, inside)];
    trial.case("attention_backward", operands.name(pairs), expected, |stage| {
        let inputs = [stage.input(dtype, q)?, stage.input(dtype, k)?, stage.input(dtype, v)?];
        let (out, lse) = (stage.input(dtype, &out)?, stage.input(DType::F32, &lse)?);
        let d_out = stage.input(dtype, &d_out)?;
        let mut dq = stage.output(dtype, q.len())?;
        let mut dk = stage.output(dtype, k.len())?;
        let mut dv = stage.output(dtype, v.len())?;
        let gradients = [&mut dq, &mut dk, &mut dv];
        stage.0.attention_backward(shape, spans, inputs.each_ref(), &out, &lse, &d_out, gradients);
        Ok(vec![stage.read(&dq), stage.read(&dk), stage.read(&dv)])
    });
}
