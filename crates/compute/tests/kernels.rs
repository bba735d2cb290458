//! Every operation of the CPU device at every instruction set of this machine, against the naive reference.

use casallm_compute::selftest::{self, Check};
use casallm_compute::{
    AttentionShape, CacheFormat, ComputeError, CpuDevice, DType, Device, Head, HeadGradient, Isa, MatrixUse, Muon, Out,
    Rounding, ScratchShape, Span,
};

fn run(isa: Isa, threads: usize, seed: u64) -> Vec<Check> {
    selftest::run(&CpuDevice::new(threads, isa).expect("a device of the test's own choice"), seed)
}

/// Panics with every failed check.
fn assert_passed(what: &str, checks: &[Check]) {
    let failed: Vec<String> = checks
        .iter()
        .filter(|check| !check.passed)
        .map(|c| format!("{} ({}): {:e} > {:e}; {}", c.operation, c.case, c.max_error, c.tolerance, c.detail))
        .collect();
    assert!(failed.is_empty(), "{what}: {} of {} checks failed:\n{}", failed.len(), checks.len(), failed.join("\n"));
}

/// Every operation passes at 1 and 2 threads, and 1, 2 and 3 threads agree to the bit.
fn holds_to_the_reference(isa: Isa) {
    if !isa.is_available() {
        println!("skipped: this processor lacks {}", isa.name());
        return;
    }
    let one = run(isa, 1, 20);
    assert_passed(&format!("{} on 1 thread", isa.name()), &one);
    for threads in [2, 3] {
        let many = run(isa, threads, 20);
        assert_passed(&format!("{} on {threads} threads", isa.name()), &many);
        assert_eq!(one.len(), many.len());
        for (one, many) in one.iter().zip(&many) {
            assert_eq!(
                one.fingerprint,
                many.fingerprint,
                "{} ({}) at {} differs between 1 and {threads} threads",
                one.operation,
                one.case,
                isa.name()
            );
        }
    }
}

#[test]
fn portable_holds_to_the_reference() {
    holds_to_the_reference(Isa::Portable);
}

#[test]
fn neon_holds_to_the_reference() {
    holds_to_the_reference(Isa::Neon);
}

#[test]
fn neonbf16_holds_to_the_reference() {
    holds_to_the_reference(Isa::NeonBf16);
}

#[test]
fn avx2_holds_to_the_reference() {
    holds_to_the_reference(Isa::Avx2);
}

#[test]
fn avx512_holds_to_the_reference() {
    holds_to_the_reference(Isa::Avx512);
}

#[test]
fn avx512bf16_holds_to_the_reference() {
    holds_to_the_reference(Isa::Avx512Bf16);
}

#[test]
fn amx_holds_to_the_reference() {
    holds_to_the_reference(Isa::Amx);
}

/// The seven tests above name every level there is.
#[test]
fn every_level_has_its_test() {
    let arm = [Isa::Neon, Isa::NeonBf16];
    let x86 = [Isa::Avx2, Isa::Avx512, Isa::Avx512Bf16, Isa::Amx];
    assert_eq!(Isa::ALL.to_vec(), [&[Isa::Portable], &arm[..], &x86].concat());
    assert!(Isa::available().contains(&Isa::Portable));
}

/// The checks cover the trait: each operation appears, in both storage types where it has them.
#[test]
fn the_selftest_covers_every_operation() {
    let checks = run(Isa::Portable, 1, 21);
    let covers = |operation: &str, dtype: &str| {
        checks.iter().any(|check| check.operation == operation && check.case.contains(dtype))
    };
    for operation in
        ["write_u32", "sum_of_squares", "adamw", "muon", "adamw_all", "pack_stochastically", "head_to_tally"]
    {
        assert!(covers(operation, ""), "{operation} is not checked");
    }
    for operation in OPERATIONS {
        assert!(covers(operation, "f32") && covers(operation, "bf16"), "{operation} is not checked in both types");
    }
    for operation in ["split_qkv", "attention"] {
        assert!(covers(operation, "f32, q8 cache") && covers(operation, "bf16, q8 cache"), "{operation} of q8");
    }
}

const OPERATIONS: [&str; 22] = [
    "write_f32",
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
];

/// Same seed, same inputs; another seed, other inputs.
#[test]
fn the_seed_decides_the_inputs() {
    let fingerprints = |seed| run(Isa::Portable, 1, seed).iter().map(|c| c.fingerprint).collect::<Vec<_>>();
    let first = fingerprints(22);
    assert_eq!(first, fingerprints(22));
    let changed = first.iter().zip(fingerprints(23)).filter(|(a, b)| **a != *b).count();
    assert!(changed > first.len() / 2, "{changed} of {} results changed with the seed", first.len());
}

/// After `reserve_scratch`, a training step of that shape allocates nothing, at any thread count.
#[test]
fn a_step_allocates_no_scratch_once_reserved() {
    for isa in Isa::available() {
        for threads in [1, 2, 3, 5] {
            for dtype in [DType::F32, DType::Bf16] {
                // With the head's share of scratch larger than the others', and smaller.
                for vocab_size in [517, 1] {
                    one_step(&CpuDevice::new(threads, isa).unwrap(), dtype, vocab_size);
                }
            }
        }
    }
}

/// The same for inference, whatever the format of the cache: prefill, and decoding.
#[test]
fn attention_over_any_cache_allocates_no_scratch_once_reserved() {
    let shape = AttentionShape { n_head: 3, n_kv_head: 1, head_dim: 16 };
    for isa in Isa::available() {
        for (dtype, format) in [
            (DType::F32, CacheFormat::F32),
            (DType::Bf16, CacheFormat::Bf16),
            (DType::F32, CacheFormat::Q8),
            (DType::Bf16, CacheFormat::Q8),
        ] {
            let device = CpuDevice::new(3, isa).unwrap();
            let reserved = ScratchShape {
                dtype,
                matrices: dtype.into(),
                tokens: 200,
                width: 48,
                vocab_size: 1,
                n_embd: 1,
                sequence: 200,
                n_head: shape.n_head,
                n_kv_head: shape.n_kv_head,
                head_dim: shape.head_dim,
                training: false,
            };
            device.reserve_scratch(&reserved).unwrap();
            let held = device.scratch_held();
            let rows = 200 * format.row_len(shape.n_kv_head, shape.head_dim);
            let cache = || device.buffer("test", format.dtype(), rows).unwrap();
            let (k, v) = (cache(), cache());
            for q_len in [1, 200] {
                let q = device.buffer("test", dtype, q_len * shape.n_head * shape.head_dim).unwrap();
                let mut out = device.buffer("test", dtype, q.len()).unwrap();
                let span = Span { q_start: 0, q_len, kv_start: 0, kv_len: 200 };
                device.attention(shape, &[span], [&q, &k, &v], &mut out, None);
                assert_eq!(device.scratch_held(), held, "{} {} {q_len}", isa.name(), format.name());
            }
        }
    }
}

/// A layer's scratch-using operations at a small but typical shape, with an odd MLP width and vocabulary.
fn one_step(device: &CpuDevice, dtype: DType, vocab_size: usize) {
    let (tokens, n_embd, n_ff, sequence) = (32, 48, 131, 16);
    let shape = AttentionShape { n_head: 3, n_kv_head: 1, head_dim: 16 };
    let qkv_width = (shape.n_head + 2 * shape.n_kv_head) * shape.head_dim;
    let reserved = ScratchShape {
        dtype,
        matrices: dtype.into(),
        tokens,
        width: n_ff.max(qkv_width),
        vocab_size,
        n_embd,
        sequence,
        n_head: shape.n_head,
        n_kv_head: shape.n_kv_head,
        head_dim: shape.head_dim,
        training: true,
    };
    device.reserve_scratch(&reserved).unwrap();
    let held = device.scratch_held();
    assert!(held as u64 >= device.scratch_bytes(&reserved));
    let buffer = |dtype, len: usize| {
        let mut buffer = device.buffer("test", dtype, len).unwrap();
        let values: Vec<f32> = (0..len).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
        device.write_f32(&mut buffer, 0, &values);
        buffer
    };
    let matrix = |rows: usize, columns: usize| {
        let mut matrix = device.allocate_matrix("test", dtype.into(), rows, columns, MatrixUse::Training).unwrap();
        device.pack(&buffer(DType::F32, rows * columns), &mut matrix);
        matrix
    };
    let before = device.allocated_bytes();
    let checked = |operation: &str| {
        assert_eq!(
            device.scratch_held(),
            held,
            "{operation} grew the scratch, {} {}",
            device.isa().name(),
            dtype.name()
        );
    };

    let shapes = [(qkv_width, n_embd), (n_embd, n_embd), (n_ff, n_embd), (n_embd, n_ff)];
    for (rows, columns) in shapes {
        let weight = matrix(rows, columns);
        let (x, mut y) = (buffer(dtype, tokens * columns), buffer(dtype, tokens * rows));
        device.linear(&x, &weight, None, tokens, Out::Store(&mut y));
        checked("linear");
        let mut dx = buffer(dtype, tokens * columns);
        device.linear_backward_input(&y, &weight, tokens, &mut dx);
        checked("linear_backward_input");
        let (mut d_weight, mut d_bias) = (buffer(DType::F32, rows * columns), buffer(DType::F32, rows));
        device.linear_backward_weight(&y, &x, tokens, (rows, columns), &mut d_weight, Some(&mut d_bias));
        checked("linear_backward_weight");
        let weight_rounding = Rounding::Nearest;
        let update = Muon { lr: 0.1, momentum: 0.9, weight_decay: 0.1, gradient_scale: 1.0, seed: 0, weight_rounding };
        let (mut weight, mut momentum) = (buffer(DType::F32, rows * columns), buffer(DType::F32, rows * columns));
        device.muon(&update, &[rows], columns, &mut weight, &d_weight, &mut momentum);
        checked("muon");
        assert!(device.sum_of_squares(&d_weight).is_finite());
        checked("sum_of_squares");
    }

    let spans: Vec<Span> = (0..tokens / sequence)
        .map(|i| Span { q_start: i * sequence, q_len: sequence, kv_start: i * sequence, kv_len: sequence })
        .collect();
    let (q_len, kv_len) = (tokens * shape.n_head * shape.head_dim, tokens * shape.n_kv_head * shape.head_dim);
    let (q, k, v) = (buffer(dtype, q_len), buffer(dtype, kv_len), buffer(dtype, kv_len));
    let (mut out, mut lse) = (buffer(dtype, q_len), buffer(DType::F32, tokens * shape.n_head));
    device.attention(shape, &spans, [&q, &k, &v], &mut out, Some(&mut lse));
    checked("attention");
    let (mut dq, mut dk, mut dv) = (buffer(dtype, q_len), buffer(dtype, kv_len), buffer(dtype, kv_len));
    device.attention_backward(shape, &spans, [&q, &k, &v], &out, &lse, &q, [&mut dq, &mut dk, &mut dv]);
    checked("attention_backward");

    let weight = matrix(vocab_size, n_embd);
    let hidden = buffer(dtype, tokens * n_embd);
    let targets = device.buffer("test", DType::U32, tokens).unwrap();
    let mut weights = buffer(DType::F32, tokens);
    device.write_f32(&mut weights, 0, &vec![1.0; tokens]);
    let (mut losses, mut d_hidden) = (buffer(DType::F32, tokens), buffer(dtype, tokens * n_embd));
    let mut d_weight = buffer(DType::F32, vocab_size * n_embd);
    let head = Head { hidden: &hidden, weight: &weight, targets: &targets, weights: &weights, tokens };
    let gradient = HeadGradient { scale: 1.0, hidden: &mut d_hidden, weight: &mut d_weight };
    let result = device.head(&head, &mut losses, Some(gradient));
    checked("head");
    assert_eq!(result.counted, tokens as u64);
    assert!(device.sum_of_squares(&d_weight).is_finite());
    checked("sum_of_squares of the head");
    assert!(device.allocated_bytes() > before, "the test's own buffers are counted");
}

/// A device that has run other shapes before computes the same: nothing depends on what scratch held or how long it is.
#[test]
fn results_do_not_depend_on_the_scratch_memory() {
    let isa = *Isa::available().last().expect("portable is always there");
    for threads in [3, 5] {
        let device = CpuDevice::new(threads, isa).unwrap();
        // An odd multiple of 64 bytes: no share of it is a round number for three or five workers.
        let mut shape = ScratchShape {
            dtype: DType::F32,
            matrices: DType::F32.into(),
            tokens: 1024,
            width: 517,
            vocab_size: 4_101,
            n_embd: 64,
            sequence: 300,
            n_head: 4,
            n_kv_head: 4,
            head_dim: 128,
            training: true,
        };
        while device.scratch_bytes(&shape) / 64 % 15 != 7 {
            shape.tokens += 1;
        }
        device.reserve_scratch(&shape).unwrap();
        let used = selftest::run(&device, 24);
        assert_passed(&format!("{} with used scratch", isa.name()), &used);
        let fresh = run(isa, threads, 24);
        assert!(used.iter().zip(&fresh).all(|(a, b)| a.fingerprint == b.fingerprint));
    }
}

#[test]
fn an_unknown_instruction_set_is_a_typed_error() {
    match Isa::parse("sse9") {
        Err(ComputeError::UnknownIsa { name, available }) => {
            assert_eq!(name, "sse9");
            assert!(available.contains("portable"));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_instruction_set_of_another_processor_is_a_typed_error() {
    for isa in Isa::ALL {
        match (Isa::parse(isa.name()), isa.is_available()) {
            (Ok(parsed), true) => assert_eq!(parsed, isa),
            (Err(ComputeError::IsaNotHere { name, available }), false) => {
                assert_eq!(name, isa.name());
                assert!(available.contains("portable") && !available.split(", ").any(|a| a == name), "{available}");
            }
            other => panic!("{}: {other:?}", isa.name()),
        }
    }
}

/// `CASALLM_ISA` is read by [`Isa::detect`]: this test runs itself in a process of its own for each value.
#[test]
fn casallm_isa_is_obeyed_or_refused() {
    const CHILD: &str = "CASALLM_TEST_DETECTS";
    if std::env::var_os(CHILD).is_some() {
        match Isa::detect() {
            Ok(isa) => println!("detected={isa:?};"),
            Err(ComputeError::UnknownIsa { name, .. }) => println!("unknown={name};"),
            Err(ComputeError::IsaNotHere { name, .. }) => println!("absent={name};"),
            Err(other) => panic!("{other}"),
        }
        return;
    }
    let detect = |name: &str| {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "casallm_isa_is_obeyed_or_refused", "--nocapture"])
            .env(CHILD, "1")
            .env("CASALLM_ISA", name)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(detect("sse9").contains("unknown=sse9;"));
    assert!(detect("AVX2").contains("unknown=AVX2;"), "names are lower-case");
    for isa in Isa::ALL {
        let want = if isa.is_available() { format!("detected={isa:?};") } else { format!("absent={};", isa.name()) };
        assert!(detect(isa.name()).contains(&want), "{want}");
    }
    let best = Isa::available().last().map(|isa| format!("detected={isa:?};")).unwrap();
    assert!(detect("").contains(&best), "empty means unset");
}

#[test]
fn thread_counts_out_of_range_are_typed_errors() {
    for threads in [0, 5000] {
        match CpuDevice::new(threads, Isa::Portable) {
            Err(ComputeError::Threads { threads: said, limit: 1024 }) => assert_eq!(said, threads),
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("{threads} threads were accepted"),
        }
    }
}
