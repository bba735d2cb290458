//! From `qkv` rows to queries, keys and values at their slots, and back.

use super::check::Tolerance;
use super::random::{plus, wide};
use super::stage::{Expected, Stage, Trial};
use crate::cache_format::CacheFormat;
use crate::device::{AttentionShape, Device, QkNorm, QkvSplit};
use crate::dtype::DType;
use crate::error::ComputeError;
use crate::reference::{kv_cache, qkv};

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
    let on = |stage: &Stage<'_, D>| {
        Ok::<_, ComputeError>(Tables {
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

    if trial.stage().0.supports_cache(CacheFormat::Q8).is_ok() {
        let [q, k, v] = qkv::forward(&reference, &wide(&rows), slot_count);
        let (q, k, v) = (Expected::new("q", q, out), Rounded::new(&k, shape), Rounded::new(&v, shape));
        let expected = vec![q, k.scales(), k.codes(), v.scales(), v.codes()];
        trial.case("split_qkv", format!("{name}, q8 cache"), expected, |stage| {
            let tables = on(stage)?;
            let mut q_out = stage.output(dtype, q_len)?;
            let (mut k_out, mut v_out) = (k.poisoned(stage)?, v.poisoned(stage)?);
            let split = tables.split(shape, with_norm);
            let rows = stage.input(dtype, &rows)?;
            stage.0.split_qkv(&split, &rows, tokens, &mut q_out, &mut k_out, &mut v_out);
            let [k, v] = [(k, &k_out), (v, &v_out)].map(|(wanted, out)| wanted.read(stage, out));
            Ok([vec![stage.read(&q_out)], k, v].concat())
        });
    }

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

/// Keys or values that a cache of 8 bits is to hold: NaN in slots that nothing is written to.
#[derive(Clone, Copy)]
struct Rounded<'a> {
    wanted: &'a [f64],
    shape: AttentionShape,
}

impl<'a> Rounded<'a> {
    /// What rows hold that nothing is written to: a code and a scale as good as others.
    const POISON: u8 = 0x3d;

    fn new(wanted: &'a [f64], shape: AttentionShape) -> Self {
        Rounded { wanted, shape }
    }

    fn slots(&self) -> usize {
        self.wanted.len() / (self.shape.n_kv_head * self.shape.head_dim)
    }

    fn poisoned<D: Device>(&self, stage: &Stage<'_, D>) -> Result<D::Buffer, ComputeError> {
        let len = self.slots() * CacheFormat::Q8.row_len(self.shape.n_kv_head, self.shape.head_dim);
        let mut buffer = stage.0.allocate("selftest", DType::U32, len)?;
        stage.0.write_bytes(&mut buffer, 0, &vec![Self::POISON; 4 * len]);
        Ok(buffer)
    }

    fn scales(&self) -> Expected {
        // A slot's values are NaN together.
        let largest =
            |head: &[f64]| head.iter().fold(head[0].abs(), |most, x| if x.is_nan() { *x } else { most.max(x.abs()) });
        let largest = self.wanted.chunks_exact(self.shape.head_dim).map(largest).collect();
        Expected::new("largest magnitudes", largest, Tolerance::BF16_OUT)
    }

    /// Every code is the nearest one: nothing is further from what it stands for than half a step.
    fn codes(&self) -> Expected {
        let none = self.wanted.iter().map(|x| x * 0.0).collect();
        Expected::new("errors in steps", none, Tolerance { largest: 0.501, typical: 0.33 })
    }

    /// What the scales say of the largest magnitudes, and how far the values are from the wanted ones in steps of their scales.
    fn read<D: Device>(&self, stage: &Stage<'_, D>, buffer: &D::Buffer) -> Vec<Vec<f64>> {
        let AttentionShape { n_kv_head, head_dim, .. } = self.shape;
        let mut rows = stage.0.bytes(buffer).into_owned();
        let row_bytes = CacheFormat::Q8.row_bytes(n_kv_head, head_dim);
        // A row that is as it was is what is wanted of those that nothing is written to.
        let kept: Vec<bool> =
            rows.chunks_exact(row_bytes).map(|row| row.iter().all(|byte| *byte == Self::POISON)).collect();
        for (row, _) in rows.chunks_exact_mut(row_bytes).zip(kept).filter(|(_, kept)| *kept) {
            row.fill(0xff);
        }
        let (values, scales) = kv_cache::dequantize(&rows, n_kv_head, head_dim);
        let wanted = self.wanted.iter().map(|x| if x.is_nan() { 0.0 } else { *x });
        let errors = values.iter().zip(wanted).enumerate().map(|(i, (got, wanted))| {
            let scale = scales[i / head_dim];
            if scale == 0.0 { got - wanted } else { (got - wanted) / scale }
        });
        vec![scales.iter().map(|scale| 127.0 * scale).collect(), errors.collect()]
    }
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
