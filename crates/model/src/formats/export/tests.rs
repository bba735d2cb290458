//! Models that leave and come back, and what is refused before anything is written.

use std::fs;
use std::path::Path;

use half::{bf16, f16};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::*;
use crate::config::{Activation, ModelConfig};
use crate::directory::{ModelDirectory, StoredDtype, TextFile, save_model};
use crate::error::ModelError;
use crate::formats::ForeignModel;
use crate::specification::{ParameterSpec, init_parameter};

fn classic() -> ModelConfig {
    ModelConfig { n_kv_head: 2, rope_theta: 50_000.0, ..ModelConfig::classic(2, 32, 4, 11, 64).unwrap() }
}

fn modern() -> ModelConfig {
    ModelConfig { head_dim: 6, ..ModelConfig::modern(2, 32, 4, 2, 11, 64).unwrap() }
}

fn llama() -> ModelConfig {
    ModelConfig { qk_norm: false, ..modern() }
}

fn squared() -> ModelConfig {
    modern().with_activation(Activation::ReluSquared)
}

fn values_of(spec: &ParameterSpec) -> Vec<f32> {
    let mut values = init_parameter(spec, 5);
    // What starts at zero would hide a mistake.
    values.iter_mut().enumerate().for_each(|(i, value)| *value += (i % 17) as f32 / 16.0);
    values
}

/// A model directory of a config, with one value changed if so.
fn saved(config: &ModelConfig, change: Option<(&str, f32)>) -> (TempDir, ModelDirectory) {
    let dir = TempDir::new().unwrap();
    save_model(dir.path(), config, StoredDtype::F32, &[], |spec| {
        let mut values = values_of(spec);
        if let Some((_, value)) = change.filter(|(name, _)| *name == spec.name) {
            values[1] = value;
        }
        Ok(values.into())
    })
    .unwrap();
    let directory = ModelDirectory::open(dir.path()).unwrap();
    (dir, directory)
}

fn options(dtype: HfDtype, max_shard_bytes: u64) -> HfOptions {
    let token_ids = json!({"bos_token_id": 0, "eos_token_id": [1, 2]});
    HfOptions { dtype, max_shard_bytes, token_ids: token_ids.as_object().cloned().unwrap_or_else(Map::new) }
}

fn to_folder(config: &ModelConfig, dtype: HfDtype, most: u64, out: &Path) -> Result<Exported, ModelError> {
    let (_dir, source) = saved(config, None);
    let texts = [TextFile { name: "README.md", contents: "# A card\n" }];
    export_hf(&source, out, &options(dtype, most), &texts, &mut |_| Ok(()))
}

fn to_file(config: &ModelConfig, kind: GgufType, out: &Path) -> Result<Exported, ModelError> {
    let (_dir, source) = saved(config, None);
    export_gguf(
        &source,
        out,
        kind,
        &[("general.name".to_owned(), MetadataValue::Text("x".to_owned()))],
        &mut |_| Ok(()),
    )
}

/// Holds a foreign model to the config and to what `rounded` makes of its values.
fn same(path: &Path, config: &ModelConfig, rounded: impl Fn(&ParameterSpec, f32) -> f32) -> ForeignModel {
    let mut model = ForeignModel::open(path).unwrap();
    assert_eq!(model.config(), config);
    for spec in config.parameters() {
        let expected: Vec<f32> = values_of(&spec).into_iter().map(|value| rounded(&spec, value)).collect();
        assert!(model.values(&spec).unwrap() == expected, "{}", spec.name);
    }
    model
}

fn exact(_: &ParameterSpec, value: f32) -> f32 {
    value
}

#[test]
fn what_leaves_comes_back_to_the_bit() {
    let dropped = ModelConfig { dropout: 0.1, ..classic() };
    let bare = ModelConfig { bias: false, ..classic() };
    let untied = ModelConfig { tie_embeddings: false, ..llama() };
    for config in [classic(), dropped, bare, modern(), squared(), llama(), untied] {
        for most in [1 << 30, 1 << 13] {
            let dir = TempDir::new().unwrap();
            let exported = to_folder(&config, HfDtype::F32, most, dir.path()).unwrap();
            assert_eq!(exported.files.len() > 1, most == 1 << 13);
            same(dir.path(), &config, exact);
        }
    }
    for config in [
        classic(),
        ModelConfig { dropout: 0.1, ..classic() },
        modern(),
        llama(),
        ModelConfig { tie_embeddings: false, ..classic() },
    ] {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("model.gguf");
        to_file(&config, GgufType::F32, &path).unwrap();
        let model = same(&path, &config, exact);
        assert_eq!(model.metadata().unwrap().text("general.name"), Some("x"));
    }
}

#[test]
fn weights_may_lie_in_any_order() {
    let (_dir, source) = saved(&classic(), None);
    let path = source.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    // The crate sorts them by name.
    let sorted = safetensors::serialize(tensors.tensors(), None).unwrap();
    assert_ne!(sorted, bytes);
    fs::write(&path, sorted).unwrap();
    fs::write(source.path().join("checksums.json"), "{}").unwrap();
    let source = ModelDirectory::open(source.path()).unwrap();
    let dir = TempDir::new().unwrap();
    export_hf(&source, &dir.path().join("hf"), &options(HfDtype::F32, 20_000), &[], &mut |_| Ok(())).unwrap();
    same(&dir.path().join("hf"), &classic(), exact);
    let path = dir.path().join("x.gguf");
    export_gguf(&source, &path, GgufType::F32, &[], &mut |_| Ok(())).unwrap();
    same(&path, &classic(), exact);
}

#[test]
fn fewer_bits_are_rounded_to_nearest_and_vectors_of_a_gguf_file_are_not() {
    let halves = |_: &ParameterSpec, value: f32| f16::from_f32(value).to_f32();
    let brain = |_: &ParameterSpec, value: f32| bf16::from_f32(value).to_f32();
    let dir = TempDir::new().unwrap();
    to_folder(&classic(), HfDtype::F16, 1 << 30, &dir.path().join("f16")).unwrap();
    same(&dir.path().join("f16"), &classic(), halves);
    to_folder(&modern(), HfDtype::Bf16, 1 << 30, &dir.path().join("bf16")).unwrap();
    let model = same(&dir.path().join("bf16"), &modern(), brain);
    assert_eq!(model.stored_dtype(), StoredDtype::Bf16);
    for (kind, half) in [(GgufType::F16, true), (GgufType::Bf16, false)] {
        let path = dir.path().join(format!("{half}.gguf"));
        to_file(&classic(), kind, &path).unwrap();
        same(&path, &classic(), |spec, value| match (spec.decays(), half) {
            (false, _) => value,
            (true, true) => f16::from_f32(value).to_f32(),
            (true, false) => bf16::from_f32(value).to_f32(),
        });
    }
}

#[test]
fn quantised_files_are_near() {
    let dir = TempDir::new().unwrap();
    // Rows of 256, and of 96, which hold no superblock.
    for width in [256, 96] {
        let config = ModelConfig { n_ff: width, ..ModelConfig::classic(4, width, 4, 40, 16).unwrap() };
        for (kind, steps, types) in [
            (GgufType::Q8_0, 100.0, vec![("F32", 42), ("Q8_0", 25)]),
            (GgufType::Q4_0, 6.0, vec![("F32", 42), ("Q4_0", 24), ("Q6_K", 1)]),
            // Of four layers the last two have more bits.
            (GgufType::Q4KM, 8.0, vec![("F32", 42), ("Q4_K", 20), ("Q6_K", 5)]),
        ] {
            let path = dir.path().join(format!("{width}-{kind:?}.gguf"));
            let exported = to_file(&config, kind, &path).unwrap();
            let renamed = |(name, count): (&'static str, usize)| match (width, name) {
                (96, "Q4_K") => ("Q5_0", count),
                (96, "Q6_K") => ("Q8_0", count),
                _ => (name, count),
            };
            assert_eq!(exported.element_types, types.into_iter().map(renamed).collect::<Vec<_>>());
            let mut model = ForeignModel::open(&path).unwrap();
            for spec in config.parameters() {
                let expected = values_of(&spec);
                let largest = expected.iter().fold(0.0f32, |most, value| most.max(value.abs()));
                let far =
                    model.values(&spec).unwrap().iter().zip(&expected).any(|(a, b)| (a - b).abs() > largest / steps);
                assert!(!far, "{kind:?} {}", spec.name);
            }
        }
    }
}

#[test]
fn shards_are_full_and_an_index_finds_every_tensor() {
    let dir = TempDir::new().unwrap();
    let most = 20_000;
    let exported = to_folder(&classic(), HfDtype::F32, most, dir.path()).unwrap();
    let count = exported.files.len();
    let index: Value =
        serde_json::from_slice(&fs::read(dir.path().join("model.safetensors.index.json")).unwrap()).unwrap();
    let mut sizes = Vec::new();
    for (at, file) in exported.files.iter().enumerate() {
        assert_eq!(file.name, format!("model-{:05}-of-{count:05}.safetensors", at + 1));
        let bytes = fs::read(dir.path().join(&file.name)).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        for name in tensors.names() {
            assert_eq!(index["weight_map"][name], file.name.as_str());
        }
        let data: usize = tensors.tensors().iter().map(|(_, tensor)| tensor.data().len()).sum();
        assert!(data as u64 <= most, "{}", file.name);
        sizes.push(data);
    }
    assert!(sizes.windows(2).all(|pair| (pair[0] + pair[1]) as u64 > most / 2), "{sizes:?}");
    assert_eq!(index["metadata"]["total_size"], sizes.iter().sum::<usize>());
    // Queries', keys' and values' biases are 64 zeros a layer.
    assert_eq!(sizes.iter().sum::<usize>(), (classic().n_params() + 2 * 64) * 4);
    let config: Value = serde_json::from_slice(&fs::read(dir.path().join("config.json")).unwrap()).unwrap();
    assert_eq!((&config["eos_token_id"], &config["pad_token_id"]), (&json!([1, 2]), &Value::Null));
    assert_eq!((&config["hidden_act"], &config["norm_epsilon"]), (&"gelu".into(), &1e-5.into()));
}

#[test]
fn what_another_program_would_compute_otherwise_is_refused_and_nothing_is_left() {
    let dir = TempDir::new().unwrap();
    let odd = |config: ModelConfig, change: fn(&mut ModelConfig)| {
        let mut config = config;
        change(&mut config);
        config
    };
    for (config, both, expected) in [
        (squared(), false, "activation = relusquared has no place in a GGUF file"),
        (odd(classic(), |c| c.bias = false), false, "bias = false has no place in a GGUF file"),
        (odd(classic(), |c| c.qk_norm = true), true, "qk_norm = true"),
        (odd(classic(), |c| c.head_dim = 6), true, "head_dim = 6"),
        (classic().with_activation(Activation::SwiGlu), true, "activation = swiglu"),
        (modern().with_activation(Activation::Gelu), true, "activation = gelu"),
        (odd(modern(), |c| c.bias = true), true, "bias = true"),
    ] {
        let error = to_file(&config, GgufType::F32, &dir.path().join("out/x.gguf")).unwrap_err();
        assert!(matches!(error, ModelError::Export(ExportError::Shape { .. })));
        assert!(error.to_string().contains(expected), "{expected}: {error}");
        if both {
            let error = to_folder(&config, HfDtype::F32, 1 << 30, &dir.path().join("out")).unwrap_err().to_string();
            assert!(error.contains(&expected.replace("a GGUF file", "a model of transformers")), "{expected}: {error}");
        }
    }
    let error = to_folder(&classic(), HfDtype::F32, 1023, &dir.path().join("out")).unwrap_err().to_string();
    assert!(error.contains("a shard of 1023 bytes is too small"), "{error}");
    assert!(!dir.path().join("out").exists());

    for (value, dtype, expected) in [
        (f32::NAN, HfDtype::F32, "layers.1.mlp.up.weight holds NaN: the model is damaged"),
        (70_000.0, HfDtype::F16, "holds 70000, but F16 holds at most 65504; export as bf16 or f32"),
        (f32::MAX, HfDtype::Bf16, "but BF16 holds at most"),
    ] {
        let (_dir, source) = saved(&classic(), Some(("layers.1.mlp.up.weight", value)));
        let error =
            export_hf(&source, dir.path(), &options(dtype, 4096), &[], &mut |_| Ok(())).unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
    let (_dir, source) = saved(&classic(), Some(("layers.1.mlp.up.weight", 1e6)));
    let out = dir.path().join("x.gguf");
    let error = export_gguf(&source, &out, GgufType::Q8_0, &[], &mut |_| Ok(())).unwrap_err().to_string();
    assert!(error.contains("Q8_0 holds at most 65504"), "{error}");
    // Weights that were changed after they were saved are noticed at their end.
    let path = source.path().join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    let error = export_gguf(&source, &out, GgufType::F32, &[], &mut |_| Ok(())).unwrap_err();
    assert!(matches!(error, ModelError::Checksum { .. }), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn an_export_that_is_stopped_leaves_nothing() {
    let dir = TempDir::new().unwrap();
    let (_dir, source) = saved(&classic(), None);
    for (out, stop_at) in ["hf", "some/where", "mine"].into_iter().flat_map(|out| [(out, 1), (out, 3)]) {
        let out = dir.path().join(out);
        let mine = out.ends_with("mine");
        if mine {
            fs::create_dir_all(&out).unwrap();
        }
        let mut calls = 0;
        let mut stop = |_| {
            calls += 1;
            if calls == stop_at { Err(ModelError::Stopped) } else { Ok(()) }
        };
        let error = export_hf(&source, &out, &options(HfDtype::F32, 4096), &[], &mut stop).unwrap_err();
        assert!(matches!(error, ModelError::Stopped));
        // Not even a folder, but for one that was there before.
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), usize::from(mine), "{}", out.display());
        assert!(!mine || fs::read_dir(&out).unwrap().count() == 0);
        calls = 0;
        let mut stop = |_| {
            calls += 1;
            if calls == stop_at { Err(ModelError::Stopped) } else { Ok(()) }
        };
        let path = dir.path().join("x.gguf");
        assert!(matches!(export_gguf(&source, &path, GgufType::F32, &[], &mut stop), Err(ModelError::Stopped)));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), usize::from(mine), "{}", path.display());
    }
}

#[test]
fn an_export_that_was_damaged_is_not_imported() {
    let dir = TempDir::new().unwrap();
    let exported = to_folder(&classic(), HfDtype::F32, 20_000, dir.path()).unwrap();
    let file = dir.path().join("x.gguf");
    to_file(&classic(), GgufType::F16, &file).unwrap();
    for (path, open) in [
        (dir.path().join(&exported.files[1].name), dir.path()),
        (dir.path().join("config.json"), dir.path()),
        (file.clone(), file.as_path()),
    ] {
        let whole = fs::read(&path).unwrap();
        let mut bytes = whole.clone();
        // A space of the text, or a weight.
        let at = if path.ends_with("config.json") { 2 } else { bytes.len() - 40 };
        bytes[at] = if bytes[at] == b' ' { b'\t' } else { bytes[at] ^ 1 };
        fs::write(&path, bytes).unwrap();
        let error = ForeignModel::open(open).unwrap_err();
        assert!(matches!(error, ModelError::Checksum { .. }), "{}: {error}", path.display());
        fs::write(&path, whole).unwrap();
        ForeignModel::open(open).unwrap();
    }
    let model = ForeignModel::open(dir.path()).unwrap();
    model.check_text("README.md", b"# A card\n").unwrap();
    assert!(matches!(model.check_text("README.md", b"# Another\n"), Err(ModelError::Checksum { .. })));
    fs::write(dir.path().join("x.gguf.sha256"), "no sum").unwrap();
    assert!(ForeignModel::open(&file).unwrap_err().to_string().contains("x.gguf.sha256: the line is not a SHA-256"));
}

/// Writes one value of a tensor of an exported folder, and takes its checksums away.
fn change(folder: &Path, tensor: &str, value: f32) {
    let path = folder.join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let (length, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let at = 8 + length + metadata.info(tensor).unwrap().data_offsets.0;
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    let _ = fs::remove_file(folder.join("checksums.json"));
}

#[test]
fn what_a_foreign_model_has_and_ours_have_not_is_refused() {
    let dir = TempDir::new().unwrap();
    to_folder(&classic(), HfDtype::F32, 1 << 30, dir.path()).unwrap();
    change(dir.path(), "model.layers.1.self_attn.k_proj.bias", -0.0);
    ForeignModel::open(dir.path()).unwrap();
    change(dir.path(), "model.layers.1.self_attn.k_proj.bias", 0.5);
    let error = ForeignModel::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("k_proj.bias is not all zeros: it holds 0.5"), "{error}");

    let dir = TempDir::new().unwrap();
    to_folder(&squared(), HfDtype::F32, 1 << 30, dir.path()).unwrap();
    change(dir.path(), "model.layers.1.mlp.up_proj.weight", 7.0);
    let mut model = ForeignModel::open(dir.path()).unwrap();
    let spec = squared().parameters().into_iter().find(|spec| spec.name == "layers.1.mlp.up.weight").unwrap();
    let error = model.values(&spec).unwrap_err().to_string();
    assert!(error.contains("mlp.up_proj.weight is another matrix than that of the gate"), "{error}");

    let dir = TempDir::new().unwrap();
    to_folder(&classic(), HfDtype::F32, 1 << 30, dir.path()).unwrap();
    fs::remove_file(dir.path().join("checksums.json")).unwrap();
    let path = dir.path().join("config.json");
    let stated: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for (key, value) in [
        ("hidden_act", json!("gelu_pytorch_tanh")),
        ("hidden_act", Value::Null),
        ("sliding_window", json!(4096)),
        ("norm_epsilon", Value::Null),
    ] {
        let mut changed = stated.clone();
        changed[key] = value;
        fs::write(&path, changed.to_string()).unwrap();
        let error = ForeignModel::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains(key), "{key}: {error}");
    }

    // llama.cpp computes every other starcoder2 file with the approximation of GELU.
    let path = dir.path().join("x.gguf");
    to_file(&classic(), GgufType::F32, &path).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(18).position(|window| window == b"casallm.activation").unwrap();
    bytes[at] = b'k';
    fs::write(&path, bytes).unwrap();
    fs::remove_file(dir.path().join("x.gguf.sha256")).unwrap();
    let error = ForeignModel::open(&path).unwrap_err().to_string();
    assert!(error.contains("casallm.activation is missing"), "{error}");
}
