//! Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon): momentum, then the direction's singular values are
//! driven to about 1 by five Newton-Schulz steps. Scaled to AdamW's size as in Moonlight (Liu et al. 2025,
//! arXiv 2502.16982).

use super::linear;
use crate::device::Muon;

/// Jordan's coefficients: `X <- a X + b (X Xᵀ) X + c (X Xᵀ)² X`.
const COEFFICIENTS: (f64, f64, f64) = (3.4445, -4.7750, 2.0315);

fn transpose(x: &[f64], columns: usize) -> Vec<f64> {
    (0..columns).flat_map(|c| x.iter().skip(c).step_by(columns)).copied().collect()
}

/// `a b`, where `b` has `columns` columns.
fn product(a: &[f64], b: &[f64], columns: usize) -> Vec<f64> {
    let inner = b.len() / columns;
    linear::forward(a, &transpose(b, columns), None, inner)
}

/// `x [rows, columns]` with every singular value near 1, by Newton-Schulz in f64.
pub fn orthogonalise(x: &[f64], columns: usize) -> Vec<f64> {
    let norm = super::sum_of_squares(x).sqrt() + 1e-7;
    let rows = x.len() / columns;
    let mut x: Vec<f64> = x.iter().map(|x| x / norm).collect();
    for _ in 0..5 {
        let gram = product(&x, &transpose(&x, columns), rows);
        let gram_x = product(&gram, &x, columns);
        let gram_gram_x = product(&gram, &gram_x, columns);
        let (a, b, c) = COEFFICIENTS;
        for i in 0..x.len() {
            x[i] = a * x[i] + b * gram_x[i] + c * gram_gram_x[i];
        }
    }
    x
}

/// One step in place, with `g = gradient * gradient_scale`: `m = μ m + (1 - μ) g`, direction
/// `d = orthogonalise(μ m + (1 - μ) g)` (Nesterov), `w = w (1 - lr λ) - lr 0.2 sqrt(max(rows, columns)) d`.
pub fn step(update: &Muon, columns: usize, weight: &mut [f64], gradient: &[f64], momentum: &mut [f64]) {
    let rows = weight.len() / columns;
    let mu = f64::from(update.momentum);
    let mut direction = Vec::new();
    for (m, g) in momentum.iter_mut().zip(gradient) {
        let g = g * f64::from(update.gradient_scale);
        *m = mu * *m + (1.0 - mu) * g;
        direction.push(mu * *m + (1.0 - mu) * g);
    }
    let lr = f64::from(update.lr);
    let size = 0.2 * (rows.max(columns) as f64).sqrt();
    for (w, d) in weight.iter_mut().zip(orthogonalise(&direction, columns)) {
        *w = *w * (1.0 - lr * f64::from(update.weight_decay)) - lr * size * d;
    }
}
