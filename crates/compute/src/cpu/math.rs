//! Vectorisable elementary functions with stated error bounds, and lane-wise reductions.
//!
//! Sums over a row go through 16 fixed lanes, so that the order of additions is the same at every vector width.
//!
//! The lanes of a loop are kept [`whole`] behind it: LLVM otherwise takes them apart in the loop itself, for the sake of how they are
//! added up or of the few that a tail writes to (the dot product of attention's decoding had seven times the instructions, with
//! every instruction set).

use super::isa::Math;
use crate::dtype::Storage;

/// Lanes of a row reduction.
pub(crate) const LANES: usize = 16;

/// `e^x`, relative error below 2e-7; 0 below -87.3, large but finite above 88.3. NaN stays NaN.
#[inline(always)]
pub(crate) fn exp<M: Math>(x: f32) -> f32 {
    // 2^n e^r with |r| <= ln 2 / 2; n by the round-to-nearest of adding 1.5 * 2^23, which every vector unit has.
    const MAGIC: f32 = 12_582_912.0;
    let clamped = if x > 88.0 { 88.0 } else { x };
    let clamped = if clamped < -87.3 { -87.3 } else { clamped };
    let shifted = M::mul_add(clamped, std::f32::consts::LOG2_E, MAGIC);
    let n = shifted - MAGIC;
    let r = M::mul_add(n, -0.693_359_4, clamped);
    let r = M::mul_add(n, 2.121_944_4e-4, r);
    // Minimax polynomial of Cephes' expf.
    let p = 1.987_569_1e-4;
    let p = M::mul_add(p, r, 1.398_2e-3);
    let p = M::mul_add(p, r, 8.333_452e-3);
    let p = M::mul_add(p, r, 4.166_579_6e-2);
    let p = M::mul_add(p, r, 1.666_666_5e-1);
    let p = M::mul_add(p, r, 5e-1);
    let p = M::mul_add(p * r, r, r + 1.0);
    let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    let y = p * scale;
    if x < -87.3 { 0.0 } else { y }
}

/// The error function, absolute error below 5e-7: a rational minimax fit on [-4, 4], 1 beyond to f32 precision.
#[inline(always)]
pub(crate) fn erf<M: Math>(x: f32) -> f32 {
    let x = if x > 4.0 { 4.0 } else { x };
    let x = if x < -4.0 { -4.0 } else { x };
    let z = x * x;
    let p = -2.726_142_4e-10;
    let p = M::mul_add(p, z, 2.770_681_5e-8);
    let p = M::mul_add(p, z, -2.101_024e-6);
    let p = M::mul_add(p, z, -5.692_506_3e-5);
    let p = M::mul_add(p, z, -7.349_906_5e-4);
    let p = M::mul_add(p, z, -2.954_6e-3);
    let p = M::mul_add(p, z, -1.609_603_3e-2);
    let q = -1.456_607_2e-5;
    let q = M::mul_add(q, z, -2.133_740_6e-4);
    let q = M::mul_add(q, z, -1.682_827e-3);
    let q = M::mul_add(q, z, -7.373_329e-3);
    let q = M::mul_add(q, z, -1.426_473_9e-2);
    x * p / q
}

/// The logistic function.
#[inline(always)]
pub(crate) fn sigmoid<M: Math>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<M>(-x))
}

/// The same lanes, of which the compiler knows nothing: the loop that they come from has them in whole registers.
#[inline(always)]
pub(crate) fn whole(lanes: [f32; LANES]) -> [f32; LANES] {
    std::hint::black_box(lanes)
}

/// Adds 16 lanes pairwise.
#[inline(always)]
pub(crate) fn sum_lanes(lanes: [f32; LANES]) -> f32 {
    let mut lanes = whole(lanes);
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// What arithmetic widens to f32: values as stored, and signed 8-bit codes, which are kept as bytes.
pub(crate) trait Widen: Copy {
    fn widen(self) -> f32;
}

impl<S: Storage> Widen for S {
    #[inline(always)]
    fn widen(self) -> f32 {
        self.load()
    }
}

impl Widen for u8 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from(self as i8)
    }
}

/// 16 elements of a shorter tail, and `fill`.
#[inline(always)]
pub(crate) fn filled<X: Copy>(tail: &[X], fill: X) -> [X; LANES] {
    let mut lanes = [fill; LANES];
    lanes[..tail.len()].copy_from_slice(tail);
    lanes
}

/// `sum f(x[i], y[i])` in 16 lanes; a shorter tail goes to the first of them.
#[inline(always)]
fn lanes<X: Widen, Y: Widen>(x: &[X], y: &[Y], f: impl Fn(f32, f32, f32) -> f32) -> [f32; LANES] {
    let mut lanes = [0.0f32; LANES];
    let ((xs, x_tail), (ys, y_tail)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    for (a, b) in xs.iter().zip(ys) {
        for i in 0..LANES {
            lanes[i] = f(a[i].widen(), b[i].widen(), lanes[i]);
        }
    }
    if let ([first_x, ..], [first_y, ..]) = (x_tail, y_tail) {
        lanes = whole(lanes);
        let (a, b) = (filled(x_tail, *first_x), filled(y_tail, *first_y));
        for i in 0..LANES {
            let sum = f(a[i].widen(), b[i].widen(), lanes[i]);
            lanes[i] = if i < x_tail.len() { sum } else { lanes[i] };
        }
    }
    lanes
}

/// `sum f(x[i], y[i])`.
#[inline(always)]
pub(crate) fn reduce<X: Widen, Y: Widen>(x: &[X], y: &[Y], f: impl Fn(f32, f32, f32) -> f32) -> f32 {
    sum_lanes(lanes(x, y, f))
}

/// `sum x[i] y[i]`.
#[inline(always)]
pub(crate) fn dot<M: Math, X: Widen, Y: Widen>(x: &[X], y: &[Y]) -> f32 {
    sum_lanes(dot_lanes::<M, _, _>(x, y))
}

/// The 16 lanes of [`dot`].
#[inline(always)]
pub(crate) fn dot_lanes<M: Math, X: Widen, Y: Widen>(x: &[X], y: &[Y]) -> [f32; LANES] {
    lanes(x, y, |a, b, sum| M::mul_add(a, b, sum))
}

/// `sum x[i]`.
#[inline(always)]
pub(crate) fn sum<X: Widen>(x: &[X]) -> f32 {
    reduce(x, x, |a, _, sum| sum + a)
}

/// The largest element; `-inf` of nothing.
#[inline(always)]
pub(crate) fn max(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = if chunk[i] > lanes[i] { chunk[i] } else { lanes[i] };
        }
    }
    let all = lanes.iter().chain(rest);
    all.fold(f32::NEG_INFINITY, |m, &v| if v > m { v } else { m })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::isa::PortableMath;

    #[test]
    fn exp_is_within_its_bound() {
        let mut x = -87.0f64;
        while x < 88.0 {
            let got = exp::<PortableMath>(x as f32) as f64;
            let want = (x as f32 as f64).exp();
            assert!(((got - want) / want).abs() < 2e-7, "exp({x}) = {got}, not {want}");
            x += 0.0137;
        }
        assert_eq!(exp::<PortableMath>(0.0), 1.0);
        assert_eq!(exp::<PortableMath>(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp::<PortableMath>(-1000.0), 0.0);
        assert!(exp::<PortableMath>(f32::NAN).is_nan());
    }

    #[test]
    fn erf_is_within_its_bound() {
        let mut x = -6.0f64;
        while x < 6.0 {
            let got = erf::<PortableMath>(x as f32) as f64;
            let want = libm::erf(x as f32 as f64);
            assert!((got - want).abs() < 5e-7, "erf({x}) = {got}, not {want}");
            x += 0.0013;
        }
        assert!(erf::<PortableMath>(f32::NAN).is_nan());
    }

    #[test]
    fn reductions_take_tails() {
        for n in [0, 1, 15, 16, 17, 33] {
            let x: Vec<f32> = (0..n).map(|i| i as f32).collect();
            assert_eq!(sum(&x), (0..n).sum::<usize>() as f32);
            assert_eq!(dot::<PortableMath, _, _>(&x, &x), x.iter().map(|v| v * v).sum::<f32>());
            assert_eq!(max(&x), x.last().copied().unwrap_or(f32::NEG_INFINITY));
        }
    }
}
