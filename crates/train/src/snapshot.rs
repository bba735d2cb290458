//! What a checkpoint holds of a run: weights, optimizer state, and the few numbers beside them.

use casallm_compute::{Bf16, Device, MomentFormat};
use casallm_model::parameters::Parameters;
use serde::{Deserialize, Serialize};

use crate::checkpoint::{Best, Checkpoint, CheckpointStore, Dtype, TensorRef};
use crate::error::TrainError;
use crate::optimizer::{Optimizer, StateBuffer};

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
            owned.push((spec.name.clone(), Dtype::F32, spec.shape.clone(), device.bytes(values)));
        }
        for StateBuffer { name, format, buffer } in optimizer.state(i) {
            let (dtype, shape) = stored(format, &spec.shape);
            owned.push((format!("{}.{name}", spec.name), dtype, shape, device.bytes(buffer)));
        }
    }
    // What a device that has failed gives back means nothing, and must not become the newest checkpoint.
    device.check()?;
    let tensors = owned.iter().map(|(name, dtype, shape, bytes)| TensorRef { name, dtype: *dtype, shape, bytes });
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
        let bytes = read(checkpoint, &spec.name, Dtype::F32, &spec.shape)?;
        parameters.update(i, |buffer| write(&*device, buffer, MomentFormat::F32, &bytes));
        for StateBuffer { name, format, buffer } in optimizer.state_mut(i) {
            let (dtype, shape) = stored(format, &spec.shape);
            let bytes = read(checkpoint, &format!("{}.{name}", spec.name), dtype, &shape)?;
            write(&*device, buffer, format, &bytes);
        }
    }
    // Matrices are a function of the weights and, where they are rounded stochastically, of the step.
    optimizer.round_again(parameters, checkpoint.step());
    checkpoint.meta()
}

/// Type and shape of an optimizer's buffer in a checkpoint: 8-bit codes and their steps are a run of words.
fn stored(format: MomentFormat, shape: &[usize]) -> (Dtype, Vec<usize>) {
    match format {
        MomentFormat::F32 => (Dtype::F32, shape.to_vec()),
        MomentFormat::Bf16 => (Dtype::Bf16, shape.to_vec()),
        MomentFormat::Bits8 => (Dtype::U32, vec![format.buffer_len(shape.iter().product())]),
    }
}

fn read(checkpoint: &mut Checkpoint, name: &str, dtype: Dtype, shape: &[usize]) -> Result<Vec<u8>, TrainError> {
    let mut bytes = vec![0; dtype.size() * shape.iter().product::<usize>()];
    checkpoint.read_tensor(name, dtype, shape, &mut bytes)?;
    Ok(bytes)
}

/// The bits as they were saved: a bf16 that is widened is rounded back to itself.
fn write<D: Device>(device: &D, buffer: &mut D::Buffer, format: MomentFormat, bytes: &[u8]) {
    let words = || bytes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b));
    match format {
        MomentFormat::F32 => device.write_f32(buffer, 0, &words().map(f32::from_bits).collect::<Vec<f32>>()),
        MomentFormat::Bits8 => device.write_u32(buffer, 0, &words().collect::<Vec<u32>>()),
        MomentFormat::Bf16 => {
            let widened = bytes.as_chunks::<2>().0.iter().map(|b| Bf16(u16::from_le_bytes(*b)).to_f32());
            device.write_f32(buffer, 0, &widened.collect::<Vec<f32>>());
        }
    }
}
