//! A fixture's model and batch on a device.

use std::sync::Arc;

use casallm_compute::{AdamW, AdamWTensor, DType, Device, MatrixUse};

use super::fixture::Fixture;
use crate::error::ModelError;
use crate::network::Network;
use crate::parameters::Parameters;
use crate::training::{BatchView, Gradients};
use crate::workspace::{Recompute, Workspace, WorkspaceShape};

/// First and second moment of each parameter.
pub(super) type Moments<B> = Vec<[B; 2]>;

/// Everything that one fixture needs.
pub(super) struct Trial<D: Device> {
    pub(super) network: Network<D>,
    pub(super) workspace: Workspace<D::Buffer>,
    pub(super) gradients: Gradients<D::Buffer>,
    pub(super) ids: Vec<u32>,
    pub(super) targets: Vec<u32>,
    pub(super) weights: Vec<f32>,
    pub(super) cu_seqlens: Vec<u32>,
}

/// AdamW of the fixtures: its rate of that step, counted from 0, its decay of that parameter.
pub(super) fn adamw(lr: f32, step: usize, decays: bool, gradient_scale: f32) -> AdamW {
    let (beta1, beta2, eps) = (0.9, 0.95, 1e-8);
    let weight_decay = if decays { 0.1 } else { 0.0 };
    AdamW { lr, beta1, beta2, eps, weight_decay, step: step as u64 + 1, gradient_scale }
}

impl<D: Device> Trial<D> {
    pub(super) fn new(fixture: &Fixture, device: &Arc<D>, dtype: DType) -> Result<Self, ModelError> {
        let config = fixture.config.clone();
        let parameters = Parameters::new(device.clone(), &config, dtype.into(), MatrixUse::Training, |spec| {
            Ok(fixture.f32(&format!("param.{}", spec.name)))
        })?;
        let network = Network::new(config.clone(), dtype, parameters)?;
        let ids = fixture.u32("ids");
        let shape =
            WorkspaceShape { tokens: ids.len(), sequence: config.context, dtype, training: Some(Recompute::Light) };
        let workspace = Workspace::new(&**device, &config, shape)?;
        let gradients = Gradients::new(&**device, &config)?;
        let (targets, weights, cu_seqlens) =
            (fixture.u32("targets"), fixture.f32("weights"), fixture.u32("cu_seqlens"));
        Ok(Trial { network, workspace, gradients, ids, targets, weights, cu_seqlens })
    }

    pub(super) fn scale(&self) -> f32 {
        1.0 / self.weights.iter().sum::<f32>()
    }

    /// One pass: the mean loss; gradients are left in `self`.
    pub(super) fn step(&mut self) -> Result<f64, ModelError> {
        let device = self.network.device().clone();
        self.gradients.clear(&*device);
        let scale = self.scale();
        let Trial { network, workspace, gradients, ids, targets, weights, cu_seqlens, .. } = self;
        let batch = BatchView { tokens: ids, targets, weights, cu_seqlens };
        let result = network.loss_and_gradients(workspace, batch, scale, 0, gradients)?;
        Ok(result.weighted_loss / result.weight)
    }

    pub(super) fn logits(&mut self) -> Result<Vec<f32>, ModelError> {
        let Trial { network, workspace, ids, targets, weights, cu_seqlens, .. } = self;
        network.loss(workspace, BatchView { tokens: ids, targets, weights, cu_seqlens })?;
        network.all_logits(workspace, ids.len())
    }

    /// Gradient of parameter `i`.
    pub(super) fn gradient(&self, i: usize) -> Vec<f32> {
        let buffer = self.gradients.get(i);
        let mut values = vec![0.0; self.network.device().len(buffer)];
        self.network.device().read_f32(buffer, 0, &mut values);
        values
    }

    /// Names of the parameters, in canonical order.
    pub(super) fn names(&self) -> Vec<String> {
        (0..self.network.parameters.len()).map(|i| self.network.parameters.spec(i).name.clone()).collect()
    }

    /// Zeroed moments.
    pub(super) fn moments(&self) -> Result<Moments<D::Buffer>, ModelError> {
        let device = self.network.device();
        let parameters = &self.network.parameters;
        let one = |i: usize| device.allocate("moment", DType::F32, parameters.spec(i).len());
        (0..parameters.len()).map(|i| Ok([one(i)?, one(i)?])).collect()
    }

    /// A training step as the trainer makes it, in which nothing waits: loss, gradient norm, and the weights after it.
    pub(super) fn training_step(&mut self) -> Result<Vec<(String, Vec<f32>)>, ModelError> {
        let device = self.network.device().clone();
        let mut tally = device.allocate_tally()?;
        let mut moments = self.moments()?;
        self.gradients.clear(&*device);
        device.clear_tally(&mut tally);
        let scale = self.scale();
        let names = self.names();
        let decays: Vec<bool> = (0..names.len()).map(|i| self.network.parameters.spec(i).decays()).collect();
        let Trial { network, workspace, gradients, ids, targets, weights, cu_seqlens, .. } = self;
        let batch = BatchView { tokens: ids, targets, weights, cu_seqlens };
        network.add_micro_batch(workspace, batch, (scale, 0), gradients, &mut tally)?;
        device.clip(&gradients.all(), 1.0, &mut tally);
        let tensors = network.parameters.all_mut().zip(&mut moments).enumerate();
        let tensors = tensors.map(|(i, ((weight, matrix), [first, second]))| {
            let weight_decay = adamw(0.0, 0, decays[i], 1.0).weight_decay;
            AdamWTensor { weight, matrix, gradient: gradients.get(i), moments: [first, second], weight_decay }
        });
        device.adamw_all(&adamw(1e-3, 0, false, 1.0), tensors.collect(), &tally);
        let totals = device.read_tally(&tally);
        let mut left = vec![
            ("loss".to_owned(), vec![totals.head.weighted_loss as f32]),
            ("gradient norm".to_owned(), vec![totals.gradient_norm as f32]),
        ];
        for (i, name) in names.into_iter().enumerate() {
            left.push((format!("gradient of {name}"), self.gradient(i)));
            left.push((name, self.network.parameters.read(i).unwrap_or_default()));
        }
        Ok(left)
    }
}
