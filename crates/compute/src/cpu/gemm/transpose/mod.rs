//! Transposes in registers: rows of a weight or of keys into panels. A word is what one lane of a panel holds for a group
//! of `k`: a pair of bf16 or one f32.

pub(super) mod avx2;
pub(super) mod avx512;
