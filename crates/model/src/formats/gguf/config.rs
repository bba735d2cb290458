//! The shape of a model from the metadata of its GGUF file, and what is refused because it would be computed otherwise.

use std::path::Path;

use super::metadata::Metadata;
use crate::config::{Activation, ModelConfig, Norm};
use crate::error::ModelError;
use crate::formats::error::FormatError;
use crate::formats::tensors::Tensors;

/// For an architecture or a setting that the forward pass does not have.
const REMEDY: &str = "this program computes `llama` and `qwen3` models, and `starcoder2` as exported from here, without scaled RoPE, experts or sliding windows; import another, such as SmolLM2 or Qwen3";

/// How a file exported from here says that its model was trained with the exact GELU: programs that know `starcoder2`
/// compute the approximation by tanh.
pub(in crate::formats) const ACTIVATION: &str = "casallm.activation";
/// The dropout of training, for whoever imports a file that was exported from here.
pub(in crate::formats) const DROPOUT: &str = "casallm.dropout";
/// The value of [`ACTIVATION`].
pub(in crate::formats) const EXACT_GELU: &str = "gelu";

/// The config, and whether the rows of queries and keys are interleaved.
pub(super) fn config(path: &Path, metadata: &Metadata, tensors: &Tensors) -> Result<(ModelConfig, bool), ModelError> {
    let unsupported = |what: &str, found: String| FormatError::Unsupported {
        path: path.to_owned(),
        what: what.to_owned(),
        found,
        remedy: REMEDY,
    };
    let missing =
        |key: String, expected: &'static str| FormatError::MissingKey { path: path.to_owned(), key, expected };
    let architecture = "general.architecture";
    let arch = metadata.text(architecture).ok_or_else(|| missing(architecture.to_owned(), "a text"))?;
    // llama.cpp turns neighbours for the first and halves for the second.
    let (interleaved, qk_norm, classic) = match arch {
        "llama" => (true, false, false),
        "qwen3" => (false, true, false),
        "starcoder2" => (false, false, true),
        _ => return Err(unsupported(architecture, metadata.shown(architecture)).into()),
    };
    let key = |name: &str| format!("{arch}.{name}");
    let optional = |name: &str| match metadata.has(&key(name)) {
        false => Ok(None),
        true => match metadata.unsigned(&key(name)).and_then(|n| usize::try_from(n).ok()) {
            Some(n) => Ok(Some(n)),
            // A list would be a number for each layer.
            None => Err(unsupported(&key(name), metadata.shown(&key(name)))),
        },
    };
    let number = |name: &str| optional(name)?.ok_or_else(|| missing(key(name), "a number"));

    let n_head = number("attention.head_count")?;
    let n_embd = number("embedding_length")?;
    let head_dim = match optional("attention.key_length")? {
        Some(width) => width,
        None if n_head > 0 && n_embd.is_multiple_of(n_head) => n_embd / n_head,
        None => {
            return Err(unsupported(&key("attention.head_count"), format!("{n_head} for a width of {n_embd}")).into());
        }
    };
    for (name, allowed) in [
        ("attention.value_length", head_dim),
        ("rope.dimension_count", head_dim),
        ("expert_count", 0),
        ("attention.sliding_window", 0),
    ] {
        if let Some(found) = optional(name)?.filter(|found| *found != allowed) {
            return Err(unsupported(&key(name), format!("{found}, not {allowed}")).into());
        }
    }
    let scaling = key("rope.scaling.type");
    if metadata.has(&scaling) && metadata.text(&scaling) != Some("none") {
        return Err(unsupported(&scaling, metadata.shown(&scaling)).into());
    }
    let linear = key("rope.scale_linear");
    if metadata.has(&linear) && metadata.float(&linear) != Some(1.0) {
        return Err(unsupported(&linear, metadata.shown(&linear)).into());
    }
    if tensors.get("rope_freqs.weight").is_some() {
        return Err(unsupported("tensor rope_freqs.weight", "a scale of RoPE".to_owned()).into());
    }
    if classic && metadata.text(ACTIVATION) != Some(EXACT_GELU) {
        return Err(unsupported(ACTIVATION, metadata.shown(ACTIVATION)).into());
    }
    let epsilon = key(if classic { "attention.layer_norm_epsilon" } else { "attention.layer_norm_rms_epsilon" });
    let norm_eps = metadata.float(&epsilon).ok_or_else(|| missing(epsilon, "a number"))?;
    let base = key("rope.freq_base");
    let rope_theta = match metadata.has(&base) {
        true => metadata.float(&base).ok_or_else(|| missing(base, "a number"))?,
        false => 10_000.0,
    };
    let embed = "token_embd.weight";
    let vocab_size = match tensors.get(embed).map(|tensor| tensor.shape.as_slice()) {
        Some(&[rows, _]) => rows,
        _ => return Err(FormatError::MissingTensor { path: path.to_owned(), name: embed.to_owned() }.into()),
    };
    let config = ModelConfig {
        vocab_size,
        n_layer: number("block_count")?,
        n_head,
        n_kv_head: optional("attention.head_count_kv")?.unwrap_or(n_head),
        n_embd,
        head_dim,
        n_ff: number("feed_forward_length")?,
        context: number("context_length")?,
        norm: if classic { Norm::LayerNorm } else { Norm::RmsNorm },
        qk_norm,
        activation: if classic { Activation::Gelu } else { Activation::SwiGlu },
        bias: classic,
        tie_embeddings: tensors.get("output.weight").is_none(),
        rope_theta: rope_theta as f32,
        norm_eps: norm_eps as f32,
        dropout: metadata.float(DROPOUT).unwrap_or(0.0) as f32,
    };
    Ok((config, interleaved))
}
