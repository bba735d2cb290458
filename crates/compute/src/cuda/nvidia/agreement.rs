//! Whether two results of one attention agree but for the rounding of bf16.

use crate::dtype::{Bf16, DType};

/// A result: rows of so many elements.
pub(super) struct Output {
    pub(super) name: &'static str,
    pub(super) dtype: DType,
    pub(super) rows: usize,
    pub(super) width: usize,
}

/// Of a row's norm, and of the norm that rows have on average: sums of a different order, and probabilities rounded to 8 bits
/// before they are summed, make a few thousandths; a key too many or too few, another scale or another head make more.
const TOLERANCE: f64 = 1.0 / 32.0;
/// The same of log-sum-exps, which are not rounded.
const TOLERANCE_F32: f64 = 1.0 / 512.0;

impl Output {
    pub(super) fn bytes(&self) -> usize {
        self.rows * self.width * self.dtype.size()
    }

    fn values(&self, bytes: &[u8]) -> Vec<f64> {
        match self.dtype {
            DType::Bf16 => {
                bytes.as_chunks::<2>().0.iter().map(|b| f64::from(Bf16(u16::from_le_bytes(*b)).to_f32())).collect()
            }
            _ => bytes.as_chunks::<4>().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect(),
        }
    }
}

/// Where `got` is not `want`, if anywhere: a row whose difference is too long.
pub(super) fn disagreement(output: &Output, want: &[u8], got: &[u8]) -> Option<String> {
    let (want, got) = (output.values(want), output.values(got));
    let tolerance = if output.dtype == DType::F32 { TOLERANCE_F32 } else { TOLERANCE };
    // Rows may be nothing but rounding errors, such as a first row's gradient of its query: they are held to what others are.
    let usual = (want.iter().map(|x| x * x).sum::<f64>() / output.rows.max(1) as f64).sqrt();
    for (i, (want, got)) in want.chunks(output.width).zip(got.chunks(output.width)).enumerate() {
        let norm = want.iter().map(|x| x * x).sum::<f64>().sqrt();
        let distance = want.iter().zip(got).map(|(x, y)| (x - y) * (x - y)).sum::<f64>().sqrt();
        // NaN does not agree with anything.
        let agrees = distance <= tolerance * (norm + usual);
        if !agrees {
            return Some(format!(
                "row {i} of {} differs from ours by {distance:.3e}, of a norm of {norm:.3e}",
                output.name
            ));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: usize = 50;
    const WIDTH: usize = 8;

    fn encoded(values: &[f32], dtype: DType) -> Vec<u8> {
        match dtype {
            DType::Bf16 => values.iter().flat_map(|x| Bf16::from_f32(*x).0.to_le_bytes()).collect(),
            _ => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        }
    }

    fn values() -> Vec<f32> {
        (0..ROWS * WIDTH).map(|i| ((i * 7919 % 613) as f32 / 300.0 - 1.0) / (1.0 + (i / WIDTH) as f32)).collect()
    }

    #[test]
    fn rounding_agrees_and_one_wrong_row_does_not() {
        let output = Output { name: "out", dtype: DType::Bf16, rows: ROWS, width: WIDTH };
        assert_eq!(output.bytes(), 2 * ROWS * WIDTH);
        let want = encoded(&values(), DType::Bf16);
        let agrees = |changed: &[f32]| disagreement(&output, &want, &encoded(changed, DType::Bf16)).is_none();
        let rounded: Vec<f32> = values().iter().enumerate().map(|(i, x)| x * (1.0 + [0.01, -0.01][i % 2])).collect();
        assert!(agrees(&rounded));
        assert!(!agrees(&values().iter().map(|x| x * 1.1).collect::<Vec<_>>()), "another scale");
        for row in 0..5 {
            let mut wrong = values();
            wrong[row * WIDTH..(row + 1) * WIDTH].reverse();
            assert!(!agrees(&wrong), "row {row}");
            wrong[row * WIDTH..].iter_mut().take(1).for_each(|x| *x = f32::NAN);
            assert!(!agrees(&wrong), "NaN in row {row}");
        }
        assert!(disagreement(&output, &want, &vec![0xff; want.len()]).is_some(), "not written");
    }

    #[test]
    fn a_row_of_rounding_errors_is_held_to_the_others() {
        let output = Output { name: "dq", dtype: DType::Bf16, rows: ROWS, width: WIDTH };
        let (mut want, mut got) = (values(), values());
        want[..WIDTH].fill(1e-9);
        got[..WIDTH].fill(-1e-8);
        let agree = |want: &[f32], got: &[f32]| {
            disagreement(&output, &encoded(want, DType::Bf16), &encoded(got, DType::Bf16)).is_none()
        };
        assert!(agree(&want, &got));
        got[..WIDTH].fill(0.5);
        assert!(!agree(&want, &got));
    }

    #[test]
    fn log_sum_exps_agree_more_closely() {
        let output = Output { name: "lse", dtype: DType::F32, rows: ROWS * WIDTH, width: 1 };
        let want = encoded(&values(), DType::F32);
        let with = |change: f32| values().iter().map(|x| x + change).collect::<Vec<_>>();
        assert!(disagreement(&output, &want, &encoded(&with(1e-5), DType::F32)).is_none());
        // Base 2 in place of e would be a factor of 1.44.
        assert!(disagreement(&output, &want, &encoded(&with(0.01), DType::F32)).is_some());
    }
}
