//! What a checkpoint holds of a run: weights, optimizer state, and the few numbers beside them.

use casallm_compute::Device;
use casallm_model::parameters::Parameters;
use serde::{Deserialize, Serialize};

use crate::checkpoint::{Best, Checkpoint, CheckpointStore, Dtype, TensorRef};
use crate::error::TrainError;
use crate::optimizer::Optimizer;

/// The numbers beside the tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// The stage's settings, canonical.
    pub(crate) settings: String,
    /// What it was last trained on, the instruction set included: another device rounds differently.
    pub(crate) device: String,
    /// Tokens trained on.
    pub(crate) tokens: u64,
    /// Seconds of training.
    pub(crate) seconds: f64,
    /// Where validation was best so far.
    pub(crate) best: Option<Best>,
}

/// Writes a checkpoint of `step` finished steps.
pub(crate) fn save<D: Device>(
    store: &CheckpointStore,
    step: u64,
    progress: &Progress,
    parameters: &Parameters<D>,
    optimizer: &Optimizer<D>,
) -> Result<(), TrainError> {
    let device = &**parameters.device();
    let mut owned = Vec::new();
    for i in 0..parameters.len() {
        let spec = parameters.spec(i);
        if let Some(values) = parameters.values(i) {
            owned.push((spec.name.clone(), spec.shape.as_slice(), device.bytes(values)));
        }
        for (kind, buffer) in optimizer.state(i) {
            owned.push((format!("{}.{kind}", spec.name), spec.shape.as_slice(), device.bytes(buffer)));
        }
    }
    // What a device that has failed gives back means nothing, and must not become the newest checkpoint.
    device.check()?;
    let tensors = owned.iter().map(|(name, shape, bytes)| TensorRef { name, dtype: Dtype::F32, shape, bytes });
    store.save(step, progress, tensors)?;
    Ok(())
}

/// Reads a checkpoint into parameters and optimizer.
pub(crate) fn load<D: Device>(
    checkpoint: &mut Checkpoint,
    parameters: &mut Parameters<D>,
    optimizer: &mut Optimizer<D>,
) -> Result<Progress, TrainError> {
    let device = parameters.device().clone();
    for i in 0..parameters.len() {
        let spec = parameters.spec(i).clone();
        let values = read(checkpoint, &spec.name, &spec.shape)?;
        parameters.update(i, |buffer| device.write_f32(buffer, 0, &values));
        for (kind, buffer) in optimizer.state_mut(i) {
            let values = read(checkpoint, &format!("{}.{kind}", spec.name), &spec.shape)?;
            device.write_f32(buffer, 0, &values);
        }
    }
    checkpoint.meta()
}

fn read(checkpoint: &mut Checkpoint, name: &str, shape: &[usize]) -> Result<Vec<f32>, TrainError> {
    let mut bytes = vec![0; 4 * shape.iter().product::<usize>()];
    checkpoint.read_tensor(name, Dtype::F32, shape, &mut bytes)?;
    Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}
