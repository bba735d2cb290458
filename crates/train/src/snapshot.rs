//! What a checkpoint holds of a run: weights, optimizer state, and the few numbers beside them.

use std::borrow::Cow;
use std::io;

use casallm_compute::{Bf16, Device, MomentFormat};
use casallm_model::config::ModelConfig;
use casallm_model::parameters::Parameters;
use serde::{Deserialize, Serialize};

use crate::checkpoint::{Best, Bytes, Checkpoint, CheckpointStore, Dtype, TensorRef};
use crate::error::TrainError;
use crate::guard::GuardState;
use crate::optimizer::{Optimizer, OptimizerConfig, StateBuffer, state_bytes};

/// The numbers beside the tensors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
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
    /// Lines of the stage in `metrics.jsonl` that a run repeated from here will not write again.
    #[serde(default)]
    pub(crate) lines: Option<u64>,
    /// What the guard knows.
    #[serde(default)]
    pub(crate) guard: GuardState,
}

/// A tensor's name, type, shape and what it consists of.
type Tensor<B> = (String, Dtype, Vec<usize>, B);

/// Everything that a checkpoint holds.
fn buffers<'a, D: Device>(parameters: &'a Parameters<D>, optimizer: &'a Optimizer<D>) -> Vec<Tensor<&'a D::Buffer>> {
    let mut tensors = Vec::new();
    for i in 0..parameters.len() {
        let spec = parameters.spec(i);
        if let Some(values) = parameters.values(i) {
            tensors.push((spec.name.clone(), Dtype::F32, spec.shape.clone(), values));
        }
        for StateBuffer { name, format, buffer } in optimizer.state(i) {
            let (dtype, shape) = stored(format, &spec.shape);
            tensors.push((format!("{}.{name}", spec.name), dtype, shape, buffer));
        }
    }
    tensors
}

/// Bytes of the tensors of a checkpoint, and of the copy that is written in the background.
pub(crate) fn bytes(model: &ModelConfig, optimizer: &OptimizerConfig) -> u64 {
    4 * model.n_params() as u64 + state_bytes(model, optimizer)
}

/// A copy of all that a checkpoint holds, so that training can go on while it is written. Its memory is used again.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    tensors: Vec<Tensor<Vec<u8>>>,
}

impl Snapshot {
    /// Copies what stands after the steps done.
    pub(crate) fn capture<D: Device>(
        &mut self,
        parameters: &Parameters<D>,
        optimizer: &Optimizer<D>,
    ) -> Result<(), TrainError> {
        let device = parameters.device();
        let mut kept = std::mem::take(&mut self.tensors).into_iter().map(|(.., bytes)| bytes);
        for (name, dtype, shape, buffer) in buffers(parameters, optimizer) {
            // One tensor after the other, so that the old copy and the new are never both there.
            let mut copy = kept.next().filter(|_| device.is_host()).unwrap_or_default();
            match device.bytes(buffer) {
                Cow::Owned(bytes) => copy = bytes,
                Cow::Borrowed(bytes) => {
                    copy.clear();
                    copy.extend_from_slice(bytes);
                }
            }
            self.tensors.push((name, dtype, shape, copy));
        }
        // What a device that has failed gives back means nothing, and must not become the newest checkpoint.
        Ok(device.check()?)
    }

    /// Writes the checkpoint of `step` finished steps.
    pub(crate) fn write(&self, store: &CheckpointStore, step: u64, progress: &Progress) -> Result<(), TrainError> {
        write_tensors(store, step, progress, &self.tensors)
    }
}

/// Writes a checkpoint of `step` finished steps, from where the tensors are: those of a device's own memory one by one, for
/// the host may not have room for all.
pub(crate) fn save<D: Device>(
    store: &CheckpointStore,
    step: u64,
    progress: &Progress,
    parameters: &Parameters<D>,
    optimizer: &Optimizer<D>,
) -> Result<(), TrainError> {
    let device = parameters.device();
    let tensors = buffers(parameters, optimizer);
    if device.is_host() {
        let bytes = |(name, dtype, shape, buffer)| (name, dtype, shape, device.bytes(buffer));
        let tensors: Vec<Tensor<Cow<'_, [u8]>>> = tensors.into_iter().map(bytes).collect();
        device.check()?;
        return write_tensors(store, step, progress, &tensors);
    }
    // Brought twice, so that nothing is written of numbers that are not finite.
    for (name, dtype, _, buffer) in &tensors {
        if !all_finite(*dtype, &device.bytes(buffer)) {
            return Err(TrainError::CheckpointNotFinite { path: store.path_of(step), tensor: name.clone() });
        }
    }
    device.check()?;
    let bring = |buffer: &D::Buffer| -> io::Result<Vec<u8>> {
        let bytes = device.bytes(buffer).into_owned();
        // What a device that has failed gives back means nothing.
        device.check().map_err(io::Error::other)?;
        Ok(bytes)
    };
    let brought: Vec<_> = tensors.iter().map(|(.., buffer)| move || bring(buffer)).collect();
    let refs = tensors.iter().zip(&brought).map(|((name, dtype, shape, buffer), bring)| TensorRef {
        name,
        dtype: *dtype,
        shape,
        bytes: Bytes::Brought(device.len(buffer) * dtype.size(), bring),
    });
    let saved = store.save(step, progress, refs);
    // It is the device that is to be told of then, not the file.
    device.check()?;
    saved.map(|_| ())
}

fn write_tensors<B: AsRef<[u8]>>(
    store: &CheckpointStore,
    step: u64,
    progress: &Progress,
    tensors: &[Tensor<B>],
) -> Result<(), TrainError> {
    if let Some((name, ..)) = tensors.iter().find(|(_, dtype, _, bytes)| !all_finite(*dtype, bytes.as_ref())) {
        return Err(TrainError::CheckpointNotFinite { path: store.path_of(step), tensor: name.clone() });
    }
    let refs = tensors.iter().map(|(name, dtype, shape, bytes)| TensorRef {
        name,
        dtype: *dtype,
        shape,
        bytes: bytes.as_ref().into(),
    });
    store.save(step, progress, refs)?;
    Ok(())
}

/// Whether no exponent is all ones. Codes of 8-bit moments cannot say.
fn all_finite(dtype: Dtype, bytes: &[u8]) -> bool {
    // Without a branch for each number, so that it runs as fast as memory.
    match dtype {
        Dtype::F32 => {
            const INFINITE: u32 = 0x7f80_0000;
            let infinite = |b: &[u8; 4]| u32::from(u32::from_le_bytes(*b) & INFINITE == INFINITE);
            bytes.as_chunks::<4>().0.iter().map(infinite).fold(0, |any, one| any | one) == 0
        }
        Dtype::Bf16 => {
            const INFINITE: u16 = 0x7f80;
            let infinite = |b: &[u8; 2]| u16::from(u16::from_le_bytes(*b) & INFINITE == INFINITE);
            bytes.as_chunks::<2>().0.iter().map(infinite).fold(0, |any, one| any | one) == 0
        }
        Dtype::F64 | Dtype::U8 | Dtype::U32 | Dtype::U64 => true,
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_finite_is_seen_wherever_it_stands() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -f32::NAN] {
            for place in [0, 5, 16] {
                let mut values = [1.0f32, -0.0, f32::MAX, f32::MIN_POSITIVE / 2.0, 3.0].repeat(4);
                let bytes = |values: &[f32]| values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
                let halves = |values: &[f32]| {
                    values.iter().flat_map(|x| ((x.to_bits() >> 16) as u16).to_le_bytes()).collect::<Vec<u8>>()
                };
                assert!(all_finite(Dtype::F32, &bytes(&values)) && all_finite(Dtype::Bf16, &halves(&values)));
                values[place] = bad;
                assert!(!all_finite(Dtype::F32, &bytes(&values)) && !all_finite(Dtype::Bf16, &halves(&values)));
            }
        }
    }
}
