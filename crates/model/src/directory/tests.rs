//! A model directory against every way its files can lie.

use super::*;
use crate::specification::init_parameter;
use proptest::prelude::*;
use safetensors::tensor::{Dtype, TensorView, serialize};
use std::fs;
use tempfile::TempDir;

const TEXTS: [TextFile<'static>; 2] = [
    TextFile { name: TOKENIZER, contents: "{\"model\": \"é\"}" },
    TextFile { name: GENERATION_CONFIG, contents: "{\"temperature\": 0.7}" },
];

fn config() -> ModelConfig {
    ModelConfig::modern(2, 12, 2, 1, 31, 8).unwrap()
}

fn values(spec: &ParameterSpec) -> Result<Cow<'static, [f32]>, ModelError> {
    Ok(init_parameter(spec, 3).into())
}

fn saved(dtype: StoredDtype) -> TempDir {
    let dir = TempDir::new().unwrap();
    save_model(dir.path(), &config(), dtype, &TEXTS, values).unwrap();
    dir
}

fn load(dir: &TempDir) -> Result<(), ModelError> {
    load_weights(dir.path()).map(|_| ())
}

/// Replaces `model.safetensors` and lifts its checksum, so that the checks behind it are the ones tested.
fn forge(dir: &TempDir, bytes: &[u8]) {
    fs::write(dir.path().join(WEIGHTS), bytes).unwrap();
    let config = fs::read(dir.path().join(CONFIG)).unwrap();
    let mut sums = Checksums::default();
    sums.note(CONFIG, checksums::of(&config));
    fs::write(dir.path().join(CHECKSUMS), sums.to_json()).unwrap();
}

/// A weights file made by the safetensors crate from this model's parameters, after `change`.
fn forged(change: impl FnOnce(&mut Vec<(String, Dtype, Vec<usize>)>)) -> Vec<u8> {
    let mut tensors: Vec<_> = config().parameters().into_iter().map(|p| (p.name, Dtype::F32, p.shape)).collect();
    change(&mut tensors);
    let zeros = vec![0u8; 1 << 20];
    let views = tensors.iter().map(|(name, dtype, shape)| {
        let bytes = shape.iter().product::<usize>() * dtype.bitsize() / 8;
        (name, TensorView::new(*dtype, shape.clone(), &zeros[..bytes]).unwrap())
    });
    serialize(views, None).unwrap()
}

/// A weights file with this header and this much data.
fn with_header(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; data]].concat()
}

#[test]
fn f32_weights_come_back_to_the_bit() {
    let (config_read, loaded) = load_weights(saved(StoredDtype::F32).path()).unwrap();
    assert_eq!(config_read, config());
    let specs = config().parameters();
    assert_eq!(loaded.len(), specs.len());
    for (parameter, spec) in loaded.iter().zip(&specs) {
        assert_eq!(&parameter.spec, spec);
        assert_eq!(parameter.dtype, StoredDtype::F32);
        assert_eq!(parameter.values, init_parameter(spec, 3));
    }
}

#[test]
fn bf16_weights_come_back_rounded_to_nearest() {
    let (_, loaded) = load_weights(saved(StoredDtype::Bf16).path()).unwrap();
    for parameter in loaded {
        assert_eq!(parameter.dtype, StoredDtype::Bf16);
        for (read, exact) in parameter.values.iter().zip(init_parameter(&parameter.spec, 3)) {
            assert!((read - exact).abs() <= exact.abs() / 256.0, "{read} for {exact}");
            assert_eq!(read.to_bits() & 0xFFFF, 0);
        }
    }
}

#[test]
fn large_tensors_cross_the_streaming_chunks() {
    let dir = TempDir::new().unwrap();
    let config = ModelConfig::classic(1, 64, 2, 4099, 8).unwrap();
    for dtype in [StoredDtype::F32, StoredDtype::Bf16] {
        save_model(dir.path(), &config, dtype, &[], values).unwrap();
        let (_, loaded) = load_weights(dir.path()).unwrap();
        let exact = init_parameter(&loaded[0].spec, 3);
        assert!(exact.len() > 3 * (1 << 16));
        let worst = loaded[0].values.iter().zip(&exact).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst <= if dtype == StoredDtype::F32 { 0.0 } else { 0.1 / 256.0 }, "{worst}");
    }
}

#[test]
fn the_same_model_gives_the_same_bytes_and_the_safetensors_crate_reads_them() {
    let bytes = fs::read(saved(StoredDtype::F32).path().join(WEIGHTS)).unwrap();
    assert_eq!(bytes, fs::read(saved(StoredDtype::F32).path().join(WEIGHTS)).unwrap());
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    for spec in config().parameters() {
        let tensor = tensors.tensor(&spec.name).unwrap();
        assert_eq!(tensor.shape(), spec.shape);
        let first = f32::from_le_bytes(tensor.data()[..4].try_into().unwrap());
        assert_eq!(first, init_parameter(&spec, 3)[0]);
    }
}

#[test]
fn texts_are_kept_and_verified() {
    let dir = saved(StoredDtype::F32);
    let directory = ModelDirectory::open(dir.path()).unwrap();
    for text in TEXTS {
        assert_eq!(directory.text(text.name).unwrap(), text.contents);
    }
    assert!(matches!(directory.text(TOKENIZER_CONFIG), Err(ModelError::MissingFile { .. })));
    fs::write(dir.path().join(TOKENIZER), "{\"model\": \"e\"}").unwrap();
    assert!(matches!(directory.text(TOKENIZER), Err(ModelError::Checksum { .. })));
    fs::write(dir.path().join(TOKENIZER_CONFIG), b"ab\xFFc").unwrap();
    assert!(matches!(directory.text(TOKENIZER_CONFIG), Err(ModelError::NotUtf8 { offset: 2, .. })));
}

#[test]
fn an_edit_is_allowed_by_removing_its_checksum() {
    let dir = saved(StoredDtype::F32);
    fs::write(dir.path().join(GENERATION_CONFIG), "{}").unwrap();
    assert!(ModelDirectory::open(dir.path()).unwrap().text(GENERATION_CONFIG).is_err());
    let sums = fs::read_to_string(dir.path().join(CHECKSUMS)).unwrap();
    let kept: Vec<&str> = sums.lines().filter(|line| !line.contains(GENERATION_CONFIG)).collect();
    fs::write(dir.path().join(CHECKSUMS), kept.join("\n")).unwrap();
    assert_eq!(ModelDirectory::open(dir.path()).unwrap().text(GENERATION_CONFIG).unwrap(), "{}");
}

#[test]
fn names_that_leave_the_folder_or_take_a_place_are_refused() {
    let dir = TempDir::new().unwrap();
    for name in ["../x", "a/b", "", ".", "..", ".hidden", CONFIG, WEIGHTS, CHECKSUMS, "a\"b", "/etc/x"] {
        let texts = [TextFile { name, contents: "" }];
        let result = save_model(dir.path(), &config(), StoredDtype::F32, &texts, values);
        assert!(matches!(result, Err(ModelError::NotAFileName { .. })), "{name}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_failed_save_leaves_the_model_that_was_there() {
    let dir = saved(StoredDtype::F32);
    let listing = || {
        let mut files: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        files.into_iter().map(|path| (fs::read(&path).unwrap(), path)).collect::<Vec<_>>()
    };
    let before = listing();
    let short = |spec: &ParameterSpec| match spec.name.as_str() {
        "norm.weight" => Ok(Cow::from(vec![0.0; 3])),
        _ => values(spec),
    };
    let result = save_model(dir.path(), &config(), StoredDtype::F32, &[], short);
    assert!(matches!(result, Err(ModelError::WrongCount { found: 3, .. })), "{result:?}");
    assert!(listing() == before);
}

#[test]
fn a_save_over_what_a_killed_save_left_succeeds() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join(".model.safetensors.tmp"), "half").unwrap();
    save_model(dir.path(), &config(), StoredDtype::F32, &TEXTS, values).unwrap();
    assert!(load(&dir).is_ok());
    assert!(!dir.path().join(".model.safetensors.tmp").exists());
}

#[test]
fn a_folder_that_cannot_be_made_is_an_io_error() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let result = save_model(&file.join("model"), &config(), StoredDtype::F32, &[], values);
    assert!(matches!(result, Err(ModelError::Io { doing: "make", .. })), "{result:?}");
}

#[test]
fn missing_files_are_named() {
    for name in [CONFIG, WEIGHTS, CHECKSUMS] {
        let dir = saved(StoredDtype::F32);
        fs::remove_file(dir.path().join(name)).unwrap();
        match load(&dir) {
            Err(ModelError::MissingFile { path }) => assert!(path.ends_with(name)),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn a_wrong_config_is_reported_with_its_path() {
    let dir = saved(StoredDtype::F32);
    fs::write(dir.path().join(CHECKSUMS), "{}").unwrap();
    let text = fs::read_to_string(dir.path().join(CONFIG)).unwrap();
    fs::write(dir.path().join(CONFIG), text.replace("\"n_layer\": 2", "\"n_layer\": 0")).unwrap();
    let message = load(&dir).unwrap_err().to_string();
    assert!(message.contains(CONFIG) && message.contains("n_layer = 0"), "{message}");
}

#[test]
fn damaged_checksums_are_refused() {
    let dir = saved(StoredDtype::F32);
    for text in ["", "[]", "{\"config.json\": 3}", "{\"config.json\": \"abc\"}"] {
        fs::write(dir.path().join(CHECKSUMS), text).unwrap();
        assert!(matches!(load(&dir), Err(ModelError::ChecksumSyntax { .. })), "{text}");
    }
}

#[test]
fn missing_extra_misshapen_and_mistyped_tensors_are_named() {
    let dir = saved(StoredDtype::F32);
    forge(&dir, &forged(|_| ()));
    load(&dir).unwrap();

    forge(&dir, &forged(|tensors| drop(tensors.remove(3))));
    assert!(matches!(load(&dir), Err(ModelError::MissingTensor { name, .. }) if name == config().parameters()[3].name));

    forge(&dir, &forged(|tensors| tensors.push(("head.weight".to_owned(), Dtype::F32, vec![31, 12]))));
    assert!(matches!(load(&dir), Err(ModelError::ExtraTensor { name, .. }) if name == "head.weight"));

    forge(&dir, &forged(|tensors| tensors[0].2 = vec![12, 31]));
    match load(&dir) {
        Err(ModelError::WrongShape { name, found, expected, .. }) => {
            assert_eq!((name.as_str(), found, expected), ("embed.weight", vec![12, 31], vec![31, 12]));
        }
        other => panic!("{other:?}"),
    }

    for dtype in [Dtype::F16, Dtype::I32, Dtype::F64] {
        forge(&dir, &forged(|tensors| tensors[1].1 = dtype));
        assert!(matches!(load(&dir), Err(ModelError::WrongDtype { found, .. }) if found == dtype.to_string()));
    }
}

#[test]
fn tensors_in_another_order_land_in_their_places() {
    // The safetensors crate orders by type and name, which is not the model's order.
    let dir = saved(StoredDtype::F32);
    forge(&dir, &forged(|tensors| tensors[5].1 = Dtype::BF16));
    let (_, loaded) = load_weights(dir.path()).unwrap();
    let names: Vec<String> = loaded.iter().map(|p| p.spec.name.clone()).collect();
    assert_eq!(names, config().parameters().into_iter().map(|p| p.name).collect::<Vec<_>>());
    assert_eq!(loaded[5].dtype, StoredDtype::Bf16);
}

#[test]
fn headers_that_lie_are_refused() {
    let dir = saved(StoredDtype::F32);
    let whole = forged(|_| ());
    let tensor = |offsets: &str| {
        format!("{{\"embed.weight\":{{\"dtype\":\"F32\",\"shape\":[31,12],\"data_offsets\":{offsets}}}}}")
    };
    let huge = "{\"embed.weight\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}";
    for (what, bytes) in [
        ("empty", vec![]),
        ("seven bytes", vec![0; 7]),
        ("a header longer than the file", [&9999u64.to_le_bytes()[..], b"{}"].concat()),
        ("a header of 2^64 bytes", [&u64::MAX.to_le_bytes()[..], b"{}"].concat()),
        ("no header", whole[8..].to_vec()),
        ("not JSON", with_header("{\"a\":", 0)),
        ("not UTF-8", [&2u64.to_le_bytes()[..], b"\xFF\xFF"].concat()),
        ("unknown type", with_header(&tensor("[0,1488]").replace("F32", "F33"), 1488)),
        ("span too short for the shape", with_header(&tensor("[0,1484]"), 1484)),
        ("span backwards", with_header(&tensor("[8,0]"), 8)),
        ("a hole before the data", with_header(&tensor("[8,1496]"), 1496)),
        ("a shape that overflows", with_header(huge, 0)),
    ] {
        forge(&dir, &bytes);
        let result = load(&dir);
        assert!(matches!(result, Err(ModelError::WeightsHeader { .. })), "{what}: {result:?}");
    }
}

#[test]
fn a_cut_or_padded_file_is_refused() {
    let dir = saved(StoredDtype::F32);
    let whole = forged(|_| ());
    for bytes in [&whole[..whole.len() - 1], &[&whole[..], b"x"].concat()] {
        forge(&dir, bytes);
        match load(&dir) {
            Err(ModelError::WeightsLength { expected, found, .. }) => {
                assert_eq!((expected, found), (whole.len() as u64, bytes.len() as u64));
            }
            other => panic!("{other:?}"),
        }
    }
}

/// What is said of a path that is no model directory.
fn refused(path: &Path) -> ModelError {
    ModelDirectory::open(path).unwrap_err()
}

#[test]
fn the_folder_of_a_run_leads_to_its_model() {
    let run = TempDir::new().unwrap();
    assert!(matches!(refused(run.path()), ModelError::MissingFile { .. }), "an empty folder is no run");
    for name in ["base", "model"] {
        save_model(&run.path().join(name), &config(), StoredDtype::F32, &TEXTS, values).unwrap();
        assert!(matches!(refused(run.path()), ModelError::RunFolder { model, .. } if model == run.path().join(name)));
    }
    // A model of which a file is lost is that, whatever lies in it.
    let dir = saved(StoredDtype::F32);
    save_model(&dir.path().join("model"), &config(), StoredDtype::F32, &TEXTS, values).unwrap();
    fs::remove_file(dir.path().join(CHECKSUMS)).unwrap();
    assert!(matches!(refused(dir.path()), ModelError::MissingFile { path } if path.ends_with(CHECKSUMS)));
}

#[test]
fn models_of_other_programs_lead_to_import() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join(CONFIG);
    let theirs = "{\"architectures\": [\"LlamaForCausalLM\"], \"hidden_size\": 64}";
    fs::write(&path, theirs).unwrap();
    assert!(matches!(refused(dir.path()), ModelError::HuggingFaceFolder { .. }), "as on the Hub");
    let mut sums = Checksums::default();
    sums.note(CONFIG, checksums::of(theirs.as_bytes()));
    fs::write(dir.path().join(CHECKSUMS), sums.to_json()).unwrap();
    let error = refused(dir.path());
    assert!(matches!(error, ModelError::HuggingFaceFolder { .. }), "as exported from here");
    assert!(error.to_string().contains(&format!("casallm import {} --out DIR", dir.path().display())), "{error}");
    // Damage is told as damage.
    fs::write(&path, theirs.replace("64", "65")).unwrap();
    assert!(matches!(refused(dir.path()), ModelError::Checksum { .. }));
    // A config of ours with a key too many is no other program's.
    let wrong = config().to_json().unwrap().replacen('{', "{\"extra\": 1,", 1);
    fs::write(dir.path().join(CHECKSUMS), "{}").unwrap();
    fs::write(&path, wrong).unwrap();
    assert!(matches!(refused(dir.path()), ModelError::InFile { .. }));
}

#[test]
fn a_file_is_no_model_directory() {
    let dir = TempDir::new().unwrap();
    for (name, bytes, gguf) in [
        ("weights", &b"GGUF\x03\0\0\0"[..], true),
        ("cut.GGUF", &b"GG"[..], true),
        ("notes.txt", &b"GGML"[..], false),
        ("empty", &b""[..], false),
    ] {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        let error = refused(&path);
        assert_eq!(matches!(error, ModelError::GgufFile { .. }), gguf, "{error}");
        assert_eq!(matches!(error, ModelError::NotADirectory { .. }), !gguf, "{error}");
        assert_eq!(error.to_string().contains("casallm import"), gguf, "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_flipped_bit_of_any_checked_file_is_noticed(file in 0usize..2, place in 0.0f64..1.0, bit in 0u8..8) {
        let dir = saved(StoredDtype::Bf16);
        let path = dir.path().join([CONFIG, WEIGHTS][file]);
        let mut bytes = fs::read(&path).unwrap();
        let at = (place * bytes.len() as f64) as usize;
        bytes[at] ^= 1 << bit;
        fs::write(&path, bytes).unwrap();
        prop_assert!(load(&dir).is_err());
    }

    #[test]
    fn no_weights_file_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), framed in any::<bool>()) {
        let dir = saved(StoredDtype::F32);
        let framed_bytes = [&(bytes.len() as u64).to_le_bytes()[..], &bytes].concat();
        forge(&dir, if framed { &framed_bytes } else { &bytes });
        prop_assert!(load(&dir).is_err());
    }
}
