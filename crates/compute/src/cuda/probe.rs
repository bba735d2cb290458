//! Each primitive of the kernels on its own, against what the CUDA and PTX manuals say it does.
//!
//! The simulator has its own version of every function that holds PTX; that those and the hardware mean the same is
//! shown by running this on both.

use super::driver::{Address, Argument, Driver, Kernel, Launch};
use super::kernels::Family;
use crate::dtype::Bf16;
use crate::error::ComputeError;
use crate::fp8::Fp8;
use crate::selftest::{Check, Tolerance};

/// `ex2.approx` is exact to about two units in the last place.
const EXP2: Tolerance = Tolerance { largest: 3e-7, typical: 3e-7 };
/// Sums of 16 products in an order that the hardware does not say.
const SUM: Tolerance = Tolerance { largest: 1e-6, typical: 1e-6 };

/// Memory of one case, given back at its end.
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

impl<'d> Bench<'d> {
    fn new(driver: &'d dyn Driver) -> Self {
        Bench { driver, held: Vec::new() }
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<Address, ComputeError> {
        let at = self.driver.allocate(bytes.len())?;
        self.held.push((at, bytes.len()));
        self.driver.upload(at, bytes);
        Ok(at)
    }

    fn f32(&mut self, values: &[f32]) -> Result<Address, ComputeError> {
        self.bytes(&values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>())
    }

    fn u16(&mut self, values: &[u16]) -> Result<Address, ComputeError> {
        self.bytes(&values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>())
    }

    fn run(&self, entry: &'static str, launch: Launch, arguments: &[Argument]) {
        self.driver.launch(Kernel { family: Family::Probe, storage: None, defines: &[], entry }, launch, arguments);
    }

    fn read<const N: usize, T>(
        &self,
        at: Address,
        len: usize,
        decode: fn([u8; N]) -> T,
    ) -> Result<Vec<T>, ComputeError> {
        let mut bytes = vec![0; len * N];
        self.driver.download(at, &mut bytes);
        self.driver.check()?;
        Ok(bytes.as_chunks::<N>().0.iter().map(|chunk| decode(*chunk)).collect())
    }
}

/// Numbers without a pattern, exact in bf16, in -4 .. 4.
fn sample(len: usize, salt: u32) -> Vec<f32> {
    let value = |i: u32| (i.wrapping_mul(2_654_435_761).wrapping_add(salt.wrapping_mul(40_503)) >> 7) % 129;
    (0..len as u32).map(|i| value(i) as f32 / 16.0 - 4.0).collect()
}

fn compare(case: &str, got: &[f64], want: &[f64], tolerance: Tolerance) -> Check {
    Check::compare("probe", case.into(), (got, 0.0), want, tolerance)
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|x| f64::from(*x)).collect()
}

/// Runs every primitive.
///
/// # Errors
/// The device fails.
pub fn run(driver: &dyn Driver) -> Result<Vec<Check>, ComputeError> {
    let mut checks = vec![mma(driver)?, ldmatrix(driver)?, warpgroup(driver)?];
    for tiles in [1, 2, 3, 7] {
        checks.push(copy_async(driver, tiles)?);
    }
    checks.extend(arithmetic(driver)?);
    checks.extend(fp8(driver)?);
    checks.extend(warp(driver)?);
    checks.push(transpose(driver, 3)?);
    checks.push(syncwarp(driver)?);
    Ok(checks)
}

fn mma(driver: &dyn Driver) -> Result<Check, ComputeError> {
    let (a, b, d) = (sample(256, 1), sample(128, 2), sample(128, 3));
    let half = |x: &[f32]| -> Vec<u16> { x.iter().map(|x| Bf16::from_f32(*x).0).collect() };
    let mut bench = Bench::new(driver);
    let (at_a, at_b, at_d) = (bench.u16(&half(&a))?, bench.u16(&half(&b))?, bench.f32(&d)?);
    bench.run("probe_mma", Launch::linear(1, 32), &[at_a.into(), at_b.into(), at_d.into()]);
    let got = bench.read(at_d, 128, f32::from_le_bytes)?;
    let product = |i: usize| (0..16).map(|k| f64::from(a[i / 8 * 16 + k] * b[k * 8 + i % 8])).sum::<f64>();
    let want: Vec<f64> = (0..128).map(|i| f64::from(d[i]) + product(i)).collect();
    Ok(compare("mma.m16n8k16", &wide(&got), &want, SUM))
}

fn warpgroup(driver: &dyn Driver) -> Result<Check, ComputeError> {
    let (a, b, d) = (sample(64 * 64, 5), sample(64 * 64, 6), sample(3 * 64 * 64, 7));
    let half = |x: &[f32]| -> Vec<u16> { x.iter().map(|x| Bf16::from_f32(*x).0).collect() };
    let mut bench = Bench::new(driver);
    let (at_a, at_b, at_d) = (bench.u16(&half(&a))?, bench.u16(&half(&b))?, bench.f32(&d)?);
    let launch = Launch::linear(1, 128).with_shared(2 * 64 * 64 * 2);
    bench.run("probe_warpgroup", launch, &[at_a.into(), at_b.into(), at_d.into()]);
    let got = bench.read(at_d, 3 * 64 * 64, f32::from_le_bytes)?;
    let element = |i: usize| {
        let (row, column) = (i / 64 % 64, i % 64);
        let sum = |b: &dyn Fn(usize) -> f32| (0..64).map(|k| f64::from(a[row * 64 + k] * b(k))).sum::<f64>();
        if i / 4096 == 1 { f64::from(d[i]) + sum(&|k| b[k * 64 + column]) } else { sum(&|k| b[column * 64 + k]) }
    };
    let want: Vec<f64> = (0..3 * 64 * 64).map(element).collect();
    Ok(compare("wgmma.m64n64k16, or one by one", &wide(&got), &want, SUM))
}

fn ldmatrix(driver: &dyn Driver) -> Result<Check, ComputeError> {
    let matrices: Vec<u16> = (0..256).map(|i| 1000 + i).collect();
    let mut bench = Bench::new(driver);
    let (from, out) = (bench.u16(&matrices)?, bench.f32(&[f32::NAN; 14 * 32])?);
    bench.run("probe_ldmatrix", Launch::linear(1, 32).with_shared(512), &[from.into(), out.into()]);
    let got = bench.read(out, 14 * 32, u32::from_le_bytes)?;
    let register = |matrix: usize, transposed: bool, lane: usize| {
        let element = |i: usize| {
            let (row, column) = if transposed { (lane % 4 * 2 + i, lane / 4) } else { (lane / 4, lane % 4 * 2 + i) };
            u32::from(matrices[matrix * 64 + row * 8 + column])
        };
        f64::from(element(0) | element(1) << 16)
    };
    let order = [0, 0, 1, 0, 1, 2, 3];
    let want: Vec<f64> = (0..14 * 32).map(|i| register(order[i / 32 % 7], i / 32 >= 7, i % 32)).collect();
    let got: Vec<f64> = got.iter().map(|x| f64::from(*x)).collect();
    Ok(compare("ldmatrix", &got, &want, Tolerance::EXACT))
}

fn copy_async(driver: &dyn Driver, tiles: usize) -> Result<Check, ComputeError> {
    let values = sample(tiles * 256, 4);
    let mut bench = Bench::new(driver);
    let (from, out) = (bench.f32(&values)?, bench.f32(&[f32::NAN; 64])?);
    let launch = Launch::linear(1, 64).with_shared(3 * 64 * 16);
    bench.run("probe_copy_async", launch, &[from.into(), out.into(), (tiles as u32).into()]);
    let got = bench.read(out, 64, f32::from_le_bytes)?;
    let want: Vec<f64> = (0..64)
        .map(|t| {
            let neighbour = (t + 1) % 64;
            let quad = |tile: usize| wide(&values[(tile * 64 + neighbour) * 4..][..4]).iter().sum::<f64>();
            let read = neighbour % 5 != 0;
            (0..tiles).map(|tile| if read { (tile + 1) as f64 * quad(tile) } else { 0.0 }).sum()
        })
        .collect();
    Ok(compare(&format!("cp.async, {tiles} tiles"), &wide(&got), &want, SUM))
}

fn arithmetic(driver: &dyn Driver) -> Result<[Check; 3], ComputeError> {
    let mut x = sample(200, 5);
    // Ties to either side, the largest, the smallest, infinities and what exp2 makes of large arguments.
    x.extend([0x3f80_8000, 0x3f81_8000, 0x3f80_8001, 0x7f7f_ffff, 0x0000_0001, 0x8000_0000].map(f32::from_bits));
    x.extend([f32::INFINITY, f32::NEG_INFINITY, -125.5, -300.0, 127.5, 200.0, 1e-3, -0.7]);
    let n = x.len();
    let mut bench = Bench::new(driver);
    let from = bench.f32(&x)?;
    let (packed, rounded) = (bench.f32(&vec![f32::NAN; n / 2])?, bench.u16(&vec![0xffff; n])?);
    let power = bench.f32(&vec![f32::NAN; n])?;
    let arguments = [from.into(), packed.into(), rounded.into(), power.into(), (n as u32).into()];
    bench.run("probe_arithmetic", Launch::linear(1, 128), &arguments);
    let want: Vec<f64> = x.iter().map(|x| f64::from(Bf16::from_f32(*x).0)).collect();
    let rounded: Vec<f64> = bench.read(rounded, n, u16::from_le_bytes)?.into_iter().map(f64::from).collect();
    let halves = |pair: u32| [f64::from(pair & 0xffff), f64::from(pair >> 16)];
    let packed: Vec<f64> = bench.read(packed, n / 2, u32::from_le_bytes)?.into_iter().flat_map(halves).collect();
    let finite = |x: f64| if x.is_infinite() { 1e300 } else { x };
    let relative = |got: f64, want: f64| if want == 0.0 { got } else { got / want - 1.0 };
    let errors: Vec<f64> = bench
        .read(power, n, f32::from_le_bytes)?
        .iter()
        .zip(&x)
        .map(|(got, x)| {
            let exact = f64::from(*x).exp2();
            let want = if exact > f64::from(f32::MAX) { f64::INFINITY } else { exact };
            // What is below the normal numbers may be flushed.
            let want = if want < f64::from(f32::MIN_POSITIVE) { 0.0 } else { want };
            relative(finite(f64::from(*got)), finite(want))
        })
        .collect();
    Ok([
        compare("rounding to bf16", &rounded, &want, Tolerance::EXACT),
        compare("cvt.rn.bf16x2", &packed, &want[..n / 2 * 2], Tolerance::EXACT),
        compare("ex2.approx", &errors, &vec![0.0; n], EXP2),
    ])
}

fn warp(driver: &dyn Driver) -> Result<Vec<Check>, ComputeError> {
    let mut x = sample(96, 6);
    x[32..64].iter_mut().for_each(|x| *x = -1.0 - x.abs());
    x[64..].iter_mut().for_each(|x| *x = x.abs());
    let mut bench = Bench::new(driver);
    let (from, out) = (bench.f32(&x)?, bench.f32(&[f32::NAN; 7 * 96])?);
    bench.run("probe_warp", Launch::linear(1, 96).with_shared(3 * 4), &[from.into(), out.into()]);
    let got = wide(&bench.read(out, 7 * 96, f32::from_le_bytes)?);
    let x = wide(&x);
    let lanes = |lane: fn(usize) -> usize| -> Vec<f64> { (0..96).map(|t| x[t / 32 * 32 + lane(t % 32)]).collect() };
    let votes = |t: usize| {
        let negative = x[t / 32 * 32..][..32].iter().filter(|x| **x < 0.0).count();
        negative as f64 + if negative > 0 { 100.0 } else { 0.0 } + if negative == 32 { 1000.0 } else { 0.0 }
    };
    let wanted = [
        ("shfl", lanes(|_| 5)),
        ("shfl.xor", lanes(|lane| lane ^ 6)),
        ("shfl.up", lanes(|lane| if lane < 3 { lane } else { lane - 3 })),
        ("shfl.down", lanes(|lane| if lane + 3 < 32 { lane + 3 } else { lane })),
        ("votes", (0..96).map(votes).collect()),
        ("sum of a block", vec![x.iter().sum(); 96]),
        ("maximum of a block", vec![x.iter().copied().fold(f64::MIN, f64::max); 96]),
    ];
    let check = |(i, (case, want)): (usize, &(&str, Vec<f64>))| compare(case, &got[i * 96..][..96], want, SUM);
    Ok(wanted.iter().enumerate().map(check).collect())
}

/// Every value of the two 8-bit formats, the middles between them with their neighbours, and what lies outside.
fn fp8(driver: &dyn Driver) -> Result<Vec<Check>, ComputeError> {
    const FORMATS: [Fp8; 2] = [Fp8::E4m3, Fp8::E5m2];
    let mut x = vec![0.0, f32::NAN, f32::INFINITY, f32::MAX, 1e-30, f32::MIN_POSITIVE / 4.0, 1e5, 449.0];
    for format in FORMATS {
        for code in 0..0x7b {
            let (low, high) = (format.decode(code), format.decode(code + 1));
            let middle = low + (high - low) / 2.0;
            x.extend([low, middle, f32::from_bits(middle.to_bits() + 1), f32::from_bits(middle.to_bits() - 1)]);
        }
    }
    // Numbers without a pattern, over the range of both formats and beyond.
    let random = |i: u32| f32::from_bits((i.wrapping_mul(2_654_435_761) >> 4) % 0x1200_0000 + 0x3600_0000);
    x.extend((0..20_000).map(random));
    let negative: Vec<f32> = x.iter().map(|x| -x).collect();
    x.extend(negative);
    let mut bench = Bench::new(driver);
    let (at, n) = (bench.f32(&x)?, x.len() as u32);
    let outs = [bench.bytes(&vec![0; x.len()])?, bench.bytes(&vec![0; x.len()])?];
    bench.run("probe_fp8", Launch::linear(1, 128), &[at.into(), outs[0].into(), outs[1].into(), n.into()]);
    let mut checks = Vec::new();
    for (format, out) in FORMATS.into_iter().zip(outs) {
        // All NaN are alike, and -0 is not 0.
        let key = |code: u8| if format.decode(code).is_nan() { f64::NAN } else { f64::from(code) };
        let got: Vec<f64> = bench.read(out, x.len(), u8::from_le_bytes)?.into_iter().map(key).collect();
        let want: Vec<f64> = x.iter().map(|x| key(format.encode(*x))).collect();
        checks.push(compare(&format!("cvt to {}", format.name()), &got, &want, Tolerance::EXACT));
    }
    Ok(checks)
}

/// The tile, there and back `rounds` times and there again.
pub(super) fn transpose(driver: &dyn Driver, rounds: u32) -> Result<Check, ComputeError> {
    let x: Vec<f32> = (0..1024_u16).map(f32::from).collect();
    let mut bench = Bench::new(driver);
    let (from, out) = (bench.f32(&x)?, bench.f32(&[f32::NAN; 1024])?);
    let launch = Launch::linear(1, 256).with_shared(32 * 33 * 4);
    bench.run("probe_transpose", launch, &[from.into(), out.into(), rounds.into()]);
    let got = wide(&bench.read(out, 1024, f32::from_le_bytes)?);
    let want: Vec<f64> = (0..1024).map(|i| f64::from(x[i % 32 * 32 + i / 32])).collect();
    Ok(compare("barriers", &got, &want, Tolerance::EXACT))
}

/// Each warp's values, reversed.
pub(super) fn syncwarp(driver: &dyn Driver) -> Result<Check, ComputeError> {
    let x: Vec<f32> = (0..256_u16).map(f32::from).collect();
    let mut bench = Bench::new(driver);
    let (from, out) = (bench.f32(&x)?, bench.f32(&[f32::NAN; 256])?);
    bench.run("probe_syncwarp", Launch::linear(1, 256).with_shared(1024), &[from.into(), out.into()]);
    let got = wide(&bench.read(out, 256, f32::from_le_bytes)?);
    let want: Vec<f64> = (0..256).map(|i| f64::from(x[i ^ 31])).collect();
    Ok(compare("warp barriers", &got, &want, Tolerance::EXACT))
}
