//! LayerNorm and RMSNorm over rows of the residual stream.
//!
//! Forward: 1 read of x (f32), 1 write of y (S). Backward: reads x and dy, updates dx, and sums the parameters'
//! gradients in a second pass by column blocks, so that every sum runs over tokens in order.

use super::isa::{Kernel, Math};
use super::math;
use super::pool::{Pool, Shared};
use crate::device::NormKind;
use crate::dtype::Storage;

/// Rows of a job, columns of a column job.
const ROWS: usize = 32;
const COLUMNS: usize = 64;
/// Rows of a job forward, where nothing is summed up over them: few, for a few sequences that are decoded together.
const FORWARD_ROWS: usize = 4;

/// The parameters of a norm as slices.
#[derive(Clone, Copy)]
pub(super) struct Parameters<'a> {
    pub(super) kind: NormKind,
    pub(super) eps: f32,
    pub(super) weight: &'a [f32],
    pub(super) bias: Option<&'a [f32]>,
}

struct Forward<'a, S> {
    norm: Parameters<'a>,
    x: &'a [f32],
    y: &'a mut [S],
    stats: &'a mut [f32],
    /// Whether `stats` is given rather than computed.
    again: bool,
}

impl<S: Storage> Kernel for Forward<'_, S> {
    type Output = ();
    #[inline(always)]
    fn run<M: Math>(self) {
        let width = self.norm.weight.len();
        let rows = self.x.chunks_exact(width).zip(self.y.chunks_exact_mut(width));
        for ((x, y), stats) in rows.zip(self.stats.chunks_exact_mut(2)) {
            if !self.again {
                let mean = match self.norm.kind {
                    NormKind::LayerNorm => math::sum(x) / width as f32,
                    NormKind::RmsNorm => 0.0,
                };
                let squares = math::reduce(x, x, |v, _, sum| M::mul_add(v - mean, v - mean, sum));
                stats[0] = mean;
                stats[1] = 1.0 / (squares / width as f32 + self.norm.eps).sqrt();
            }
            let (mean, scale) = (stats[0], stats[1]);
            match self.norm.bias {
                Some(bias) => {
                    for (((y, x), w), b) in y.iter_mut().zip(x).zip(self.norm.weight).zip(bias) {
                        *y = S::store(M::mul_add((x - mean) * scale, *w, *b));
                    }
                }
                None => {
                    for ((y, x), w) in y.iter_mut().zip(x).zip(self.norm.weight) {
                        *y = S::store((x - mean) * scale * w);
                    }
                }
            }
        }
    }
}

/// `y = norm(x)`; fills `stats` (mean, 1 / deviation) or, when `again`, uses it.
pub(super) fn forward<S: Storage>(pool: &Pool, norm: Parameters<'_>, x: &[f32], y: &mut [S], stats: Stats<'_>) {
    let width = norm.weight.len();
    let rows = x.len() / width;
    let y = Shared::new(y);
    let (stats, again) = match stats {
        Stats::Compute(stats) => (Shared::new(stats), false),
        Stats::Given(stats) => {
            pool.for_ranges(rows, FORWARD_ROWS, |range| {
                let mut copy = [0.0f32; 2 * FORWARD_ROWS];
                let copy = &mut copy[..2 * range.len()];
                copy.copy_from_slice(&stats[2 * range.start..2 * range.end]);
                // SAFETY: ranges are disjoint.
                let y = unsafe { y.slice_mut(range.start * width, range.len() * width) };
                let x = &x[range.start * width..range.end * width];
                pool.isa().run(Forward { norm, x, y, stats: copy, again: true });
            });
            return;
        }
    };
    pool.for_ranges(rows, FORWARD_ROWS, |range| {
        // SAFETY: ranges are disjoint.
        let (y, stats) = unsafe {
            (y.slice_mut(range.start * width, range.len() * width), stats.slice_mut(2 * range.start, 2 * range.len()))
        };
        pool.isa().run(Forward { norm, x: &x[range.start * width..range.end * width], y, stats, again });
    });
}

/// Where a forward pass finds its statistics.
pub(super) enum Stats<'a> {
    Compute(&'a mut [f32]),
    Given(&'a [f32]),
}

struct BackwardInput<'a, S> {
    norm: Parameters<'a>,
    x: &'a [f32],
    stats: &'a [f32],
    dy: &'a [S],
    dx: &'a mut [f32],
}

impl<S: Storage> Kernel for BackwardInput<'_, S> {
    type Output = ();
    #[inline(always)]
    fn run<M: Math>(self) {
        let width = self.norm.weight.len();
        let weight = self.norm.weight;
        let rows = self.x.chunks_exact(width).zip(self.dy.chunks_exact(width));
        let rows = rows.zip(self.stats.chunks_exact(2)).zip(self.dx.chunks_exact_mut(width));
        for (((x, dy), stats), dx) in rows {
            let (mean, scale) = (stats[0], stats[1]);
            // With g = dy w and h = (x - mean) scale: dx = scale (g - mean(g) - h mean(g h)); RMSNorm lacks mean(g).
            let (mut lanes_g, mut lanes_gh) = ([0.0f32; math::LANES], [0.0f32; math::LANES]);
            let add = |x: &[f32; math::LANES],
                       dy: &[S; math::LANES],
                       weight: &[f32; math::LANES],
                       lanes_g: &mut [f32; math::LANES],
                       lanes_gh: &mut [f32; math::LANES]| {
                for i in 0..math::LANES {
                    let g = dy[i].load() * weight[i];
                    lanes_g[i] += g;
                    lanes_gh[i] = M::mul_add(g, (x[i] - mean) * scale, lanes_gh[i]);
                }
            };
            let ((xs, x_tail), (dys, dy_tail), (weights, weight_tail)) =
                (x.as_chunks(), dy.as_chunks(), weight.as_chunks());
            for ((x, dy), weight) in xs.iter().zip(dys).zip(weights) {
                add(x, dy, weight, &mut lanes_g, &mut lanes_gh);
            }
            (lanes_g, lanes_gh) = (math::whole(lanes_g), math::whole(lanes_gh));
            if !x_tail.is_empty() {
                // A gradient of 0 adds nothing.
                let (x, dy) = (math::filled(x_tail, mean), math::filled(dy_tail, S::store(0.0)));
                add(&x, &dy, &math::filled(weight_tail, 0.0), &mut lanes_g, &mut lanes_gh);
            }
            let mean_g = match self.norm.kind {
                NormKind::LayerNorm => math::sum_lanes(lanes_g) / width as f32,
                NormKind::RmsNorm => 0.0,
            };
            let mean_gh = math::sum_lanes(lanes_gh) / width as f32;
            for (((dx, x), dy), w) in dx.iter_mut().zip(x).zip(dy).zip(weight) {
                let h = (x - mean) * scale;
                *dx += scale * (dy.load() * w - mean_g - h * mean_gh);
            }
        }
    }
}

struct BackwardParameters<'a, S> {
    x: &'a [f32],
    stats: &'a [f32],
    dy: &'a [S],
    width: usize,
    first: usize,
    d_weight: &'a mut [f32],
    d_bias: Option<&'a mut [f32]>,
}

impl<S: Storage> Kernel for BackwardParameters<'_, S> {
    type Output = ();
    #[inline(always)]
    fn run<M: Math>(self) {
        let n = self.d_weight.len();
        let mut weight = [0.0f32; COLUMNS];
        let mut bias = [0.0f32; COLUMNS];
        for (row, stats) in self.stats.chunks_exact(2).enumerate() {
            let at = row * self.width + self.first;
            let (x, dy) = (&self.x[at..at + n], &self.dy[at..at + n]);
            for (((w, b), x), dy) in weight.iter_mut().zip(&mut bias).zip(x).zip(dy) {
                let dy = dy.load();
                *w = M::mul_add(dy, (x - stats[0]) * stats[1], *w);
                *b += dy;
            }
        }
        for (d, w) in self.d_weight.iter_mut().zip(weight) {
            *d += w;
        }
        if let Some(d_bias) = self.d_bias {
            for (d, b) in d_bias.iter_mut().zip(bias) {
                *d += b;
            }
        }
    }
}

/// What the backward pass reads.
pub(super) struct Saved<'a, S> {
    pub(super) x: &'a [f32],
    pub(super) stats: &'a [f32],
    pub(super) dy: &'a [S],
}

/// `dx += ...`, and the parameters' gradients.
pub(super) fn backward<S: Storage>(
    pool: &Pool,
    norm: Parameters<'_>,
    saved: &Saved<'_, S>,
    dx: &mut [f32],
    d_weight: &mut [f32],
    d_bias: Option<&mut [f32]>,
) {
    let width = norm.weight.len();
    let Saved { x, stats, dy } = *saved;
    let dx = Shared::new(dx);
    pool.for_ranges(x.len() / width, ROWS, |range| {
        let part = range.start * width..range.end * width;
        // SAFETY: ranges are disjoint.
        let dx = unsafe { dx.slice_mut(part.start, part.len()) };
        let stats = &stats[2 * range.start..2 * range.end];
        pool.isa().run(BackwardInput { norm, x: &x[part.clone()], stats, dy: &dy[part], dx });
    });
    let d_weight = Shared::new(d_weight);
    let d_bias = d_bias.map(Shared::new);
    pool.for_ranges(width, COLUMNS, |range| {
        // SAFETY: ranges are disjoint.
        let (d_weight, d_bias) = unsafe {
            (d_weight.slice_mut(range.start, range.len()), d_bias.map(|b| b.slice_mut(range.start, range.len())))
        };
        pool.isa().run(BackwardParameters { x, stats, dy, width, first: range.start, d_weight, d_bias });
    });
}
