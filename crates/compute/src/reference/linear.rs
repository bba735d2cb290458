//! The linear layer `y = x Wᵀ + b`, `W` being `[rows, columns]` (outputs by inputs, as PyTorch's `nn.Linear` keeps it).
//!
//! With `dy` the gradient of `y`: `dx = dy W`, `dW = dyᵀ x`, `db = sum_t dy[t]` (the chain rule on each element).

use super::dot;

/// `y[t, r] = sum_c x[t, c] W[r, c] + b[r]`.
pub fn forward(x: &[f64], weight: &[f64], bias: Option<&[f64]>, columns: usize) -> Vec<f64> {
    let mut y = Vec::new();
    for x in x.chunks_exact(columns) {
        for (r, weight) in weight.chunks_exact(columns).enumerate() {
            y.push(dot(x, weight) + bias.map_or(0.0, |bias| bias[r]));
        }
    }
    y
}

/// `dx[t, c] = sum_r dy[t, r] W[r, c]`.
pub fn backward_input(dy: &[f64], weight: &[f64], rows: usize) -> Vec<f64> {
    let columns = weight.len() / rows;
    let mut dx = vec![0.0; dy.len() / rows * columns];
    for (dy, dx) in dy.chunks_exact(rows).zip(dx.chunks_exact_mut(columns)) {
        for (dy, weight) in dy.iter().zip(weight.chunks_exact(columns)) {
            for (dx, weight) in dx.iter_mut().zip(weight) {
                *dx += dy * weight;
            }
        }
    }
    dx
}

/// `dW[r, c] = sum_t dy[t, r] x[t, c]` and `db[r] = sum_t dy[t, r]`.
pub fn backward_weight(dy: &[f64], x: &[f64], rows: usize, columns: usize) -> (Vec<f64>, Vec<f64>) {
    let mut d_weight = vec![0.0; rows * columns];
    let mut d_bias = vec![0.0; rows];
    for (dy, x) in dy.chunks_exact(rows).zip(x.chunks_exact(columns)) {
        for ((dy, d_weight), d_bias) in dy.iter().zip(d_weight.chunks_exact_mut(columns)).zip(&mut d_bias) {
            *d_bias += dy;
            for (d_weight, x) in d_weight.iter_mut().zip(x) {
                *d_weight += dy * x;
            }
        }
    }
    (d_weight, d_bias)
}
