use std::collections::BTreeSet;
use std::time::Duration;

use super::*;
use crate::cuda::CudaDevice;
use crate::cuda::simulator::Simulator;
use crate::device::Rounding;
use crate::device::{
    ActivationKind, AdamW, AdamWTensor, AttentionShape, Device, MatrixUse, Norm, NormKind, Out, QkvSplit, Span,
};
use crate::dtype::DType;
use crate::{CpuDevice, Isa, MatrixFormat};

const HEADS: AttentionShape = AttentionShape { n_head: 4, n_kv_head: 2, head_dim: 8 };

fn spans() -> Vec<Span> {
    vec![Span { q_start: 0, q_len: 3, kv_start: 0, kv_len: 3 }, Span { q_start: 3, q_len: 5, kv_start: 3, kv_len: 5 }]
}

/// Every kind of work, small.
fn every(dtype: DType) -> Vec<Work> {
    let (tokens, width, shape, n_ff) = (8, 16, (24, 16), 20);
    let kind = NormKind::LayerNorm;
    let format = MatrixFormat::from(dtype);
    let tensors =
        vec![UpdatedTensor { len: 24 * 16, matrix: Some((dtype, shape)) }, UpdatedTensor { len: 16, matrix: None }];
    let swiglu = ActivationKind::SwiGlu;
    vec![
        Work::FillZero { dtype: DType::F32, len: 37 },
        Work::Copy { dtype: DType::F32, len: 37 },
        Work::GatherRows { dtype, rows: 3, width },
        Work::Pack { dtype, shape },
        Work::Embedding { format, tokens, shape },
        Work::EmbeddingBackward { tokens, shape },
        Work::Norm { kind, dtype, tokens, width },
        Work::NormAgain { kind: NormKind::RmsNorm, dtype, tokens, width },
        Work::NormBackward { kind, dtype, tokens, width },
        Work::NormBackward { kind: NormKind::RmsNorm, dtype, tokens, width },
        Work::Linear { format, tokens, shape, bias: true, out: Destination::Add },
        Work::Linear { format, tokens: 1, shape, bias: false, out: Destination::Store(DType::F32) },
        Work::LinearBackwardInput { dtype, tokens, shape },
        Work::LinearBackwardWeight { dtype, tokens, shape, bias: true },
        Work::SplitQkv { dtype, shape: HEADS, norm: true, tokens, slots: 11 },
        Work::SplitQkvBackward { dtype, shape: HEADS, norm: true, tokens },
        Work::Attention { dtype, shape: HEADS, spans: spans(), lse: true },
        Work::Attention {
            dtype,
            shape: HEADS,
            spans: vec![Span { q_start: 0, q_len: 1, kv_start: 0, kv_len: 40 }],
            lse: false,
        },
        Work::AttentionBackward { dtype, shape: HEADS, spans: spans() },
        Work::Activation { kind: swiglu, dtype, tokens, n_ff },
        Work::ActivationBackward { kind: swiglu, dtype, tokens, n_ff, again: true },
        Work::ActivationBackward { kind: swiglu, dtype, tokens, n_ff, again: false },
        Work::DropoutAdd { dtype, len: 33 },
        Work::Dropout { len: 33 },
        Work::BranchGradient { dtype, len: 33, dropout: true },
        Work::Head { dtype, tokens, shape, gradient: true },
        Work::Head { dtype, tokens, shape, gradient: false },
        Work::Clip { lens: vec![40, 7, 40] },
        Work::AdamW { tensors },
        Work::Muon { tensors: vec![BlockedTensor { row_blocks: vec![16, 8], columns: 16, matrix: Some(dtype) }; 2] },
    ]
}

fn traced(work: Vec<Work>) -> Vec<Traced> {
    work.into_iter().map(|work| Traced { label: String::new(), work, calls: 3 }).collect()
}

/// By hand: `bf16` has 2 bytes.
#[test]
fn flops_and_bytes_are_those_of_the_formulas() {
    let (dtype, format, store) = (DType::Bf16, MatrixFormat::Bf16, Destination::Store(DType::Bf16));
    let shape = (3072, 1024);
    let spans = spans();
    let vector = vec![UpdatedTensor { len: 10, matrix: None }];
    let matrix = vec![UpdatedTensor { len: 6, matrix: Some((dtype, (2, 3))) }];
    for (work, flops, bytes) in [
        // 2 x 100 x 3072 x 1024; (100 x 1024 + 3072 x 1024 + 100 x 3072) x 2.
        (Work::Linear { format, tokens: 100, shape, bias: false, out: store }, 629_145_600, 7_110_656),
        // One addition more for the bias, one for the stream; the stream is read and written in f32, the bias read.
        (
            Work::Linear { format, tokens: 100, shape, bias: true, out: Destination::Add },
            629_145_600 + 2 * 307_200,
            204_800 + 6_291_456 + 2_457_600 + 12_288,
        ),
        // 34 and 18 bytes for each 32 weights of a row.
        (
            Work::Linear { format: MatrixFormat::Q8, tokens: 1, shape: (3, 70), bias: false, out: store },
            420,
            140 + 3 * 3 * 34 + 6,
        ),
        (
            Work::Linear { format: MatrixFormat::Q4, tokens: 1, shape: (3, 70), bias: false, out: store },
            420,
            140 + 3 * 3 * 18 + 6,
        ),
        (Work::Embedding { format: MatrixFormat::Q4, tokens: 3, shape: (50, 64) }, 0, 3 * 64 * 4 + 3 * 2 * 18 + 12),
        (Work::LinearBackwardInput { dtype, tokens: 100, shape }, 629_145_600, 7_110_656),
        // The gradient is read and written in f32.
        (
            Work::LinearBackwardWeight { dtype, tokens: 100, shape, bias: false },
            629_145_600 + 3_145_728,
            204_800 + 614_400 + 25_165_824,
        ),
        // Pairs: 3 x 4 / 2 + 5 x 6 / 2 = 21; 4 x 21 x 4 heads of 8; queries and output 8 x 32, keys and values 8 x 16.
        (
            Work::Attention { dtype, shape: HEADS, spans: spans.clone(), lse: true },
            2688,
            2 * (2 * 256 + 2 * 128) + 4 * 32,
        ),
        (Work::AttentionBackward { dtype, shape: HEADS, spans }, 6720, 2 * (4 * 256 + 4 * 128) + 4 * 32),
        // One query on a cache of 40: 40 pairs.
        (
            Work::Attention {
                dtype,
                shape: HEADS,
                spans: vec![Span { q_start: 0, q_len: 1, kv_start: 0, kv_len: 40 }],
                lse: false,
            },
            4 * 40 * 32,
            2 * (2 * 32 + 2 * 640),
        ),
        (Work::Head { dtype, tokens: 10, shape: (7, 4), gradient: false }, 560, 80 + 56 + 120),
        (Work::Head { dtype, tokens: 10, shape: (7, 4), gradient: true }, 1680, 80 + 56 + 80 + 224 + 120),
        (Work::Norm { kind: NormKind::LayerNorm, dtype, tokens: 2, width: 5 }, 70, 10 * 6 + 16),
        (Work::NormBackward { kind: NormKind::RmsNorm, dtype, tokens: 2, width: 5 }, 100, 10 * 14 + 16),
        (Work::Activation { kind: ActivationKind::SwiGlu, dtype, tokens: 2, n_ff: 5 }, 50, 2 * 15 * 2),
        (
            Work::ActivationBackward { kind: ActivationKind::Gelu, dtype, tokens: 2, n_ff: 5, again: true },
            100,
            4 * 10 * 2,
        ),
        (
            Work::ActivationBackward { kind: ActivationKind::Gelu, dtype, tokens: 2, n_ff: 5, again: false },
            100,
            3 * 10 * 2,
        ),
        (Work::AdamW { tensors: vector }, 150, 280),
        (Work::AdamW { tensors: matrix }, 90, 6 * 30),
        // 5 x (3 x 2² x 3 + 2³) + 12 x 6, twice; 6 values of 20 bytes and a rounded one.
        (
            Work::Muon { tensors: vec![BlockedTensor { row_blocks: vec![3], columns: 2, matrix: Some(dtype) }; 2] },
            2 * (5 * (36 + 8) + 72),
            2 * 6 * 22,
        ),
        (Work::Embedding { format, tokens: 3, shape: (50, 4) }, 0, 3 * 4 * 6 + 12),
        (Work::Clip { lens: vec![3, 4] }, 14, 28),
        (Work::Copy { dtype: DType::F32, len: 9 }, 0, 72),
        (Work::SplitQkv { dtype, shape: HEADS, norm: false, tokens: 2, slots: 9 }, 2 * 48 * 3, 2 * 2 * 64 * 2 + 2 * 32),
    ] {
        assert_eq!((work.flops(), work.bytes()), (flops, bytes), "{work:?}");
    }
}

#[test]
fn the_nearer_ceiling_bounds() {
    let bandwidth = Bandwidth { read: 10e9, write: 5e9, copy: 8e9 };
    let ceilings = Ceilings { f32: 1e12, bf16: 2e12, bandwidth, wait: 0.0 };
    let store = Destination::Store(DType::Bf16);
    let linear =
        |tokens| Work::Linear { format: MatrixFormat::Bf16, tokens, shape: (1000, 1000), bias: false, out: store };
    // 2e9 FLOPs at 2e12; 2e6 FLOPs and 2,004,000 bytes at 1e10.
    assert_eq!(ceilings.least_seconds(&linear(1000)), (1e-3, Bound::Compute));
    assert_eq!(ceilings.least_seconds(&linear(1)), (2.004e-4, Bound::Memory));
    // Elementwise work in f32.
    assert_eq!(ceilings.flops_per_s(Work::Dropout { len: 1 }.arithmetic()), 1e12);
}

/// What is asked of the tracer appears with its shape and the weight's name; layers are put together.
#[test]
fn the_tracer_notes_what_it_is_asked_for() {
    let tracer = Tracer::default();
    let (dtype, format) = (DType::Bf16, MatrixFormat::Bf16);
    let buffer = |dtype, len| tracer.allocate("a buffer", dtype, len).unwrap();
    let (x, mut y, bias) = (buffer(dtype, 64), buffer(dtype, 96), buffer(DType::F32, 24));
    let mut weights: Vec<_> = (0..3)
        .map(|i| {
            let name = format!("layers.{i}.attn.qkv.weight");
            let matrix = tracer.allocate_matrix(&name, dtype.into(), 24, 16, MatrixUse::Training).unwrap();
            let values: Vec<_> = (0..4).map(|_| tracer.allocate(&name, DType::F32, 24 * 16).unwrap()).collect();
            (matrix, values)
        })
        .collect();
    for (weight, _) in &weights {
        tracer.linear(&x, weight, Some(&bias), 4, Out::Store(&mut y));
    }
    let norm = Norm { kind: NormKind::RmsNorm, eps: 1e-6, weight: &bias, bias: None };
    tracer.norm(&norm, &buffer(DType::F32, 64), 4, 16, &mut y, &mut buffer(DType::F32, 8));
    let (mut q, mut k, mut v) = (buffer(dtype, 64), buffer(dtype, 160), buffer(dtype, 160));
    let split = QkvSplit { shape: HEADS, norm: None, cos: &x, sin: &x, positions: &x, slots: &x };
    tracer.split_qkv(&split, &x, 2, &mut q, &mut k, &mut v);
    let update = AdamW {
        lr: 0.1,
        beta1: 0.9,
        beta2: 0.9,
        eps: 1e-8,
        weight_decay: 0.0,
        step: 1,
        gradient_scale: 1.0,
        weight_rounding: Rounding::Nearest,
        seed: 1,
    };
    let tensors = weights
        .iter_mut()
        .map(|(matrix, values)| {
            let [weight, gradient, first, second] = &mut values[..] else { panic!("four") };
            AdamWTensor { weight, matrix: Some(matrix), gradient, moments: [first, second], weight_decay: 0.0, seed: 1 }
        })
        .collect();
    tracer.adamw_all(&update, tensors, &());
    let tensors = vec![UpdatedTensor { len: 384, matrix: Some((dtype, (24, 16))) }];
    let wanted = [
        (
            "attn.qkv",
            Work::Linear { format, tokens: 4, shape: (24, 16), bias: true, out: Destination::Store(dtype) },
            3,
        ),
        ("", Work::Norm { kind: NormKind::RmsNorm, dtype, tokens: 4, width: 16 }, 1),
        ("", Work::SplitQkv { dtype, shape: HEADS, norm: false, tokens: 2, slots: 10 }, 1),
        ("attn.qkv", Work::AdamW { tensors }, 3),
    ];
    let wanted: Vec<Traced> =
        wanted.into_iter().map(|(label, work, calls)| Traced { label: label.into(), work, calls }).collect();
    assert_eq!(tracer.take(), wanted);
    assert!(tracer.take().is_empty());
}

/// Operands fit their work: the kernels check lengths and types, and the device would have kept an error.
fn every_work_can_be_timed<D: Device>(device: &D) {
    let operations: BTreeSet<_> = every(DType::F32).iter().map(Work::operation).collect();
    assert_eq!(operations.len(), 25, "{operations:?}");
    for dtype in [DType::F32, DType::Bf16] {
        let quantized = [MatrixFormat::Q8, MatrixFormat::Q4].into_iter().flat_map(|format| {
            let (tokens, shape, out) = (1, (24, 70), Destination::Store(DType::Bf16));
            [Work::Linear { format, tokens, shape, bias: true, out }, Work::Embedding { format, tokens, shape }]
        });
        let work = traced(every(dtype).into_iter().chain(quantized).collect());
        let mut shares = Vec::new();
        let timings = time(device, &work, 0.0, Duration::ZERO, |share| shares.push(share)).unwrap();
        assert_eq!(timings.len(), work.len());
        for (timing, traced) in timings.iter().zip(&work) {
            let Timing { median, fastest, slowest, rounds, calls } = *timing;
            assert!(0.0 < fastest && fastest <= median && median <= slowest, "{traced:?}: {timing:?}");
            assert!(rounds >= 3 && calls >= 1, "{traced:?}: {timing:?}");
        }
        assert!(shares.windows(2).all(|pair| pair[0] <= pair[1]), "{shares:?}");
        assert!(shares.iter().all(|share| (0.0..=1.0).contains(share)) && shares.last() == Some(&1.0), "{shares:?}");
    }
    device.check().unwrap();
}

#[test]
fn every_work_can_be_timed_on_the_processor() {
    every_work_can_be_timed(&CpuDevice::new(2, *Isa::available().last().unwrap()).unwrap());
}

#[test]
fn every_work_can_be_timed_on_the_gpu() {
    if let Some(simulator) = Simulator::for_test(1) {
        every_work_can_be_timed(&CudaDevice::new(simulator).unwrap());
    }
}
