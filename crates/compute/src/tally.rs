//! A step's totals where the device's memory is the host's: what [`Device::Tally`] is for the processor.

use std::collections::VecDeque;

use crate::device::{AdamW, AdamWTensor, Device, HeadResult, Muon, MuonTensor, Rounding, StepTotals};

/// Totals of a step, and what follows from them.
#[derive(Clone, Debug, Default)]
pub struct HostTally {
    totals: StepTotals,
    /// What gradients are multiplied by; `None` before [`HostTally::clip`] and where parameters must not change.
    scale: Option<f32>,
    /// Whether a step was not finite: no later one updates.
    refused: bool,
    posted: VecDeque<StepTotals>,
}

impl HostTally {
    /// What it has come to.
    pub fn totals(&self) -> StepTotals {
        self.totals
    }

    /// [`Device::clear_tally`].
    pub fn clear(&mut self) {
        (self.totals, self.scale) = (StepTotals::default(), None);
    }

    /// [`Device::post_tally`].
    pub fn post(&mut self) {
        self.posted.push_back(self.totals);
    }

    /// [`Device::collect_tally`].
    ///
    /// # Panics
    /// None were posted.
    pub fn collect(&mut self) -> StepTotals {
        self.posted.pop_front().expect("totals that were posted")
    }

    /// Adds a head's result.
    pub fn add(&mut self, result: HeadResult) {
        let head = &mut self.totals.head;
        head.weighted_loss += result.weighted_loss;
        head.weight += result.weight;
        head.counted += result.counted;
        head.correct += result.correct;
    }

    /// [`Device::clip`], one tensor after the other.
    pub fn clip<D: Device>(&mut self, device: &D, gradients: &[&D::Buffer], max_norm: f64) {
        let norm = gradients.iter().map(|gradient| device.sum_of_squares(gradient)).sum::<f64>().sqrt();
        self.totals.gradient_norm = norm;
        let scale = if max_norm > 0.0 && norm > max_norm { max_norm / norm } else { 1.0 };
        let finite = norm.is_finite() && self.totals.head.weighted_loss.is_finite();
        self.refused |= !finite;
        self.scale = (!self.refused).then_some(scale as f32);
    }

    /// The factor of an update whose own is `gradient_scale`; `None` if there must be no update.
    pub fn gradient_scale(&self, gradient_scale: f32) -> Option<f32> {
        self.scale.map(|scale| gradient_scale * scale)
    }

    /// [`Device::adamw_all`], one tensor after the other.
    pub fn adamw_all<D: Device>(
        &self,
        device: &D,
        update: &AdamW,
        tensors: Vec<AdamWTensor<'_, D::Buffer, D::Matrix>>,
    ) {
        let Some(gradient_scale) = self.gradient_scale(update.gradient_scale) else { return };
        for AdamWTensor { weight, matrix, gradient, moments, weight_decay, seed } in tensors {
            let update = AdamW { gradient_scale, weight_decay, seed, ..*update };
            match (matrix, update.weight_rounding) {
                (Some(matrix), Rounding::Nearest) => device.adamw_and_pack(&update, weight, gradient, moments, matrix),
                (Some(matrix), Rounding::Stochastic) => {
                    device.adamw(&update, weight, gradient, moments);
                    device.pack_stochastically(weight, matrix, seed);
                }
                (None, _) => device.adamw(&update, weight, gradient, moments),
            }
        }
    }

    /// [`Device::muon_all`], one tensor after the other.
    pub fn muon_all<D: Device>(&self, device: &D, update: &Muon, tensors: Vec<MuonTensor<'_, D::Buffer, D::Matrix>>) {
        let Some(gradient_scale) = self.gradient_scale(update.gradient_scale) else { return };
        for MuonTensor { weight, matrix, gradient, momentum, row_blocks, columns, seed } in tensors {
            let update = Muon { gradient_scale, seed, ..*update };
            device.muon(&update, row_blocks, columns, weight, gradient, momentum);
            if let Some(matrix) = matrix {
                device.pack_rounded(weight, matrix, update.weight_rounding, seed);
            }
        }
    }
}
