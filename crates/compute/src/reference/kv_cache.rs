//! A KV cache of 8 bits ([`crate::CacheFormat::Q8`]): of each head of a token's keys or values `code * scale`, where the scale is
//! the head's largest magnitude divided by 127, as bf16.

use super::quantized::scale_and_zero;
use crate::cache_format::{CacheFormat, SCALE_BYTES};
use crate::dtype::Bf16;
use crate::matrix_format::MatrixFormat;

/// The rows of values `[rows, n_kv_head * head_dim]`, each code the nearest one.
pub fn quantize(values: &[f32], n_kv_head: usize, head_dim: usize) -> Vec<u8> {
    let row_bytes = CacheFormat::Q8.row_bytes(n_kv_head, head_dim);
    let mut bytes = Vec::new();
    for row in values.chunks_exact(n_kv_head * head_dim) {
        let first = bytes.len();
        for head in row.chunks_exact(head_dim) {
            let largest = match head.iter().any(|x| x.is_nan()) {
                true => f32::NAN,
                false => head.iter().fold(0.0_f32, |most, x| most.max(x.abs())),
            };
            let scale = Bf16::from_f32(largest / 127.0);
            let code = |x: f32| if largest > 0.0 { (x / scale.to_f32()).round_ties_even() } else { 0.0 };
            bytes.extend(head.iter().map(|x| code(*x) as i8 as u8));
            bytes.extend(scale.0.to_le_bytes());
        }
        bytes.resize(first + row_bytes, 0);
    }
    bytes
}

/// What rows stand for, `[rows, n_kv_head * head_dim]`, and the heads' scales, `[rows, n_kv_head]`.
pub fn dequantize(rows: &[u8], n_kv_head: usize, head_dim: usize) -> (Vec<f64>, Vec<f64>) {
    let (mut values, mut scales) = (Vec::new(), Vec::new());
    for row in rows.chunks_exact(CacheFormat::Q8.row_bytes(n_kv_head, head_dim)) {
        for head in row.chunks_exact(head_dim + SCALE_BYTES).take(n_kv_head) {
            let (codes, tail) = head.split_at(head_dim);
            let header = u16::from_le_bytes([tail[0], tail[1]]);
            // The same bf16 as that of quantised weights, but for what a cache need not hide.
            let scale = match Bf16(header).to_f32().is_finite() {
                true => scale_and_zero(MatrixFormat::Q8, header).0,
                false => f64::NAN,
            };
            values.extend(codes.iter().map(|code| f64::from(*code as i8) * scale));
            scales.push(scale);
        }
    }
    (values, scales)
}
