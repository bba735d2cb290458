//! AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101).

use crate::device::AdamW;

/// One step in place, with `g = gradient * gradient_scale`: `m = β1 m + (1 - β1) g`, `v = β2 v + (1 - β2) g²`,
/// `w = w (1 - lr λ) - lr m̂ / (sqrt v̂ + eps)`, where `m̂ = m / (1 - β1^step)` and `v̂ = v / (1 - β2^step)`.
pub fn step(update: &AdamW, weight: &mut [f64], gradient: &[f64], [m, v]: [&mut [f64]; 2]) {
    let (lr, decay, eps) = (f64::from(update.lr), f64::from(update.weight_decay), f64::from(update.eps));
    let (beta1, beta2) = (f64::from(update.beta1), f64::from(update.beta2));
    for i in 0..weight.len() {
        let g = gradient[i] * f64::from(update.gradient_scale);
        m[i] = beta1 * m[i] + (1.0 - beta1) * g;
        v[i] = beta2 * v[i] + (1.0 - beta2) * g * g;
        let m_hat = m[i] / (1.0 - beta1.powf(update.step as f64));
        let v_hat = v[i] / (1.0 - beta2.powf(update.step as f64));
        weight[i] = weight[i] * (1.0 - lr * decay) - lr * m_hat / (v_hat.sqrt() + eps);
    }
}
