//! A folder as `transformers` loads it: config.json, safetensors in one file or several with an index, and texts.

use std::path::Path;

use safetensors::tensor::{Dtype, TensorInfo};
use serde_json::{Map, Value, json};

use super::family::{Family, Form};
use super::plan::{Plan, Planned};
use super::stream::{Stream, pass};
use super::{ExportError, Exported};
use crate::config::{Activation, ModelConfig};
use crate::directory::atomic::Staging;
use crate::directory::checksums::{self, Checksums};
use crate::directory::{CHECKSUMS, CONFIG, ModelDirectory, TextFile, WEIGHTS, check_text_names};
use crate::error::ModelError;
use crate::formats::elements::ElementType;
use crate::formats::layout::Naming;
use crate::safetensors_header;

/// The file that says which tensor lies in which of several.
pub const INDEX: &str = "model.safetensors.index.json";
/// A shard holds at least this.
const LEAST_SHARD: u64 = 1 << 10;

/// In what numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HfDtype {
    /// IEEE single precision.
    F32,
    /// The upper half of a single.
    Bf16,
    /// IEEE half precision.
    F16,
}

impl HfDtype {
    fn element(self) -> ElementType {
        match self {
            HfDtype::F32 => ElementType::F32,
            HfDtype::Bf16 => ElementType::Bf16,
            HfDtype::F16 => ElementType::F16,
        }
    }

    /// As PyTorch calls it.
    pub fn name(self) -> &'static str {
        match self {
            HfDtype::F32 => "float32",
            HfDtype::Bf16 => "bfloat16",
            HfDtype::F16 => "float16",
        }
    }
}

/// How a folder is written.
#[derive(Debug, Clone)]
pub struct HfOptions {
    /// In what numbers.
    pub dtype: HfDtype,
    /// Most bytes of tensors in a file; a tensor is never divided.
    pub max_shard_bytes: u64,
    /// `bos_token_id`, `eos_token_id` and `pad_token_id`, as generation_config.json has them.
    pub token_ids: Map<String, Value>,
}

/// Writes `source` into the folder `out`, with `texts` beside it. `progress` gets how many weights are done, and
/// may end it with an error.
///
/// # Errors
/// [`ModelError::Export`]: no class of `transformers` computes this model, a weight does not fit the type, or a shard
/// is too small; whatever reading the model and writing the files gives. The folder then holds what it held before.
pub fn export_hf(
    source: &ModelDirectory,
    out: &Path,
    options: &HfOptions,
    texts: &[TextFile<'_>],
    progress: &mut dyn FnMut(u64) -> Result<(), ModelError>,
) -> Result<Exported, ModelError> {
    let config = source.config();
    let family = Family::of(config, Form::HuggingFace)?;
    if options.max_shard_bytes < LEAST_SHARD {
        return Err(ExportError::ShardSize { bytes: options.max_shard_bytes, least: LEAST_SHARD }.into());
    }
    check_text_names(texts)?;
    let element = options.dtype.element();
    let plan = Plan::new(config, source.weights_order()?, Naming::HuggingFace, false, |_, _| element);
    let shards = shards(&plan, options.max_shard_bytes);
    let config_json = format!("{:#}\n", config_of(config, family, options));

    let mut staging = Staging::new(out)?;
    let mut sums = Checksums::default();
    let index = (shards.len() > 1).then(|| index(&shards, config.n_params()));
    let own = [Some((CONFIG, config_json.as_str())), index.as_ref().map(|index| (INDEX, index.as_str()))];
    for (name, contents) in texts.iter().map(|text| (text.name, text.contents)).chain(own.into_iter().flatten()) {
        sums.note(name, checksums::of(contents.as_bytes()));
        staging.write(name, contents.as_bytes())?;
    }
    let mut files = Vec::new();
    let mut ahead = shards.iter();
    let mut current: Option<(Stream, &Shard<'_>, usize)> = None;
    pass(source, &plan, progress, |_, bytes| {
        if bytes.is_empty() {
            // A tensor begins.
            let full = current.as_ref().is_none_or(|(_, shard, begun)| *begun == shard.tensors.len());
            if full && let Some(next) = ahead.next() {
                files.extend(current.take().map(|(stream, ..)| stream.finish()).transpose()?);
                let mut stream = Stream::create(&mut staging, &next.name)?;
                stream.put(&next.header(&out.join(&next.name))?)?;
                current = Some((stream, next, 0));
            }
        }
        if let Some((stream, _, begun)) = &mut current {
            *begun += usize::from(bytes.is_empty());
            stream.put(bytes)?;
        }
        Ok(())
    })?;
    files.extend(current.take().map(|(stream, ..)| stream.finish()).transpose()?);
    for file in &files {
        sums.note(&file.name, file.sha256.clone());
    }
    staging.write(CHECKSUMS, sums.to_json().as_bytes())?;
    staging.publish()?;
    Ok(Exported { files, element_types: plan.element_types() })
}

/// A file of tensors.
struct Shard<'a> {
    name: String,
    tensors: Vec<&'a Planned>,
}

impl Shard<'_> {
    fn header(&self, path: &Path) -> Result<Vec<u8>, ModelError> {
        let mut end = 0;
        let tensors = self.tensors.iter().map(|tensor| {
            let start = end;
            end += tensor.bytes() as usize;
            let dtype = match tensor.element {
                ElementType::Bf16 => Dtype::BF16,
                ElementType::F16 => Dtype::F16,
                _ => Dtype::F32,
            };
            (tensor.name.clone(), TensorInfo { dtype, shape: tensor.shape.clone(), data_offsets: (start, end) })
        });
        safetensors_header::bytes(tensors.collect())
            .map_err(|reason| ModelError::WeightsHeader { path: path.to_owned(), reason })
    }
}

/// Fills files one after the other, each up to `most` bytes.
fn shards(plan: &Plan, most: u64) -> Vec<Shard<'_>> {
    let mut shards: Vec<Shard<'_>> = Vec::new();
    let mut room = 0;
    for tensor in plan.tensors() {
        let bytes = tensor.bytes();
        match shards.last_mut().filter(|_| bytes <= room) {
            Some(shard) => {
                shard.tensors.push(tensor);
                room -= bytes;
            }
            None => {
                shards.push(Shard { name: String::new(), tensors: vec![tensor] });
                room = most.saturating_sub(bytes);
            }
        }
    }
    let count = shards.len();
    for (number, shard) in shards.iter_mut().enumerate() {
        shard.name = match count {
            1 => WEIGHTS.to_owned(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", number + 1),
        };
    }
    shards
}

fn index(shards: &[Shard<'_>], parameters: usize) -> String {
    let tensors = || shards.iter().flat_map(|shard| shard.tensors.iter().map(move |tensor| (&shard.name, tensor)));
    let total: u64 = tensors().map(|(_, tensor)| tensor.bytes()).sum();
    let map: Map<String, Value> = tensors().map(|(file, tensor)| (tensor.name.clone(), file.clone().into())).collect();
    format!("{:#}\n", json!({"metadata": {"total_parameters": parameters, "total_size": total}, "weight_map": map}))
}

/// The decimal number that people wrote, and not the nearest single in 17 digits.
fn number(value: f32) -> Value {
    value.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}

/// config.json. A key that is left out would be given that model's own default, so all are there.
fn config_of(config: &ModelConfig, family: Family, options: &HfOptions) -> Value {
    let mut stated = json!({
        "architectures": [family.class()],
        "model_type": family.name(),
        "attention_dropout": 0.0,
        "bos_token_id": null,
        "eos_token_id": null,
        "pad_token_id": null,
        "hidden_size": config.n_embd,
        "initializer_range": 0.02,
        "intermediate_size": config.n_ff,
        "max_position_embeddings": config.context,
        "num_attention_heads": config.n_head,
        "num_hidden_layers": config.n_layer,
        "num_key_value_heads": config.n_kv_head,
        "rope_theta": number(config.rope_theta),
        "tie_word_embeddings": config.tie_embeddings,
        "torch_dtype": options.dtype.name(),
        "use_cache": true,
        "vocab_size": config.vocab_size,
    });
    let more = match family {
        Family::Starcoder2 => json!({
            "embedding_dropout": 0.0,
            "hidden_act": "gelu",
            "norm_epsilon": number(config.norm_eps),
            "residual_dropout": number(config.dropout),
            "sliding_window": null,
            "use_bias": config.bias,
        }),
        Family::Qwen3 | Family::Llama => json!({
            "attention_bias": false,
            "head_dim": config.head_dim,
            "hidden_act": if config.activation == Activation::ReluSquared { "relu" } else { "silu" },
            "mlp_bias": false,
            "rms_norm_eps": number(config.norm_eps),
            "rope_scaling": null,
            "sliding_window": null,
            "use_sliding_window": false,
        }),
    };
    if let (Some(stated), Value::Object(more)) = (stated.as_object_mut(), more) {
        stated.extend(more);
        // These classes drop nothing while training; it is kept for whoever imports the model here.
        if config.dropout > 0.0 {
            stated.insert("residual_dropout".to_owned(), number(config.dropout));
        }
        for key in ["bos_token_id", "eos_token_id", "pad_token_id"] {
            if let Some(id) = options.token_ids.get(key) {
                stated.insert(key.to_owned(), id.clone());
            }
        }
    }
    stated
}
