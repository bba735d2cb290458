//! GELU, SwiGLU, squared ReLU. Bytes: reads x (and dy), writes y (or, in place, dx and if asked y), once each.

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
}

impl<S: Storage> Kernel for Row<'_, S> {
    type Output = ();
    #[inline(always)]
    fn run<M: Math>(self) {
        let n = self.y.len();
        match self.kind {
            ActivationKind::Gelu => {
                for (y, x) in self.y.iter_mut().zip(self.x) {
                    let x = x.load();
                    *y = S::store(0.5 * x * (1.0 + math::erf::<M>(x * INV_SQRT_2)));
                }
            }
            ActivationKind::ReluSquared => {
                for (y, x) in self.y.iter_mut().zip(self.x) {
                    let x = x.load().max(0.0);
                    *y = S::store(x * x);
                }
            }
            ActivationKind::SwiGlu => {
                let (gate, up) = self.x.split_at(n);
                for ((y, gate), up) in self.y.iter_mut().zip(gate).zip(up) {
                    let gate = gate.load();
                    *y = S::store(gate * math::sigmoid::<M>(gate) * up.load());
                }
            }
        }
    }
}

/// One row of the gradient. `AGAIN`: the output goes where its gradient was.
struct RowBackward<'a, S, const AGAIN: bool> {
    kind: ActivationKind,
    x: &'a mut [S],
    dy: &'a mut [S],
}

impl<S: Storage, const AGAIN: bool> Kernel for RowBackward<'_, S, AGAIN> {
    type Output = ();
    #[inline(always)]
    fn run<M: Math>(self) {
        let n = self.dy.len();
        match self.kind {
            ActivationKind::Gelu => {
                for (place, d_place) in self.x.iter_mut().zip(self.dy) {
                    let (x, dy) = (place.load(), d_place.load());
                    let cdf = 0.5 * (1.0 + math::erf::<M>(x * INV_SQRT_2));
                    let pdf = INV_SQRT_2PI * math::exp::<M>(-0.5 * x * x);
                    *place = S::store(dy * M::mul_add(x, pdf, cdf));
                    if AGAIN {
                        *d_place = S::store(x * cdf);
                    }
                }
            }
            ActivationKind::ReluSquared => {
                for (place, d_place) in self.x.iter_mut().zip(self.dy) {
                    let (x, dy) = (place.load().max(0.0), d_place.load());
                    *place = S::store(dy * 2.0 * x);
                    if AGAIN {
                        *d_place = S::store(x * x);
                    }
                }
            }
            ActivationKind::SwiGlu => {
                let (gates, ups) = self.x.split_at_mut(n);
                for ((gate_place, up_place), d_place) in gates.iter_mut().zip(ups).zip(self.dy) {
                    let (gate, up, dy) = (gate_place.load(), up_place.load(), d_place.load());
                    let s = math::sigmoid::<M>(gate);
                    let silu = gate * s;
                    *up_place = S::store(dy * silu);
                    *gate_place = S::store(dy * up * s * (1.0 + gate * (1.0 - s)));
                    if AGAIN {
                        *d_place = S::store(silu * up);
                    }
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
            pool.isa().run(Row { kind, x: &x[factor * i * chunk..][..factor * n], y });
        }
    });
}

/// `x` becomes its gradient, and if asked `dy` the output.
pub(super) fn backward<S: Storage>(
    pool: &Pool,
    kind: ActivationKind,
    n_ff: usize,
    x: &mut [S],
    dy: &mut [S],
    again: bool,
) {
    let chunk = chunk(kind, n_ff);
    let factor = kind.input_width(1);
    let len = dy.len();
    let (x, dy) = (Shared::new(x), Shared::new(dy));
    pool.for_ranges(len.div_ceil(chunk), PIECE.div_ceil(chunk), |range| {
        for i in range {
            let n = chunk.min(len - i * chunk);
            // SAFETY: chunks are disjoint.
            let (x, dy) = unsafe { (x.slice_mut(factor * i * chunk, factor * n), dy.slice_mut(i * chunk, n)) };
            match again {
                true => pool.isa().run(RowBackward::<S, true> { kind, x, dy }),
                false => pool.isa().run(RowBackward::<S, false> { kind, x, dy }),
            }
        }
    });
}
