//! Products at awkward sizes, at every instruction set of this machine and emulated AMX.

use super::pack::packed_len;
use super::*;
use crate::cpu::linear;
use crate::cpu::memory::Memory;
use crate::cpu::pool::Shared;

#[cfg(target_arch = "x86_64")]
pub(super) fn isas() -> Vec<Isa> {
    amx::emulator::isas()
}

#[cfg(not(target_arch = "x86_64"))]
pub(super) fn isas() -> Vec<Isa> {
    Isa::available()
}

/// Rows of small whole numbers: bf16 holds them, and f32 their sums, exactly, so that results are compared exactly.
pub(super) fn whole(rows: usize, columns: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as f32 % 17.0 - 8.0
    };
    (0..rows * columns).map(|_| next()).collect()
}

/// Numbers that have to be rounded.
fn fractions(rows: usize, columns: usize, seed: u32) -> Vec<f32> {
    whole(rows, columns, seed).iter().zip(whole(rows, columns, seed + 1)).map(|(a, b)| a / 7.0 + b / 1000.0).collect()
}

/// `a[m, k] · b[k, n]`.
pub(super) fn naive(a: &[f32], b: &[f32], (m, k, n): (usize, usize, usize)) -> Vec<f32> {
    let element = |i: usize, j: usize| (0..k).map(|l| f64::from(a[i * k + l]) * f64::from(b[l * n + j])).sum::<f64>();
    (0..m * n).map(|i| element(i / n, i % n) as f32).collect()
}

/// The transpose of `[rows, columns]`.
fn transpose(x: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..rows * columns).map(|i| x[i % rows * columns + i / rows]).collect()
}

/// Values in storage, `stride` apart; what lies between rows is NaN, so that reading it shows.
pub(super) fn stored<S: Storage>(x: &[f32], columns: usize, stride: usize) -> Vec<S> {
    let mut out = vec![S::store(f32::NAN); x.len() / columns * stride];
    for (to, from) in out.chunks_exact_mut(stride).zip(x.chunks_exact(columns)) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = S::store(*from);
        }
        // An odd k is padded to a group.
        if columns < stride {
            to[columns] = S::store(0.0);
        }
    }
    out
}

/// A left operand of rows, padded to groups, with a gap between rows.
fn left_rows<S: MatElement>(a: &[f32], k: usize) -> (Vec<S>, usize) {
    let stride = k.next_multiple_of(S::GROUP) + 6;
    (stored(a, k, stride), stride)
}

const SIZES: [(usize, usize, usize); 16] = [
    (1, 1, 1),
    (1, 64, 16),
    (2, 3, 5),
    (8, 32, 48),
    (9, 33, 49),
    (15, 31, 17),
    (16, 64, 31),
    (17, 30, 64),
    (33, 65, 33),
    (47, 100, 80),
    (70, 7, 100),
    (200, 40, 50),
    // Several strips whose sums are long: what comes next is asked for.
    (70, 300, 70),
    (100, 256, 32),
    // Sums in pieces, for some rows and for more than wait together.
    (21, 2700, 33),
    (401, 1100, 17),
];

fn products_are_exact<S: MatElement>() {
    for isa in isas() {
        for threads in [1, 2] {
            let pool = Pool::new(threads, isa).unwrap();
            for (m, k, n) in SIZES {
                let what = format!("{} {} {threads} threads, {m} x {k} x {n}", isa.name(), S::DTYPE.name());
                let (a, b) = (whole(m, k, 1), whole(k, n, 2));
                let want = naive(&a, &b, (m, k, n));
                let wide = k.next_multiple_of(S::GROUP);
                let (rows, stride) = left_rows::<S>(&a, k);
                let mut packed = vec![S::store(f32::NAN); packed_len::<S>(k, n)];
                pack_columns(&pool, &b, n, (k, n), &mut packed);
                let right = PackedB::new(&packed, k, n);
                let left = Left::rows(&rows, m, wide, stride);

                let bias = whole(1, n, 3);
                let mut out = vec![f32::NAN; m * n];
                multiply(&pool, left, m, right, &Store { out: Shared::new(&mut out), stride: n, bias: Some(&bias) });
                let biased: Vec<f32> = want.iter().enumerate().map(|(i, x)| x + bias[i % n]).collect();
                assert_eq!(out, biased, "{what}: store");

                let mut out = vec![1.0; m * n];
                multiply(&pool, left, m, right, &Add { out: Shared::new(&mut out), stride: n, bias: None });
                assert_eq!(out, want.iter().map(|x| x + 1.0).collect::<Vec<_>>(), "{what}: add");

                let mut out = vec![1.0; m * n];
                multiply(&pool, left, m, right, &Add { out: Shared::new(&mut out), stride: n, bias: Some(&bias) });
                assert_eq!(out, biased.iter().map(|x| x + 1.0).collect::<Vec<_>>(), "{what}: add with a bias");

                let rounded = |x: &[f32]| x.iter().map(|x| Bf16::store(*x)).collect::<Vec<_>>();
                for (bias, want) in [(None, &want), (Some(&bias[..]), &biased)] {
                    // Between the rows something that is not to be written.
                    let mut out = vec![Bf16(1); m * (n + 3)];
                    multiply(&pool, left, m, right, &Store { out: Shared::new(&mut out), stride: n + 3, bias });
                    for (out, want) in out.chunks(n + 3).zip(want.chunks(n)) {
                        assert_eq!((&out[..n], &out[n..]), (&rounded(want)[..], &[Bf16(1); 3][..]), "{what}: rounded");
                    }
                }

                // The same B from its transpose, the same A from its transpose.
                let mut packed = vec![S::store(f32::NAN); packed_len::<S>(k, n)];
                pack_transposed(&pool, &transpose(&b, k, n), k, (k, n), &mut packed);
                let mut transposed = vec![S::store(f32::NAN); left_len::<S>(k, m)];
                let source = stored::<S>(&transpose(&a, m, k), m, m + 3);
                let left = left_transposed(&pool, &source, m + 3, (k, m), &mut transposed);
                let mut out = vec![f32::NAN; m * n];
                let store = Store { out: Shared::new(&mut out), stride: n, bias: None };
                multiply(&pool, left, m, PackedB::new(&packed, k, n), &store);
                assert_eq!(out, want, "{what}: transposed operands");
            }
        }
    }
}

#[test]
fn f32_products_are_exact() {
    products_are_exact::<f32>();
}

#[test]
fn bf16_products_are_exact() {
    products_are_exact::<Bf16>();
}

#[test]
fn slices_of_a_packed_operand_multiply_their_part() {
    let (m, k, n) = (20, 96, 80);
    let (a, b) = (whole(m, 40, 1), whole(k, n, 2));
    let part: Vec<f32> = (0..40).flat_map(|l| b[(l + 20) * n + 32..(l + 20) * n + 70].to_vec()).collect();
    for isa in isas() {
        let pool = Pool::new(1, isa).unwrap();
        let mut packed = vec![Bf16(0); packed_len::<Bf16>(k, n)];
        pack_columns(&pool, &b, n, (k, n), &mut packed);
        let right = PackedB::new(&packed, k, n).slice(20, 40, 32, 38);
        let rows = stored::<Bf16>(&a, 40, 40);
        let mut out = vec![0.0; m * 38];
        let store = Store { out: Shared::new(&mut out), stride: 38, bias: None };
        multiply_here(isa, &mut State::default(), Left::rows(&rows, m, 40, 40), m, right, &store);
        assert_eq!(out, naive(&a, &part, (m, 40, 38)), "{}", isa.name());
    }
}

/// The promise that makes results independent of threads and of batching.
#[test]
fn an_element_does_not_depend_on_its_tile() {
    let (m, k, n) = (37, 70, 100);
    let (a, b) = (fractions(m, k, 4), fractions(k, n, 6));
    let want = naive(&a, &b, (m, k, n));
    for isa in isas() {
        let pool = Pool::new(2, isa).unwrap();
        let (rows, stride) = left_rows::<Bf16>(&a, k);
        let mut packed = vec![Bf16(0); packed_len::<Bf16>(k, n)];
        pack_columns(&pool, &b, n, (k, n), &mut packed);
        let right = PackedB::new(&packed, k, n);
        let mut whole = vec![0.0; m * n];
        let store = Store { out: Shared::new(&mut whole), stride: n, bias: None };
        multiply(&pool, Left::rows(&rows, m, k, stride), m, right, &store);
        for (i, (x, want)) in whole.iter().zip(&want).enumerate() {
            // Both operands are rounded to 8 bits.
            assert!((x - want).abs() < 0.05, "{} element {i}: {x}, not {want}", isa.name());
        }
        for row in [0, 15, 16, 36] {
            for column in [0, 16, 48, 96] {
                let columns = 16.min(n - column);
                let mut out = vec![0.0; columns];
                let store = Store { out: Shared::new(&mut out), stride: columns, bias: None };
                let left = Left::rows(&rows[row * stride..], 1, k, stride);
                multiply_here(isa, &mut State::default(), left, 1, right.slice(0, k, column, columns), &store);
                assert_eq!(out, whole[row * n + column..][..columns], "{} row {row} column {column}", isa.name());
            }
        }
    }
}

#[test]
fn weight_gradients_are_exact() {
    for isa in isas() {
        for threads in [1, 2] {
            let pool = Pool::new(threads, isa).unwrap();
            for (tokens, rows, columns) in
                [(1, 1, 1), (1030, 5, 7), (33, 17, 35), (64, 48, 32), (100, 70, 50), (75, 16, 130)]
            {
                let (dy, x) = (whole(tokens, rows, 7), whole(tokens, columns, 8));
                let want = naive(&transpose(&dy, tokens, rows), &x, (rows, tokens, columns));
                let (dy_stored, x_stored) = (stored::<Bf16>(&dy, rows, rows), stored::<Bf16>(&x, columns, columns));
                let mut scratch =
                    Memory::new("test", linear::backward_weight_scratch::<Bf16>(tokens, rows, columns)).unwrap();
                let mut gradient = vec![2.0; rows * columns];
                let mut bias = vec![3.0; rows];
                let mut run = |gradient: &mut [f32], stores: bool, bias: Option<&mut [f32]>| {
                    let d_weight = linear::WeightGradient { sums: gradient, stores };
                    let (operands, shape) = ((&dy_stored[..], &x_stored[..]), (rows, columns));
                    linear::backward_weight(&pool, operands, tokens, shape, d_weight, bias, scratch.as_bytes_mut());
                };
                let what = format!("{} {threads} threads, {tokens} tokens, {rows} x {columns}", isa.name());
                run(&mut gradient, false, Some(&mut bias));
                assert_eq!(gradient, want.iter().map(|x| x + 2.0).collect::<Vec<_>>(), "{what}");
                let sum = |row: usize| 3.0 + dy.iter().skip(row).step_by(rows).sum::<f32>();
                assert_eq!(bias, (0..rows).map(sum).collect::<Vec<_>>(), "{what}: bias");
                gradient.fill(f32::NAN);
                run(&mut gradient, true, None);
                assert_eq!(gradient, want, "{what}: stored");
            }
        }
    }
}

/// Of sums of one piece and of several, where whole tiles are more than the caches' share and where they are not.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[test]
fn widened_operands_fit_what_a_thread_has_reserved() {
    const LONGEST: usize = 1500;
    for isa in [Isa::Neon, Isa::Avx2, Isa::Avx512].into_iter().filter(|isa| isa.is_available()) {
        let pool = Pool::new(2, isa).unwrap();
        let reserved = thread_bytes(isa, LONGEST);
        pool.on_every_thread(|| reserve_thread(isa, reserved));
        let held = std::sync::Mutex::new(Vec::new());
        for (k, n) in [(64, 3000), (512, 1000), (576, 1536), (600, 3000), (646, 2000), (1024, 800), (LONGEST, 1100)] {
            let (m, stride) = (40, k);
            let a = vec![Bf16::store(1.0); m * stride];
            let b = vec![Bf16::store(1.0); packed_len::<Bf16>(k, n)];
            let mut out = vec![0.0_f32; m * n];
            let store = Store { out: Shared::new(&mut out), stride: n, bias: None };
            multiply(&pool, Left::rows(&a, m, k, stride), m, PackedB::new(&b, k, n), &store);
            pool.on_every_thread(|| held.lock().unwrap().push((floats::held(), k, n)));
        }
        let most = reserved.next_multiple_of(64);
        for (bytes, k, n) in held.into_inner().unwrap() {
            assert!(bytes <= most, "{}: {k} x {n} took {bytes} bytes, {most} are reserved", isa.name());
        }
    }
}

/// Rounds of blocks, in rows times panels: what threads with a block each take.
#[test]
fn small_products_keep_every_thread_busy() {
    for (threads, m, panels, widest, want) in [
        // Three blocks of 64 rows would keep two threads for two rounds.
        (2, 192, 12, 12, (64, 6)),
        (2, 576, 12, 12, (96, 12)),
        (4, 576, 12, 12, (96, 6)),
        // Enough as they are.
        (2, 192, 32, 12, (64, 12)),
        (2, 1024, 64, 12, (512, 12)),
        // Panels from memory, and what cannot be cut.
        (2, 1, 12, 12, (32, 12)),
        (2, 64, 1, 1, (64, 1)),
    ] {
        assert_eq!(super::blocks(threads, (m, panels), widest, 6), want, "{threads} threads, {m} x {panels}");
    }
}
