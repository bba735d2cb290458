//! [`Batch`]: what every training stage consumes. Made by `loader` (pre-training) and `packing` (fine-tuning).

use crate::error::Error;

/// Token ids laid end to end, with a target and a weight for each and the boundaries that attention never crosses.
///
/// No padding: a pre-training row is one full segment, fine-tuning packs conversations of any length.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Batch {
    /// `[n]` ids that the model reads.
    pub tokens: Vec<u32>,
    /// `[n]` the id to predict at each position.
    pub targets: Vec<u32>,
    /// `[n]` weight of each target in the loss: 0 where nothing is to be learned.
    pub weights: Vec<f32>,
    /// Segment boundaries: starts with 0, strictly rises, ends with `n`.
    pub cu_seqlens: Vec<u32>,
}

impl Batch {
    /// A batch whose parts agree.
    ///
    /// # Errors
    /// [`Error::BatchShape`] when lengths differ, a boundary is out of order, or a weight is negative or not finite.
    pub fn new(tokens: Vec<u32>, targets: Vec<u32>, weights: Vec<f32>, cu_seqlens: Vec<u32>) -> Result<Self, Error> {
        let batch = Self { tokens, targets, weights, cu_seqlens };
        match batch.fault() {
            Some(fault) => Err(Error::BatchShape { fault }),
            None => Ok(batch),
        }
    }

    /// Rows of `context + 1` ids as full segments: position `t` of a row predicts its id `t + 1`, all with weight 1.
    ///
    /// # Errors
    /// [`Error::BatchShape`] when a row has fewer than two ids.
    pub fn from_rows<'a>(rows: impl IntoIterator<Item = &'a [u32]>) -> Result<Self, Error> {
        let mut batch = Self { cu_seqlens: vec![0], ..Self::default() };
        for row in rows {
            batch.tokens.extend_from_slice(&row[..row.len().saturating_sub(1)]);
            batch.targets.extend_from_slice(row.get(1..).unwrap_or_default());
            batch.cu_seqlens.push(batch.tokens.len() as u32);
        }
        batch.weights = vec![1.0; batch.tokens.len()];
        Self::new(batch.tokens, batch.targets, batch.weights, batch.cu_seqlens)
    }

    /// Positions in the batch.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// True when there is no position.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Sum of the weights: what this batch adds to the normaliser of its optimizer step.
    pub fn supervised(&self) -> f64 {
        self.weights.iter().map(|&weight| f64::from(weight)).sum()
    }

    fn fault(&self) -> Option<String> {
        let n = self.tokens.len();
        if self.targets.len() != n || self.weights.len() != n {
            return Some(format!("{n} tokens, {} targets, {} weights", self.targets.len(), self.weights.len()));
        }
        if let Some(at) = self.weights.iter().position(|w| !w.is_finite() || *w < 0.0) {
            return Some(format!("weight {} at position {at}", self.weights[at]));
        }
        let ends = (self.cu_seqlens.first(), self.cu_seqlens.last());
        let closed = ends.0 == Some(&0) && ends.1.is_some_and(|&last| last as usize == n);
        if !closed || self.cu_seqlens.windows(2).any(|pair| pair[0] >= pair[1]) {
            let shown = &self.cu_seqlens[..self.cu_seqlens.len().min(8)];
            return Some(format!("boundaries {shown:?}... for {n} tokens"));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_shifted_segments() {
        let batch = Batch::from_rows([[1, 2, 3].as_slice(), &[4, 5, 6]]).unwrap();
        assert_eq!(batch.tokens, [1, 2, 4, 5]);
        assert_eq!(batch.targets, [2, 3, 5, 6]);
        assert_eq!(batch.cu_seqlens, [0, 2, 4]);
        assert_eq!((batch.supervised(), batch.len(), batch.is_empty()), (4.0, 4, false));
    }

    #[test]
    fn parts_that_disagree_are_refused() {
        let make = |targets: &[u32], weights: &[f32], bounds: &[u32]| {
            Batch::new(vec![1, 2], targets.to_vec(), weights.to_vec(), bounds.to_vec())
        };
        assert!(make(&[2, 3], &[0.0, 0.5], &[0, 1, 2]).is_ok());
        for (targets, weights, bounds) in [
            (&[2][..], &[1.0, 1.0][..], &[0, 2][..]),
            (&[2, 3], &[1.0], &[0, 2]),
            (&[2, 3], &[1.0, f32::NAN], &[0, 2]),
            (&[2, 3], &[1.0, -1.0], &[0, 2]),
            (&[2, 3], &[1.0, 1.0], &[]),
            (&[2, 3], &[1.0, 1.0], &[1, 2]),
            (&[2, 3], &[1.0, 1.0], &[0, 1]),
            (&[2, 3], &[1.0, 1.0], &[0, 1, 1, 2]),
        ] {
            let refused = make(targets, weights, bounds);
            assert!(matches!(refused, Err(Error::BatchShape { .. })), "{bounds:?}");
        }
        assert!(Batch::from_rows([[1].as_slice()]).is_err());
    }
}
