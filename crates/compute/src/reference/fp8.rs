//! Rounding a tensor to 8-bit floating point with one scale, just in time (Micikevicius et al. 2022, arXiv 2209.05433).

use crate::fp8::Fp8;

/// A smaller largest value counts as this: one over it must be finite.
const LEAST: f32 = 7.888_609e-31;

/// The codes of a tensor and their scale: `codes[i] scale` is about `x[i]`. NaN for the scale where a value is not finite.
///
/// `scale = max |x| / L`, `codes[i] = round(x[i] L / max |x|)`, `L` being the format's largest number. In f32, whose roundings
/// decide between two codes that are equally near.
pub fn quantise(x: &[f32], format: Fp8) -> (Vec<u8>, f32) {
    let finite = x.iter().all(|x| x.is_finite());
    let largest = x.iter().fold(LEAST, |largest, x| largest.max(x.abs()));
    let largest = if finite { largest } else { f32::NAN };
    let factor = format.largest() / largest;
    (x.iter().map(|x| format.encode(x * factor)).collect(), largest / format.largest())
}

/// What is multiplied in place of a tensor.
pub fn quantised(x: &[f32], format: Fp8) -> Vec<f64> {
    let (codes, scale) = quantise(x, format);
    codes.iter().map(|code| f64::from(format.decode(*code)) * f64::from(scale)).collect()
}
