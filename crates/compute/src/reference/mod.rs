//! Every operation of a [`Device`](crate::Device) as its formula reads: what the fast kernels are held to.
//!
//! Owns no speed: loops over slices, everything in f64, `T x T` matrices where the formula has them. Called by
//! [`selftest`](crate::selftest), which compares a device with it, and by readers who want to know what a kernel
//! computes. Matrices are row-major; sizes that follow from a slice's length are not passed.
//!
//! Where an operation leaves part of its output alone (cache rows that no token is written to), the result here
//! holds NaN: "untouched".

pub mod activation;
pub mod adamw;
pub mod attention;
pub mod dropout;
pub mod embedding;
pub mod fp8;
pub mod head;
pub mod kv_cache;
pub mod linear;
pub mod moments;
pub mod muon;
pub mod norm;
pub mod qkv;
pub mod quantized;

#[cfg(test)]
mod tests;

/// `sum x²`, the square of the norm that gradient clipping compares.
pub fn sum_of_squares(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum()
}

/// `sum a[i] b[i]`.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
