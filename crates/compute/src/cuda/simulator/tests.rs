//! The simulator does what it says, above all: it notices.

use super::mutation::{assert_each_is_needed, without_each};
use super::*;
use crate::cuda::driver::Operand;
use crate::cuda::probe;
use crate::dtype::DType;
use crate::selftest::Check;

const SEEDS: std::ops::Range<u64> = 0..8;

fn verdict(check: Result<Check, ComputeError>) -> Result<(), String> {
    let check = check.map_err(|error| error.to_string())?;
    if check.passed { Ok(()) } else { Err(format!("{}: {}", check.case, check.detail)) }
}

/// Runs a text as the probe family; `arguments` are made from one buffer of 4096 floats.
fn run_text(seed: u64, text: &str, entry: &'static str, launch: Launch) -> Result<Vec<f32>, String> {
    let simulator = Simulator::new(seed).unwrap().with_text(Family::Probe, text.into());
    let at = simulator.allocate(4 * 4096).unwrap();
    let kernel = Kernel { family: Family::Probe, storage: None, defines: &[], entry };
    simulator.launch(kernel, launch, &[at.into()]);
    let mut bytes = vec![0; 4 * 4096];
    simulator.download(at, &mut bytes);
    let result = simulator.check().map_err(|error| error.to_string());
    simulator.free(at, 4 * 4096);
    result.map(|()| bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
}

fn error_of(text: &str, launch: Launch) -> String {
    match run_text(1, text, "kernel", launch) {
        Ok(_) => panic!("no error was reported"),
        Err(error) => error,
    }
}

#[test]
fn every_primitive_does_what_the_manuals_say() {
    let Some(simulator) = Simulator::for_test(0) else { return };
    for seed in SEEDS {
        simulator.reseed(seed);
        for check in probe::run(&*simulator).unwrap() {
            assert!(check.passed, "seed {seed}: {check:?}");
        }
    }
}

#[test]
fn products_by_warpgroups_are_what_they_say() {
    let Ok(simulator) = Simulator::new(0) else { return };
    let simulator = simulator.with_text(Family::Probe, format!("#define WARPGROUPS 1\n{}", Family::Probe.text()));
    for seed in SEEDS {
        simulator.reseed(seed);
        for check in probe::run(&simulator).unwrap() {
            assert!(check.passed, "seed {seed}: {check:?}");
        }
    }
}

#[test]
fn each_missing_barrier_is_noticed() {
    if Simulator::for_test(0).is_none() {
        return;
    }
    let barriers = assert_each_is_needed(Family::Probe, &["__syncthreads();"], SEEDS, |simulator| {
        // All that have barriers; a mutant of one leaves the others as they are.
        for check in probe::run(&**simulator).map_err(|error| error.to_string())? {
            verdict(Ok(check))?;
        }
        Ok(())
    });
    assert_eq!(barriers, 5);
    let warp_barriers = assert_each_is_needed(Family::Probe, &["__syncwarp();"], SEEDS, |simulator| {
        verdict(probe::syncwarp(&**simulator))
    });
    assert_eq!(warp_barriers, 1);
}

#[test]
fn copies_that_are_read_early_are_noticed() {
    if Simulator::for_test(0).is_none() {
        return;
    }
    let waits = assert_each_is_needed(Family::Probe, &["copy_async_wait<1>();"], SEEDS, |simulator| {
        probe::run(&**simulator)
            .map_err(|error| error.to_string())?
            .into_iter()
            .try_for_each(|check| verdict(Ok(check)))
    });
    assert_eq!(waits, 1);
    // One group too many left on its way.
    let text = Family::Probe.text().replace("copy_async_wait<1>();", "copy_async_wait<2>();");
    let simulator = Simulator::new(0).unwrap().with_text(Family::Probe, text);
    assert!(probe::run(&simulator).unwrap().iter().any(|check| check.case.starts_with("cp.async") && !check.passed));
}

#[test]
fn mutants_leave_comments_alone() {
    let text = "a; // wait();\nwait();\n  wait(); b;\n";
    let mutants = without_each(text, "wait();");
    assert_eq!(mutants.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(mutants[1].1, "a; // wait();\nwait();\n  ; b;\n");
}

#[test]
fn a_barrier_that_not_all_reach_is_reported() {
    if Simulator::for_test(0).is_none() {
        return;
    }
    // Half of the threads wait at the barrier, the others at a warp operation for lanes that are at the barrier.
    let text = "extern \"C\" __global__ __launch_bounds__(64) void kernel(float* x) {
        if (threadIdx.x % 2) { __syncthreads(); } else { x[threadIdx.x] = warp_sum(1.0f); }
    }";
    let error = error_of(text, Launch::linear(1, 64));
    assert!(
        error.contains("deadlock") && error.contains("32 wait at __syncthreads, 32 at a warp operation"),
        "{error}"
    );
}

#[test]
fn threads_that_leave_early_are_not_waited_for() {
    if Simulator::for_test(0).is_none() {
        return;
    }
    let text = "extern \"C\" __global__ __launch_bounds__(96) void kernel(float* x) {
        SHARED_MEMORY(float, y);
        y[threadIdx.x] = threadIdx.x;
        if (threadIdx.x >= 64) { return; }
        __syncthreads();
        x[threadIdx.x] = warp_sum(y[63 - threadIdx.x]);
    }";
    for seed in SEEDS {
        let launch = Launch::linear(1, 96).with_shared(96 * 4);
        let x = run_text(seed, text, "kernel", launch).unwrap();
        assert_eq!((x[0], x[32], x[64]), (1520.0, 496.0, 0.0));
    }
}

#[test]
fn operations_that_differ_within_a_warp_are_reported() {
    if Simulator::for_test(0).is_none() {
        return;
    }
    let text = "extern \"C\" __global__ __launch_bounds__(32) void kernel(float* x) {
        if (threadIdx.x < 3) { __syncwarp(); } else { x[threadIdx.x] = __shfl_xor_sync(ALL_LANES, 1.0f, 1); }
    }";
    let error = error_of(text, Launch::linear(1, 32));
    assert!(error.contains("lanes of one warp are at different operations"), "{error}");
}

#[test]
fn shared_memory_starts_as_nan_and_ends_where_it_ends() {
    if Simulator::for_test(0).is_none() {
        return;
    }
    let text = "extern \"C\" __global__ __launch_bounds__(64) void kernel(float* x) {
        SHARED_MEMORY(float, y);
        x[blockIdx.x * 64 + threadIdx.x] = y[threadIdx.x];
        y[threadIdx.x] = 1.0f;
    }";
    let x = run_text(1, text, "kernel", Launch::linear(3, 64).with_shared(256)).unwrap();
    assert!(x[..192].iter().all(|x| x.is_nan()), "also in the second block");
    let error = error_of(text, Launch::linear(1, 64).with_shared(240));
    assert!(error.contains("of shared memory of 240 bytes"), "{error}");
    let error = error_of(text, Launch::linear(1, 64).with_shared(100 << 10));
    assert!(error.contains("a block may have 101376"), "{error}");
    let before = text.replace("y[threadIdx.x] = 1.0f", "y[-1] = 1.0f");
    let error = error_of(&before, Launch::linear(1, 64).with_shared(256));
    assert!(error.contains("before the start of shared memory"), "{error}");
}

#[test]
fn memory_of_no_one_is_reported_and_not_touched() {
    if Simulator::for_test(0).is_none() {
        return;
    }
    let text = |index: &str| {
        format!("extern \"C\" __global__ __launch_bounds__(32) void kernel(float* x) {{ x[{index}] = 1.0f; }}")
    };
    assert!(run_text(1, &text("4095"), "kernel", Launch::linear(1, 32)).is_ok());
    // Where the next allocation would begin, in the page behind.
    let error = error_of(&text("4096"), Launch::linear(1, 32));
    assert!(error.contains("not the device's memory"), "{error}");
    let error = error_of(&text("-1"), Launch::linear(1, 32));
    assert!(error.contains("written before the start"), "{error}");
    let vector = "extern \"C\" __global__ __launch_bounds__(32) void kernel(float* x) {
        float4* at = (float4*)(x + 1);
        *at = make_float4(threadIdx.x, 2, 3, 4);
    }";
    let error = error_of(vector, Launch::linear(1, 32));
    assert!(error.contains("misaligned"), "{error}");
    let deep = "DEVICE float deeper(float* x, u32 n) {
        volatile float big[1000];
        big[n % 1000] = n;
        return n == 0 ? x[0] : big[n % 1000] + deeper(x, n - 1);
    }
    extern \"C\" __global__ __launch_bounds__(32) void kernel(float* x) { x[1] = deeper(x, 1000 + (u32)x[0]); }";
    let error = error_of(deep, Launch::linear(1, 32));
    assert!(error.contains("not the device's memory"), "{error}");
}

#[test]
fn calls_that_do_not_fit_the_signature_are_reported() {
    let Some(simulator) = Simulator::for_test(0) else { return };
    let at = simulator.allocate(1024).unwrap();
    let kernel = |entry| Kernel { family: Family::Probe, storage: None, defines: &[], entry };
    let error = |simulator: Simulator, entry, launch, arguments: &[Argument]| {
        simulator.launch(kernel(entry), launch, arguments);
        simulator.check().unwrap_err().to_string()
    };
    let fresh = || Simulator::new(0).unwrap();
    let one_warp = Launch::linear(1, 32);
    let text = error(fresh(), "probe_none", one_warp, &[]);
    assert!(text.contains("no such entry"), "{text}");
    let text = error(fresh(), "probe_mma", one_warp, &[Argument::U32(1)]);
    assert!(text.contains("called with 1 arguments, not 3"), "{text}");
    let null = Argument::Pointer(Address::NULL);
    let text = error(fresh(), "probe_transpose", one_warp, &[null, null, Argument::F32(1.0)]);
    assert!(text.contains("argument 2 is a float, not a u32"), "{text}");
    let text = error(fresh(), "probe_mma", Launch::linear(1, 64), &[null, null, null]);
    assert!(text.contains("blocks of 64 threads where __launch_bounds__ says 32"), "{text}");
    let text = error(fresh(), "probe_mma", Launch::linear(0, 32), &[null, null, null]);
    assert!(text.contains("a grid of 0 x 1 x 1"), "{text}");
    // Another simulator's memory.
    let text = error(fresh(), "probe_mma", one_warp, &[at.into(), at.into(), at.into()]);
    assert!(text.contains("lies in no allocation"), "{text}");
}

#[test]
fn the_first_error_stays_and_what_follows_does_nothing() {
    let Some(simulator) = Simulator::for_test(0) else { return };
    let at = simulator.allocate(8).unwrap();
    simulator.upload(at, &[1; 8]);
    simulator.upload(at, &[2; 9]);
    let first = simulator.check().unwrap_err().to_string();
    assert!(first.contains("upload") && first.contains("9 bytes"), "{first}");
    simulator.upload(at, &[3; 8]);
    simulator.zero(at, 1 << 20);
    assert_eq!(simulator.check().unwrap_err().to_string(), first);
    let mut bytes = [7; 8];
    simulator.download(at, &mut bytes);
    assert_eq!(bytes, [7; 8], "not even the download");
    assert!(simulator.allocate(8).is_err());
}

/// The same seed gives the same schedule: a racing kernel repeats, and other seeds show other outcomes.
#[test]
fn a_seed_is_a_schedule() {
    if Simulator::for_test(0).is_none() {
        return;
    }
    let text = "extern \"C\" __global__ __launch_bounds__(128) void kernel(float* x) {
        SHARED_MEMORY(float, last);
        __syncwarp();
        last[0] = threadIdx.x + 1000 * blockIdx.x;
        __syncthreads();
        x[0] = last[0];
        x[1 + blockIdx.x * 128 + threadIdx.x] = last[0];
    }";
    let run = |seed| run_text(seed, text, "kernel", Launch::linear(5, 128).with_shared(16)).unwrap();
    let all: Vec<Vec<f32>> = SEEDS.map(run).collect();
    assert_eq!(all[3], run(3));
    assert!(all.iter().any(|x| x[1] != all[0][1]), "the last thread to write varies");
    assert!(all.iter().any(|x| x[0] as u32 / 1000 != all[0][0] as u32 / 1000), "the last block varies");
}

#[test]
fn products_follow_strides_and_transpositions() {
    let Some(simulator) = Simulator::for_test(0) else { return };
    let put = |values: &[f32]| {
        let at = simulator.allocate(4 * values.len()).unwrap();
        simulator.upload(at, &values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>());
        at
    };
    // a = [[1, 2, 3], [4, 5, 6]] transposed with a gap, b = [[1, 0], [0, 1], [2, 2]].
    let a = put(&[1.0, 4.0, 99.0, 2.0, 5.0, 99.0, 3.0, 6.0]);
    let (b, c, bias) = (put(&[1.0, 0.0, 0.0, 1.0, 2.0, 2.0]), put(&[10.0, 20.0, 30.0, 40.0]), put(&[0.5, -0.5]));
    let operand = |address, transposed, row_stride| Operand { address, dtype: DType::F32, transposed, row_stride };
    let mut matmul = Matmul {
        m: 2,
        n: 2,
        k: 3,
        a: operand(a, true, 3),
        b: operand(b, false, 2),
        c: operand(c, false, 2),
        beta: 1.0,
        bias: Some(bias),
    };
    let read = || {
        let mut bytes = [0; 16];
        simulator.download(c, &mut bytes);
        simulator.check().unwrap();
        bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect::<Vec<_>>()
    };
    simulator.matmul(&matmul);
    assert_eq!(read(), [17.5, 27.5, 46.5, 56.5]);
    (matmul.beta, matmul.bias) = (0.0, None);
    simulator.matmul(&matmul);
    assert_eq!(read(), [7.0, 8.0, 16.0, 17.0]);
    matmul.a.row_stride = 4;
    simulator.matmul(&matmul);
    assert!(simulator.check().unwrap_err().to_string().contains("matmul"), "a is read past its end");
}
