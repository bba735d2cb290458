//! Attention on the simulator: against the reference at awkward sizes, under several schedules, and with each barrier and
//! each wait deleted.

use super::*;
use crate::cuda::simulator::Simulator;
use crate::cuda::simulator::mutation::{assert_each_is_needed, assert_each_is_needed_by_one};
use crate::device::{AttentionShape, Span};
use crate::dtype::Bf16;
use crate::error::ComputeError;
use crate::reference::attention as reference;
use crate::selftest::{Check, Tolerance};

/// (n_head, n_kv_head, head_dim).
const SHAPES: [(usize, usize, usize); 7] =
    [(1, 1, 8), (6, 2, 16), (2, 1, 64), (2, 2, 128), (4, 1, 18), (3, 1, 128), (1, 1, 256)];
/// (queries, keys): whole sequences, prefill on a cache, decoding.
const SPANS: [&[(usize, usize)]; 7] = [
    &[(1, 1)],
    &[(15, 15), (1, 1), (33, 33)],
    &[(65, 65), (130, 130)],
    &[(17, 80), (70, 199)],
    &[(1, 33), (5, 300), (4, 17)],
    &[(1, 63), (33, 64), (9, 9)],
    &[(1, 1100)],
];

/// Makes the texts of tiled kernels those of a GPU with products by warpgroups.
const WARPGROUPS: &str = "#define WARPGROUPS 1\n";

/// Such a GPU.
fn with_warpgroups() -> Option<Simulator> {
    Simulator::for_test(0)?;
    let mut simulator = Simulator::new(0).expect("as above");
    for family in [Family::AttentionForward, Family::AttentionBackward] {
        simulator = simulator.with_text(family, format!("{WARPGROUPS}{}", family.text()));
    }
    Some(simulator)
}

/// Elements behind every output, which must survive.
const GUARD: usize = 16;
const GUARD_VALUE: f32 = -24576.0;

/// Normal variates (the sum of twelve uniform ones), as the storage type holds them.
fn normal(seed: &mut u64, dtype: DType, len: usize, deviation: f32) -> Vec<f32> {
    let mut uniform = || {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*seed >> 40) as f32 / (1 << 24) as f32
    };
    let value = |_| {
        let x = ((0..12).map(|_| uniform()).sum::<f32>() - 6.0) * deviation;
        if dtype == DType::Bf16 { Bf16::from_f32(x).to_f32() } else { x }
    };
    (0..len).map(value).collect()
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|x| f64::from(*x)).collect()
}

/// Memory of one run.
struct Bench<'d> {
    driver: &'d dyn Driver,
    held: Vec<(Address, usize)>,
}

impl Drop for Bench<'_> {
    fn drop(&mut self) {
        for (at, bytes) in self.held.drain(..) {
            self.driver.free(at, bytes);
        }
    }
}

impl Bench<'_> {
    fn room(&mut self, bytes: usize) -> Result<Address, ComputeError> {
        let at = self.driver.allocate(bytes)?;
        self.held.push((at, bytes));
        Ok(at)
    }

    fn put(&mut self, dtype: DType, values: &[f32]) -> Result<Address, ComputeError> {
        let bytes: Vec<u8> = match dtype {
            DType::Bf16 => values.iter().flat_map(|x| Bf16::from_f32(*x).0.to_le_bytes()).collect(),
            _ => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        };
        let at = self.room(bytes.len())?;
        self.driver.upload(at, &bytes);
        Ok(at)
    }

    /// NaN, and a guard behind it.
    fn output(&mut self, dtype: DType, len: usize) -> Result<Address, ComputeError> {
        let mut values = vec![f32::NAN; len];
        values.extend([GUARD_VALUE; GUARD]);
        self.put(dtype, &values)
    }

    /// An output with its guard.
    fn get(&self, dtype: DType, at: Address, len: usize) -> Result<Vec<f64>, ComputeError> {
        let mut bytes = vec![0; (len + GUARD) * dtype.size()];
        self.driver.download(at, &mut bytes);
        self.driver.check()?;
        Ok(match dtype {
            DType::Bf16 => bytes.as_chunks().0.iter().map(|b| Bf16(u16::from_le_bytes(*b)).to_f32().into()).collect(),
            _ => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b).into()).collect(),
        })
    }
}

/// A case with what the reference says of it.
struct Case {
    dtype: DType,
    shape: AttentionShape,
    spans: Vec<Span>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    d_out: Vec<f32>,
    out: Vec<f64>,
    lse: Vec<f64>,
    name: String,
}

impl Case {
    /// Spans with rows between them that belong to none and hold NaN.
    fn new(dtype: DType, (n_head, n_kv_head, head_dim): (usize, usize, usize), pairs: &[(usize, usize)]) -> Case {
        let shape = AttentionShape { n_head, n_kv_head, head_dim };
        let (mut spans, mut q_start, mut kv_start) = (Vec::new(), 1, 3);
        for (q_len, kv_len) in pairs.iter().copied() {
            spans.push(Span { q_start, q_len, kv_start, kv_len });
            q_start += q_len + 2;
            kv_start += kv_len + 3;
        }
        let mut seed = (n_head * 1000 + head_dim) as u64;
        let mut rows = |count: usize, width: usize, deviation, covered: fn(&Span) -> (usize, usize)| {
            let mut values = normal(&mut seed, dtype, count * width, deviation);
            for row in 0..count {
                let inside = |span: &Span| (covered(span).0..covered(span).0 + covered(span).1).contains(&row);
                if !spans.iter().any(inside) {
                    values[row * width..][..width].fill(f32::NAN);
                }
            }
            values
        };
        let queries = |span: &Span| (span.q_start, span.q_len);
        let keys = |span: &Span| (span.kv_start, span.kv_len);
        let q = rows(q_start, n_head * head_dim, 1.5, queries);
        let k = rows(kv_start, n_kv_head * head_dim, 1.5, keys);
        let v = rows(kv_start, n_kv_head * head_dim, 1.0, keys);
        let d_out = rows(q_start, n_head * head_dim, 1.0, queries);
        let reference::Attention { out, lse } = reference::forward(shape, &spans, [&wide(&q), &wide(&k), &wide(&v)]);
        let name = format!("{n_head}:{n_kv_head} heads of {head_dim}, spans {pairs:?}, {}", dtype.name());
        Case { dtype, shape, spans, q, k, v, d_out, out, lse, name }
    }

    fn compare(&self, output: &str, got: &[f64], want: &[f64], tolerance: Tolerance) -> Check {
        let case = format!("{}: {output}", self.name);
        Check::compare("attention", case, (got, f64::from(GUARD_VALUE)), want, tolerance)
    }

    fn inside(&self) -> Tolerance {
        if self.dtype == DType::Bf16 { Tolerance::BF16_INSIDE } else { Tolerance::F32_ATTENTION }
    }

    fn forward(&self, driver: &dyn Driver) -> Result<Vec<Check>, ComputeError> {
        let mut bench = Bench { driver, held: Vec::new() };
        let plan = ForwardPlan::new(self.shape, self.dtype, &self.spans);
        let bytes: Vec<u8> = plan.table().iter().flat_map(|x| x.to_le_bytes()).collect();
        let table = bench.room(bytes.len())?;
        driver.upload(table, &bytes);
        let parts = bench.room(plan.part_bytes())?;
        let (rows, len) = (self.q.len() / self.shape.head_dim, self.q.len());
        let mut operands = Forward {
            q: bench.put(self.dtype, &self.q)?,
            k: bench.put(self.dtype, &self.k)?,
            v: bench.put(self.dtype, &self.v)?,
            out: bench.output(self.dtype, len)?,
            lse: Some(bench.output(DType::F32, rows)?),
        };
        forward(driver, &plan, table, parts, &operands);
        let out = bench.get(self.dtype, operands.out, len)?;
        let lse = bench.get(DType::F32, operands.lse.expect("set above"), rows)?;
        operands.lse = None;
        operands.out = bench.output(self.dtype, len)?;
        forward(driver, &plan, table, parts, &operands);
        let alone = bench.get(self.dtype, operands.out, len)?;
        Ok(vec![
            self.compare("out", &out, &self.out, self.inside()),
            self.compare("lse", &lse, &self.lse, Tolerance::F32_ATTENTION),
            self.compare("out without lse", &alone, &self.out, self.inside()),
        ])
    }

    fn backward(&self, driver: &dyn Driver) -> Result<Vec<Check>, ComputeError> {
        let round = |x: &f64| if self.dtype == DType::Bf16 { Bf16::from_f32(*x as f32).to_f32() } else { *x as f32 };
        let out: Vec<f32> = self.out.iter().map(round).collect();
        let lse: Vec<f32> = self.lse.iter().map(|x| *x as f32).collect();
        let inputs = [wide(&self.q), wide(&self.k), wide(&self.v)];
        let want = reference::backward(
            self.shape,
            &self.spans,
            inputs.each_ref().map(|x| x.as_slice()),
            &wide(&out),
            &wide(&self.d_out),
        );
        let mut bench = Bench { driver, held: Vec::new() };
        let plan = BackwardPlan::new(self.shape, self.dtype, &self.spans);
        let bytes: Vec<u8> = plan.table().iter().flat_map(|x| x.to_le_bytes()).collect();
        let table = bench.room(bytes.len())?;
        driver.upload(table, &bytes);
        let delta = bench.put(DType::F32, &vec![f32::NAN; lse.len()])?;
        let operands = Backward {
            q: bench.put(self.dtype, &self.q)?,
            k: bench.put(self.dtype, &self.k)?,
            v: bench.put(self.dtype, &self.v)?,
            out: bench.put(self.dtype, &out)?,
            lse: bench.put(DType::F32, &lse)?,
            d_out: bench.put(self.dtype, &self.d_out)?,
            dq: bench.output(self.dtype, self.q.len())?,
            dk: bench.output(self.dtype, self.k.len())?,
            dv: bench.output(self.dtype, self.v.len())?,
        };
        backward(driver, &plan, table, delta, &operands);
        let got = [(operands.dq, self.q.len()), (operands.dk, self.k.len()), (operands.dv, self.v.len())];
        let mut checks = Vec::new();
        for (((at, len), want), output) in got.into_iter().zip(&want).zip(["dq", "dk", "dv"]) {
            checks.push(self.compare(output, &bench.get(self.dtype, at, len)?, want, self.inside()));
        }
        Ok(checks)
    }
}

/// Runs a case under several schedules: each must pass and all must agree to the bit.
fn hold(simulator: &Simulator, seeds: std::ops::Range<u64>, run: impl Fn() -> Result<Vec<Check>, ComputeError>) {
    let mut first: Option<Vec<u64>> = None;
    for seed in seeds {
        simulator.reseed(seed);
        let checks = run().unwrap();
        for check in &checks {
            assert!(check.passed, "seed {seed}: {check:?}");
        }
        let prints: Vec<u64> = checks.iter().map(|check| check.fingerprint).collect();
        assert_eq!(*first.get_or_insert_with(|| prints.clone()), prints, "seed {seed}: {}", checks[0].case);
    }
}

fn forward_holds(dtype: DType) {
    let Some(simulator) = Simulator::for_test(0) else { return };
    for shape in SHAPES {
        for (i, pairs) in SPANS.into_iter().enumerate() {
            let case = Case::new(dtype, shape, pairs);
            // The seed that is 3 modulo 4 lets copies land early.
            hold(&simulator, i as u64 + 2..i as u64 + 4, || case.forward(&*simulator));
        }
    }
}

fn backward_holds(dtype: DType) {
    let Some(simulator) = Simulator::for_test(0) else { return };
    for shape in SHAPES {
        for (i, lengths) in [&[1][..], &[17], &[15, 1, 33, 2], &[65, 150]].into_iter().enumerate() {
            let pairs: Vec<(usize, usize)> = lengths.iter().map(|n| (*n, *n)).collect();
            let case = Case::new(dtype, shape, &pairs);
            hold(&simulator, i as u64 + 2..i as u64 + 4, || case.backward(&*simulator));
        }
    }
}

#[test]
fn forward_bf16_holds_to_the_reference() {
    forward_holds(DType::Bf16);
}

#[test]
fn products_by_warpgroups_hold_to_the_reference() {
    let Some(simulator) = with_warpgroups() else { return };
    for shape in [(1, 1, 64), (4, 2, 64)] {
        for pairs in [&[(1, 1)][..], &[(17, 17)], &[(15, 15), (129, 129), (33, 33)], &[(65, 65), (300, 300)]] {
            let case = Case::new(DType::Bf16, shape, pairs);
            hold(&simulator, 2..4, || case.forward(&simulator));
            hold(&simulator, 2..4, || case.backward(&simulator));
        }
        let case = Case::new(DType::Bf16, shape, &[(17, 80), (70, 199)]);
        hold(&simulator, 2..4, || case.forward(&simulator));
    }
}

#[test]
fn forward_f32_holds_to_the_reference() {
    forward_holds(DType::F32);
}

#[test]
fn backward_bf16_holds_to_the_reference() {
    backward_holds(DType::Bf16);
}

#[test]
fn backward_f32_holds_to_the_reference() {
    backward_holds(DType::F32);
}

/// What a sequence gets does not depend on who is decoded beside it, as long as a cache is not cut further for that.
#[test]
fn a_span_alone_equals_the_span_in_a_batch() {
    let Some(simulator) = Simulator::for_test(5) else { return };
    for head_dim in [64, 18] {
        let batch = Case::new(DType::Bf16, (4, 2, head_dim), &[(1, 300), (70, 90), (3, 64)]);
        let together = {
            let checks = batch.forward(&*simulator).unwrap();
            assert!(checks.iter().all(|check| check.passed), "{checks:?}");
            checks[0].fingerprint
        };
        let mut bench = Bench { driver: &*simulator, held: Vec::new() };
        let operands = Forward {
            q: bench.put(batch.dtype, &batch.q).unwrap(),
            k: bench.put(batch.dtype, &batch.k).unwrap(),
            v: bench.put(batch.dtype, &batch.v).unwrap(),
            out: bench.output(batch.dtype, batch.q.len()).unwrap(),
            lse: None,
        };
        for span in &batch.spans {
            let plan = ForwardPlan::new(batch.shape, batch.dtype, &[*span]);
            let bytes: Vec<u8> = plan.table().iter().flat_map(|x| x.to_le_bytes()).collect();
            let table = bench.room(bytes.len()).unwrap();
            simulator.upload(table, &bytes);
            let parts = bench.room(plan.part_bytes()).unwrap();
            forward(&*simulator, &plan, table, parts, &operands);
        }
        let apart = bench.get(batch.dtype, operands.out, batch.q.len()).unwrap();
        let apart = batch.compare("out", &apart, &batch.out, batch.inside());
        assert_eq!(apart.fingerprint, together, "heads of {head_dim}");
    }
}

fn verdict(checks: Result<Vec<Check>, ComputeError>) -> Result<(), String> {
    for check in checks.map_err(|error| error.to_string())? {
        if !check.passed {
            return Err(format!("{}: {}", check.case, check.detail));
        }
    }
    Ok(())
}

const STATEMENTS: [&str; 3] = ["__syncthreads();", "copy_async_wait<0>();", "__syncwarp();"];
const PRODUCTS: [&str; 3] = ["warpgroup_wait<0>();", "warpgroup_wait<1>();", "warpgroup_wait<2>();"];

#[test]
fn each_barrier_of_the_tiled_forward_kernel_is_needed() {
    if Simulator::for_test(0).is_none() {
        return;
    }
    let case = Case::new(DType::Bf16, (1, 1, 64), &[(150, 150), (40, 200)]);
    let each = |statements: &[&str]| {
        assert_each_is_needed_by_one(Family::AttentionForward, &[WARPGROUPS, ""], statements, 0..6, |simulator| {
            verdict(case.forward(&**simulator))
        })
    };
    assert_eq!(each(&STATEMENTS), 5 + 4 + 1);
    assert_eq!(each(&PRODUCTS), 2 + 1);
}

#[test]
fn each_barrier_of_the_tiled_backward_kernels_is_needed() {
    if Simulator::for_test(0).is_none() {
        return;
    }
    let case = Case::new(DType::Bf16, (1, 1, 64), &[(300, 300), (200, 200)]);
    let each = |statements: &[&str]| {
        let definitions = [WARPGROUPS, ""];
        assert_each_is_needed_by_one(Family::AttentionBackward, &definitions, statements, 0..4, |simulator| {
            verdict(case.backward(&**simulator))
        })
    };
    assert_eq!(each(&STATEMENTS), 4 + 1 + 1);
    assert_eq!(each(&PRODUCTS), 4 + 1 + 2);
    assert_eq!(each(&["arrive();"]), 6);
}

#[test]
fn each_barrier_of_the_row_kernels_is_needed() {
    if Simulator::for_test(0).is_none() {
        return;
    }
    let case = Case::new(DType::Bf16, (3, 1, 128), &[(5, 300), (1, 270)]);
    let count = assert_each_is_needed(Family::AttentionRows, &STATEMENTS, 0..6, |simulator| {
        verdict(case.forward(&**simulator))
    });
    assert_eq!(count, 3 + 3);
    let case = Case::new(DType::F32, (2, 1, 80), &[(70, 70)]);
    let count = assert_each_is_needed(Family::AttentionRowsBackward, &STATEMENTS, 0..6, |simulator| {
        verdict(case.backward(&**simulator))
    });
    assert_eq!(count, 2 + 2);
}
