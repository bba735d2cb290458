//! A GGUF file, version 3: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

mod keys;
mod types;

use std::path::Path;

use super::Exported;
use super::family::{Family, Form};
use super::plan::Plan;
use super::stream::{Stream, pass};
use crate::directory::ModelDirectory;
use crate::directory::atomic::Staging;
use crate::error::ModelError;
use crate::formats::layout::Naming;

pub use keys::MetadataValue;
pub use types::GgufType;

/// Where data begins, in multiples of bytes: the default, which needs no key.
const ALIGNMENT: u64 = 32;
/// A file of this name and more holds the line that `sha256sum --check` reads.
pub(in crate::formats) const SUM: &str = ".sha256";

/// Writes `source` as the file `out`, and its SHA-256 beside it. `metadata` are the keys that the model's shape does not
/// imply: its name, its tokenizer. `progress` gets how many weights are done, and may
/// end it with an error.
///
/// # Errors
/// [`ModelError::Export`]: llama.cpp has no architecture that computes this model, or a weight does not fit the type;
/// [`ModelError::NotAFileName`]; whatever reading the model and writing the file gives. What was there then stays.
pub fn export_gguf(
    source: &ModelDirectory,
    out: &Path,
    kind: GgufType,
    metadata: &[(String, MetadataValue)],
    progress: &mut dyn FnMut(u64) -> Result<(), ModelError>,
) -> Result<Exported, ModelError> {
    let config = source.config();
    let family = Family::of(config, Form::Gguf)?;
    let name = out.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| ModelError::NotAFileName { name: out.display().to_string() })?;
    let parent = out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // llama.cpp turns neighbours of this family, and halves of the others.
    let interleaved = family == Family::Llama;
    let element = |name: &str, shape: &[usize]| kind.element(config, name, shape);
    let plan = Plan::new(config, source.weights_order()?, Naming::Gguf, interleaved, element);
    let keys = keys::of_shape(config, family, kind).into_iter().chain(metadata.iter().cloned()).collect::<Vec<_>>();

    let mut staging = Staging::new(parent)?;
    let mut stream = Stream::create(&mut staging, name)?;
    stream.put(&head(&plan, &keys))?;
    stream.align(ALIGNMENT)?;
    pass(
        source,
        &plan,
        progress,
        |_, bytes| if bytes.is_empty() { stream.align(ALIGNMENT) } else { stream.put(bytes) },
    )?;
    // The last tensor is padded too.
    stream.align(ALIGNMENT)?;
    let file = stream.finish()?;
    staging.write(&format!("{name}{SUM}"), format!("{}  {name}\n", file.sha256).as_bytes())?;
    staging.publish()?;
    Ok(Exported { files: vec![file], element_types: plan.element_types() })
}

/// Everything before the data.
fn head(plan: &Plan, keys: &[(String, MetadataValue)]) -> Vec<u8> {
    let mut out = b"GGUF".to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend((plan.tensors().count() as u64).to_le_bytes());
    out.extend((keys.len() as u64).to_le_bytes());
    for (key, value) in keys {
        keys::text(key, &mut out);
        value.write(&mut out);
    }
    let mut offset = 0u64;
    for tensor in plan.tensors() {
        keys::text(&tensor.name, &mut out);
        out.extend((tensor.shape.len() as u32).to_le_bytes());
        // The fastest dimension first.
        tensor.shape.iter().rev().for_each(|&n| out.extend((n as u64).to_le_bytes()));
        out.extend(tensor.element.ggml().to_le_bytes());
        out.extend(offset.to_le_bytes());
        offset += tensor.bytes().next_multiple_of(ALIGNMENT);
    }
    out
}
