//! From `qkv` rows to queries, keys and values at their slots, and back.

use super::check::Tolerance;
use super::random::{plus, wide};
use super::stage::{Expected, Trial};
use crate::device::{AttentionShape, Device, QkNorm, QkvSplit};
use crate::dtype::DType;
use crate::reference::qkv;

const SHAPES: [AttentionShape; 5] = [
    AttentionShape { n_head: 1, n_kv_head: 1, head_dim: 2 },
    AttentionShape { n_head: 1, n_kv_head: 1, head_dim: 8 },
    AttentionShape { n_head: 4, n_kv_head: 2, head_dim: 16 },
    AttentionShape { n_head: 6, n_kv_head: 2, head_dim: 64 },
    AttentionShape { n_head: 3, n_kv_head: 1, head_dim: 128 },
];
const TOKENS: [usize; 4] = [1, 15, 65, 130];
const POSITIONS: usize = 97;
const EPS: f32 = 1e-6;

pub(super) fn run<D: Device>(trial: &mut Trial<'_, D>, dtype: DType) {
    for shape in SHAPES {
        for tokens in TOKENS {
            case(trial, dtype, shape, tokens, false);
            case(trial, dtype, shape, tokens, true);
        }
    }
}

fn case<D: Device>(trial: &mut Trial<'_, D>, dtype: DType, shape: AttentionShape, tokens: usize, with_norm: bool) {
    let AttentionShape { n_head, n_kv_head, head_dim } = shape;
    let slot_count = tokens + 7;
    let (q_len, kv_len) = (tokens * n_head * head_dim, slot_count * n_kv_head * head_dim);
    let rows = trial.random.normal(dtype, tokens * (n_head + 2 * n_kv_head) * head_dim, 2.0);
    let positions = trial.random.indices(tokens, POSITIONS);
    let slots = trial.random.distinct(tokens, slot_count);
    let q_weight = trial.random.normal(DType::F32, head_dim, 1.0);
    let k_weight = trial.random.normal(DType::F32, head_dim, 1.0);
    let q_before = trial.random.normal(DType::F32, head_dim, 1.0);
    let k_before = trial.random.normal(DType::F32, head_dim, 1.0);
    let dq = trial.random.normal(dtype, q_len, 1.0);
    let dk = trial.random.normal(dtype, kv_len, 1.0);
    let dv = trial.random.normal(dtype, kv_len, 1.0);
    let (mut cos, mut sin) = (Vec::new(), Vec::new());
    for position in 0..POSITIONS {
        for i in 0..head_dim / 2 {
            let angle = position as f64 * 10_000_f64.powf(-2.0 * i as f64 / head_dim as f64);
            cos.push(angle.cos() as f32);
            sin.push(angle.sin() as f32);
        }
    }

    let (cos64, sin64, q_weight64, k_weight64) = (wide(&cos), wide(&sin), wide(&q_weight), wide(&k_weight));
    let reference = qkv::Split {
        shape,
        norm: with_norm.then_some((EPS.into(), &q_weight64, &k_weight64)),
        cos: &cos64,
        sin: &sin64,
        positions: &positions,
        slots: &slots,
    };
    let [q, k, v] = qkv::forward(&reference, &wide(&rows), slot_count);
    let gradient = qkv::backward(&reference, &wide(&rows), [&wide(&dq), &wide(&dk), &wide(&dv)]);
    let out = if dtype == DType::Bf16 { Tolerance::BF16_OUT } else { Tolerance::F32 };
    let norm_name = if with_norm { "norm" } else { "no norm" };
    let name = format!("{tokens} tokens, {n_head}:{n_kv_head} heads of {head_dim}, {norm_name}, {}", dtype.name());

    let expected =
        vec![Expected::new("q", q, out), Expected::new("k", k, out), Expected::new("v", v, Tolerance::EXACT)];
    let on = |stage: &super::stage::Stage<'_, D>| {
        Ok::<_, crate::ComputeError>(Tables {
            cos: stage.input(DType::F32, &cos)?,
            sin: stage.input(DType::F32, &sin)?,
            positions: stage.indices(&positions)?,
            slots: stage.indices(&slots)?,
            q_weight: stage.input(DType::F32, &q_weight)?,
            k_weight: stage.input(DType::F32, &k_weight)?,
        })
    };
    trial.case("split_qkv", name.clone(), expected, |stage| {
        let tables = on(stage)?;
        let mut q = stage.output(dtype, q_len)?;
        let mut k = stage.output(dtype, kv_len)?;
        let mut v = stage.output(dtype, kv_len)?;
        let split = tables.split(shape, with_norm);
        stage.0.split_qkv(&split, &stage.input(dtype, &rows)?, tokens, &mut q, &mut k, &mut v);
        Ok(vec![stage.read(&q), stage.read(&k), stage.read(&v)])
    });

    let expected = vec![
        Expected::new("d_qkv", gradient.qkv, out),
        Expected::new("d_q_weight", plus(&q_before, &gradient.q_weight), Tolerance::F32),
        Expected::new("d_k_weight", plus(&k_before, &gradient.k_weight), Tolerance::F32),
    ];
    trial.case("split_qkv_backward", name, expected, |stage| {
        let tables = on(stage)?;
        let (dq, dk, dv) = (stage.input(dtype, &dq)?, stage.input(dtype, &dk)?, stage.input(dtype, &dv)?);
        // Without a norm the gradient does not depend on it.
        let mut qkv = if with_norm { stage.in_place(dtype, &rows)? } else { stage.output(dtype, rows.len())? };
        let mut d_q_weight = stage.accumulator(&q_before)?;
        let mut d_k_weight = stage.accumulator(&k_before)?;
        let d_norm = with_norm.then_some((&mut d_q_weight, &mut d_k_weight));
        let split = tables.split(shape, with_norm);
        stage.0.split_qkv_backward(&split, &mut qkv, [&dq, &dk, &dv], tokens, d_norm);
        Ok(vec![stage.read(&qkv), stage.read(&d_q_weight), stage.read(&d_k_weight)])
    });
}

/// What a split reads besides activations, on the device.
struct Tables<B> {
    cos: B,
    sin: B,
    positions: B,
    slots: B,
    q_weight: B,
    k_weight: B,
}

impl<B> Tables<B> {
    fn split(&self, shape: AttentionShape, with_norm: bool) -> QkvSplit<'_, B> {
        let norm = QkNorm { eps: EPS, q_weight: &self.q_weight, k_weight: &self.k_weight };
        QkvSplit {
            shape,
            norm: with_norm.then_some(norm),
            cos: &self.cos,
            sin: &self.sin,
            positions: &self.positions,
            slots: &self.slots,
        }
    }
}
