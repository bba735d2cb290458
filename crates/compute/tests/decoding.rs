//! Attention of few queries: a query's bits are its own, whoever is attended to with it.

use casallm_compute::{AttentionShape, CacheFormat, CpuDevice, DType, Device, Isa, Span};

const SHAPES: [AttentionShape; 4] = [
    AttentionShape { n_head: 6, n_kv_head: 2, head_dim: 18 },
    AttentionShape { n_head: 4, n_kv_head: 4, head_dim: 64 },
    AttentionShape { n_head: 8, n_kv_head: 2, head_dim: 96 },
    // More key heads than a job takes.
    AttentionShape { n_head: 19, n_kv_head: 19, head_dim: 32 },
];

/// Keys and queries of sequences: of few queries and of many, shorter than a range and longer than several. The parts of all do
/// not fit at once into what is reserved for the longest.
const SEQUENCES: [(usize, usize); 9] =
    [(300, 1), (1, 1), (257, 4), (64, 2), (90, 70), (299, 4), (65, 3), (300, 2), (128, 1)];

struct Case {
    shape: AttentionShape,
    dtype: DType,
    q: <CpuDevice as Device>::Buffer,
    k: <CpuDevice as Device>::Buffer,
    v: <CpuDevice as Device>::Buffer,
}

impl Case {
    fn new(device: &CpuDevice, shape: AttentionShape, dtype: DType, cache: CacheFormat) -> Self {
        let (queries, keys) = SEQUENCES.iter().fold((0, 0), |(q, k), (kv_len, q_len)| (q + q_len, k + kv_len));
        let values = |len: usize, seed: usize| -> Vec<f32> {
            (0..len).map(|i| ((i * 7919 + seed * 104_729) % 1013) as f32 / 253.25 - 2.0).collect()
        };
        let mut q = device.buffer("q", dtype, queries * shape.n_head * shape.head_dim).unwrap();
        let len = q.len();
        device.write_f32(&mut q, 0, &values(len, 1));
        let row = shape.n_kv_head * shape.head_dim;
        let held = |seed: usize| {
            let mut buffer =
                device.buffer("cache", cache.dtype(), keys * cache.row_len(shape.n_kv_head, shape.head_dim)).unwrap();
            let values = values(keys * row, seed);
            if cache == CacheFormat::Q8 {
                let rows = casallm_compute::reference::kv_cache::quantize(&values, shape.n_kv_head, shape.head_dim);
                buffer.as_bytes_mut().copy_from_slice(&rows);
            } else {
                device.write_f32(&mut buffer, 0, &values);
            }
            buffer
        };
        Case { shape, dtype, q, k: held(2), v: held(3) }
    }

    /// What attention leaves in the rows of these spans, to the bit.
    fn attend(&self, device: &CpuDevice, spans: &[Span]) -> (Vec<u8>, Vec<u32>) {
        let Case { shape, dtype, q, k, v } = self;
        let mut out = device.buffer("out", *dtype, q.len()).unwrap();
        let mut lse = device.buffer("lse", DType::F32, q.len() / shape.head_dim).unwrap();
        device.attention(*shape, spans, [q, k, v], &mut out, Some(&mut lse));
        let (row, heads) = (shape.n_head * shape.head_dim * dtype.size(), shape.n_head);
        let rows = || spans.iter().map(|span| span.q_start..span.q_start + span.q_len);
        (
            rows().flat_map(|r| out.as_bytes()[r.start * row..r.end * row].to_vec()).collect(),
            rows()
                .flat_map(|r| lse.slice::<f32>()[r.start * heads..r.end * heads].to_vec())
                .map(f32::to_bits)
                .collect(),
        )
    }
}

fn spans() -> Vec<Span> {
    let (mut q_start, mut kv_start) = (0, 0);
    let span = |&(kv_len, q_len): &(usize, usize)| {
        let span = Span { q_start, q_len, kv_start, kv_len };
        (q_start, kv_start) = (q_start + q_len, kv_start + kv_len);
        span
    };
    SEQUENCES.iter().map(span).collect()
}

#[test]
fn a_query_s_bits_depend_neither_on_other_queries_nor_on_threads() {
    let formats = [(DType::F32, CacheFormat::F32), (DType::Bf16, CacheFormat::Bf16), (DType::Bf16, CacheFormat::Q8)];
    for isa in Isa::available() {
        let devices = [1, 3].map(|threads| CpuDevice::new(threads, isa).unwrap());
        for shape in SHAPES {
            for (dtype, cache) in formats {
                let what = format!("{} {shape:?} {}", isa.name(), cache.name());
                let case = Case::new(&devices[0], shape, dtype, cache);
                let together = case.attend(&devices[0], &spans());
                assert_eq!(together, case.attend(&devices[1], &spans()), "threads, {what}");
                let mut alone = (Vec::new(), Vec::new());
                for span in spans() {
                    // Of few queries, one after another, as decoding has them; what comes later is not seen.
                    let few = span.q_len <= 4;
                    for i in 0..if few { span.q_len } else { 1 } {
                        let kv_len = if few { span.kv_len - span.q_len + i + 1 } else { span.kv_len };
                        let q_len = if few { 1 } else { span.q_len };
                        let one = Span { q_start: span.q_start + i, q_len, kv_len, ..span };
                        let (out, lse) = case.attend(&devices[i % 2], &[one]);
                        alone.0.extend(out);
                        alone.1.extend(lse);
                    }
                }
                assert_eq!(together, alone, "others, {what}");
            }
        }
    }
}
