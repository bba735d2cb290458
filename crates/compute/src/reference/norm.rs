//! LayerNorm (Ba et al. 2016, arXiv 1607.06450) and RMSNorm (Zhang and Sennrich 2019, arXiv 1910.07467), row by row.
//!
//! Both are `y = h w (+ b)` with `h = (x - mean) s` and `s = 1 / sqrt(mean((x - mean)²) + eps)`; RMSNorm's mean is 0.
//! Backward, with `g = dy w`: `dx = s (g - mean(g) - h mean(g h))`, where RMSNorm lacks `mean(g)`;
//! `dw = sum_t dy h`, `db = sum_t dy`.

use super::dot;
use crate::device::NormKind;

/// A norm's parameters.
#[derive(Clone, Copy)]
pub struct Norm<'a> {
    /// Which formula.
    pub kind: NormKind,
    /// Added under the root.
    pub eps: f64,
    /// Scale, `[width]`.
    pub weight: &'a [f64],
    /// Shift, `[width]`.
    pub bias: Option<&'a [f64]>,
}

/// Gradients of a norm.
pub struct Gradient {
    /// `[tokens, width]`.
    pub x: Vec<f64>,
    /// `[width]`.
    pub weight: Vec<f64>,
    /// `[width]`.
    pub bias: Vec<f64>,
}

fn mean(x: &[f64]) -> f64 {
    x.iter().sum::<f64>() / x.len() as f64
}

/// `(mean, s)` of one row.
fn statistics(norm: &Norm<'_>, x: &[f64]) -> (f64, f64) {
    let center = match norm.kind {
        NormKind::LayerNorm => mean(x),
        NormKind::RmsNorm => 0.0,
    };
    let variance = x.iter().map(|x| (x - center).powi(2)).sum::<f64>() / x.len() as f64;
    (center, 1.0 / (variance + norm.eps).sqrt())
}

/// `y [tokens, width]` and the statistics `[tokens, 2]`: mean, `s`.
pub fn forward(norm: &Norm<'_>, x: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let (mut y, mut stats) = (Vec::new(), Vec::new());
    for x in x.chunks_exact(norm.weight.len()) {
        let (center, s) = statistics(norm, x);
        stats.extend([center, s]);
        for (i, x) in x.iter().enumerate() {
            y.push((x - center) * s * norm.weight[i] + norm.bias.map_or(0.0, |bias| bias[i]));
        }
    }
    (y, stats)
}

/// Gradients of the input and of the parameters.
pub fn backward(norm: &Norm<'_>, x: &[f64], dy: &[f64]) -> Gradient {
    let width = norm.weight.len();
    let mut gradient = Gradient { x: Vec::new(), weight: vec![0.0; width], bias: vec![0.0; width] };
    for (x, dy) in x.chunks_exact(width).zip(dy.chunks_exact(width)) {
        let (center, s) = statistics(norm, x);
        let h: Vec<f64> = x.iter().map(|x| (x - center) * s).collect();
        let g: Vec<f64> = dy.iter().zip(norm.weight).map(|(dy, w)| dy * w).collect();
        let mean_g = match norm.kind {
            NormKind::LayerNorm => mean(&g),
            NormKind::RmsNorm => 0.0,
        };
        let mean_gh = dot(&g, &h) / width as f64;
        for i in 0..width {
            gradient.x.push(s * (g[i] - mean_g - h[i] * mean_gh));
            gradient.weight[i] += dy[i] * h[i];
            gradient.bias[i] += dy[i];
        }
    }
    gradient
}
