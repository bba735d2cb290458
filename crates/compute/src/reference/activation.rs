//! The MLP's non-linearities: exact GELU (Hendrycks and Gimpel 2016, arXiv 1606.08415), SwiGLU (Shazeer 2020,
//! arXiv 2002.05202), squared ReLU (So et al. 2021, arXiv 2109.08668).

use crate::device::ActivationKind;

/// `Φ(x)`, the normal distribution function: `(1 + erf(x / sqrt 2)) / 2`.
fn normal_cdf(x: f64) -> f64 {
    0.5 * (1.0 + libm::erf(x * std::f64::consts::FRAC_1_SQRT_2))
}

/// `φ(x) = Φ'(x)`, the normal density.
fn normal_pdf(x: f64) -> f64 {
    (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

/// The logistic function.
fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// `y [tokens, n_ff]` of `x [tokens, input_width]`; a SwiGLU row holds the gate, then up: `y = gate σ(gate) up`.
pub fn forward(kind: ActivationKind, x: &[f64], n_ff: usize) -> Vec<f64> {
    let mut y = Vec::new();
    for row in x.chunks_exact(kind.input_width(n_ff)) {
        for i in 0..n_ff {
            let x = row[i];
            y.push(match kind {
                ActivationKind::Gelu => x * normal_cdf(x),
                ActivationKind::ReluSquared => x.max(0.0).powi(2),
                ActivationKind::SwiGlu => x * sigmoid(x) * row[n_ff + i],
            });
        }
    }
    y
}

/// `dx`, shaped like `x`.
///
/// GELU: `dy (Φ(x) + x φ(x))`. Squared ReLU: `2 dy max(x, 0)`. SwiGLU, with `silu(z) = z σ(z)` and
/// `silu'(z) = σ(z) (1 + z (1 - σ(z)))`: `d_gate = dy up silu'(gate)`, `d_up = dy silu(gate)`.
pub fn backward(kind: ActivationKind, x: &[f64], dy: &[f64], n_ff: usize) -> Vec<f64> {
    let width = kind.input_width(n_ff);
    let mut dx = vec![0.0; x.len()];
    for ((x, dy), dx) in x.chunks_exact(width).zip(dy.chunks_exact(n_ff)).zip(dx.chunks_exact_mut(width)) {
        for i in 0..n_ff {
            match kind {
                ActivationKind::Gelu => dx[i] = dy[i] * (normal_cdf(x[i]) + x[i] * normal_pdf(x[i])),
                ActivationKind::ReluSquared => dx[i] = dy[i] * 2.0 * x[i].max(0.0),
                ActivationKind::SwiGlu => {
                    let (gate, up) = (x[i], x[n_ff + i]);
                    let s = sigmoid(gate);
                    dx[i] = dy[i] * up * s * (1.0 + gate * (1.0 - s));
                    dx[n_ff + i] = dy[i] * gate * s;
                }
            }
        }
    }
    dx
}
