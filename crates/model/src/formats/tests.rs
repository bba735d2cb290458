//! Foreign models made here, byte by byte, and every way in which they can lie.

use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;
use safetensors::tensor::{Dtype, TensorView, serialize};
use tempfile::TempDir;

use super::*;
use crate::directory::{load_weights, save_model};
use crate::specification::init_parameter;

/// Two layers, four query heads of width 6, two key heads.
fn config(qk_norm: bool, tie_embeddings: bool) -> ModelConfig {
    ModelConfig {
        head_dim: 6,
        n_ff: 20,
        qk_norm,
        tie_embeddings,
        rope_theta: 50_000.0,
        norm_eps: 1e-5,
        ..ModelConfig::modern(2, 32, 4, 2, 11, 64).unwrap()
    }
}

/// The weights of a config as its author would name them, apart and with straight heads: name, shape, values.
fn tensors(config: &ModelConfig, naming: Naming) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let mut tensors = Vec::new();
    for spec in config.parameters() {
        let values = values_of(&spec);
        let columns: usize = spec.shape[1..].iter().product();
        let mut at = 0;
        for part in layout::parts(naming, true, config, &spec) {
            let mut rows = values[at * columns..(at + part.rows) * columns].to_vec();
            if naming == Naming::Gguf && part.heads {
                layout::interleave(&mut rows, config.head_dim, columns);
            }
            at += part.rows;
            tensors.push((part.name, [&[part.rows], &spec.shape[1..]].concat(), rows));
        }
    }
    tensors
}

fn values_of(spec: &ParameterSpec) -> Vec<f32> {
    let mut values = init_parameter(spec, 5);
    // Matrices that start at zero would hide a mistake.
    values.iter_mut().enumerate().for_each(|(i, value)| *value += (i % 17) as f32 / 16.0);
    values
}

/// A value of GGUF metadata.
#[derive(Clone)]
enum Meta {
    U32(u32),
    F32(f32),
    Text(&'static str),
    Texts(u64, Vec<&'static str>),
    Raw(Vec<u8>),
}

/// A tensor of a file: name, shape, type, an offset that is not the usual, bytes.
type Listed = (String, Vec<u64>, u32, Option<u64>, Vec<u8>);
/// Damage to a file.
type Change = Box<dyn Fn(&mut Gguf)>;

/// The parts of a GGUF file, to be changed before they are written.
#[derive(Clone)]
struct Gguf {
    magic: [u8; 4],
    version: u32,
    tensor_count: Option<u64>,
    key_count: Option<u64>,
    keys: Vec<(String, Meta)>,
    /// Name, dimensions fastest first, type, offset (by default the next), data.
    tensors: Vec<Listed>,
    cut: usize,
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

impl Gguf {
    fn of(config: &ModelConfig) -> Self {
        let arch = if config.qk_norm { "qwen3" } else { "llama" };
        let key = |name: &str| format!("{arch}.{name}");
        let number = |name: &str, value: usize| (key(name), Meta::U32(value as u32));
        let keys = vec![
            ("general.architecture".to_owned(), Meta::Text(arch)),
            number("block_count", config.n_layer),
            number("context_length", config.context),
            number("embedding_length", config.n_embd),
            number("feed_forward_length", config.n_ff),
            number("attention.head_count", config.n_head),
            number("attention.head_count_kv", config.n_kv_head),
            number("attention.key_length", config.head_dim),
            number("rope.dimension_count", config.head_dim),
            (key("rope.freq_base"), Meta::F32(config.rope_theta)),
            (key("attention.layer_norm_rms_epsilon"), Meta::F32(config.norm_eps)),
            ("tokenizer.ggml.tokens".to_owned(), Meta::Texts(2, vec!["a", "b"])),
        ];
        let tensors = tensors(config, Naming::Gguf).into_iter().map(|(name, shape, mut values)| {
            if config.qk_norm && (name.contains("attn_q.") || name.contains("attn_k.")) {
                // qwen3 is not interleaved.
                layout::halves(&mut values, config.head_dim, config.n_embd);
            }
            let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            (name, shape.iter().rev().map(|&n| n as u64).collect(), 0, None, bytes)
        });
        let (magic, version) = (*b"GGUF", 3);
        Gguf { magic, version, tensor_count: None, key_count: None, keys, tensors: tensors.collect(), cut: 0 }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = self.magic.to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.key_count.unwrap_or(self.keys.len() as u64).to_le_bytes());
        for (key, value) in &self.keys {
            text(&mut out, key);
            match value {
                Meta::U32(n) => out.extend([&4u32.to_le_bytes()[..], &n.to_le_bytes()].concat()),
                Meta::F32(x) => out.extend([&6u32.to_le_bytes()[..], &x.to_le_bytes()].concat()),
                Meta::Text(value) => {
                    out.extend(8u32.to_le_bytes());
                    text(&mut out, value);
                }
                Meta::Texts(count, texts) => {
                    out.extend([&9u32.to_le_bytes()[..], &8u32.to_le_bytes(), &count.to_le_bytes()].concat());
                    texts.iter().for_each(|one| text(&mut out, one));
                }
                Meta::Raw(bytes) => out.extend(bytes),
            }
        }
        let mut next = 0;
        for (name, dimensions, kind, offset, data) in &self.tensors {
            text(&mut out, name);
            out.extend((dimensions.len() as u32).to_le_bytes());
            dimensions.iter().for_each(|n| out.extend(n.to_le_bytes()));
            out.extend(kind.to_le_bytes());
            out.extend(offset.unwrap_or(next).to_le_bytes());
            next += (data.len() as u64).next_multiple_of(32);
        }
        for (.., data) in &self.tensors {
            out.resize(out.len().next_multiple_of(32), 0);
            out.extend(data);
        }
        out.truncate(out.len() - self.cut);
        out
    }

    fn open(&self) -> Result<ForeignModel, ModelError> {
        open_bytes(&self.bytes())
    }

    fn set(&mut self, key: &str, value: Meta) {
        match self.keys.iter_mut().find(|(name, _)| name == key) {
            Some((_, place)) => *place = value,
            None => self.keys.push((key.to_owned(), value)),
        }
    }
}

fn open_bytes(bytes: &[u8]) -> Result<ForeignModel, ModelError> {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("model.gguf");
    fs::write(&path, bytes).unwrap();
    ForeignModel::open(&path)
}

/// Saves a model and holds what is read back to what its author had.
fn same_weights(mut model: ForeignModel, expected: &ModelConfig) {
    assert_eq!(model.config(), expected);
    let dir = TempDir::new().unwrap();
    let (config, dtype) = (model.config().clone(), model.stored_dtype());
    save_model(dir.path(), &config, dtype, &[], |spec| model.values(spec).map(Into::into)).unwrap();
    let (_, loaded) = load_weights(dir.path()).unwrap();
    assert_eq!(loaded.len(), expected.parameters().len());
    for parameter in loaded {
        assert!(parameter.values == values_of(&parameter.spec), "{}", parameter.spec.name);
    }
}

#[test]
fn a_gguf_file_becomes_the_model_that_it_was_made_from() {
    for (qk_norm, tied) in [(false, true), (false, false), (true, true)] {
        let config = config(qk_norm, tied);
        let model = Gguf::of(&config).open().unwrap();
        assert_eq!(model.element_types(), [("F32", model.tensors.iter().count())]);
        let metadata = model.metadata().unwrap();
        assert_eq!(metadata.texts("tokenizer.ggml.tokens").unwrap(), ["a", "b"]);
        assert_eq!(metadata.text("tokenizer.ggml.tokens"), None);
        same_weights(model, &config);
    }
    // Without what has a default.
    let mut gguf = Gguf::of(&config(false, true));
    gguf.version = 2;
    gguf.keys.retain(|(key, _)| !key.contains("rope"));
    let model = gguf.open().unwrap();
    assert_eq!(model.config().rope_theta, 10_000.0);
}

#[test]
fn spare_rows_of_the_vocabulary_can_be_left_out() {
    let full = config(false, false);
    let mut model = Gguf::of(&full).open().unwrap();
    assert!(matches!(
        model.keep_vocabulary(12),
        Err(ModelError::Format(FormatError::Vocabulary { tokens: 12, rows: 11 }))
    ));
    model.keep_vocabulary(9).unwrap();
    let specs = model.config().parameters();
    for name in ["embed.weight", "head.weight"] {
        let spec = specs.iter().find(|spec| spec.name == name).unwrap();
        let whole = full.parameters().into_iter().find(|spec| spec.name == name).unwrap();
        assert_eq!(model.values(spec).unwrap(), values_of(&whole)[..9 * 32]);
    }
}

#[test]
fn quantised_blocks_are_read_across_chunks() {
    let config = ModelConfig { n_ff: 32, ..config(false, true) };
    let mut gguf = Gguf::of(&config);
    // Q8_0 with scale 1: a block of a row of 32 values, each its own number of the row.
    let tensor = gguf.tensors.iter_mut().find(|(name, ..)| name == "blk.1.ffn_down.weight").unwrap();
    let block = |row: u8| [&[0x00, 0x3C][..], &[row; 32]].concat();
    (tensor.2, tensor.4) = (8, (0..32).flat_map(block).collect());
    let mut model = gguf.open().unwrap();
    let spec = config.parameters().into_iter().find(|spec| spec.name == "layers.1.mlp.down.weight").unwrap();
    let expected: Vec<f32> = (0..32 * 32).map(|i| (i / 32) as f32).collect();
    assert_eq!(model.values(&spec).unwrap(), expected);
}

#[test]
fn a_gguf_file_that_lies_is_refused_by_the_thing() {
    let changes: Vec<(&str, Change)> = vec![
        ("neither a GGUF file", Box::new(|g| g.magic = *b"GGML")),
        ("version of GGUF is 1;", Box::new(|g| g.version = 1)),
        ("version of GGUF is 50331648", Box::new(|g| g.version = 3u32.swap_bytes())),
        ("number of tensors is 18446744073709551615", Box::new(|g| g.tensor_count = Some(u64::MAX))),
        ("number of metadata keys is 18446744073709551615", Box::new(|g| g.key_count = Some(u64::MAX))),
        ("dimensions, not 1 to 4", Box::new(|g| g.tensor_count = Some(60))),
        ("tokens is 4611686018427387904 long", Box::new(|g| g.set("tokens", Meta::Texts(1 << 62, vec![])))),
        ("bytes long, where", Box::new(|g| g.set("tokens", Meta::Texts(1 << 10, vec!["a"])))),
        ("x is of type 77", Box::new(|g| g.set("x", Meta::Raw(77u32.to_le_bytes().to_vec())))),
        (
            "a list of lists",
            Box::new(|g| {
                let bytes = [&9u32.to_le_bytes()[..], &9u32.to_le_bytes(), &1u64.to_le_bytes()].concat();
                g.set("x", Meta::Raw(bytes));
            }),
        ),
        (
            "not UTF-8",
            Box::new(|g| {
                let bytes = [&8u32.to_le_bytes()[..], &1u64.to_le_bytes(), &[0xFF]].concat();
                g.set("x", Meta::Raw(bytes));
            }),
        ),
        (
            "metadata key x is there twice",
            Box::new(|g| {
                g.keys.extend([("x".to_owned(), Meta::U32(1)), ("x".to_owned(), Meta::U32(1))]);
            }),
        ),
        ("general.alignment is 7", Box::new(|g| g.set("general.alignment", Meta::U32(7)))),
        ("general.alignment is 0", Box::new(|g| g.set("general.alignment", Meta::U32(0)))),
        ("of 0 dimensions", Box::new(|g| g.tensors[0].1 = vec![])),
        ("of 5 dimensions", Box::new(|g| g.tensors[0].1 = vec![1; 5])),
        ("token_embd.weight is [4294967296, 4294967296]", Box::new(|g| g.tensors[0].1 = vec![1 << 32, 1 << 32])),
        ("token_embd.weight is [18446744073709551615]", Box::new(|g| g.tensors[0].1 = vec![u64::MAX])),
        ("token_embd.weight is stored as ggml type 16", Box::new(|g| g.tensors[0].2 = 16)),
        ("at 5, not a multiple of 32", Box::new(|g| g.tensors[0].3 = Some(5))),
        ("in a file of", Box::new(|g| g.tensors[0].3 = Some(u64::MAX - 31))),
        ("in a file of", Box::new(|g| g.tensors[0].3 = Some(1 << 40))),
        ("over tensor token_embd.weight", Box::new(|g| g.tensors[1].3 = Some(32))),
        (
            "blk.0.attn_norm.weight is there twice",
            Box::new(|g| {
                let mut twin = g.tensors[1].clone();
                twin.3 = None;
                g.tensors.push(twin);
            }),
        ),
        // A row of 20 values is no whole block of 32.
        (
            "blk.0.ffn_down.weight is [32, 20]",
            Box::new(|g| {
                g.tensors.iter_mut().find(|t| t.0 == "blk.0.ffn_down.weight").unwrap().2 = 8;
            }),
        ),
        ("in a file of", Box::new(|g| g.cut = 1)),
        ("tensor blk.1.ffn_up.weight is missing", Box::new(|g| g.tensors.retain(|t| t.0 != "blk.1.ffn_up.weight"))),
        ("tensor token_embd.weight is missing", Box::new(|g| drop(g.tensors.remove(0)))),
        (
            "tensor blk.0.attn_q.bias has no place",
            Box::new(|g| {
                g.tensors.push(("blk.0.attn_q.bias".to_owned(), vec![24], 0, None, vec![0; 96]));
            }),
        ),
        (
            "has shape [24, 32], but the model's settings imply [12, 32]",
            Box::new(|g| {
                let at = g.tensors.iter().position(|t| t.0 == "blk.0.attn_q.weight").unwrap();
                let (shape, data) = (g.tensors[at].1.clone(), g.tensors[at].4.clone());
                let key = g.tensors.iter_mut().find(|t| t.0 == "blk.0.attn_k.weight").unwrap();
                (key.1, key.4) = (shape, data);
            }),
        ),
        ("general.architecture is \"mamba\"", Box::new(|g| g.set("general.architecture", Meta::Text("mamba")))),
        ("general.architecture is missing", Box::new(|g| drop(g.keys.remove(0)))),
        ("llama.block_count is missing", Box::new(|g| g.keys.retain(|(key, _)| key != "llama.block_count"))),
        ("llama.block_count is \"two\"", Box::new(|g| g.set("llama.block_count", Meta::Text("two")))),
        ("n_layer = 4294967295", Box::new(|g| g.set("llama.block_count", Meta::U32(u32::MAX)))),
        (
            "llama.attention.head_count is 0",
            Box::new(|g| {
                g.keys.retain(|(key, _)| key != "llama.attention.key_length");
                g.set("llama.attention.head_count", Meta::U32(0));
            }),
        ),
        ("norm_eps = NaN", Box::new(|g| g.set("llama.attention.layer_norm_rms_epsilon", Meta::F32(f32::NAN)))),
        ("llama.expert_count is 8", Box::new(|g| g.set("llama.expert_count", Meta::U32(8)))),
        ("llama.rope.dimension_count is 4", Box::new(|g| g.set("llama.rope.dimension_count", Meta::U32(4)))),
        ("llama.rope.scaling.type is \"yarn\"", Box::new(|g| g.set("llama.rope.scaling.type", Meta::Text("yarn")))),
        ("llama.rope.scale_linear is 2", Box::new(|g| g.set("llama.rope.scale_linear", Meta::F32(2.0)))),
        (
            "tensor rope_freqs.weight",
            Box::new(|g| {
                g.tensors.push(("rope_freqs.weight".to_owned(), vec![3], 0, None, vec![0; 12]));
            }),
        ),
    ];
    for (expected, change) in changes {
        let mut gguf = Gguf::of(&config(false, true));
        change(&mut gguf);
        match gguf.open() {
            Ok(_) => panic!("{expected}: opened"),
            Err(error) => assert!(error.to_string().contains(expected), "{expected}: {error}"),
        }
    }
    assert!(open_bytes(b"").unwrap_err().to_string().contains("neither a GGUF file"));
    assert!(matches!(ForeignModel::open(&PathBuf::from("/nowhere")), Err(ModelError::Io { doing: "read", .. })));
}

#[test]
fn a_number_that_is_not_finite_is_found_when_it_is_read() {
    let mut gguf = Gguf::of(&config(false, true));
    gguf.tensors[0].4[4..8].copy_from_slice(&f32::NAN.to_le_bytes());
    let mut model = gguf.open().unwrap();
    let spec = &model.config().parameters()[0];
    let error = model.values(spec).unwrap_err().to_string();
    assert!(error.contains("value 1 of tensor token_embd.weight is not a finite number"), "{error}");
}

/// A folder of `transformers`, its weights in `shards` files.
fn folder(config: &ModelConfig, dtype: Dtype, shards: usize) -> TempDir {
    let dir = TempDir::new().unwrap();
    let stated = serde_json::json!({
        "architectures": [if config.qk_norm { "Qwen3ForCausalLM" } else { "LlamaForCausalLM" }],
        "vocab_size": config.vocab_size, "hidden_size": config.n_embd, "intermediate_size": config.n_ff,
        "num_hidden_layers": config.n_layer, "num_attention_heads": config.n_head,
        "num_key_value_heads": config.n_kv_head, "head_dim": config.head_dim, "hidden_act": "silu",
        "max_position_embeddings": config.context, "rms_norm_eps": 1e-5, "rope_theta": config.rope_theta,
        "rope_scaling": null, "tie_word_embeddings": config.tie_embeddings, "attention_bias": false,
        "torch_dtype": "bfloat16",
    });
    fs::write(dir.path().join("config.json"), stated.to_string()).unwrap();
    let bytes: Vec<(String, Vec<usize>, Vec<u8>)> = tensors(config, Naming::HuggingFace)
        .into_iter()
        .map(|(name, shape, values)| {
            let bytes = match dtype {
                Dtype::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
                Dtype::F16 => values.iter().flat_map(|&value| half::f16::from_f32(value).to_le_bytes()).collect(),
                _ => values.iter().flat_map(|&value| half::bf16::from_f32(value).to_le_bytes()).collect(),
            };
            (name, shape, bytes)
        })
        .collect();
    let mut map = serde_json::Map::new();
    for (number, part) in bytes.chunks(bytes.len().div_ceil(shards)).enumerate() {
        let name = if shards == 1 { "model.safetensors".to_owned() } else { format!("model-{number}.safetensors") };
        let views =
            part.iter().map(|(name, shape, bytes)| (name, TensorView::new(dtype, shape.clone(), bytes).unwrap()));
        fs::write(dir.path().join(&name), serialize(views, None).unwrap()).unwrap();
        map.extend(part.iter().map(|(tensor, ..)| (tensor.clone(), name.clone().into())));
    }
    if shards > 1 {
        let index = serde_json::json!({"metadata": {"total_size": 1}, "weight_map": map});
        fs::write(dir.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    }
    dir
}

#[test]
fn a_folder_becomes_the_model_that_it_was_made_from() {
    for (qk_norm, tied, shards) in [(false, true, 1), (false, false, 3), (true, true, 2)] {
        let config = config(qk_norm, tied);
        same_weights(ForeignModel::open(folder(&config, Dtype::F32, shards).path()).unwrap(), &config);
    }
}

#[test]
fn sixteen_bits_are_read_and_bf16_is_kept() {
    let config = config(false, true);
    for (dtype, stored, worst) in [(Dtype::BF16, StoredDtype::Bf16, 256.0), (Dtype::F16, StoredDtype::F32, 2048.0)] {
        let mut model = ForeignModel::open(folder(&config, dtype, 1).path()).unwrap();
        assert_eq!(model.stored_dtype(), stored);
        for spec in config.parameters() {
            let close = |(read, exact): (&f32, &f32)| (read - exact).abs() <= exact.abs() / worst + 1e-6;
            assert!(model.values(&spec).unwrap().iter().zip(&values_of(&spec)).all(close), "{}", spec.name);
        }
    }
}

#[test]
fn a_spare_table_changes_nothing() {
    let config = config(false, true);
    let dir = folder(&config, Dtype::BF16, 2);
    let name = "model.layers.0.self_attn.rotary_emb.inv_freq";
    let table = TensorView::new(Dtype::F32, vec![2], &[0; 8]).unwrap();
    fs::write(dir.path().join("tables.safetensors"), serialize([(name, table)], None).unwrap()).unwrap();
    let index = dir.path().join("model.safetensors.index.json");
    let mut stated: serde_json::Value = serde_json::from_slice(&fs::read(&index).unwrap()).unwrap();
    stated["weight_map"][name] = "tables.safetensors".into();
    fs::write(&index, stated.to_string()).unwrap();
    assert_eq!(ForeignModel::open(dir.path()).unwrap().stored_dtype(), StoredDtype::Bf16);
}

#[test]
fn a_config_of_another_kind_is_refused_by_its_key() {
    let dir = folder(&config(false, true), Dtype::F32, 1);
    let path = dir.path().join("config.json");
    let stated: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let open = |key: &str, value: serde_json::Value| {
        let mut changed = stated.clone();
        changed[key] = value;
        fs::write(&path, changed.to_string()).unwrap();
        ForeignModel::open(dir.path()).map(|model| model.config().clone())
    };
    for (key, value, expected) in [
        ("architectures", serde_json::json!(["GPT2LMHeadModel"]), "GPT2LMHeadModel"),
        ("architectures", serde_json::json!([]), "architectures is None"),
        ("attention_bias", true.into(), "attention_bias is true"),
        ("mlp_bias", true.into(), "mlp_bias is true"),
        ("hidden_act", "gelu".into(), "hidden_act is \"gelu\""),
        ("rope_scaling", serde_json::json!({"rope_type": "llama3", "factor": 8}), "rope_scaling is"),
        ("rope_scaling", serde_json::json!({"factor": 8}), "rope_scaling is"),
        ("rope_parameters", serde_json::json!({"rope_type": "yarn"}), "rope_parameters is"),
        ("use_sliding_window", true.into(), "use_sliding_window is true"),
        ("quantization_config", serde_json::json!({"bits": 4}), "quantization_config is"),
        ("partial_rotary_factor", 0.5.into(), "partial_rotary_factor is 0.5"),
        ("hidden_size", serde_json::Value::Null, "hidden_size is missing"),
        ("rms_norm_eps", serde_json::Value::Null, "rms_norm_eps is missing"),
        ("vocab_size", (-1).into(), "no config"),
        ("vocab_size", u64::MAX.into(), "vocab_size = 18446744073709551615"),
        ("vocab_size", 12.into(), "has shape [11, 32], but the model's settings imply [12, 32]"),
        ("num_hidden_layers", 3.into(), "tensor model.layers.2.input_layernorm.weight is missing"),
        ("num_hidden_layers", 1.into(), "tensor model.layers.1.input_layernorm.weight has no place"),
        ("tie_word_embeddings", false.into(), "tensor lm_head.weight is missing"),
    ] {
        let error = open(key, value).unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
    for rope in [serde_json::json!({"rope_type": "default", "rope_theta": 7e5}), serde_json::json!({"rope_theta": 7e5})]
    {
        assert_eq!(open("rope_parameters", rope).unwrap().rope_theta, 7e5);
    }
    fs::write(&path, "{").unwrap();
    assert!(ForeignModel::open(dir.path()).unwrap_err().to_string().contains("no config"));
    fs::remove_file(&path).unwrap();
    assert!(ForeignModel::open(dir.path()).unwrap_err().to_string().contains("neither a GGUF file nor a folder"));
}

#[test]
fn an_index_that_lies_is_refused() {
    let dir = folder(&config(false, true), Dtype::F32, 2);
    let path = dir.path().join("model.safetensors.index.json");
    let whole = fs::read_to_string(&path).unwrap();
    for (from, to, expected) in [
        ("model-1.safetensors", "../model-1.safetensors", "not a file of this folder"),
        ("model-1.safetensors", ".hidden", "not a file of this folder"),
        ("model-1.safetensors", "model-7.safetensors", "model-7.safetensors: cannot read"),
        ("\"model.norm.weight\"", "\"model.morn.weight\"", "not where the index says"),
        ("\"weight_map\":{", "\"weight_map\":{\"lost\":\"model-1.safetensors\",", "tensor lost is missing"),
        ("weight_map", "map", "no index"),
    ] {
        assert!(whole.contains(from));
        fs::write(&path, whole.replace(from, to)).unwrap();
        let error = ForeignModel::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
    fs::remove_file(&path).unwrap();
    assert!(ForeignModel::open(dir.path()).unwrap_err().to_string().contains("neither a GGUF file nor a folder"));
}

#[test]
fn safetensors_that_lie_are_refused() {
    let dir = folder(&config(false, true), Dtype::F32, 1);
    let path = dir.path().join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    for bytes in [
        vec![],
        vec![0; 7],
        [&u64::MAX.to_le_bytes()[..], &whole[8..]].concat(),
        [&whole[..], b"x"].concat(),
        whole[..whole.len() - 1].to_vec(),
        [&2u64.to_le_bytes()[..], b"[]"].concat(),
    ] {
        fs::write(&path, &bytes).unwrap();
        let error = ForeignModel::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("the safetensors header is"), "{error}");
    }
    let integers = TensorView::new(Dtype::I32, vec![1], &[0; 4]).unwrap();
    fs::write(&path, serialize([("model.norm.weight", integers)], None).unwrap()).unwrap();
    let error = ForeignModel::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("stored as I32"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_gguf_file_panics(changes in prop::collection::vec((0.0f64..1.0, any::<u8>()), 1..8), cut in 0.0f64..1.0) {
        let mut bytes = Gguf::of(&config(false, true)).bytes();
        // The head, where every byte matters.
        let head = 2000.min(bytes.len());
        for (place, byte) in changes {
            bytes[(place * head as f64) as usize] = byte;
        }
        if cut < 0.3 {
            bytes.truncate((cut * 3.0 * bytes.len() as f64) as usize);
        }
        if let Ok(mut model) = open_bytes(&bytes) {
            for spec in model.config().parameters() {
                let _ = model.values(&spec);
            }
        }
    }
}
