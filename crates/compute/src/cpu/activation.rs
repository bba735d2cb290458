//! GELU, SwiGLU, squared ReLU. Bytes: reads x (and dy), writes y (and dx), once each.

use super::isa::{Kernel, Math};
use super::math;
use super::pool::{Pool, Shared};
use crate::device::ActivationKind;
use crate::dtype::Storage;

/// Elements of the output per job, at most.
const PIECE: usize = 1 << 14;

const INV_SQRT_2: f32 = std::f32::consts::FRAC_1_SQRT_2;
const INV_SQRT_2PI: f32 = 0.398_942_3;

/// One row of the output.
struct Row<'a, S> {
    kind: ActivationKind,
    x: &'a [S],
    y: &'a mut [S],
    backward: Option<(&'a [S], &'a mut [S])>,
}

impl<S: Storage> Kernel for Row<'_, S> {
    type Output = ();
    #[inline(always)]
    fn run<M: Math>(self) {
        let n = self.y.len();
        match (self.kind, self.backward) {
            (ActivationKind::Gelu, None) => {
                for (y, x) in self.y.iter_mut().zip(self.x) {
                    let x = x.load();
                    *y = S::store(0.5 * x * (1.0 + math::erf::<M>(x * INV_SQRT_2)));
                }
            }
            (ActivationKind::Gelu, Some((dy, dx))) => {
                for (((y, x), dy), dx) in self.y.iter_mut().zip(self.x).zip(dy).zip(dx) {
                    let x = x.load();
                    let cdf = 0.5 * (1.0 + math::erf::<M>(x * INV_SQRT_2));
                    let pdf = INV_SQRT_2PI * math::exp::<M>(-0.5 * x * x);
                    *y = S::store(x * cdf);
                    *dx = S::store(dy.load() * M::mul_add(x, pdf, cdf));
                }
            }
            (ActivationKind::ReluSquared, None) => {
                for (y, x) in self.y.iter_mut().zip(self.x) {
                    let x = x.load().max(0.0);
                    *y = S::store(x * x);
                }
            }
            (ActivationKind::ReluSquared, Some((dy, dx))) => {
                for (((y, x), dy), dx) in self.y.iter_mut().zip(self.x).zip(dy).zip(dx) {
                    let x = x.load().max(0.0);
                    *y = S::store(x * x);
                    *dx = S::store(dy.load() * 2.0 * x);
                }
            }
            (ActivationKind::SwiGlu, None) => {
                let (gate, up) = self.x.split_at(n);
                for ((y, gate), up) in self.y.iter_mut().zip(gate).zip(up) {
                    let gate = gate.load();
                    *y = S::store(gate * math::sigmoid::<M>(gate) * up.load());
                }
            }
            (ActivationKind::SwiGlu, Some((dy, dx))) => {
                let (gate, up) = self.x.split_at(n);
                let (d_gate, d_up) = dx.split_at_mut(n);
                let rows = self.y.iter_mut().zip(gate).zip(up).zip(dy);
                for ((((y, gate), up), dy), (dg, du)) in rows.zip(d_gate.iter_mut().zip(d_up)) {
                    let (gate, up, dy) = (gate.load(), up.load(), dy.load());
                    let s = math::sigmoid::<M>(gate);
                    let silu = gate * s;
                    *y = S::store(silu * up);
                    *du = S::store(dy * silu);
                    *dg = S::store(dy * up * s * (1.0 + gate * (1.0 - s)));
                }
            }
        }
    }
}

/// The chunks that the work is cut into: SwiGLU's halves bind it to rows, the others are flat.
fn chunk(kind: ActivationKind, n_ff: usize) -> usize {
    match kind {
        ActivationKind::SwiGlu => n_ff,
        ActivationKind::Gelu | ActivationKind::ReluSquared => PIECE,
    }
}

/// `y = activation(x)`.
pub(super) fn forward<S: Storage>(pool: &Pool, kind: ActivationKind, n_ff: usize, x: &[S], y: &mut [S]) {
    let chunk = chunk(kind, n_ff);
    let factor = kind.input_width(1);
    let len = y.len();
    let y = Shared::new(y);
    pool.for_ranges(len.div_ceil(chunk), PIECE.div_ceil(chunk), |range| {
        for i in range {
            let n = chunk.min(len - i * chunk);
            // SAFETY: chunks are disjoint.
            let y = unsafe { y.slice_mut(i * chunk, n) };
            pool.isa().run(Row { kind, x: &x[factor * i * chunk..][..factor * n], y, backward: None });
        }
    });
}

/// `dx` from `dy`, and `y` again.
pub(super) fn backward<S: Storage>(
    pool: &Pool,
    kind: ActivationKind,
    n_ff: usize,
    x: &[S],
    dy: &[S],
    dx: &mut [S],
    y: &mut [S],
) {
    let chunk = chunk(kind, n_ff);
    let factor = kind.input_width(1);
    let len = y.len();
    let (y, dx) = (Shared::new(y), Shared::new(dx));
    pool.for_ranges(len.div_ceil(chunk), PIECE.div_ceil(chunk), |range| {
        for i in range {
            let n = chunk.min(len - i * chunk);
            // SAFETY: chunks are disjoint.
            let (y, dx) = unsafe { (y.slice_mut(i * chunk, n), dx.slice_mut(factor * i * chunk, factor * n)) };
            let x = &x[factor * i * chunk..][..factor * n];
            pool.isa().run(Row { kind, x, y, backward: Some((&dy[i * chunk..][..n], dx)) });
        }
    });
}
