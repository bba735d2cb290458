//! The backward formulas against finite differences of the forward ones: the reference itself is held to calculus.

use super::*;
use crate::device::{ActivationKind, AdamW, AttentionShape, Muon, NormKind, Rounding, Span};

/// Numbers without pattern, in `(-1, 1)`.
fn numbers(len: usize, seed: u64) -> Vec<f64> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// Holds `gradient` to the central differences of `loss` around `x`.
fn differences(name: &str, x: &[f64], gradient: &[f64], loss: impl Fn(&[f64]) -> f64) {
    const STEP: f64 = 1e-5;
    assert_eq!(x.len(), gradient.len(), "{name}");
    for i in 0..x.len() {
        let at = |step: f64| {
            let mut moved = x.to_vec();
            moved[i] += step;
            loss(&moved)
        };
        let slope = (at(STEP) - at(-STEP)) / (2.0 * STEP);
        assert!(
            (slope - gradient[i]).abs() < 1e-7,
            "{name}[{i}]: {} by the formula, {slope} by differences",
            gradient[i]
        );
    }
}

#[test]
fn linear_gradients() {
    let (tokens, columns, rows) = (4, 3, 5);
    let (x, w, b) = (numbers(tokens * columns, 1), numbers(rows * columns, 2), numbers(rows, 3));
    let dy = numbers(tokens * rows, 4);
    let loss = |x: &[f64], w: &[f64], b: &[f64]| dot(&linear::forward(x, w, Some(b), columns), &dy);
    let (d_weight, d_bias) = linear::backward_weight(&dy, &x, rows, columns);
    differences("dx", &x, &linear::backward_input(&dy, &w, rows), |x| loss(x, &w, &b));
    differences("d_weight", &w, &d_weight, |w| loss(&x, w, &b));
    differences("d_bias", &b, &d_bias, |b| loss(&x, &w, b));
}

#[test]
fn norm_gradients() {
    for kind in [NormKind::LayerNorm, NormKind::RmsNorm] {
        let (x, w, b, dy) = (numbers(15, 1), numbers(5, 2), numbers(5, 3), numbers(15, 4));
        let loss = |x: &[f64], weight: &[f64], bias: &[f64]| {
            dot(&norm::forward(&norm::Norm { kind, eps: 1e-3, weight, bias: Some(bias) }, x).0, &dy)
        };
        let gradient = norm::backward(&norm::Norm { kind, eps: 1e-3, weight: &w, bias: Some(&b) }, &x, &dy);
        differences("dx", &x, &gradient.x, |x| loss(x, &w, &b));
        differences("d_weight", &w, &gradient.weight, |w| loss(&x, w, &b));
        differences("d_bias", &b, &gradient.bias, |b| loss(&x, &w, b));
    }
}

#[test]
fn activation_gradients() {
    for kind in [ActivationKind::Gelu, ActivationKind::SwiGlu, ActivationKind::ReluSquared] {
        let x: Vec<f64> = numbers(3 * kind.input_width(4), 1).iter().map(|x| 3.0 * x).collect();
        let dy = numbers(12, 2);
        let dx = activation::backward(kind, &x, &dy, 4);
        differences("dx", &x, &dx, |x| dot(&activation::forward(kind, x, 4), &dy));
    }
}

#[test]
fn attention_gradients() {
    let shape = AttentionShape { n_head: 4, n_kv_head: 2, head_dim: 2 };
    let spans =
        [Span { q_start: 0, q_len: 3, kv_start: 0, kv_len: 3 }, Span { q_start: 3, q_len: 4, kv_start: 3, kv_len: 4 }];
    let (q, k, v, d_out) = (numbers(7 * 8, 1), numbers(7 * 4, 2), numbers(7 * 4, 3), numbers(7 * 8, 4));
    let out = attention::forward(shape, &spans, [&q, &k, &v]).out;
    let [dq, dk, dv] = attention::backward(shape, &spans, [&q, &k, &v], &out, &d_out);
    let loss = |q: &[f64], k: &[f64], v: &[f64]| dot(&attention::forward(shape, &spans, [q, k, v]).out, &d_out);
    differences("dq", &q, &dq, |q| loss(q, &k, &v));
    differences("dk", &k, &dk, |k| loss(&q, k, &v));
    differences("dv", &v, &dv, |v| loss(&q, &k, v));
}

#[test]
fn attention_looks_no_further_than_its_own_position() {
    let shape = AttentionShape { n_head: 1, n_kv_head: 1, head_dim: 2 };
    let spans = [Span { q_start: 0, q_len: 2, kv_start: 1, kv_len: 4 }];
    let (q, k, v) = (numbers(4, 1), numbers(12, 2), numbers(12, 3));
    let before = attention::forward(shape, &spans, [&q, &k, &v]).out;
    // Query 0 sits at position 2 of the span: row 3. Row 4 is its future, rows 0 and 5 belong to others.
    for row in [0, 4, 5] {
        let mut other = v.clone();
        other[2 * row] += 1.0;
        let after = attention::forward(shape, &spans, [&q, &k, &other]).out;
        assert_eq!(before[..2], after[..2], "row {row}");
        assert_eq!(before[2] == after[2], row != 4, "row {row}");
    }
}

#[test]
fn split_gradients() {
    let shape = AttentionShape { n_head: 2, n_kv_head: 1, head_dim: 4 };
    let (cos, sin): (Vec<f64>, Vec<f64>) = numbers(6, 9).iter().map(|x| (x.cos(), x.sin())).unzip();
    let (rows, q_weight, k_weight) = (numbers(2 * 16, 1), numbers(4, 2), numbers(4, 3));
    let (dq, dk, dv) = (numbers(16, 4), numbers(12, 5), numbers(12, 6));
    let with = |norm| qkv::Split { shape, norm, cos: &cos, sin: &sin, positions: &[2, 0], slots: &[1, 2] };
    let loss = |rows: &[f64], norm: Option<(f64, &[f64], &[f64])>| {
        let split = qkv::Split { shape, norm, cos: &cos, sin: &sin, positions: &[2, 0], slots: &[1, 2] };
        let [q, k, v] = qkv::forward(&split, rows, 3);
        // The first slot is written by no token.
        assert!(k[..4].iter().chain(&v[..4]).all(|x| x.is_nan()));
        dot(&q, &dq) + dot(&k[4..], &dk[4..]) + dot(&v[4..], &dv[4..])
    };
    for norm in [None, Some((1e-3, &q_weight[..], &k_weight[..]))] {
        let gradient = qkv::backward(&with(norm), &rows, [&dq, &dk, &dv]);
        differences("d_qkv", &rows, &gradient.qkv, |rows| loss(rows, norm));
        if norm.is_some() {
            differences("d_q_weight", &q_weight, &gradient.q_weight, |w| loss(&rows, Some((1e-3, w, &k_weight))));
            differences("d_k_weight", &k_weight, &gradient.k_weight, |w| loss(&rows, Some((1e-3, &q_weight, w))));
        }
    }
}

#[test]
fn head_gradients() {
    let (hidden, weight, weights) = (numbers(4 * 3, 1), numbers(5 * 3, 2), [1.0, 0.0, 0.5, 2.0]);
    let targets = [4, 1, 0, 0];
    let loss = |hidden: &[f64], weight: &[f64]| {
        let head = head::Head { hidden, weight, targets: &targets, weights: &weights };
        0.3 * dot(&head::forward(&head).losses, &weights)
    };
    let head = head::Head { hidden: &hidden, weight: &weight, targets: &targets, weights: &weights };
    let (d_hidden, d_weight) = head::backward(&head, 0.3);
    differences("d_hidden", &hidden, &d_hidden, |hidden| loss(hidden, &weight));
    differences("d_weight", &weight, &d_weight, |weight| loss(&hidden, weight));
}

#[test]
fn head_of_equal_logits_costs_the_logarithm_of_the_vocabulary() {
    let head = head::Head { hidden: &[0.0, 0.0], weight: &[1.0; 14], targets: &[3], weights: &[1.0] };
    let rows = head::forward(&head);
    assert!((rows.losses[0] - 7.0f64.ln()).abs() < 1e-12);
    assert_eq!(rows.margins[0], 0.0);
}

#[test]
fn embedding_gradient() {
    let (table, dx, ids) = (numbers(8, 1), numbers(6, 2), [3, 0, 3]);
    let d_table = embedding::backward(&ids, &dx, 4);
    differences("d_table", &table, &d_table, |table| dot(&embedding::forward(table, &ids, 2), &dx));
}

#[test]
fn adamw_moves_by_the_learning_rate_at_first() {
    // With bias correction the first step is lr in the direction of the gradient's sign, whatever its size.
    let update = AdamW {
        lr: 0.5,
        beta1: 0.9,
        beta2: 0.95,
        eps: 0.0,
        weight_decay: 0.25,
        step: 1,
        gradient_scale: 3.0,
        seed: 0,
        weight_rounding: Rounding::Nearest,
    };
    let (mut weight, mut m, mut v) = ([1.0, 1.0], [0.0; 2], [0.0; 2]);
    adamw::step(&update, &mut weight, &[1e-3, -40.0], [&mut m, &mut v]);
    assert!((weight[0] - (0.875 - 0.5)).abs() < 1e-12 && (weight[1] - (0.875 + 0.5)).abs() < 1e-12, "{weight:?}");
}

#[test]
fn muon_drives_singular_values_to_about_one() {
    for (rows, columns) in [(6, 10), (10, 6)] {
        let x = muon::orthogonalise(&numbers(rows * columns, 7), columns);
        // A wide X Xᵀ (a tall Xᵀ X) has the squared singular values: its trace is their sum, each in about [0.7, 1.2]².
        let mean_square = sum_of_squares(&x) / rows.min(columns) as f64;
        assert!((0.49..1.44).contains(&mean_square), "{rows} x {columns}: {mean_square}");
    }
    let weight_rounding = Rounding::Nearest;
    let update = Muon { lr: 0.1, momentum: 0.9, weight_decay: 0.0, gradient_scale: 1.0, seed: 0, weight_rounding };
    let (mut weight, mut momentum) = (vec![0.0; 60], vec![0.0; 60]);
    muon::step(&update, 10, &mut weight, &numbers(60, 8), &mut momentum);
    // The step's root mean square is about 0.2 lr, as AdamW's is.
    let size = (sum_of_squares(&weight) / 60.0).sqrt() / 0.1;
    assert!((0.13..0.25).contains(&size), "{size}");
}

#[test]
fn dropout_statistics_see_a_wrong_share_and_a_wrong_factor() {
    let before = vec![1.0; 1000];
    let fair: Vec<f64> = (0..1000).map(|i| if i % 4 == 0 { 0.0 } else { 1.0 / 0.75 }).collect();
    let statistics = dropout::statistics(0.25, &before, &fair);
    assert!(statistics.survivor_error < 1e-12 && statistics.deviations == 0.0);
    assert!(dropout::statistics(0.1, &before, &fair).deviations > 5.0);
    assert!(dropout::statistics(0.25, &before, &before).survivor_error > 0.2);
}
