//! The model beside itself.

use std::sync::Arc;

use casallm_compute::{CacheFormat, DType, Device};

use super::fixture;
use super::trial::Trial;
use super::{Findings, Outcome, fingerprint};
use crate::decoder::Decoder;
use crate::training::BatchView;

/// Both storage types.
const STORAGE: [DType; 2] = [DType::F32, DType::Bf16];

/// With a cache: one by one, in two pieces, and after taking back what was read.
pub(super) fn decoding<D: Device>(device: &Arc<D>, findings: &mut Findings) -> Outcome {
    let mut kinds = vec![(DType::F32, CacheFormat::F32), (DType::Bf16, CacheFormat::Bf16)];
    if device.supports_cache(CacheFormat::Q8).is_ok() {
        kinds.push((DType::Bf16, CacheFormat::Q8));
    }
    for (dtype, cache) in kinds {
        // In bf16 either side is within 2e-2 of the exact logits (as PyTorch's own bf16 is), so they are within twice that.
        let limit = if dtype == DType::F32 { 1e-5 } else { 4e-2 };
        for fixture in &fixture::all()? {
            let trial = Trial::new(fixture, device, dtype)?;
            let of_cache = if cache == dtype.into() { String::new() } else { format!(", {} cache", cache.name()) };
            let case = |what: &str| format!("{} {}{of_cache}: {what}", fixture.name, dtype.name());
            let ids = &trial.ids[18..51];
            let mut whole = Decoder::with_cache(&trial.network, cache, 48)?;
            let wanted = whole.extend(ids)?.to_vec();
            let mut single = Decoder::with_cache(&trial.network, cache, 48)?;
            let mut got = Vec::new();
            for id in ids {
                got = single.extend(&[*id])?.to_vec();
            }
            findings.near(case("token by token"), &got, &wanted, limit);
            let mut pieces = Decoder::with_cache(&trial.network, cache, 48)?;
            pieces.extend(&ids[..20])?;
            pieces.extend(&ids[3..9])?;
            pieces.truncate(20);
            findings.near(case("in pieces"), pieces.extend(&ids[20..])?, &wanted, limit);
        }
    }
    Ok(())
}

/// Each sequence of a batch in a batch of its own, gradients added up.
pub(super) fn packing<D: Device>(device: &Arc<D>, findings: &mut Findings) -> Outcome {
    for fixture in &fixture::all()? {
        let mut trial = Trial::new(fixture, device, DType::F32)?;
        trial.step()?;
        let names = trial.names();
        let packed: Vec<Vec<f32>> = (0..names.len()).map(|i| trial.gradient(i)).collect();
        trial.gradients.clear(&**device);
        let scale = trial.scale();
        let Trial { network, workspace, gradients, ids, targets, weights, cu_seqlens, .. } = &mut trial;
        for ends in cu_seqlens.windows(2) {
            let part = ends[0] as usize..ends[1] as usize;
            let batch = BatchView {
                tokens: &ids[part.clone()],
                targets: &targets[part.clone()],
                weights: &weights[part.clone()],
                cu_seqlens: &[0, part.len() as u32],
            };
            network.loss_and_gradients(workspace, batch, scale, 0, gradients)?;
        }
        for (i, (name, packed)) in names.iter().zip(&packed).enumerate() {
            let case = format!("{} f32: gradient of {name}", fixture.name);
            findings.near(case, &trial.gradient(i), packed, 1e-5);
        }
    }
    Ok(())
}

/// The same step from the same weights, twice.
pub(super) fn repetition<D: Device>(device: &Arc<D>, findings: &mut Findings) -> Outcome {
    for dtype in STORAGE {
        for fixture in &fixture::all()? {
            let step = || Trial::new(fixture, device, dtype)?.training_step();
            for ((what, first), (_, again)) in step()?.into_iter().zip(step()?) {
                let different = first.iter().zip(&again).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
                let case = format!("{} {}: {what}", fixture.name, dtype.name());
                findings.add(case, different as f64, 0.0, fingerprint(&first), || {
                    format!("{different} of {} values differ in a second run", first.len())
                });
            }
        }
    }
    Ok(())
}
