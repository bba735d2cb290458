//! A folder as `transformers` saves it: `config.json`, and `model.safetensors` or several of them with an index.

mod weights;

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::error::FormatError;
use super::layout::Naming;
use super::tensors::{damaged, unreadable};
use super::{ForeignModel, ModelError};
use crate::config::{Activation, ModelConfig, Norm};
use crate::directory::checksums::{self, Checksums};
use crate::directory::{CHECKSUMS, CONFIG};

/// The largest JSON file that is read whole: an index of a large model has a megabyte.
const MAX_JSON: u64 = 1 << 26;

const REMEDY: &str = "this program computes LlamaForCausalLM and Qwen3ForCausalLM with silu and without biases, and Starcoder2ForCausalLM with the exact gelu, all without scaled RoPE, sliding windows or quantisation; import another, such as SmolLM2 or Qwen3";

/// The keys of `config.json` that matter.
#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    architectures: Vec<String>,
    vocab_size: Option<usize>,
    hidden_size: Option<usize>,
    intermediate_size: Option<usize>,
    num_hidden_layers: Option<usize>,
    num_attention_heads: Option<usize>,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    max_position_embeddings: Option<usize>,
    rms_norm_eps: Option<f64>,
    /// Of Starcoder2.
    norm_epsilon: Option<f64>,
    use_bias: Option<bool>,
    sliding_window: Option<usize>,
    residual_dropout: Option<f64>,
    rope_theta: Option<f64>,
    #[serde(default)]
    rope_scaling: Value,
    /// Where newer versions keep what the two above say.
    #[serde(default)]
    rope_parameters: Value,
    tie_word_embeddings: Option<bool>,
    hidden_act: Option<String>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default)]
    use_sliding_window: bool,
    #[serde(default)]
    quantization_config: Value,
    partial_rotary_factor: Option<f64>,
}

/// Reads all of a folder but the weights.
pub(super) fn open(folder: &Path) -> Result<ForeignModel, ModelError> {
    let path = folder.join(CONFIG);
    if !path.is_file() {
        return Err(FormatError::Unknown { path: folder.to_owned() }.into());
    }
    let sums_path = folder.join(CHECKSUMS);
    let sums = if sums_path.is_file() { Checksums::read(&sums_path)? } else { Checksums::default() };
    let text = read_json(&path)?;
    sums.verify(&path, CONFIG, checksums::of(&text))?;
    let stated: Config =
        serde_json::from_slice(&text).map_err(|e| damaged(&path, "the text", format!("no config: {e}")))?;
    let config = shape(&path, &stated)?;
    let tensors = weights::open(folder)?;
    Ok(ForeignModel {
        path: folder.to_owned(),
        config,
        tensors,
        naming: Naming::HuggingFace,
        interleaved: false,
        metadata: None,
        sums,
    })
}

fn read_json(path: &Path) -> Result<Vec<u8>, ModelError> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable(path))?;
    file.take(MAX_JSON + 1).read_to_end(&mut bytes).map_err(unreadable(path))?;
    if bytes.len() as u64 > MAX_JSON {
        return Err(damaged(path, "the file", format!("longer than {MAX_JSON} bytes")).into());
    }
    Ok(bytes)
}

fn shape(path: &Path, stated: &Config) -> Result<ModelConfig, ModelError> {
    let refused = |what: &str, found: String| FormatError::Unsupported {
        path: path.to_owned(),
        what: what.to_owned(),
        found: found.chars().take(120).collect(),
        remedy: REMEDY,
    };
    let missing =
        |key: &str| FormatError::MissingKey { path: path.to_owned(), key: key.to_owned(), expected: "a number" };
    let (classic, qk_norm) = match stated.architectures.first().map(String::as_str) {
        Some("LlamaForCausalLM") => (false, false),
        Some("Qwen3ForCausalLM") => (false, true),
        Some("Starcoder2ForCausalLM") => (true, false),
        other => return Err(refused("architectures", format!("{other:?}")).into()),
    };
    for (key, set) in [
        ("attention_bias", stated.attention_bias),
        ("mlp_bias", stated.mlp_bias),
        ("use_sliding_window", stated.use_sliding_window),
    ] {
        if set {
            return Err(refused(key, "true".to_owned()).into());
        }
    }
    let activation = match (classic, stated.hidden_act.as_deref()) {
        (false, Some("silu") | None) => Activation::SwiGlu,
        // With one matrix for gate and up, which is seen when they are read.
        (false, Some("relu")) => Activation::ReluSquared,
        (true, Some("gelu")) => Activation::Gelu,
        // Starcoder2 without the key takes the approximation by tanh.
        (_, Some(other)) => return Err(refused("hidden_act", format!("{other:?}")).into()),
        (_, None) => return Err(refused("hidden_act", "missing".to_owned()).into()),
    };
    if let Some(window) = stated.sliding_window.filter(|_| classic) {
        return Err(refused("sliding_window", window.to_string()).into());
    }
    if !stated.quantization_config.is_null() {
        return Err(refused("quantization_config", stated.quantization_config.to_string()).into());
    }
    if let Some(part) = stated.partial_rotary_factor.filter(|part| *part != 1.0) {
        return Err(refused("partial_rotary_factor", part.to_string()).into());
    }
    for (key, rope) in [("rope_scaling", &stated.rope_scaling), ("rope_parameters", &stated.rope_parameters)] {
        let kind = rope.get("rope_type").or_else(|| rope.get("type"));
        let default = kind.is_none_or(|kind| kind == "default") && (rope.is_null() || rope.is_object());
        // A factor without a kind would be an old form of a scale.
        if !default || (kind.is_none() && rope.get("factor").is_some()) {
            return Err(refused(key, rope.to_string()).into());
        }
    }
    let number = |key: &str, value: Option<usize>| value.ok_or_else(|| missing(key));
    let n_head = number("num_attention_heads", stated.num_attention_heads)?;
    let n_embd = number("hidden_size", stated.hidden_size)?;
    let head_dim = match stated.head_dim {
        Some(width) => width,
        // The default of Qwen3's own config.
        None if qk_norm => 128,
        None if n_head > 0 && n_embd.is_multiple_of(n_head) => n_embd / n_head,
        None => return Err(refused("num_attention_heads", format!("{n_head} for a width of {n_embd}")).into()),
    };
    let (eps, key) = match classic {
        true => (stated.norm_epsilon, "norm_epsilon"),
        false => (stated.rms_norm_eps, "rms_norm_eps"),
    };
    let rope_theta = stated.rope_parameters.get("rope_theta").and_then(Value::as_f64).or(stated.rope_theta);
    Ok(ModelConfig {
        vocab_size: number("vocab_size", stated.vocab_size)?,
        n_layer: number("num_hidden_layers", stated.num_hidden_layers)?,
        n_head,
        n_kv_head: stated.num_key_value_heads.unwrap_or(n_head),
        n_embd,
        head_dim,
        n_ff: number("intermediate_size", stated.intermediate_size)?,
        context: number("max_position_embeddings", stated.max_position_embeddings)?,
        norm: if classic { Norm::LayerNorm } else { Norm::RmsNorm },
        qk_norm,
        activation,
        bias: classic && stated.use_bias.unwrap_or(true),
        tie_embeddings: stated.tie_word_embeddings.unwrap_or(classic),
        rope_theta: rope_theta.unwrap_or(10_000.0) as f32,
        norm_eps: eps.ok_or_else(|| missing(key))? as f32,
        dropout: stated.residual_dropout.unwrap_or(0.0) as f32,
    })
}
