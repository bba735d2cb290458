//! Products on the fake cuBLASLt, which knows column-major matrices only: descriptors, biases, and the choice of algorithms.

use super::super::error::CudaError;
use super::super::{NvidiaDriver, NvidiaSettings};
use super::fakes::Machine;
use super::{bytes, download};
use crate::cuda::driver::{Address, Driver, Fp8Matmul, Fp8Operand, Matmul, Operand};
use crate::dtype::{Bf16, DType};
use crate::error::ComputeError;
use crate::fp8::Fp8;

/// Small whole numbers: every sum is exact in f32, and bf16 rounds a result once.
fn values(count: usize, seed: u64) -> Vec<f32> {
    bytes(count, seed).into_iter().map(|byte| f32::from(byte % 9) - 4.0).collect()
}

fn encode(values: &[f32], dtype: DType) -> Vec<u8> {
    match dtype {
        DType::Bf16 => values.iter().flat_map(|x| Bf16::from_f32(*x).0.to_le_bytes()).collect(),
        _ => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
    }
}

fn decode(bytes: &[u8], dtype: DType) -> Vec<f32> {
    match dtype {
        DType::Bf16 => bytes.as_chunks::<2>().0.iter().map(|b| Bf16(u16::from_le_bytes(*b)).to_f32()).collect(),
        _ => bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
    }
}

/// A matrix in a device's memory, `gap` elements between its rows and `shift` in front of it.
struct Placed {
    operand: Operand,
    values: Vec<f32>,
    rows: usize,
    columns: usize,
}

impl Placed {
    fn new(driver: &NvidiaDriver, dtype: DType, (rows, columns): (usize, usize), transposed: bool, seed: u64) -> Self {
        let (gap, shift) = (seed as usize % 3, seed as usize % 2);
        let (outer, inner) = if transposed { (columns, rows) } else { (rows, columns) };
        let row_stride = inner + gap;
        let values = values(outer * row_stride, seed);
        let encoded = encode(&values, dtype);
        let address = driver.allocate(encoded.len() + 8).unwrap().offset(shift * dtype.size());
        driver.upload(address, &encoded);
        Placed { operand: Operand { address, dtype, transposed, row_stride }, values, rows, columns }
    }

    fn at(&self, row: usize, column: usize) -> f32 {
        let (outer, inner) = if self.operand.transposed { (column, row) } else { (row, column) };
        self.values[outer * self.operand.row_stride + inner]
    }

    fn read(&self, driver: &NvidiaDriver) -> Vec<f32> {
        decode(
            &download(driver, self.operand.address, self.values.len() * self.operand.dtype.size()),
            self.operand.dtype,
        )
    }
}

/// One product against a plain loop; what lies between the rows of the result must not change.
fn check(
    driver: &NvidiaDriver,
    dtypes: (DType, DType),
    transposed: (bool, bool),
    beta: f32,
    with_bias: bool,
    seed: u64,
) {
    let (m, n, k) = (2 + seed as usize % 5, 1 + seed as usize % 7, 1 + seed as usize % 6);
    let a = Placed::new(driver, dtypes.0, (m, k), transposed.0, seed + 1);
    let b = Placed::new(driver, dtypes.0, (k, n), transposed.1, seed + 2);
    let c = Placed::new(driver, dtypes.1, (m, n), false, seed + 3);
    let bias = values(n, seed + 4);
    let bias_at = driver.allocate(4 * n).unwrap();
    driver.upload(bias_at, &encode(&bias, DType::F32));
    let matmul = Matmul { m, n, k, a: a.operand, b: b.operand, c: c.operand, beta, bias: with_bias.then_some(bias_at) };
    // Twice: planned, and from the plan. What is added is added twice.
    for _ in 0..2 {
        driver.matmul(&matmul);
    }
    driver.check().unwrap();
    let mut want = c.values.clone();
    for row in 0..c.rows {
        for column in 0..c.columns {
            let product: f32 = (0..k).map(|i| a.at(row, i) * b.at(i, column)).sum();
            let sum = product + if with_bias { bias[column] } else { 0.0 };
            let place = &mut want[row * c.operand.row_stride + column];
            *place = if beta == 0.0 { sum } else { *place + 2.0 * sum };
        }
    }
    assert_eq!(c.read(driver), want, "{m} x {n} x {k}, {dtypes:?}, {transposed:?}, beta {beta}, bias {with_bias}");
}

#[test]
fn every_kind_of_product_is_what_a_plain_loop_says() {
    let machine = Machine::new();
    // Two ways of adding the bias: by the epilogue, by a kernel.
    for epilogues in [1, 0] {
        machine.set("cublaslt", "fake_epilogues", epilogues);
        let driver = machine.open().unwrap();
        let mut seed = 0;
        for dtypes in [(DType::F32, DType::F32), (DType::Bf16, DType::Bf16), (DType::Bf16, DType::F32)] {
            for transposed in [(false, false), (false, true), (true, false), (true, true)] {
                for beta in [0.0, 1.0] {
                    for with_bias in [false, true] {
                        seed += 1;
                        check(&driver, dtypes, transposed, beta, with_bias, seed);
                    }
                }
            }
        }
    }
}

/// Bits must not depend on what a version of the library can do.
#[test]
fn a_bf16_result_takes_the_bias_rounded_to_bf16_either_way() {
    let machine = Machine::new();
    for epilogues in [1, 0] {
        machine.set("cublaslt", "fake_epilogues", epilogues);
        let driver = machine.open().unwrap();
        let place = |dtype, values: &[f32]| {
            let at = driver.allocate(64).unwrap();
            driver.upload(at, &encode(values, dtype));
            Operand { address: at, dtype, transposed: false, row_stride: 2 }
        };
        let (a, b) = (place(DType::Bf16, &[1.0, 2.0, 3.0, 4.0]), place(DType::Bf16, &[1.0, 0.0, 0.0, 1.0]));
        let (c, wide) = (place(DType::Bf16, &[f32::NAN; 4]), place(DType::F32, &[10.0; 4]));
        // Between two bf16: 1 + 2^-8 rounds to 1, and 2^-8 alone is one. Rounded after the sum instead, the second would be lost
        // with 2 and 4.
        let bias = place(DType::F32, &[1.0 + f32::powi(2.0, -8), f32::powi(2.0, -8)]).address;
        let matmul = Matmul { m: 2, n: 2, k: 2, a, b, c, beta: 0.0, bias: Some(bias) };
        driver.matmul(&matmul);
        driver.matmul(&Matmul { c: wide, beta: 1.0, ..matmul });
        let got = decode(&download(&driver, c.address, 8), DType::Bf16);
        assert_eq!(got, [2.0, 2.0, 4.0, 4.0], "epilogues {epilogues}");
        let exact = f32::powi(2.0, -8);
        let got = decode(&download(&driver, wide.address, 16), DType::F32);
        assert_eq!(got, [12.0 + exact, 12.0 + exact, 14.0 + exact, 14.0 + exact], "in f32 nothing is rounded");
        driver.check().unwrap();
    }
}

#[test]
fn sums_of_rows_come_with_the_product_or_not_at_all() {
    let machine = Machine::new();
    for (offered, dtype) in [(1, DType::Bf16), (1, DType::F32), (0, DType::Bf16)] {
        machine.set("cublaslt", "fake_row_sums", offered);
        let driver = machine.open().unwrap();
        // As a weight gradient has it: the left operand lies transposed, and the result is added to.
        let (a, b) = (Placed::new(&driver, dtype, (5, 7), true, 1), Placed::new(&driver, dtype, (7, 3), false, 2));
        let c = Placed::new(&driver, DType::F32, (5, 3), false, 3);
        let sums = Placed::new(&driver, DType::F32, (1, 5), false, 4);
        let (m, n, k) = (5, 3, 7);
        let matmul = Matmul { m, n, k, a: a.operand, b: b.operand, c: c.operand, beta: 1.0, bias: None };
        for _ in 0..2 {
            assert_eq!(driver.matmul_with_row_sums(&matmul, sums.operand.address), offered == 1);
        }
        driver.check().unwrap();
        let (mut want, mut want_sums) = (c.values.clone(), sums.values.clone());
        if offered == 1 {
            for row in 0..m {
                want_sums[row] = (0..k).map(|i| a.at(row, i)).sum();
                for column in 0..n {
                    let product: f32 = (0..k).map(|i| a.at(row, i) * b.at(i, column)).sum();
                    want[row * c.operand.row_stride + column] += 2.0 * product;
                }
            }
        }
        assert_eq!((c.read(&driver), sums.read(&driver)), (want, want_sums), "{dtype:?}, offered {offered}");
    }
}

/// 8-bit operands as the library wants them: its first one transposed, both with their scales.
#[test]
fn products_of_8_bit_operands_are_what_a_plain_loop_says() {
    let machine = Machine::new();
    let (m, n, k) = (5, 32, 48);
    let mut seed = 0;
    for epilogues in [1, 0] {
        machine.set("cublaslt", "fake_epilogues", epilogues);
        let driver = machine.open().unwrap();
        for (formats, dtype, beta, with_bias) in [
            ((Fp8::E4m3, Fp8::E4m3), DType::Bf16, 0.0, true),
            ((Fp8::E4m3, Fp8::E4m3), DType::F32, 1.0, true),
            ((Fp8::E5m2, Fp8::E4m3), DType::Bf16, 0.0, false),
        ] {
            seed += 10;
            let codes = |format: Fp8, rows: usize, scale: f32, seed| {
                let codes: Vec<u8> = values(rows * k, seed).into_iter().map(|x| format.encode(x)).collect();
                let (address, at) = (driver.allocate(codes.len()).unwrap(), driver.allocate(4).unwrap());
                driver.upload(address, &codes);
                driver.upload(at, &scale.to_le_bytes());
                let values: Vec<f32> = codes.iter().map(|code| format.decode(*code) * scale).collect();
                (Fp8Operand { address, format, scale: at }, values)
            };
            let (a, left) = codes(formats.0, m, 0.5, seed);
            let (b, right) = codes(formats.1, n, 2.0, seed + 1);
            let c = Placed::new(&driver, dtype, (m, n), false, seed + 2);
            let bias = values(n, seed + 3);
            let at = driver.allocate(4 * n).unwrap();
            driver.upload(at, &encode(&bias, DType::F32));
            let bias_at = with_bias.then_some(at);
            driver.matmul_fp8(&Fp8Matmul { m, n, k, a, b, c: c.operand, beta, bias: bias_at });
            driver.check().unwrap();
            let mut want = c.values.clone();
            for row in 0..m {
                for column in 0..n {
                    let product: f32 = (0..k).map(|i| left[row * k + i] * right[column * k + i]).sum();
                    let place = &mut want[row * c.operand.row_stride + column];
                    *place = beta * *place + product + if with_bias { bias[column] } else { 0.0 };
                }
            }
            let want = decode(&encode(&want, dtype), dtype);
            assert_eq!(c.read(&driver), want, "{formats:?}, {dtype:?}, beta {beta}, epilogues {epilogues}");
        }
    }
}

#[test]
fn products_of_8_bit_operands_begin_with_ada() {
    for (major, minor, has) in [(8, 0, false), (8, 6, false), (8, 9, true), (9, 0, true), (12, 0, true)] {
        let machine = Machine::new();
        machine.set("cuda", "fake_major", major);
        machine.set("cuda", "fake_minor", minor);
        assert_eq!(machine.open().unwrap().has_fp8(), has, "{major}.{minor}");
    }
}

/// A product of `m` rows without bias; its operands are left to the driver's end.
fn product(driver: &NvidiaDriver, m: usize, beta: f32) -> Matmul {
    let place = |dtype, shape, transposed| Placed::new(driver, dtype, shape, transposed, 6).operand;
    let matmul = Matmul {
        m,
        n: 5,
        k: 3,
        a: place(DType::Bf16, (m, 3), false),
        b: place(DType::Bf16, (3, 5), true),
        c: place(DType::F32, (m, 5), false),
        beta,
        bias: None,
    };
    driver.matmul(&matmul);
    driver.check().unwrap();
    matmul
}

fn runs(machine: &Machine) -> [i32; 8] {
    let now = machine.get("cublaslt", "fake_runs");
    machine.set("cublaslt", "fake_runs", [0_i32; 8]);
    now
}

fn asked(machine: &Machine) -> i32 {
    machine.get("cublaslt", "fake_heuristics")
}

#[test]
fn the_fastest_algorithm_is_found_once_and_taken_ever_after() {
    let machine = Machine::new();
    for beta in [0.0, 1.0] {
        let driver = machine.open().unwrap();
        let before = asked(&machine);
        let matmul = product(&driver, 4, beta);
        // Each candidate to warm up and thrice; then the fastest, the third.
        assert_eq!(runs(&machine), [4, 4, 5, 0, 0, 0, 0, 0], "beta {beta}");
        for _ in 0..3 {
            driver.matmul(&matmul);
        }
        assert_eq!(runs(&machine), [0, 0, 3, 0, 0, 0, 0, 0]);
        drop(driver);
        // The next process does not time, although now another would win.
        machine.set("cublaslt", "fake_times", [1.0_f32, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0]);
        let driver = machine.open().unwrap();
        product(&driver, 4, beta);
        assert_eq!((runs(&machine), asked(&machine)), ([0, 0, 1, 0, 0, 0, 0, 0], before + 1));
        machine.set("cublaslt", "fake_times", [3.0_f32, 2.0, 1.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
    }
}

#[test]
fn nothing_is_left_of_plans_and_choices() {
    let machine = Machine::new();
    let driver = machine.open().unwrap();
    let (a, c) = (driver.allocate(64).unwrap(), driver.allocate(64).unwrap());
    let operand = |address, transposed| Operand { address, dtype: DType::F32, transposed, row_stride: 4 };
    for (transposed, beta) in [(false, 0.0), (true, 1.0)] {
        let (a, b, c) = (operand(a, transposed), operand(a, false), operand(c, false));
        driver.matmul(&Matmul { m: 4, n: 4, k: 4, a, b, c, beta, bias: Some(a.address) });
    }
    driver.check().unwrap();
    driver.free(a, 64);
    driver.free(c, 64);
    drop(driver);
    machine.assert_empty();
}

#[test]
fn a_difference_of_chance_changes_nothing() {
    let machine = Machine::new();
    machine.set("cublaslt", "fake_times", [1.0_f32, 0.98, 0.99, 4.0, 5.0, 6.0, 7.0, 8.0]);
    let driver = machine.open().unwrap();
    product(&driver, 4, 0.0);
    assert_eq!(runs(&machine), [5, 4, 4, 0, 0, 0, 0, 0]);
}

#[test]
fn without_timing_the_librarys_first_is_taken() {
    let machine = Machine::new();
    let driver = machine.open_with(NvidiaSettings { untimed: true, ..NvidiaSettings::default() }).unwrap();
    product(&driver, 4, 0.0);
    assert_eq!(runs(&machine), [1, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn neighbouring_sizes_share_an_algorithm_and_distant_ones_do_not() {
    let machine = Machine::new();
    let driver = machine.open().unwrap();
    product(&driver, 1000, 0.0);
    assert_eq!(runs(&machine), [4, 4, 5, 0, 0, 0, 0, 0]);
    product(&driver, 1024, 0.0);
    assert_eq!(runs(&machine), [0, 0, 1, 0, 0, 0, 0, 0]);
    product(&driver, 1025, 0.0);
    assert_eq!(runs(&machine), [4, 4, 5, 0, 0, 0, 0, 0]);
}

/// The library has its reasons to refuse an algorithm for one size and not for the next.
#[test]
fn a_size_that_its_neighbours_algorithm_does_not_fit_has_a_choice_of_its_own() {
    let machine = Machine::new();
    machine.set("cublaslt", "fake_refused", 999_u64);
    let driver = machine.open().unwrap();
    product(&driver, 1000, 0.0);
    assert_eq!(runs(&machine), [4, 4, 5, 0, 0, 0, 0, 0]);
    product(&driver, 999, 0.0);
    assert_eq!(runs(&machine), [4, 5, 0, 0, 0, 0, 0, 0], "the third is refused, the second takes it");
    product(&driver, 998, 0.0);
    assert_eq!(runs(&machine), [0, 0, 1, 0, 0, 0, 0, 0], "others of the size have what they had");
    drop(driver);
    // A run that is resumed must find it, though now another would win.
    machine.set("cublaslt", "fake_times", [1.0_f32, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0]);
    let driver = machine.open().unwrap();
    product(&driver, 999, 0.0);
    product(&driver, 1000, 0.0);
    assert_eq!(runs(&machine), [0, 1, 1, 0, 0, 0, 0, 0]);
}

/// Two runs that begin at once, on two GPUs of one kind or on one, both with no choice made yet.
#[test]
fn of_two_processes_that_choose_at_once_both_go_on_with_what_is_written() {
    let machine = Machine::new();
    let (first, second) = (machine.open().unwrap(), machine.open().unwrap());
    product(&first, 4, 0.0);
    runs(&machine);
    machine.set("cublaslt", "fake_times", [1.0_f32, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0]);
    product(&second, 4, 0.0);
    assert_eq!(runs(&machine), [4, 4, 5, 0, 0, 0, 0, 0], "it finds the first to be faster, and takes the third");
}

#[test]
fn a_choice_that_the_library_no_longer_accepts_is_made_again() {
    let machine = Machine::new();
    drop({
        let driver = machine.open().unwrap();
        product(&driver, 4, 0.0);
        driver
    });
    let folder = machine.path("cache/cuda");
    let file = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).find(|p| p.extension().unwrap() == "tsv");
    let file = file.unwrap();
    assert!(file.to_str().unwrap().ends_with("algorithms-fake-gpu-0-46-cublaslt-120800.tsv"), "{}", file.display());
    let (product_name, text) = {
        let text = std::fs::read_to_string(&file).unwrap();
        (text.trim().split('\t').next().unwrap().to_owned(), text)
    };
    assert!(
        text.starts_with('\n') && product_name.starts_with("m=4 n=5 k=3 a=bf16,plain,3,256 b=bf16,transposed,3,256")
    );
    std::fs::remove_file(&file).unwrap();
    super::super::algorithms::Choices::open(Some(file)).settle(&product_name, [6, 6666, 0, 0, 0, 0, 0, 0]);
    runs(&machine);
    let driver = machine.open().unwrap();
    product(&driver, 4, 0.0);
    assert_eq!(runs(&machine), [4, 4, 5, 0, 0, 0, 0, 0]);
}

#[test]
fn a_product_without_algorithm_is_an_error_with_its_sizes() {
    let machine = Machine::new();
    machine.set("cublaslt", "fake_candidates", 0);
    let driver = machine.open().unwrap();
    let at = driver.allocate(64).unwrap();
    let operand = |dtype, transposed| Operand { address: at, dtype, transposed, row_stride: 2 };
    let c = operand(DType::F32, false);
    let (a, b) = (operand(DType::F32, false), operand(DType::F32, true));
    driver.matmul(&Matmul { m: 2, n: 2, k: 2, a, b, c, beta: 0.0, bias: Some(Address(at.0)) });
    let error = driver.check().unwrap_err();
    assert!(matches!(error, ComputeError::Cuda(CudaError::NoAlgorithm { version: 120_800, .. })), "{error}");
    assert!(error.to_string().contains("m=2 n=2 k=2"), "{error}");
}

#[test]
fn the_workspace_grows_with_the_generation() {
    for (major, minor, mebibytes) in [(8, 6, 32_u64), (9, 0, 64)] {
        let machine = Machine::new();
        machine.set("cuda", "fake_major", major);
        machine.set("cuda", "fake_minor", minor);
        let driver = machine.open().unwrap();
        product(&driver, 4, 0.0);
        assert_eq!(machine.get::<u64>("cublaslt", "fake_last_workspace"), mebibytes << 20);
    }
}
