//! The machine code of the AMX kernel, on the processor or on the emulator.

use super::super::pack::packed_len;
use super::super::tests::{naive, stored, whole};
use super::super::{Add, PackedB, State, Store, TILE, multiply_here, pack_columns};
use super::*;
use crate::cpu::isa::Isa;
use crate::cpu::muon;
use crate::cpu::pool::{Pool, Shared};
use crate::device::{Muon, Rounding};

/// Whether the tests can run; says so if not.
fn amx() -> bool {
    emulator::isas().contains(&Isa::Amx)
}

/// Elements that end where readable memory ends: one element too far is a segmentation fault.
struct Guarded {
    block: *mut libc::c_void,
    bytes: usize,
    len: usize,
}

const PAGE: usize = 4096;

impl Guarded {
    fn new(values: &[Bf16]) -> Self {
        let readable = size_of_val(values).next_multiple_of(PAGE);
        let bytes = readable + PAGE;
        // SAFETY: an anonymous mapping of our own, whose last page is taken away; the values fit before it.
        unsafe {
            let access = libc::PROT_READ | libc::PROT_WRITE;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let block = libc::mmap(core::ptr::null_mut(), bytes, access, flags, -1, 0);
            assert!(block != libc::MAP_FAILED);
            assert_eq!(libc::mprotect(block.byte_add(readable), PAGE, libc::PROT_NONE), 0);
            let guarded = Guarded { block, bytes, len: values.len() };
            core::ptr::copy_nonoverlapping(values.as_ptr(), guarded.start(), values.len());
            guarded
        }
    }

    fn start(&self) -> *mut Bf16 {
        // SAFETY: inside the mapping.
        unsafe { self.block.byte_add(self.bytes - PAGE - self.len * size_of::<Bf16>()).cast() }
    }

    fn slice(&self) -> &[Bf16] {
        // SAFETY: `len` elements were written there.
        unsafe { core::slice::from_raw_parts(self.start(), self.len) }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: our own mapping, used no more.
        unsafe { libc::munmap(self.block, self.bytes) };
    }
}

#[test]
fn the_kernel_is_exact_and_reads_nothing_outside_its_operands() {
    if !amx() {
        return;
    }
    let pool = Pool::new(1, Isa::Amx).unwrap();
    for m in [1, 15, 16, 17, 31, 32, 33, 47] {
        for k in [2, 30, 32, 34, 64, 100] {
            for panels in [1, 2, 3] {
                // The last panel is full or not: tiles go to their places or by way of the epilogue.
                for n in [panels * PANEL - 5, panels * PANEL] {
                    let (a, b) = (whole(m, k, 1), whole(k, n, 2));
                    let want = naive(&a, &b, (m, k, n));
                    for stride in [k, k + 14] {
                        let rows = stored::<Bf16>(&a, k, stride);
                        let rows = Guarded::new(&rows[..(m - 1) * stride + k]);
                        let mut packed = vec![Bf16(0); packed_len::<Bf16>(k, n)];
                        pack_columns(&pool, &b, n, (k, n), &mut packed);
                        let packed = Guarded::new(&packed);
                        let (left, right) =
                            (Left::rows(rows.slice(), m, k, stride), PackedB::new(packed.slice(), k, n));
                        let mut out = vec![f32::NAN; m * n];
                        let before = emulator::products();
                        let mut state = State::default();
                        let store = Store { out: Shared::new(&mut out), stride: n, bias: None };
                        multiply_here(Isa::Amx, &mut state, left, m, right, &store);
                        assert_eq!(out, want, "{m} x {k} x {n}, stride {stride}");
                        let add = Add { out: Shared::new(&mut out), stride: n, bias: None };
                        multiply_here(Isa::Amx, &mut state, left, m, right, &add);
                        drop(state);
                        let twice: Vec<f32> = want.iter().map(|x| 2.0 * x).collect();
                        assert_eq!(out, twice, "{m} x {k} x {n}, stride {stride}, added to itself");
                        if emulator::emulated() {
                            let products = 2 * m.div_ceil(16) * k.div_ceil(32) * panels;
                            assert_eq!(emulator::products() - before, products, "{m} x {k} x {n}: tile products");
                            assert!(!emulator::in_use(), "the configuration outlives the state");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn an_empty_sum_is_zero() {
    if !amx() {
        return;
    }
    let mut tile = [f32::NAN; TILE];
    let to = Destination { at: tile.as_mut_ptr(), stride: 32, add: false };
    // SAFETY: `amx` says that the instructions work; without pairs nothing is read.
    unsafe { Tiles::default().multiply(core::ptr::null(), 0, core::ptr::null(), 0, 0, 20, 2, to, core::ptr::null()) };
    assert!(tile[..20 * 32].iter().all(|x| *x == 0.0));
    assert!(tile[20 * 32..].iter().all(|x| x.is_nan()), "rows that do not exist were written");
}

#[test]
fn infinities_stay_in_their_row() {
    if !amx() {
        return;
    }
    // k = 34 ends in a padded step: padding times an infinity must not make NaNs.
    let (m, k, n) = (3, 34, 16);
    let (mut a, b) = (whole(m, k, 1), vec![1.0; k * n]);
    a[k + 33] = f32::INFINITY;
    let pool = Pool::new(1, Isa::Amx).unwrap();
    let rows = stored::<Bf16>(&a, k, k);
    let mut packed = vec![Bf16(0); packed_len::<Bf16>(k, n)];
    pack_columns(&pool, &b, n, (k, n), &mut packed);
    let mut out = vec![0.0; m * n];
    let store = Store { out: Shared::new(&mut out), stride: n, bias: None };
    multiply_here(Isa::Amx, &mut State::default(), Left::rows(&rows, m, k, k), m, PackedB::new(&packed, k, n), &store);
    assert_eq!(out, naive(&a, &b, (m, k, n)));
}

#[test]
fn muon_of_a_tall_matrix_agrees_with_the_portable_kernels() {
    if !amx() {
        return;
    }
    let (rows, columns) = (50, 35);
    let gradient = whole(rows, columns, 9);
    let weight_rounding = Rounding::Nearest;
    let update = Muon { lr: 1.0, momentum: 0.9, weight_decay: 0.0, gradient_scale: 1.0, seed: 0, weight_rounding };
    let run = |isa| muon::tests::weight_of_zeros(&Pool::new(2, isa).unwrap(), &update, (rows, columns), &gradient);
    let (amx, portable) = (run(Isa::Amx), run(Isa::Portable));
    let largest = portable.iter().fold(0.0f32, |max, x| max.max(x.abs()));
    for (i, (a, b)) in amx.iter().zip(&portable).enumerate() {
        assert!((a - b).abs() < 0.02 * largest, "element {i}: {a} on AMX, {b} portable");
    }
}

/// Runs `body` in a forked process; whether a signal ended it.
#[cfg(target_os = "linux")]
fn dies(body: impl FnOnce()) -> bool {
    // SAFETY: the child only executes `body` (tile instructions, no locks, no allocation) and leaves.
    unsafe {
        let child = libc::fork();
        assert!(child >= 0, "fork");
        if child == 0 {
            // Neither the expected message nor a core file.
            libc::close(2);
            libc::setrlimit(libc::RLIMIT_CORE, &libc::rlimit { rlim_cur: 0, rlim_max: 0 });
            body();
            libc::_exit(0);
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &mut status, 0), child);
        libc::WIFSIGNALED(status)
    }
}

/// What guards the other tests: each mistake ends the process, on the emulator as on the processor.
#[cfg(target_os = "linux")]
#[test]
fn mistakes_are_faults() {
    if !amx() {
        return;
    }
    let load = |config: &Config| {
        // SAFETY: `amx` says that the instruction works or faults.
        unsafe { asm!("ldtilecfg [{}]", in(reg) config) };
    };
    macro_rules! tiles {
        ($($instruction:literal),+) => {
            // SAFETY: as above.
            unsafe { asm!($($instruction),+, out("tmm0") _, out("tmm2") _) }
        };
    }
    assert!(!dies(|| {
        load(&Config::new(20));
        tiles!("tilezero tmm2", "tdpbf16ps tmm0, tmm4, tmm6", "tilerelease");
    }));
    assert!(dies(|| tiles!("tilezero tmm0")), "no configuration");
    assert!(
        dies(|| {
            load(&Config::new(16));
            tiles!("tilezero tmm2");
        }),
        "no lower tiles"
    );
    assert!(
        dies(|| {
            load(&Config::new(20));
            tiles!("tdpbf16ps tmm2, tmm4, tmm6");
        }),
        "16 rows into 4"
    );
    assert!(dies(|| load(&Config { palette: 2, ..Config::new(32) })), "palette");
    let mut config = Config::new(32);
    config.rows[3] = 17;
    assert!(dies(|| load(&config)), "17 rows");
    config.rows[3] = 0;
    assert!(dies(|| load(&config)), "columns without rows");
    config = Config::new(32);
    config.row_bytes[6] = 60;
    assert!(
        dies(|| {
            load(&config);
            tiles!("tdpbf16ps tmm0, tmm4, tmm6");
        }),
        "narrow B"
    );
    // SAFETY: an instruction that is always illegal, in a process of its own.
    assert!(dies(|| unsafe { asm!("ud2") }), "not a tile instruction");
}
