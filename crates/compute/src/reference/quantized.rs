//! What a quantised weight stands for: `(code - zero) * scale`, block by block ([`crate::quantize`]).

use crate::matrix_format::MatrixFormat;
use crate::quantize::{BLOCK, Block};

/// The scale and the zero point in a header, read digit by digit.
pub fn scale_and_zero(format: MatrixFormat, header: u16) -> (f64, f64) {
    match format {
        // A bf16: sign, eight bits of exponent, seven of mantissa.
        MatrixFormat::Q8 => {
            let (exponent, mantissa) = (i32::from(header >> 7), f64::from(header & 127) / 128.0);
            let scale = if exponent == 0 { mantissa * 2.0 } else { 1.0 + mantissa };
            (scale * 2.0_f64.powi(exponent - 127), 0.0)
        }
        MatrixFormat::Q4 => {
            let (exponent, mantissa) = (i32::from(header >> 10), f64::from(header >> 6 & 15) / 16.0);
            ((1.0 + mantissa) * 2.0_f64.powi(exponent - 50), f64::from(header & 63) / 4.0)
        }
        MatrixFormat::F32 | MatrixFormat::Bf16 | MatrixFormat::Fp8 => panic!("no headers in this format"),
    }
}

/// The weights of rows of `columns`, from their blocks.
pub fn dequantize(format: MatrixFormat, blocks: &[Block], columns: usize) -> Vec<f64> {
    let mut weights = Vec::new();
    for row in blocks.chunks_exact(columns.div_ceil(BLOCK)) {
        for column in 0..columns {
            let block = &row[column / BLOCK];
            let (scale, zero) = scale_and_zero(format, block.header);
            let code = block.codes[column % BLOCK];
            let code = if format == MatrixFormat::Q8 { f64::from(code as i8) } else { f64::from(code) };
            weights.push((code - zero) * scale);
        }
    }
    weights
}

/// Activations as the processor multiplies them: in blocks of a row of `columns` the nearest of 255 multiples of a scale,
/// which is the largest magnitude divided by 127; ties to even, in f32.
pub fn rounded_activations(x: &[f32], columns: usize) -> Vec<f64> {
    let one = |x: &[f32]| {
        let largest = x.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
        let (scale, inverse) = (largest / 127.0, if largest < 1e-30 { 0.0 } else { 127.0 / largest });
        x.iter().map(|x| f64::from((x * inverse).round_ties_even()) * f64::from(scale)).collect::<Vec<_>>()
    };
    x.chunks(columns).flat_map(|row| row.chunks(BLOCK)).flat_map(one).collect()
}

/// A scale in half precision: 11 significant bits, to nearest even (numbers below 2^-14 have fewer there).
fn half(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits((bits + 0xfff + (bits >> 13 & 1)) & !0x1fff)
}

/// For comparison: what ggml's `quantize_row_q4_0_ref` makes of a row, restored. A scale in half precision, no zero point.
pub fn ggml_q4_0(x: &[f32]) -> Vec<f64> {
    let one = |x: &[f32]| {
        let largest = x.iter().fold(0.0_f32, |most, x| if x.abs() > most.abs() { *x } else { most });
        let d = largest / -8.0;
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        let code = |x: f32| ((x * inverse + 8.5) as u8).min(15);
        x.iter().map(|x| f64::from((f32::from(code(*x)) - 8.0) * half(d))).collect::<Vec<_>>()
    };
    x.chunks(BLOCK).flat_map(one).collect()
}

/// For comparison: what ggml's `quantize_row_q8_0_ref` makes of a row, restored.
pub fn ggml_q8_0(x: &[f32]) -> Vec<f64> {
    let one = |x: &[f32]| {
        let d = x.iter().fold(0.0_f32, |most, x| most.max(x.abs())) / 127.0;
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        x.iter().map(|x| f64::from((x * inverse).round() * half(d))).collect::<Vec<_>>()
    };
    x.chunks(BLOCK).flat_map(one).collect()
}
